"""Cross-entropy with the first terms of its series changed."""

from __future__ import annotations

from collections.abc import Sequence

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
from torch_mlcalc.losses.pointwise import sigmoid, softplus
from torch_mlcalc.losses.reduction import Reduction, prepare, reduce
from torch_mlcalc.losses.validation import is_validated


def binary_poly_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    epsilon: float | Sequence[float] = 1.0,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Cross-entropy of logits with the first terms of its series changed.

    .. math::
        \ell(x) = t f(x) + (1 - t) f(-x), \qquad
        f(z) = \log(1 + e^{-z}) + \sum_{j=1}^J \epsilon_j \sigma(-z)^j,

    .. math::
        f'(z) = -\sigma(-z)
        - \sigma(z) \sum_{j=1}^J j \epsilon_j \sigma(-z)^j

    Args:
        input: Predicted logits.
        target: Probabilities :math:`t` to predict, from 0 to 1, mostly 0 or 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        epsilon: The first coefficient, or the first few.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to refuse targets out of range; None for the default setting.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``epsilon`` is neither a number nor a sequence of numbers.
        ValueError: If the shapes differ, ``epsilon`` is not finite or empty,
            ``reduction`` is none of the three, or ``validate`` finds a target outside
            of [0, 1].

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.binary_poly_loss(torch.tensor([0.0]), torch.tensor([1.0]))
        tensor(1.1931)

    References:
        Leng et al., "PolyLoss" (2022), equations (2) and (4).
        https://arxiv.org/abs/2204.12511
    """
    coefficients = _coefficients(epsilon)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_probabilities("target", target)
    positive, negative = _poly(input, coefficients), _poly(-input, coefficients)
    loss = expected(input, target, positive, negative)
    return reduce(loss, weight, reduction).to(dtype)


def poly_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    reduction: Reduction = "mean",
    epsilon: float | Sequence[float] = 1.0,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Cross-entropy of many classes with the first terms of its series changed.

    .. math::
        \ell(x) = w_t \left( -\log p_t + \sum_{j=1}^J \epsilon_j (1 - p_t)^j \right)
        = w_t f(z), \qquad z = x_t - \log \sum_{c \ne t} e^{x_c},

    with :math:`f` of :func:`binary_poly_loss`, :math:`\partial z / \partial x_t = 1`
    and :math:`\partial z / \partial x_c = -p_c / (1 - p_t)`.

    Args:
        input: Predicted logits.
        target: Class indices.
        weight: Weight of each class.
        ignore_index: Class index whose elements do not count. A batch in which no
            element counts has the mean 0, and the gradient 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; ``"mean"`` divides by the sum of
            the weights of the target classes that count.
        epsilon: The first coefficient, or the first few.
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
        >>> mlc.poly_loss(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0]))
        tensor(0.4526)

    References:
        Leng et al., "PolyLoss" (2022), equations (2) and (4).
        https://arxiv.org/abs/2204.12511
    """
    coefficients = _coefficients(epsilon)
    check_index("ignore_index", ignore_index)
    input, target, weight, dtype = prepare_classes(input, target, weight, reduction)
    if is_validated(validate):
        check_classes(input, target, ignore_index)
    loss = _poly(class_margin(input, target, ignore_index), coefficients)
    return reduce_classes(loss, target, weight, ignore_index, reduction).to(dtype)


class BinaryPolyLoss(BinaryLoss):
    """Poly loss of two classes: the module of :func:`binary_poly_loss`.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        epsilon: The first coefficient, or the first few.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        reduction: Reduction = "mean",
        epsilon: float | Sequence[float] = 1.0,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction, validate=validate)
        _coefficients(epsilon)
        self.epsilon = epsilon

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return binary_poly_loss(
            input, target, self.reduction, self.epsilon, weight, validate=self.validate
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, epsilon={self.epsilon}"


class PolyLoss(ClassLoss):
    """Poly loss of many classes: the module of :func:`poly_loss`.

    Args:
        weight: Weight of each class; a buffer.
        ignore_index: Target that does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        epsilon: The first coefficient, or the first few.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = IGNORED,
        reduction: Reduction = "mean",
        epsilon: float | Sequence[float] = 1.0,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(weight, ignore_index, reduction, validate=validate)
        _coefficients(epsilon)
        self.epsilon = epsilon

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return poly_loss(
            input,
            target,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.epsilon,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, epsilon={self.epsilon}"


def _coefficients(epsilon: float | Sequence[float]) -> tuple[float, ...]:
    if isinstance(epsilon, (int, float)):
        check_number("epsilon", epsilon)
        return (epsilon,)
    if not isinstance(epsilon, (tuple, list)):
        raise TypeError(
            "epsilon must be a number, or a tuple or list of them, got "
            f"{type(epsilon).__name__}"
        )
    if not epsilon:
        raise ValueError("epsilon must hold one number at least, got none")
    for place, coefficient in enumerate(epsilon):
        check_number(f"epsilon[{place}]", coefficient)
    return tuple(epsilon)


def _poly(z: Tensor, coefficients: Sequence[float]) -> Tensor:
    missed = sigmoid(-z)
    series = torch.zeros_like(z)
    for coefficient in reversed(coefficients):
        series = (series + coefficient) * missed
    return softplus(-z) + series
