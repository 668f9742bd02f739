"""What losses of few elements do differently, and their callers must not see."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc

Loss = Callable[[Tensor], Tensor]

#: Losses of an input between 0 and 1, of shape (3, 4).
LOSSES: dict[str, Loss] = {
    "bce": lambda x: mlc.binary_cross_entropy(x, (x.detach() > 0.5).to(x.dtype)),
    "bce of a vector": lambda x: LOSSES["bce"](x.flatten()),
    "bce of many": lambda x: LOSSES["bce"](x.T.repeat(1, 100).T),
    "logits": lambda x: mlc.binary_cross_entropy_with_logits(x, 0.3 + 0 * x.detach()),
    "soft_margin": lambda x: mlc.soft_margin_loss(x, torch.ones_like(x)),
    "multi_margin": lambda x: mlc.multi_margin_loss(x, torch.tensor([0, 1, 2]), p=2),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


def _input() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(3, 4, dtype=torch.float64, generator=generator).requires_grad_()


def _twice(loss: Tensor, x: Tensor) -> Tensor:
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x, retain_graph=True)[0]


@every_loss
def test_one_graph_can_be_derived_again_and_again(name: str) -> None:
    x = _input()
    loss = LOSSES[name](x)
    plain = torch.autograd.grad(loss, x, retain_graph=True)[0]
    second = _twice(loss, x)
    assert second.abs().max() > 0
    torch.testing.assert_close(_twice(loss, x), second, rtol=0, atol=0)
    again = torch.autograd.grad(loss, x, retain_graph=True)[0]
    torch.testing.assert_close(again, plain, rtol=0, atol=0)


@every_loss
def test_second_derivative_of_what_follows_a_loss(name: str) -> None:
    def of(x: Tensor) -> Tensor:
        loss = LOSSES[name](x)
        # Asked for its own gradient a loss is reached and its kernel is not.
        torch.autograd.grad(loss.square(), loss, create_graph=True)
        return loss.square() + loss.exp()

    assert torch.autograd.gradgradcheck(of, _input())


@every_loss
def test_a_hook_of_the_caller_is_called_as_well(name: str) -> None:
    x = _input()
    loss, seen = LOSSES[name](x), []
    handle = loss.register_hook(lambda grad: seen.append(grad) or 2 * grad)
    (doubled,) = torch.autograd.grad(loss, x, create_graph=True)
    handle.remove()
    (once,) = torch.autograd.grad(loss, x, create_graph=True)
    assert len(seen) == 1
    torch.testing.assert_close(doubled, 2 * once)
    curved = torch.autograd.grad(once.square().sum(), x)[0]
    torch.testing.assert_close(curved, _twice(LOSSES[name](x), x))


@every_loss
def test_a_loss_in_a_checkpoint_warns_of_nothing(name: str) -> None:
    loss = LOSSES[name](_input())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(loss, io.BytesIO())


@every_loss
def test_evaluation_in_inference_mode_leaves_nothing_that_training_cannot_use(
    name: str,
) -> None:
    # Of a size that no other test has: numbers are kept as tensors.
    x = _input().repeat(1, 29).detach()
    if name == "multi_margin":
        x = x[:, :4]
    with torch.inference_mode():
        expected = LOSSES[name](x)
    x.requires_grad_()
    loss = LOSSES[name](x)
    torch.testing.assert_close(loss, expected.clone())
    loss.backward(retain_graph=True)
    assert _twice(loss.square(), x).isfinite().all()


@every_loss
def test_what_has_left_a_transform_has_its_graph(name: str) -> None:
    x, kept = _input(), []
    torch.func.grad(lambda x: kept.append(x.clone()) or x.sum())(x)
    (found,) = torch.autograd.grad(LOSSES[name](kept[0]), x)
    torch.testing.assert_close(found, torch.autograd.grad(LOSSES[name](x), x)[0])


@every_loss
def test_elements_in_another_order_of_memory(name: str) -> None:
    x = _input()
    turned = x.detach().T.contiguous().T.requires_grad_()
    (expected,) = torch.autograd.grad(LOSSES[name](x), x)
    (found,) = torch.autograd.grad(LOSSES[name](turned), turned)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(40,), (4, 10), (1400,), (5000,)], ids=str)
@pytest.mark.parametrize(
    "function",
    [
        mlc.binary_cross_entropy,
        mlc.binary_cross_entropy_with_logits,
        mlc.soft_margin_loss,
    ],
)
def test_the_sum_is_that_of_all_elements(
    function: Callable[[Tensor, Tensor, str], Tensor], shape: tuple[int, ...]
) -> None:
    x = torch.linspace(0.1, 0.9, math.prod(shape), dtype=torch.float64)
    x = x.reshape(shape).requires_grad_()
    t = x.detach().round()
    loss, expected = function(x, t, "sum"), function(x, t, "none").sum()
    torch.testing.assert_close(loss, expected)
    slopes = (torch.autograd.grad(each, x)[0] for each in (loss, expected))
    torch.testing.assert_close(*slopes)


def _logits(x: mp.mpf, t: mp.mpf) -> tuple[mp.mpf, ...]:
    """Loss, slope, and the sum of the two sides of the slope."""
    down, up = mp.exp(-x), mp.exp(x)
    rise, fall = (1 - t) / (1 + down), t / (1 + up)
    return (
        t * mp.log1p(down) + (1 - t) * mp.log1p(up),
        rise - fall,
        rise + fall,
    )


def _bce(p: mp.mpf, t: mp.mpf) -> tuple[mp.mpf, ...]:
    loss = -t * mp.log(p) - (1 - t) * mp.log(1 - p)
    slope = (p - t) / (p * (1 - p))
    return loss, slope, abs(slope)


HARD = {
    "logits": (
        mlc.binary_cross_entropy_with_logits,
        _logits,
        [0.0, -0.0, 1e-9, -1e-9, 1.0, -1.0, 30.0, -30.0, 80.0, -80.0],
    ),
    "bce": (mlc.binary_cross_entropy, _bce, [1e-30, 1e-9, 0.3, 0.7, 0.999, 1 - 6e-8]),
}


@pytest.mark.parametrize("size", [40, 1400, 7000])
@pytest.mark.parametrize("name", HARD)
def test_digits_are_kept_in_few_operations(name: str, size: int) -> None:
    function, exact, points = HARD[name]
    for x, t in itertools.product(points, [0.0, 1.0, 0.5, 1e-9, 1 - 1e-7]):
        # One by one, so that a large loss does not hide the digits of a small one.
        one = torch.tensor(x, requires_grad=True)
        target = torch.full((size,), t)
        loss = function(one.expand(size), target)
        (found,) = torch.autograd.grad(loss, one)
        with mp.workdps(60):
            arguments = mp.mpf(one.item()), mp.mpf(target[0].item())
            value, slope, scale = map(float, exact(*arguments))
        # Where equal numbers are added the roundings do not cancel.
        assert loss.item() == pytest.approx(value, rel=4e-6, abs=0)
        assert abs(found.item() - slope) <= 4e-6 * scale


@pytest.mark.parametrize(
    ("loss", "x", "t"),
    [
        (mlc.binary_cross_entropy, 2.03e-42, 0.0),
        (mlc.binary_cross_entropy_with_logits, -96.0, 0.0),
        (mlc.soft_margin_loss, 96.0, 1.0),
    ],
    ids=["bce", "logits", "soft_margin"],
)
def test_shares_that_their_dtype_rounds_to_one_digit_add_up_to_a_loss(
    loss: Callable[[Tensor, Tensor], Tensor], x: float, t: float
) -> None:
    found = loss(torch.full((1000,), x), torch.full((1000,), t))
    torch.testing.assert_close(found.item(), 2.03e-42, rtol=0.01, atol=0)
