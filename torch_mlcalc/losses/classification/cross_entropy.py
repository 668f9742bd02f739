"""Cross-entropy of many classes, from logits and from log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import _nn

from torch_mlcalc.losses.classification.classes import (
    IGNORED,
    ClassLoss,
    check_classes,
    class_axis,
    is_usual_mean,
    mean_of_kernel,
    prepare_classes,
    reduce_classes,
)
from torch_mlcalc.losses.classification.settings import check_index, check_number
from torch_mlcalc.losses.pointwise import product
from torch_mlcalc.losses.reduction import KERNEL_REDUCTION, Reduction, as_dtype
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.losses.watch import can_read

# Whose annotations in torch are wrong.
_kernels: Any = _nn
_MEAN = KERNEL_REDUCTION["mean"]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Cross-entropy of predicted logits, for many classes.

    .. math::
        \ell(x) = -\sum_c w_c q_c \log p_c, \quad p = \operatorname{softmax}(x),
        \qquad \frac{\partial \ell}{\partial x_c} = p_c \sum_k w_k q_k - w_c q_c,
        \qquad \frac{\partial^2 \ell}{\partial x_c \partial x_k}
        = p_c (\delta_{ck} - p_k) \sum_m w_m q_m

    where :math:`q` is ``target``, or 1 at the target class and 0 elsewhere, and
    :math:`w` is ``weight``. A class whose logit is :math:`-\infty` and whose target is
    0 has no part in it: :math:`0 \log 0 = 0`, where torch says NaN.

    Args:
        input: Predicted logits.
        target: Class indices; or a probability for each class, in floating point.
        weight: Weight of each class.
        ignore_index: Class index whose elements do not count. A batch in which no
            element counts has the mean 0, and the gradient 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. As in torch, ``"mean"`` divides
            by the sum of the weights of the target classes that count, and by the
            number of elements for probabilities.
        label_smoothing: Share :math:`s` of the target that is spread over all classes,
            from 0 to 1: :math:`(1 - s) q_c + s / C` takes the place of :math:`q_c`.
        validate: Whether to refuse values out of range; None for the default setting.

    Shape:
        ``input``: ``(C)``, ``(N, C)`` or ``(N, C, d1, ...)`` with C classes.
        ``target``: the same for probabilities, without C for indices.
        ``weight``: ``(C)``.

    Returns:
        The loss, of shape ``()``, or that of ``input`` without C with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor or a number of the wrong kind.
        ValueError: If shapes do not fit, a setting is out of range, or ``validate``
            finds an index out of range or what are no probabilities.

    Example:
        >>> import torch_mlcalc as mlc
        >>> logits = torch.tensor([[2.0, 0.0, -torch.inf]])
        >>> mlc.cross_entropy(logits, torch.tensor([0]))
        tensor(0.1269)
        >>> mlc.cross_entropy(logits, torch.tensor([[0.5, 0.5, 0.0]]))
        tensor(1.1269)

    References:
        Bishop, "Pattern Recognition and Machine Learning" (2006), equations (4.108) to
        (4.110). Label smoothing: Szegedy et al. (2015), https://arxiv.org/abs/1512.00567
    """
    checked, kernel = is_validated(validate), _kernels.cross_entropy_loss
    plain = type(ignore_index) is int and type(label_smoothing) is float
    if plain and not checked and is_usual_mean(input, target, weight, reduction):
        mean = mean_of_kernel(
            kernel, input, target, None, _MEAN, ignore_index, label_smoothing
        )
        if mean is not None:
            return mean
    check_number("label_smoothing", label_smoothing, 0, 1)
    check_index("ignore_index", ignore_index)
    input, target, weight, dtype = prepare_classes(
        input, target, weight, reduction, probabilities=True
    )
    if checked:
        check_classes(input, target, ignore_index)
    if not target.is_floating_point():
        if not label_smoothing:
            loss = _of_indices(kernel, input, target, weight, ignore_index, reduction)
            return loss.to(dtype)
    elif reduction != "none" and can_read(input):
        code = KERNEL_REDUCTION[reduction]
        loss = kernel(input, target, weight, code, ignore_index, label_smoothing)
        if not math.isnan(loss.item()):
            return as_dtype(loss, dtype)
    log_p = input.log_softmax(class_axis(input))
    if target.is_floating_point():
        loss = _of_probabilities(log_p, target, weight, reduction, label_smoothing)
    else:
        loss = _of_indices(
            _nn.nll_loss_nd, log_p, target, weight, ignore_index, reduction
        )
        uniform = torch.full_like(log_p, 1 / log_p.shape[class_axis(log_p)])
        spread = _of_probabilities(log_p, uniform, weight, "none")
        spread = reduce_spread(spread, target, weight, ignore_index, reduction)
        loss = (1 - label_smoothing) * loss + label_smoothing * spread
    return loss.to(dtype)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    reduction: Reduction = "mean",
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Negative log-likelihood of predicted log-probabilities, for many classes.

    .. math::
        \ell(x) = -w_t x_t, \qquad
        \frac{\partial \ell}{\partial x_c} = -w_t \delta_{ct}

    where :math:`t` is ``target`` and :math:`w` is ``weight``.

    Args:
        input: Predicted log-probabilities, as from ``log_softmax``.
        target: Class indices.
        weight: Weight of each class.
        ignore_index: Class index whose elements do not count. A batch in which no
            element counts has the mean 0, and the gradient 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; ``"mean"`` divides by the sum of
            the weights of the target classes that count.
        validate: Whether to refuse values out of range; None for the default setting.

    Shape:
        ``input``: ``(C)``, ``(N, C)`` or ``(N, C, d1, ...)`` with C classes.
        ``target``: the same without C. ``weight``: ``(C)``.

    Returns:
        The loss, of shape ``()``, or that of ``target`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor or a number of the wrong kind.
        ValueError: If shapes do not fit, ``reduction`` is none of the three, or
            ``validate`` finds an index out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> log_p = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).log()
        >>> mlc.nll_loss(log_p, torch.tensor([0, -100]))
        tensor(0.6931)

    References:
        Bishop, "Pattern Recognition and Machine Learning" (2006), equation (4.108).
    """
    checked, kernel = is_validated(validate), _kernels.nll_loss_nd
    plain = type(ignore_index) is int
    if plain and not checked and is_usual_mean(input, target, weight, reduction):
        mean = mean_of_kernel(kernel, input, target, None, _MEAN, ignore_index)
        if mean is not None:
            return mean
    check_index("ignore_index", ignore_index)
    input, target, weight, dtype = prepare_classes(input, target, weight, reduction)
    if checked:
        check_classes(input, target, ignore_index)
    loss = _of_indices(kernel, input, target, weight, ignore_index, reduction)
    return loss.to(dtype)


class CrossEntropyLoss(ClassLoss):
    """Cross-entropy of logits: the module of :func:`cross_entropy`.

    Args:
        weight: Weight of each class; a buffer.
        ignore_index: Target that does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: Share of the target that is spread over all classes.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = IGNORED,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(weight, ignore_index, reduction, validate=validate)
        check_number("label_smoothing", label_smoothing, 0, 1)
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return cross_entropy(
            input,
            target,
            self._buffer("weight"),
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, label_smoothing={self.label_smoothing}"


class NLLLoss(ClassLoss):
    """Negative log-likelihood of log-probabilities: the module of :func:`nll_loss`.

    Args:
        weight: Weight of each class; a buffer.
        ignore_index: Target that does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return nll_loss(
            input,
            target,
            self._buffer("weight"),
            self.ignore_index,
            self.reduction,
            validate=self.validate,
        )


def _of_indices(
    kernel: Callable[..., Tensor],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: Reduction,
) -> Tensor:
    loss = kernel(input, target, weight, KERNEL_REDUCTION[reduction], ignore_index)
    if reduction != "mean" or not target.numel():
        return loss
    if can_read(loss) and not math.isnan(loss.item()):
        return loss
    # torch divides 0 by 0 where all are ignored.
    return loss.masked_fill((target == ignore_index).all(), 0)


def reduce_spread(
    loss: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: Reduction,
) -> Tensor:
    """Reduce the loss of all classes alike, whose mean is that of the target class.

    Args:
        loss: Loss of each element, in which the classes are weighted already.
        target: Class indices.
        weight: Weight of each class, or None.
        ignore_index: Target that does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        A tensor of the shape of ``loss`` with ``"none"``, of shape ``()`` otherwise.
    """
    ignored = target == ignore_index
    loss = loss.masked_fill(ignored, 0)
    if reduction == "none":
        return loss
    if reduction == "sum" or not target.numel():
        return loss.sum() if reduction == "sum" else loss.mean()
    ones = torch.ones_like(loss)
    counted = reduce_classes(ones, target, weight, ignore_index, "sum")
    return loss.sum() / counted.masked_fill(ignored.all(), 1)


def _of_probabilities(
    log_p: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    label_smoothing: float = 0.0,
) -> Tensor:
    axis = class_axis(log_p)
    classes = log_p.shape[axis]
    if label_smoothing:
        target = (1 - label_smoothing) * target + label_smoothing / classes
    if weight is not None:
        target = target * weight.view([-1] + [1] * (log_p.ndim - axis - 1))
    terms = product(target, log_p)
    # NaN where a target is, or the logits of an element have no softmax; else 0. Those
    # are NaN in the first class too.
    first = log_p.detach().select(axis, 0).clamp(-1, 1)
    if reduction == "none":
        return (first + target.detach().sum(axis)) * 0 - terms.sum(axis)
    total = (first.sum() + target.detach().sum()) * 0 - terms.sum()
    return total / (log_p.numel() // classes) if reduction == "mean" else total
