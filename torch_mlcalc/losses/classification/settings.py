"""Checks of the settings that several losses of classes have."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf
) -> None:
    """Refuse what is no finite number from ``low`` to ``high``.

    Args:
        name: Name of the setting.
        value: Its value.
        low: Smallest value that is right.
        high: Largest value that is right.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not (low <= value <= high and math.isfinite(value)):
        most = "" if high == math.inf else f" and at most {high:g}"
        least = "finite" if low == -math.inf else f"finite, at least {low:g}"
        raise ValueError(f"{name} must be {least}{most}, got {value}")


def check_index(name: str, value: object) -> None:
    """Refuse what is no integer.

    Args:
        name: Name of the setting.
        value: Its value.

    Raises:
        TypeError: If it is no integer.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")


def check_buffer(name: str, value: object) -> None:
    """Refuse what is neither None nor a tensor of real numbers.

    Args:
        name: Name of the setting.
        value: Its value.

    Raises:
        TypeError: If it is something else.
    """
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor or None, got {type(value).__name__}; "
            "convert with torch.as_tensor"
        )
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {value.dtype}")
