"""The panels of an adaptive rule, with their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.plot.axes import axes_or_new
from torch_mlcalc.quadrature import (
    GaussKronrod,
    Interval,
    Plan,
    adapt,
    integrate_with_error,
)
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.line_plan import LinePlan
from torch_mlcalc.quadrature.problem import Breakpoints
from torch_mlcalc.quadrature.rules import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def mesh(
    integrand: Function,
    domain: Interval,
    rule: GaussKronrod | None = None,
    *,
    args: Sequence[Any] = (),
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the panels into which an interval is divided, and the error of each.

    The height of a panel is the error that the rule estimates for it, on a log scale;
    where the panels are narrow, the integrand is hard. The line is the absolute value
    of the integrand at the nodes, on the scale at the right.

    Args:
        integrand: Of one integral; see :func:`torch_mlcalc.integrate`.
        domain: A finite interval.
        rule: By default ``GaussKronrod()``.
        args: Further arguments of the integrand.
        breakpoints: Where to split first.
        rtol: Wanted relative error.
        atol: Wanted absolute error.
        max_evals: Points that the integral may use.
        ax: Where to draw; by default into a new figure.

    Returns:
        The Axes; those of the integrand share its x axis.

    Raises:
        TypeError: If ``domain`` or ``rule`` is of another kind.
        ValueError: If there is more than one integral, or a limit is infinite.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> from matplotlib.figure import Figure
        >>> from torch_mlcalc import plot
        >>> ax = plot.mesh(
        ...     lambda x: (x - 0.3).abs().sqrt(),
        ...     mlc.Interval(0, 1),
        ...     ax=Figure().subplots(),
        ... )
        >>> ax.get_title()
        '13 panels, error 5.1e-05'
    """
    rule = GaussKronrod() if rule is None else rule
    _check_mesh(domain, rule)

    points: list[Tensor] = []

    def searched(x: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        points[:] = [x]
        return integrand(x, *args)

    settings: dict[str, Any] = {"breakpoints": breakpoints, "rtol": rtol, "atol": atol}
    with torch.no_grad():
        plan = adapt(
            searched,
            domain,
            rule,
            args=args,
            max_evals=max_evals,
            on_failure="ignore",
            **settings,
        )
        if plan.batch_shape:
            raise ValueError(
                f"there are integrals of shape {tuple(plan.batch_shape)}; one is "
                "wanted. Pass limits and args of one."
            )
        low, high = _panels(plan, domain, breakpoints)
        ends = torch.as_tensor(np.stack([low, high]), device="cpu").to(points[0])
        x, values, error = _measured(lambda x: integrand(x, *args), ends, rule)
    ax = axes_or_new(ax)
    shown = error > 0
    ax.stairs(
        np.where(shown, error, math.nan),
        np.append(low, high[-1]),
        fill=True,
        baseline=error[shown].min() / 10 if shown.any() else 0,
        edgecolor="white",
        alpha=0.7,
    )
    if shown.any():
        ax.set_yscale("log")
    ax.set_xlabel("x")
    ax.set_ylabel("error of the panel")
    ax.set_title(f"{len(low)} panels, error {plan.error.max().item():.1e}")
    beside = ax.twinx()
    beside.plot(x, values, color="0.3", linewidth=1)
    beside.set_ylabel("|integrand|")
    return ax


def _check_mesh(domain: object, rule: object) -> None:
    if not isinstance(domain, Interval):
        raise TypeError(
            f"domain is a {type(domain).__name__}; an Interval is wanted, whose panels "
            "are seen."
        )
    if not isinstance(rule, GaussKronrod):
        raise TypeError(f"rule is {rule!r}; GaussKronrod is wanted, which has panels.")
    for name, limit in (("lower", domain.lower), ("upper", domain.upper)):
        if not bool(torch.as_tensor(limit, device="cpu").isfinite().all()):
            raise ValueError(f"{name} is {limit}; a finite limit is wanted.")


def _panels(
    plan: Plan, domain: Interval, breakpoints: Breakpoints | None
) -> tuple[Array, Array]:
    """Lower and upper ends, ascending."""
    assert isinstance(plan, LinePlan)  # noqa: S101
    limits = [float(domain.lower), float(domain.upper)]
    inner = [] if breakpoints is None else [float(b) for b in breakpoints]
    knots = np.sort(np.clip([*limits, *inner], min(limits), max(limits)))
    piece, low, high = (
        np.concatenate([np.asarray(c[k].cpu()).ravel() for c in plan.cells])
        for k in (2, 3, 4)
    )
    width = knots[piece + 1] - knots[piece]
    low, high = knots[piece] + width * low, knots[piece] + width * high
    order = np.argsort(low)
    order = order[high[order] > low[order]]
    return low[order], high[order]


def _measured(
    integrand: Callable[[Tensor], Tensor], ends: Tensor, rule: GaussKronrod
) -> tuple[Array, Array, Array]:
    """Nodes and absolute values along the interval, and the error of each panel."""
    seen: list[tuple[Tensor, Tensor]] = []

    def record(x: Tensor) -> Tensor:
        values = integrand(x)
        size = values.abs().reshape(*x.shape, -1).amax(-1)
        seen.append((x.reshape(-1), size.reshape(-1)))
        # Beside a 1 no panel is all 0, in which the rule would look again and again.
        values = values.reshape(*x.shape, -1)
        return torch.cat([values, torch.ones_like(values[..., :1])], -1)

    panels = Interval(ends[0], ends[1])
    # With so few evaluations every panel is measured once and none is divided.
    found = integrate_with_error(
        record, panels, rule, max_evals=rule.n, on_failure="ignore"
    )
    x, size = (torch.cat(column) for column in zip(*seen, strict=True))
    order = x.argsort()
    error = found.error[:, :-1].amax(-1)
    return _array(x[order]), _array(size[order]), _array(error)


def _array(tensor: Tensor) -> Array:
    return tensor.double().cpu().numpy()
