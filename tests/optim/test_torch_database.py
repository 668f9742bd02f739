"""torch's own table of inputs for its SGD, driven against this class in all bodies.

The table is ``torch.testing._internal.common_optimizers``, over which torch's test
suite runs. Its drivers are not part of the package, and so are written anew.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import torch_mlcalc as mlc

with warnings.catch_warnings():
    # torch's test utilities use what torch deprecates.
    warnings.simplefilter("ignore")
    from torch.testing._internal.common_optimizers import (
        OptimizerErrorEnum,
        OptimizerInput,
        optim_db,
    )

TorchSGD = torch.optim.SGD
Backward = Callable[[], Tensor]
(INFO,) = (info for info in optim_db if info.optim_cls is TorchSGD)
BODIES: dict[str, dict[str, Any]] = {
    "default": {},
    "loop": dict(foreach=False),
    "foreach": dict(foreach=True),
    "fused": dict(fused=True),
    "flat": dict(flat=True),
}
every_body = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)


def inputs() -> list[Any]:
    return INFO.optim_inputs_func(device="cpu")


every_input = pytest.mark.parametrize("case", inputs(), ids=lambda case: case.desc)


def problem(
    dtype: torch.dtype = torch.float64, names: bool = False
) -> tuple[nn.Module, Iterator[Any], Backward]:
    """Return a model, its parameters and a closure without ``zero_grad``."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).to(dtype)
    features, target = torch.randn(20, 5).to(dtype), torch.randn(20, 2).to(dtype)

    def backward() -> Tensor:
        loss = (model(features) - target).square().mean()
        loss.backward()
        return loss

    return model, model.named_parameters() if names else model.parameters(), backward


def train(optimizer: Optimizer, backward: Backward, steps: int = 6) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        losses.append(backward().item())
        optimizer.step()
    return losses


def assert_close(a: nn.Module, b: nn.Module) -> None:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    for p, q in pairs:
        torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-15)


def test_the_table_is_there() -> None:
    assert len(inputs()) >= 9
    assert set(INFO.supported_impls) == {"foreach", "differentiable", "fused"}


@every_body
@every_input
def test_constructor_inputs(case: OptimizerInput, body: dict[str, Any]) -> None:
    model, params, backward = problem()
    kwargs = copy.deepcopy(case.kwargs)
    losses = train(mlc.SGD(params, **kwargs, **body), backward)
    other, params, backward = problem()
    expected = train(TorchSGD(params, **case.kwargs, foreach=False), backward)
    torch.testing.assert_close(losses, expected, rtol=1e-13, atol=0)
    assert_close(model, other)
    assert (losses[-1] < losses[0]) is not bool(case.kwargs.get("maximize"))


@every_body
def test_error_inputs(body: dict[str, Any]) -> None:
    cases = INFO.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert len(cases) > 5
    for case in cases:
        given = case.optimizer_error_input
        params = [nn.Parameter(torch.ones(1))] if given.params is None else given.params
        assert case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
        with pytest.raises(case.error_type, match=case.error_regex):
            mlc.SGD(params, **given.kwargs, **body)


@every_body
@pytest.mark.parametrize("which", range(len(INFO.scheduler_inputs)))
def test_schedulers(which: int, body: dict[str, Any]) -> None:
    def run(cls: type[Any], **options: object) -> tuple[nn.Module, list[float]]:
        model, params, backward = problem()
        optimizer = cls(params, lr=0.05, momentum=0.9, **options)
        schedulers = [make(optimizer) for make in INFO.scheduler_inputs[which]]
        losses = []
        for _ in range(8):
            losses += train(optimizer, backward, 1)
            for scheduler in schedulers:
                plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
                with_loss = losses[-1:] if isinstance(scheduler, plateau) else []
                scheduler.step(*with_loss)
        return model, losses

    model, losses = run(mlc.SGD, **body)
    other, expected = run(TorchSGD, foreach=False)
    torch.testing.assert_close(losses, expected, rtol=1e-13, atol=0)
    assert_close(model, other)


@pytest.mark.parametrize("name", ["default", "loop", "foreach", "flat"])
def test_sparse_metadata(name: str) -> None:
    options, schedulers = INFO.metadata_for_sparse

    def run(cls: type[Any], **more: object) -> Tensor:
        param = torch.tensor([1.5, 1.5], dtype=torch.float64)
        optimizer = cls([param], **options, **more)
        made = [make(optimizer) for make in schedulers]
        for i in range(200):
            x, y = param.tolist()
            slopes = (-2 * (1 - x) - 40 * x * (y - x * x) / 100, 2 * (y - x * x) / 10)
            index = torch.tensor([[i % 2]])
            values = torch.tensor([slopes[i % 2]], dtype=torch.float64)
            param.grad = torch.sparse_coo_tensor(
                index, values, (2,), check_invariants=True
            )
            optimizer.step()
            for scheduler in made:
                plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
                scheduler.step(*([x] if isinstance(scheduler, plateau) else []))
        return param

    assert torch.equal(run(mlc.SGD, **BODIES[name]), run(TorchSGD))


@every_body
@every_input
def test_state_dict_round_trip(case: OptimizerInput, body: dict[str, Any]) -> None:
    kwargs = dict(case.kwargs, **body)
    model, params, backward = problem(names=True)
    optimizer = mlc.SGD(params, **kwargs)
    train(optimizer, backward, 3)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    other, params, other_backward = problem(names=True)
    other.load_state_dict(weights)
    loaded = mlc.SGD(params, **kwargs)
    loaded.load_state_dict(state)
    names = loaded.state_dict()["param_groups"][0]["param_names"]
    assert names == [name for name, _ in model.named_parameters()]
    twin = copy.deepcopy(optimizer)
    train(optimizer, backward, 3)
    train(loaded, other_backward, 3)
    # Resuming gives the same bits, whatever the body is.
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)
    assert twin.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


@every_body
def test_loads_a_state_from_before_the_newer_flags(body: dict[str, Any]) -> None:
    _, params, backward = problem()
    optimizer = mlc.SGD(params, momentum=0.9, **body)
    train(optimizer, backward, 2)
    state = copy.deepcopy(optimizer.state_dict())
    for group in state["param_groups"]:
        for flag in INFO.not_og_supported_flags:
            group.pop(flag, None)
    optimizer.load_state_dict(state)
    train(optimizer, backward, 2)


@every_body
def test_hooks_run_in_order(body: dict[str, Any]) -> None:
    _, params, backward = problem()
    optimizer = mlc.SGD(params, momentum=0.9, **body)
    seen: list[str] = []
    kinds = ("step_pre", "step_post", "state_dict_pre", "state_dict_post")
    for kind in (*kinds, "load_state_dict_pre", "load_state_dict_post"):
        register = getattr(optimizer, f"register_{kind}_hook")
        register(lambda *_, kind=kind: seen.append(f"{kind} 1"))
        handle = register(lambda *_, kind=kind: seen.append(f"{kind} removed"))
        handle.remove()
        if "state" in kind:
            register(lambda *_, kind=kind: seen.append(f"{kind} 0"), prepend=True)
    train(optimizer, backward, 1)
    optimizer.load_state_dict(optimizer.state_dict())
    state = [f"{kind} {i}" for kind in kinds[2:] for i in (0, 1)]
    load = [f"load_{kind} {i}" for kind in kinds[2:] for i in (0, 1)]
    assert seen == ["step_pre 1", "step_post 1", *state, *load]


@every_input
def test_differentiable_passes_the_gradcheck_of_torch(case: OptimizerInput) -> None:
    kwargs = {k: v for k, v in case.kwargs.items() if not isinstance(v, Tensor)}

    def step(param: Tensor, grad: Tensor, buffer: Tensor) -> tuple[Tensor, ...]:
        param = param.clone()
        param.grad = grad
        optimizer = mlc.SGD([param], differentiable=True, **kwargs)
        if kwargs.get("momentum"):
            optimizer.state[param]["momentum_buffer"] = buffer.clone()
        optimizer.step()
        return (param, *optimizer.state[param].values())

    values = [torch.rand(3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(step, values)


@every_body
def test_parameters_of_several_dtypes(body: dict[str, Any]) -> None:
    # The first one must not be that of the numbers for all.
    dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16]

    def run(cls: type[Any], **options: object) -> list[Tensor]:
        params = [torch.linspace(0, 1, 40).to(dtype) for dtype in dtypes]
        optimizer = cls(params, lr=0.1, momentum=0.9, weight_decay=0.1, **options)
        for step in range(4):
            for param in params:
                param.grad = torch.linspace(-1, 1, 40).to(param.dtype) * (step + 1)
            optimizer.step()
        return params

    found, expected = run(mlc.SGD, **body), run(TorchSGD, foreach=False)
    for a, b in zip(found, expected, strict=True):
        eps = torch.finfo(a.dtype).eps
        torch.testing.assert_close(a, b, rtol=0, atol=4 * eps)
