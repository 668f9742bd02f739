"""What lines along the axes show of a single integrand: how many nodes each needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.climbed import Sum, Terms
from torch_mlcalc.quadrature.cubature.regions import gauss_table
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.rules import Array

#: Nodes on a line. A Gauss rule of half as many is judged by all coefficients.
NODES = {2: 96, 3: 64}
FEWER = 40

#: Coefficients of something analytic fall at least so much from one quarter of all to
#: the next; those of a kink halve. Else so many times the last quarter are missing.
FALLING, MISSING = 0.2, 10.0

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
        """The values, which are counted."""
        self.spent += len(points)
        return self.sample(points)


class Lines(NamedTuple):
    """What the lines along each axis show, as parts of the integral of the size.

    Attributes:
        errors: Bounds of the error of a rule of ``1, 2, ...`` nodes, ``(d, k // 2)``.
        unseen: How much is not resolved, ``(d)``.
        sizes: Of the Legendre coefficients, ``(d, k)``.
    """

    errors: Array
    unseen: Array
    sizes: Array


class _Line(NamedTuple):
    """Gauss nodes on a line, and what they say.

    Attributes:
        nodes: In ``[0, 1]``, ``(k)``.
        weights: They sum to 1.
        rows: Weights of all Legendre coefficients, ``(k, k)``.
        noise: What rounding leaves of each, in epsilons of the mean.
        missed: Size of the error of the rule of ``1, 2, ...`` nodes on each Legendre
            polynomial, ``(k, k // 2)``.
    """

    nodes: Array
    weights: Array
    rows: Array
    noise: Array
    missed: Array


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
    d = bases.shape[1]
    line = _line(NODES.get(d, FEWER))
    pieces = [(i, *ends) for i, e in enumerate(parts) for ends in itertools.pairwise(e)]
    points = np.empty((d, len(bases), len(pieces), len(line.nodes)))
    points[:] = bases.T[:, :, None, None]
    for j, (axis, low, high) in enumerate(pieces):
        points[axis, :, j] = low + (high - low) * line.nodes
    values = probe(points.reshape(d, -1).T)
    if values is None:
        return None
    values = values.reshape(-1, len(line.nodes)).T
    mean = line.weights @ np.abs(values)
    size = np.abs(contract(line.rows, values)).T
    size = np.maximum(size - np.outer(probe.terms.epsilon * mean, line.noise), 0)
    mean = mean.reshape(len(bases), -1)
    errors = contract(line.missed.T, size.T)
    last, before = size[:, -(len(line.nodes) // 4) :].sum(1), _quarter(size)
    fall = np.divide(last, before, out=np.zeros_like(last), where=before > 0)
    unseen = last * np.where(fall < FALLING, fall / (1 - fall), MISSING)
    found = np.concatenate([errors + unseen, unseen[None], size.T])
    found = found.reshape(len(found), len(bases), -1)
    whole, floor = (
        np.zeros((len(found), len(bases), d)),
        seen.absolute / abs(probe.volume),
    )
    total = np.zeros((len(bases), d))
    for j, (axis, low, high) in enumerate(pieces):
        whole[:, :, axis] += (high - low) * found[:, :, j]
        total[:, axis] += (high - low) * mean[:, j]
    worst = (whole / np.maximum(total, floor)).max(1).T
    half = len(errors)
    return Lines(worst[:, :half], worst[:, half], worst[:, half + 1 :])


def _quarter(size: Array) -> Array:
    """Sum of the last quarter but one."""
    k = size.shape[1]
    found: Array = size[:, k // 2 : k - k // 4].sum(1)
    return found


@lru_cache(maxsize=4)
def _line(k: int) -> _Line:
    nodes, weights = gauss_table(k)
    every = np.polynomial.legendre.legvander(2 * nodes - 1, k - 1)
    rows = (every * weights[:, None] * (2 * np.arange(k) + 1)).T.copy()
    missed = np.zeros((k, k // 2))
    for n in range(1, k // 2 + 1):
        u, w = gauss_table(n)
        own = w @ np.polynomial.legendre.legvander(2 * u - 1, k - 1)
        missed[2 * n :, n - 1] = np.abs(own[2 * n :])
    return _Line(nodes, weights, rows, (2 * np.arange(k) + 1) / math.sqrt(k), missed)
