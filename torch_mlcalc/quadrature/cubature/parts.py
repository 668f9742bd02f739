"""The parts of a cube between kinks, and tensor rules on all of them."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.along import Parts, Probe, product
from torch_mlcalc.quadrature.cubature.climbed import Climbed, Sum
from torch_mlcalc.quadrature.cubature.genz_malik import DEGREE
from torch_mlcalc.quadrature.cubature.genz_malik_table import symmetric_table
from torch_mlcalc.quadrature.cubature.grid import Sizes, table_of
from torch_mlcalc.quadrature.cubature.ladder import Stage, stage_of
from torch_mlcalc.quadrature.cubature.regions import Regions, Table, whole_cubes
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.ledger import ROUNDING
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array


class Fitted(NamedTuple):
    """An integral with all that it was made of.

    Attributes:
        sizes: Nodes of the rule on each axis; None for the rule of Genz and Malik.
        regions: Where.
        columns: Value, error and absolute integral of each region, ``(3, m)``.
        each: Weights of the values in a region, if there are more than that rule has.
    """

    sizes: Sizes | None
    regions: Regions
    columns: Array
    each: Array | None = None

    @property
    def table(self) -> Table:
        """The rule on each region."""
        if self.sizes is None:
            return Table(*symmetric_table(DEGREE, self.regions.low.shape[1])[:2])
        return table_of(self.sizes)

    @property
    def weights(self) -> Array:
        """Those of all values, one region after another."""
        volume = (self.regions.high - self.regions.low).prod(1)
        own = self.table.weights if self.each is None else self.each
        return np.outer(volume, own).ravel()


def cut_places(places: list[float]) -> Parts:
    """Ends of the parts of each axis that is cut at one place, if not at nan."""
    return [[0.0, 1.0] if math.isnan(x) else [0.0, x, 1.0] for x in places]


def between(parts: Parts) -> Regions:
    """Every combination of parts of the axes."""
    counts = tuple(len(ends) - 1 for ends in parts)
    if max(counts) == 1:
        return whole_cubes(1, counts)
    owner, piece, corners = _combinations(counts)
    low, high = np.array(list(itertools.chain(*parts)))[corners]
    return Regions(owner, piece, low, high)


def climb_parts(
    probe: Probe, regions: Regions, last: int | None = None, begin: int = 1
) -> Fitted | None:
    """Take the steps of :func:`climb` on parts of the cube, if they will do.

    Args:
        probe: The integrand.
        regions: The parts.
        last: The step before which to stop.
        begin: The first step, of which the rule before is evaluated too.

    Returns:
        The integral, or None where more is needed.
    """
    terms, begun = probe.terms._replace(parts=True), Climbed(begin)
    d, m, width = terms.dimension, len(regions.low), regions.high - regions.low
    volume = np.multiply.reduce(width, 1) * probe.volume
    while not begun.left and begun.step != last:
        stage = stage_of(begun.step, d, first=begun.before is None)
        if stage.n * m > probe.block:
            return None
        points = width.T[..., None] * stage.table.nodes.T[:, None]
        points += regions.low.T[..., None]
        values = probe(points.reshape(d, -1).T)
        if values is None:
            return None
        columns = sums_of_parts(stage, values.reshape(m, -1).T, volume)
        sums = whole_sums(columns, terms.epsilon)
        if not sums[-1].absolute:
            return None
        begun = begun.judged(sums, terms)
        if begun.done:
            kept = columns[-1]
            kept[1] = begun.error / m
            return Fitted((stage.size,) * d, regions, kept, stage.table.weights)
    return None


def sums_of_parts(stage: Stage, values: Values, volume: Array) -> Array:
    """Value, last coefficients and absolute integral of regions, ``(rules, 3, m)``."""
    m = volume.size
    values = values.reshape(-1, m)
    rows = product(stage.rows, values).reshape(-1, stage.each, m)
    found = np.empty((len(rows), 3, m))
    found[:, 0] = rows[:, 0]
    np.abs(rows, out=rows)
    np.maximum.reduce(rows[:, 1:], 1, out=found[:, 1])
    found[:, 2] = product(stage.table.weights[None], np.abs(values))
    found *= np.abs(volume)
    if volume[0] < 0:
        found[:, 0] *= -1.0
    return found


def whole_sums(columns: Array, epsilon: float) -> list[Sum]:
    """The sums of all regions for each rule."""
    totals: list[list[float]] = np.add.reduce(columns, 2).tolist()
    least = ROUNDING * epsilon
    return [Sum(value, max(tail, least * size), size) for value, tail, size in totals]


@lru_cache(maxsize=64)
def _combinations(counts: tuple[int, ...]) -> tuple[Index, Index, Index]:
    """Owner and piece of each region, and the numbers of its ends, ``(2, m, d)``."""
    begins = np.cumsum([0, *(k + 1 for k in counts[:-1])])
    first = np.array(list(itertools.product(*map(range, counts)))) + begins
    corners = np.stack([first, first + 1])
    return np.zeros(len(first), np.int64), np.zeros(first.shape, np.int64), corners
