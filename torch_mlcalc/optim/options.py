"""The options of SGD: what they are, and which values are refused."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, SupportsFloat

import torch
from torch import Tensor

# The numeric options, and what torch calls those of which it refuses negative values.
_NUMBERS = {
    "lr": "learning rate",
    "momentum": "momentum value",
    "weight_decay": "weight_decay value",
    "dampening": None,
}

# What cannot go together, and why not: pairs of switches.
_CONFLICTS = {
    ("fused", "differentiable"): "`fused` does not support `differentiable`",
    ("fused", "foreach"): "`fused` and `foreach` cannot be `True` together.",
    ("flat", "differentiable"): "`flat` does not support `differentiable`",
    ("compensated", "differentiable"): "`compensated` does not support "
    "`differentiable`",
    ("flat", "compensated"): "`flat` does not support `compensated`",
}


class Formula(NamedTuple):
    """The options of one parameter group that stand in the formula of an update."""

    lr: float | Tensor
    momentum: float | Tensor = 0
    dampening: float | Tensor = 0
    weight_decay: float | Tensor = 0
    nesterov: bool = False
    maximize: bool = False
    decoupled_weight_decay: bool = False

    @classmethod
    def of(cls, group: dict[str, Any], factor: float = 1) -> Formula:
        """Take the options from a parameter group, with ``lr`` times a factor."""
        lr = scalar(group["lr"])
        return cls(
            lr if factor == 1 else lr * factor,
            scalar(group["momentum"]),
            scalar(group["dampening"]),
            scalar(group["weight_decay"]),
            group["nesterov"],
            group["maximize"],
            group["decoupled_weight_decay"],
        )

    def is_plain(self) -> bool:
        """Return whether all numbers are constants, for a kernel to take by value."""
        return not any(isinstance(n, Tensor) and n.requires_grad for n in self[:4])

    def is_addition(self) -> bool:
        """Return whether a step is one addition of the gradient."""
        decays = self.weight_decay != 0 and not self.decoupled_weight_decay
        return not (self.momentum != 0 or decays or self.maximize)

    def as_numbers(self) -> Numbers:
        """Replace one-element tensors by Python numbers."""
        numbers = [n.item() if isinstance(n, Tensor) else n for n in self[:4]]
        lr, momentum, dampening, weight_decay = numbers
        return Numbers(lr, momentum, dampening, weight_decay, *self[4:])


class Numbers(NamedTuple):
    """A :class:`Formula` whose numbers are not tensors."""

    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool
    decoupled_weight_decay: bool


def scalar(option: float | Tensor) -> float | Tensor:
    """Drop the dimensions of a one-element tensor: ``alpha`` cannot have any."""
    # Nor can it be a number of another kind, such as a fraction or an array of numpy.
    if isinstance(option, Tensor):
        one_element = option.dim() and option.numel() == 1
        return option.reshape(()) if one_element else option
    is_number = isinstance(option, (int, float)) and not isinstance(option, bool)
    return option if is_number else float(option)


def check_number(name: str, value: object) -> float:
    """Refuse what torch refuses as ``name``, in its words, and what is not finite.

    Args:
        name: Name of the option.
        value: What was passed for it.

    Returns:
        The value as a number.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is out of range, or has more than one element.
    """
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"Tensor {name} must be 1-element")
    item = value.item() if isinstance(value, Tensor) else value
    try:
        number = float(item) if isinstance(item, SupportsFloat) else None
    except TypeError:  # An array of several numbers can be converted until it is tried.
        number = None
    if number is None:
        raise TypeError(
            f"{name} must be a number or a one-element tensor, got {value!r}"
        )
    label = _NUMBERS.get(name)
    if label is not None and number < 0:
        raise ValueError(f"Invalid {label}: {value}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value}")
    return number


def check_options(options: dict[str, Any]) -> None:
    """Refuse options that are out of range or do not go together.

    Args:
        options: All options of one parameter group.

    Raises:
        ValueError: If ``nesterov`` lacks momentum.
        RuntimeError: If two switches exclude each other.
    """
    for name in _NUMBERS:
        check_number(name, options[name])
    if options["nesterov"] and (options["momentum"] <= 0 or options["dampening"] != 0):
        raise ValueError("Nesterov momentum requires a momentum and zero dampening")
    for pair, message in _CONFLICTS.items():
        if all(options[name] for name in pair):
            raise RuntimeError(message)


def check_before_step(group: dict[str, Any]) -> None:
    """Refuse what a group cannot be updated with, before any parameter changes.

    Args:
        group: A parameter group.

    Raises:
        RuntimeError: If ``fused`` meets complex or sparse numbers, or a group is flat
            that has become one to compensate.
    """
    if group["flat"] and group["compensated"]:
        raise RuntimeError(_CONFLICTS["flat", "compensated"])
    if not group["fused"]:
        return
    for param in group["params"]:
        if param.grad is None:
            continue
        if not torch.is_floating_point(param):
            raise RuntimeError(
                "`fused=True` requires all the params to be floating point Tensors, "
                f"got {param.dtype}; pass fused=False"
            )
        if param.grad.is_sparse:
            raise RuntimeError("`_fused_sgd` does not support sparse gradients")
