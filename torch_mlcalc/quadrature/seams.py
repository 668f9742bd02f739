"""Jumps at the seams of cells, where no node of either cell meets them.

The outermost nodes keep a distance from the ends of a cell, 0.1 % of it with 21 nodes.
Of a jump that close to an end a cell sees nothing: what failed before it was cut looks
finished afterwards, on both sides of the cut. So the polynomials through the nodes of
neighbours are compared at the end that they share. Where they differ, each has the
error that a jump between its end and its outermost node would make.
"""

from __future__ import annotations

import numpy as np

from torch_mlcalc.quadrature.cells import Cells, Measured
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.gaps import SMOOTH
from torch_mlcalc.quadrature.kronrod import margin
from torch_mlcalc.quadrature.ledger import Amount, Ledger
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Mask, Search
from torch_mlcalc.quadrature.variables import Jobs

#: A ratio is at most e to this power, whose square is a number still.
MOST = 300.0


def seamed(
    search: Search,
    own: Jobs,
    owner: Index,
    cells: Cells,
    found: Measured,
    total: Amount,
    n: int,
) -> Measured:
    """What cells hold, with the error of jumps at their seams.

    Args:
        search: The integrals.
        own: The job of each cell.
        owner: Its integral.
        cells: The cells.
        found: What they hold.
        total: What the integrals add up to.
        n: Number of their nodes.

    Returns:
        The same; cells with such an error are to be cut close to the seam.
    """
    low, high, _, _ = cells.columns
    if not low.any():
        return found
    # Numbers of jobs leave places enough digits, and most cells are in order.
    order = np.argsort(cells.job + low, kind="stable")
    left, right = order[:-1], order[1:]
    meet = (cells.job[left] == cells.job[right]) & (high[left] == low[right])
    left, right = left[meet], right[meet]
    amount, edges, (gap, _) = found.amount, found.edges, margin(n)
    length = gap * (high - low)[:, None] / 2
    if amount.log_unit is None:
        length = length * np.abs(search.unit(own))[:, None]
    least = _least(search.ledger, owner, amount, total)
    to_left, to_right = _factors(amount, left, right)
    jump = np.abs(edges[1][left] - to_left * edges[0][right])
    fine = jump * length[left] > least[left]
    other = to_right * jump * length[right] > least[right]
    some = np.flatnonzero(np.logical_or.reduce(fine | other, 1))
    if not some.size:
        return found
    left, right = left[some], right[some]
    to_left, to_right = _factors(amount, left, right)
    end, doubt = _edge(edges[:, left], 1, fine[some], n)
    begin, unsure = _edge(edges[:, right], 0, other[some], n)
    jump = np.abs(end - to_left * begin)
    jump[~(jump > doubt + to_left * unsure)] = 0
    columns, peak = amount.columns.copy(), found.peak.copy()
    for cell, around, size in (
        (left, (1 - gap, 1.0), jump),
        (right, (0.0, gap), to_right * jump),
    ):
        news = size * length[cell]
        more = news > np.maximum(least, columns[1].real)[cell]
        columns[1, cell] = np.where(more, news, columns[1, cell])
        peak[:, cell[more.any(1)]] = np.array(around)[:, None]
    return found._replace(amount=amount._replace(columns=columns), peak=peak)


def _least(ledger: Ledger, owner: Index, amount: Amount, total: Amount) -> Array:
    """Error of each cell that is of interest: more than its own, and than its share."""
    share = ledger.allowed(total)[owner]
    share /= 2 * np.bincount(owner, minlength=ledger.elements)[owner, None]
    if total.log_unit is not None and amount.log_unit is not None:
        share = share * _ratio(total.log_unit[owner], amount.log_unit)
    least: Array = np.maximum(share, amount.error)
    return least


def _factors(amount: Amount, left: Index, right: Index) -> list[Array | float]:
    """What turns values in the log units of cells into those of others, and back."""
    unit = amount.log_unit
    if unit is None:
        return [1.0, 1.0]
    factor = _ratio(unit[left], unit[right])
    return [1 / factor, factor]


def _ratio(unit: Array, other: Array) -> Array:
    """Ratio of two log units, within what a number can be."""
    ratio: Array = np.exp(np.clip(np.nan_to_num(unit - other), -MOST, MOST))
    return ratio


def _edge(edges: Values, side: int, fine: Mask, n: int) -> tuple[Values, Array]:
    """Values at the lower or the upper end of cells, and in how much doubt they are."""
    # The polynomial through all nodes knows them where it has converged. Where it has
    # not, because of what is elsewhere in the cell, the outermost two nodes do.
    gap, distance = margin(n)
    first, second = edges[[7, 6]] if side else edges[[4, 5]]
    step = first - second
    rest = SMOOTH * np.abs(edges[2:4]).max(0)
    ends = np.where(fine, edges[side], first + step * gap / distance)
    return ends, np.where(fine, rest, np.abs(step))
