"""Adaptive Gauss-Kronrod: every failing cell of every integral is split at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import numpy as np

from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.ledger import (
    Amount,
    Ledger,
    factor_between,
    join,
    sum_by,
    unlogged,
)
from torch_mlcalc.quadrature.pieces import Index, Part, chosen
from torch_mlcalc.quadrature.placement import BELOW
from torch_mlcalc.quadrature.rules import Array, Rule, check_count
from torch_mlcalc.quadrature.search import Mask, Sample, Search, Variable
from torch_mlcalc.quadrature.spikes import spikes
from torch_mlcalc.quadrature.variables import Jobs, identity

#: Parts that a failing cell is cut into. On the 168 test problems 2 take as many
#: evaluations (0.97 times QUADPACK's in the median, 4 take 1.00) in a quarter more
#: calls of the integrand, which are most of the time of a single integral; 6 take a
#: tenth more evaluations for 3 % fewer calls.
PARTS = 4

#: A cell converges slowly if cutting it leaves more than this of its error. A square
#: root at an end leaves 0.13, a logarithm 0.25, x^-0.9 0.87; an analytic integrand,
#: once resolved, less than 2^-40.
SLOW = 0.05

#: Times in a row that a cell may converge slowly: by then it holds a singularity, or a
#: peak far narrower than it is.
PATIENCE = 2

#: The same where no cell fails but those at the ends: there it is a singularity, and a
#: window of it takes a call and 84 evaluations less. On the test problems that makes
#: 891 calls of 915, and 0.93 times QUADPACK's evaluations of 1.00.
EAGER = 1

#: Parts of a cell with a peak that only one of its nodes has met, or 2 at an end.
AROUND = 3

#: Cutting a cell around a pole leaves all of its error; x^-0.95 leaves 0.93.
POLE = 0.98

#: Cells of a second and a third look at an integrand that was exactly 0 at every node.
#: A Gaussian peak underflows at 38 of its widths, so 64 cells of 21 nodes see one that
#: is a 25,000th of the interval wide.
LOOKS = (8, 64)


@final
@dataclass(frozen=True)
class GaussKronrod(Rule):
    r"""Adaptive subdivision with a Gauss-Kronrod pair, breadth first.

    Every cell of every integral whose error is above its share of the tolerance is cut
    into four in the same level, so that a level costs one call of the integrand. The
    error of a cell is QUADPACK's,

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


class Measured(NamedTuple):
    """What cells hold.

    Attributes:
        amount: Integral and error.
        broken: Whether the integrand was not finite somewhere.
        peak: What :func:`spikes` says.
    """

    amount: Amount
    broken: Mask
    peak: Array


class Cells(NamedTuple):
    """Ranges of the variable of a job each, with their history.

    Attributes:
        job: Which job, ``(m,)``.
        columns: Lower and upper end, the error of the cell that this is a part of, and
            how many times in a row dividing helped too little; ``(4, m)``.
    """

    job: Index
    columns: Array

    def take(self, index: Mask | slice) -> Cells:
        """Some of the cells."""
        return Cells(chosen(self.job, index), chosen(self.columns, index))


def new_cells(job: Index, low: Array, high: Array) -> Cells:
    """Cells without a history."""
    return _cells(job, low, high, np.inf, 0.0)


def _cells(
    job: Index, low: Array, high: Array, error: Array | float, slow: Array | float
) -> Cells:
    columns = np.empty((4, job.size))
    columns[0], columns[1], columns[2], columns[3] = low, high, error, slow
    return Cells(job, columns)


def divided(cells: Cells, parts: int) -> Cells:
    """Every cell cut into equal parts, which inherit its history."""
    low, high, error, slow = cells.columns
    edges = low + np.arange(parts + 1)[:, None] / parts * (high - low)
    return _between(cells.job, edges, error, slow)


def _between(job: Index, edges: Array, error: Array, slow: Array) -> Cells:
    parts = len(edges) - 1
    return _cells(
        np.tile(job, parts),
        edges[:-1].ravel(),
        edges[1:].ravel(),
        np.tile(error, parts),
        np.tile(slow, parts),
    )


def bisect(
    search: Search,
    jobs: Jobs,
    cells: Cells,
    variable: Variable,
    n: int,
    *,
    windows: bool = False,
    measured: Measured | None = None,
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
        measured: What :func:`measure` says of the cells, if it was asked already.

    Returns:
        The jobs handed back.
    """
    ledger, handed = search.ledger, []
    looks = list(LOOKS) if variable is identity else []
    while cells.job.size:
        own = jobs.take(cells.job)
        owner = search.elements(own)
        if measured is None:
            measured = measure(search, own, cells, variable, n)
            ledger.count(owner, n)
        (amount, broken, peak), measured = measured, None
        total = ledger.with_expected(owner, amount)
        if looks and not total.absolute.all():
            blind = ~np.logical_or.reduce(total.absolute, 1)[owner] & ~broken
            if blind.any():
                again = divided(cells.take(blind), looks.pop(0))
                cells = _join(again, cells.take(~blind))
                continue
        looks = []
        verdict = judge(ledger, owner, amount, total, broken)
        if not verdict.any():
            settle(search, own, owner, cells, amount, variable, n)
            break
        split, slow = _decide(ledger, owner, cells, amount, peak, verdict, n)
        keep = ~split
        if windows:
            hand = split & _at_end(cells) & np.isnan(peak[0])
            inside = np.bincount(owner, split & ~hand, ledger.elements)[owner]
            hand &= slow >= np.where(inside, PATIENCE, EAGER)
            if hand.any():
                low, high, _, _ = cells.columns
                handed.append(Jobs(own.piece, own.kind, low, high).take(hand))
                ledger.expected.append((owner[hand], _without_error(amount.take(hand))))
                split &= ~hand
        if keep.any():
            # However it came to be kept, too narrow or too expensive to split.
            ledger.blame(owner[keep & broken], Status.NON_FINITE)
            kept = (own.take(keep), owner[keep], cells.take(keep), amount.take(keep))
            settle(search, *kept, variable, n)
        low, high, _, _ = cells.columns
        cells = _cells(cells.job, low, high, np.max(amount.error, 1), slow).take(split)
        cells = _parts(cells, peak[:, split])
    return handed


def measure(
    search: Search, own: Jobs, cells: Cells, variable: Variable, n: int
) -> Measured:
    """What each cell holds."""
    blocks = search.evaluate.blocks(cells.job.size, n)
    if len(blocks) == 1:
        return _measure_block(search, own, cells, variable, n)
    # Block by block also what is done with the values: they are still in the cache.
    amounts, broken, peaks = zip(
        *[
            _measure_block(search, own.take(i), cells.take(i), variable, n)
            for i in blocks
        ],
        strict=True,
    )
    return Measured(join(amounts), np.concatenate(broken), np.concatenate(peaks, 1))


def _measure_block(
    search: Search, own: Jobs, cells: Cells, variable: Variable, n: int
) -> Measured:
    nodes, _ = kronrod_table(n)
    low, high, _, _ = cells.columns
    half = (high - low) / 2
    t = half * nodes[:, None]
    t += low + half
    sample = search.sample(own, t, variable)
    return amount_of(search, own, half, sample, n)


def amount_of(
    search: Search, own: Jobs, half: Array, sample: Sample, n: int
) -> Measured:
    """The same from a sample of cells of which half the length is known."""
    _, both = kronrod_table(n)
    values, log_unit = unlogged(sample.values, log=search.ledger.log)
    shape = values.shape[1:]
    values = values.reshape(n, -1)
    columns = np.empty((3, values.shape[1]), values.dtype)
    columns[:2] = contract(both, values)
    value, error = columns[0], np.abs(columns[1])
    size = np.abs(values)
    columns[2] = contract(both[:1], size)
    np.abs(values - value / 2, out=size)
    (spread,) = contract(both[:1], size)
    ratio = 200 * error / spread
    sharp = spread * np.minimum(1, ratio * np.sqrt(ratio))
    columns[1] = np.where(spread > 0, sharp, error)
    columns = columns.reshape(3, *shape)
    peak = spikes(values.reshape(n, *shape), *columns[1:].real)
    unit = search.unit(own)
    if log_unit is None:
        columns *= (half * unit)[:, None]
        columns[1:] = np.abs(columns[1:])
    else:
        columns *= half[:, None]
        log_unit = log_unit + unit[:, None]
    amount = Amount(columns, log_unit)
    np.maximum(amount.error, search.ledger.rounding(amount), out=amount.error)
    if sample.finite is None:
        return Measured(amount, np.zeros(half.size, bool), peak)
    broken: Mask = ~np.logical_and.reduce(sample.finite)
    # A broken cell claims nothing: its error is all that it could hold.
    amount.error[broken] = np.maximum(amount.error, amount.absolute)[broken]
    return Measured(amount, broken, peak)


def judge(
    ledger: Ledger, owner: Index, amount: Amount, total: Amount, broken: Mask
) -> Mask:
    """Which cells must be split: those above their share of what is still allowed."""
    allowed = ledger.allowed(total)
    fine = total.error <= allowed
    if fine.all():
        return broken
    converged = np.logical_and.reduce(fine, 1)[owner]
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
    owner: Index,
    cells: Cells,
    amount: Amount,
    peak: Array,
    verdict: Mask,
    n: int,
) -> tuple[Mask, Array]:
    """Which of the failing cells to split, and their history."""
    low, high, previous, slow = cells.columns
    error = np.max(amount.error, 1)
    narrow = high - low <= 64 * ledger.epsilon * np.maximum(np.abs(low), np.abs(high))
    late = (error > SLOW * previous) & (previous < np.inf)
    slow = (slow + 1) * late
    split = verdict & ~narrow
    if narrow.any():
        stuck = verdict & narrow & (error > POLE * previous)
        ledger.blame(owner[stuck], Status.SUSPECTED_DIVERGENT)
    parts = np.where(np.isnan(peak[0]), PARTS, AROUND)
    affordable = ledger.affordable(owner, n * parts * split)
    if not affordable.all():
        lacking = ~affordable[owner]
        ledger.blame(owner[verdict & lacking], Status.TOLERANCE_NOT_REACHED)
        split &= ~lacking
    return split, slow


def _at_end(cells: Cells) -> Mask:
    low, high, _, _ = cells.columns
    return (low == 0) | (high == 1)


def _without_error(amount: Amount) -> Amount:
    columns = amount.columns.copy()
    columns[1] = 0
    return amount._replace(columns=columns)


def _join(*cells: Cells) -> Cells:
    return Cells(
        np.concatenate([c.job for c in cells]),
        np.concatenate([c.columns for c in cells], 1),
    )


def _parts(cells: Cells, peak: Array) -> Cells:
    """Equal parts, and three around a peak."""
    around = ~np.isnan(peak[0])
    if not around.any():
        return divided(cells, PARTS)
    parts = _around(cells.take(around), peak[:, around])
    return _join(parts, divided(cells.take(~around), PARTS))


def _around(cells: Cells, peak: Array) -> Cells:
    """What is below a range within each cell, the range, and what is above."""
    low, high, error, slow = cells.columns
    begin, end = low + peak * (high - low)
    edges = np.stack([low, begin, np.where(peak[1] < 1, end, high), high])
    three = _between(cells.job, edges, error, slow)
    return three.take(three.columns[0] < three.columns[1])


def settle(
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
    search.ledger.nodes.append(partial(nodes_of, search, own, cells, variable, n))


def nodes_of(
    search: Search, own: Jobs, cells: Cells, variable: Variable, n: int
) -> Part:
    """Nodes of settled cells, for the plan."""
    nodes, both = kronrod_table(n)
    low, high, _, _ = cells.columns
    half = (high - low) / 2
    positions, slope = variable(own, (low + half) + half * nodes[:, None])
    weights = both[0][:, None] * half
    if slope is not None:
        weights = weights * slope
    # As the search did not evaluate on an end, the plan must not.
    inside = search.inside(own, positions)
    if inside is not None:
        spare = np.where(own.kind == BELOW, -1.0, 0.5)
        positions = np.where(inside, positions, spare)
        weights = np.where(inside, weights, 0.0)
    if variable is not identity:
        low, high = own.low, own.high
    return Part(own.piece, positions, weights, low, high)
