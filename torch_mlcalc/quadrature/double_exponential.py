"""Double-exponential rule: a trapezoidal rule in a variable that tames both ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch

from torch_mlcalc.quadrature.ends import Ends, ends_of
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.gauss_kronrod import judge
from torch_mlcalc.quadrature.ledger import Amount, Ledger, factor_between, unlogged
from torch_mlcalc.quadrature.pieces import Index, Part
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import Array, Rule, check_count
from torch_mlcalc.quadrature.search import Mask, Sample, Search
from torch_mlcalc.quadrature.spectrum import level_of, wave
from torch_mlcalc.quadrature.variables import Jobs, double_exponential

#: Step of level 0; every level halves it and keeps all nodes so far.
FIRST_STEP = 0.5

#: Between two levels the number of right digits doubles for an integrand analytic near
#: the interval. A level that shrinks the change less than this is not of that kind.
LINEAR = 0.1

#: Halvings before a job may be given up.
EARLIEST = 3


@final
@dataclass(frozen=True)
class DoubleExponential(Rule):
    r"""Trapezoidal rule in a double-exponential variable, nested levels.

    .. math:: \int f(x)\,dx = \int f(\phi(t))\,\phi'(t)\,dt
        \approx h \sum_j f(\phi(jh))\,\phi'(jh)

    with tanh-sinh on finite intervals, exp-sinh on half lines and sinh-sinh on the real
    line. Singularities at the ends do no harm: no end is ever evaluated, and distances
    from an end keep all their digits. Finite pieces of fewer than 2**20 numbers (2**12
    in single precision) have no room for these nodes and are cut by
    :class:`GaussKronrod`.

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


class Leftover(NamedTuple):
    """Jobs that did not converge, and the range of ``t`` that matters to them."""

    jobs: Jobs
    low: Array
    high: Array
    peak: Array
    step: Array

    def take(self, index: Mask) -> Leftover:
        """Some of the jobs."""
        return Leftover(self.jobs.take(index), *[column[index] for column in self[1:]])


class Levels(NamedTuple):
    """All nodes so far of some jobs, ascending.

    Attributes:
        jobs: The jobs.
        t: Nodes, ``(n,)``.
        values: The integrand there, in the variable, ``(n, jobs, events)``; 0 (or minus
            infinity) where it could not be used.
        usable: Where it could be used, ``(n, jobs)``.
        flawed: Jobs whose integrand was not finite at a node that matters.
        low: Where the terms of each job begin to matter, ``(jobs,)``.
        high: Where they end to.
        value: Sum of the level before, ``(jobs, events)``.
        change: Change between the two levels before.
        log_unit: What both are relative to, in the log form.
        slow: Whether the level before gained little.
    """

    jobs: Jobs
    t: Array
    values: npt.NDArray[Any]
    usable: Mask
    flawed: Mask
    low: Array
    high: Array
    value: npt.NDArray[Any]
    change: Array
    log_unit: Array | None
    slow: Mask

    def take(self, index: Mask) -> Levels:
        """Some of the jobs."""
        return Levels(
            self.jobs.take(index),
            self.t,
            self.values[:, index],
            self.usable[:, index],
            *(None if c is None else c[index] for c in self[4:]),  # type: ignore[arg-type]
        )


@lru_cache(maxsize=8)
def reach(dtype: torch.dtype) -> float:
    """Largest ``|t|``, in halves, whose positions a dtype can tell from 0 and inf."""
    digits = -math.log(torch.finfo(dtype).tiny)
    return math.floor(2 * math.asinh(digits / math.pi)) / 2


class Begun(NamedTuple):
    """Levels that somebody else began."""

    levels: Levels
    level: int
    #: Whether the nodes of the level have been added but not been measured.
    added: bool = False


def refine(
    search: Search,
    jobs: Jobs,
    max_level: int,
    *,
    patient: bool,
    begun: Begun | None = None,
) -> list[Leftover]:
    """Halve the step until each job is converged; return those that are not.

    Args:
        search: The integrals, and the ledger that everything is booked in.
        jobs: Whole pieces, or windows at an end of a finite one.
        max_level: Number of times the step may be halved.
        patient: Whether all jobs end here. Otherwise those that converge slowly are
            returned early, for a rule that can look at parts of the range.
        begun: Where to go on.

    Returns:
        The jobs that are left.
    """
    if not jobs.kind.size:
        return []
    ledger, left = search.ledger, []
    levels, level, added = begun or Begun(_first_level(search, jobs), 0)
    while added or level < max_level:
        if not added:
            # The first two go together: no error is believed before the second.
            halvings = 1 if level else min(2, max_level)
            level += halvings
            levels = _add_level(search, levels, FIRST_STEP / 2**level, 2**halvings)
        step, added = FIRST_STEP / 2**level, False
        owner = search.elements(levels.jobs)
        levels, amount, ends = _measure(search, levels, step)
        total = ledger.with_open(owner, amount)
        # A range on which nothing is seen may be empty; a whole line hardly is.
        unseen = (amount.absolute == 0).all(1) & (levels.jobs.kind != FINITE)
        done = ~judge(ledger, owner, amount, total, levels.flawed)
        done &= ~unseen & ~ends.endless
        if done.all():
            _settle(search, owner, levels, amount, ends, step)
            break
        spent = ledger.n_evals[owner] + 2 * levels.t.size > ledger.max_evals
        last = spent | (level == max_level)
        leave = done
        if level >= EARLIEST or last.any():
            tired, final = _outlook(ledger, owner, levels, amount, total, ends)
            tired = final if patient else final | (tired & ~unseen)
            stop = ~done & (last | (tired & (level >= EARLIEST)))
            leave = done | (stop & (patient | final | unseen | spent))
            ledger.blame(owner[stop & ends.endless], Status.SUSPECTED_DIVERGENT)
            flawed = stop & levels.flawed & (patient | spent | unseen)
            ledger.blame(owner[flawed], Status.NON_FINITE)
            ledger.unseen[owner[stop & unseen]] = True
            if (stop & ~leave).any():
                left.append(_leftover(ledger, levels.take(stop & ~leave), step))
            done = done | stop
        if leave.any():
            settled = (owner[leave], levels.take(leave), amount.take(leave))
            _settle(search, *settled, ends.take(leave), step)
        if done.all():
            break
        if done.any():
            levels = levels.take(~done)
    return left


def _outlook(
    ledger: Ledger,
    owner: Index,
    levels: Levels,
    amount: Amount,
    total: Amount,
    ends: Ends,
) -> tuple[Mask, Mask]:
    """Which jobs converge slowly, and which no other rule would do better either."""
    unit = None if total.log_unit is None else total.log_unit[owner]
    beyond = ends.doubt * factor_between(amount.log_unit, unit)
    # What lies beyond the range of the dtype no other rule would find.
    cut = np.logical_or.reduce(beyond > ledger.allowed(total)[owner], 1)
    return np.logical_or.reduce(levels.slow, 1), ends.endless | cut


def _first_level(search: Search, jobs: Jobs) -> Levels:
    """Level 0 over all of the reachable range, which it then narrows."""
    edge = reach(search.evaluate.integrand.dtype)
    t = np.arange(-edge, edge + FIRST_STEP / 2, FIRST_STEP)
    sample = search.sample(jobs, t[:, None], double_exponential, guard=GUARD)
    search.ledger.count(search.elements(jobs), t.size)
    return first_levels(search, jobs, t, sample)


def first_levels(search: Search, jobs: Jobs, t: Array, sample: Sample) -> Levels:
    """The same from a sample of all nodes of level 0."""
    count = jobs.piece.size
    values, log_unit = unlogged(sample.values, log=search.ledger.log)
    value = FIRST_STEP * values.sum(0)
    change = np.full(value.shape, np.inf)
    size = np.abs(values).max(-1, initial=0.0)
    seen = size > negligible(search.ledger) * size.sum(0)
    nothing = ~seen.any(0)
    first = np.where(nothing, 0, seen.argmax(0))
    last = np.where(nothing, t.size - 1, t.size - 1 - seen[::-1].argmax(0))
    usable, finite = _usable(sample, (t.size, count))
    column = np.arange(count)
    before, after = np.maximum(first - 1, 0), np.minimum(last + 1, t.size - 1)
    # Where rounding puts the next node on an end, finer levels still have some before.
    first = np.where(finite[before, column], before, first)
    last = np.where(finite[after, column], after, last)
    # A single node that is finite is no range: its neighbours are a flaw of it.
    lonely = first == last
    first, last = np.where(lonely, before, first), np.where(lonely, after, last)
    low, high = t[first], t[last]
    flawed = np.logical_or.reduce(~finite & _between(t, low, high))
    slow = np.zeros(value.shape, bool)
    return Levels(
        jobs,
        t,
        sample.values,
        usable,
        flawed,
        low,
        high,
        value,
        change,
        log_unit,
        slow,
    )


def negligible(ledger: Ledger) -> float:
    """Part of the sum below which terms decay double-exponentially further out."""
    rtol, _, slope = ledger.tolerance
    return max(ledger.epsilon, 1e-4 * min(rtol, rtol if slope is None else slope))


def _usable(sample: Sample, shape: tuple[int, ...]) -> tuple[Mask, Mask]:
    """Which nodes can be used, and at which the integrand was finite."""
    finite = np.ones(shape, bool) if sample.finite is None else sample.finite
    return finite if sample.inside is None else finite & sample.inside, finite


def _between(t: Array, low: Array, high: Array) -> Mask:
    """Which nodes lie in the range of each job."""
    t = t[:, None]
    return (t >= low) & (t <= high)


def _add_level(search: Search, levels: Levels, step: float, ratio: int) -> Levels:
    """The levels with the nodes that dividing their distance to ``step`` adds."""
    first = math.ceil(levels.low.min() / step)
    last = math.floor(levels.high.max() / step)
    index = np.arange(first, last + 1)
    t = index[index % ratio != 0] * step
    jobs = levels.jobs
    sample = search.sample(jobs, t[:, None], double_exponential, guard=GUARD)
    search.ledger.count(search.elements(jobs), t.size)
    usable, finite = _usable(sample, (t.size, jobs.piece.size))
    flawed = levels.flawed
    if sample.finite is not None:
        outside = ~_between(t, levels.low, levels.high)
        flawed = flawed | ~np.logical_and.reduce(finite | outside)
    joint = np.concatenate([levels.t, t])
    order = np.argsort(joint)
    levels = levels._replace(
        t=joint[order],
        values=np.concatenate([levels.values, sample.values])[order],
        usable=np.concatenate([levels.usable, usable])[order],
        flawed=flawed,
    )
    return _halfway(search.ledger, levels, 2 * step) if ratio > 2 else levels


def _halfway(ledger: Ledger, levels: Levels, step: float) -> Levels:
    """Note the sum of a level whose nodes came together with those of the next."""
    nothing = -np.inf if ledger.log else 0.0
    used = levels.usable & _between(levels.t, levels.low, levels.high)
    used &= (np.round(levels.t / step) * step == levels.t)[:, None]
    values = np.where(used[..., None], levels.values, nothing)
    values, log_unit = unlogged(values, log=ledger.log)
    value = step * values.sum(0)
    before = levels.value * factor_between(levels.log_unit, log_unit)
    change = np.abs(value - before)
    return levels._replace(value=value, change=change, log_unit=log_unit)


def _measure(
    search: Search, levels: Levels, step: float
) -> tuple[Levels, Amount, Ends]:
    """Sum of each job with its error, noted in the levels, and how it ends."""
    ledger = search.ledger
    nothing = -np.inf if ledger.log else 0.0
    used = levels.usable & _between(levels.t, levels.low, levels.high)
    values = np.where(used[..., None], levels.values, nothing)
    values, log_unit = unlogged(values, log=ledger.log)
    size = np.abs(values)
    ends = ends_of(search, levels.jobs, levels.t, used, size, step, negligible(ledger))
    value, absolute = (ends.sum(terms, step) for terms in (values, size))
    factor = factor_between(levels.log_unit, log_unit)
    change = np.abs(value - levels.value * factor)
    before = np.where(np.isinf(levels.change), np.inf, levels.change * factor)
    # Where halving squares the relative error, a change of e^2 after one of e leaves an
    # error of e^4; e^3 is believed, by either change, as one may be small by chance.
    slow = (change > LINEAR * before) & (change > ledger.epsilon * absolute)
    some = absolute > 0
    relative = np.where(some, change / absolute, 0)
    earlier = np.where(some, before / absolute, 0)
    gained = absolute * np.maximum(relative**1.5, np.minimum(earlier, 1) ** 3)
    # Not before a step of 1/16: exp(-|x|) passes at 1/8 and is then wrong by 2e-4.
    # Nor after a level that gained nothing: a kink can pass one by chance.
    plain = slow | levels.slow | (step > FIRST_STEP / 8)
    if not plain.all():
        plain |= wave(levels.t, values, step) < level_of(change, before)
    error = np.where(plain, change, np.minimum(gained, change))
    levels = levels._replace(value=value, change=change, log_unit=log_unit, slow=slow)
    columns = np.stack([value, error + ends.doubt, absolute])
    unit = search.unit(levels.jobs)[:, None]
    if log_unit is None:
        columns *= unit
        columns[1:] = np.abs(columns[1:])
        ends = ends._replace(doubt=ends.doubt * np.abs(unit))
    else:
        log_unit = log_unit + unit
    amount = Amount(columns, log_unit)
    np.maximum(amount.error, ledger.rounding(amount), out=amount.error)
    return levels, amount, ends


def _settle(
    search: Search,
    owner: Index,
    levels: Levels,
    amount: Amount,
    ends: Ends,
    step: float,
) -> None:
    """Add jobs to the totals for good."""
    search.ledger.add(owner, amount)
    search.ledger.nodes.append(partial(nodes_of, levels.jobs, levels.t, ends, step))


def nodes_of(jobs: Jobs, t: Array, ends: Ends, step: float) -> Part:
    """Nodes of finished jobs, for the plan."""
    used, column = ends.used, np.arange(jobs.piece.size)
    weights = np.where(used, step, 0.0)
    if ends.beyond is not None:
        _, lean, second, _, factor = ends.beyond
        weights *= factor
        for side in range(2):
            weights[ends.outermost[side], column] += step * lean[0, side]
            weights[second[side], column] += step * lean[1, side]
    some = np.logical_or.reduce(used, 1)
    if not some.any():
        some[0] = True
    used, weights, t = used[some], weights[some], t[some]
    # Nodes that another job needs and this one does not: repeat one that it does.
    grid = np.where(used, t[:, None], np.where(used.any(0), t[used.argmax(0)], 0.0))
    positions, slope = double_exponential(jobs, grid)
    return Part(jobs.piece, positions, weights * slope, jobs.low, jobs.high)


def _leftover(ledger: Ledger, levels: Levels, step: float) -> Leftover:
    used = levels.usable & _between(levels.t, levels.low, levels.high)
    size = levels.values if ledger.log else np.abs(levels.values)
    size = np.where(used[..., None], size, -np.inf).max(-1)
    peak = levels.t[size.argmax(0)]
    count = levels.low.size
    return Leftover(levels.jobs, levels.low, levels.high, peak, np.full(count, step))
