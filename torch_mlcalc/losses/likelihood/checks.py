"""Checks of settings, and what every likelihood does before and after its formula."""

import math
from numbers import Real

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.losses.validation import check_values


def check_tensor(name: str, value: object) -> None:
    """Refuse an argument that is no tensor, where its shape is looked at first.

    Args:
        name: Name of the argument.
        value: The argument.

    Raises:
        TypeError: If it is no tensor.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; "
            "convert with torch.as_tensor"
        )


def check_number(name: str, value: object, wanted: str = "a number") -> None:
    """Refuse a setting that is no real number.

    Args:
        name: Name of the setting.
        value: The caller's choice.
        wanted: What it may be, with what the caller has looked for.

    Raises:
        TypeError: If ``value`` is no number.
    """
    # Real alone is an abstract class, which takes five times as long to ask.
    if not isinstance(value, (float, Real)) or isinstance(value, bool):
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}")


def check_flag(name: str, value: object) -> None:
    """Refuse a setting that is no bool.

    Args:
        name: Name of the setting.
        value: The caller's choice.

    Raises:
        TypeError: If ``value`` is no bool.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__}")


def check_floor(eps: float) -> None:
    """Refuse an ``eps`` that is no number from 0 to below infinity.

    Args:
        eps: The caller's choice.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is negative, infinite or NaN.
    """
    check_number("eps", eps)
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and not negative, got {eps}")


def check_positive(name: str, value: Tensor) -> None:
    """Refuse a tensor with an element that is not positive and finite.

    Args:
        name: Name of the argument.
        value: The argument.

    Raises:
        ValueError: If an element is not.
    """
    valid = (value > 0) & value.isfinite()
    check_values(name, value, valid, "must be positive and finite")


def check_finite(name: str, value: Tensor) -> None:
    """Refuse a tensor with an element that is infinite or NaN.

    Args:
        name: Name of the argument.
        value: The argument.

    Raises:
        ValueError: If an element is.
    """
    check_values(name, value, value.isfinite(), "must be finite")


def check_count(name: str, value: Tensor) -> None:
    """Refuse a tensor with an element that is negative, infinite or NaN.

    Args:
        name: Name of the argument.
        value: The argument.

    Raises:
        ValueError: If an element is.
    """
    valid = (value >= 0) & value.isfinite()
    check_values(name, value, valid, "must be finite and not negative")


def prepare_positive(
    tensors: dict[str, Tensor],
    positive: dict[str, Tensor | float],
    weight: Tensor | None,
    reduction: Reduction,
) -> tuple[list[Tensor], torch.dtype]:
    """Prepare tensors of one shape, and parameters that may be one number for all.

    Args:
        tensors: What must be tensors, by name.
        positive: Parameters by name, tensors or positive numbers.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        All of them in the dtype to compute in, in order, and the dtype of the result.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes differ, a number is not positive and finite, or the
            reduction does not exist.
    """
    for name, value in positive.items():
        if not isinstance(value, Tensor):
            check_number(name, value, "a number or a tensor")
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")
    given = {n: v for n, v in positive.items() if isinstance(v, Tensor)}
    prepared, dtype = prepare_all({**tensors, **given}, weight, reduction)
    first, by_name = prepared[0], dict(zip([*tensors, *given], prepared, strict=True))
    for name, value in positive.items():
        if not isinstance(value, Tensor):
            by_name[name] = first.new_full((), value).expand_as(first)
    return [by_name[name] for name in (*tensors, *positive)], dtype
