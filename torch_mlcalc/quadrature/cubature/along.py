"""What lines along the axes show of a single integrand: how many nodes each needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch

from torch_mlcalc.quadrature.cubature.climbed import Sum, Terms
from torch_mlcalc.quadrature.cubature.regions import gauss_table
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import SMALL
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array

#: Nodes on a line. A Gauss rule of half as many is judged by all coefficients.
NODES = {2: 96, 3: 64}
FEWER = 40

#: Coefficients of something analytic fall at least so much from one quarter of all to
#: the next; those of a kink halve. Else so many times the last quarter are missing.
FALLING, MISSING = 0.2, 10.0

#: A parameter that stretches an axis moves the error of a rule of n nodes, which is one
#: of degree 2n, by 2n times as much as itself. Slopes are asked for to ten times the
#: tolerance of the value, so from so many nodes on less error is allowed. With 5, of
#: Genz's families in 2 to 8 dimensions 2 slopes of 100 miss that, by up to a half.
SLOPES = 3

#: Multiplications up to which numpy's library does a product of two matrices on one
#: thread (OpenBLAS, interface/gemm.c: 65536 times GEMM_MULTITHREAD_THRESHOLD), in half
#: the time that it takes to hand them to torch.
ALONE = 262_144

#: Ends of the parts of each axis in the cube.
Parts = list[list[float]]


@dataclass
class Probe:
    """A single real integrand over the cube.

    Attributes:
        sample: Its values at points ``(n, d)``, or None where they are not finite
            numbers.
        terms: By what the integral is judged.
        volume: Signed volume of the domain.
        budget: Points that may be used.
        block: Points that are evaluated in one call.
        spent: Points used.
    """

    sample: Callable[[Array], Values | None]
    terms: Terms
    volume: float
    budget: int
    block: int
    spent: int = 0

    def __call__(self, points: Array) -> Values | None:
        """The values, which are counted; None where there is no budget for them."""
        if self.spent + len(points) > self.budget:
            return None
        self.spent += len(points)
        return self.sample(points)


class Line(NamedTuple):
    """Gauss nodes on a line, and what they say.

    Attributes:
        nodes: In ``[0, 1]``, ``(k)``.
        weights: They sum to 1.
        rows: Weights of all Legendre coefficients, one column each, ``(k, k)``.
        noise: What rounding leaves of each, as a part of the mean.
        missed: Size of the error on each Legendre polynomial of the rule of ``1, 2,
            ...`` nodes, one column each, ``(k, k // 2)``.
        quarters: Which are in the last quarter, and in the one before, ``(k, 2)``.
        slopes: How much more than this counts, ``(k // 2)``.
        halves: Weights of coefficients 2, 4, ... on either half, one column each.
    """

    nodes: Array
    weights: Array
    rows: Array
    noise: Array
    missed: Array
    quarters: Array
    slopes: Array
    halves: Array


@dataclass(eq=False)
class Lines:
    """What lines along each axis show, as parts of the integral of the size.

    Attributes:
        each: Sizes of the Legendre coefficients on each, ``(b, d, k)``.
        missing: How much is not resolved on each, ``(b, d)``.
        line: Their nodes.
        values: The integrand on them, ``(b, d, k)``; not where axes are in parts.
    """

    each: Array
    missing: Array
    line: Line
    values: Array | None = None

    @cached_property
    def sizes(self) -> Array:
        """Of the Legendre coefficients along each axis, ``(d, k)``."""
        worst: Array = np.maximum.reduce(self.each)
        return worst

    @cached_property
    def unseen(self) -> Array:
        """How much is not resolved along each axis, ``(d)``."""
        worst: Array = np.maximum.reduce(self.missing)
        return worst

    @cached_property
    def errors(self) -> Array:
        """Bounds of the error of a rule of ``1, 2, ...`` nodes, ``(d, k // 2)``."""
        b, d, k = self.each.shape
        missed = product(self.each.reshape(-1, k), self.line.missed)
        missed += self.missing.reshape(-1, 1)
        worst: Array = np.maximum.reduce(missed.reshape(b, d, -1))
        return worst

    @property
    def even(self) -> Array:
        """Those of degrees 2, 4, ... of them."""
        return self.sizes[:, 2::2]

    @cached_property
    def halved(self) -> Array:
        """As :attr:`even`, of the coefficients on either half of each axis."""
        assert self.values is not None  # noqa: S101
        b, d, k = self.values.shape
        sizes = np.abs(product(self.values.reshape(-1, k), self.line.halves))
        sizes = sizes.reshape(b * d, 2, -1) - self.line.noise[2::2]
        own = np.add.reduce(np.maximum(sizes, 0.0, out=sizes), 1)
        own *= 0.5
        worst: Array = np.maximum.reduce(own.reshape(b, d, -1))
        return worst

    @cached_property
    def sloped(self) -> Array:
        """The same, larger where slopes need more nodes."""
        return self.errors * self.line.slopes


class _Pieces(NamedTuple):
    """Parts of all axes with the nodes of a line on each.

    Attributes:
        width: Of every part, ``(m)``.
        first: Which is the first of its axis, ``(d)``.
        axes: Of which axis each is, ``(m)``.
        off: 1, but 0 along its axis, ``(d, 1, m, 1)``.
        on: 0, but the nodes along its axis, ``(d, 1, m, k)``.
    """

    width: Array
    first: Index
    axes: Index
    off: Array
    on: Array


def look_along(probe: Probe, bases: Array, parts: Parts, seen: Sum) -> Lines | None:
    """Bounds of the error of Gauss rules on each axis.

    A line along every axis goes through each of some points, and is resolved to its
    Legendre coefficients. Nothing cancels in the bound, which is the largest for the
    lines through any of the points.

    Args:
        probe: The integrand.
        bases: The points, ``(b, d)``.
        parts: Ends of the parts of each axis, on which the rules are used.
        seen: What is known of the integral.

    Returns:
        They, or None where a value is not finite.
    """
    values = probe(points_along(bases, parts))
    return None if values is None else lines_of(values, probe, parts, seen)


def points_along(bases: Array, parts: Parts) -> Array:
    """Nodes of a line through each point along every axis, in its parts, ``(n, d)``."""
    d = len(parts)
    pieces = _pieces(tuple(map(tuple, parts)), NODES.get(d, FEWER))
    points = bases.T[:, :, None, None] * pieces.off + pieces.on
    return points.reshape(d, -1).T


def lines_of(values: Values, probe: Probe, parts: Parts, seen: Sum) -> Lines:
    """What finite values at these points show."""
    d = len(parts)
    line = _line(NODES.get(d, FEWER), probe.terms.epsilon)
    pieces = _pieces(tuple(map(tuple, parts)), len(line.nodes))
    values = values.reshape(-1, len(line.nodes))
    mean, m = np.abs(values).dot(line.weights), len(pieces.width)
    least = seen.absolute / abs(probe.volume)
    if m == d:
        scale = 1.0 / np.maximum(mean, least)
    else:  # Parts of an axis together.
        own = mean.reshape(-1, m) * pieces.width
        whole = np.add.reduceat(own, pieces.first, 1)[:, pieces.axes]
        scale = (pieces.width / np.maximum(whole, least)).ravel()
    values = values * scale[:, None]
    sizes = _coefficients(line, values)
    missing = _missing(line, sizes).reshape(-1, m)
    sizes = sizes.reshape(-1, m, len(line.nodes))
    if m == d:
        return Lines(sizes, missing, line, values.reshape(sizes.shape))
    sizes = np.add.reduceat(sizes, pieces.first, 1)
    missing = np.add.reduceat(missing, pieces.first, 1)
    return Lines(sizes, missing, line)


def _coefficients(line: Line, values: Values) -> Array:
    """Sizes of those of values ``(m, k)`` of mean 1, without what rounding leaves."""
    sizes = product(values, line.rows)
    np.abs(sizes, out=sizes)
    sizes -= line.noise
    return np.maximum(sizes, 0.0, out=sizes)


def _missing(line: Line, sizes: Array) -> Array:
    """How much of the lines with such coefficients is not resolved."""
    return np.array(
        [
            last * (last / (1.0001 * before - last))
            if last < FALLING * before
            else last * MISSING
            for last, before in sizes.dot(line.quarters).tolist()
        ]
    )


def in_parts(nodes: Array, parts: Parts) -> list[Array]:
    """Nodes ``(d, n)`` in all parts of each axis, ``(parts, n)``."""
    return [
        own[None] if len(ends) == 2 else _in_parts(own, np.array(ends))
        for own, ends in zip(nodes, parts, strict=True)
    ]


def _in_parts(nodes: Array, ends: Array) -> Array:
    low = ends[:-1, None]
    found: Array = low + (ends[1:, None] - low) * nodes
    return found


def combinations(parts: Parts) -> Index:
    """Which part of each axis every region is in, ``(d, m)``."""
    return _combinations(tuple(len(ends) - 1 for ends in parts))


@lru_cache(maxsize=16)
def _combinations(counts: tuple[int, ...]) -> Index:
    return np.indices(counts).reshape(len(counts), -1)


def copied(placed: list[Array], which: Index, out: Array | None = None) -> Array:
    """Nodes in regions, from those in the parts of each axis, ``(d, m, n)``."""
    if out is None:
        out = np.empty((*which.shape, placed[0].shape[1]))
    # In half the time that it takes to place them in every region.
    for own, nodes, at in zip(out, placed, which, strict=True):
        nodes.take(at, 0, out=own, mode="clip")
    return out


def product(values: Values, table: Array) -> Values:
    """Of two matrices, on the threads that torch has; see :func:`contract`."""
    alone = SMALL if len(values) == 1 or table.shape[1] == 1 else ALONE
    if len(values) * table.size <= alone:
        return values @ table
    return (torch.from_numpy(values) @ torch.from_numpy(table)).numpy()


@lru_cache(maxsize=16)
def _pieces(parts: tuple[tuple[float, ...], ...], k: int) -> _Pieces:
    """Those of lines with ``k`` nodes."""
    counts, d = [len(ends) - 1 for ends in parts], len(parts)
    low = np.array([x for ends in parts for x in ends[:-1]])
    high = np.array([x for ends in parts for x in ends[1:]])
    axes, m = np.repeat(np.arange(d), counts), sum(counts)
    off, on = np.ones((d, 1, m, 1)), np.zeros((d, 1, m, k))
    off[axes, 0, np.arange(m)] = 0.0
    nodes = low[:, None] + (high - low)[:, None] * gauss_table(k).nodes
    on[axes, 0, np.arange(m)] = nodes
    return _Pieces(high - low, np.cumsum([0, *counts[:-1]]), axes, off, on)


@lru_cache(maxsize=4)
def _line(k: int, epsilon: float) -> Line:
    nodes, weights = gauss_table(k)
    every = np.polynomial.legendre.legvander(2 * nodes - 1, k - 1)
    rows = every * weights[:, None] * (2 * np.arange(k) + 1)
    half, quarter = k // 2, k // 4
    missed, quarters = np.zeros((k, half)), np.zeros((k, 2))
    for n in range(1, half + 1):
        u, w = gauss_table(n)
        own = w @ np.polynomial.legendre.legvander(2 * u - 1, k - 1)
        missed[2 * n :, n - 1] = np.abs(own[2 * n :])
    quarters[k - quarter :, 0] = quarters[half : k - quarter, 1] = 1.0
    noise = epsilon * (2 * np.arange(k) + 1) / math.sqrt(k)
    slopes = np.maximum(1.0, np.arange(1, half + 1) / SLOPES)
    inside = [
        np.polynomial.legendre.legvander(nodes + end, k - 1).T @ rows[:, 2::2]
        for end in (-1.0, 0.0)
    ]
    halves = rows @ np.concatenate(inside, 1)
    return Line(nodes, weights, rows, noise, missed, quarters, slopes, halves)
