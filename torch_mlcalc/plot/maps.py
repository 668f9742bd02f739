"""The map of VEGAS, as a grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from torch_mlcalc.plot.axes import axes_or_new
from torch_mlcalc.quadrature import Box, Plan
from torch_mlcalc.quadrature.cubature.plan import NodesPlan
from torch_mlcalc.quadrature.cubature.problem import pose
from torch_mlcalc.quadrature.cubature.vegas import VegasNodes
from torch_mlcalc.quadrature.rules import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of a line, which bends where the domain does.
_LINE = 60


def vegas_map(
    plan: Plan, domain: Box | None = None, *, lines: int = 40, ax: Axes | None = None
) -> Axes:
    """Draw the map that VEGAS has learned in two dimensions, as a grid.

    Between two neighbouring lines of a direction there are equally many samples, but
    for the strata: where the lines are close, the integrand is large.

    Args:
        plan: Of one integral by :class:`torch_mlcalc.Vegas` in two dimensions, for
            example ``adapt(integrand, box, Vegas())``.
        domain: The box that it was made for; by default the unit square is drawn.
        lines: Cells of the grid along each axis.
        ax: Where to draw; by default into a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``domain`` is no :class:`torch_mlcalc.Box`, or ``lines`` no
            integer.
        ValueError: If the plan is not one of VEGAS, for one integral and in two
            dimensions, if the box has not two, or ``lines`` is less than 1.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> from matplotlib.figure import Figure
        >>> from torch_mlcalc import plot
        >>> box = mlc.Box(-1.0, 1.0, dimension=2)
        >>> plan = mlc.adapt(
        ...     lambda x: torch.exp(-50 * x.square().sum(-1)), box, mlc.Vegas()
        ... )
        >>> ax = plot.vegas_map(plan, box, ax=Figure().subplots())
        >>> len(ax.lines)
        82
    """
    edges = _map_edges(plan)
    if isinstance(lines, bool) or not isinstance(lines, int):
        raise TypeError(f"lines is a {type(lines).__name__}; an integer is wanted.")
    if lines < 1:
        raise ValueError(f"lines is {lines}; at least 1 is wanted.")
    if domain is None:
        domain = Box(0.0, 1.0, dimension=2)
    if not isinstance(domain, Box):
        raise TypeError(f"domain is a {type(domain).__name__}; a Box is wanted.")
    if domain.dimension != 2:
        raise ValueError(f"domain has {domain.dimension} dimensions; 2 are wanted.")
    ax = axes_or_new(ax)
    for points in _grid(plan, domain, edges, lines):
        ax.plot(*points.T, color="C0", linewidth=0.6)
    ax.set_xlabel("$x_1$")
    ax.set_ylabel("$x_2$")
    return ax


def _map_edges(plan: object) -> Tensor:
    nodes = plan.nodes if isinstance(plan, NodesPlan) else None
    if not isinstance(nodes, VegasNodes):
        raise ValueError(
            f"plan is {plan!r}; the plan of an integral by Vegas is wanted, for "
            "example that of adapt(integrand, box, Vegas())."
        )
    if nodes.edges.ndim > 2:
        raise ValueError(
            f"the plan is for integrals of shape {tuple(nodes.edges.shape[:-2])}, each "
            "with a map; that of one integral is wanted."
        )
    if nodes.edges.shape[0] != 2:
        raise ValueError(
            f"the plan was made in {nodes.edges.shape[0]} dimensions; 2 are wanted."
        )
    return nodes.edges.cpu()


def _grid(plan: Plan, domain: Box, edges: Tensor, lines: int) -> list[Array]:
    """The lines of the grid, each ``(points, 2)``, bent as the domain is."""
    assert isinstance(plan, NodesPlan)  # noqa: S101
    bins = edges.shape[1] - 1
    which = torch.linspace(0, bins, lines + 1, device="cpu").round().long()
    along = torch.linspace(0, 1, _LINE, dtype=torch.float64, device="cpu")
    unit = []
    for at in edges[0, which]:
        unit.append(torch.stack([at.expand(along.shape), along], -1))
    for at in edges[1, which]:
        unit.append(torch.stack([along, at.expand(along.shape)], -1))
    problem = pose(lambda x: x[..., 0], domain, (), None, None)
    if problem.integrand.batch_shape:
        raise ValueError(
            f"domain is a batch of shape {problem.integrand.batch_shape}; one box is "
            "wanted."
        )
    chart = domain.chart(problem.integrand, plan.tails)
    with torch.no_grad():
        placed = [chart(u.to(chart.dtype), log=False).points for u in unit]
    # The ends of an infinite axis cannot be drawn.
    return [
        torch.where(x.isfinite(), x, math.nan).double().cpu().numpy() for x in placed
    ]
