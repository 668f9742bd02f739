"""What closed forms of the CRPS share before their formula."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.losses.validation import check_values, is_validated


def prepare_parameters(
    tensors: dict[str, Tensor],
    weight: Tensor | None,
    reduction: Reduction,
    validate: bool | None,
    *,
    positive: Sequence[str] = (),
    shares: Sequence[str] = (),
) -> tuple[list[Tensor], torch.dtype]:
    """Check and promote parameters and target, and their values where asked for.

    Args:
        tensors: The arguments by name.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        validate: Whether to check values.
        positive: Names of those that must be positive.
        shares: Names of those that must be strictly between 0 and 1.

    Returns:
        The tensors in the dtype to compute in, and the dtype of the result.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If shapes differ or a value is out of range.
    """
    checked = is_validated(validate)
    values, dtype = prepare_all(tensors, weight, reduction)
    if checked:
        for name, value in zip(tensors, values, strict=True):
            if name in positive:
                check_values(name, value, value > 0, "must be positive")
            elif name in shares:
                valid = (value > 0) & (value < 1)
                check_values(name, value, valid, "must be strictly between 0 and 1")
            else:
                check_values(name, value, ~value.isnan(), "must not be NaN")
    return values, dtype


def standardised(
    difference: Tensor, scale: Tensor, limit: float
) -> tuple[Tensor, Tensor]:
    """The difference in units of the scale, and where that is below a limit.

    Elsewhere it is 0 and has no gradient, so that neither overflows.

    Args:
        difference: What to divide.
        scale: Unit, positive.
        limit: Beyond which a formula has reached its asymptote in float64.

    Returns:
        The quotient, and where it is one.
    """
    # Or NaN, which the quotient then is.
    near = ~(difference.abs() >= limit * scale)
    quotient = torch.where(near, difference, 0.0) / torch.where(near, scale, 1.0)
    return quotient, near


def decay(x: Tensor) -> Tensor:
    """Exponential minus 1 whose slope does not end where it is -1 but for rounding.

    Autograd takes the slope of ``expm1`` from its value. So the density, which is the
    second derivative of a score, was 0 or of the wrong sign from 16 scales on in
    float32, and a density of mass 1e-9 had no gradient of its penalty.

    Args:
        x: Any numbers.

    Returns:
        The difference.
    """
    far = x < -1
    near = torch.expm1(torch.where(far, 0.0, x))
    return torch.where(far, torch.exp(torch.where(far, x, -1.0)) - 1, near)
