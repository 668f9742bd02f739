"""Double-exponential levels of a single integral of a single number."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch

from torch_mlcalc.quadrature.double_exponential import (
    EARLIEST,
    FIRST_STEP,
    GUARD,
    LINEAR,
    Begun,
    Leftover,
    Levels,
    first_levels,
    level_of,
    negligible,
    nodes_of,
    probe,
    reach,
    refine,
)
from torch_mlcalc.quadrature.ends import FLAT, Beyond, Ends, beyond, displacement
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount
from torch_mlcalc.quadrature.pieces import Part
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Mask, Sample
from torch_mlcalc.quadrature.single.sampling import ONE, Single, is_ordinary
from torch_mlcalc.quadrature.variables import Jobs, double_exponential

#: Levels that the first call evaluates. Each of the 36 problems on the line or half
#: line needs the third, at a step of 1/8, and 23 of them the fourth, to 1e-8; of 78
#: windows, which are about a singularity alone, 7 do.
WHOLE, WINDOW = 3, 2


class Table(NamedTuple):
    """All nodes of a level, and what :func:`probe` says of them."""

    t: Array
    positions: Array
    slope: Array
    probe: Array


class Terms(NamedTuple):
    """Values in the variable, 0 where they could not be used, and where they could.

    Both masks are None where they would be True throughout; see Sample.
    """

    values: Array
    inside: Mask | None
    finite: Mask | None

    def at(self, some: slice) -> Terms:
        """Those at some nodes."""
        values, inside, finite = self
        return Terms(
            values[some],
            None if inside is None else inside[some],
            None if finite is None else finite[some],
        )

    def interleaved(self, between: Terms) -> Terms:
        """With a term between each two."""
        values = np.empty(2 * self.values.size - 1)
        values[::2], values[1::2] = self.values, between.values
        masks = []
        for old, new in zip(self[1:], between[1:], strict=True):
            mask = None
            if old is not None or new is not None:
                mask = np.ones(values.size, bool)
                mask[::2] &= True if old is None else old
                mask[1::2] &= True if new is None else new
            masks.append(mask)
        return Terms(values, *masks)

    @property
    def usable(self) -> Mask | None:
        """Where they could be used, None if everywhere."""
        if self.inside is None or self.finite is None:
            return self.inside if self.finite is None else self.finite
        both: Mask = self.inside & self.finite
        return both


class Run(NamedTuple):
    """A job with its terms so far, from the first to the last that matters.

    Attributes:
        jobs: The job.
        first: The first of its nodes at level 0.
        level: The level that is looked at.
        finest: That to which there are terms; those between are evaluated ahead.
        evaluated: All terms.
        value: Sum of the level before.
        change: Change between the two before.
        slow: Whether that before gained little.
    """

    jobs: Jobs
    first: int
    level: int
    finest: int
    evaluated: Terms
    value: float
    change: float
    slow: bool

    @property
    def terms(self) -> Terms:
        """Those of the level."""
        stride = 2 ** (self.finest - self.level)
        return (
            self.evaluated if stride == 1 else self.evaluated.at(slice(0, None, stride))
        )

    @property
    def step(self) -> float:
        """Distance of the nodes of the level."""
        return FIRST_STEP / 2**self.level

    def of(self, column: Array, size: int) -> Array:
        """A column of the table of the level for so many nodes."""
        first = self.first * 2**self.level
        return column[first : first + size]


class Measured(NamedTuple):
    """What a level says of a job, in units of it.

    ``some`` are the nodes from the first to the last that is usable, and ``beyond`` is
    None where there is nothing.
    """

    value: float
    change: float
    slow: bool
    error: float
    doubt: float
    absolute: float
    some: slice
    beyond: Beyond | None
    #: Whether nothing is seen, or there is something that the batch has to look at.
    odd: bool


def refine_single(
    one: Single, jobs: Jobs, max_level: int, *, patient: bool
) -> list[Leftover]:
    """Do what :func:`refine` does, for the one or two jobs of one integral.

    Args:
        one: The piece, with its search.
        jobs: The whole piece, or windows of it.
        max_level: Number of times the step may be halved.
        patient: Whether the jobs end here; else those that converge slowly are
            returned.

    Returns:
        The jobs that are left.
    """
    hand_over = partial(refine, one.search, max_level=max_level, patient=patient)
    runs = _begin(one, jobs, max_level)
    if isinstance(runs, Levels):
        return hand_over(jobs, begun=Begun(runs, 0))
    while True:
        found = [_measure(one, run) for run in runs]
        done, cut = _outlook(one, found)
        left = [i for i, each in enumerate(found) if each.odd or not done[i]]
        if left and _is_for_batch(
            one, runs, [(found[i], cut[i]) for i in left], max_level
        ):
            levels = _as_levels(one, runs)
            begun = Begun(levels, runs[0].level, added=True)
            return hand_over(levels.jobs, begun=begun)
        for i, (run, each) in enumerate(zip(runs, found, strict=True)):
            if i not in left:
                _settle(one, run, each)
        if not left:
            return []
        runs = _halved(one, [_noted(runs[i], found[i]) for i in left])


def _is_for_batch(
    one: Single, runs: list[Run], left: list[tuple[Measured, bool]], max_level: int
) -> bool:
    """Whether the batch has to decide how jobs end that are not done."""
    ledger, level = one.search.ledger, runs[0].level
    if level == runs[0].finest:
        size = sum(run.evaluated.values.size for run in runs)
        if ledger.n_evals[0] + 2 * size > ledger.max_evals:
            return True
    late = level >= EARLIEST
    tired = (each.odd or (late and (each.slow or cut)) for each, cut in left)
    return level == max_level or any(tired)


def _noted(run: Run, found: Measured) -> Run:
    """The run with what its level says."""
    return run._replace(value=found.value, change=found.change, slow=found.slow)


@lru_cache(maxsize=512)
def _table(kind: int, low: float, high: float, dtype: torch.dtype, level: int) -> Table:
    step = FIRST_STEP / 2**level
    last = round(reach(dtype) / step)
    t = np.arange(-last, last + 1) * step
    job = Jobs(ONE, np.array([kind]), np.array([low]), np.array([high]))
    positions, slope = (column[:, 0] for column in double_exponential(job, t[:, None]))
    table = Table(t, positions, slope, probe(t, step))
    for array in table:
        array.setflags(write=False)
    return table


def _table_of(one: Single, jobs: Jobs, level: int) -> tuple[Table, float]:
    """The table of a job, and the factor of its positions and slopes."""
    dtype = one.search.evaluate.integrand.dtype
    if jobs is one.jobs:
        return _table(one.kind, 0.0, 1.0, dtype, level), 1.0
    (low,), (high,) = jobs.low.tolist(), jobs.high.tolist()
    # A window is a whole piece of another length, seen from the end that it touches.
    side = (0.0, 0.5) if low == 0 else (0.5, 1.0)
    return _table(one.kind, *side, dtype, level), 2 * (high - low)


def _sample(one: Single, positions: list[Array], slopes: list[Array]) -> Terms | Sample:
    """The integrand at nodes; what the batch makes of it where that is no number."""
    points, slope = one.points(_joined(positions)), _joined(slopes)
    one.search.ledger.n_evals[0] += points.size
    lower, upper = one.range(GUARD)
    inside: Mask | None = None
    # Those of one job are monotone.
    ends = (points[0], points[-1]) if len(slopes) == 1 else points.tolist()
    if not (lower < min(ends) and max(ends) < upper):
        inside = (points > lower) & (points < upper)
        points = np.where(inside, points, one.search.evaluate.home)
    values = one.values(points)
    if values.ndim == 1:
        terms = values * slope
        if is_ordinary(terms):
            return Terms(terms if inside is None else terms * inside, inside, None)
    column = None if inside is None else inside[:, None]
    sample = one.sample(points[:, None], slope[:, None], column, values)
    if sample.values.shape[-1] != 1 or sample.values.dtype != float:
        return sample
    finite = None if sample.finite is None else sample.finite[:, 0]
    return Terms(sample.values[:, 0, 0], inside, finite)


def _begin(one: Single, jobs: Jobs, max_level: int) -> list[Run] | Levels:
    """The first levels over all of the reachable range, which is then narrowed.

    They are evaluated in one call. What is out of the narrower range, half of it, is
    not used; but a call costs as much as some hundred points.

    Returns:
        The runs at level 2, or less if the budget or ``max_level`` is; for the batch,
        level 0 of an integrand that is no number.
    """
    ledger, finest = one.search.ledger, WINDOW if one.kind == FINITE else WHOLE
    finest = min(finest, max_level)
    edge = reach(one.search.evaluate.integrand.dtype)
    points = jobs.piece.size * 2 ** (finest + 1) * edge / FIRST_STEP
    if ledger.n_evals[0] + points >= ledger.max_evals:
        finest = 0
    seen = _first_sample(one, jobs, finest)
    if isinstance(seen, Levels):
        return seen
    runs = [_narrowed(one, job, terms, finest) for job, terms in seen]
    if not finest and max_level > 1:
        runs = [_at_level_1(run) for run in _halved(one, runs)]
    return runs if runs[0].level == min(2, max_level) else _halved(one, runs)


def _first_sample(
    one: Single, jobs: Jobs, finest: int
) -> list[tuple[Jobs, Terms]] | Levels:
    """Each job with the values of all its nodes."""
    count = jobs.piece.size
    split = [jobs] if count == 1 else [jobs.take(ONE + i) for i in range(count)]
    tables = [_table_of(one, each, finest) for each in split]
    seen = _sample(
        one,
        [_scaled(table.positions, factor) for table, factor in tables],
        [_scaled(table.slope, factor) for table, factor in tables],
    )
    t = tables[0][0].t
    if isinstance(seen, Sample):
        stride = 2**finest
        inside, finite = (None if c is None else c[::stride] for c in seen[1:])
        coarse = Sample(seen.values[::stride], inside, finite)
        return first_levels(one.search, jobs, t[::stride], coarse)
    if count == 1:
        return [(jobs, seen)]
    some = [slice(i * t.size, (i + 1) * t.size) for i in range(count)]
    return [(job, seen.at(s)) for job, s in zip(split, some, strict=True)]


def _scaled(column: Array, factor: float) -> Array:
    return column if factor == 1 else column * factor


def _joined(columns: list[Array]) -> Array:
    return columns[0] if len(columns) == 1 else np.concatenate(columns)


def _narrowed(one: Single, jobs: Jobs, seen: Terms, finest: int) -> Run:
    """Level 0, with what else is known between the nodes that matter."""
    stride = 2**finest
    # So few that lists are faster.
    values = seen.values[::stride].tolist()
    sizes = [abs(value) for value in values]
    cut = negligible(one.search.ledger) * sum(sizes)
    there = [i for i, size in enumerate(sizes) if size > cut]
    first, last = (there[0], there[-1]) if there else (0, len(values) - 1)
    # Where rounding puts the next node on an end, finer levels still have some.
    before, after = max(first - 1, 0), min(last + 1, len(values) - 1)
    if seen.finite is None:
        first, last = before, after
    else:
        first = before if seen.finite[before * stride] else first
        last = after if seen.finite[after * stride] else last
        if first == last:
            first, last = before, after
    inner = seen.at(slice(first * stride, last * stride + 1))
    run = Run(jobs, first, 0, finest, inner, FIRST_STEP * sum(values), math.inf, False)
    return _at_level_1(run) if finest > 1 else run


def _at_level_1(run: Run) -> Run:
    """The run at level 2 if it was evaluated; no error is believed before that."""
    values = run.evaluated.values[:: 2 ** (run.finest - 1)]
    value = FIRST_STEP / 2 * float(np.add.reduce(values))
    level = min(2, run.finest)
    return run._replace(level=level, value=value, change=abs(value - run.value))


def _halved(one: Single, runs: list[Run]) -> list[Run]:
    """The runs at the next level."""
    level = runs[0].level + 1
    if runs[0].finest >= level:
        return [run._replace(level=level) for run in runs]
    positions, slopes = [], []
    for run in runs:
        table, factor = _table_of(one, run.jobs, level)
        size = 2 * run.evaluated.values.size - 1
        between = run._replace(level=level).of
        positions.append(_scaled(between(table.positions, size)[1::2], factor))
        slopes.append(_scaled(between(table.slope, size)[1::2], factor))
    seen = _sample(one, positions, slopes)
    assert isinstance(seen, Terms)  # noqa: S101
    halved, start = [], 0
    for run in runs:
        stop = start + run.evaluated.values.size - 1
        terms = run.evaluated.interleaved(seen.at(slice(start, stop)))
        halved.append(run._replace(level=level, finest=level, evaluated=terms))
        start = stop
    return halved


def _measure(one: Single, run: Run) -> Measured:
    """Sum of the job with its error, and how it ends."""
    step, before, terms = run.step, run.change, run.terms
    values, some = terms.values, _outermost(terms)
    if some is None:
        return _NOTHING
    size = np.abs(values)
    total, absolute = float(np.add.reduce(values)), float(np.add.reduce(size))
    low, high = float(values[some.start]), float(values[some.stop - 1])
    ends, rest, doubt = (abs(low), abs(high)), None, abs(low) + abs(high)
    odd = max(ends) > FLAT * np.maximum.reduce(size)
    cut = negligible(one.search.ledger) * absolute
    if max(ends) > cut:
        rest = _beyond(one, run, size, some, cut)
        (left,), (right,) = rest.rest.tolist()
        total = float(values[some].dot(rest.factor[:, 0])) + left * low + right * high
        absolute += left * ends[0] + right * ends[1]
        (left,), (right,) = rest.doubt.tolist()
        doubt = step * (left * ends[0] + right * ends[1])
    value, absolute = step * total, step * absolute
    error = change = abs(value - run.value)
    slow = change > max(LINEAR * before, one.search.ledger.epsilon * absolute)
    if not (slow or run.slow or step > FIRST_STEP / 8) and absolute > 0:
        table, _ = _table_of(one, run.jobs, run.level)
        waves = (float(run.of(c, values.size).dot(values)) for c in table.probe)
        if 2 * step * math.hypot(*waves) >= level_of(change, before):
            relative, earlier = change / absolute, min(before / absolute, 1.0)
            error = min(absolute * max(relative**1.5, earlier**3), change)
    odd |= absolute == 0 or (terms.finite is not None and not terms.finite.all())
    return Measured(
        value, change, slow, error + doubt, doubt, absolute, some, rest, bool(odd)
    )


def _outermost(terms: Terms) -> slice | None:
    """The terms from the first to the last that can be used; None if none can."""
    usable, size = terms.usable, terms.values.size
    if usable is None:
        return slice(0, size)
    if not usable.any():
        return None
    return slice(int(usable.argmax()), size - int(usable[::-1].argmax()))


def _beyond(one: Single, run: Run, size: Array, some: slice, cut: float) -> Beyond:
    """What lies beyond the terms of these sizes."""
    table, factor = _table_of(one, run.jobs, run.level)
    t, positions = (run.of(c, size.size)[some] for c in (table.t, table.positions))
    moved = displacement(one.search, run.jobs, _scaled(positions[:, None], factor))
    sizes, outermost = size[some, None], np.array([[0], [t.size - 1]])
    matter = sizes[[[0], [-1]], 0] > cut
    return beyond(one.search, run.jobs, t, sizes, outermost, matter, run.step, moved)


#: Of a job without a usable node.
_NOTHING = Measured(0.0, 0.0, False, 0.0, 0.0, 0.0, slice(0), None, odd=True)


def _outlook(one: Single, found: list[Measured]) -> tuple[list[bool], list[bool]]:
    """Which jobs are precise enough, and of which too much is cut off."""
    ledger, unit = one.search.ledger, one.unit
    total, settled, absolute = 0.0, 0.0, 0.0
    if ledger.total is not None:
        total, settled, absolute = ledger.total.columns[:, 0, 0].real.tolist()
    rounding = ROUNDING * ledger.epsilon
    errors = []
    for each in found:
        total += each.value * unit * one.sign
        absolute += each.absolute * unit
        errors.append(max(each.error, rounding * each.absolute) * unit)
    allowed = ledger.allowed_plain(total, absolute)
    share = max(allowed - settled, 0.0) / (2 * len(found))
    enough = settled + sum(errors) <= allowed
    done = [
        enough or error <= max(share, rounding * each.absolute * unit)
        for error, each in zip(errors, found, strict=True)
    ]
    return done, [each.doubt * unit > allowed for each in found]


def _as_levels(one: Single, runs: list[Run]) -> Levels:
    """The runs for the batch, with the range of all."""
    first, level = min(run.first for run in runs), runs[0].level
    starts = [(run.first - first) * 2**level for run in runs]
    terms = [run.terms for run in runs]
    ends = [i + each.values.size for i, each in zip(starts, terms, strict=True)]
    shape, step = (max(ends), len(runs)), runs[0].step
    values, usable = np.zeros((*shape, 1)), np.zeros(shape, bool)
    for i, each in enumerate(terms):
        some = slice(starts[i], ends[i])
        values[some, i, 0] = each.values
        usable[some, i] = True if each.usable is None else each.usable
    edge = reach(one.search.evaluate.integrand.dtype)
    t = FIRST_STEP * first - edge + step * np.arange(shape[0])
    return Levels(
        Jobs(*(np.concatenate(c) for c in zip(*[r.jobs for r in runs], strict=True))),
        t,
        values,
        usable,
        np.array([e.finite is not None and not e.finite.all() for e in terms]),
        t[starts],
        t[[end - 1 for end in ends]],
        np.array([[run.value] for run in runs]),
        np.array([[run.change] for run in runs]),
        None,
        np.array([[run.slow] for run in runs]),
    )


def _settle(one: Single, run: Run, found: Measured) -> None:
    """Add the job to the totals for good."""
    ledger, unit = one.search.ledger, one.unit
    absolute = found.absolute * unit
    error = max(found.error * unit, ROUNDING * ledger.epsilon * absolute)
    columns = np.array([found.value * unit * one.sign, error, absolute])
    ledger.add(ONE, Amount(columns.reshape(3, 1, 1), None))
    ledger.nodes.append(partial(_nodes, one, run, found))


def _nodes(one: Single, run: Run, found: Measured) -> Part:
    terms, (table, _) = run.terms, _table_of(one, run.jobs, run.level)
    t = run.of(table.t, terms.values.size)[found.some]
    used = np.ones(t.size, bool) if terms.usable is None else terms.usable[found.some]
    outermost, nothing = np.array([[0], [t.size - 1]]), np.zeros((1, 1))
    ends = Ends(used[:, None], outermost, found.beyond, nothing, np.zeros(1, bool))
    return nodes_of(run.jobs, t, ends, run.step)
