"""Rules of equal weights whose independent replicates tell the error."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from torch_mlcalc.quadrature.cubature.cubature import Outcome, RandomRule
from torch_mlcalc.quadrature.cubature.nodes import UnitNodes
from torch_mlcalc.quadrature.cubature.sampler import Sampler
from torch_mlcalc.quadrature.cubature.tails import Tails
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.rules import Array

#: Confidence of the intervals whose half width is the error.
CONFIDENCE = 0.95


class EqualWeights(UnitNodes):
    """Nodes in the unit cube of which each counts the same."""

    def unit(
        self, start: int, stop: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Nodes and weights ``start`` to ``stop``."""
        # In parts, as the compiler passes no object that it did not see made.
        settings = tuple([getattr(self, name) for name in type(self)._names()])
        nodes = _points(type(self), settings, start, stop, dtype, device)
        weights = torch.full((stop - start,), 1 / self.n, dtype=dtype, device=device)
        return nodes, weights

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(cls.__dataclass_fields__)  # type: ignore[attr-defined]

    @abstractmethod
    def points(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Points ``start`` to ``stop`` in the closed cube, float64 ``(n, d)``."""


def _points(
    family: type[EqualWeights],
    settings: tuple[Any, ...],
    start: int,
    stop: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    return inside(family(*settings).points(start, stop, device), dtype)


# The compiler cannot trace the random numbers; see also host.py.
_points._dynamo_marked_constant = True  # type: ignore[attr-defined]


def inside(points: Tensor, dtype: torch.dtype) -> Tensor:
    """Points in a dtype, off the faces of the cube, on which rounding puts some."""
    info = torch.finfo(dtype)
    return points.to(dtype).clamp(info.eps**2, 1 - info.eps / 2)


class ReplicatedRule(RandomRule):
    """A rule that averages independent replicates, and doubles them on demand.

    Attributes:
        n: Points to begin with, of each replicate or in all.
        replicates: How many estimates tell the error.
    """

    n: int
    replicates: int

    @abstractmethod
    def cube_nodes(self, dimension: int, seed: int, first: int, last: int) -> UnitNodes:
        """Points ``first`` to ``last``, of each replicate or in all."""

    @property
    @abstractmethod
    def most(self) -> int:
        """Largest ``n``."""

    def sizes(self, n: int) -> list[int]:
        """Nodes in each part: equal replicates, and perhaps what is left over."""
        return [n] * self.replicates

    def estimates(self, sampler: Sampler, nodes: UnitNodes) -> Values:
        """Estimates by each of these parts, ``(parts, elements, events)``."""
        return sampler.sums(nodes, self.replicates)

    def run(self, sampler: Sampler) -> Outcome:
        """Evaluate the replicates, and double them until the tolerance is met."""
        check_budget(self, sum(self.sizes(self.n)), sampler.max_evals)
        seed, n = sampler.seed(), self.n
        first = self.cube_nodes(sampler.dimension, seed, 0, n)
        parts = self.estimates(sampler, first)
        while True:
            share = np.array(self.sizes(n)) / sum(self.sizes(n))
            value, error = _mean(parts, share, self.replicates, sampler)
            sampler.show(value, error)
            if self._enough(sampler, n, value, error):
                break
            more = self.cube_nodes(sampler.dimension, seed, n, 2 * n)
            further = self.estimates(sampler, more)
            parts = _halfway(parts, further, log=sampler.log)
            n *= 2
        status, error, detail = judge(sampler, parts, value, error)
        nodes = self.cube_nodes(sampler.dimension, seed, 0, n)
        n_evals = np.full(sampler.elements, nodes.n)
        return Outcome(nodes, value, error, status, n_evals, detail)

    def _enough(self, sampler: Sampler, n: int, value: Values, error: Array) -> bool:
        if sampler.tolerance is None or 2 * n > self.most:
            return True
        if 2 * sum(self.sizes(n)) > sampler.max_evals:
            return True
        # What is not finite will not become so.
        done = (error <= allowed(sampler, value)) | ~np.isfinite(error)
        return bool(done.all())


def check_tails(tails: object) -> None:
    """Refuse what is not a kind of tails."""
    if not isinstance(tails, Tails):
        raise TypeError(
            f"tails is {tails!r}; Tails.ALGEBRAIC or Tails.GAUSSIAN is wanted."
        )


def check_budget(rule: RandomRule, count: int, max_evals: int) -> None:
    """Refuse a rule that needs more points than it may use."""
    if count > max_evals:
        raise ValueError(
            f"{rule} needs {count} evaluations, max_evals is {max_evals}; raise it, or "
            "use fewer points."
        )


def allowed(sampler: Sampler, value: Values) -> Array:
    """Error at which an integral counts as converged."""
    tolerance = sampler.tolerance
    if tolerance is None:
        return np.full(value.shape, np.inf)
    if sampler.log:
        return np.full(value.shape, max(tolerance.rtol, tolerance.atol))
    return np.maximum(tolerance.atol, tolerance.rtol * np.abs(value))


def judge(
    sampler: Sampler, parts: Values, value: Values, error: Array
) -> tuple[Array, Array, str]:
    """Status, error and a word on what went wrong.

    Args:
        sampler: What was integrated.
        parts: Estimates whose mean is the value, ``(parts, elements, events)``.
        value: The integrals, ``(elements, events)``.
        error: Their errors.

    Returns:
        A :class:`Status` for each integral, the errors, and a sentence or nothing.
    """
    nothing = -np.inf if sampler.log else 0
    unseen = (parts == nothing).all((0, 2)) & ~sampler.empty
    finite = np.isfinite(value) | (value == nothing)
    broken = ~finite.all(1)
    error = np.where(unseen[:, None] | ~finite, np.inf, np.nan_to_num(error, nan=0.0))
    missed = (error > allowed(sampler, value)).any(1) | unseen
    status = np.where(missed, int(Status.TOLERANCE_NOT_REACHED), int(Status.CONVERGED))
    status = np.where(broken, int(Status.NON_FINITE), status)
    detail = ""
    if unseen.any():
        detail = (
            " An integrand was exactly 0 at every point: take more points, or a "
            "smaller domain around where it is not."
        )
    if broken.any():
        detail = (
            f" Integral {int(broken.argmax())} was not finite at some of its points."
        )
    return status, error, detail


def _mean(
    parts: Values, share: Array, replicates: int, sampler: Sampler
) -> tuple[Values, Array]:
    """Weighted mean of the parts, and half the width of its confidence interval."""
    weight = share[:, None, None]
    with np.errstate(invalid="ignore", over="ignore"):
        if sampler.log:
            value = special.logsumexp(parts, axis=0, b=weight)
            spread = np.exp(parts[:replicates] - value)
        else:
            value = (weight * parts).sum(0)
            spread = parts[:replicates]
        # A part is a mean over a share of the nodes: its variance is that of the mean
        # of all, divided by the share.
        deviation = spread.std(axis=0, ddof=1) * math.sqrt(share[0])
        error = special.stdtrit(replicates - 1, (1 + CONFIDENCE) / 2) * deviation
        rounding = torch.finfo(sampler.integrand.dtype).eps
        size = 1 + np.abs(value) if sampler.log else np.abs(value)
        return value, np.maximum(error, rounding * size)


def _halfway(one: Values, other: Values, *, log: bool) -> Values:
    with np.errstate(invalid="ignore", over="ignore"):
        if log:
            return np.logaddexp(one, other) - math.log(2)
        return (one + other) / 2
