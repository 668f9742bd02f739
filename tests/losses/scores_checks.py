"""A loss with its settings, inputs and brute-force truth, and what holds for each."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Loss

DTYPES = (torch.float32, torch.float64)
REDUCTIONS = ("none", "mean", "sum")


class Case(NamedTuple):
    """A loss; its inputs are drawn, and its truth is computed as a formula says."""

    module: Loss
    function: Callable[..., Tensor]
    settings: dict[str, object]
    # Shapes of input and target, and that of the loss.
    shapes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    truth: Callable[[Tensor, Tensor], Tensor]

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        reduction: str = "mean",
        weight: Tensor | None = None,
    ) -> Tensor:
        return self.function(
            input, target, reduction=reduction, weight=weight, **self.settings
        )

    def draw(self, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        input, target = (
            torch.randn(shape, dtype=dtype, generator=generator)
            for shape in self.shapes[:2]
        )
        weight = torch.rand(self.shapes[2], dtype=dtype, generator=generator) + 0.5
        return input, target, weight


def check_reductions(case: Case, dtype: torch.dtype) -> None:
    input, target, weight = case.draw(dtype)
    elements = case.truth(input.double(), target.double())
    assert elements.shape == case.shapes[2]
    for weights in (None, weight):
        w = torch.ones_like(weight) if weights is None else weights
        weighted = elements * w.double()
        expected = {
            "none": weighted,
            "sum": weighted.sum(),
            "mean": weighted.sum() / w.double().sum(),
        }
        for reduction in REDUCTIONS:
            actual = case(input, target, reduction, weights)
            assert actual.dtype == dtype
            torch.testing.assert_close(
                actual,
                expected[reduction].to(dtype),
                rtol=30 * torch.finfo(dtype).eps,
                atol=0,
            )


def check_half_is_rounded_once(case: Case, dtype: torch.dtype) -> None:
    input, target, _ = case.draw(torch.float32)
    input, target = input.to(dtype), target.to(dtype)
    expected = case(input.float(), target.float(), "none")
    actual = case(input, target, "none")
    assert actual.dtype == dtype
    assert torch.equal(actual, expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert case(input, target, "none").dtype == torch.float32


def check_gradient_dtypes(case: Case) -> None:
    input, target, _ = case.draw(torch.float32)
    input.requires_grad_()
    loss = case(input, target.double())
    assert loss.dtype == torch.float64
    loss.backward()
    assert input.grad is not None
    assert input.grad.dtype == torch.float32


def check_module(case: Case) -> None:
    input, target, weight = case.draw()
    expected = case(input, target, weight=weight)
    for module in (
        case.module,
        copy.deepcopy(case.module),
        pickle.loads(pickle.dumps(case.module)),
        copy.deepcopy(case.module).to(torch.float64),
    ):
        torch.testing.assert_close(
            module(input, target, weight), expected, rtol=1e-7, atol=0
        )
        assert repr(module) == repr(case.module)


def check_values_are_not_looked_at(case: Case) -> None:
    """Tensors without data pass, so nothing waits for a device."""
    input, target, weight = (x.to("meta") for x in case.draw())
    input.requires_grad_()
    for reduction in REDUCTIONS:
        loss = case_on_meta(case)(input, target, reduction, weight)
        assert loss.shape == (case.shapes[2] if reduction == "none" else ())
        loss.sum().backward()


def case_on_meta(case: Case) -> Case:
    """Move tensors among the settings."""
    settings = {
        name: value.to("meta") if isinstance(value, Tensor) else value
        for name, value in case.settings.items()
    }
    return case._replace(settings=settings)


def check_inputs_are_left(case: Case) -> None:
    tensors = [x.requires_grad_() for x in case.draw()]
    before = [(x.detach().clone(), x._version) for x in tensors]
    input, target, weight = tensors
    case(input, target, "sum", weight)
    for tensor, (data, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, data)
        assert tensor._version == version
        assert tensor.grad is None


def check_empty(case: Case) -> None:
    input, target, _ = case.draw()
    input, target = input[:0], target[:0]
    assert case(input, target, "none").shape == (0, *case.shapes[2][1:])
    assert case(input, target, "sum").item() == 0
    assert case(input, target, "mean").isnan()


def check_single(case: Case) -> None:
    """Without a batch: the first of each axis that the loss has."""
    input, target, _ = case.draw()
    batched = case(input, target, "none")
    for _ in case.shapes[2]:
        input, target, batched = input[0], target[0], batched[0]
    loss = case(input, target, "none")
    assert loss.shape == ()
    torch.testing.assert_close(loss, batched)


def check_refusals(case: Case) -> None:
    input, target, weight = case.draw()
    with pytest.raises(ValueError, match="target must have the shape of input"):
        case(input, target[:1])
    with pytest.raises(ValueError, match="weight must have the shape of"):
        case(input, target, weight=weight[:1])
    with pytest.raises(ValueError, match="reduction must be"):
        case(input, target, "avg")
    with pytest.raises(TypeError, match="must be a torch.Tensor, got list"):
        case(input, target.tolist())
    with pytest.raises(TypeError, match="must be floating-point"):
        case(input.long(), target.long())
    with pytest.raises(TypeError, match="must be real"):
        case(input.to(torch.complex128), target)
    with pytest.raises(ValueError, match="reduction must be"):
        type(case.module)(**case.settings, reduction="avg")
