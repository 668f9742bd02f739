"""Focal loss of many labels, most of which are absent."""

from __future__ import annotations

from torch import Tensor

from torch_mlcalc.losses.classification.classes import BinaryLoss, check_probabilities
from torch_mlcalc.losses.classification.focal import focal_of
from torch_mlcalc.losses.classification.log_odds import expected
from torch_mlcalc.losses.classification.settings import check_number
from torch_mlcalc.losses.pointwise import sigmoid
from torch_mlcalc.losses.reduction import Reduction, prepare, reduce
from torch_mlcalc.losses.validation import is_validated


def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    margin: float = 0.05,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Focal loss that forgets negatives that are predicted well, for many labels.

    .. math::
        \ell(x) = t f_+(x) + (1 - t) g(\sigma(x)), \qquad
        g(p) = -u^{\gamma_-} \log(1 - u), \quad u = \max(0, p - m),

    .. math::
        g'(p) = u^{\gamma_- - 1} \left(
        \frac{u}{1 - u} - \gamma_- \log(1 - u) \right)

    where :math:`f_+` is that of :func:`binary_focal_loss` for :math:`\gamma_+`. Up to
    :math:`p = m` all derivatives are 0.

    Args:
        input: Predicted logits, one for each label.
        target: Probabilities :math:`t` to predict, from 0 to 1, mostly 0 or 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        gamma_negative: Exponent :math:`\gamma_-` for negatives, not negative.
        gamma_positive: Exponent :math:`\gamma_+` for positives, not negative.
        margin: Probability :math:`m` up to which negatives cost nothing, from 0 to
            below 1.
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
        >>> import torch
        >>> import torch_mlcalc as mlc
        >>> input = torch.tensor([0.0, -4.0, 3.0])
        >>> target = torch.tensor([1.0, 0.0, 0.0])
        >>> mlc.asymmetric_loss(input, target, "none")
        tensor([0.3466, 0.0000, 1.5454])

    References:
        Ben-Baruch et al., "Asymmetric loss for multi-label classification" (2021),
        equations (5) to (7). https://arxiv.org/abs/2009.14119
    """
    _check_asymmetry(gamma_negative, gamma_positive, margin)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_probabilities("target", target)
    positive = focal_of(input, gamma_positive)
    if margin:
        negative = _shifted(sigmoid(input) - margin, gamma_negative)
    else:
        negative = focal_of(-input, gamma_negative)
    loss = expected(input, target, positive, negative)
    return reduce(loss, weight, reduction).to(dtype)


class AsymmetricLoss(BinaryLoss):
    """Asymmetric loss of many labels: the module of :func:`asymmetric_loss`.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        gamma_negative: Exponent for negatives.
        gamma_positive: Exponent for positives.
        margin: Probability up to which negatives cost nothing.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        reduction: Reduction = "mean",
        gamma_negative: float = 4.0,
        gamma_positive: float = 1.0,
        margin: float = 0.05,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction, validate=validate)
        _check_asymmetry(gamma_negative, gamma_positive, margin)
        self.gamma_negative = gamma_negative
        self.gamma_positive = gamma_positive
        self.margin = margin

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return asymmetric_loss(
            input,
            target,
            self.reduction,
            self.gamma_negative,
            self.gamma_positive,
            self.margin,
            weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return (
            f"{super().extra_repr()}, gamma_negative={self.gamma_negative}, "
            f"gamma_positive={self.gamma_positive}, margin={self.margin}"
        )


def _check_asymmetry(negative: float, positive: float, margin: float) -> None:
    check_number("gamma_negative", negative, 0)
    check_number("gamma_positive", positive, 0)
    check_number("margin", margin, 0, 1)
    if margin == 1:
        raise ValueError(f"margin must be below 1, got {margin}")


def _shifted(excess: Tensor, gamma: float) -> Tensor:
    none = excess <= 0
    # Some number in the place of those, or their derivatives would be NaN.
    u = excess.masked_fill(none, 0.5)
    return -(u.pow(gamma) * (-u).log1p()).masked_fill(none, 0)
