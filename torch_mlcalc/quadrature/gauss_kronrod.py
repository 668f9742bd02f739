"""Adaptive Gauss-Kronrod: every failing cell of every integral is split at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.ledger import Amount, Ledger, unlogged
from torch_mlcalc.quadrature.pieces import Index, Part
from torch_mlcalc.quadrature.placement import BELOW
from torch_mlcalc.quadrature.rules import Array, Rule, check_count
from torch_mlcalc.quadrature.search import Search, Variable
from torch_mlcalc.quadrature.variables import Jobs, identity

Mask = npt.NDArray[Any]

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


@dataclass
class Cells:
    """Ranges of the variable of a job each, with their history."""

    job: Index
    low: Array
    high: Array
    previous: Array  # error of the cell this is half of
    slow: Index  # how many times in a row halving helped too little, at an end

    def take(self, index: Mask) -> Cells:
        """Some of the cells."""
        return Cells(
            self.job[index],
            self.low[index],
            self.high[index],
            self.previous[index],
            self.slow[index],
        )


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
        owner = search.elements(jobs.take(cells.job))
        amount, broken, narrow = _measure(search, jobs, cells, variable, n)
        total = ledger.with_expected(owner, amount)
        blind = (total.absolute == 0).all(1)[owner] & ~broken
        if looks and blind.any():
            cells = _join(divided(cells.take(blind), looks.pop(0)), cells.take(~blind))
            continue
        looks = []
        verdict = judge(ledger, owner, amount, total, broken)
        error = amount.error.max(1)
        slow = _count_slow(cells, error, variable)
        hopeless = verdict & narrow
        stuck = hopeless & (error > POLE * cells.previous)
        ledger.blame(owner[stuck], Status.SUSPECTED_DIVERGENT)
        split = verdict & ~narrow & _affordable(ledger, owner, verdict, n)
        hand = split & (slow >= 2) if windows else np.zeros_like(split)
        split &= ~hand
        if hand.any():
            handed.append(_windows(jobs, cells.take(hand)))
            ledger.expected.append((owner[hand], _without_error(amount.take(hand))))
        keep = ~split & ~hand
        # However it came to be kept, too narrow or too expensive to split.
        ledger.blame(owner[keep & broken], Status.NON_FINITE)
        ledger.add(owner[keep], amount.take(keep))
        _book(search, jobs, cells.take(keep), variable, n)
        cells = _halves(cells.take(split), error[split], slow[split])
    return handed


def _measure(
    search: Search, jobs: Jobs, cells: Cells, variable: Variable, n: int
) -> tuple[Amount, Mask, Mask]:
    """Integral and error of each cell; whether it is broken, or too narrow to split."""
    nodes, kronrod, gauss = kronrod_table(n)
    half = (cells.high - cells.low) / 2
    t = (cells.low + half) + half * nodes[:, None]
    sample = search.sample(jobs.take(cells.job), t, variable)
    values, log_unit = unlogged(sample.values, log=search.ledger.log)
    both = np.tensordot(np.stack([kronrod, kronrod - gauss]), values, 1)
    both = both * half[:, None]
    mean = both[0] / np.where(half == 0, 1, 2 * half)[:, None]
    absolute = np.tensordot(kronrod, np.abs(values), 1) * half[:, None]
    spread = np.tensordot(kronrod, np.abs(values - mean), 1) * half[:, None]
    error = np.abs(both[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        sharp = spread * np.minimum(1, (200 * error / spread) ** 1.5)
    error = np.where(spread > 0, sharp, error)
    amount = Amount(both[0], error, absolute, log_unit)
    amount.error = np.maximum(error, search.ledger.rounding(amount))
    broken: Mask = ~np.all(sample.finite, axis=0)
    # A broken cell claims nothing: its error is all that it could hold.
    amount.error[broken] = np.maximum(amount.error, absolute)[broken]
    middle = np.maximum(np.abs(cells.low), np.abs(cells.high))
    narrow = half <= 32 * search.ledger.epsilon * middle
    return amount, broken, narrow


def judge(
    ledger: Ledger, owner: Index, amount: Amount, total: Amount, broken: Mask
) -> Mask:
    """Which cells must be split: those above their share of what is still allowed."""
    allowed = ledger.allowed(total)
    with np.errstate(invalid="ignore"):
        factor = np.exp(amount.log_unit - total.log_unit[owner])
    error = np.where(np.isneginf(amount.log_unit), 0, amount.error * factor)
    count = np.bincount(owner, minlength=ledger.elements)
    open_error = np.zeros_like(total.error)
    np.add.at(open_error, owner, error)
    settled = total.error - open_error
    share = np.maximum(allowed - settled, 0)[owner] / (2 * count[owner, None])
    limited = amount.error <= ledger.rounding(amount)
    converged: Mask = np.all(total.error <= allowed, axis=1)[owner]
    above: Mask = np.any((error > share) & ~limited, axis=1)
    return (~converged & above) | broken


def _count_slow(cells: Cells, error: Array, variable: Variable) -> Index:
    at_end = (cells.low == 0) | (cells.high == 1)
    slow = at_end & (error > SLOW * cells.previous) & (cells.previous < np.inf)
    return np.where(slow, cells.slow + 1, 0)


def _affordable(ledger: Ledger, owner: Index, verdict: Mask, n: int) -> Mask:
    """Whether an integral can pay for all of its splits."""
    cost = 2 * n * np.bincount(owner[verdict], minlength=ledger.elements)
    short = ledger.n_evals + cost > ledger.max_evals
    ledger.blame(np.unique(owner[verdict & short[owner]]), Status.TOLERANCE_NOT_REACHED)
    return ~short[owner]


def _windows(jobs: Jobs, cells: Cells) -> Jobs:
    piece = jobs.piece[cells.job]
    return Jobs(piece, jobs.kind[cells.job], cells.low, cells.high)


def _without_error(amount: Amount) -> Amount:
    return Amount(
        amount.value, np.zeros_like(amount.error), amount.absolute, amount.log_unit
    )


def _join(one: Cells, other: Cells) -> Cells:
    return Cells(
        np.concatenate([one.job, other.job]),
        np.concatenate([one.low, other.low]),
        np.concatenate([one.high, other.high]),
        np.concatenate([one.previous, other.previous]),
        np.concatenate([one.slow, other.slow]),
    )


def _halves(cells: Cells, error: Array, slow: Index) -> Cells:
    middle = (cells.low + cells.high) / 2
    return _join(
        Cells(cells.job, cells.low, middle, error, slow),
        Cells(cells.job, middle, cells.high, error, slow),
    )


def _book(search: Search, jobs: Jobs, cells: Cells, variable: Variable, n: int) -> None:
    """Write the nodes of settled cells down for the plan."""
    if not cells.job.size:
        return
    nodes, kronrod, _ = kronrod_table(n)
    half = (cells.high - cells.low) / 2
    own = jobs.take(cells.job)
    positions, slope = variable(own, (cells.low + half) + half * nodes[:, None])
    weights = kronrod[:, None] * half * slope
    # As the search did not evaluate on an end, the plan must not.
    inside = search.inside(own, positions)
    spare = np.where(own.kind == BELOW, -1.0, 0.5)
    positions = np.where(inside, positions, spare)
    weights = np.where(inside, weights, 0.0)
    low, high = (cells.low, cells.high) if variable is identity else (own.low, own.high)
    search.ledger.parts.append(Part(own.piece, positions, weights, low, high))
