"""The importance map of VEGAS+: where its samples go and what they weigh.

Everything has a leading dimension of integrals, ``e``, each with a map of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

#: Most bins of an axis, and the fewest samples for each of them in an iteration
#: (Lepage 2021, section II B and the defaults of section V).
_MOST_BINS, _SAMPLES_PER_BIN = 1000, 10

#: Samples that a stratum needs for a variance, and those it has on average at first.
_LEAST, _AVERAGE = 2, 4

#: No node is nearer to a face of the cube than rounding may put it on one.
_NEAR = 2.0**-54


@dataclass(frozen=True, eq=False)
class ImportanceMap:
    r"""Piecewise linear maps of the axes of the cube, and strata with samples each.

    .. math:: x_j(y_j) = a_i + (B y_j - i)(a_{i+1} - a_i), \quad
        i = \lfloor B y_j \rfloor

    Attributes:
        edges: The ends :math:`a_i` of the bins, from 0 to 1, ``(e, d, bins + 1)``.
        counts: Samples in each stratum, at least 2 and ``n`` in all, ``(e, strata)``.
        strata: Strata along an axis.
    """

    edges: Tensor
    counts: Tensor
    strata: int

    @staticmethod
    def uniform(elements: int, dimension: int, n: int) -> ImportanceMap:
        """Equal bins, and strata with equally many samples, but for a remainder."""
        strata = _strata(dimension, n)
        # A multiple, so that no bin reaches into two strata.
        bins = strata * max(1, min(_MOST_BINS, n // _SAMPLES_PER_BIN) // strata)
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device="cpu")
        edges = edges.expand(elements, dimension, -1).contiguous()
        return ImportanceMap(edges, _even(elements, strata**dimension, n), strata)

    @property
    def n(self) -> int:
        """Samples of one iteration."""
        return int(self.counts[0].sum())

    def for_samples(self, n: int) -> ImportanceMap:
        """The same bins, with strata for another number of samples."""
        if n == self.n:
            return self
        elements, dimension, _ = self.edges.shape
        strata = _strata(dimension, n)
        return ImportanceMap(self.edges, _even(elements, strata**dimension, n), strata)

    def like(self, other: ImportanceMap) -> ImportanceMap:
        """These strata, with bins that are the mean of those of other integrals."""
        mean = other.edges.mean(0).expand(len(self.edges), -1, -1)
        return replace(self, edges=mean.contiguous())

    def repeated(self, times: int) -> ImportanceMap:
        """The maps of all integrals, several times."""
        edges = self.edges.repeat(times, 1, 1)
        return replace(self, edges=edges, counts=self.counts.repeat(times, 1))

    def place(self, uniform: Tensor, first: int) -> Samples:
        """Samples number ``first`` and following, from uniform numbers ``(m, d)``."""
        m, dimension = uniform.shape
        ends = self.counts.cumsum(1)
        number = torch.arange(first, first + m, device=uniform.device)
        number = number + torch.zeros_like(ends[:, :1])
        stratum = torch.searchsorted(ends, number, right=True).T.contiguous()
        count = self.counts.gather(1, stratum.T).T.to(uniform.dtype)
        power = self.strata ** torch.arange(dimension, device=uniform.device)
        digits = stratum[..., None] // power % self.strata
        y = (digits + uniform[:, None]) / self.strata
        bin_, nodes, width = self._bins(y)
        bins = self.edges.shape[-1] - 1
        log_jacobian = torch.log(width * bins).sum(-1)
        volume = float(self.counts.shape[1])
        return Samples(nodes, log_jacobian, stratum, bin_, 1 / (volume * count))

    def _bins(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bin, node and width of the bin for ``y`` in the cube, all ``(m, e, d)``."""
        elements, dimension, ends = self.edges.shape
        bins = ends - 1
        bin_ = (y * bins).to(torch.int64).clamp(max=bins - 1)
        axis = torch.arange(elements * dimension, device=y.device)
        index = bin_ + axis.reshape(elements, dimension) * ends
        flat = self.edges.flatten()
        low, high = flat[index], flat[index + 1]
        nodes = low + (high - low) * (y * bins - bin_)
        return bin_, nodes.clamp(_NEAR, 1 - 2 * _NEAR), high - low

    def refined(self, weight: Tensor, total: Tensor, alpha: float) -> ImportanceMap:
        """The map with bins narrowed where the integrand is large.

        Args:
            weight: Sum of the weights of the samples in each bin, ``(e, d, bins)``.
            total: Sum of weighted squares of integrand times jacobian, the same.
            alpha: Damping; 0 leaves the map as it is.

        Returns:
            A new map with the old strata.
        """
        mean = torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0)
        edge = mean[..., :1], mean[..., -1:]
        padded = torch.cat([edge[0], mean, edge[1]], -1)
        # Lepage 2021, section II: smoothing, then damping.
        smooth = (padded[..., :-2] + 6 * mean + padded[..., 2:]) / 8
        scale = smooth.sum(-1, keepdim=True)
        seen = (scale > 0) & scale.isfinite()
        share = torch.where(
            seen, smooth / torch.where(seen, scale, 1), 1 / mean.shape[-1]
        )
        inner = (share > 0) & (share < 1)
        safe = torch.where(inner, share, 0.5)
        damped = torch.where(inner, (1 - safe) / -torch.log(safe), share) ** alpha
        return replace(self, edges=_equalised(self.edges, damped))

    def restratified(self, deviation: Tensor, beta: float) -> ImportanceMap:
        """The map with more samples in strata ``(e, strata)`` of large deviation."""
        largest = deviation.amax(1, keepdim=True)
        seen = (largest > 0) & largest.isfinite()
        share = torch.where(seen, deviation / torch.where(seen, largest, 1), 1)
        return replace(self, counts=_apportion(share**beta, self.n))


class Samples(NamedTuple):
    """Some samples of an iteration.

    Attributes:
        nodes: Points in the unit cube, ``(m, e, d)``.
        log_jacobian: Log of the derivative of the map there, ``(m, e)``.
        stratum: Where they belong, ``(m, e)``.
        bin: Where they belong on each axis, ``(m, e, d)``.
        weight: One over number of strata and samples in the stratum, ``(m, e)``.
    """

    nodes: Tensor
    log_jacobian: Tensor
    stratum: Tensor
    bin: Tensor
    weight: Tensor


def _strata(dimension: int, n: int) -> int:
    """Strata along an axis, for about four samples in each (section III)."""
    strata = int((n / _AVERAGE) ** (1 / dimension) + 1e-9)
    return min(max(strata, 1), _MOST_BINS)


def _even(elements: int, strata: int, n: int) -> Tensor:
    return _apportion(
        torch.ones(elements, strata, dtype=torch.float64, device="cpu"), n
    )


def _apportion(share: Tensor, n: int) -> Tensor:
    """Whole numbers, at least two and ``n`` in all, near to proportional to shares."""
    strata = share.shape[1]
    spare = n - _LEAST * strata
    exact = share / share.sum(1, keepdim=True) * spare
    counts = torch.floor(exact)
    # The largest remainders get what is left.
    order = (exact - counts).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    left = spare - counts.sum(1, keepdim=True)
    return counts.to(torch.int64) + _LEAST + (rank < left).to(torch.int64)


def _equalised(edges: Tensor, share: Tensor) -> Tensor:
    """Edges between which every bin holds the same part of the shares."""
    bins = share.shape[-1]
    ladder = torch.cat([torch.zeros_like(share[..., :1]), share.cumsum(-1)], -1)
    step = torch.arange(1, bins, dtype=share.dtype, device=share.device) / bins
    wanted = ladder[..., -1:] * step
    above = torch.searchsorted(ladder, wanted.contiguous()).clamp(1, bins)
    low, high = ladder.gather(-1, above - 1), ladder.gather(-1, above)
    left, right = edges.gather(-1, above - 1), edges.gather(-1, above)
    rise = (wanted - low) / torch.where(high > low, high - low, 1)
    inner = left + (right - left) * rise
    return torch.cat([edges[..., :1], inner.cummax(-1).values, edges[..., -1:]], -1)
