"""What losses of few elements do differently, and their callers must not see."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc

Loss = Callable[[Tensor], Tensor]

#: Losses of an input between 0 and 1, of shape (3, 4), that a kernel of torch computes
#: and of which the derivative is hung on a hook.
HOOKED: dict[str, Loss] = {
    "bce": lambda x: mlc.binary_cross_entropy(x, (x.detach() > 0.5).to(x.dtype)),
    "multi_margin": lambda x: mlc.multi_margin_loss(x, torch.tensor([0, 1, 2]), p=2),
}
#: And those that are a Function.
SHORT: dict[str, Loss] = {
    "logits": lambda x: mlc.binary_cross_entropy_with_logits(x, 0.3 + 0 * x.detach()),
    "soft_margin": lambda x: mlc.soft_margin_loss(x, torch.ones_like(x)),
}
every_loss = pytest.mark.parametrize("name", [*HOOKED, *SHORT])
hooked = pytest.mark.parametrize("name", HOOKED)


def _input() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(3, 4, dtype=torch.float64, generator=generator).requires_grad_()


def _loss(name: str) -> Loss:
    return {**HOOKED, **SHORT}[name]


def _twice(loss: Tensor, x: Tensor) -> Tensor:
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    return torch.autograd.grad(first.square().sum(), x, retain_graph=True)[0]


@every_loss
def test_one_graph_can_be_derived_again_and_again(name: str) -> None:
    x = _input()
    loss = _loss(name)(x)
    plain = torch.autograd.grad(loss, x, retain_graph=True)[0]
    second = _twice(loss, x)
    assert second.abs().max() > 0
    torch.testing.assert_close(_twice(loss, x), second, rtol=0, atol=0)
    again = torch.autograd.grad(loss, x, retain_graph=True)[0]
    torch.testing.assert_close(again, plain, rtol=0, atol=0)


@every_loss
def test_second_derivative_of_what_follows_a_loss(name: str) -> None:
    def of(x: Tensor) -> Tensor:
        loss = _loss(name)(x)
        # Asked for its own gradient a loss is reached and its kernel is not.
        torch.autograd.grad(loss.square(), loss, create_graph=True)
        return loss.square() + loss.exp()

    assert torch.autograd.gradgradcheck(of, _input())


@hooked
def test_a_hook_of_the_caller_is_called_as_well(name: str) -> None:
    x = _input()
    loss, seen = _loss(name)(x), []
    handle = loss.register_hook(lambda grad: seen.append(grad) or 2 * grad)
    (doubled,) = torch.autograd.grad(loss, x, create_graph=True)
    handle.remove()
    (once,) = torch.autograd.grad(loss, x, create_graph=True)
    assert len(seen) == 1
    torch.testing.assert_close(doubled, 2 * once)
    curved = torch.autograd.grad(once.square().sum(), x)[0]
    torch.testing.assert_close(curved, _twice(_loss(name)(x), x))


@hooked
def test_a_loss_in_a_checkpoint_warns_of_nothing(name: str) -> None:
    loss = _loss(name)(_input())
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
        expected = _loss(name)(x)
    x.requires_grad_()
    loss = _loss(name)(x)
    torch.testing.assert_close(loss, expected.clone())
    loss.backward(retain_graph=True)
    assert _twice(loss.square(), x).isfinite().all()


@every_loss
def test_what_has_left_a_transform_has_its_graph(name: str) -> None:
    x, kept = _input(), []
    torch.func.grad(lambda x: kept.append(x.clone()) or x.sum())(x)
    (found,) = torch.autograd.grad(_loss(name)(kept[0]), x)
    torch.testing.assert_close(found, torch.autograd.grad(_loss(name)(x), x)[0])
