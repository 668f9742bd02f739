"""Tensor products of Gauss rules with a number of nodes for each axis."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from torch_mlcalc.quadrature.cubature.along import Probe
from torch_mlcalc.quadrature.cubature.regions import (
    Regions,
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
    probe: Probe, regions: Regions, sizes: Sizes, less: Sizes
) -> list[Values] | None:
    """Values ``(m, k)`` on two grids in regions, if they are all finite.

    Args:
        probe: The integrand.
        regions: Where.
        sizes: Of one grid, whose values are the last that are asked for.
        less: Of the other.

    Returns:
        Those of either.
    """
    m, counts = len(regions.owner), [math.prod(less), math.prod(sizes)]
    if m * sum(counts) > probe.block:
        found = [_by_blocks(probe, regions, own) for own in (less, sizes)]
        return None if found[1] is None else [v for v in found if v is not None]
    points = _both(sizes, less)
    if m > 1:
        low, width = regions.low.T[..., None], (regions.high - regions.low).T[..., None]
        parts = np.split(points, counts[:1], 1)
        placed = [low + width * p[:, None] for p in parts]
        points = np.concatenate([p.reshape(len(p), -1) for p in placed], 1)
    values = probe(points.T)
    if values is None:
        return None
    split = m * counts[0]
    return [values[:split].reshape(m, -1), values[split:].reshape(m, -1)]


def _by_blocks(probe: Probe, regions: Regions, sizes: Sizes) -> Values | None:
    """Values ``(m, k)`` on a grid in regions."""
    m, split = len(regions.owner), 0
    while math.prod(sizes[split:]) > probe.block:
        split += 1
    outer, inner = nodes_of(sizes[:split]), nodes_of(sizes[split:])
    low, width = regions.low.T[..., None], (regions.high - regions.low).T[..., None]
    b, a = outer.shape[1], inner.shape[1]
    some, values = max(probe.block // a, 1), np.empty((m * b, a))
    for first in range(0, m * b, some):
        region, front = np.divmod(np.arange(first, min(first + some, m * b)), b)
        # The coordinates of all points one after another: sums over the few of a point
        # then run over many points at once, in a half to a fifth of the time.
        points = np.empty((len(sizes), len(region), a))
        points[:split] = outer[:, front, None]
        points[split:] = inner[:, None]
        if m > 1:
            points *= width[:, region]
            points += low[:, region]
        found = probe(points.reshape(len(sizes), -1).T)
        if found is None:
            return None
        values[first : first + some] = found.reshape(-1, a)
    return values.reshape(m, -1)


def marginals(values: Values, sizes: Sizes) -> Marginals:
    """Integrals of values ``(m, k)`` on a grid, and how well each axis is resolved."""
    m, d = len(values), len(sizes)
    found = (integrated(values, sizes) @ _ends(sizes)).T
    return Marginals(found[-1], np.maximum.reduce(np.abs(found[:-1].reshape(2, d, m))))


def integrated(values: Values, sizes: Sizes) -> Array:
    """Means over all axes but one, at the nodes on each, ``(m, sum(sizes))``."""
    m, d = len(values), len(sizes)
    every, stop = np.empty((m, sum(sizes))), sum(sizes)
    # Of the values with all axes behind summed up, those in front are.
    behind = values
    for axis in range(d - 1, -1, -1):
        n = sizes[axis]
        own = every[:, stop - n : stop]
        if axis:
            own[:] = _times(weights_of(sizes[:axis]), behind.reshape(m, -1, n))
            behind = _summed(behind, n)
        else:
            own[:] = behind.reshape(m, n)
        stop -= n
    return every


def means_of(values: Values, sizes: Sizes) -> Array:
    """Integrals of values ``(m, k)`` on a grid."""
    if values.size <= SMALL:
        return values @ weights_of(sizes)
    for n in reversed(sizes):
        values = _summed(values, n)
    return values


def _summed(values: Values, n: int) -> Values:
    """The sum over the last axis, whatever is before."""
    weights, values = gauss_table(n).weights, values.reshape(-1, n)
    if values.size <= SMALL:
        return values @ weights
    own: Values = (torch.from_numpy(values) @ _shared(n)).numpy()
    return own


def _times(weights: Array, table: Values) -> Values:
    """The sum over the axis before the last, ``(m, n)``."""
    if table.size <= SMALL * len(table):
        return weights @ table
    own: Values = (torch.from_numpy(weights) @ torch.from_numpy(table)).numpy()
    return own


@lru_cache(maxsize=64)
def _shared(n: int) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.from_numpy(gauss_table(n).weights.copy())


@lru_cache(maxsize=16)
def _ends(sizes: Sizes) -> Array:
    """What the marginals of all axes count in their last coefficients, and the mean.

    Returns:
        Weights of the last Legendre coefficient but one, but not of the first, of each
        axis, of the last of each, and of the mean, ``(sum(sizes), 2 d + 1)``.
    """
    d, found, start = len(sizes), np.zeros((sum(sizes), 2 * len(sizes) + 1)), 0
    for axis, n in enumerate(sizes):
        own = found[start : start + n]
        own[:, [axis, d + axis]] = coefficients(n, (max(n - 2, 1), n - 1))
        start += n
    found[: sizes[0], -1] = gauss_table(sizes[0]).weights
    return found


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
