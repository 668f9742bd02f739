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
            distances from the mean; ``(2 n + 6, n)``.
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
    """Of each cell, as if its half length were 1; see Products and cell_table."""

    value: list[float]
    errors: list[float]
    begins: list[float]
    ends: list[float]
    odd: list[float]
    even: list[float]
    absolute: list[float]
    spreads: list[float]


def sums_of(values: Array, n: int) -> Sums | None:
    """What values ``(n, count)`` add up to; None if that is nothing, or not finite."""
    _, _, _, apply, add = products(n)
    product = apply.dot(values)
    absolute, spreads = add.dot(np.abs(product[6:])).tolist()
    if not 0 < sum(absolute) < math.inf:
        return None
    value, errors, begins, ends, odd, even = product[:6].tolist()
    return Sums(value, errors, begins, ends, odd, even, absolute, spreads)


def rows_of(
    one: Single, cells: list[Cell], sums: Sums, values: Array, least: float
) -> list[Row]:
    """What each cell holds, jumps between two included that make a ``least`` error."""
    unit, sign, rows = one.unit, one.sign, []
    floor = ROUNDING * one.search.ledger.epsilon
    end, seams, gap = sums.begins[0], [], margin(len(values))[0] / 2 * unit
    for i, (cell, value, error, begin, after, odd, _, size, spread) in enumerate(
        zip(cells, *sums, strict=False)
    ):
        low, high, previous, _ = cell
        length, error = high - low, abs(error)
        if abs(end - begin) * gap * length > least:
            seams.append(i)
        end = after
        # See amount_of.
        if error <= floor * size and previous < math.inf:
            error = abs(odd)
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
    for i in seams:
        _look_at_seam(rows, i, sums, values, gap, least)
    return rows


def _look_at_seam(
    rows: list[Row],
    i: int,
    sums: Sums,
    values: Array,
    factor: float,
    least: float,
) -> None:
    """Add the error of a jump where cells ``i - 1`` and ``i`` meet; see seamed."""
    if rows[i - 1][0][1] != rows[i][0][0]:
        return
    gap, distance = margin(len(values))
    left, right = (i - 1, sums.ends, -1, -2), (i, sums.begins, 0, 1)
    jump, found = abs(sums.ends[i - 1] - sums.begins[i]) * factor, []
    for k, at, outer, inner in (left, right):
        (low, high, _, _), _, error, *_ = rows[k]
        step = values.item(outer, k) - values.item(inner, k)
        end, doubt = values.item(outer, k) + step * gap / distance, abs(step)
        if jump * (high - low) > error:
            end, doubt = at[k], SMOOTH * max(abs(sums.odd[k]), abs(sums.even[k]))
        found.append((end, doubt))
    (end, doubt), (begin, unsure) = found
    if not abs(end - begin) > doubt + unsure:
        return
    for k, around in ((i - 1, (1 - gap, 1.0)), (i, (0.0, gap))):
        cell, value, error, size, _, column = rows[k]
        news = abs(end - begin) * factor * (cell[1] - cell[0])
        if news > max(error, least):
            rows[k] = cell, value, news, size, around, column


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
