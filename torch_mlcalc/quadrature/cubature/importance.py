"""The importance map of VEGAS+: where its samples go and what they weigh.

Everything has a leading dimension of integrals, ``e``, each with a map of its own. It
is numpy's, as an iteration of a thousand samples is a hundred small operations, which
take half as long there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np
import torch

from torch_mlcalc.quadrature.rules import Array

#: Most bins of an axis, and the fewest samples for each of them in an iteration
#: (Lepage 2021, section II B and the defaults of section V).
_MOST_BINS, _SAMPLES_PER_BIN = 1000, 10

#: Samples that a stratum needs for a variance, and those it has on average at first.
_LEAST, _AVERAGE = 2, 4

#: No node is nearer to a face of the cube than rounding may put it on one.
NEAR = 2.0**-54


@dataclass(frozen=True, eq=False)
class ImportanceMap:
    r"""Piecewise linear maps of the axes of the cube, and strata with samples each.

    .. math:: x_j(y_j) = a_i + (B y_j - i)(a_{i+1} - a_i), \quad
        i = \lfloor B y_j \rfloor

    Attributes:
        edges: The ends :math:`a_i` of the bins, from 0 to 1, ``(e, d, bins + 1)``.
        counts: Samples in each stratum, at least 2 and ``n`` in all, ``(e, strata)``.
        strata: Strata along an axis.
        corners: For each stratum the number of the edge at its lower end on each axis,
            those of the axes one after the other, ``(strata, d)``.
    """

    edges: Array
    counts: Array
    strata: int
    corners: Array

    @staticmethod
    def of(edges: Array, counts: Array, strata: int) -> ImportanceMap:
        """The map with these edges and counts."""
        dimension, ends = edges.shape[1:]
        digits = np.arange(counts.shape[1])[:, None] // strata ** np.arange(dimension)
        corners = digits % strata * ((ends - 1) / strata)
        return ImportanceMap(
            edges, counts, strata, corners + np.arange(dimension) * ends
        )

    @staticmethod
    def uniform(elements: int, dimension: int, n: int) -> ImportanceMap:
        """Equal bins, and strata with equally many samples, but for a remainder."""
        strata = _strata(dimension, n)
        # A multiple, so that no bin reaches into two strata.
        bins = strata * max(1, min(_MOST_BINS, n // _SAMPLES_PER_BIN) // strata)
        edges = np.tile(np.linspace(0, 1, bins + 1), (elements, dimension, 1))
        counts = _even(elements, strata**dimension, n)
        return ImportanceMap.of(edges, counts, strata)

    @cached_property
    def n(self) -> int:
        """Samples of one iteration."""
        return int(self.counts[0].sum())

    @cached_property
    def weights(self) -> Array:
        """One over number of strata and samples in the stratum, ``(e, strata)``."""
        return 1 / (float(self.counts.shape[1]) * self.counts)

    @cached_property
    def slopes(self) -> Array:
        """Derivative of the map in each bin; the last counts twice, as an edge."""
        edges = self.edges
        slopes = np.empty_like(edges)
        np.subtract(edges[..., 1:], edges[..., :-1], out=slopes[..., :-1])
        slopes[..., -1] = slopes[..., -2]
        slopes *= edges.shape[2] - 1
        return slopes

    @cached_property
    def _stratum(self) -> Array:
        """That of each sample, numbered through all integrals, ``(n, e)``."""
        every = np.repeat(np.arange(self.counts.size), self.counts.reshape(-1))
        return np.ascontiguousarray(every.reshape(len(self.counts), self.n).T)

    def for_samples(self, n: int) -> ImportanceMap:
        """The same bins, with strata for another number of samples."""
        if n == self.n:
            return self
        elements, dimension, _ = self.edges.shape
        strata = _strata(dimension, n)
        counts = _even(elements, strata**dimension, n)
        return ImportanceMap.of(self.edges, counts, strata)

    def like(self, other: ImportanceMap) -> ImportanceMap:
        """These strata, with bins that are the mean of those of other integrals."""
        mean = np.repeat(other.edges.mean(0, keepdims=True), len(self.edges), 0)
        return ImportanceMap.of(mean, self.counts, self.strata)

    def repeated(self, times: int) -> ImportanceMap:
        """The maps of all integrals, several times."""
        edges = np.tile(self.edges, (times, 1, 1))
        return replace(self, edges=edges, counts=np.tile(self.counts, (times, 1)))

    def place(self, uniform: Array, first: int) -> Samples:
        """Samples number ``first`` and following, from uniform numbers ``(m, d)``."""
        m, dimension = uniform.shape
        elements, _, ends = self.edges.shape
        stratum = self._stratum[first : first + m]
        own = stratum
        if elements > 1:
            own = stratum - np.arange(elements) * self.counts.shape[1]
        place = self.corners.take(own, axis=0)
        place += (uniform * ((ends - 1) / self.strata))[:, None]
        # Rounding may reach the edge above, which is a bin of its own.
        low = np.floor(place)
        place -= low
        bin_ = low.astype(np.intp)
        if elements > 1:
            offset = np.arange(elements) * (dimension * ends)
            bin_.reshape(m, -1)[:] += np.repeat(offset, dimension)
        slope = self.slopes.reshape(-1).take(bin_)
        place *= slope
        place *= 1 / (ends - 1)
        place += self.edges.reshape(-1).take(bin_)
        torch.from_numpy(place).clamp_(NEAR, 1 - 2 * NEAR)
        return Samples(place, slope, stratum, bin_, self.weights.reshape(-1))

    def refined(self, weight: Array, total: Array, alpha: float) -> ImportanceMap:
        """The map with bins narrowed where the integrand is large.

        Args:
            weight: Sum of the weights of the samples in each bin, ``(e, d, bins)``.
            total: Sum of weighted squares of integrand times jacobian, the same.
            alpha: Damping; 0 leaves the map as it is.

        Returns:
            A new map with the old strata.
        """
        if alpha == 0:
            return self
        mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
        # Lepage 2021, section II: smoothing, then damping.
        smooth = 6 * mean
        smooth[..., 1:] += mean[..., :-1]
        smooth[..., :-1] += mean[..., 1:]
        smooth[..., 0] += mean[..., 0]
        smooth[..., -1] += mean[..., -1]
        scale = smooth.sum(-1, keepdims=True)
        seen = (scale > 0) & np.isfinite(scale)
        share = np.where(seen, smooth / scale, 1 / mean.shape[-1])
        damped = np.where(share < 1, (share - 1) / np.log(share), 1) ** alpha
        return replace(self, edges=_equalised(self.edges, damped))

    def restratified(self, deviation: Array, beta: float) -> ImportanceMap:
        """The map with more samples in strata ``(e, strata)`` of large deviation."""
        largest = deviation.max(1, keepdims=True)
        seen = (largest > 0) & np.isfinite(largest)
        share = np.where(seen, deviation / largest, 1)
        return replace(self, counts=_apportion(share**beta, self.n))


class Samples(NamedTuple):
    """Some samples of an iteration.

    Attributes:
        nodes: Points in the unit cube, ``(m, e, d)``.
        slope: Derivative of the map on each axis, ``(m, e, d)``.
        stratum: Where they belong, numbered through all integrals, ``(m, e)``.
        bin: Where they belong on each axis, numbered likewise, ``(m, e, d)``.
        weights: One over number of strata and samples, of each stratum.
    """

    nodes: Array
    slope: Array
    stratum: Array
    bin: Array
    weights: Array

    @property
    def jacobian(self) -> Array:
        """The derivative of the map, ``(m, e)``."""
        # One axis after the other, in a thirtieth of the time of numpy's product.
        slopes = [self.slope[..., axis] for axis in range(self.slope.shape[-1])]
        return reduce(np.multiply, slopes)

    @property
    def log_jacobian(self) -> Array:
        """Its log, ``(m, e)``."""
        with np.errstate(divide="ignore"):
            return np.log(self.slope).sum(-1)

    @property
    def weight(self) -> Array:
        """One over number of strata and samples in the stratum, ``(m, e)``."""
        return self.weights.take(self.stratum)


def _strata(dimension: int, n: int) -> int:
    """Strata along an axis, for about four samples in each (section III)."""
    strata = int((n / _AVERAGE) ** (1 / dimension) + 1e-9)
    return min(max(strata, 1), _MOST_BINS)


def _even(elements: int, strata: int, n: int) -> Array:
    return _apportion(np.ones((elements, strata)), n)


def _apportion(share: Array, n: int) -> Array:
    """Whole numbers, at least two and ``n`` in all, near to proportional to shares."""
    strata = share.shape[1]
    spare = n - _LEAST * strata
    exact = share / share.sum(1, keepdims=True) * spare
    counts = np.floor(exact)
    # The largest remainders get what is left; of equal ones the first.
    rest = exact - counts
    left = (spare - counts.sum(1)).astype(np.intp)
    at = np.minimum(strata - left, strata - 1)
    last = np.sort(rest, axis=1)[np.arange(len(at)), at][:, None]
    above, equal = rest > last, rest == last
    equal &= equal.cumsum(1) <= (left - above.sum(1))[:, None]
    counts += _LEAST
    counts += above | equal
    return counts.astype(np.int64)


def _equalised(edges: Array, share: Array) -> Array:
    """Edges between which every bin holds the same part of the shares."""
    ends = edges.shape[-1]
    ladder = np.zeros(edges.shape)
    share.cumsum(-1, out=ladder[..., 1:])
    wanted = ladder[..., -1:] * (np.arange(ends) / (ends - 1))
    new = np.empty_like(edges)
    rows = [a.reshape(-1, ends) for a in (new, wanted, ladder, edges)]
    for row, *known in zip(*rows, strict=True):
        row[:] = np.interp(*known)
    np.maximum.accumulate(new, axis=-1, out=new)
    new[..., 0], new[..., -1] = 0, 1
    return new
