"""Adaptive Gauss-Hermite quadrature in several dimensions."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_mlcalc.quadrature.adaptive_hermite import ANY, AdaptiveGaussHermite
from torch_mlcalc.quadrature.adaptive_hermite import LADDER as LINE
from torch_mlcalc.quadrature.checks import Settings, refuse_tolerance
from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.cubature import automatic
from torch_mlcalc.quadrature.cubature.adaptive import (
    detail_of,
    groups_of,
    new_search,
    results_of,
)
from torch_mlcalc.quadrature.cubature.chart import BoxChart
from torch_mlcalc.quadrature.cubature.found import Found
from torch_mlcalc.quadrature.cubature.ladder import MOST
from torch_mlcalc.quadrature.cubature.modes import expand, find_modes, root
from torch_mlcalc.quadrature.cubature.nodes import apply_nodes
from torch_mlcalc.quadrature.cubature.problem import SolidProblem
from torch_mlcalc.quadrature.cubature.product import Product
from torch_mlcalc.quadrature.cubature.pulled import mapped_over
from torch_mlcalc.quadrature.cubature.region_plan import RegionPlan
from torch_mlcalc.quadrature.cubature.regions import (
    Regions,
    Table,
    join_regions,
    whole_cubes,
)
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, LOGISTIC, Tails
from torch_mlcalc.quadrature.cubature.tensor import climb
from torch_mlcalc.quadrature.cubature.whitened import WhitenedChart, WhitenedPlan
from torch_mlcalc.quadrature.estimate import Status, Tolerance
from torch_mlcalc.quadrature.gauss import GaussHermite
from torch_mlcalc.quadrature.host import frozen, read, readable, write
from torch_mlcalc.quadrature.ledger import Amount, Ledger, status_of
from torch_mlcalc.quadrature.mode import STEPS
from torch_mlcalc.quadrature.placement import WHOLE
from torch_mlcalc.quadrature.rules import Array, table

#: Nodes on each axis, by dimension, each checked by the next. The last of each has
#: 4,000 to 400,000 nodes. One of two neighbours is odd: even ones share the gap around
#: the mode, and agree on any step in it.
LADDERS = {
    1: LINE,
    2: (4, 9, 16, 33, 64),
    3: (4, 7, 12, 21, 32),
    4: (3, 5, 8, 13, 18),
    5: (3, 5, 7, 9, 12),
    6: (3, 4, 5, 8),
    7: (3, 4, 5, 6),
    8: (3, 4, 5),
}

#: Part of the change before that the next may be, if more nodes are to help: a normal
#: prior with a binomial likelihood gives 0.01 to 0.1, a Student density 0.4 and more.
FALLS = 0.3


#: Nodes more on each axis by which a number of nodes that was asked for is checked. Of
#: logs of gamma variables with a = 3, 50, of which 1 node is off by 0.06, 0.01, 3 nodes
#: see half of that and 5 all.
CHECKS = (4, 2)

#: Nodes of that check.
MOST_CHECKED = 5_000_000

Mask = npt.NDArray[Any]


class White(NamedTuple):
    """Where the nodes of each integral go.

    Attributes:
        chart: Of the domain.
        mark: What carries the dimensions that vmap maps over, or None.
        centre: In units of the chart, ``(*batch, d)``.
        factor: Likewise, ``(*batch, d, d)``.
        found: Whether there is a mode, ``(elements)``.
        lead: Sizes of the mapped dimensions of vmap.
        steps: Points evaluated to find it.
    """

    chart: BoxChart
    mark: Tensor | None
    centre: Tensor
    factor: Tensor
    found: Mask
    lead: tuple[int, ...]
    steps: int

    def stretched(self, tails: Tails | None) -> WhitenedChart:
        """The chart with a kind of tails."""
        return WhitenedChart.of(self.chart, self.centre, self.factor, tails)


def find_whitened(
    problem: SolidProblem,
    rule: AdaptiveGaussHermite,
    settings: Settings,
    *,
    log: bool,
) -> tuple[Found, str]:
    """Search around modes; and a sentence on what went wrong, if anything did."""
    chart = _check(problem, rule, settings, log=log)
    grad = torch.is_grad_enabled()
    with frozen(), np.errstate(all="ignore"):
        white = whiten(problem, chart)

        def search(
            tails: Tails | None, ledger: Ledger | None = None
        ) -> tuple[CubeSearch, WhitenedChart]:
            own = white.stretched(tails)
            return new_search(
                problem, own, settings, grad=grad, log=log, ledger=ledger
            ), own

        searches = [search(None)]
        first, ledger = searches[0][0], searches[0][0].ledger
        ledger.n_evals += white.steps
        cubes = whole_cubes(first.elements, first.pieces)
        if rule.n is not None:
            ledger.tolerance = Tolerance(ANY, 0.0)
            if cubes.owner.size:
                _book_exactly(first, cubes, rule.n, white.found)
            return found_of(problem, settings, white, searches, rule.n)
        left = ~white.found
        left[ascend(first, cubes.take(white.found)).owner] = True
        rest = cubes.take(left)
        if rest.owner.size:
            searches.append(search(LOGISTIC, ledger))
            rest = climb(searches[-1][0], rest)
        if rest.owner.size:
            searches.append(search(ALGEBRAIC, ledger))
            automatic.run_on(searches[-1][0], rest)
    return found_of(problem, settings, white, searches, None)


def _check(
    problem: SolidProblem, rule: AdaptiveGaussHermite, settings: Settings, *, log: bool
) -> BoxChart:
    """Refuse integrals that have no mode to be placed around."""
    if not log:
        raise ValueError(
            "AdaptiveGaussHermite works on the log of the integrand; use log_integrate "
            "(or adapt with log=True)."
        )
    dimension, chart = problem.domain.dimension, whole_space(problem)
    if chart is None:
        raise ValueError(
            "AdaptiveGaussHermite integrates over all of space; use Box(-math.inf, "
            "math.inf, dimension=d), or change the variables of the integrand."
        )
    if any(split is not None for split in problem.splits):
        raise ValueError(
            "breakpoints has no effect with AdaptiveGaussHermite; leave it out, or use "
            "no rule."
        )
    if rule.n is not None:
        refuse_tolerance(rule, settings)
        check = _checked_by(rule.n, dimension)
        if check**dimension > MOST_CHECKED:
            raise ValueError(
                f"{rule} in {dimension} dimensions is checked by a grid of {check} "
                f"nodes on each axis, which are {check**dimension} in all; at most "
                f"{MOST_CHECKED} are wanted. Take fewer nodes, or leave out the rule."
            )
        count, most = (
            rule.n**dimension + check**dimension + STEPS + 3,
            settings.max_evals,
        )
        if most is not None and count > most:
            raise ValueError(
                f"{rule} needs up to {count} evaluations, {STEPS + 3} of them for the "
                f"mode, max_evals is {most}; raise it, or use fewer nodes."
            )
    elif dimension not in LADDERS:
        raise ValueError(
            f"AdaptiveGaussHermite() has no grids in {dimension} dimensions, as they "
            "would have millions of nodes; pass n (1 is the Laplace approximation), or "
            "leave out the rule."
        )
    return chart


def whole_space(problem: SolidProblem, *, look: bool = True) -> BoxChart | None:
    """The chart of a box without any limit; None of other domains.

    Args:
        problem: What is integrated.
        look: Whether limits are read even where that stalls a GPU.

    Returns:
        The chart.
    """
    chart = problem.domain.chart(problem.integrand)
    if not isinstance(chart, BoxChart) or chart.bounds or chart.kind is None:
        return None
    if not look and not readable(chart.kind):
        return chart
    with frozen():
        return chart if (read(chart.kind) == WHOLE).all() else None


def whiten(problem: SolidProblem, chart: BoxChart) -> White:
    """Find the modes, from the ``loc`` and ``scale`` of the domain."""
    integrand = problem.integrand
    lead, mark = mapped_over(integrand, chart)
    shape = (*integrand.batch_shape, chart.dimension)
    start, scale = (
        t.to(integrand.dtype).expand(shape) for t in (chart.anchor, chart.span)
    )
    modes = find_modes(integrand, start, scale, mark)
    centre = (modes.at.to(chart.dtype) - chart.anchor) / chart.span
    factor = modes.factor.to(chart.dtype) / chart.span[..., :, None]
    found = read(modes.found, mark).reshape(-1) > 0

    def kept(tensor: Tensor) -> Tensor:
        """Not an inference tensor, of which a plan could make no use."""
        array = read(tensor, mark)
        with torch.inference_mode(False):
            return write(array.copy(), mark, integrand.device)

    return White(chart, mark, kept(centre), kept(factor), found, lead, modes.steps)


@lru_cache(maxsize=64)
def hermite_table(n: int) -> Table:
    """Gauss-Hermite for each axis of a grid, with the weights of its own integral."""
    rule = GaussHermite(n)
    return Table(table(rule)[0], np.exp(rule.log_lebesgue_weights()))


def ascend(search: CubeSearch, regions: Regions) -> Regions:
    """Integrate by one grid after another, each checked by the one before.

    Args:
        search: The integrals, in the variable of the grids.
        regions: One region for each integral.

    Returns:
        Those of the integrals that are not converged.
    """
    ledger = search.ledger
    failed: list[Regions] = []
    before, last = np.full((2, search.elements), np.nan)
    for n in LADDERS[search.dimension]:
        count = hermite_table(n).count(search.dimension)
        owner = regions.owner
        able = ledger.affordable(owner, np.full(owner.size, count))[owner]
        able &= count <= MOST
        failed.append(regions.take(~able))
        regions = regions.take(able)
        owner = regions.owner
        if not owner.size:
            break
        amount, broken, log_sum = _on_grid(search, regions, n)
        change = np.abs(log_sum - before[owner])
        amount = _off_by(amount, change)
        good = (amount.error <= ledger.allowed(amount))[:, 0] & ~broken
        search.keep(hermite_table(n), regions.take(good), amount.take(good))
        leaves = ~good & (broken | (change > FALLS * last[owner]))
        before[owner], last[owner] = log_sum, change
        failed.append(regions.take(leaves))
        regions = regions.take(~good & ~leaves)
    return join_regions([*failed, regions])


def _on_grid(
    search: CubeSearch, regions: Regions, n: int
) -> tuple[Amount, Mask, Array]:
    """Integrals by one grid, whether a value was not finite, and their logs."""
    measured = search.measure(regions, hermite_table(n), np.empty((0, 0)))
    value = measured.sums[0]
    amount = search.amount(regions, measured, np.zeros_like(value), value)
    assert amount.log_unit is not None  # noqa: S101
    return amount, measured.broken, (np.log(amount.value) + amount.log_unit)[:, 0]


def _off_by(amount: Amount, change: Array) -> Amount:
    """The same with the error of a log; infinite where there is no number."""
    error = np.where(np.isnan(change), np.inf, change)[:, None] * amount.value
    value, least, absolute = amount.columns
    columns = np.stack([value, np.fmax(error, least), absolute])
    return Amount(columns, amount.log_unit)


def _checked_by(n: int, dimension: int) -> int:
    """Nodes on each axis of the grid that checks one with ``n``."""
    larger, least = (n + more for more in CHECKS)
    return larger if larger**dimension <= MOST else least


def _book_exactly(search: CubeSearch, cubes: Regions, n: int, found: Mask) -> None:
    """Book all integrals with the nodes asked for; others only tell the error."""
    amount, broken, log_sum = _on_grid(search, cubes, n)
    _, _, check = _on_grid(search, cubes, _checked_by(n, search.dimension))
    search.ledger.blame(cubes.owner[~found], Status.TOLERANCE_NOT_REACHED)
    search.ledger.blame(cubes.owner[broken], Status.NON_FINITE)
    change = np.where(found & ~broken, np.abs(log_sum - check), np.inf)
    search.keep(hermite_table(n), cubes, _off_by(amount, change))


def found_of(
    problem: SolidProblem,
    settings: Settings,
    white: White,
    searches: list[tuple[CubeSearch, WhitenedChart]],
    n: int | None,
) -> tuple[Found, str]:
    """All that was found, as what the caller sees."""
    ledger: Ledger = searches[0][0].ledger
    status = status_of(ledger)
    used = [(search, chart) for search, chart in searches if search.kept]
    used = used or searches[:1]  # of an empty batch
    integrand = problem.integrand

    def freeze(error: Tensor, status: Tensor, n_evals: Tensor) -> WhitenedPlan:
        batch = integrand.batch_shape
        outcome = batch, error, status, n_evals
        none = (0,) * problem.domain.dimension
        parts = [
            RegionPlan(
                chart.tails,
                batch,
                none,
                groups_of(search),
                search.evaluate.gathers,
                *outcome[1:],
            )
            for search, chart in used
        ]
        return WhitenedPlan(white.centre, white.factor, tuple(parts), *outcome)

    formula = None if n is None else partial(through_mode, problem, settings, white, n)
    results = *results_of(ledger), status, ledger.n_evals
    probe = used[0][0].evaluate
    found = Found(problem, settings, True, probe, *results, freeze, formula)
    return found, detail_of(*used[-1])


def through_mode(
    problem: SolidProblem, settings: Settings, white: White, n: int
) -> Tensor:
    """The formula with ``n`` nodes as a function of all that the integrand depends on.

    Two Newton steps from the mode change nothing but the derivatives: the first makes
    them right to first order, the second to third.

    Args:
        problem: What is integrated.
        settings: Of the call.
        white: The modes, without gradients.
        n: Number of nodes on each axis.

    Returns:
        Log of the integral, ``(*batch)``.
    """
    integrand = problem.integrand
    chart = problem.domain.chart(integrand)
    assert isinstance(chart, BoxChart)  # noqa: S101
    anchor, span = white.chart.anchor.detach(), white.chart.span.detach()
    at = (anchor + span * white.centre).to(integrand.dtype)[None]
    shape = (*white.lead, *integrand.batch_shape)
    known = write(white.found.reshape(shape), white.mark, integrand.device)
    unit = torch.eye(chart.dimension, dtype=at.dtype, device=at.device)
    for _ in range(2):
        here = expand(integrand, at)
        matrix = torch.where(known[..., None, None], -here.curvature, unit)
        wide = accumulator(matrix.dtype)
        step = torch.linalg.solve(matrix.to(wide), here.slope.to(wide)[..., None])
        step = step[..., 0].to(at)
        at = at + torch.where(known[..., None], step, 0)
    curvature = expand(integrand, at).curvature[0]
    curvature = torch.where(known[..., None, None], curvature, -unit)
    factor = root(curvature)[0].to(chart.dtype) / chart.span[..., :, None]
    factor = torch.where(known[..., None, None], factor, white.factor)
    centre = (at[0].to(chart.dtype) - chart.anchor) / chart.span
    moving = WhitenedChart.of(chart, centre, factor)
    nodes = Product(GaussHermite(n)).nodes(moving)
    return apply_nodes(nodes, moving, integrand, log=True, memory=settings.memory)
