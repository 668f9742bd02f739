"""Losses of two classes, whose targets are probabilities or signs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _nn

from torch_mlcalc.losses.classification.classes import (
    BinaryLoss,
    check_probabilities,
)
from torch_mlcalc.losses.classification.settings import check_buffer
from torch_mlcalc.losses.pointwise import (
    Pointwise,
    forget_nan_,
    log1p_exp_minus_abs,
    quotient,
    sigmoid,
    softplus,
    softplus_value,
)
from torch_mlcalc.losses.reduction import (
    FEW,
    KERNEL_REDUCTION,
    Reduction,
    as_dtype,
    prepare,
    with_slope,
)
from torch_mlcalc.losses.short import constant, is_usual, shortened
from torch_mlcalc.losses.validation import check_values, is_validated
from torch_mlcalc.losses.watch import can_read

# Whose annotation in torch is wrong.
_kernel: Any = _nn.binary_cross_entropy
_FEW_OF_KERNEL = 1024


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Cross-entropy of predicted probabilities.

    .. math::
        \ell(p) = -t \log p - (1 - t) \log(1 - p),
        \qquad \ell'(p) = \frac{1 - t}{1 - p} - \frac{t}{p},
        \qquad \ell''(p) = \frac{1 - t}{(1 - p)^2} + \frac{t}{p^2}

    with :math:`0 \log 0 = 0 / 0 = 0`. The loss of a certain prediction that is wrong is
    infinite, and so is its derivative, where torch says 100 and :math:`10^{12}`.
    Probabilities near 1 are spaced by the rounding of their dtype: logits in
    :func:`binary_cross_entropy_with_logits` are not.

    Args:
        input: Predicted probabilities :math:`p`, from 0 to 1; outside the loss is NaN.
        target: Probabilities :math:`t` to predict, from 0 to 1, mostly 0 or 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to refuse values out of range; None for the default setting.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or
            ``validate`` finds a probability outside of [0, 1].

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.binary_cross_entropy(torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0]))
        tensor(0.3466)

    References:
        Bishop, "Pattern Recognition and Machine Learning" (2006), equation (4.90).
    """
    if is_usual(input, target, weight, reduction, validate):
        return _entropy.usual(input, target, reduction)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_probabilities("input", input)
        check_probabilities("target", target)
    return as_dtype(_entropy.reduced(weight, reduction, input, target), dtype)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Cross-entropy of predicted logits.

    .. math::
        \ell(x) = w t \log(1 + e^{-x}) + (1 - t) \log(1 + e^x), \qquad
        \ell'(x) = (1 - t) \sigma(x) - w t \sigma(-x), \qquad
        \ell''(x) = (1 - t + w t) \sigma(x) \sigma(-x)

    where :math:`w` is ``pos_weight`` and :math:`\sigma(x) = 1 / (1 + e^{-x})`. Value
    and derivatives keep their digits however small they are, and infinite logits,
    certain predictions, give 0 or infinity.

    Args:
        input: Predicted logits.
        target: Probabilities :math:`t` to predict, from 0 to 1, mostly 0 or 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        pos_weight: Weight of the positive class, for each class where the last
            dimensions are classes; it may be smaller than ``input``, whose last
            dimensions it then has. ``"mean"`` does not divide by it.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to refuse values out of range; None for the default setting.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same. ``pos_weight``:
        expandable to it.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or
            ``validate`` finds a target outside of [0, 1] or a negative ``pos_weight``.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([0.0, -30.0]), torch.tensor([1.0, 0.0])
        >>> mlc.binary_cross_entropy_with_logits(input, target, "none")
        tensor([6.9315e-01, 9.3576e-14])

    References:
        Bishop, "Pattern Recognition and Machine Learning" (2006), section 4.3.2.
    """
    if pos_weight is not None:
        check_buffer("pos_weight", pos_weight)
    elif is_usual(input, target, weight, reduction, validate):
        return _logistic.usual(input, target, reduction)
    input, target, dtype = prepare(input, target, weight, reduction)
    checked = is_validated(validate)
    if checked:
        check_probabilities("target", target)
    if pos_weight is None:
        loss = _logistic.reduced(weight, reduction, input, target)
    else:
        _check_expandable(pos_weight, input)
        if checked:
            valid = pos_weight >= 0
            check_values("pos_weight", pos_weight, valid, "must not be negative")
        dtype = torch.promote_types(dtype, pos_weight.dtype)
        positive = target * pos_weight.to(input.dtype)
        loss = _weighted_logistic.reduced(
            weight, reduction, input, positive, 1 - target
        )
    return as_dtype(loss, dtype)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Logistic loss of targets that are 1 or -1.

    .. math::
        \ell(x) = \log(1 + e^{-t x}), \qquad \ell'(x) = -t \sigma(-t x),
        \qquad \ell''(x) = t^2 \sigma(t x) \sigma(-t x)

    The value is finite for all finite margins :math:`t x`; torch's overflows below -88
    in ``float32``, and its derivative then is NaN.

    Args:
        input: Predicted logits.
        target: The classes :math:`t`, 1 or -1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to refuse other targets; None for the default setting.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or
            ``validate`` finds a target that is neither 1 nor -1.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.soft_margin_loss(torch.tensor([-100.0]), torch.tensor([1.0]))
        tensor(100.)

    References:
        Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning" (2009),
        equation (10.18).
    """
    if is_usual(input, target, weight, reduction, validate):
        return _soft_margin.usual(input, target, reduction)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_values("target", target, target.abs() == 1, "must be 1 or -1")
    return as_dtype(_soft_margin.reduced(weight, reduction, input, target), dtype)


class BCELoss(BinaryLoss):
    """Cross-entropy of probabilities: the module of :func:`binary_cross_entropy`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return binary_cross_entropy(
            input, target, self.reduction, weight, validate=self.validate
        )


class BCEWithLogitsLoss(BinaryLoss):
    """Cross-entropy of logits: the module of :func:`binary_cross_entropy_with_logits`.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        pos_weight: Weight of the positive class; a buffer.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        reduction: Reduction = "mean",
        pos_weight: Tensor | None = None,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction, validate=validate)
        check_buffer("pos_weight", pos_weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return binary_cross_entropy_with_logits(
            input,
            target,
            self.reduction,
            self._buffer("pos_weight"),
            weight,
            validate=self.validate,
        )


class SoftMarginLoss(BinaryLoss):
    """Logistic loss of 1 and -1: the module of :func:`soft_margin_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return soft_margin_loss(
            input, target, self.reduction, weight, validate=self.validate
        )


def _check_expandable(pos_weight: Tensor, input: Tensor) -> None:
    shape, wanted = tuple(pos_weight.shape), tuple(input.shape)
    last = wanted[len(wanted) - len(shape) :] if shape else ()
    fits = len(shape) <= len(wanted) and all(
        size in (1, whole) for size, whole in zip(shape, last, strict=True)
    )
    if not fits:
        raise ValueError(
            f"pos_weight must be expandable to the shape of input, {wanted}, got "
            f"{shape}; for classes in another dimension than the last, add dimensions "
            "with unsqueeze"
        )


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
_entropy = Pointwise(
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
_logistic = Pointwise(
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
_soft_margin = Pointwise(
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
_weighted_logistic = Pointwise(
    _weighted_logistic_value,
    lambda x, positive, negative: negative * sigmoid(x) - positive * sigmoid(-x),
    lambda x, positive, negative: softplus(-x),
    lambda x, positive, negative: softplus(x),
)
