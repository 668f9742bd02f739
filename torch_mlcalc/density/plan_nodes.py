"""The nodes of a normaliser as what they are: cells of a Kronrod rule, and even runs.

A plan says where its nodes are and what they weigh. For the distribution function they
must be known in their order, in the variable that they were chosen in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.density import ranges
from torch_mlcalc.density.ranges import Range
from torch_mlcalc.quadrature import placement
from torch_mlcalc.quadrature.double_exponential import FIRST_STEP
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.line_plan import LinePlan
from torch_mlcalc.quadrature.pieces import Index, Pieces
from torch_mlcalc.quadrature.rules import Array, FixedRule, table

Mask = npt.NDArray[np.bool_]

#: How far in units of their distance nodes may be from where they should be.
SLACK = 0.05

#: Nodes of a run at most: what makes series of them has five times the square of that.
LONGEST = 1025


class Columns(NamedTuple):
    """Nodes of some cells or runs, a column for each.

    Attributes:
        element: The density of each column, ``(m,)``.
        ranges: What it is a part of.
        low: Where it begins in the variable of the range: a cell there, a run with its
            first node. ``(m,)``.
        high: Where it ends.
        x: Nodes, ``(k, m)``.
        step: Distance of the nodes of a run; 0 of Kronrod cells.
        epsilon: Relative rounding of the nodes.
        rule: Of cells the fixed rule whose nodes they have; None for Kronrod's.
    """

    element: Index
    ranges: Range
    low: Array
    high: Array
    x: Array
    step: float
    epsilon: float
    rule: FixedRule | None = None

    def take(self, logs: Array, index: Mask) -> tuple[Columns, Array]:
        """Some of the columns and values at their nodes, without rows nobody needs."""
        part = Columns(
            self.element[index],
            self.ranges.take(index),
            self.low[index],
            self.high[index],
            self.x[:, index],
            *self[5:],
        )
        rows = self.inside[:, index].any(1)
        return part._replace(x=part.x[rows]), logs[np.ix_(rows, index)]

    @property
    def first(self) -> int:
        """Number of the first node of all runs."""
        return round(self.low.min() / self.step)

    @property
    def v(self) -> Array:
        """Nodes in the variable, ``(k, m)`` or, of runs, ``(k, 1)``."""
        k = len(self.x)
        if self.step:
            steps: Array = (self.first + np.arange(k))[:, None] * self.step
            return steps
        nodes = kronrod_table(k)[0] if self.rule is None else table(self.rule)[0]
        half = (self.high - self.low) / 2
        cells: Array = (self.low + half) + half * nodes[:, None]
        return cells

    @property
    def inside(self) -> Mask:
        """Which nodes belong to their column; others repeat one that does."""
        if not self.step:
            return np.ones(self.x.shape, bool)
        v, slack = self.v, SLACK * self.step
        mask: Mask = (v > self.low - slack) & (v < self.high + slack)
        return mask


def columns_of(
    plan: LinePlan, pieces: Pieces, epsilon: float, wanted: Mask
) -> list[Columns] | None:
    """The nodes of a plan, those of equal kind, number or distance together.

    Args:
        plan: The plan.
        pieces: The pieces that it has been made on.
        epsilon: Relative rounding of the nodes.
        wanted: Which densities there are, ``(elements,)``.

    Returns:
        The columns; None if some are of another kind, such as those of a Hermite rule,
        or runs are too long.
    """
    found: list[Columns] = []
    for cells in plan.cells:
        k = cells.positions.shape[0]
        positions, weights = (read(t).reshape(k, -1) for t in cells[:2])
        piece, low, high = (read(t).ravel() for t in cells[2:])
        piece = piece.astype(int)
        some = (weights != 0).any(0) & wanted[piece % pieces.elements]
        if not some.any():
            continue
        piece = piece[some]
        part = (positions[:, some], low[some], high[some])
        columns = _runs(pieces, piece, *part, weights[:, some] != 0)
        columns = columns or _cells(pieces, piece, *part)
        if columns is None or max(len(one.x) for one in columns) > LONGEST:
            return None
        found += [one._replace(epsilon=epsilon) for one in columns]
    return found


def _cells(
    pieces: Pieces, piece: Index, positions: Array, low: Array, high: Array
) -> list[Columns] | None:
    """Kronrod cells, if all are such."""
    k = len(positions)
    if k < 5 or k % 2 == 0:
        return None
    nodes = kronrod_table(k)[0][:, None]
    finite = pieces.kind[piece] == placement.FINITE
    span = _ranges(pieces, piece, np.where(finite, np.nan, 0.0), high)
    v = np.where(finite, np.where(positions >= 0, positions, 1 + positions), 0.0)
    v = np.where(finite, v, _variable(span, positions))
    if not finite.all():
        # Of a cell in the variable of an unbounded range the nodes tell the ends.
        half = (v[-1] - v[0]) / (nodes[-1] - nodes[0])
        middle = (v[-1] + v[0]) / 2
        low = np.where(finite, low, middle - half)
        high = np.where(finite, high, middle + half)
    half = (high - low) / 2
    gap = half * (nodes[1] - nodes[0])
    if not (np.abs(low + half + half * nodes - v) <= SLACK * np.abs(gap)).all():
        return None
    element = piece % pieces.elements
    low, high = np.minimum(low, high), np.maximum(low, high)
    x = np.sort(pieces.points(piece, positions), axis=0)
    return [Columns(element, span, low, high, x, 0.0, 0.0)]


def _runs(
    pieces: Pieces, piece: Index, positions: Array, low: Array, high: Array, used: Mask
) -> list[Columns] | None:
    """Evenly spaced nodes of a double-exponential rule, by their distance."""
    span = _ranges(pieces, piece, low, high)
    with np.errstate(all="ignore"):
        v = _in_window(span, positions, low, high)
    x, count = pieces.points(piece, positions), used.sum(0)
    first, last = used.argmax(0), len(used) - 1 - used[::-1].argmax(0)
    column = np.arange(piece.size)
    ends = np.sort(np.stack([v[first, column], v[last, column]]), axis=0)
    with np.errstate(all="ignore"):
        step = (ends[1] - ends[0]) / (count - 1)
        level = np.rint(np.log2(FIRST_STEP / step))
    step = FIRST_STEP / 2**level
    if not ((count > 1) & (level >= 0) & (level < 30)).all():
        return None
    place = np.rint(v / step)
    if (used & ~(np.abs(v / step - place) <= SLACK)).any():
        return None
    found = []
    for one in np.unique(step):
        (some,) = np.nonzero(step == one)
        begin, end = (np.rint(ends[i, some] / one).astype(int) for i in (0, 1))
        steps = begin.min() + np.arange(end.max() - begin.min() + 1)
        spare = x[first[some], some]
        grid = np.tile(spare, (steps.size, 1))
        here = used[:, some]
        slot = (place[:, some][here] - steps[0]).astype(int)
        grid[slot, np.nonzero(here)[1]] = x[:, some][here]
        element = piece[some] % pieces.elements
        own = span.take(some)
        edges = begin * one, end * one
        found.append(Columns(element, own, *edges, grid, float(one), 0.0))
    return found


def _ranges(pieces: Pieces, piece: Index, low: Array, high: Array) -> Range:
    """The ranges of cells on whole pieces (``low`` is nan), or of runs on windows."""
    kind = pieces.kind[piece]
    finite, cell = kind == placement.FINITE, np.isnan(low)
    window = finite & ~cell
    to = np.full(kind.shape, ranges.WHOLE)
    to[kind == placement.ABOVE], to[kind == placement.BELOW] = (
        ranges.ABOVE,
        ranges.BELOW,
    )
    to[finite] = np.where(cell[finite], ranges.PLAIN, ranges.TANH)
    unit, (begin, end) = pieces.unit[piece], pieces.bounds[:, piece]
    anchor = pieces.anchors[0, piece]
    begin, end = (np.where(finite, t, anchor) for t in (begin, end))
    length = np.where(window, np.where(cell, 1.0, high - low), 1.0) * unit
    start = np.where(window & (low > 0), begin + unit * low, begin)
    stop = np.where(window & (high < 1), end - unit * (1 - high), end)
    return Range(to, start, stop, length)


def _variable(span: Range, positions: Array) -> Array:
    """The variable at positions of unbounded pieces, in their units."""
    with np.errstate(all="ignore"):
        inner = np.where(
            span.kind == ranges.WHOLE,
            np.arcsinh(positions),
            np.where(span.kind == ranges.BELOW, -1, 1) * np.log(np.abs(positions)),
        )
        variable: Array = np.arcsinh(2 / math.pi * inner)
    return variable


def _in_window(span: Range, positions: Array, low: Array, high: Array) -> Array:
    """The variable at positions of windows of finite pieces, and of unbounded ones."""
    counted = positions >= 0
    left = np.where(counted, positions - low, (1 - low) + positions)
    right = np.where(counted, high - positions, -positions - (1 - high))
    inner = np.arcsinh((np.log(left) - np.log(right)) / math.pi)
    return np.where(span.kind == ranges.TANH, inner, _variable(span, positions))
