"""Double-exponential rule: a trapezoidal rule in a variable that tames both ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch

from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.gauss_kronrod import judge
from torch_mlcalc.quadrature.ledger import Amount, Ledger, unlogged
from torch_mlcalc.quadrature.pieces import Index, Part
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import Array, Rule, check_count
from torch_mlcalc.quadrature.search import Sample, Search
from torch_mlcalc.quadrature.variables import Jobs, double_exponential

#: Step of level 0; every level halves it and keeps all nodes so far.
FIRST_STEP = 0.5

#: Between two levels the number of right digits doubles for an integrand analytic near
#: the interval. A level that shrinks the change less than this is not of that kind.
LINEAR = 0.1

#: Last term over largest term at which the sum shows no sign of ending: 1/x has 1.
FLAT = 0.1


@final
@dataclass(frozen=True)
class DoubleExponential(Rule):
    r"""Trapezoidal rule in a double-exponential variable, nested levels.

    .. math:: \int f(x)\,dx = \int f(\phi(t))\,\phi'(t)\,dt
        \approx h \sum_j f(\phi(jh))\,\phi'(jh)

    with tanh-sinh on finite intervals, exp-sinh on half lines and sinh-sinh on the real
    line. Singularities at the ends do no harm: no end is ever evaluated, and distances
    from an end keep all their digits.

    Args:
        max_level: Number of times that the step may be halved, from 1/2 on.

    Raises:
        TypeError: If ``max_level`` is not an integer.
        ValueError: If ``max_level`` is less than 1.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.integrate(torch.log, mlc.Interval(0, 2), mlc.DoubleExponential())
        tensor(-0.6137)

    References:
        H. Takahasi, M. Mori, "Double exponential formulas for numerical integration",
        Publ. RIMS 9 (1974), https://doi.org/10.2977/prims/1195192451
    """

    max_level: int = 8

    def __post_init__(self) -> None:  # noqa: D105
        check_count("max_level", self.max_level, 1)


#: Units in the last place that a point keeps from a finite end other than 0: closer,
#: its distance from the end is known to less than three digits.
GUARD = 1024.0

Mask = npt.NDArray[Any]


class Leftover(NamedTuple):
    """Jobs that did not converge, and the range of ``t`` that matters to them."""

    jobs: Jobs
    low: Array
    high: Array
    peak: Array
    step: Array

    def take(self, index: Mask) -> Leftover:
        """Some of the jobs."""
        return Leftover(self.jobs.take(index), *(column[index] for column in self[1:]))


@dataclass
class Levels:
    """All nodes so far of some jobs.

    Attributes:
        jobs: The jobs.
        t: Nodes in the order of evaluation, ``(n,)``.
        sample: The integrand there, ``(n, jobs, events)``.
        low: Where the terms of each job begin to matter, ``(jobs,)``.
        high: Where they end to.
        value: Sum of the level before, ``(jobs, events)``.
        change: Change between the two levels before.
        log_unit: What both are relative to.
        slow: Whether the level before gained little.
        weights: Weights of the nodes so far, ``(n, jobs)``.
    """

    jobs: Jobs
    t: Array
    sample: Sample
    low: Array
    high: Array
    value: npt.NDArray[Any]
    change: Array
    log_unit: Array
    slow: Mask
    weights: Array

    def take(self, index: Mask) -> Levels:
        """Some of the jobs."""
        return Levels(
            self.jobs.take(index),
            self.t,
            Sample(*(column[:, index] for column in self.sample)),
            self.low[index],
            self.high[index],
            self.value[index],
            self.change[index],
            self.log_unit[index],
            self.slow[index],
            self.weights[:, index],
        )

    def matters(self) -> Mask:
        """Which nodes lie in the range of each job."""
        t = self.t[:, None]
        return (t >= self.low) & (t <= self.high)

    def extend(self, t: Array, sample: Sample) -> None:
        """Add the nodes of a new level."""
        self.t = np.concatenate([self.t, t])
        self.sample = Sample(
            *(np.concatenate(pair) for pair in zip(self.sample, sample, strict=True))
        )


def reach(dtype: torch.dtype) -> float:
    """Largest ``|t|``, in halves, whose positions a dtype can tell from 0 and inf."""
    digits = -math.log(torch.finfo(dtype).tiny)
    return math.floor(2 * math.asinh(digits / math.pi)) / 2


def refine(
    search: Search, jobs: Jobs, max_level: int, *, patient: bool
) -> list[Leftover]:
    """Halve the step until each job is converged; return those that are not.

    Args:
        search: The integrals, and the ledger that everything is booked in.
        jobs: Whole pieces, or windows at an end of a finite one.
        max_level: Number of times the step may be halved.
        patient: Whether all jobs end here. Otherwise those that converge slowly are
            returned early, for a rule that can look at parts of the range.

    Returns:
        The jobs that are left.
    """
    ledger, left = search.ledger, []
    levels = _first_level(search, jobs)
    for level in range(1, max_level + 1):
        step = FIRST_STEP / 2**level
        _add_level(search, levels, step)
        owner = search.elements(levels.jobs)
        amount, tail, endless, slow = _measure(ledger, levels, step)
        unseen = (amount.absolute == 0).all(1)
        total = ledger.with_open(owner, amount)
        flawed = (levels.matters() & ~levels.sample.finite).any(0)
        done = ~judge(ledger, owner, amount, total, flawed)
        # A range on which nothing is seen may be empty; a whole line hardly is.
        unseen &= levels.jobs.kind != FINITE
        done &= ~unseen
        spent = ledger.n_evals[owner] + 2 * levels.t.size > ledger.max_evals
        last = spent | (level == max_level)
        # What lies beyond the range of the dtype no other rule would find either.
        cut = (
            _in_total(tail, amount, total, owner) > ledger.allowed(total)[owner]
        ).any(1)
        tired = (endless | cut | (slow & (not patient) & ~unseen)) & (level >= 3)
        stop = ~done & (last | tired)
        ends = done | (stop & (patient | endless | cut | unseen | spent))
        ledger.blame(owner[stop & endless], Status.SUSPECTED_DIVERGENT)
        ledger.blame(owner[stop & flawed & (patient | spent)], Status.NON_FINITE)
        ledger.unseen[owner[stop & unseen]] = True
        if ends.any():
            ledger.add(owner[ends], amount.take(ends))
            _book(ledger, levels.take(ends))
        if (stop & ~ends).any():
            left.append(_leftover(ledger, levels.take(stop & ~ends), step))
        levels = levels.take(~stop & ~done)
        if not levels.jobs.piece.size:
            break
    return left


def _first_level(search: Search, jobs: Jobs) -> Levels:
    """Level 0 over all of the reachable range, which it then narrows."""
    edge = reach(search.evaluate.integrand.dtype)
    t = np.arange(-edge, edge + FIRST_STEP / 2, FIRST_STEP)
    sample = search.sample(
        jobs, np.tile(t[:, None], (1, jobs.piece.size)), double_exponential, guard=GUARD
    )
    values, log_unit = unlogged(sample.values, log=search.ledger.log)
    value = FIRST_STEP * values.sum(0)
    change = np.full(log_unit.shape, np.inf)
    size = np.abs(values).max(-1, initial=0.0)
    # Terms that far below the sum decay double-exponentially further out.
    cut = max(search.ledger.epsilon, 1e-4 * search.ledger.tolerance.rtol)
    seen = size > cut * size.sum(0)
    nothing = ~seen.any(0)
    first = np.where(nothing, 0, seen.argmax(0))
    last = np.where(nothing, t.size - 1, t.size - 1 - seen[::-1].argmax(0))
    usable = sample.inside & sample.finite
    column = np.arange(jobs.piece.size)
    before, after = np.maximum(first - 1, 0), np.minimum(last + 1, t.size - 1)
    first = np.where(usable[before, column], before, first)
    last = np.where(usable[after, column], after, last)
    slow = np.zeros(log_unit.shape, bool)
    weights = np.full(usable.shape, FIRST_STEP)
    return Levels(
        jobs, t, sample, t[first], t[last], value, change, log_unit, slow, weights
    )


def _add_level(search: Search, levels: Levels, step: float) -> None:
    low, high = levels.low.min(), levels.high.max()
    first = math.ceil((low / step - 1) / 2)
    last = math.floor((high / step - 1) / 2)
    t = (2 * np.arange(first, last + 1) + 1) * step
    grid = np.tile(t[:, None], (1, levels.jobs.piece.size))
    levels.extend(t, search.sample(levels.jobs, grid, double_exponential, guard=GUARD))


def _measure(
    ledger: Ledger, levels: Levels, step: float
) -> tuple[Amount, Array, Mask, Mask]:
    """Sum of each job, what is beyond its range, whether it is endless, or slow."""
    nothing = -np.inf if ledger.log else 0.0
    used = np.where(levels.matters()[..., None], levels.sample.values, nothing)
    values, log_unit = unlogged(used, log=ledger.log)
    weights, tail, endless = _weigh(levels, values, step)
    value = (weights[..., None] * values).sum(0)
    absolute = (weights[..., None] * np.abs(values)).sum(0)
    with np.errstate(invalid="ignore"):
        factor = np.exp(levels.log_unit - log_unit)
    factor = np.where(np.isneginf(levels.log_unit), 0, factor)
    change = np.abs(value - levels.value * factor)
    with np.errstate(invalid="ignore", divide="ignore"):
        before = np.where(np.isinf(levels.change), np.inf, levels.change * factor)
        relative = np.where(absolute > 0, change / absolute, 0)
    # Where halving squares the relative error, a change of e^2 after one of e leaves an
    # error of e^4; e^3 is believed, by either change, as one may be small by chance.
    slow = (change > LINEAR * before) & (change > ledger.epsilon * absolute)
    with np.errstate(invalid="ignore", divide="ignore"):
        earlier = np.where(absolute > 0, before / absolute, 0)
    gained = absolute * np.maximum(relative**1.5, np.minimum(earlier, 1) ** 3)
    # Not before a step of 1/16: exp(-|x|) passes at 1/8 and is then wrong by 2e-4.
    # Nor after a level that gained nothing: a kink can pass one by chance.
    plain = slow | levels.slow | (step > FIRST_STEP / 8)
    error = np.where(plain, change, np.minimum(gained, change))
    amount = Amount(value, error + tail, absolute, log_unit)
    amount.error = np.maximum(amount.error, ledger.rounding(amount))
    levels.value, levels.change, levels.log_unit = value, change, log_unit
    levels.slow, levels.weights = slow, weights
    return amount, tail, np.any(endless, axis=1), np.any(slow, axis=1)


def _in_total(size: Array, amount: Amount, total: Amount, owner: Index) -> Array:
    """A size in the unit of an amount, in that of the total of its integral."""
    with np.errstate(invalid="ignore"):
        factor = np.exp(amount.log_unit - total.log_unit[owner])
    return np.where(np.isneginf(amount.log_unit), 0, size * factor)


def _weigh(
    levels: Levels, values: npt.NDArray[Any], step: float
) -> tuple[Array, Array, Mask]:
    """Weights of the nodes, the error of their ends, and whether there is no end.

    Where rounding or the range of the dtype cuts the sum off, the outermost node also
    stands for the nodes beyond, as if the integrand were a power of the distance there.

    Returns:
        Weights ``(n, jobs)``, error and flag ``(jobs, events)``.
    """
    order = np.argsort(levels.t)
    usable = (levels.matters() & levels.sample.inside & levels.sample.finite)[order]
    t, size = np.abs(levels.t[order]), np.abs(values[order])
    weights = step * usable
    tail: Array = np.zeros(size.shape[1:])
    endless: Mask = np.zeros(size.shape[1:], bool)
    largest, column = size.max(0), np.arange(size.shape[1])
    for direction in (slice(None), slice(None, None, -1)):
        mask, terms = usable[direction], size[direction].max(-1, initial=0.0)
        end = mask.argmax(0)
        nodes = np.minimum(end + np.arange(3)[:, None], len(mask) - 1)
        rest, doubt = _beyond(t[direction][nodes], terms[nodes, column], step)
        last = size[direction][end, column]
        tail += step * doubt[:, None] * last
        endless |= (last > FLAT * largest) & (largest > 0)
        weights[direction][end, column] += step * rest * mask[end, column]
    unsorted = np.empty_like(weights)
    unsorted[order] = weights
    return unsorted, tail, endless


def _beyond(t: Array, terms: Array, step: float) -> tuple[Array, Array]:
    r"""Sum of the terms beyond the outermost, in units of it, and its uncertainty.

    If the integrand is a power of the distance from the end, its terms are
    :math:`c \cosh(t) e^{k \sinh t}`; two neighbouring terms give k, and the next two
    give another one.

    Args:
        t: Absolute values of the three outermost nodes, ``(3, jobs)``.
        terms: Terms there, ``(3, jobs)``.
        step: Distance to the nodes that are missing.

    Returns:
        Both ``(jobs,)``.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(terms) - np.log(np.cosh(t))
        rates = (logs[:-1] - logs[1:]) / (np.sinh(t[:-1]) - np.sinh(t[1:]))
    missing = t[0] + step * np.arange(1, 1 + math.ceil(3 / step))[:, None]
    growth = np.cosh(missing) / np.cosh(t[0])
    rise = np.sinh(missing) - np.sinh(t[0])
    # A term that is 0, or two alike as in a batch of one node, say nothing.
    usable = np.isfinite(rates).all(0) & (rates < 0).all(0)
    rates = np.where(usable, rates, -np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        first, second = ((growth * np.exp(rate * rise)).sum(0) for rate in rates)
    flat = ~usable & (terms[0] > 0)
    # Two estimates of the rate differ by what the integrand is not a power; 5e-5 more
    # is for the rounding of the points: on the test problems, at most 4e-5.
    doubt = np.abs(first - second) + 5e-5 * first
    return np.where(usable, first, 0), np.where(flat, 1 / step, doubt)


def _book(ledger: Ledger, levels: Levels) -> None:
    """Write the nodes of finished jobs down for the plan."""
    used = levels.matters() & levels.sample.inside & levels.sample.finite
    some = used.any(1)
    used, t = used[some], levels.t[some]
    if not t.size:
        used, t = np.zeros((1, used.shape[1]), bool), np.zeros(1)
    grid = np.tile(t[:, None], (1, used.shape[1]))
    # Nodes that another job needs and this one does not: repeat one that it does.
    own = t[used.argmax(0)]
    grid = np.where(used, grid, own)
    positions, slope = double_exponential(levels.jobs, grid)
    weights = levels.weights[some] if t.size > 1 or some.any() else np.zeros_like(grid)
    weights = np.where(used, weights * slope, 0)
    jobs = levels.jobs
    ledger.parts.append(Part(jobs.piece, positions, weights, jobs.low, jobs.high))


def _leftover(ledger: Ledger, levels: Levels, step: float) -> Leftover:
    size = np.where(
        levels.matters()[..., None],
        levels.sample.values if ledger.log else np.abs(levels.sample.values),
        -np.inf,
    ).max(-1)
    peak = levels.t[size.argmax(0)]
    count = levels.low.size
    return Leftover(levels.jobs, levels.low, levels.high, peak, np.full(count, step))
