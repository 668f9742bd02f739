"""Double-exponential levels of a single integral of a single number."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.double_exponential import (
    EARLIEST,
    FIRST_STEP,
    FLAT,
    GUARD,
    LINEAR,
    Begun,
    Leftover,
    Levels,
    first_levels,
    is_level,
    negligible,
    nodes_of,
    reach,
    refine,
)
from torch_mlcalc.quadrature.ends import Beyond, Ends, beyond
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount
from torch_mlcalc.quadrature.pieces import Part
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Mask, Sample
from torch_mlcalc.quadrature.single.sampling import ONE, Single, is_ordinary
from torch_mlcalc.quadrature.variables import Jobs, double_exponential


class Run(NamedTuple):
    """All nodes so far of the one job, ascending; see Levels.

    ``usable`` is None where every node is.
    """

    t: Array
    values: Array
    usable: Mask | None
    flawed: bool
    low: float
    high: float
    value: float
    change: float
    slow: bool

    def as_levels(self, jobs: Jobs) -> Levels:
        """The same for the batch."""
        usable = self.usable
        if usable is None:
            usable = np.ones(self.t.size, bool)
        return Levels(
            jobs,
            self.t,
            self.values[:, None, None],
            usable[:, None],
            np.array([self.flawed]),
            np.array([self.low]),
            np.array([self.high]),
            np.array([[self.value]]),
            np.array([[self.change]]),
            None,
            np.array([[self.slow]]),
        )


class Measured(NamedTuple):
    """What a level says, in units of the job."""

    value: float
    change: float
    slow: bool
    error: float
    doubt: float
    absolute: float
    #: First and last node in the sum, and what lies beyond, None if it is nothing.
    outermost: tuple[int, int]
    beyond: Beyond | None
    endless: bool


def refine_single(
    one: Single, jobs: Jobs, max_level: int, *, patient: bool
) -> list[Leftover]:
    """Do what :func:`refine` does, for one job of one integral.

    Args:
        one: The piece, with its search.
        jobs: The whole piece, or a window of it.
        max_level: Number of times the step may be halved.
        patient: Whether the job ends here; else it is returned if it converges slowly.

    Returns:
        The job, if it is left.
    """
    search = one.search
    hand_over = partial(refine, search, jobs, max_level, patient=patient)
    run = _first_level(one, jobs)
    if isinstance(run, Levels):
        return hand_over(begun=Begun(run, 0))
    level = 0
    while True:
        halvings = 1 if level else min(2, max_level)
        level += halvings
        step = FIRST_STEP / 2**level
        run = _add_level(one, jobs, run, step, 2**halvings)
        found = _measure(one, jobs, run, step)
        seen = found.absolute > 0 and not run.flawed and not found.endless
        done, cut = _outlook(one, found)
        if seen and done:
            _settle(one, jobs, run, found, step)
            return []
        spent = search.ledger.n_evals[0] + 2 * run.t.size > search.ledger.max_evals
        tired = level >= EARLIEST and (found.slow or cut)
        if not seen or spent or tired or level == max_level:
            # The batch decides how it ends.
            return hand_over(begun=Begun(run.as_levels(jobs), level, added=True))
        run = run._replace(value=found.value, change=found.change, slow=found.slow)


@lru_cache(maxsize=512)
def _table(
    kind: int, low: float, high: float, edge: float, step: float, ratio: int
) -> tuple[Array, Array, Array]:
    """Nodes of a level that the one before lacks, their positions and slopes."""
    last = round(edge / step)
    index = np.arange(-last, last + 1)
    t = (index if ratio == 1 else index[index % ratio != 0]) * step
    job = Jobs(ONE, np.array([kind]), np.array([low]), np.array([high]))
    positions, slope = (column[:, 0] for column in double_exponential(job, t[:, None]))
    for array in (t, positions, slope):
        array.setflags(write=False)
    return t, positions, slope


def _place(
    one: Single, jobs: Jobs, step: float, ratio: int
) -> tuple[Array, Array, Array]:
    edge = reach(one.search.evaluate.integrand.dtype)
    (low,), (high,) = jobs.low.tolist(), jobs.high.tolist()
    if low == 0 and high == 1:
        return _table(one.kind, 0.0, 1.0, edge, step, ratio)
    # A window is a whole piece of another length, seen from the end that it touches.
    width = high - low
    side = (0.0, 0.5) if low == 0 else (0.5, 1.0)
    t, positions, slope = _table(one.kind, *side, edge, step, ratio)
    return t, positions * (2 * width), slope * (2 * width)


class Seen(NamedTuple):
    """Values in the variable, 0 where they could not be used, and where they could."""

    values: Array
    inside: Mask | None
    finite: Mask | None

    @property
    def usable(self) -> Mask | None:
        """Where they could be used, None if everywhere."""
        if self.inside is None or self.finite is None:
            return self.inside if self.finite is None else self.finite
        both: Mask = self.inside & self.finite
        return both


def _sample(one: Single, positions: Array, slope: Array) -> Seen | Sample:
    """The integrand at nodes; what the batch makes of it where that is no number."""
    points = one.points(positions)
    lower, upper = one.range(GUARD)
    inside: Mask | None = None
    if not (lower < points[0] < upper and lower < points[-1] < upper):
        inside = (points > lower) & (points < upper)
        points = np.where(inside, points, one.search.evaluate.home)
    values = one.values(points)
    if values.ndim == 1:
        terms = values * slope
        if is_ordinary(terms):
            return Seen(terms if inside is None else terms * inside, inside, None)
    column = None if inside is None else inside[:, None]
    sample = one.sample(points[:, None], slope[:, None], column, values)
    if sample.values.shape[-1] != 1 or sample.values.dtype != float:
        return sample
    finite = None if sample.finite is None else sample.finite[:, 0]
    return Seen(sample.values[:, 0, 0], inside, finite)


def _first_level(one: Single, jobs: Jobs) -> Run | Levels:
    """Level 0 over all of the reachable range, which it then narrows."""
    search = one.search
    t, positions, slope = _place(one, jobs, FIRST_STEP, 1)
    seen = _sample(one, positions, slope)
    search.ledger.n_evals += t.size
    if isinstance(seen, Sample):
        return first_levels(search, jobs, t, seen)
    size = np.abs(seen.values)
    (there,) = np.nonzero(size > negligible(search.ledger) * size.sum())
    first, last = (int(there[0]), int(there[-1])) if there.size else (0, t.size - 1)
    flawed = False
    if seen.finite is not None:
        # Where rounding puts the next node on an end, finer levels still have some.
        before, after = max(first - 1, 0), min(last + 1, t.size - 1)
        first = before if seen.finite[before] else first
        last = after if seen.finite[after] else last
        flawed = not seen.finite[first : last + 1].all()
    else:
        first, last = max(first - 1, 0), min(last + 1, t.size - 1)
    value = FIRST_STEP * float(seen.values.sum())
    low, high = float(t[first]), float(t[last])
    return Run(
        t, seen.values, seen.usable, flawed, low, high, value, math.inf, slow=False
    )


def _add_level(one: Single, jobs: Jobs, run: Run, step: float, ratio: int) -> Run:
    """The run with the nodes that dividing their distance to ``step`` adds."""
    every, positions, slope = _place(one, jobs, step, ratio)
    some = slice(*np.searchsorted(every, [run.low, run.high]).tolist())
    t = every[some]
    seen = _sample(one, positions[some], slope[some])
    assert isinstance(seen, Seen)  # noqa: S101
    one.search.ledger.n_evals += t.size
    joint = np.concatenate([run.t, t])
    order = joint.argsort()
    usable = None
    if run.usable is not None or seen.usable is not None:
        parts = [(run.usable, run.t), (seen.usable, t)]
        masks = [np.ones(nodes.size, bool) if m is None else m for m, nodes in parts]
        usable = np.concatenate(masks)[order]
    run = run._replace(
        t=joint[order],
        values=np.concatenate([run.values, seen.values])[order],
        usable=usable,
        flawed=run.flawed or (seen.finite is not None and not seen.finite.all()),
    )
    return _halfway(run, 2 * step) if ratio > 2 else run


def _halfway(run: Run, step: float) -> Run:
    """Note the sum of a level whose nodes came together with those of the next."""
    used = (run.t >= run.low) & (run.t <= run.high)
    used &= np.round(run.t / step) * step == run.t
    value = step * float(run.values @ used)
    return run._replace(value=value, change=abs(value - run.value))


def _measure(one: Single, jobs: Jobs, run: Run, step: float) -> Measured:
    """Sum of the job with its error, and how it ends."""
    ledger = one.search.ledger
    first, stop = np.searchsorted(run.t, [run.low, run.high]).tolist()
    last = stop if stop < run.t.size and run.t[stop] == run.high else stop - 1
    if run.usable is not None:
        (there,) = np.nonzero(run.usable[first : last + 1])
        if not there.size:
            return _NOTHING
        first, last = first + int(there[0]), first + int(there[-1])
    used = slice(first, last + 1)
    values = run.values[used]
    size = np.abs(values)
    total, largest = float(size.sum()), float(size.max())
    rest, doubt, endless = _ends(one, jobs, run, (first, last), (total, largest), step)
    value, absolute = step * float(values.sum()), step * total
    if rest is not None:
        (left,), (right,) = rest.rest.tolist()
        low, high = float(values[0]), float(values[-1])
        corrected = float(values @ rest.factor[used, 0])
        value = step * (corrected + left * low + right * high)
        absolute += step * (left * abs(low) + right * abs(high))
    change, before = abs(value - run.value), run.change
    slow = change > LINEAR * before and change > ledger.epsilon * absolute
    error = change
    plain = slow or run.slow or step > FIRST_STEP / 8 or absolute == 0
    if not (plain or is_level(run.t[used], values, step, change, before)):
        relative, earlier = change / absolute, min(before / absolute, 1.0)
        error = min(absolute * max(relative**1.5, earlier**3), change)
    return Measured(
        value,
        change,
        slow,
        error + doubt,
        doubt,
        absolute,
        (first, last),
        rest,
        endless,
    )


#: Of a job without a usable node.
_NOTHING = Measured(0.0, 0.0, False, 0.0, 0.0, 0.0, (0, 0), None, endless=False)


def _ends(
    one: Single,
    jobs: Jobs,
    run: Run,
    outermost: tuple[int, int],
    sizes: tuple[float, float],
    step: float,
) -> tuple[Beyond | None, float, bool]:
    """What lies beyond the outermost nodes, its doubt, and whether it is endless."""
    total, largest = sizes
    ends = [abs(float(run.values[i])) for i in outermost]
    endless = any(end > FLAT * largest and end > 0 for end in ends)
    cut = negligible(one.search.ledger) * total
    if all(end <= cut for end in ends):
        return None, sum(ends), endless
    index, terms = np.array(outermost)[:, None], np.abs(run.values)[:, None]
    matter = np.array(ends)[:, None] > cut
    rest = beyond(one.search, jobs, run.t, terms, index, matter, step)
    left, right = rest.doubt[:, 0].tolist()
    return rest, step * (left * ends[0] + right * ends[1]), endless


def _outlook(one: Single, found: Measured) -> tuple[bool, bool]:
    """Whether the job is precise enough, and whether what is cut off is too much."""
    ledger, unit = one.search.ledger, one.unit
    total, settled, absolute = 0.0, 0.0, 0.0
    if ledger.total is not None:
        total, settled, absolute = ledger.total.columns[:, 0, 0].real.tolist()
    floor = ROUNDING * ledger.epsilon * found.absolute * unit
    error = max(found.error * unit, floor)
    allowed = ledger.allowed_plain(
        total + found.value * unit * one.sign, absolute + found.absolute * unit
    )
    share = max(allowed - settled, 0.0) / 2
    done = settled + error <= allowed or error <= max(share, floor)
    return done, found.doubt * unit > allowed


def _settle(one: Single, jobs: Jobs, run: Run, found: Measured, step: float) -> None:
    """Add the job to the totals for good."""
    ledger, unit = one.search.ledger, one.unit
    absolute = found.absolute * unit
    error = max(found.error * unit, ROUNDING * ledger.epsilon * absolute)
    columns = np.array([found.value * unit * one.sign, error, absolute])
    ledger.add(ONE, Amount(columns.reshape(3, 1, 1), None))
    ledger.nodes.append(partial(_nodes, jobs, run, found, step))


def _nodes(jobs: Jobs, run: Run, found: Measured, step: float) -> Part:
    used = (run.t >= run.low) & (run.t <= run.high)
    if run.usable is not None:
        used &= run.usable
    outermost, nothing = np.array(found.outermost), np.zeros((1, 1))
    ends = Ends(
        used[:, None], outermost[:, None], found.beyond, nothing, np.zeros(1, bool)
    )
    return nodes_of(jobs, run.t, ends, step)
