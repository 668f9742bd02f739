"""Checks of settings, and what every likelihood does before and after its formula."""

from numbers import Real

from torch import Tensor

from torch_mlcalc.losses.validation import check_values


def check_number(name: str, value: object) -> None:
    """Refuse a setting that is no real number.

    Args:
        name: Name of the setting.
        value: The caller's choice.

    Raises:
        TypeError: If ``value`` is no number.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


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
    if not 0 <= eps < float("inf"):
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
