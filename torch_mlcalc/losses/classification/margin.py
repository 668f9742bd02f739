"""The multi-class hinge."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch._C import _nn

from torch_mlcalc.losses.classification.classes import (
    REFUSALS,
    ClassLoss,
    check_classes,
    class_axis,
    is_usual_mean,
    prepare_classes,
)
from torch_mlcalc.losses.classification.settings import check_number
from torch_mlcalc.losses.reduction import (
    KERNEL_REDUCTION,
    Loss,
    Reduction,
    as_dtype,
    reduce,
    with_slope,
)
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.losses.watch import can_read

# Whose annotations in torch are wrong.
_kernel: Any = _nn.multi_margin_loss


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Hinge of the margin by which the target class leads each of the others.

    .. math::
        \ell(x) = \frac{w_t}{C} \sum_{c \ne t} z_c^p, \quad
        z_c = \max(0, m - x_t + x_c), \qquad
        \frac{\partial \ell}{\partial x_c} = \frac{w_t p}{C} z_c^{p - 1}
        = -\frac{\partial z_c^p}{\partial x_t} \frac{w_t}{C}

    with the second derivative 0 for :math:`p = 1`, and for :math:`p = 2`, which torch
    does not differentiate twice, :math:`2 w_t / C` where :math:`z_c > 0`. At the kink
    all derivatives are 0.

    Args:
        input: Scores of the classes.
        target: Class indices :math:`t`.
        p: The power, 1 or 2.
        margin: The margin :math:`m`.
        weight: Weight of each class.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; as in torch, ``"mean"`` divides
            by the number of elements.
        validate: Whether to refuse values out of range; None for the default setting.

    Shape:
        ``input``: ``(C)``, ``(N, C)`` or ``(N, C, d1, ...)`` with C classes.
        ``target``: the same without C. ``weight``: ``(C)``.

    Returns:
        The loss, of shape ``()``, or that of ``target`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor or a number of the wrong kind.
        ValueError: If shapes do not fit, a setting is out of range, or ``validate``
            finds an index out of range.

    Example:
        >>> import torch
        >>> import torch_mlcalc as mlc
        >>> mlc.multi_margin_loss(torch.tensor([[1.0, 0.5, 3.0]]), torch.tensor([0]))
        tensor(1.1667)

    References:
        Weston and Watkins, "Support vector machines for multi-class pattern
        recognition" (1999), ESANN, equation (4).
    """
    checked = is_validated(validate)
    plain = type(margin) is float and abs(margin) < math.inf
    if (
        plain
        and not checked
        and (p == 1 or p == 2)
        and is_usual_mean(input, target, weight, reduction)
    ):
        mean = mean_in_short(input, target, p, margin)
        if mean is not None:
            return mean
    _check_power(p)
    check_number("margin", margin)
    input, target, weight, dtype = prepare_classes(input, target, weight, reduction)
    if checked:
        check_classes(input, target, None)
    if _kernel_is_right(input, weight):
        # By the plain operations alone 1e7 elements take 2.5 times as long, forward and
        # backward, and three times the memory.
        settings = p, margin, weight, KERNEL_REDUCTION[reduction]
        loss = _kernel(input, target, *settings)
        with_slope(loss, _slope, input, target, *settings)
    else:
        loss = _hinge(input, target, p, margin, weight, reduction)
    return as_dtype(loss, dtype)


class MultiMarginLoss(ClassLoss):
    """Multi-class hinge: the module of :func:`multi_margin_loss`.

    Args:
        p: The power, 1 or 2.
        margin: The margin.
        weight: Weight of each class; a buffer.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(weight, reduction=reduction, validate=validate)
        _check_power(p)
        check_number("margin", margin)
        self.p = p
        self.margin = margin

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return multi_margin_loss(
            input,
            target,
            self.p,
            self.margin,
            self._buffer("weight"),
            self.reduction,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{Loss.extra_repr(self)}, p={self.p}, margin={self.margin}"


def _hinge(
    input: Tensor,
    target: Tensor,
    p: int,
    margin: float,
    weight: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    axis = class_axis(input)
    hinge = _excess(input, target, margin).relu()
    loss = (hinge if p == 1 else hinge.square()).sum(axis) / input.shape[axis]
    if weight is not None:
        loss = loss * weight[target]
    return reduce(loss, None, reduction)


def _excess(input: Tensor, target: Tensor, margin: float) -> Tensor:
    axis = class_axis(input)
    index = target.unsqueeze(axis)
    excess = input - (input.gather(axis, index) - margin)
    # The target class has no margin to itself.
    return excess.scatter(axis, index, 0.0)


def mean_in_short(
    input: Tensor, target: Tensor, p: int, margin: float
) -> Tensor | None:
    """Return the mean by torch's kernel, or None where that is not right.

    Args:
        input: Scores of the classes, of a batch.
        target: Class indices.
        p: The power, 1 or 2.
        margin: The margin.
    """
    settings = p, margin, None, KERNEL_REDUCTION["mean"]
    try:
        # No elements have no extremes; of them the kernel returns what was in memory.
        if not _is_finite(input):
            return None
        loss = _kernel(input, target, *settings)
    except REFUSALS:
        return None
    return with_slope(loss, _slope, input, target, *settings)


def _kernel_is_right(input: Tensor, weight: Tensor | None) -> bool:
    # It has no derivative by the weight.
    constant = weight is None or not weight.requires_grad
    usual = constant and input.ndim <= 2 and input.numel() > 0
    return usual and can_read(input) and _is_finite(input)


def _is_finite(input: Tensor) -> bool:
    # The kernel forgets NaN, which is also the lead of one infinity over another.
    low, high = input.data.aminmax()
    return high.item() - low.item() < math.inf


def _slope(
    grad: Tensor,
    input: Tensor,
    target: Tensor,
    p: int,
    margin: float,
    weight: Tensor | None,
    code: int,
) -> Tensor:
    axis = class_axis(input)
    excess = _excess(input, target, margin)
    slope = (excess > 0).to(input.dtype) if p == 1 else 2 * excess.relu()
    slope = slope.scatter(axis, target.unsqueeze(axis), -slope.sum(axis, keepdim=True))
    if weight is not None:
        slope = slope * weight[target].unsqueeze(axis)
    if code == KERNEL_REDUCTION["mean"]:
        grad = grad / target.numel()
    grad = grad.unsqueeze(axis) if grad.ndim else grad
    return slope * (grad / input.shape[axis])


def _check_power(p: object) -> None:
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}")
