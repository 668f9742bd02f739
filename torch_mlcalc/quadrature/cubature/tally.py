"""One iteration of VEGAS+: its estimate, and what it teaches about the integrand."""

from __future__ import annotations

from typing import NamedTuple

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

    All have a leading dimension of integrals ``e`` and, last, events ``v``. In the log
    form everything is relative to ``exp(top)``, the largest value so far.

    Attributes:
        finite: Whether all values were finite, ``(e,)``.
    """

    def __init__(self, map_: ImportanceMap, *, log: bool) -> None:
        """Begin with nothing."""
        self._map = map_
        self._log = log
        elements, dimension, ends = map_.edges.shape
        self._bins = map_.edges.new_zeros(2, elements * dimension * (ends - 1))
        self._sums: Tensor | None = None
        self._squares = torch.zeros(0, device="cpu")
        self.top = map_.edges.new_full((elements,), -torch.inf if log else 0.0)
        self.finite = torch.ones(elements, dtype=torch.bool, device=map_.edges.device)

    def add(self, samples: Samples, values: Tensor) -> None:
        """Add values ``(m, e, v)`` of the integrand, or of its log."""
        values = self._scaled(samples, values)
        size = values.abs().square()
        elements, strata = self._map.counts.shape
        events = values.shape[2]
        if self._sums is None:
            self._sums = values.new_zeros(elements * strata, events)
            self._squares = size.new_zeros(elements * strata, events)
        offset = torch.arange(elements, device=values.device)
        index = (samples.stratum + offset * strata).flatten()
        self._sums.index_add_(0, index, values.flatten(0, 1))
        self._squares.index_add_(0, index, size.flatten(0, 1))
        self._teach(samples, size.sum(2))

    def _scaled(self, samples: Samples, values: Tensor) -> Tensor:
        """Values times jacobian, relative to the top; 0 where they are not finite."""
        log_jacobian = samples.log_jacobian[..., None]
        if not self._log:
            finite = values.isfinite()
            self.finite &= finite.all(2).all(0)
            return torch.where(finite, values, 0) * torch.exp(log_jacobian)
        finite = values < torch.inf
        self.finite &= finite.all(2).all(0)
        terms = torch.where(finite, values + log_jacobian, -torch.inf)
        top = torch.maximum(self.top, terms.amax((0, 2)))
        base = torch.where(top > -torch.inf, top, 0)
        shrink = torch.exp(torch.where(self.top > -torch.inf, self.top - base, 0))
        self._shrink(shrink)
        self.top = top
        return torch.exp(terms - base[:, None])

    def _shrink(self, factor: Tensor) -> None:
        elements = len(factor)
        squares = factor.square()
        by_element = self._bins[1].reshape(elements, -1)
        by_element *= squares[:, None]
        if self._sums is not None:
            self._sums.reshape(elements, -1).mul_(factor[:, None])
            self._squares.reshape(elements, -1).mul_(squares[:, None])

    def _teach(self, samples: Samples, size: Tensor) -> None:
        """Weighted squares by bin: large where more samples are wanted."""
        elements, dimension, ends = self._map.edges.shape
        axis = torch.arange(elements * dimension, device=size.device)
        index = samples.bin + axis.reshape(elements, dimension) * (ends - 1)
        weight = samples.weight[..., None].expand(index.shape)
        self._bins[0].index_add_(0, index.flatten(), weight.flatten())
        self._bins[1].index_add_(
            0, index.flatten(), (weight * size[..., None]).flatten()
        )

    def gather(self, ranks: Ranks, *, idle: bool) -> None:
        """Add the sums of all ranks, each over samples of its own.

        Args:
            ranks: The processes.
            idle: Whether this one had none, so that what it added does not count.
        """
        if idle:
            for sums in (self._bins, self._sums, self._squares):
                assert sums is not None  # noqa: S101
                sums.zero_()
            self.finite.fill_(True)
            self.top = torch.full_like(self.top, -torch.inf if self._log else 0.0)
        rows = ranks.gather(torch.cat([self.top, self._flat()]))
        tops = torch.stack([row[: len(self.top)] for row in rows])
        self.top = tops.amax(0)
        base = torch.where(self.top > -torch.inf, self.top, 0)
        total = torch.zeros((), device="cpu")
        for row, top in zip(rows, tops, strict=True):
            self._load(row[len(top) :])
            self._shrink(torch.exp(torch.where(top > -torch.inf, top - base, 0)))
            total = total + self._flat()
        self._load(total)

    def _flat(self) -> Tensor:
        """All sums and what is not finite, as one row of real numbers."""
        assert self._sums is not None  # noqa: S101
        broken = (~self.finite).to(self._bins.dtype)
        sums = _as_real(self._sums)
        return torch.cat(
            [broken, *(s.flatten() for s in (self._bins, self._squares, sums))]
        )

    def _load(self, row: Tensor) -> None:
        """Take back such a row."""
        sums = self._sums
        assert sums is not None  # noqa: S101
        e, bins, squares = len(self.top), self._bins.numel(), self._squares.numel()
        broken, b, q, s = torch.split(
            row.clone(), [e, bins, squares, len(row) - e - bins - squares]
        )
        self.finite = broken == 0
        self._bins, self._squares = b.reshape(2, -1), q.reshape(self._squares.shape)
        self._sums = (
            torch.view_as_complex(s.reshape(*sums.shape, 2))
            if sums.is_complex()
            else s.reshape(sums.shape)
        )

    def iteration(self) -> Iteration:
        """What the samples say; nan where one of them was not finite."""
        counts = self._map.counts[..., None]
        strata = counts.shape[1]
        assert self._sums is not None  # noqa: S101
        sums = self._sums.reshape(*counts.shape[:2], -1)
        value = (sums / counts).sum(1) / strata
        value = torch.where(self.finite[:, None], value, torch.nan)
        variance = (self._variance() / counts).sum(1) / strata**2
        return Iteration(value.numpy(), variance.numpy(), self.top.numpy())

    def _variance(self) -> Tensor:
        """Variance of the samples in each stratum, ``(e, strata, v)``."""
        counts = self._map.counts[..., None]
        assert self._sums is not None  # noqa: S101
        sums = self._sums.reshape(*counts.shape[:2], -1)
        squares = self._squares.reshape(*counts.shape[:2], -1)
        return (squares - sums.abs().square() / counts).clamp(min=0) / (counts - 1)

    def bins(self) -> Tensor:
        """Weights, and weighted squares of the values, by bin, ``(2, e, d, bins)``."""
        return self._bins.reshape(2, *self._map.edges.shape[:2], -1)

    def adapted(self, alpha: float, beta: float) -> ImportanceMap:
        """The map that this iteration suggests."""
        weight, total = self.bins()
        deviation = self._variance().sum(2).sqrt()
        return self._map.refined(weight, total, alpha).restratified(deviation, beta)


def _as_real(sums: Tensor) -> Tensor:
    return torch.view_as_real(sums) if sums.is_complex() else sums


class Flatness:
    r"""How evenly the bins of a map share the square of the integrand.

    .. math:: \frac{(\sum_i d_i)^2}{B \sum_i d_i^2}

    with the mean squares :math:`d_i` of the B bins: 1 on an axis where the map is
    perfect, 1 / B where all is in one bin.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._sums: Tensor | None = None
        self._top = torch.zeros(0, device="cpu")

    def add(self, tally: Tally) -> None:
        """Take in one more iteration at the same map."""
        if self._sums is None:
            self._sums, self._top = tally.bins().clone(), tally.top
            return
        top = torch.maximum(self._top, tally.top)
        base = torch.where(top.isfinite(), top, 0)
        old, new = (torch.exp(2 * (t - base)) for t in (self._top, tally.top))
        weight = self._sums[0] + tally.bins()[0]
        total = [
            s[1] * f[:, None, None] for s, f in ((self._sums, old), (tally.bins(), new))
        ]
        self._sums, self._top = torch.stack([weight, total[0] + total[1]]), top

    def least(self) -> Array:
        """That of the worst axis of each integral, ``(e,)``."""
        assert self._sums is not None  # noqa: S101
        weight, total = self._sums
        mean = torch.where(weight > 0, total / torch.where(weight > 0, weight, 1), 0)
        mean = mean / mean.amax(-1, keepdim=True).clamp(
            min=torch.finfo(mean.dtype).tiny
        )
        squares = mean.square().sum(-1)
        flat = mean.sum(-1).square() / (mean.shape[-1] * squares.clamp(min=1))
        return torch.where(squares > 0, flat, 1).amin(-1).numpy()
