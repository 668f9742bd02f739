"""Double-exponential levels of a single integral of a single number."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.double_exponential import (
    EARLIEST,
    FIRST_STEP,
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
from torch_mlcalc.quadrature.ends import FLAT, Beyond, Ends, beyond
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount
from torch_mlcalc.quadrature.pieces import Part
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Mask, Sample
from torch_mlcalc.quadrature.single.sampling import ONE, Single, is_ordinary
from torch_mlcalc.quadrature.variables import Jobs, double_exponential


class Nodes(NamedTuple):
    """Nodes with the integrand there; ``usable`` is None where every node is."""

    t: Array
    values: Array
    usable: Mask | None

    @property
    def mask(self) -> Mask:
        """Which nodes are usable."""
        return np.ones(self.t.size, bool) if self.usable is None else self.usable


class Sums(NamedTuple):
    """Of the values between the first and the last node that matter.

    Levels only add to it: both ends are nodes of level 0. ``first`` and ``last`` are
    the outermost usable nodes with their values.
    """

    total: float
    absolute: float
    largest: float
    first: tuple[float, float]
    last: tuple[float, float]

    def joined(self, nodes: Nodes) -> Sums:
        """With more nodes."""
        t, values, usable = nodes
        size = np.abs(values)
        first, last = self.first, self.last
        if usable is not None:
            (there,) = usable.nonzero()
            t, values = t[there], values[there]
        if t.size:
            first = min(first, (float(t[0]), float(values[0])))
            last = max(last, (float(t[-1]), float(values[-1])))
        return Sums(
            self.total + float(np.add.reduce(values)),
            self.absolute + float(np.add.reduce(size)),
            max(self.largest, float(np.maximum.reduce(size, initial=0.0))),
            first,
            last,
        )


#: Of no nodes.
_EMPTY = Sums(0.0, 0.0, 0.0, (math.inf, 0.0), (-math.inf, 0.0))


class Run(NamedTuple):
    """All nodes so far of the one job, level by level; see Levels."""

    nodes: list[Nodes]
    sums: Sums
    flawed: bool
    low: float
    high: float
    value: float
    change: float
    slow: bool

    @property
    def spent(self) -> int:
        """Number of nodes."""
        return sum(nodes.t.size for nodes in self.nodes)

    def ascending(self) -> Nodes:
        """All nodes."""
        t = np.concatenate([nodes.t for nodes in self.nodes])
        values = np.concatenate([nodes.values for nodes in self.nodes])
        order, usable = t.argsort(), None
        if any(nodes.usable is not None for nodes in self.nodes):
            usable = np.concatenate([nodes.mask for nodes in self.nodes])[order]
        return Nodes(t[order], values[order], usable)

    def summed(self) -> Nodes:
        """The same from the first to the last node in the sum."""
        t, values, usable = self.ascending()
        first = t.searchsorted(self.sums.first[0])
        some = slice(first, t.searchsorted(self.sums.last[0], "right"))
        return Nodes(t[some], values[some], None if usable is None else usable[some])

    def as_levels(self, jobs: Jobs) -> Levels:
        """The same for the batch."""
        nodes = self.ascending()
        return Levels(
            jobs,
            nodes.t,
            nodes.values[:, None, None],
            nodes.mask[:, None],
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
    #: None where it is nothing.
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
    first = _first_levels(one, jobs, min(2, max_level))
    if isinstance(first, Levels):
        return hand_over(begun=Begun(first, 0))
    run, ahead = first
    level = 0
    while True:
        halvings = 1 if level else min(2, max_level)
        level += halvings
        step = FIRST_STEP / 2**level
        run = _add_level(one, jobs, run, step, 2**halvings, ahead)
        ahead = None
        found = _measure(one, jobs, run, step)
        seen = found.absolute > 0 and not run.flawed and not found.endless
        done, cut = _outlook(one, found)
        if seen and done:
            _settle(one, jobs, run, found, step)
            return []
        spent = search.ledger.n_evals[0] + 2 * run.spent > search.ledger.max_evals
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

    def each(self, choose: Callable[[Array], Array]) -> Seen:
        """Some of the nodes, chosen alike in every column."""
        values, inside, finite = self
        return Seen(
            choose(values),
            None if inside is None else choose(inside),
            None if finite is None else choose(finite),
        )

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


class Ahead(NamedTuple):
    """Nodes that come after level 0, but were evaluated with it."""

    t: Array
    seen: Seen


def _first_levels(
    one: Single, jobs: Jobs, halvings: int
) -> tuple[Run, Ahead | None] | Levels:
    """Level 0 over all of the reachable range, which it then narrows.

    The levels behind it are evaluated in the same call. What is out of the narrower
    range, half of it, is not used; but a call costs as much as some hundred points.

    Returns:
        Level 0 with what was evaluated ahead, if the budget allowed that; for the
        batch, level 0 of an integrand that is no number.
    """
    ledger, ratio = one.search.ledger, 2**halvings
    edge = reach(one.search.evaluate.integrand.dtype)
    if ledger.n_evals[0] + 2 * ratio * edge / FIRST_STEP >= ledger.max_evals:
        ratio = 1
    t, positions, slope = _place(one, jobs, FIRST_STEP / ratio, 1)
    seen = _sample(one, positions, slope)
    ledger.n_evals[0] += t.size
    if isinstance(seen, Sample):
        inside, finite = (None if c is None else c[::ratio] for c in seen[1:])
        coarse = Sample(seen.values[::ratio], inside, finite)
        return first_levels(one.search, jobs, t[::ratio], coarse)
    run = _first_level(one, t[::ratio], seen.each(lambda column: column[::ratio]))
    if ratio == 1:
        return run, None

    def between(column: Array) -> Array:
        rows: Array = column[:-1].reshape(-1, ratio)[:, 1:]
        return rows.reshape(-1)

    return run, Ahead(between(t), seen.each(between))


def _first_level(one: Single, t: Array, seen: Seen) -> Run:
    """Level 0 from its nodes."""
    # So few that lists are faster.
    values, nodes = seen.values.tolist(), t.tolist()
    sizes = [abs(value) for value in values]
    cut = negligible(one.search.ledger) * sum(sizes)
    there = [i for i, size in enumerate(sizes) if size > cut]
    first, last = (there[0], there[-1]) if there else (0, len(nodes) - 1)
    # Where rounding puts the next node on an end, finer levels still have some.
    before, after = max(first - 1, 0), min(last + 1, len(nodes) - 1)
    flawed = False
    if seen.finite is None:
        first, last = before, after
    else:
        first = before if seen.finite[before] else first
        last = after if seen.finite[after] else last
        if first == last:
            first, last = before, after
        flawed = not seen.finite[first : last + 1].all()
    usable = list(range(first, last + 1))
    if seen.usable is not None:
        there = seen.usable.tolist()
        usable = [i for i in usable if there[i]]
    sums = _EMPTY
    if usable:
        sums = Sums(
            sum(values[first : last + 1]),
            sum(sizes[first : last + 1]),
            max(sizes[first : last + 1]),
            (nodes[usable[0]], values[usable[0]]),
            (nodes[usable[-1]], values[usable[-1]]),
        )
    return Run(
        [Nodes(t, seen.values, seen.usable)],
        sums,
        flawed,
        nodes[first],
        nodes[last],
        FIRST_STEP * sum(values),
        math.inf,
        slow=False,
    )


def _add_level(
    one: Single, jobs: Jobs, run: Run, step: float, ratio: int, ahead: Ahead | None
) -> Run:
    """The run with the nodes that dividing their distance to ``step`` adds."""
    if ahead is None:
        every, positions, slope = _place(one, jobs, step, ratio)
    else:
        every = ahead.t
    # Between two nodes of the level before there are ratio - 1.
    gaps = every.size // (ratio - 1)
    low, high = (round(end / (ratio * step)) + gaps // 2 for end in (run.low, run.high))
    some = slice(low * (ratio - 1), high * (ratio - 1))
    if ahead is None:
        seen = _sample(one, positions[some], slope[some])
        assert isinstance(seen, Seen)  # noqa: S101
        one.search.ledger.n_evals[0] += seen.values.size
    else:
        seen = ahead.seen.each(lambda column: column[some])
    nodes = Nodes(every[some], seen.values, seen.usable)
    value, change = run.value, run.change
    if ratio > 2:
        # The sum of a level whose nodes came together with those of the next.
        value = 2 * step * (run.sums.total + float(np.add.reduce(seen.values[1::3])))
        change = abs(value - run.value)
    flawed = run.flawed or (seen.finite is not None and not seen.finite.all())
    return Run(
        [*run.nodes, nodes],
        run.sums.joined(nodes),
        flawed,
        run.low,
        run.high,
        value,
        change,
        run.slow,
    )


def _measure(one: Single, jobs: Jobs, run: Run, step: float) -> Measured:
    """Sum of the job with its error, and how it ends."""
    ledger = one.search.ledger
    total, absolute, _, (first, low), (_, high) = run.sums
    if first == math.inf:
        return _NOTHING
    rest, doubt, endless = _ends(one, jobs, run, step)
    value, absolute = step * total, step * absolute
    if rest is not None:
        (left,), (right,) = rest.rest.tolist()
        corrected = float(run.summed()[1].dot(rest.factor[:, 0]))
        value = step * (corrected + left * low + right * high)
        absolute += step * (left * abs(low) + right * abs(high))
    change, before = abs(value - run.value), run.change
    slow = change > LINEAR * before and change > ledger.epsilon * absolute
    error = change
    if not (slow or run.slow or step > FIRST_STEP / 8) and absolute > 0:
        t, values, _ = run.summed()
        if not is_level(t, values, step, change, before):
            relative, earlier = change / absolute, min(before / absolute, 1.0)
            error = min(absolute * max(relative**1.5, earlier**3), change)
    return Measured(value, change, slow, error + doubt, doubt, absolute, rest, endless)


#: Of a job without a usable node.
_NOTHING = Measured(0.0, 0.0, False, 0.0, 0.0, 0.0, None, endless=False)


def _ends(
    one: Single, jobs: Jobs, run: Run, step: float
) -> tuple[Beyond | None, float, bool]:
    """What lies beyond the outermost nodes, its doubt, and whether it is endless."""
    sums = run.sums
    ends = abs(sums.first[1]), abs(sums.last[1])
    endless = max(ends) > FLAT * sums.largest
    cut = negligible(one.search.ledger) * sums.absolute
    if max(ends) <= cut:
        return None, sum(ends), endless
    t, values, _ = run.summed()
    outermost, matter = np.array([[0], [t.size - 1]]), np.array(ends)[:, None] > cut
    rest = beyond(one.search, jobs, t, np.abs(values)[:, None], outermost, matter, step)
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
    nodes = run.summed()
    outermost, nothing = np.array([[0], [nodes.t.size - 1]]), np.zeros((1, 1))
    ends = Ends(
        nodes.mask[:, None], outermost, found.beyond, nothing, np.zeros(1, bool)
    )
    return nodes_of(jobs, nodes.t, ends, step)
