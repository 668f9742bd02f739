"""A tensor rule with as many nodes on each axis as lines along it show to be needed.

The rule of 9 nodes on every axis needs 59,049 in 5 dimensions; a product peak there
needs 5 on one axis and 8 on another, which a few hundred points on lines show.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.along import Lines, Parts, Probe, look_along
from torch_mlcalc.quadrature.cubature.climbed import Sum
from torch_mlcalc.quadrature.cubature.regions import (
    Regions,
    Table,
    gauss_table,
    whole_cubes,
)
from torch_mlcalc.quadrature.cubature.single_kinks import find_kinks_single
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.ledger import ROUNDING
from torch_mlcalc.quadrature.rules import Array

#: Nodes of a rule on one cube, all of which a plan holds, and on all parts together;
#: and of one that is kept for the next call.
MOST_ON_ONE, MOST, MOST_CACHED = 400_000, 9_000_000, 60_000

#: Safety of the error that the lines predict. With it, over 4032 integrals of Genz's
#: families in 2 and 3 dimensions, at tolerances from 0.1 to 1e-7, no error was above
#: the tolerance that it was said to meet.
SAFE = 2.0

#: Times that a rule is made larger.
TRIES = 3

#: Part of the allowed error that may not be resolved on one line.
RESOLVED = 0.05


class Fitted(NamedTuple):
    """An integral with all that it was made of.

    Attributes:
        table: The rule on each region.
        regions: Where.
        columns: Value, error and absolute integral of each region, ``(3, m)``.
    """

    table: Table
    regions: Regions
    columns: Array

    @property
    def weights(self) -> Array:
        """Those of all nodes in all regions, in the order of the values."""
        volume = (self.regions.high - self.regions.low).prod(1)
        found: Array = np.outer(self.table.weights, volume).ravel()
        return found


class _Axis(NamedTuple):
    """One axis of a grid.

    Attributes:
        weights: Of its nodes, ``(n)``.
        last: Those of its last two Legendre coefficients, ``(n, 2)``.
        front: Weights of the grid of all axes before.
    """

    weights: Array
    last: Array
    front: Array


class _Pair(NamedTuple):
    """A tensor rule and one of a node less on each axis.

    Attributes:
        nodes: Those of the smaller, then those of the larger, ``(k, d)``.
        coarse: Weights of the smaller.
        table: The larger.
        sizes: Its nodes on each axis.
        axes: All there is to these.
    """

    nodes: Array
    coarse: Array
    table: Table
    sizes: tuple[int, ...]
    axes: list[_Axis]


def fit(probe: Probe, seen: Sum, base: Array) -> Fitted | None:
    """Integrate by a tensor rule that is fitted to the integrand.

    Args:
        probe: The integrand.
        seen: What is known of the integral.
        base: The node of the cube at which the integrand was largest.

    Returns:
        The integral, or None where this is not the way.
    """
    d = probe.terms.dimension
    bases = np.concatenate([base[None], _elsewhere(d)])
    parts: Parts = [[0.0, 1.0] for _ in range(d)]
    lines = look_along(probe, bases, parts, seen)
    if lines is None:
        return None
    rough = _rough(probe, lines, seen)
    if rough:
        places = find_kinks_single(probe, base, seen, rough)
        if places is None or any(math.isnan(places[axis]) for axis in rough):
            return None
        for axis in rough:
            parts[axis].insert(1, places[axis])
        lines = look_along(probe, bases, parts, seen)
        if lines is None or _rough(probe, lines, seen):
            return None
    return _climb(probe, seen, parts, lines)


def _rough(probe: Probe, lines: Lines, seen: Sum) -> list[int]:
    """Axes along which the lines are not resolved."""
    allowed = RESOLVED * probe.terms.allowed(seen) / seen.absolute
    found: list[int] = np.flatnonzero(lines.unseen > allowed).tolist()
    return found


def _climb(probe: Probe, seen: Sum, parts: Parts, lines: Lines) -> Fitted | None:
    """Rules that are made larger until one of them will do."""
    regions, doubt = _between(parts), 1.0
    most = MOST_ON_ONE if len(regions.owner) == 1 else MOST
    for _ in range(TRIES):
        allowed = probe.terms.allowed(seen) / seen.absolute
        sizes = _sizes(lines.sloped, allowed / (SAFE * doubt))
        if sizes is None:
            return None
        count = math.prod(sizes) + math.prod(map(_less, sizes))
        count *= len(regions.owner)
        if count > most or probe.spent + count > probe.budget:
            return None
        found = _measured(probe, regions, _pair(sizes), lines)
        if found is None:
            return None
        seen, doubt, fitted = found
        if seen.tail <= probe.terms.allowed(seen):
            return fitted
    return None


def _less(n: int) -> int:
    return n - 1


def _sizes(errors: Array, allowed: float) -> tuple[int, ...] | None:
    """Few nodes for each axis, at least two; None where no number is known.

    The first numbers whose errors are each allowed, and then one more where the error
    is largest, until all of them together are.

    Returns:
        The numbers.
    """
    fine = errors <= allowed
    fine[:, 0] = False
    if not fine.any(1).all():
        return None
    sizes: list[int] = (fine.argmax(1) + 1).tolist()
    own = [float(errors[axis, n - 1]) for axis, n in enumerate(sizes)]
    while sum(own) > allowed:
        axis = own.index(max(own))
        if sizes[axis] == errors.shape[1]:
            return None
        own[axis] = float(errors[axis, sizes[axis]])
        sizes[axis] += 1
    return tuple(sizes)


def _measured(
    probe: Probe, regions: Regions, pair: _Pair, lines: Lines
) -> tuple[Sum, float, Fitted] | None:
    """The integral by a rule, and by how much the lines were wrong of the smaller."""
    values = _values(probe, regions, pair.nodes)
    if values is None:
        return None
    split = len(pair.coarse)
    sizes, weights = pair.sizes, pair.table.weights
    volume = (regions.high - regions.low).prod(1) * probe.volume
    fine = contract(weights[None], values[split:])[0] * volume
    coarse = contract(pair.coarse[None], values[:split])[0] * volume
    absolute = np.abs(contract(weights[None], np.abs(values[split:]))[0] * volume)
    whole = float(absolute.sum())
    if not 0 < whole < math.inf:
        return None
    axes, last = np.arange(len(sizes)), np.array(sizes) - 1
    predicted = _together(lines.sloped[axes, last])
    expected = _together(lines.errors[axes, last - 1])
    change = abs(float((fine - coarse).sum())) / whole
    tails = _tails(values[split:], pair.axes) @ np.abs(volume) / whole
    behind = np.maximum(
        lines.sizes[axes, last], lines.sizes[axes, np.maximum(last - 1, 1)]
    )
    rounding = ROUNDING * probe.terms.epsilon
    # More than one node less, the error is wrong by more than that of the smaller.
    wrong = float((tails / np.maximum(behind, rounding)).max())
    doubt = max(1.0, change / max(expected, rounding), wrong) ** 2
    error = max(SAFE * doubt * predicted, rounding) * whole
    total = Sum(float(fine.sum()), error, whole)
    columns = np.stack([fine, error * absolute / whole, absolute])
    return total, doubt, Fitted(pair.table, regions, columns)


def _together(errors: Array) -> float:
    """Relative error of a product whose factors have some."""
    return math.expm1(sum(map(math.log1p, errors.tolist())))


def _values(probe: Probe, regions: Regions, nodes: Array) -> Values | None:
    """Values ``(k, m)`` at the nodes of a rule in regions, block by block."""
    m, k, d = len(regions.owner), len(nodes), nodes.shape[1]
    low, width = regions.low.T, (regions.high - regions.low).T
    unit = nodes.T
    some = max(probe.block // k, 1)
    each = k if some > 1 else min(k, probe.block)
    if m * k <= probe.block:
        some, each = m, k
    values = np.empty((k, m))
    for first in range(0, m, some):
        own = slice(first, first + some)
        for start in range(0, k, each):
            rows = slice(start, start + each)
            # The coordinates of all points one after another: sums over the few of a
            # point then run over many points at once, in a half to a fifth of the time.
            points = unit[:, rows, None] * width[:, None, own] + low[:, None, own]
            found = probe(points.reshape(d, -1).T)
            if found is None:
                return None
            values[rows, own] = found.reshape(points.shape[1:])
    return values


def _tails(values: Values, axes: list[_Axis]) -> Array:
    """Largest of the last Legendre coefficients along each axis, ``(d, m)``."""
    m, found = values.shape[1], []
    # Of the values with all axes behind summed up, those in front are.
    sums = [values.T.reshape(m, -1)]
    for axis in reversed(axes[1:]):
        sums.append(sums[-1].reshape(m, -1, len(axis.weights)) @ axis.weights)
    for axis, own in zip(axes, reversed(sums), strict=True):
        marginal = axis.front @ own.reshape(m, -1, len(axis.weights))
        found.append(marginal @ axis.last)
    return np.maximum.reduce(np.abs(found), 2)


@lru_cache(maxsize=64)
def _last(n: int) -> Array:
    """Weights of the last two Legendre coefficients but the first, ``(n, 2)``."""
    u, w = gauss_table(n)
    degrees = np.array([max(n - 2, 1), n - 1])
    every = np.polynomial.legendre.legvander(2 * u - 1, n - 1)
    found: Array = w[:, None] * every[:, degrees] * (2 * degrees + 1)
    return found


def _pair(sizes: tuple[int, ...]) -> _Pair:
    return (_kept if math.prod(sizes) <= MOST_CACHED else _made)(sizes)


def _made(sizes: tuple[int, ...]) -> _Pair:
    less, coarse = _grid(tuple(map(_less, sizes)))
    nodes, weights = _grid(sizes)
    # Coordinates one after another.
    both = np.concatenate([less, nodes], 1).T
    table, axes = Table(both[len(coarse) :], weights), []
    for i, n in enumerate(sizes):
        front = _grid(sizes[:i])[1] if i else np.ones(1)
        axes.append(_Axis(gauss_table(n).weights, _last(n), front))
    return _Pair(both, coarse, table, sizes, axes)


_kept = lru_cache(maxsize=16)(_made)


def _grid(sizes: tuple[int, ...]) -> tuple[Array, Array]:
    tables = [gauss_table(n) for n in sizes]
    nodes = np.stack(np.meshgrid(*(t.nodes for t in tables), indexing="ij"))
    weights = np.ones(1)
    for t in tables:
        weights = np.outer(weights, t.weights).ravel()
    return nodes.reshape(len(sizes), -1), weights


@lru_cache(maxsize=8)
def _elsewhere(d: int) -> Array:
    """A point on no axis of symmetry, and two near opposite corners, ``(3, d)``."""
    # Waves of a product of coordinates are the shortest there: of sin(40 x y) lines
    # through two nodes showed too little, and 1e-6 was claimed with an error of 2e-4.
    middle = 0.15 + 0.7 * (np.arange(1, d + 1) * (math.sqrt(5) - 1) / 2 % 1)
    return np.stack([middle, np.full(d, 0.03), np.full(d, 0.97)])


def _between(parts: Parts) -> Regions:
    """Every combination of parts of the axes."""
    if max(map(len, parts)) == 2:
        return whole_cubes(1, (1,) * len(parts))
    limits = np.array(list(itertools.product(*map(itertools.pairwise, parts))))
    m, d = limits.shape[:2]
    owner, piece = np.zeros(m, np.int64), np.zeros((m, d), np.int64)
    return Regions(owner, piece, limits[..., 0], limits[..., 1])
