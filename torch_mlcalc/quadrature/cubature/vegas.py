"""VEGAS+: importance sampling by a map that is learned, with adaptive strata."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import numpy as np
import torch
from scipy import special
from torch import Tensor
from torch._functorch.pyfunctorch import (
    temporarily_clear_interpreter_stack as clear,
)
from torch._functorch.pyfunctorch import (
    temporarily_restore_interpreter_stack as restore,
)

from torch_mlcalc.quadrature.cubature.cubature import Outcome, RandomRule
from torch_mlcalc.quadrature.cubature.importance import NEAR, ImportanceMap
from torch_mlcalc.quadrature.cubature.nodes import UnitNodes, block_of_nodes
from torch_mlcalc.quadrature.cubature.plan import NodesPlan
from torch_mlcalc.quadrature.cubature.replicates import (
    CONFIDENCE,
    allowed,
    check_budget,
    check_tails,
    inside,
    judge,
)
from torch_mlcalc.quadrature.cubature.sampler import Sampler
from torch_mlcalc.quadrature.cubature.streams import uniform, uniform_tensor
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, Tails
from torch_mlcalc.quadrature.cubature.tally import Flatness, Iteration, Tally
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import write
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import Array, check_count

#: Half width of the interval in standard deviations.
_QUANTILE = float(special.ndtri((1 + CONFIDENCE) / 2))

#: A map is not trusted that is less flat. Of 18 runs on peaks, kinks, jumps and waves,
#: the five with too little warmup had 0.001 to 0.009, all others 0.27 to 1.
_FLAT = 0.1

Evaluate = Callable[[Array], Values]

#: Streams of random numbers from here on measure, those before it warm up.
_MEASURE = 2**32


@final
@dataclass(frozen=True)
class Vegas(RandomRule):
    r"""VEGAS+: adaptive importance sampling with adaptive stratified sampling.

    .. math:: I \approx \frac{1}{m} \sum_{j=1}^m \sum_h \frac{1}{H n_h}
        \sum_{i=1}^{n_h} J(y_i) f(x(y_i)), \qquad
        \chi^2 = \sum_{j=1}^m \frac{(I_j - I)^2}{\sigma^2}

    The map :math:`x(y)` with Jacobian :math:`J` is piecewise linear on each axis and
    learned in ``warmup`` iterations, in each integral of a batch for itself; so are the
    samples :math:`n_h` in the H strata of the cube. Then both are frozen, and m =
    ``iterations`` more are averaged, with equal weights, as their variances
    :math:`\sigma^2` are then equal. The error is half the width of a 95 % interval,
    widened by :math:`\sqrt{\chi^2 / (m - 1)}` where the iterations scatter more than
    their variance says. It is the rule for peaks of which the axes tell where they
    are; a peak that no sample saw is not found.

    The map does not depend on the integrand's parameters: gradients are those of the
    weighted sum. ``Estimate.plan`` holds it, and ``plan.nodes.chi2``; pass the plan as
    ``start`` to go on from there. :class:`Integral` does so in training, and saves it.

    With ``rtol`` or ``atol`` iterations are added until the error is met or
    ``max_evals`` would be exceeded.

    Args:
        n: Points of an iteration, at least 20.
        iterations: How many are averaged, at least 2.
        warmup: How many adapt the map before; 0 only with ``start``. If the map has not
            settled by then, the status says so.
        alpha: How fast the map adapts, 0 for not at all.
        beta: How far the strata follow the deviation of the integrand, 0 for not.
        start: A plan that ``Vegas`` made in the same dimension. A batch of another
            shape begins with the mean of its maps.
        tails: How infinite axes are stretched; Gaussian tails suit integrands that fall
            like a Gaussian, and are the only ones that work in many such dimensions.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is too small, or ``start`` is not a plan of VEGAS.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> def peak(x):
        ...     return torch.exp(-((x - 0.3) / 0.01).square().sum(-1))
        >>> box = mlc.Box(0.0, 1.0, dimension=4)
        >>> estimate = mlc.integrate_with_error(peak, box, mlc.Vegas(warmup=20))
        >>> exact = (0.01 * torch.pi**0.5) ** 4
        >>> bool((estimate.value / exact - 1).abs() < 0.02)
        True

    References:
        G. P. Lepage, "Adaptive multidimensional integration: VEGAS enhanced", J.
        Comput. Phys. 439 (2021), https://arxiv.org/abs/2009.05112
    """

    n: int = 10_000
    iterations: int = 10
    warmup: int = 10
    alpha: float = 0.5
    beta: float = 0.75
    start: Plan | None = None
    tails: Tails = ALGEBRAIC

    def __post_init__(self) -> None:  # noqa: D105
        check_tails(self.tails)
        check_count("n", self.n, 20)
        check_count("iterations", self.iterations, 2)
        check_count("warmup", self.warmup, 0)
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(
                    f"{name} is {value!r} ({type(value).__name__}); a number is wanted."
                )
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; 0 or more is wanted.")
        if self.start is not None:
            _map_of(self.start)
        elif self.warmup == 0:
            raise ValueError(
                "warmup is 0, so that nothing would be learned; at least 1 is wanted, "
                "or start=, the plan of an earlier call."
            )

    def run(self, sampler: Sampler) -> Outcome:
        """Learn the map, then average iterations at the frozen map."""
        check_budget(self, self.n * (self.warmup + self.iterations), sampler.max_evals)
        seed = sampler.seed()
        # Maps are the same tensors below every transform of torch.func.
        with clear() as transforms:
            evaluate = partial(_evaluate, sampler, transforms)
            first = self._first_map(sampler)
            map_ = self._learned(sampler, first, seed, evaluate)
            average, flat = self._measured(sampler, map_, seed, evaluate)
            learned = map_.edges, map_.counts, map_.strata
        status, error, detail = judge(
            sampler, average.parts, average.value, average.error
        )
        if self.alpha:
            status, detail = _unsettled(flat, status, detail)
        nodes = _freeze(learned, average, seed, sampler)
        done = self.warmup + len(average.parts)
        n_evals = np.full(sampler.elements, self.n * done)
        return Outcome(nodes, average.value, error, status, n_evals, detail)

    def _learned(
        self, sampler: Sampler, map_: ImportanceMap, seed: int, evaluate: Evaluate
    ) -> ImportanceMap:
        for stream in range(self.warmup):
            tally = _iterate(sampler, map_, seed, stream, evaluate)
            map_ = tally.adapted(self.alpha, self.beta)
        return map_

    def _measured(
        self, sampler: Sampler, map_: ImportanceMap, seed: int, evaluate: Evaluate
    ) -> tuple[Average, Array]:
        done: list[Iteration] = []
        flatness = Flatness()
        while True:
            stream = _MEASURE + len(done)
            tally = _iterate(sampler, map_, seed, stream, evaluate)
            done.append(tally.iteration())
            flatness.add(tally)
            ready = len(done) >= self.iterations
            if len(done) < 2 or not (ready or sampler.shows):
                continue
            average = _average(done, sampler)
            sampler.show(average.value, average.error)
            if ready and self._enough(sampler, len(done), average):
                return average, flatness.least()

    def _enough(self, sampler: Sampler, done: int, average: Average) -> bool:
        further = self.n * (self.warmup + done + 1)
        if sampler.tolerance is None or further > sampler.max_evals:
            return True
        missed = average.error > allowed(sampler, average.value)
        return not (missed & np.isfinite(average.error)).any()

    def _first_map(self, sampler: Sampler) -> ImportanceMap:
        elements, dimension = sampler.elements, sampler.dimension
        if self.start is None:
            return ImportanceMap.uniform(elements, dimension, self.n)
        map_ = _map_of(self.start)
        if map_.edges.shape[1] != dimension:
            raise ValueError(
                f"start was made in {map_.edges.shape[1]} dimensions, the domain has "
                f"{dimension}; leave it out."
            )
        same = self.start.batch_shape == sampler.integrand.batch_shape
        times, rest = divmod(elements, len(map_.edges))
        if not same or rest:
            return ImportanceMap.uniform(elements, dimension, self.n).like(map_)
        # The integrals that vmap makes of one have one map to begin with.
        return map_.for_samples(self.n).repeated(times)


@final
@dataclass(frozen=True, eq=False)
class VegasNodes(UnitNodes):
    """The samples of several iterations at a frozen map.

    Attributes:
        edges: Ends of the bins of the map, ``(*batch, d, bins + 1)``.
        counts: Samples in each stratum, ``(*batch, strata)``.
        strata: Strata along an axis.
        iterations: How many; each counts the same.
        chi2: How the iterations scatter about the average in units of their errors;
            about ``iterations - 1`` if all is well, ``(*batch, *event)``.
    """

    dimension: int
    seed: int
    samples: int
    edges: Tensor
    counts: Tensor
    strata: int
    iterations: int
    chi2: Tensor

    @property
    def n(self) -> int:  # type: ignore[override]
        """Of all iterations together."""
        return self.samples * self.iterations

    def unit(
        self, start: int, stop: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Nodes and weights ``start`` to ``stop``."""
        parts = [
            self._of_one(
                each,
                max(start - each * self.samples, 0),
                min(stop - each * self.samples, self.samples),
            )
            for each in range(start // self.samples, (stop - 1) // self.samples + 1)
        ]
        nodes = torch.cat([u for u, _ in parts]).to(device)
        weights = torch.cat([w for _, w in parts]).to(dtype=dtype, device=device)
        return inside(nodes, dtype), weights

    def _of_one(self, iteration: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Samples of an iteration as :meth:`ImportanceMap.place` places them."""
        device, m = self.edges.device, last - first
        *batch, dimension, ends = self.edges.shape
        counts = self.counts.reshape(-1, self.counts.shape[-1])
        stream = _MEASURE + iteration
        u = uniform_tensor(self.seed, stream, first, last, dimension, device)
        sums = counts.cumsum(1)
        number = torch.arange(first, last, device=device)
        number = number + torch.zeros_like(sums[:, :1])
        stratum = torch.searchsorted(sums, number, right=True)
        weights = 1 / (float(counts.shape[1]) * counts.gather(1, stratum).T.to(u.dtype))
        axis = torch.arange(dimension, device=device)
        digits = stratum.T[..., None] // self.strata**axis % self.strata
        per = (ends - 1) / self.strata
        place = digits * per + axis * ends + (u * per)[:, None]
        bin_ = place.to(torch.int64)
        rest = place - bin_
        element = torch.arange(len(counts), device=device)[:, None]
        bin_ = bin_ + element * (dimension * ends)
        width = torch.cat([self.edges.diff(), self.edges.diff()[..., -1:]], -1)
        slope = (width * (ends - 1)).flatten()[bin_]
        nodes = rest * slope * (1 / (ends - 1)) + self.edges.flatten()[bin_]
        nodes = nodes.clamp(NEAR, 1 - 2 * NEAR).reshape(m, *batch, dimension)
        weights = (weights * slope.prod(-1)).reshape(m, *batch)
        return nodes, weights / self.iterations


class Average(NamedTuple):
    """Of iterations, ``(elements, events)``; ``parts`` are their estimates."""

    value: Values
    error: Array
    chi2: Array
    parts: Values


def _map_of(plan: object) -> ImportanceMap:
    nodes = plan.nodes if isinstance(plan, NodesPlan) else None
    if not isinstance(nodes, VegasNodes):
        raise ValueError(
            f"start is {plan!r}; the plan of an integral by Vegas is wanted, for "
            "example that of adapt(integrand, box, Vegas())."
        )
    return ImportanceMap.of(
        nodes.edges.reshape(-1, *nodes.edges.shape[-2:]).cpu().numpy(),
        nodes.counts.reshape(-1, nodes.counts.shape[-1]).cpu().numpy(),
        nodes.strata,
    )


def _evaluate(sampler: Sampler, transforms: list[Any], u: Array) -> Values:
    if not transforms:
        return sampler.values(u)
    with restore(transforms):
        return sampler.values(u)


def _iterate(
    sampler: Sampler, map_: ImportanceMap, seed: int, stream: int, evaluate: Evaluate
) -> Tally:
    """One iteration, block by block."""
    tally = Tally(map_, log=sampler.log)
    start, stop, idle = 0, map_.n, False
    if sampler.ranks is not None:
        start, stop, idle = sampler.ranks.share(map_.n)
    for first, last in _blocks(sampler, start, stop):
        numbers = uniform(seed, stream, first, last, sampler.dimension)
        samples = map_.place(numbers, first)
        tally.add(samples, evaluate(samples.nodes))
    if sampler.ranks is not None:
        tally.gather(sampler.ranks, idle=idle)
    return tally


def _blocks(sampler: Sampler, start: int, stop: int) -> Iterator[tuple[int, int]]:
    size = block_of_nodes(stop - start, sampler.integrand, sampler.memory).size
    for first in range(start, stop, size):
        yield first, min(first + size, stop)


def _average(done: list[Iteration], sampler: Sampler) -> Average:
    """Average of iterations, weighted by the inverses of their variances.

    At a frozen map their true variances are equal, and so are the weights. Weights by
    the single estimates of them would be biased: an iteration that missed a part of the
    integrand also has a small estimate.

    Returns:
        The average, its error and chi2, and the estimates of the iterations.
    """
    top = np.max([each.top for each in done], axis=0)[:, None]
    base = np.where(np.isfinite(top), top, 0.0)
    factor = [np.exp(each.top[:, None] - base) if sampler.log else 1.0 for each in done]
    part = np.stack([e.value * f for e, f in zip(done, factor, strict=True)])
    variances = [e.variance * f**2 for e, f in zip(done, factor, strict=True)]
    variance, value = np.mean(variances, axis=0), part.mean(0)
    some = variance > 0
    chi2 = (np.abs(part - value) ** 2 / np.where(some, variance, 1)).sum(0) * some
    spread = np.maximum(1, chi2 / (len(done) - 1))
    error = _QUANTILE * np.sqrt(variance / len(done) * spread)
    rounding = torch.finfo(sampler.integrand.dtype).eps
    if not sampler.log:
        return Average(value, np.maximum(error, rounding * np.abs(value)), chi2, part)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.maximum(error / value, rounding * (1 + np.abs(base)))
        return Average(np.log(value) + base, error, chi2, np.log(part) + base)


def _unsettled(flat: Array, status: Array, detail: str) -> tuple[Array, str]:
    """Worsen the status of integrals whose map has not found its form."""
    moving = flat < _FLAT
    if moving.any():
        detail += (
            " A map of Vegas has not settled, so that its error means little: raise "
            "warmup or n, or go on from the plan with start=."
        )
    missed = int(Status.TOLERANCE_NOT_REACHED)
    return np.where(moving, np.maximum(status, missed), status), detail


def _freeze(
    learned: tuple[Array, Array, int], average: Average, seed: int, sampler: Sampler
) -> VegasNodes:
    """The nodes of all iterations, mapped as the search was."""
    edges, counts, strata = learned
    batch, lead = sampler.integrand.batch_shape, sampler.lead
    device = sampler.integrand.device

    def tensor(array: Array, *behind: int) -> Tensor:
        """Elements come first; those of vmap stay in front of everything."""
        array = array.reshape((*lead, *batch, *behind))
        with torch.inference_mode(False):
            return write(array.copy(), sampler.mark, device)

    return VegasNodes(
        sampler.dimension,
        seed,
        int(counts[0].sum()),
        tensor(edges, *edges.shape[1:]),
        tensor(counts, *counts.shape[1:]),
        strata,
        len(average.parts),
        tensor(average.chi2, *sampler.event_shape),
    )
