"""The error of an integral against what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_mlcalc.plot.axes import axes_or_new
from torch_mlcalc.quadrature import Rule, integrate
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.integrand import Function

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Tolerances at which adaptive rules are drawn: two to a digit, from 0.1 to 1e-13.
_RTOLS = tuple(10.0 ** -(k / 2) for k in range(2, 27))


def convergence(
    integrand: Function,
    domain: Domain,
    rules: Mapping[str, Rule | Sequence[Rule] | None],
    exact: float,
    *,
    rtols: Sequence[float] = _RTOLS,
    ax: Axes | None = None,
) -> Axes:
    """Draw the error of an integral against the evaluations that it took, by rule.

    Each point is one call of :func:`torch_mlcalc.integrate`. Evaluations are counted by
    the points that the integrand gets; errors below the rounding of the dtype are drawn
    at it.

    Args:
        integrand: Of one integral, with a number at each point.
        domain: Where to integrate; float64 limits let more digits be seen.
        rules: For each label a sequence of rules, for example with more and more nodes;
            or one adaptive rule, or None for the automatic choice, which is then asked
            for each of ``rtols``.
        exact: The integral.
        rtols: Tolerances of single adaptive rules, in which they are sorted.
        ax: Where to draw; by default into a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``rules`` has no labels, or a rule is none.
        ValueError: If ``rules``, a sequence in it or ``rtols`` is empty, ``exact`` is
            not finite, or the integral not a single number.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> from matplotlib.figure import Figure
        >>> from torch_mlcalc import plot
        >>> rules = {
        ...     "Gauss-Legendre": [mlc.GaussLegendre(n) for n in (2, 4, 8, 16)],
        ...     "automatic": None,
        ... }
        >>> e = torch.e - 1
        >>> ax = plot.convergence(
        ...     torch.exp, mlc.Interval(0, 1), rules, e, ax=Figure().subplots()
        ... )
        >>> [line.get_label() for line in ax.lines]
        ['Gauss-Legendre', 'automatic']
    """
    if not isinstance(rules, Mapping):
        raise TypeError(
            f"rules is a {type(rules).__name__}; a dict from labels to rules is wanted."
        )
    if not rules:
        raise ValueError("rules is empty; at least one rule is wanted.")
    if not math.isfinite(exact):
        raise ValueError(f"exact is {exact}; a finite number is wanted.")
    curves = {
        label: sorted(
            _one(integrand, domain, one, exact, settings)
            for one, settings in _calls(label, rule, rtols)
        )
        for label, rule in rules.items()
    }
    for label, points in curves.items():
        if not points:
            raise ValueError(
                f"rules[{label!r}] has nothing to draw: it is empty, or rtols is."
            )
    ax = axes_or_new(ax)
    for label, points in curves.items():
        ax.plot(*zip(*points, strict=True), ".-", label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("evaluations")
    ax.set_ylabel("relative error" if exact else "absolute error")
    ax.legend()
    return ax


def _calls(
    label: str, rule: Rule | Sequence[Rule] | None, rtols: Sequence[float]
) -> list[tuple[Rule | None, dict[str, Any]]]:
    if rule is None or (isinstance(rule, Rule) and not rule.fixed):
        return [(rule, {"rtol": r, "on_failure": "ignore"}) for r in rtols]
    every = [rule] if isinstance(rule, Rule) else list(rule)
    for one in every:
        if not isinstance(one, Rule):
            raise TypeError(
                f"rules[{label!r}] has a {type(one).__name__}; a rule such as "
                "GaussLegendre(32) is wanted."
            )
    return [(one, {} if one.fixed else {"on_failure": "ignore"}) for one in every]


def _one(
    integrand: Function,
    domain: Domain,
    rule: Rule | None,
    exact: float,
    settings: dict[str, Any],
) -> tuple[int, float]:
    """Evaluations and error of one integral."""
    count = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal count
        values = integrand(x)
        count += values.numel()
        return values

    with torch.no_grad():
        value = integrate(counted, domain, rule, **settings)
    if value.numel() > 1:
        raise ValueError(
            f"the integral has shape {tuple(value.shape)}; one number is wanted."
        )
    error = abs(value.item() - exact) / (abs(exact) or 1.0)
    return count, max(error, torch.finfo(value.dtype).eps)
