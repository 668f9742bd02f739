"""Losses look at what they compute only where that is free and nobody minds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import torch_mlcalc as mlc
from torch_mlcalc.losses.watch import can_read, is_watched

X, SHARE, CLASS = torch.randn(6, 4), torch.rand(6, 4), torch.arange(6) % 4
# Each of which has fewer operations where a value that it reads allows them.
LOSSES: dict[str, tuple[Callable[..., Tensor], Tensor, Tensor]] = {
    "mse": (mlc.mse_loss, X, SHARE),
    "bce": (mlc.binary_cross_entropy, X.sigmoid(), SHARE),
    "bce_logits": (mlc.binary_cross_entropy_with_logits, X, SHARE),
    "soft_margin": (mlc.soft_margin_loss, X, SHARE.round() * 2 - 1),
    "kl": (mlc.kl_div, X.log_softmax(1), SHARE),
    "cross_entropy": (mlc.cross_entropy, X, CLASS),
    "cross_entropy of shares": (mlc.cross_entropy, X, SHARE),
    "nll": (mlc.nll_loss, X, CLASS),
    "margin": (mlc.multi_margin_loss, X, CLASS),
    "gaussian": (lambda x, t: mlc.gaussian_nll_loss(x, t, t, eps=1e-9), X, SHARE),
    "poisson": (lambda x, t: mlc.poisson_nll_loss(x, t, full=True), X, SHARE),
    "rate": (lambda x, t: mlc.poisson_nll_loss(x, t, False), X.exp(), SHARE),
}
losses = pytest.mark.parametrize(("loss", "x", "t"), LOSSES.values(), ids=LOSSES)


@losses
def test_tensors_without_values_have_losses(
    loss: Callable[..., Tensor], x: Tensor, t: Tensor
) -> None:
    with FakeTensorMode() as mode:
        fake, target = mode.from_tensor(x).requires_grad_(), mode.from_tensor(t)
        loss(fake, target).backward()
        assert fake.grad is not None
        assert fake.grad.shape == x.shape


@losses
def test_a_trace_holds_for_other_values(
    loss: Callable[..., Tensor], x: Tensor, t: Tensor
) -> None:
    def gradient(x: Tensor, t: Tensor) -> Tensor:
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(leaf, t), leaf)
        return slope

    trace = make_fx(gradient)(x, t)
    torch.testing.assert_close(trace(x * 0.9, t), gradient(x * 0.9, t))


def test_values_are_read_in_plain_eager_execution_only() -> None:
    x = torch.ones(2)
    assert can_read(x)
    assert can_read(nn.Parameter(x))
    assert not can_read(x.to("meta"))
    assert not is_watched()
    with forward_ad.dual_level():
        assert not can_read(x)
    seen: list[bool] = []
    torch.func.vmap(lambda one: seen.append(can_read(x)) or one)(x)
    assert seen == [False]
    compiled = torch.compile(lambda one: one * (1 + can_read(one)), backend="eager")
    assert torch.equal(compiled(x), x)


@losses
def test_what_has_left_a_transform_keeps_its_gradient(
    loss: Callable[..., Tensor], x: Tensor, t: Tensor
) -> None:
    leaf, left = x.clone().requires_grad_(), []
    torch.func.grad(lambda inner: left.append(inner) or inner.sum())(leaf)
    (found,) = torch.autograd.grad(loss(left[0], t), leaf)
    (wanted,) = torch.autograd.grad(loss(leaf, t), leaf)
    assert torch.equal(found, wanted)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_of_torchscript_holds_for_other_values() -> None:
    """It would keep the short ways that the values of its example allow."""
    shares, inf = torch.rand(4), torch.inf
    for name, given, other, target in (
        ("binary_cross_entropy", shares, [0.0, 1.0, 0.5, 1e-30], shares.round()),
        ("binary_cross_entropy_with_logits", shares, [-inf, inf, 0.0, 9.0], shares),
        ("kl_div", shares.log(), [-inf, -1.0, -inf, 0.0], shares.new_zeros(4)),
    ):
        loss = getattr(mlc, name)
        traced = torch.jit.trace(loss, (given.clone().requires_grad_(), target))
        found, wanted = (torch.tensor(other, requires_grad=True) for _ in range(2))
        torch.testing.assert_close(traced(found, target), loss(wanted, target))
        traced(found, target).backward()
        loss(wanted, target).backward()
        torch.testing.assert_close(found.grad, wanted.grad)
