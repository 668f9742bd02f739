"""Tensor products of Gauss rules with a number of nodes for each axis."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from torch_mlcalc.quadrature.cubature.along import (
    Parts,
    Probe,
    combinations,
    copied,
    in_parts,
)
from torch_mlcalc.quadrature.cubature.regions import (
    Table,
    coefficients,
    gauss_table,
)
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import SMALL
from torch_mlcalc.quadrature.rules import Array

#: Nodes of a grid that is kept for the next call.
MOST_CACHED = 30_000

#: Numbers of nodes.
Sizes = tuple[int, ...]


class Marginals(NamedTuple):
    """What a grid says of the integrals over some regions of mean 1.

    Attributes:
        means: The integrals, ``(m)``.
        tails: Largest of the last two Legendre coefficients but the first along each
            axis, of the integral over all others, ``(d, m)``.
    """

    means: Array
    tails: Array


def values_on(
    probe: Probe, parts: Parts, sizes: Sizes, less: Sizes
) -> list[Values] | None:
    """Values ``(m, k)`` on two grids in all parts, if they are all finite.

    Args:
        probe: The integrand.
        parts: Ends of the parts of each axis.
        sizes: Of one grid, whose values are the last that are asked for.
        less: Of the other.

    Returns:
        Those of either.
    """
    which, counts = combinations(parts), [math.prod(less), math.prod(sizes)]
    d, m = which.shape
    if m * sum(counts) > probe.block:
        found = [_by_blocks(probe, parts, own) for own in (less, sizes)]
        return None if found[1] is None else [v for v in found if v is not None]
    points = _both(sizes, less)
    if m > 1:
        both = np.split(points, counts[:1], 1)
        every = [copied(in_parts(nodes, parts), which) for nodes in both]
        points = np.concatenate([own.reshape(d, -1) for own in every], 1)
    values = probe(points.T)
    if values is None:
        return None
    split = m * counts[0]
    return [values[:split].reshape(m, -1), values[split:].reshape(m, -1)]


def _by_blocks(probe: Probe, parts: Parts, sizes: Sizes) -> Values | None:
    """Values ``(m, k)`` on a grid in all parts."""
    which, split = combinations(parts), 0
    d, m = which.shape
    while math.prod(sizes[split:]) > probe.block:
        split += 1
    outer = in_parts(nodes_of(sizes[:split]), parts[:split])
    inner = in_parts(nodes_of(sizes[split:]), parts[split:])
    b, a = math.prod(sizes[:split]), math.prod(sizes[split:])
    some, values = max(probe.block // a, 1), np.empty((m * b, a))
    for first in range(0, m * b, some):
        region, front = np.divmod(np.arange(first, min(first + some, m * b)), b)
        at = which[:, region]
        # The coordinates of all points one after another: sums over the few of a point
        # then run over many points at once, in a half to a fifth of the time.
        points = np.empty((d, len(region), a))
        for axis, nodes in enumerate(outer):
            points[axis] = nodes[at[axis], front][:, None]
        copied(inner, at[split:], out=points[split:])
        found = probe(points.reshape(d, -1).T)
        if found is None:
            return None
        values[first : first + some] = found.reshape(-1, a)
    return values.reshape(m, -1)


def marginals(values: Values, sizes: Sizes) -> Marginals:
    """Integrals of values ``(m, k)`` on a grid, and how well each axis is resolved."""
    m, d = len(values), len(sizes)
    found = (_halves(values, sizes) @ _ends(sizes)).T
    return Marginals(found[-1], np.maximum.reduce(np.abs(found[:-1].reshape(2, d, m))))


def _halves(values: Values, sizes: Sizes) -> Array:
    """Means over the axes of either half, at the nodes of the other, ``(m, k)``."""
    # All axes of a half at once: one by one five take 1.5 to 2 times as long.
    front, behind = map(weights_of, _halved(sizes))
    grid = values.reshape(-1, len(front), len(behind))
    if values.size <= SMALL:
        return np.concatenate([grid @ behind, front @ grid], 1)
    own = torch.from_numpy(grid)
    parts = own @ torch.from_numpy(behind), torch.from_numpy(front) @ own
    return np.concatenate([part.numpy() for part in parts], 1)


@lru_cache(maxsize=64)
def _halved(sizes: Sizes) -> tuple[Sizes, Sizes]:
    """The first axes and the last, with about as many nodes."""
    splits = range(1, len(sizes))
    at = min(splits, key=lambda i: math.prod(sizes[:i]) + math.prod(sizes[i:]))
    return sizes[:at], sizes[at:]


def means_of(values: Values, sizes: Sizes) -> Array:
    """Integrals of values ``(m, k)`` on a grid."""
    if values.size <= SMALL:
        return values @ weights_of(sizes)
    front, behind = map(weights_of, _halved(sizes))
    own = torch.from_numpy(values.reshape(-1, len(behind))) @ torch.from_numpy(behind)
    means: Array = (own.view(-1, len(front)) @ torch.from_numpy(front)).numpy()
    return means


def absolute_of(values: Values, sizes: Sizes, means: Array) -> Array:
    """Integrals of the sizes of values on a grid whose integrals are known."""
    # A third of the time of what follows; most are of one sign.
    if np.minimum.reduce(values, None) >= 0:
        return means
    return means_of(np.abs(values), sizes)


@lru_cache(maxsize=16)
def _ends(sizes: Sizes) -> Array:
    """What means over halves of the axes count in last coefficients, and in the mean.

    Returns:
        Weights of the last Legendre coefficient but one, but not of the first, of each
        axis, of the last of each, and of the mean, ``(k, 2 d + 1)``.
    """
    d, found, axis = len(sizes), [], 0
    for half in _halved(sizes):
        own = np.zeros((math.prod(half), 2 * d + 1))
        for i, n in enumerate(half):
            last = coefficients(n, (max(n - 2, 1), n - 1))
            before, after = weights_of(half[:i]), weights_of(half[i + 1 :])
            spread = np.kron(np.kron(before[:, None], last), after[:, None])
            own[:, [axis, d + axis]] = spread
            axis += 1
        found.append(own)
    found[0][:, -1] = weights_of(_halved(sizes)[0])
    return np.concatenate(found)


def table_of(sizes: Sizes) -> Table:
    """A grid as a rule."""
    return Table(nodes_of(sizes).T, weights_of(sizes))


def nodes_of(sizes: Sizes) -> Array:
    """Nodes of a grid, their coordinates one after another, ``(d, k)``."""
    return (_nodes if math.prod(sizes) <= MOST_CACHED else _new_nodes)(sizes)


def weights_of(sizes: Sizes) -> Array:
    """Weights of a grid, ``(k)``."""
    return (_weights if math.prod(sizes) <= MOST_CACHED else _new_weights)(sizes)


def _both(sizes: Sizes, less: Sizes) -> Array:
    return (_pair if math.prod(sizes) <= MOST_CACHED else _new_pair)(sizes, less)


def _new_pair(sizes: Sizes, less: Sizes) -> Array:
    return _fixed(np.concatenate([nodes_of(less), nodes_of(sizes)], 1))


def _new_nodes(sizes: Sizes) -> Array:
    if not sizes:
        return np.empty((0, 1))
    axes = (gauss_table(n).nodes for n in sizes)
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"))
    return _fixed(nodes.reshape(len(sizes), -1))


def _new_weights(sizes: Sizes) -> Array:
    weights = np.ones(1)
    for n in sizes:
        weights = np.outer(weights, gauss_table(n).weights).ravel()
    return weights


def _fixed(array: Array) -> Array:
    array.setflags(write=False)
    return array


_pair = lru_cache(maxsize=16)(_new_pair)
_nodes = lru_cache(maxsize=16)(_new_nodes)
_weights = lru_cache(maxsize=64)(_new_weights)
