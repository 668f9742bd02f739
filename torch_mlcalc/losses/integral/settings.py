"""What the losses with an integral inside share: a rule, and when to be content."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Loss, Reduction, reduce
from torch_mlcalc.quadrature.checks import Settings, check_settings, refuse_tolerance
from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.rules import Rule


class IntegralLoss(Loss):
    """Base of these losses: holds the ``rule`` and the settings of its search.

    Args:
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Raises:
        TypeError: If ``rule`` is no rule, or a number is of the wrong type.
        ValueError: If a setting does not exist, or has no effect with the rule.
    """

    def __init__(
        self,
        rule: Rule | None = None,
        reduction: Reduction = "mean",
        *,
        rtol: float | None = None,
        atol: float | None = None,
        max_evals: int | None = None,
        memory: int | None = None,
        on_failure: str = "warn",
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        settings = Settings(rtol, atol, max_evals, memory, on_failure)
        check_settings(rule, settings)
        if rule is not None and rule.fixed:
            refuse_tolerance(rule, settings)
        self.rule = rule
        self.search: dict[str, Any] = {
            "rtol": rtol,
            "atol": atol,
            "max_evals": max_evals,
            "memory": memory,
            "on_failure": on_failure,
        }

    def extra_repr(self) -> str:
        """Return the settings for ``repr``; those of the search where they are set."""
        shown = [super().extra_repr(), f"rule={self.rule}"]
        given = {k: v for k, v in self.search.items() if v not in (None, "warn")}
        return ", ".join(shown + [f"{k}={v!r}" for k, v in given.items()])


def check_weight(
    weight: Tensor | None, shape: Sequence[int], of: str, noun: str = "shape"
) -> None:
    """Refuse weights that are no real numbers, one for each element.

    Args:
        weight: What the caller passed, or None.
        shape: Shape of the loss of the elements.
        of: Whose shape this is, for the message.
        noun: What it is called.

    Raises:
        TypeError: If it is no tensor, or complex.
        ValueError: If it has another shape.
    """
    if weight is None:
        return
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"weight must be a torch.Tensor, got {type(weight).__name__}; convert with "
            "torch.as_tensor"
        )
    if weight.shape != tuple(shape):
        raise ValueError(
            f"weight must have the {noun} {tuple(shape)} {of}, got "
            f"{tuple(weight.shape)}"
        )
    if weight.is_complex():
        raise TypeError(f"weight must be real, got {weight.dtype}")


def reduce_to(
    loss: Tensor, weight: Tensor | None, reduction: Reduction, dtype: torch.dtype
) -> Tensor:
    """Weight, reduce and round to the dtype of the arguments, of which weight is one.

    Args:
        loss: Loss of each element.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        dtype: That of the other arguments.

    Returns:
        The loss.
    """
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    return reduce(loss, weight, reduction).to(dtype)


def rtol_for(
    dtype: torch.dtype, rule: object, rtol: float | None, atol: float | None
) -> float | None:
    """The relative tolerance for a result of a dtype, computed in a wider one.

    Args:
        dtype: That of the loss.
        rule: How to integrate.
        rtol: What the caller wants, or None.
        atol: The same.

    Returns:
        What the caller wants, or the default of :func:`integrate` for the dtype; None
        for a rule that has no tolerance.
    """
    if rtol is not None or atol or (isinstance(rule, Rule) and rule.fixed):
        return rtol
    return math.sqrt(torch.finfo(accumulator(dtype)).eps)


def check_function(name: str, value: object) -> None:
    """Refuse what cannot be called.

    Args:
        name: Name of the argument.
        value: The argument.

    Raises:
        TypeError: If it cannot be called.
    """
    if not callable(value):
        raise TypeError(
            f"{name} must be a function or a module, got {type(value).__name__}"
        )
