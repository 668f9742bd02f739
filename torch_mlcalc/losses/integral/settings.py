"""What the losses with an integral inside share: a rule, and when to be content."""

from __future__ import annotations

from typing import Any

from torch_mlcalc.losses.reduction import Loss, Reduction
from torch_mlcalc.quadrature.checks import Settings, check_settings, refuse_tolerance
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
