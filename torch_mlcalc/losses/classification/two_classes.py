"""Value and slopes of the losses of two classes, element by element.

Each in the form that is right everywhere, and in short ones that are right where they
are not NaN; which of them is taken is the matter of :mod:`pointwise`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _nn

from torch_mlcalc.losses.pointwise import (
    Pointwise,
    forget_nan_,
    log1p_exp_minus_abs,
    quotient,
    sigmoid,
    softplus,
    softplus_value,
)
from torch_mlcalc.losses.reduction import FEW, KERNEL_REDUCTION, with_slope
from torch_mlcalc.losses.short import constant, shortened
from torch_mlcalc.losses.watch import can_read

# Whose annotation in torch is wrong.
_kernel: Any = _nn.binary_cross_entropy

#: Elements up to which it is the fastest way to the entropy; see there.
_FEW_OF_KERNEL = 1024


def _entropy_value(p: Tensor, t: Tensor) -> Tensor:
    return p.neg().log1p_().mul_(1 - t).add_(p.log().mul_(t)).neg_()


def _entropy_whole(p: Tensor, t: Tensor) -> Tensor:
    # The last term is NaN where p is out of range, else 0.
    gain = torch.xlogy(t, p).add_(torch.special.xlog1py(1 - t, -p))
    return gain.add_(p.sqrt().asin_(), alpha=0).neg_()


def _entropy_slope_value(p: Tensor, t: Tensor) -> Tensor:
    q = 1 - p
    both = q * p
    # Between 0 and 1 it is one quotient, in which nothing cancels.
    if can_read(both) and both.numel() and both.min().item() > 0:
        return (p - t).div_(both)
    # The last term is NaN where p is out of range or t is NaN, else 0.
    slope = forget_nan_((1 - t).div_(q)).sub_(forget_nan_(t / p))
    return slope.add_(both.sqrt_().add_(t), alpha=0)


def entropy_in_short(p: Tensor, t: Tensor, count: int) -> Tensor | None:
    """Return the entropy in the fewest operations, or None where that is not right.

    Args:
        p: Predicted probabilities.
        t: Probabilities to predict.
        count: What to divide by, the number of elements or 1.
    """
    # Torch's kernel is the fastest up to 1000 elements, less its mean, which is a fifth
    # of its time: at 50 it takes 1.16 of that and operations 1.5, at 4000 1.1 and 0.8.
    if p.numel() > _FEW_OF_KERNEL:
        return _entropy_of_many(p, t, count)
    # It takes 100 for larger losses, p (1 - p) for 1e-12 at least in the derivative,
    # and adds 1e-12 to both in the second, which cancels for p near 1.
    low, high = p.data.aminmax()
    if not (low.item() > 1e-11 and high.item() < 1 - 1e-11):
        return None
    code = KERNEL_REDUCTION["none" if p.ndim == 1 else "sum"]
    try:
        loss: Tensor = _kernel(p, t, None, code)
    except RuntimeError:
        # It looks at the targets, of which one is NaN or out of range.
        return None
    with_slope(loss, _entropy_pulled, p, t)
    if p.ndim == 1:
        return loss.dot(constant(1 / count, p.dtype, len(p)))
    return loss if count == 1 else loss * constant(1 / count, p.dtype)


def _entropy_pulled(grad: Tensor, p: Tensor, t: Tensor) -> Tensor:
    return _entropy_slope(p, t) * grad


def _entropy_both(p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # NaN where 0 times infinity should be 0, and where p is out of range.
    gains = p.neg().log1p_().lerp_(p.log(), t)
    return gains, (p - t).div_((constant(1.0, p.dtype) - p).mul_(p))


_entropy_slope = Pointwise(
    _entropy_slope_value,
    lambda p, t: quotient(quotient(1 - t, 1 - p), 1 - p) + quotient(quotient(t, p), p),
    lambda p, t: -(1 - p).reciprocal() - p.reciprocal(),
)
_entropy_of_many = shortened(_entropy_both, _entropy_slope)
entropy = Pointwise(
    _entropy_value,
    _entropy_slope,
    lambda p, t: (-p).log1p() - p.log(),
    whole=_entropy_whole,
    short=entropy_in_short,
    # At 1e4 elements 0.5 of the time of torch's instead of 0.8, at 1e5 0.25 and 0.3.
    few=1 << 18,
)


def _logistic_value(x: Tensor, t: Tensor) -> Tensor:
    return _hinge(x, t).add_(log1p_exp_minus_abs(x))


def _logistic_whole(x: Tensor, t: Tensor) -> Tensor:
    # The last term is NaN where t is, else 0.
    return forget_nan_(_hinge(x, t)).sub_(_nn.log_sigmoid(x.abs())).add_(t, alpha=0)


def _hinge(x: Tensor, t: Tensor) -> Tensor:
    # x relu'd less t x, in a form that is exact for infinite x.
    return x.sign().relu_().sub_(t).mul_(x)


def _logistic_slope_value(x: Tensor, t: Tensor) -> Tensor:
    # sigmoid(x) - t without the cancellation of it for t = 1.
    return x.sigmoid().lerp_(x.neg().sigmoid_().neg_(), t)


def _logistic_both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    # NaN where 0 times infinity should be 0.
    if x.numel() <= FEW:
        sure = _nn.log_sigmoid(x)
        gains = _nn.log_sigmoid(-x).lerp_(sure, t)
        return gains, x.sigmoid().lerp_(sure.expm1_(), t)
    # Twice as many operations that take half as long.
    minus = constant(-1.0, x.dtype)
    sign = minus.copysign(x)
    lead = sign.relu().sub_(t)
    falling = x.copysign(minus).sigmoid_().neg_()
    gains = torch.addcmul(falling.log1p(), lead, x, value=-1)
    return gains, lead.addcmul_(sign, falling)


_logistic_slope = Pointwise(
    _logistic_slope_value,
    lambda x, t: sigmoid(x) * sigmoid(-x),
    lambda x, t: -torch.ones_like(t),
)
logistic_in_short = shortened(_logistic_both, _logistic_slope)
logistic = Pointwise(
    _logistic_value,
    _logistic_slope,
    lambda x, t: -x,
    whole=_logistic_whole,
    short=logistic_in_short,
    # At 1e5 elements 1.1 of the time of torch's instead of 1.5, at 5e5 1.3 and 1.8.
    few=1 << 19,
)


def _margin_both(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    sure = _nn.log_sigmoid(x * t)
    return sure, sure.expm1().mul_(t)


# What is symmetric in both has one slope, with the two in each other's place.
_soft_margin_slope = Pointwise(
    lambda x, t: (x * t).neg_().sigmoid_().mul_(t).neg_(),
    lambda x, t: t * t * sigmoid(t * x) * sigmoid(-t * x),
    lambda x, t: sigmoid(-t * x) * (t * x * sigmoid(t * x) - 1),
)
margin_in_short = shortened(_margin_both, _soft_margin_slope)
soft_margin = Pointwise(
    lambda x, t: softplus_value((x * t).neg_()),
    _soft_margin_slope,
    lambda x, t: _soft_margin_slope(t, x),
    short=margin_in_short,
    # At 2e5 and 4e5 elements 1.0 of the time of torch's instead of 1.2 and 1.1.
    few=1 << 19,
)


def _weighted_logistic_value(x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    hinge = forget_nan_(x.relu().mul_(negative))
    hinge.add_(forget_nan_(x.neg().relu_().mul_(positive)))
    return hinge.add_(log1p_exp_minus_abs(x).mul_(positive + negative))


# The sum of both sides, each with a weight of its own.
weighted_logistic = Pointwise(
    _weighted_logistic_value,
    lambda x, positive, negative: negative * sigmoid(x) - positive * sigmoid(-x),
    lambda x, positive, negative: softplus(-x),
    lambda x, positive, negative: softplus(x),
)
