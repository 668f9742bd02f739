"""Adaptive Gauss-Kronrod: every failing cell of every integral is split at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import numpy as np

from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.ledger import (
    Amount,
    Ledger,
    factor_between,
    sum_by,
    unlogged,
)
from torch_mlcalc.quadrature.pieces import Index, Part
from torch_mlcalc.quadrature.placement import BELOW
from torch_mlcalc.quadrature.rules import Array, Rule, check_count
from torch_mlcalc.quadrature.search import Mask, Search, Variable
from torch_mlcalc.quadrature.variables import Jobs, identity

#: A cell at an end of its piece converges slowly if halving it leaves more than this of
#: its error, twice in a row. A square root leaves 0.35, a logarithm 0.5, x^-0.9 0.93;
#: an analytic integrand, once resolved, less than 2^-20.
SLOW = 0.05

#: Halving a cell around a pole leaves all of its error; x^-0.95 leaves 0.966.
POLE = 0.98

#: Cells of a second and a third look at an integrand that was exactly 0 at every node.
#: A Gaussian peak underflows at 38 of its widths, so 64 cells of 21 nodes see one that
#: is a 25,000th of the interval wide.
LOOKS = (8, 64)


@final
@dataclass(frozen=True)
class GaussKronrod(Rule):
    r"""Adaptive bisection with a Gauss-Kronrod pair, breadth first.

    Every cell of every integral whose error is above its share of the tolerance is
    split in the same level, so that a level costs one call of the integrand. The error
    of a cell is QUADPACK's,

    .. math:: \Delta \min\bigl(1, (200\,|K - G| / \Delta)^{3/2}\bigr), \qquad
        \Delta = \int |f - \bar f|

    Unbounded intervals are integrated in the double-exponential variable.

    Args:
        n: Number of Kronrod nodes of a cell, odd and at least 5.

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If ``n`` is even or less than 5.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.integrate(torch.sqrt, mlc.Interval(0, 1), mlc.GaussKronrod())
        tensor(0.6667)

    References:
        R. Piessens et al., "QUADPACK", Springer 1983, routine QAG,
        https://doi.org/10.1007/978-3-642-61786-7
    """

    n: int = 21

    def __post_init__(self) -> None:  # noqa: D105
        check_count("n", self.n, 5)
        if self.n % 2 == 0:
            raise ValueError(
                f"GaussKronrod got n={self.n}; an odd number of nodes is wanted, "
                f"for example n={self.n + 1}."
            )


class Cells(NamedTuple):
    """Ranges of the variable of a job each, with their history."""

    job: Index
    low: Array
    high: Array
    previous: Array  # error of the cell this is half of
    slow: Index  # how many times in a row halving helped too little, at an end

    def take(self, index: Mask) -> Cells:
        """Some of the cells."""
        return Cells(*[column[index] for column in self])


def new_cells(job: Index, low: Array, high: Array) -> Cells:
    """Cells without a history."""
    return Cells(job, low, high, np.full(job.size, np.inf), np.zeros_like(job))


def divided(cells: Cells, parts: int) -> Cells:
    """Every cell cut into equal parts, without a history."""
    edges = cells.low + np.linspace(0, 1, parts + 1)[:, None] * (cells.high - cells.low)
    return new_cells(np.tile(cells.job, parts), edges[:-1].ravel(), edges[1:].ravel())


def bisect(
    search: Search,
    jobs: Jobs,
    cells: Cells,
    variable: Variable,
    n: int,
    *,
    windows: bool = False,
) -> list[Jobs]:
    """Split cells until every integral is converged, out of budget or out of digits.

    Args:
        search: The integrals, and the ledger that everything is booked in.
        jobs: What the cells are ranges of.
        cells: Where to begin.
        variable: From a cell's variable to canonical positions.
        n: Number of Kronrod nodes.
        windows: Whether a cell at an end of its piece that converges slowly is handed
            back as a job of its own.

    Returns:
        The jobs handed back.
    """
    ledger, handed = search.ledger, []
    looks = list(LOOKS) if variable is identity else []
    while cells.job.size:
        own = jobs.take(cells.job)
        owner = search.elements(own)
        amount, broken = _measure(search, own, cells, variable, n)
        total = ledger.with_expected(owner, amount)
        blind = (total.absolute == 0).all(1)[owner] & ~broken if looks else broken
        if looks and blind.any():
            cells = _join(divided(cells.take(blind), looks.pop(0)), cells.take(~blind))
            continue
        looks = []
        verdict = judge(ledger, owner, amount, total, broken)
        if not verdict.any():
            _settle(search, own, owner, cells, amount, variable, n)
            break
        split, hand, slow = _decide(ledger, own, owner, cells, amount, verdict, n)
        keep = ~split
        if windows and hand.any():
            handed.append(Jobs(own.piece, own.kind, cells.low, cells.high).take(hand))
            ledger.expected.append((owner[hand], _without_error(amount.take(hand))))
            split &= ~hand
        # However it came to be kept, too narrow or too expensive to split.
        ledger.blame(owner[keep & broken], Status.NON_FINITE)
        if keep.any():
            kept = (own.take(keep), owner[keep], cells.take(keep), amount.take(keep))
            _settle(search, *kept, variable, n)
        cells = _halves(cells.take(split), amount.error[split].max(1), slow[split])
    return handed


def _measure(
    search: Search, own: Jobs, cells: Cells, variable: Variable, n: int
) -> tuple[Amount, Mask]:
    """Integral and error of each cell, and whether it is broken: not finite."""
    nodes, both = kronrod_table(n)
    half = (cells.high - cells.low) / 2
    sample = search.sample(own, (cells.low + half) + half * nodes[:, None], variable)
    values, log_unit = unlogged(sample.values, log=search.ledger.log)
    shape = values.shape[1:]
    values = values.reshape(n, -1)
    value, error = both @ values
    # Of the real numbers that follow, |f| and |f - mean f|, in one array each.
    absolute = both[0] @ np.abs(values)
    spread = both[0] @ np.abs(values - value / 2)
    error = np.abs(error)
    sharp = spread * np.minimum(1, (200 * error / spread) ** 1.5)
    error = np.where(spread > 0, sharp, error)
    scale = half[:, None]
    amount = Amount(
        value.reshape(shape) * scale,
        error.reshape(shape) * scale,
        absolute.reshape(shape) * scale,
        log_unit,
    )
    error = np.maximum(amount.error, search.ledger.rounding(amount))
    if sample.finite is None:
        return amount._replace(error=error), np.zeros(half.size, bool)
    broken: Mask = ~np.logical_and.reduce(sample.finite)
    # A broken cell claims nothing: its error is all that it could hold.
    error[broken] = np.maximum(error, amount.absolute)[broken]
    return amount._replace(error=error), broken


def judge(
    ledger: Ledger, owner: Index, amount: Amount, total: Amount, broken: Mask
) -> Mask:
    """Which cells must be split: those above their share of what is still allowed."""
    allowed = ledger.allowed(total)
    converged: Mask = np.logical_and.reduce(total.error <= allowed, 1)[owner]
    if converged.all():
        return broken
    unit = None if total.log_unit is None else total.log_unit[owner]
    error = amount.error * factor_between(amount.log_unit, unit)
    settled = total.error - sum_by(owner, error, ledger.elements)
    count = np.bincount(owner, minlength=ledger.elements)[:, None]
    share = np.maximum(allowed - settled, 0) / np.maximum(2 * count, 1)
    limited = amount.error <= ledger.rounding(amount)
    above: Mask = np.logical_or.reduce((error > share[owner]) & ~limited, 1)
    return (~converged & above) | broken


def _decide(
    ledger: Ledger,
    own: Jobs,
    owner: Index,
    cells: Cells,
    amount: Amount,
    verdict: Mask,
    n: int,
) -> tuple[Mask, Mask, Index]:
    """Which of the failing cells to split, which to hand back, and their history."""
    error = amount.error.max(1)
    half = (cells.high - cells.low) / 2
    middle = np.maximum(np.abs(cells.low), np.abs(cells.high))
    narrow = half <= 32 * ledger.epsilon * middle
    stuck = verdict & narrow & (error > POLE * cells.previous)
    ledger.blame(owner[stuck], Status.SUSPECTED_DIVERGENT)
    at_end = (cells.low == 0) | (cells.high == 1)
    late = at_end & (error > SLOW * cells.previous) & (cells.previous < np.inf)
    slow = np.where(late, cells.slow + 1, 0)
    affordable = ledger.affordable(owner[verdict], 2 * n)[owner]
    ledger.blame(owner[verdict & ~affordable], Status.TOLERANCE_NOT_REACHED)
    split = verdict & ~narrow & affordable
    return split, split & (slow >= 2), slow


def _without_error(amount: Amount) -> Amount:
    return amount._replace(error=np.zeros_like(amount.error))


def _join(one: Cells, other: Cells) -> Cells:
    return Cells(*[np.concatenate(pair) for pair in zip(one, other, strict=True)])


def _halves(cells: Cells, error: Array, slow: Index) -> Cells:
    middle = (cells.low + cells.high) / 2
    return _join(
        Cells(cells.job, cells.low, middle, error, slow),
        Cells(cells.job, middle, cells.high, error, slow),
    )


def _settle(
    search: Search,
    own: Jobs,
    owner: Index,
    cells: Cells,
    amount: Amount,
    variable: Variable,
    n: int,
) -> None:
    """Add cells to the totals for good."""
    search.ledger.add(owner, amount)
    search.ledger.nodes.append(partial(_nodes, search, own, cells, variable, n))


def _nodes(search: Search, own: Jobs, cells: Cells, variable: Variable, n: int) -> Part:
    """Nodes of settled cells, for the plan."""
    nodes, both = kronrod_table(n)
    half = (cells.high - cells.low) / 2
    positions, slope = variable(own, (cells.low + half) + half * nodes[:, None])
    weights = both[0][:, None] * half * slope
    # As the search did not evaluate on an end, the plan must not.
    inside = search.inside(own, positions)
    if inside is not None:
        spare = np.where(own.kind == BELOW, -1.0, 0.5)
        positions = np.where(inside, positions, spare)
        weights = np.where(inside, weights, 0.0)
    low, high = (cells.low, cells.high) if variable is identity else (own.low, own.high)
    return Part(own.piece, positions, weights, low, high)
