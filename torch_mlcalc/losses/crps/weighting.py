"""Weights of the CRPS by threshold and by quantile level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from torch_mlcalc.special.tail import tail_nodes

Weight = Callable[[Tensor], Tensor] | tuple[float, float] | None


@dataclass(frozen=True)
class Thresholds:
    r"""How much each threshold x counts: a measure on the line.

    Attributes:
        lower: Below it nothing counts.
        upper: Above it nothing counts.
        density: A function of x that counts in between, or None for 1.
    """

    lower: float = -math.inf
    upper: float = math.inf
    density: Callable[[Tensor], Tensor] | None = None

    @staticmethod
    def of(weight: Weight) -> Thresholds:
        """From what the caller passed."""
        if weight is None:
            return Thresholds()
        if callable(weight):
            return Thresholds(density=weight)
        return Thresholds(*weight)

    @property
    def unbounded(self) -> bool:
        """Whether thresholds count however far off they are."""
        return (self.lower, self.upper) == (-math.inf, math.inf)

    @property
    def plain(self) -> bool:
        """Whether all thresholds count alike."""
        return self.density is None and self.unbounded

    def clip(self, x: Tensor) -> Tensor:
        """Points moved to where something counts."""
        return x.clamp(self.lower, self.upper)

    def at(self, x: Tensor, values: Tensor) -> Tensor:
        """Values times the density."""
        return values if self.density is None else values * self.density(x)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """The measure of what is between two points, for a density by a fixed rule."""
        a, b = self.clip(a), self.clip(b)
        if self.density is None:
            return b - a
        nodes, weights = tail_nodes(a.dtype, a.device)
        shape = (-1, *(1,) * a.ndim)
        values = self.density(a + (b - a) * nodes.reshape(shape))
        return (b - a) * (weights.reshape(shape) * values).sum(0)


@dataclass(frozen=True)
class Levels:
    r"""How much each quantile level counts, as two functions of a probability.

    The quantile score integrated over the levels with a weight v is, by parts,

    .. math:: \int_{-\infty}^y V(F(x))\,dx + \int_y^\infty W(F(x))\,dx, \qquad
        V(p) = \int_0^p 2 s\,v(s)\,ds, \qquad W(p) = \int_p^1 2 (1 - s)\,v(s)\,ds

    Without a weight these are :math:`p^2` and :math:`(1 - p)^2`.

    References:
        Gneiting and Ranjan, "Comparing density forecasts using threshold- and quantile-
        weighted scoring rules" (2011), section 3.
        https://doi.org/10.1198/jbes.2010.08110
    """

    lower: float = 0.0
    upper: float = 1.0
    density: Callable[[Tensor], Tensor] | None = None

    @staticmethod
    def of(weight: Weight) -> Levels:
        """From what the caller passed."""
        if weight is None:
            return Levels()
        if callable(weight):
            return Levels(density=weight)
        return Levels(*weight)

    @property
    def plain(self) -> bool:
        """Whether all levels count alike."""
        return self.density is None and (self.lower, self.upper) == (0.0, 1.0)

    def below(self, p: Tensor) -> Tensor:
        """V, the integrand below the observation, of the probability below."""
        if self.density is None:
            return p.clamp(self.lower, self.upper).square() - self.lower**2
        return self._mean(p * p, lambda u: p * u)

    def above(self, q: Tensor) -> Tensor:
        """W, the integrand above the observation, of the probability above."""
        if self.density is None:
            low, high = 1 - self.upper, 1 - self.lower
            return q.clamp(low, high).square() - low**2
        return self._mean(q * q, lambda u: 1 - q * u)

    def _mean(self, size: Tensor, level: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean of the weight over levels, with a density 2 u on [0, 1]."""
        assert self.density is not None  # noqa: S101
        nodes, weights = tail_nodes(size.dtype, size.device)
        shape = (-1, *(1,) * size.ndim)
        u, w = nodes.reshape(shape), weights.reshape(shape)
        return size * (2 * u * w * self.density(level(u))).sum(0)


def check_weights(threshold: Weight, quantile: Weight) -> None:
    """Refuse weights that are neither a function nor an interval.

    Args:
        threshold: A function or an interval of thresholds, or None.
        quantile: A function or an interval of levels, or None.

    Raises:
        TypeError: If one is of another type.
        ValueError: If an interval is empty or not within [0, 1], or both are given.
    """
    if threshold is not None and quantile is not None:
        raise ValueError(
            "threshold_weight and quantile_weight exclude each other; pass one of them"
        )
    _check_interval("threshold_weight", threshold, -math.inf, math.inf)
    _check_interval("quantile_weight", quantile, 0.0, 1.0)


def _check_interval(name: str, weight: Weight, least: float, most: float) -> None:
    if weight is None or callable(weight):
        return
    if (
        not isinstance(weight, tuple)
        or len(weight) != 2
        or not all(type(end) in (int, float) for end in weight)
    ):
        raise TypeError(
            f"{name} must be a function, or a pair of numbers (lower, upper), got "
            f"{weight!r}"
        )
    lower, upper = weight
    if not least <= lower < upper <= most:
        raise ValueError(
            f"{name} must have {least} <= lower < upper <= {most}, got {weight!r}"
        )
