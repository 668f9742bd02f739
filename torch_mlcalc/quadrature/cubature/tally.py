"""One iteration of VEGAS+: its estimate, and what it teaches about the integrand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.importance import ImportanceMap, Samples
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.sharding import Ranks


class Iteration(NamedTuple):
    """Estimate and variance ``(elements, events)`` in units of ``exp(top)``."""

    value: Values
    variance: Array
    top: Array


class Tally:
    """Sums over the samples of one iteration, added block by block.

    All have a dimension of integrals ``e`` and, in front, events ``v``. In the log form
    everything is relative to ``exp(top)``, the largest value so far.

    Attributes:
        finite: Whether all values were finite, ``(e,)``.
    """

    def __init__(self, map_: ImportanceMap, *, log: bool) -> None:
        """Begin with nothing."""
        self._map = map_
        self._log = log
        elements = len(map_.edges)
        self._bins: Array = np.zeros((2, map_.edges.size))
        # Of the values (complex ones have two rows each) and of their squares.
        self._sums: Array = np.zeros((0, map_.counts.size))
        self._squares = self._sums
        self._complex = False
        self.top = np.full(elements, -np.inf if log else 0.0)
        self.finite = np.ones(elements, dtype=np.bool_)

    def add(self, samples: Samples, values: Values) -> None:
        """Add values ``(m, e, v)`` of the integrand, or of its log."""
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._scaled(samples, values)
            rows = values.reshape(-1, values.shape[2])
            self._complex = np.iscomplexobj(rows)
            parts = rows.view(float) if self._complex else rows
            squares = parts * parts
            if self._complex:
                squares = squares[:, ::2] + squares[:, 1::2]
            if not len(self._sums):
                self._sums = np.zeros((parts.shape[1], self._map.counts.size))
                self._squares = np.zeros((squares.shape[1], self._map.counts.size))
            index = torch.from_numpy(samples.stratum.reshape(-1))
            _add(self._sums, index, parts)
            _add(self._squares, index, squares)
            size = squares.sum(1) if squares.shape[1] > 1 else squares[:, 0]
            self._teach(samples, size)

    def _scaled(self, samples: Samples, values: Values) -> Values:
        """Values times jacobian, relative to the top; 0 where they are not finite."""
        finite = values < np.inf if self._log else np.isfinite(values)
        if not finite.all():
            self.finite &= finite.all((0, 2))
            values = np.where(finite, values, -np.inf if self._log else 0)
        if not self._log:
            return values * samples.jacobian[..., None]
        terms = values + samples.log_jacobian[..., None]
        top = np.maximum(self.top, terms.max((0, 2)))
        self._shrink(_ratio(self.top, top))
        self.top = top
        terms -= _base(top)[:, None]
        return np.exp(terms, out=terms)

    def _shrink(self, factor: Array) -> None:
        elements = len(factor)
        squares = factor * factor
        by_element = self._bins[1].reshape(elements, -1)
        by_element *= squares[:, None]
        if len(self._sums):
            shape = (-1, *self._map.counts.shape)
            for sums, by in ((self._sums, factor), (self._squares, squares)):
                every = sums.reshape(shape)
                every *= by[:, None]

    def _teach(self, samples: Samples, size: Array) -> None:
        """Weighted squares by bin: large where more samples are wanted."""
        dimension = samples.bin.shape[2]
        index = torch.from_numpy(samples.bin.reshape(-1))
        weight = samples.weight.reshape(-1)
        for sums, each in zip(self._bins, (weight, weight * size), strict=True):
            part = torch.from_numpy(np.repeat(each, dimension))
            torch.from_numpy(sums).index_add_(0, index, part)

    def gather(self, ranks: Ranks, *, idle: bool) -> None:
        """Add the sums of all ranks, each over samples of its own.

        Args:
            ranks: The processes.
            idle: Whether this one had none, so that what it added does not count.
        """
        if idle:
            for sums in (self._bins, self._sums, self._squares):
                sums.fill(0)
            self.finite.fill(True)
            self.top = np.full_like(self.top, -np.inf if self._log else 0.0)
        rows = ranks.gather(torch.from_numpy(np.concatenate([self.top, self._flat()])))
        arrays = [row.numpy() for row in rows]
        tops = np.stack([row[: len(self.top)] for row in arrays])
        self.top = tops.max(0)
        total = np.zeros(())
        for row, top in zip(arrays, tops, strict=True):
            self._load(row[len(top) :])
            self._shrink(_ratio(top, self.top))
            total = total + self._flat()
        self._load(total)

    def _flat(self) -> Array:
        """All sums and what is not finite, as one row of real numbers."""
        every = (~self.finite, self._bins, self._squares, self._sums)
        return np.concatenate([part.reshape(-1) for part in every])

    def _load(self, row: Array) -> None:
        """Take back such a row."""
        sizes = [len(self.top), self._bins.size, self._squares.size]
        broken, bins, squares, sums = np.split(row.copy(), np.cumsum(sizes))
        self.finite = broken == 0
        self._bins = bins.reshape(2, -1)
        self._squares = squares.reshape(self._squares.shape)
        self._sums = sums.reshape(self._sums.shape)

    def iteration(self) -> Iteration:
        """What the samples say; nan where one of them was not finite."""
        weights = self._map.weights
        with np.errstate(over="ignore", invalid="ignore"):
            parts = (self._by_stratum(self._sums) * weights).sum(2).T
            value = np.ascontiguousarray(parts)
            value = value.view(complex) if self._complex else value
            value = np.where(self.finite[:, None], value, np.nan)
            variance = (self._variance() * weights).sum(2).T / weights.shape[1]
        return Iteration(value, variance, self.top)

    def _variance(self) -> Array:
        """Variance of the samples in each stratum, ``(v, e, strata)``."""
        counts = self._map.counts
        squares = self._by_stratum(self._sums) ** 2
        if self._complex:
            squares = squares[::2] + squares[1::2]
        variance = self._by_stratum(self._squares) - squares / counts
        np.maximum(variance, 0, out=variance)
        variance /= counts - 1
        return variance

    def _by_stratum(self, sums: Array) -> Array:
        return sums.reshape(-1, *self._map.counts.shape)

    def bins(self) -> Array:
        """Weights, and weighted squares of the values, by bin, ``(2, e, d, bins)``."""
        return self._bins.reshape(2, *self._map.edges.shape)[..., :-1]

    def adapted(self, alpha: float, beta: float) -> ImportanceMap:
        """The map that this iteration suggests."""
        with np.errstate(all="ignore"):
            deviation = np.sqrt(self._variance().sum(0))
            weight, total = self.bins()
            refined = self._map.refined(weight, total, alpha)
            return refined.restratified(deviation, beta)


def _add(sums: Array, index: Tensor, values: Array) -> None:
    """Add each column of values to a row of sums."""
    # numpy's bincount makes new sums, many for a block of a batch.
    for row, column in zip(sums, values.T, strict=True):
        torch.from_numpy(row).index_add_(0, index, torch.from_numpy(column))


def _base(top: Array) -> Array:
    return np.where(top > -np.inf, top, 0)


def _ratio(old: Array, new: Array) -> Array:
    """From units of ``exp(old)`` to those of ``exp(new)``."""
    return np.exp(np.where(old > -np.inf, old - _base(new), 0))


class Flatness:
    r"""How evenly the bins of a map share the square of the integrand.

    .. math:: \frac{(\sum_i d_i)^2}{B \sum_i d_i^2}

    with the mean squares :math:`d_i` of the B bins: 1 on an axis where the map is
    perfect, 1 / B where all is in one bin.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._sums: Array | None = None
        self._top = np.zeros(0)

    def add(self, tally: Tally) -> None:
        """Take in one more iteration at the same map."""
        if self._sums is None:
            self._sums, self._top = tally.bins().copy(), tally.top
            return
        new = tally.bins()
        with np.errstate(over="ignore", invalid="ignore"):
            top = np.maximum(self._top, tally.top)
            self._sums[1] *= _ratio(2 * self._top, 2 * top)[:, None, None]
            self._sums[1] += new[1] * _ratio(2 * tally.top, 2 * top)[:, None, None]
        self._sums[0] += new[0]
        self._top = top

    def least(self) -> Array:
        """That of the worst axis of each integral, ``(e,)``."""
        assert self._sums is not None  # noqa: S101
        weight, total = self._sums
        with np.errstate(over="ignore", invalid="ignore"):
            mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
            mean /= np.maximum(mean.max(-1, keepdims=True), np.finfo(float).tiny)
            squares = (mean * mean).sum(-1)
            flat = mean.sum(-1) ** 2 / (mean.shape[-1] * np.maximum(squares, 1))
        return np.where(squares > 0, flat, 1).min(-1)
