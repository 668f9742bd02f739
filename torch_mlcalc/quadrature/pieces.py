"""Pieces of integrals on the host: what adaptive rules divide and measure.

A *piece* is the part of one integral between two neighbouring limits or breakpoints.
Adaptive rules look at float64 numbers and decide in numpy; only the integrand runs on
the device, once per level for all pieces that still need it.

A position ``p`` of a piece is canonical, so that limits may move afterwards: it stands
for ``lower + unit * p`` where ``p >= 0`` and for ``upper + unit * p`` where ``p < 0``.
The unit is the length of a finite piece, else the scale of the domain; on the whole
line both anchors are its location. Positions near either end keep all their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE, WHOLE
from torch_mlcalc.quadrature.rules import Array

Index = npt.NDArray[Any]


def chosen(
    columns: npt.NDArray[Any], index: Index | slice, axis: int = -1
) -> npt.NDArray[Any]:
    """Some columns; brackets with a mask or with numbers take five times as long."""
    if isinstance(index, slice):
        return columns[(slice(None),) * (axis % columns.ndim) + (index,)]
    if index.dtype == bool:
        index = np.flatnonzero(index)
    return columns.take(index, axis)


class Numbers(NamedTuple):
    """A single piece in plain numbers; see :class:`Pieces`."""

    lower: float
    upper: float
    positive: float
    negative: float
    unit: float
    sign: float
    kind: int


class Pieces(NamedTuple):
    """The pieces of a batch of integrals, all of one breakpoint after another.

    Attributes:
        bounds: Lower and upper end, which may be infinite, ``(2, pieces)``.
        anchors: What non-negative and negative positions count from, ``(2, pieces)``.
        unit: Length of a finite piece, scale of an infinite one, ``(pieces,)``.
        sign: -1 where the limits were reversed, 0 where the piece is empty.
        kind: ``FINITE``, ``BELOW``, ``ABOVE`` or ``WHOLE``.
        elements: Number of integrals; piece ``i`` belongs to ``i % elements``.
        numbers: Of a single piece made from numbers, what :func:`numbers_of` says.
    """

    bounds: Array
    anchors: Array
    unit: Array
    sign: Array
    kind: npt.NDArray[Any]
    elements: int
    numbers: Numbers | None = None

    def of(self, column: npt.NDArray[Any], piece: Index) -> npt.NDArray[Any]:
        """A column for some pieces; a single piece needs no look-up."""
        return column if column.shape[-1] == 1 else chosen(column, piece)

    def points(self, piece: Index, positions: Array) -> Array:
        """Points ``(k, m)`` of canonical positions ``(k, m)`` in pieces ``(m,)``."""
        # The positions of a column are in the order of the piece, so that in most of
        # them, all but a cell around the middle, they count from the same end.
        anchors = self.of(self.anchors, piece)
        begin, end = positions[0] >= 0, positions[-1] >= 0
        points: Array = self.of(self.unit, piece) * positions
        mixed = np.flatnonzero(begin != end)
        if mixed.size > begin.size / 2:
            return points + np.where(positions >= 0, *anchors)
        offset, position = points.take(mixed, 1), positions.take(mixed, 1)
        points += np.where(begin, *anchors)
        points[:, mixed] = offset + np.where(position >= 0, *self.of(anchors, mixed))
        return points

    def within(self, piece: Index, low: Array, half: Array, nodes: Array) -> Array:
        """Points ``(k, m)`` of nodes on ``[-1, 1]`` in cells of finite pieces.

        In two sweeps over them, where by their positions it is seven.

        Args:
            piece: The piece of each cell, ``(m,)``.
            low: Where each cell begins, as a fraction of its piece.
            half: Half the length of each, likewise.
            nodes: The nodes, ascending, ``(k,)``.

        Returns:
            The points, each counted from the end of the piece that is nearer, or from
            either in the middle cell.
        """
        unit, (lower, upper) = self.of(self.unit, piece), self.of(self.anchors, piece)
        middle = low + half
        from_lower = lower + unit * middle
        from_upper = upper + unit * (middle - 1)
        first = int(np.searchsorted(nodes, 0, side="right"))
        points: Array = (unit * half) * nodes[:, None]
        points[:first] += np.where(low >= 0.5, from_upper, from_lower)
        points[first:] += np.where(middle + half > 0.5, from_upper, from_lower)
        return points


def make_pieces(edges: Array, loc: Array, scale: Array) -> Pieces:
    """Pieces between the limits ``edges[0]`` and ``edges[-1]`` of each element.

    Args:
        edges: Lower limit, breakpoints, upper limit, ``(k + 1, elements)``.
        loc: Location of each element's nodes on the whole line, ``(elements,)``.
        scale: Scale of its nodes on an infinite piece, ``(elements,)``.

    Returns:
        The pieces, ``(k + 1) * elements`` of them.
    """
    count, elements = edges.shape[0] - 1, edges.shape[1]
    low, high = np.minimum(edges[0], edges[-1]), np.maximum(edges[0], edges[-1])
    inner = np.sort(np.clip(edges[1:-1], low, high), axis=0)
    ordered = np.concatenate([low[None], inner, high[None]])
    lower, upper = ordered[:-1].ravel(), ordered[1:].ravel()
    loc, scale = np.tile(loc, count), np.tile(scale, count)
    kind = np.where(lower == -np.inf, BELOW, 0) | np.where(upper == np.inf, ABOVE, 0)
    empty = lower == upper
    kind[empty] = FINITE
    sign = np.tile(np.where(edges[0] <= edges[-1], 1.0, -1.0), count) * ~empty
    with np.errstate(invalid="ignore", over="ignore"):
        unit = np.where(kind == FINITE, np.where(empty, 0.0, upper - lower), scale)
    whole = kind == WHOLE
    positive = np.where(whole, loc, np.where(kind == BELOW, upper, lower))
    negative = np.where(whole, loc, np.where(kind == ABOVE, lower, upper))
    bounds, anchors = np.stack([lower, upper]), np.stack([positive, negative])
    return Pieces(bounds, anchors, unit, sign, kind, elements)


def piece_between(lower: float, upper: float, loc: float, scale: float) -> Pieces:
    """The only piece of a single integral, from plain numbers."""
    low, high = min(lower, upper), max(lower, upper)
    empty = low == high
    kind = (BELOW if low == -math.inf else 0) | (ABOVE if high == math.inf else 0)
    kind = FINITE if empty else kind
    positive = loc if kind == WHOLE else high if kind == BELOW else low
    negative = loc if kind == WHOLE else low if kind == ABOVE else high
    unit = 0.0 if empty else high - low if kind == FINITE else scale
    sign = 0.0 if empty else 1.0 if lower <= upper else -1.0
    bounds, anchors = np.array([[low], [high]]), np.array([[positive], [negative]])
    columns = np.array([unit]), np.array([sign]), np.array([kind])
    numbers = Numbers(low, high, positive, negative, unit, sign, kind)
    return Pieces(bounds, anchors, *columns, 1, numbers)


def numbers_of(pieces: Pieces) -> Numbers:
    """The only piece there is in plain numbers."""
    bounds, anchors, *columns, _, _ = pieces
    return Numbers(*(x.item() for x in (*bounds, *anchors, *columns)))


class Part(NamedTuple):
    """Nodes of a plan: some cells with the same number ``k`` of nodes each.

    Attributes:
        piece: The piece of each cell, ``(m,)``.
        positions: Canonical positions, ``(k, m)``.
        weights: Weights in the unit of the piece, ``(k, m)``.
        low: Where each cell begins, as a fraction of its piece, ``(m,)``. A cell that
            begins at 0 or ends at 1 stretches with the limits of its piece; all others
            stand still, so that kinks and jumps inside do not enter the derivative.
        high: Where it ends, ``(m,)``.
    """

    piece: Index
    positions: Array
    weights: Array
    low: Array
    high: Array


#: Part of a plan to be: rules book how to make it, as most searches need no plan.
Nodes = Callable[[], Part]
