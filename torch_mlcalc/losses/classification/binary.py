"""Losses of two classes, whose targets are probabilities or signs."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_mlcalc.losses.classification.classes import (
    BinaryLoss,
    check_probabilities,
)
from torch_mlcalc.losses.classification.settings import check_buffer
from torch_mlcalc.losses.classification.two_classes import (
    entropy,
    logistic,
    soft_margin,
    weighted_logistic,
)
from torch_mlcalc.losses.reduction import Reduction, as_dtype, prepare
from torch_mlcalc.losses.short import is_usual
from torch_mlcalc.losses.validation import check_values, is_validated


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
        return entropy.usual(input, target, reduction)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_probabilities("input", input)
        check_probabilities("target", target)
    return as_dtype(entropy.reduced(weight, reduction, input, target), dtype)


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
        return logistic.usual(input, target, reduction)
    input, target, dtype = prepare(input, target, weight, reduction)
    checked = is_validated(validate)
    if checked:
        check_probabilities("target", target)
    if pos_weight is None:
        loss = logistic.reduced(weight, reduction, input, target)
    else:
        _check_expandable(pos_weight, input)
        if checked:
            valid = pos_weight >= 0
            check_values("pos_weight", pos_weight, valid, "must not be negative")
        dtype = torch.promote_types(dtype, pos_weight.dtype)
        positive = target * pos_weight.to(input.dtype)
        loss = weighted_logistic.reduced(weight, reduction, input, positive, 1 - target)
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
        return soft_margin.usual(input, target, reduction)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_values("target", target, target.abs() == 1, "must be 1 or -1")
    return as_dtype(soft_margin.reduced(weight, reduction, input, target), dtype)


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
