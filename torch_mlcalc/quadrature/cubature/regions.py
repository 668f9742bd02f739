"""Regions of the unit cube on the host, and rules that are used on each of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.gauss import GaussLegendre
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array, table


class Regions(NamedTuple):
    """Boxes in the cubes of some integrals.

    Breakpoints divide the cube of an integral into pieces; a region lies in one piece
    and counts from its ends, so that it moves with them.

    Attributes:
        owner: The integral of each region, ``(m)``.
        piece: Between which breakpoints it is on each axis, ``(m, d)``.
        low: Where it begins, as a fraction of the piece, ``(m, d)``.
        high: Where it ends.
    """

    owner: Index
    piece: Index
    low: Array
    high: Array

    def take(self, index: npt.NDArray[Any]) -> Regions:
        """Some of the regions."""
        return Regions(*(column[index] for column in self))

    def cut(self, axis: Index, place: Array) -> Regions:
        """Both parts of each region, cut across one axis each, at a fraction of it."""
        rows = np.arange(axis.size)
        low, high = self.low[rows, axis], self.high[rows, axis]
        below, above = self.high.copy(), self.low.copy()
        below[rows, axis] = above[rows, axis] = low + (high - low) * place
        return join_regions([self._replace(high=below), self._replace(low=above)])


def join_regions(parts: list[Regions]) -> Regions:
    """Regions one after another."""
    return Regions(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@lru_cache(maxsize=8)
def whole_cubes(elements: int, pieces: tuple[int, ...]) -> Regions:
    """Every piece of every cube, given how many there are on each axis."""
    grid = np.array(list(itertools.product(*(range(k) for k in pieces))))
    piece = np.tile(grid, (elements, 1))
    owner = np.repeat(np.arange(elements), len(grid))
    cubes = Regions(owner, piece, np.zeros(piece.shape), np.ones(piece.shape))
    for array in cubes:
        array.setflags(write=False)
    return cubes


@lru_cache(maxsize=8)
def no_regions(dimension: int) -> Regions:
    """None at all."""
    return whole_cubes(0, (1,) * dimension)


class Table(NamedTuple):
    """A rule on the unit cube: all its nodes, or those of one axis of a tensor grid.

    Attributes:
        nodes: ``(k, d)``, or ``(n)`` of one axis.
        weights: They sum to 1, likewise.
    """

    nodes: Array
    weights: Array

    def count(self, dimension: int) -> int:
        """Number of nodes."""
        return len(self.nodes) ** (1 if self.nodes.ndim == 2 else dimension)

    def block(self, start: int, stop: int, dimension: int) -> tuple[Array, Array]:
        """Nodes ``(k, d)`` and weights ``(k)``, ``start`` to ``stop``."""
        if self.nodes.ndim == 2:
            return self.nodes[start:stop], self.weights[start:stop]
        digits = np.unravel_index(
            np.arange(start, stop), (len(self.nodes),) * dimension
        )
        index = np.stack(digits, -1)
        return self.nodes[index], self.weights[index].prod(-1)


@lru_cache(maxsize=64)
def gauss_table(n: int) -> Table:
    """Gauss-Legendre on ``[0, 1]``, for each axis of a tensor grid."""
    nodes, weights = table(GaussLegendre(n))
    return Table((1 + nodes) / 2, weights / 2)


@lru_cache(maxsize=64)
def coefficients(n: int, degrees: tuple[int, ...]) -> Array:
    """Weights of Legendre coefficients of these degrees, ``(n, degrees)``."""
    u, w = gauss_table(n)
    every = np.polynomial.legendre.legvander(2 * u - 1, n - 1)
    of = np.array(degrees)
    found: Array = w[:, None] * every[:, of] * (2 * of + 1)
    return found


def mean_and(n: int, degrees: tuple[int, ...]) -> Array:
    """Weights of the mean, and of coefficients, ``(n, 1 + degrees)``."""
    return np.column_stack([gauss_table(n).weights, coefficients(n, degrees)])


def resolved(values: Array, rows: Sequence[Array]) -> list[float]:
    """Mean of values on a grid ``(k)``, and coefficients along each of its axes.

    It takes a third of the time of a product with weights of all nodes.

    Args:
        values: The first axis varies most slowly.
        rows: For each axis the weights of the mean and of coefficients, ``(n, c)``.

    Returns:
        The mean, and then the coefficients along one axis after another.
    """
    for own in rows:
        # What is left of this axis comes last, and the next one first.
        values = values.reshape(len(own), -1).T.dot(own)
    every: list[float] = values.ravel().tolist()
    found, stop, c = every[:1], len(every), rows[0].shape[1]
    for _ in rows:
        found += every[stop // c : stop : stop // c]
        stop //= c
    return found
