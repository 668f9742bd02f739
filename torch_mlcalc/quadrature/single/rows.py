"""Cells of a single integral: their nodes, and what they hold, in plain numbers."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cells import WIDE
from torch_mlcalc.quadrature.gaps import SMOOTH, gaps
from torch_mlcalc.quadrature.gauss_kronrod import PARTS
from torch_mlcalc.quadrature.kronrod import cell_table, kronrod_table, margin
from torch_mlcalc.quadrature.ledger import ROUNDING
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.sampling import Place, Single
from torch_mlcalc.quadrature.spikes import SPIKE, spike

#: Lower and upper end of a cell, error of the cell it is a part of, times in a row that
#: dividing helped too little: the columns of Cells.
Cell = tuple[float, float, float, float]

#: Values of a level, and which of their columns is that of a cell.
Column = tuple[npt.NDArray[Any], int]

#: A cell with its value, error and absolute value, the range around its peak, and the
#: integrand at its nodes if it is wide.
Row = tuple[Cell, float, float, float, tuple[float, float] | None, Column | None]


#: The whole piece, which no cell was divided for.
WHOLE: Cell = (0.0, 1.0, math.inf, 0.0)


class Products(NamedTuple):
    """The rule as matrices, so that few products do what a level needs.

    Attributes:
        first: From the ends, as Single has them, and the length of a piece to the nodes
            of the whole and of its parts, ``(5 n, 3)``.
        place: From middle and half length of a cell to its nodes, ``(n, 2)``.
        middle: The same to the middles of its gaps, ``(k, 2)``.
        apply: From values to what :func:`cell_table` has, the values and their
            distances from the mean; ``(2 n + 10, n)``.
        add: From the absolute values of the last two to their integrals, ``(2, 2 n)``.
    """

    first: Array
    place: Array
    middle: Array
    apply: Array
    add: Array


@lru_cache(maxsize=32)
def products(n: int) -> Products:
    """The matrices of the rule with so many nodes."""
    nodes, both = kronrod_table(n)
    centre, middles = np.eye(n) - both[0] / 2, gaps(n).middles
    half = np.array([0.5] + [0.5 / PARTS] * PARTS)
    middle = np.append(0.5, (np.arange(PARTS) + 0.5) / PARTS)
    # Counted from the nearer end, as by _points.
    late = middle > 0.5
    place = middle - late + half * nodes[:, None]
    ends = np.broadcast_to([~late, late], (n, 2, 1 + PARTS))
    return Products(
        np.stack([ends[:, 0], ends[:, 1], place], 2).reshape(-1, 3),
        np.stack([np.ones(n), nodes], 1),
        np.stack([np.ones(len(middles)), middles], 1),
        np.concatenate([cell_table(n), np.eye(n), centre]),
        np.kron(np.eye(2), both[0]),
    )


#: Cells of one level up to which products with matrices are faster than arithmetic on
#: all values, and are done on one thread (see :func:`host.contract`).
FEW = 64


def points_of(one: Single, cells: list[Cell], place: Array) -> Array:
    """Nodes of the cells, or points between them, ``(n, count)``."""
    middles, halves, unit, at = [], [], one.unit, one.place
    for low, high, _, _ in cells:
        half = (high - low) / 2
        middle = low + half
        # Counted from the nearer end, as the batch does.
        if middle > 0.5:
            middles.append(at.negative + unit * (middle - 1))
        else:
            middles.append(at.positive + unit * middle)
        halves.append(unit * half)
    return at.rounded(place.dot(np.array([middles, halves])))


@lru_cache(maxsize=256)
def first_points(place: Place, n: int) -> Array | None:
    """Nodes of a piece and of its parts, ``(5 n,)``; None if some fall on an end."""
    anchors = np.array([place.positive, place.negative, place.unit])
    points = place.rounded(products(n).first.dot(anchors))
    lower, upper = place.range()
    if not (lower < points[1] and points[-1] < upper):
        return None
    points.setflags(write=False)
    return points


class Sums(NamedTuple):
    """Of each cell, as if its half length were 1; see Products."""

    value: list[float]
    errors: list[float]
    absolute: list[float]
    spreads: list[float]
    edges: list[list[float]]

    def of_parts(self) -> Sums:
        """Those of all cells but the first."""
        value, errors, absolute, spreads, edges = self
        parts = [column[1:] for column in (value, errors, absolute, spreads)]
        return Sums(*parts, [row[1:] for row in edges])


def sums_of(values: Array, n: int) -> Sums | None:
    """What values ``(n, count)`` add up to; None if that is nothing, or not finite."""
    _, _, _, apply, add = products(n)
    product = apply.dot(values)
    absolute, spreads = add.dot(np.abs(product[10:])).tolist()
    if not 0 < sum(absolute) < math.inf:
        return None
    value, errors, *edges = product[:10].tolist()
    return Sums(value, errors, absolute, spreads, edges)


def rows_of(one: Single, cells: list[Cell], sums: Sums, values: Array) -> list[Row]:
    """What each cell holds."""
    unit, sign, rows = one.unit, one.sign, []
    floor = ROUNDING * one.search.ledger.epsilon
    for i, (cell, value, error, size, spread, odd) in enumerate(
        zip(cells, *sums[:4], sums.edges[2], strict=False)
    ):
        low, high, previous, _ = cell
        length, error = high - low, abs(error)
        # To what is odd about the middle of a cell both rules say the same.
        if error <= floor * size and previous < math.inf:
            error = max(error, abs(odd))
        if spread > 0:
            # QUADPACK's estimate from the difference of the two rules.
            ratio = 200 * error / spread
            error = spread * ratio * math.sqrt(ratio) if ratio < 1 else spread
        peak = spike(values[:, i], size) if error >= SPIKE * size else None
        column = (values, i) if length > WIDE and previous < math.inf else None
        factor = length / 2 * unit
        size, error = size * factor, error * factor
        # Not by max, which takes a sixth of the time of a cell.
        error = error if error > floor * size else floor * size
        rows.append((cell, value * factor * sign, error, size, peak, column))
    if len(rows) > 1:
        _add_seams(one, rows, sums.edges, len(values))
    return rows


def _add_seams(one: Single, rows: list[Row], edges: list[list[float]], n: int) -> None:
    """Add the error of jumps where two cells meet; see :func:`seamed`."""
    begin, end, *_ = edges
    gap, floor = margin(n), ROUNDING * one.search.ledger.epsilon
    factor = gap / 2 * one.unit
    for i in range(1, len(rows)):
        (low, seam, _, _), _, error, _, _, _ = rows[i - 1]
        (start, high, _, _), _, other, _, _, _ = rows[i]
        jump = abs(end[i - 1] - begin[i]) * factor
        # That no cell has a greater error of takes no more time than this.
        if not (jump * (seam - low) > error or jump * (high - start) > other):
            continue
        (at, unsure), (then, doubt) = _edge(edges, i - 1, 1), _edge(edges, i, 0)
        jump = abs(at - then) * factor
        if seam != start or not abs(at - then) > unsure + doubt:
            continue
        for k, around in ((i - 1, (1 - gap, 1.0)), (i, (0.0, gap))):
            cell, value, error, size, _, column = rows[k]
            news = jump * (cell[1] - cell[0])
            if news > max(error, floor * size):
                rows[k] = cell, value, news, size, around, column


def _edge(edges: list[list[float]], i: int, side: int) -> tuple[float, float]:
    """Value at an end of a cell, and in how much doubt it is; see :func:`seamed`."""
    odd, even, line, step = (edges[k][i] for k in (2, 3, 4 + side, 6 + side))
    doubt, step = SMOOTH * max(abs(odd), abs(even)), abs(step)
    return (line, step) if step < doubt else (edges[side][i], doubt)


#: Where a cell is cut, and its end, as fractions of it.
CUTS = [i / PARTS for i in range(1, PARTS + 1)]


def parts_of(row: Row, slow: float) -> list[Cell]:
    """Equal parts of a cell, or those around a peak, which inherit its history."""
    (low, high, _, _), _, error, _, peak, _ = row
    width = high - low
    if peak:
        begin, end = peak
        edges = [low + begin * width, low + end * width if end < 1 else high, high]
    else:
        edges = [low + cut * width for cut in CUTS]
    cells = []
    for edge in edges:
        if low < edge:
            cells.append((low, edge, error, slow))
        low = edge
    return cells
