"""Cross-entropy that attends to what is predicted badly."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_mlcalc.losses.classification.classes import (
    IGNORED,
    BinaryLoss,
    ClassLoss,
    check_classes,
    check_probabilities,
    prepare_classes,
    reduce_classes,
)
from torch_mlcalc.losses.classification.log_odds import class_margin, expected
from torch_mlcalc.losses.classification.settings import check_index, check_number
from torch_mlcalc.losses.pointwise import (
    Pointwise,
    forget_nan_,
    product,
    sigmoid,
    softplus,
)
from torch_mlcalc.losses.reduction import Reduction, prepare, reduce
from torch_mlcalc.losses.validation import is_validated


def binary_focal_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    gamma: float = 2.0,
    alpha: float | None = None,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Cross-entropy of logits, less of it where the prediction is right.

    .. math::
        \ell(x) = \alpha t f(x) + (1 - \alpha) (1 - t) f(-x), \qquad
        f(z) = \sigma(-z)^\gamma \log(1 + e^{-z}),

    .. math::
        f'(z) = -\sigma(-z)^\gamma \left(
        \gamma \sigma(z) \log(1 + e^{-z}) + \sigma(-z) \right)

    without :math:`\alpha` and :math:`1 - \alpha` where ``alpha`` is None. All
    derivatives are finite for every ``gamma``, also below 1.

    Args:
        input: Predicted logits.
        target: Probabilities :math:`t` to predict, from 0 to 1, mostly 0 or 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        gamma: Exponent of the probability missed, not negative; 0 gives
            :func:`binary_cross_entropy_with_logits`.
        alpha: Weight of the positive class, from 0 to 1, or None for equal weights.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to refuse targets out of range; None for the default setting.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is no number.
        ValueError: If the shapes differ, a setting is out of range, or ``validate``
            finds a target outside of [0, 1].

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0])
        >>> mlc.binary_focal_loss(input, target, "none")
        tensor([1.7329e-01, 1.0928e-04])

    References:
        Lin et al., "Focal loss for dense object detection" (2017), equations (4) and
        (5). https://arxiv.org/abs/1708.02002
    """
    _check_focus(gamma, alpha)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_probabilities("target", target)
    positive, negative = focal_of(input, gamma), focal_of(-input, gamma)
    if alpha is not None:
        positive, negative = alpha * positive, (1 - alpha) * negative
    loss = expected(input, target, positive, negative)
    return reduce(loss, weight, reduction).to(dtype)


def focal_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    reduction: Reduction = "mean",
    gamma: float = 2.0,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Cross-entropy of many classes, less of it where the prediction is right.

    .. math::
        \ell(x) = w_t (1 - p_t)^\gamma (-\log p_t) = w_t f(z), \qquad
        z = x_t - \log \sum_{c \ne t} e^{x_c},

    with :math:`f` of :func:`binary_focal_loss`, :math:`\partial z / \partial x_t = 1`
    and :math:`\partial z / \partial x_c = -p_c / (1 - p_t)`. Small losses keep their
    digits, and all derivatives are finite for every ``gamma``, also below 1.

    Args:
        input: Predicted logits.
        target: Class indices.
        weight: Weight of each class.
        ignore_index: Class index whose elements do not count. A batch in which no
            element counts has the mean 0, and the gradient 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; ``"mean"`` divides by the sum of
            the weights of the target classes that count.
        gamma: Exponent of the probability missed, not negative; 0 gives
            :func:`cross_entropy`.
        validate: Whether to refuse indices out of range; None for the default setting.

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
        >>> import torch_mlcalc as mlc
        >>> mlc.focal_loss(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
        tensor(0.0109)

    References:
        Lin et al., "Focal loss for dense object detection" (2017), equation (5).
        https://arxiv.org/abs/1708.02002
    """
    _check_focus(gamma, None)
    check_index("ignore_index", ignore_index)
    input, target, weight, dtype = prepare_classes(input, target, weight, reduction)
    if is_validated(validate):
        check_classes(input, target, ignore_index)
    loss = focal_of(class_margin(input, target, ignore_index), gamma)
    return reduce_classes(loss, target, weight, ignore_index, reduction).to(dtype)


class BinaryFocalLoss(BinaryLoss):
    """Focal loss of two classes: the module of :func:`binary_focal_loss`.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        gamma: Exponent of the probability missed.
        alpha: Weight of the positive class, or None for equal weights.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        reduction: Reduction = "mean",
        gamma: float = 2.0,
        alpha: float | None = None,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction, validate=validate)
        _check_focus(gamma, alpha)
        self.gamma = gamma
        self.alpha = alpha

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return binary_focal_loss(
            input,
            target,
            self.reduction,
            self.gamma,
            self.alpha,
            weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, gamma={self.gamma}, alpha={self.alpha}"


class FocalLoss(ClassLoss):
    """Focal loss of many classes: the module of :func:`focal_loss`.

    Args:
        weight: Weight of each class; a buffer.
        ignore_index: Target that does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        gamma: Exponent of the probability missed.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = IGNORED,
        reduction: Reduction = "mean",
        gamma: float = 2.0,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(weight, ignore_index, reduction, validate=validate)
        _check_focus(gamma, None)
        self.gamma = gamma

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return focal_loss(
            input,
            target,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.gamma,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, gamma={self.gamma}"


def focal_of(z: Tensor, gamma: float) -> Tensor:
    r"""Return :math:`\sigma(-z)^\gamma \log(1 + e^{-z})` of the log-odds.

    Args:
        z: The log-odds.
        gamma: The exponent.

    Returns:
        The loss of each element.
    """
    exponent = torch.full((), gamma, dtype=z.dtype, device=z.device)
    return _focal_of(z, exponent.expand_as(z))


def _check_focus(gamma: float, alpha: float | None) -> None:
    check_number("gamma", gamma, 0)
    if alpha is not None:
        check_number("alpha", alpha, 0, 1)


def _focal_value(z: Tensor, gamma: Tensor) -> Tensor:
    missed = forget_nan_(softplus(z).mul_(gamma)).neg_().exp_()
    return missed.mul_(softplus(-z))


def _missed(z: Tensor, gamma: Tensor) -> Tensor:
    return product(gamma, softplus(z)).neg().exp()


def _focal_slope(z: Tensor, gamma: Tensor) -> Tensor:
    focus = gamma * product(sigmoid(z), softplus(-z))
    return -_missed(z, gamma) * (focus + sigmoid(-z))


_focal_of = Pointwise(
    _focal_value,
    _focal_slope,
    lambda z, gamma: -product(_missed(z, gamma) * softplus(-z), softplus(z)),
)
