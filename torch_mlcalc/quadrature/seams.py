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
from torch_mlcalc.quadrature.ledger import Amount, factor_between
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Search
from torch_mlcalc.quadrature.variables import Jobs


def seamed(
    search: Search, own: Jobs, cells: Cells, found: Measured, n: int
) -> Measured:
    """What cells hold, with the error of jumps at their seams.

    Args:
        search: The integrals.
        own: The job of each cell.
        cells: The cells.
        found: What they hold.
        n: Number of their nodes.

    Returns:
        The same; cells with such an error are to be cut close to the seam.
    """
    low, high, _, _ = cells.columns
    order = np.lexsort((low, cells.job))
    left, right = order[:-1], order[1:]
    meet = (cells.job[left] == cells.job[right]) & (high[left] == low[right])
    left, right = left[meet], right[meet]
    amount, edges, gap = found.amount, found.edges, margin(n)
    length = gap * (high - low)[:, None] / 2
    if amount.log_unit is None:
        length = length * np.abs(search.unit(own))[:, None]
    one, other = _units(amount, left, right)
    # Between few cells there is a difference that makes a greater error than they have.
    jump = np.abs(edges[1][left] - factor_between(other, one) * edges[0][right])
    some = (jump * length[left] > amount.error[left]).any(1)
    jump *= factor_between(one, other)
    some |= (jump * length[right] > amount.error[right]).any(1)
    if not some.any():
        return found
    left, right = left[some], right[some]
    one, other = _units(amount, left, right)
    factor = factor_between(other, one)
    end, doubt = _edge(edges[:, left], 1)
    begin, unsure = _edge(edges[:, right], 0)
    jump = np.abs(end - factor * begin)
    jump[~(jump > doubt + factor * unsure)] = 0
    columns, peak = amount.columns.copy(), found.peak.copy()
    floor = search.ledger.rounding(amount)
    for cell, around, size in (
        (left, (1 - gap, 1.0), jump),
        (right, (0.0, gap), jump * factor_between(one, other)),
    ):
        news = size * length[cell]
        more = news > np.maximum(columns[1].real, floor)[cell]
        columns[1, cell] = np.where(more, news, columns[1, cell])
        peak[:, cell[more.any(1)]] = np.array(around)[:, None]
    return found._replace(amount=amount._replace(columns=columns), peak=peak)


def _units(amount: Amount, *cells: Index) -> list[Array | None]:
    """Log units of some cells, and of others."""
    unit = amount.log_unit
    return [None if unit is None else unit[some] for some in cells]


def _edge(edges: Values, side: int) -> tuple[Values, Array]:
    """Values at the lower or the upper end of cells, and in how much doubt they are.

    The polynomial through all nodes knows them where it has converged. Where it has
    not, because of what is elsewhere in the cell, the outermost two nodes do.
    """
    doubt = SMOOTH * np.abs(edges[2:4]).max(0)
    line, step = edges[4 + side], np.abs(edges[6 + side])
    near = step < doubt
    return np.where(near, line, edges[side]), np.where(near, step, doubt)
