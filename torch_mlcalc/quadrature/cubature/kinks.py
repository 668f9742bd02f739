"""Kinks and jumps across an axis, found by looking along lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cubature.genz_malik_table import (
    count_nodes,
    symmetric_table,
)
from torch_mlcalc.quadrature.cubature.ladder import LADDERS, PATIENCE
from torch_mlcalc.quadrature.cubature.regions import Regions, Table, gauss_table
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array

Mask = npt.NDArray[Any]
T = TypeVar("T", float, Array)

#: Points on a line in one look; the next look is at two of their gaps.
POINTS = 129

#: How much a look narrows a line.
NARROWED = (POINTS - 1) / 2

#: Looks. They leave 64^-9 = 6e-17 of a line; most lines are left before.
LOOKS = 9

#: In the first look, how many points apart are those that its differences are compared
#: with; later on it is those of the look before.
APART = 8

#: When points move together by a factor, the second differences of something smooth
#: fall by its square, those of a kink by the factor, those of a jump stay. What falls
#: by more than the first of these powers is smooth, by less than the second a jump.
SMOOTH, JUMP = -1.8, -0.5

#: Parts of the allowed error that a jump may be misplaced by, and that the slope may be
#: wrong by at a kink. Of that the second difference beside it tells: the place of a
#: kink is the centre of the differences around, and what is smooth pulls that aside.
#: What is allowed is guessed from few nodes. With a tenth of the latter most kinks took
#: another look, and no value or slope of Genz's was better for it.
PLACED, BENT = 1e-3, 0.3

#: Nearer than this to an end there is nothing to be cut off.
NEAR = 1e-9


def find_kinks(search: CubeSearch, owner: Index) -> Array:
    """Where integrands bend or jump across an axis.

    Every axis is looked at along one line, through the node of a symmetric rule at
    which the integrand is largest, and narrowed to the largest second difference as
    long as that shrinks more slowly than in something smooth. What moves from line to
    line is not found this way, but what does not is found as well as the tolerance
    needs it. The first look is the closest near to the ends, where a kink would escape
    the nodes of all rules.

    Args:
        search: The integrals.
        owner: Which of them, ``(m)``.

    Returns:
        One place for each axis, ``(m, d)``; nan where there is none.
    """
    d, seen = search.dimension, _look_around(search, owner)
    found = np.full(owner.size * d, np.nan)
    # The lines that are still looked at, and between where.
    line = np.arange(found.size)
    low, high, before = np.zeros(line.size), np.ones(line.size), np.empty(0)
    # The first look stays inside; all others are between two points of the one before.
    steps, factor = (0.5 + np.arange(POINTS)) / POINTS, float(APART)
    for look in range(LOOKS):
        t = low + (high - low) * steps[:, None]
        values = _along(search, owner, seen, line, eased(t))
        second = _second(values)
        largest, top, every = second.max(0), second.argmax(0), np.arange(line.size)
        before = before if look else _further(values, top + 1)
        # Below the noise of the integrand there is nothing more to see.
        visible = largest > 64 * search.ledger.epsilon * np.abs(values).max(0)
        real = np.where(visible, largest >= factor**SMOOTH * before, look > 0)
        low, high = t[top, every], t[top + 2, every]
        place, beside = _centre(t, second, top)
        found[line] = np.where(real, eased(place), np.nan)
        jumps = largest > factor**JUMP * before
        unsure = np.where(jumps, (high - low) * largest / PLACED, beside / BENT)
        going = visible & real & (unsure > seen.allowed[line // d])
        line, low, high, before = line[going], low[going], high[going], largest[going]
        steps, factor = np.arange(POINTS) / (POINTS - 1), NARROWED
        if not line.size:
            break
    inside = (found > NEAR) & (found < 1 - NEAR)
    return np.where(inside, found, np.nan).reshape(-1, d)


def cost(dimension: int) -> int:
    """Points that :func:`find_kinks` may use for each integral."""
    around = count_nodes(7, dimension) + _finest(dimension).count(dimension)
    return around + (3 + LOOKS) * POINTS * dimension


def cut_at(regions: Regions, owner: Index, places: Array) -> Regions:
    """Whole cubes cut at one place on each axis, where there is one."""
    elements = int(owner.max()) + 1
    for axis in range(places.shape[1]):
        full = np.full(elements, np.nan)
        full[owner] = places[:, axis]
        place = full[regions.owner]
        some = ~np.isnan(place)
        if some.any():
            cuts = regions.take(some)
            own = np.full(cuts.owner.size, axis)
            parts = cuts.cut(own, place[some])
            regions = Regions(
                *(
                    np.concatenate([a, b])
                    for a, b in zip(regions.take(~some), parts, strict=True)
                )
            )
    return regions


class _Seen(NamedTuple):
    """What a symmetric rule saw of each integrand.

    Attributes:
        base: The node at which it is largest, ``(m, d)``.
        unit: The log of its values that is taken for 0, ``(m)``; 0 if not in the log
            form.
        allowed: About which error is allowed of its mean, ``(m)``.
    """

    base: Array
    unit: Array
    allowed: Array


def _look_around(search: CubeSearch, owner: Index) -> _Seen:
    m, ledger = owner.size, search.ledger
    base, unit, scale = np.zeros((m, search.dimension)), np.zeros(m), np.zeros(m)
    left = np.arange(m)
    for nodes, weights in _rules(search.dimension):
        points = np.broadcast_to(nodes[:, None], (len(nodes), left.size, len(base[0])))
        values = _values(search, owner[left], points)
        if ledger.log:
            top = values.max(0)
            unit[left] = np.where(np.isfinite(top), top, 0.0)
            values = np.exp(values - unit[left])
        size = np.abs(values)
        base[left] = nodes[size.argmax(0)]
        scale[left] = np.minimum(size.mean(0), np.abs(weights @ values))
        left = left[size.max(0) == 0]
        if not left.size:
            break
    rtol, atol, _ = ledger.tolerance
    if ledger.log:
        rtol, atol = max(rtol, atol), 0.0
    allowed = rtol * scale
    if atol:
        allowed = np.maximum(allowed, atol / np.abs(search.volume[owner]))
    return _Seen(base, unit, allowed)


def _rules(dimension: int) -> Iterator[tuple[Array, Array]]:
    """A symmetric rule; where it sees only zeros, the tensor rule that saw more; lines.

    A strip between two nodes, or between a node and an end, is on the last of these.
    """
    yield symmetric_table(7, dimension)[:2]
    table = _finest(dimension)
    yield table.block(0, table.count(dimension), dimension)
    through = table.nodes[[0, len(table.nodes) // 2, -1]]
    nodes = np.empty((dimension, len(through), POINTS, dimension))
    nodes[:] = through[:, None, None]
    for axis in range(dimension):
        nodes[axis, ..., axis] = eased((0.5 + np.arange(POINTS)) / POINTS)
    yield (
        nodes.reshape(-1, dimension),
        np.full(nodes[..., 0].size, 1 / nodes[..., 0].size),
    )


def _finest(dimension: int) -> Table:
    """The last tensor rule before kinks are looked for."""
    return gauss_table(LADDERS[dimension][PATIENCE.get(dimension, 1)])


def _along(
    search: CubeSearch, owner: Index, seen: _Seen, line: Index, places: Array
) -> Array:
    """Values ``(k, lines)`` at places on lines, each along an axis through a base."""
    one, axis = np.divmod(line, search.dimension)
    points = np.empty((*places.shape, search.dimension))
    points[:] = seen.base[one]
    points[:, np.arange(line.size), axis] = places
    values = _values(search, owner[one], points)
    if search.ledger.log:
        return np.exp(np.minimum(values - seen.unit[one], 700.0))
    return values


def _values(search: CubeSearch, owner: Index, points: Array) -> Array:
    """One real number for each point ``(k, m, d)``: the sum of its events; finite."""
    evaluate, log, (k, m, d) = search.evaluate, search.ledger.log, points.shape
    search.ledger.count(owner, k)
    if evaluate.is_alone:
        values = evaluate.row(points.reshape(-1, d)).reshape(k, m, -1)
    else:
        values = evaluate(owner, points)
    if values.dtype.kind == "c":
        values = values.real + values.imag
    if not np.isfinite(values).all():
        values = np.where(np.isfinite(values), values, -np.inf if log else 0.0)
    if values.shape[-1] == 1:
        return values[..., 0]
    total: Array = values.max(-1) if log else values.sum(-1)
    return total


def _second(values: Array) -> Array:
    """Sizes of second differences of neighbours."""
    size: Array = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
    return size


def _further(values: Array, at: Index) -> Array:
    """Sizes of second differences with points further apart, about some of them."""
    at, every = np.clip(at, APART, len(values) - 1 - APART), np.arange(at.size)
    below, middle, above = values[at + [[-APART], [0], [APART]], every]
    size: Array = np.abs(above - 2 * middle + below)
    return size


def _centre(t: Array, second: Array, top: Index) -> tuple[Array, Array]:
    """Centre of the largest second difference and its neighbours, and the least.

    A kink between two points shows in the differences at both, and more in the nearer.

    Returns:
        The place and that difference, one for each line.
    """
    at = np.clip(top, 1, len(second) - 2) + [[-1], [0], [1]]
    every = np.arange(top.size)
    weights, places = second[at, every], t[at + 1, every]
    total = np.add.reduce(weights)
    centre = np.add.reduce(weights * places) / np.where(total > 0, total, 1)
    return np.where(total > 0, centre, places[1]), weights.min(0)


def eased(t: T) -> T:
    """Places that are dense near both ends."""
    return t * t * (3 - 2 * t)
