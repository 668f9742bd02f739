"""Fully symmetric rules on the cube, with an embedded rule of lower degree."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.rules import Array


class SymmetricTable(NamedTuple):
    """A fully symmetric rule on ``[0, 1]^d`` with ``k`` nodes.

    Attributes:
        nodes: ``(k, d)``.
        weights: They sum to 1, ``(k)``.
        differences: Weights less those of the embedded rules of degrees two and four
            less, ``(2, k)``.
        fourth: Weights of the fourth difference along each axis, ``(d, k)``.
        rows: All of these.
        means: The weights, and equal ones, ``(2, k)``.
    """

    nodes: Array
    weights: Array
    differences: Array
    fourth: Array
    rows: Array
    means: Array


#: Squares of the generators. Degree 7: Genz and Malik, section 2. Degree 9: the free
#: parameter is that of Berntsen, Espelid and Genz; the other three follow from it.
_SQUARES_7 = (9 / 70, 9 / 10, 9 / 19)
_FREE_9 = 0.4707


@lru_cache(maxsize=64)
def symmetric_table(degree: int, dimension: int) -> SymmetricTable:
    """The rule of Genz and Malik, of degree 7 or 9.

    The weights solve the moment equations. The first embedded rule, of degree two less,
    is the one that leaves out the corners; the second, of degree four less, differs by
    weights that are orthogonal to its, and as large.

    Args:
        degree: 7 or 9.
        dimension: Of the cube.

    Returns:
        Nodes in the unit cube and the weights of all that is computed from them.

    References:
        A. C. Genz, A. A. Malik, "Remarks on algorithm 006: an adaptive algorithm for
        numerical integration over an N-dimensional rectangular region", J. Comput.
        Appl. Math. 6 (1980), https://doi.org/10.1016/0771-050X(80)90039-X
        J. Berntsen, T. O. Espelid, A. Genz, "An adaptive algorithm for the approximate
        calculation of multiple integrals", ACM TOMS 17 (1991), section 3,
        https://doi.org/10.1145/210232.210233
    """
    axis, orbits = _orbits(degree, dimension)
    nodes = np.concatenate(orbits)
    moments, matrix = _moments(degree, dimension, orbits)
    right = np.array([math.prod(1 / (2 * k + 1) for k in m) for m in moments])
    each = np.linalg.lstsq(matrix, right, rcond=None)[0]
    sizes = np.array([len(o) for o in orbits])
    half = np.array([sum(m) for m in moments])
    null = _null(matrix[half <= (degree - 3) // 2], sizes, [])
    null = null * (each[-1] / null[-1])
    lower = _null(matrix[half <= (degree - 5) // 2], sizes, [null])
    lower = lower * np.sqrt((sizes * null**2).sum() / (sizes * lower**2).sum())
    weights = np.repeat(each, sizes)
    differences = np.stack([np.repeat(null, sizes), np.repeat(lower, sizes)])
    fourth = _fourth_differences(nodes, axis)
    rows = np.concatenate([weights[None], differences, fourth])
    means = np.stack([weights, np.full(len(nodes), 1 / len(nodes))])
    table = SymmetricTable(
        np.asfortranarray((1 + nodes) / 2), weights, differences, fourth, rows, means
    )
    for array in table:
        array.setflags(write=False)
    return table


def _null(matrix: Array, sizes: Array, others: list[Array]) -> Array:
    """Weights of orbits that integrate to 0, orthogonal to others as rules of nodes."""
    root = np.sqrt(sizes)
    rows = [*(matrix / root), *(other * root for other in others)]
    vectors = np.linalg.svd(np.array(rows))[2]
    # Several are left where the degree is much lower; any of them will do.
    found: Array = vectors[-1] / root
    return found


def count_nodes(degree: int, dimension: int) -> int:
    """Number of nodes, without making them."""
    d = dimension
    if degree == 7:
        return 1 + 4 * d + 2 * d * (d - 1) + 2**d
    return 1 + 6 * d + 6 * d * (d - 1) + 4 * d * (d - 1) * (d - 2) // 3 + 2**d


def _orbits(degree: int, d: int) -> tuple[tuple[float, float], list[Array]]:
    """Generators of the axis nodes for differences, and the nodes on ``[-1, 1]^d``."""
    if degree == 7:
        a, b, c = (math.sqrt(s) for s in _SQUARES_7)
        generators: list[tuple[float, ...]] = [(), (a,), (b,), (b, b), (c,) * d]
        axis = (a, b)
    else:
        c, a, b, e = (math.sqrt(s) for s in _squares_9())
        generators = [(), (a,), (b,), (e,), (a, a), (a, b), (a, a, a), (c,) * d]
        axis = (b, a)
    # In few dimensions some orbits are empty, or the corners are among the others.
    return axis, [_orbit(g, d) for g in generators if len(g) <= d]


def _squares_9() -> tuple[float, float, float, float]:
    s0 = _FREE_9
    s1 = 4 / (15 - 5 / s0)
    r = (1 - s1 / s0) / 27
    s2 = (5 - 7 * s1 - 35 * r) / (7 - 35 * s1 / 3 - 35 * r / s0)
    r *= (1 - s2 / s0) / 3
    s3 = (7 - 9 * (s1 + s2) + 63 * s1 * s2 / 5 - 63 * r) / (
        9 - 63 * (s1 + s2) / 5 + 21 * s1 * s2 - 63 * r / s0
    )
    return s0, s1, s2, s3


def _orbit(generator: tuple[float, ...], d: int) -> Array:
    """All permutations and changes of sign of a generator."""
    if not generator:
        return np.zeros((1, d))
    k, several = len(generator), len(set(generator)) > 1
    choose = itertools.permutations if several else itertools.combinations
    places = np.array(list(choose(range(d), k)), dtype=int).reshape(-1, k)
    signs = np.array(list(itertools.product((-1, 1), repeat=k))).reshape(-1, k)
    nodes = np.zeros((len(places), len(signs), d))
    rows = np.arange(len(places))[:, None]
    nodes[rows[:, None], np.arange(len(signs))[:, None], places[:, None]] = (
        signs * np.array(generator)
    )
    return nodes.reshape(-1, d)


def _moments(
    degree: int, d: int, orbits: list[Array]
) -> tuple[list[tuple[int, ...]], Array]:
    """Half exponents of the even monomials up to a degree, and their orbit sums."""
    moments = [
        m for h in range((degree + 1) // 2) for m in _partitions(h, h) if len(m) <= d
    ]
    matrix = [
        [np.prod(o[:, : len(m)] ** (2 * np.array(m)), 1).sum() for o in orbits]
        if m
        else [float(len(o)) for o in orbits]
        for m in moments
    ]
    return moments, np.array(matrix)


def _partitions(total: int, most: int) -> list[tuple[int, ...]]:
    if total == 0:
        return [()]
    return [
        (first, *rest)
        for first in range(min(total, most), 0, -1)
        for rest in _partitions(total - first, first)
    ]


def _fourth_differences(nodes: Array, axis: tuple[float, float]) -> Array:
    r""":math:`f(a) + f(-a) - 2 f(0) - (a/b)^2 (f(b) + f(-b) - 2 f(0))` on each axis."""
    a, b = axis
    single = (nodes != 0).sum(1) == 1
    size = np.abs(nodes) * single[:, None]
    ratio = (a / b) ** 2
    fourth = np.where(np.isclose(size, a), 1.0, 0.0)
    fourth -= np.where(np.isclose(size, b), ratio, 0.0)
    fourth[0] = -2 * (1 - ratio)
    return fourth.T.copy()
