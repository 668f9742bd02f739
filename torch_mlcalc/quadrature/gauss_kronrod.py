"""Adaptive Gauss-Kronrod: every failing cell of every integral is split at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import final

import numpy as np

from torch_mlcalc.quadrature.cells import (
    Cells,
    Measured,
    cells_of,
    divided,
    joined,
    measure,
    nodes_of,
    parts_around,
    wide,
)
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.gaps import Waiting, gaps, look
from torch_mlcalc.quadrature.ledger import Amount, Ledger, factor_between, join, sum_by
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array, Rule, check_count
from torch_mlcalc.quadrature.seams import seamed
from torch_mlcalc.quadrature.search import Mask, Search, Variable
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

#: A cell of so many numbers is not cut: its parts would have the same points. Cut
#: further, what is left of a pole in float32 between 1 and 2 was claimed as converged.
FINEST = 4

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


def bisect(
    search: Search,
    jobs: Jobs,
    cells: Cells,
    variable: Variable,
    n: int,
    *,
    windows: bool = False,
    measured: Measured | None = None,
    waiting: Waiting | None = None,
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
        waiting: Cells besides, that are finished but for a second look.

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
        found, measured = measured, None
        if waiting is not None:
            cells, found = _looked(search, jobs, waiting, cells, found, variable, n)
            own, waiting = jobs.take(cells.job), None
            owner = search.elements(own)
        amount, broken, peak, *_ = found
        total = ledger.with_expected(owner, amount)
        blind = _blind(owner, total, broken) if looks else None
        if blind is not None:
            blind &= ledger.affordable(owner, n * looks[0] * blind)[owner]
            blind = blind if blind.any() else None
        if blind is not None:
            again = divided(cells.take(blind), looks.pop(0))
            cells = joined(again, cells.take(~blind))
            continue
        found = seamed(search, own, owner, cells, found, total, n)
        if found.amount is not amount:
            amount, broken, peak, *_ = found
            total = ledger.with_expected(owner, amount)
        verdict = judge(ledger, owner, amount, total, broken)
        if not verdict.any():
            settle(search, own, owner, cells, amount, variable, n)
            break
        least = _finest(search, own, cells) if variable is identity else 0.0
        split, slow = _decide(ledger, owner, cells, amount, peak, verdict, least, n)
        keep, waiting = _wait(ledger, owner, cells, found, split, n)
        hand = _hand_back(ledger, owner, cells, found, split & windows, slow)
        if hand.any():
            low, high, _, _ = cells.columns
            handed.append(Jobs(own.piece, own.kind, low, high).take(hand))
            split &= ~hand
        if keep.any():
            # However it came to be kept, too narrow or too expensive to split.
            ledger.blame(owner[keep & broken], Status.NON_FINITE)
            kept = (own.take(keep), owner[keep], cells.take(keep), amount.take(keep))
            settle(search, *kept, variable, n)
        low, high, _, _ = cells.columns
        history = np.max(amount.error, 1), slow
        cells = cells_of(cells.job, low, high, *history).take(split)
        cells = _parts(cells, peak[:, split])
    return handed


def _finest(search: Search, own: Jobs, cells: Cells) -> Array:
    """Lengths from which on cells are worth cutting, as fractions of their pieces."""
    ends, _ = identity(own, cells.columns[:2])
    largest = np.abs(search.pieces.points(own.piece, ends)).max(0)
    unit = search.pieces.of(search.pieces.unit, own.piece)
    finest: Array = FINEST * search.ledger.epsilon * largest / unit
    return finest


def _blind(owner: Index, total: Amount, broken: Mask) -> Mask | None:
    """Cells of integrals that were exactly 0 at every node; None without any."""
    if total.absolute.all():
        return None
    blind: Mask = ~np.logical_or.reduce(total.absolute, 1)[owner] & ~broken
    return blind if blind.any() else None


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
    least: Array | float,
    n: int,
) -> tuple[Mask, Array]:
    """Which of the failing cells to split, and their history."""
    low, high, previous, slow = cells.columns
    error = np.max(amount.error, 1)
    few = 64 * ledger.epsilon * np.maximum(np.abs(low), np.abs(high))
    narrow = high - low <= np.maximum(few, least)
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


def _ends(cells: Cells, peak: Array) -> Mask:
    """Whether what is difficult in a cell may be an end of the piece."""
    low, high, _, _ = cells.columns
    mask: Mask = ((low == 0) | (high == 1)) & np.isnan(peak[0])
    return mask


def _hand_back(
    ledger: Ledger,
    owner: Index,
    cells: Cells,
    found: Measured,
    split: Mask,
    slow: Array,
) -> Mask:
    """Which cells go back as windows: slow ones at an end. They are expected later."""
    hand = split & _ends(cells, found.peak)
    inside = np.bincount(owner, split & ~hand, ledger.elements)[owner]
    hand &= slow >= np.where(inside, PATIENCE, EAGER)
    if hand.any():
        amount = found.amount.take(hand)
        ledger.expected.append((owner[hand], _without_error(amount)))
    return hand


def _wait(
    ledger: Ledger, owner: Index, cells: Cells, found: Measured, split: Mask, n: int
) -> tuple[Mask, Waiting | None]:
    """Which cells to keep, and which to look at once more.

    Those are the wide ones of a range in the inside of which others must be cut. What
    is difficult only at an end says nothing about the rest.

    Returns:
        Both; None for no cells.
    """
    keep = ~split
    if not found.values:
        return keep, None
    inside = split & ~_ends(cells, found.peak)
    wait = keep & ~found.broken & wide(cells)
    wait &= np.bincount(cells.job, inside)[cells.job] > 0
    if wait.any():
        parts = np.where(np.isnan(found.peak[0]), PARTS, AROUND)
        points = n * parts * split + len(gaps(n).middles) * wait
        wait &= ledger.affordable(owner, points)[owner]
    if not wait.any():
        return keep, None
    index = np.flatnonzero(wait)
    low, high, _, _ = cells.columns
    # As if nothing had been cut off, so that they are not looked at once more.
    again = cells_of(cells.job, low, high, np.inf, 0.0).take(index)
    amount, values = found.amount.take(index), found.values_of(index)
    return keep & ~wait, Waiting(again, amount, values)


def _looked(
    search: Search,
    jobs: Jobs,
    waiting: Waiting,
    cells: Cells,
    found: Measured,
    variable: Variable,
    n: int,
) -> tuple[Cells, Measured]:
    """Settle the cells between whose nodes nothing is new, and add the others."""
    amount, around = look(search, jobs.take(waiting.cells.job), waiting, variable, n)
    odd = ~np.isnan(around[0])
    if not odd.all():
        fine = waiting.cells.take(~odd)
        own = jobs.take(fine.job)
        owner = search.elements(own)
        settle(search, own, owner, fine, amount.take(~odd), variable, n)
    if not odd.any():
        return cells, found
    odd_cells = waiting.cells.take(odd)
    broken = np.zeros(odd_cells.job.size, bool)
    # Their seams were compared when they were measured.
    edges = np.full((len(found.edges), broken.size, *found.edges.shape[2:]), np.nan)
    return joined(cells, odd_cells), Measured(
        join([found.amount, amount.take(odd)]),
        np.concatenate([found.broken, broken]),
        np.concatenate([found.peak, around[:, odd]], 1),
        found.values,
        np.concatenate([found.edges, edges], 1),
    )


def _without_error(amount: Amount) -> Amount:
    columns = amount.columns.copy()
    columns[1] = 0
    return amount._replace(columns=columns)


def _parts(cells: Cells, peak: Array) -> Cells:
    """Equal parts, and three around a peak."""
    around = ~np.isnan(peak[0])
    if not around.any():
        return divided(cells, PARTS)
    parts = parts_around(cells.take(around), peak[:, around])
    return joined(parts, divided(cells.take(~around), PARTS))


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
