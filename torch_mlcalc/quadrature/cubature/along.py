"""What lines along the axes show of a single integrand: how many nodes each needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from torch_mlcalc.quadrature.cubature.climbed import Sum, Terms
from torch_mlcalc.quadrature.cubature.regions import gauss_table
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import SMALL
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
#: thread (OpenBLAS, interface/gemm.c: 65536 times GEMM_MULTITHREAD_THRESHOLD). It then
#: takes half of the time that torch's does.
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


class Lines(NamedTuple):
    """What the lines along each axis show, as parts of the integral of the size.

    Attributes:
        errors: Bounds of the error of a rule of ``1, 2, ...`` nodes, ``(d, k // 2)``.
        sloped: The same, larger where slopes need more nodes.
        unseen: How much is not resolved, ``(d)``.
        sizes: Of the Legendre coefficients, ``(d, k)``.
    """

    errors: Array
    sloped: Array
    unseen: Array
    sizes: Array


class _Line(NamedTuple):
    """Gauss nodes on a line, and what they say.

    Attributes:
        nodes: In ``[0, 1]``, ``(k)``.
        weights: They sum to 1.
        rows: Weights of all Legendre coefficients, one column each, ``(k, k)``.
        noise: What rounding leaves of each, in epsilons of the mean.
        missed: Size of the error on each Legendre polynomial of the rule of ``1, 2,
            ...`` nodes, one column each; then 1 for those of the third and of the last
            quarter, ``(k, k // 2 + 2)``.
        slopes: How much more than this counts, ``(k // 2)``.
    """

    nodes: Array
    weights: Array
    rows: Array
    noise: Array
    missed: Array
    slopes: Array


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
    b, d = bases.shape
    line = _line(NODES.get(d, FEWER))
    k, half = len(line.nodes), len(line.nodes) // 2
    axes, low, width, joint = _pieces(tuple(map(tuple, parts)))
    m, places = len(axes), low + width * line.nodes
    points = np.empty((d, b, m, k))
    points[:] = bases.T[:, :, None, None]
    for i, axis in enumerate(axes):
        points[axis, :, i] = places[i]
    values = probe(points.reshape(d, -1).T)
    if values is None:
        return None
    every = _resolved(line, values.reshape(-1, k), probe.terms.epsilon)
    every = every.reshape(b, m, -1)
    if m > d:  # Parts of an axis together.
        every = joint @ every
    every /= np.maximum(every[..., -1:], seen.absolute / abs(probe.volume))
    worst = np.maximum.reduce(every)
    errors = worst[:, k : k + half]
    return Lines(errors, errors * line.slopes, worst[:, k + half], worst[:, :k])


def _resolved(line: _Line, values: Values, epsilon: float) -> Array:
    """Coefficients, errors, what is not resolved, and last the mean of each line."""
    k, half = len(line.nodes), len(line.nodes) // 2
    every = np.empty((len(values), k + half + 3))
    size, rest = every[:, :k], every[:, k:-1]
    errors, unseen, last = rest[:, :half], rest[:, half], rest[:, half + 1]
    mean = np.matmul(np.abs(values), line.weights, out=every[:, -1])
    np.abs(product(values, line.rows), out=size)
    size -= (epsilon * mean)[:, None] * line.noise
    np.maximum(size, 0.0, out=size)
    rest[:] = product(size, line.missed)
    fall = np.minimum(last / np.maximum(unseen, 1e-300), 1.0)
    unseen[:] = last * np.where(fall < FALLING, fall / (1.0001 - fall), MISSING)
    errors += unseen[:, None]
    return every


def product(values: Values, table: Array) -> Values:
    """Of two matrices, on the threads that torch has; see :func:`contract`."""
    alone = SMALL if len(values) == 1 or table.shape[1] == 1 else ALONE
    if len(values) * table.size <= alone:
        return values @ table
    own: Values = (torch.from_numpy(values) @ torch.from_numpy(table)).numpy()
    return own


@lru_cache(maxsize=16)
def _pieces(
    parts: tuple[tuple[float, ...], ...],
) -> tuple[list[int], Array, Array, Array]:
    """Axis, lower end and width of every part; the widths of those of each axis."""
    axes = [axis for axis, ends in enumerate(parts) for _ in ends[1:]]
    low = np.array([x for ends in parts for x in ends[:-1]])
    width = np.array([x for ends in parts for x in ends[1:]]) - low
    joint = np.zeros((len(parts), len(axes)))
    joint[axes, range(len(axes))] = width
    return axes, low[:, None], width[:, None], joint


@lru_cache(maxsize=4)
def _line(k: int) -> _Line:
    nodes, weights = gauss_table(k)
    every = np.polynomial.legendre.legvander(2 * nodes - 1, k - 1)
    rows = every * weights[:, None] * (2 * np.arange(k) + 1)
    half = k // 2
    missed = np.zeros((k, half + 2))
    for n in range(1, half + 1):
        u, w = gauss_table(n)
        own = w @ np.polynomial.legendre.legvander(2 * u - 1, k - 1)
        missed[2 * n :, n - 1] = np.abs(own[2 * n :])
    missed[half : k - k // 4, half] = missed[k - k // 4 :, half + 1] = 1.0
    noise = (2 * np.arange(k) + 1) / math.sqrt(k)
    slopes = np.maximum(1.0, np.arange(1, half + 1) / SLOPES)
    return _Line(nodes, weights, rows, noise, missed, slopes)
