"""The terms of double-exponential levels of one job, and how they are come by."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from torch_mlcalc.quadrature.double_exponential import (
    FIRST_STEP,
    GUARD,
    LINEAR,
    Levels,
    first_levels,
    negligible,
    reach,
)
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Mask, Sample
from torch_mlcalc.quadrature.single.sampling import ONE, Place, Single, window
from torch_mlcalc.quadrature.spectrum import probe
from torch_mlcalc.quadrature.variables import Jobs, double_exponential

#: Levels behind level 0 that the first call evaluates. To 1e-8 all 55 problems on an
#: unbounded range need two, and 42 of them a third. So do 25 of 45 with windows, but
#: of these some have two, and the call for the third is a quarter of the first.
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

    def halved(self, finest: int, evaluated: Terms) -> Run:
        """The same at the next level; to change it by names takes twice as long."""
        jobs, first, level, _, _, value, change, slow = self
        return Run(jobs, first, level + 1, finest, evaluated, value, change, slow)

    def of(self, column: Array, size: int) -> Array:
        """A column of the table of the level for so many nodes."""
        first = self.first * 2**self.level
        return column[..., first : first + size]


@lru_cache(maxsize=512)
def _table(kind: int, low: float, high: float, dtype: torch.dtype, level: int) -> Table:
    step = FIRST_STEP / 2**level
    last = round(reach(dtype) / step)
    t = np.arange(-last, last + 1) * step
    column = double_exponential(window(kind, low, high), t[:, None])
    positions, slope = (each[:, 0] for each in column)
    table = Table(t, positions, slope, probe(t, step))
    for array in table:
        array.setflags(write=False)
    return table


def table_of(one: Single, jobs: Jobs, level: int) -> tuple[Table, float]:
    """The table of a job, and the factor of its positions and slopes."""
    return _table_between(one.place, *range_of(one, jobs), level)


def range_of(one: Single, jobs: Jobs) -> tuple[float, float]:
    """Where a job begins and ends, as fractions of the piece."""
    return (0.0, 1.0) if jobs is one.jobs else (jobs.low.item(), jobs.high.item())


def _table_between(
    place: Place, low: float, high: float, level: int
) -> tuple[Table, float]:
    if low == 0 and high == 1:
        return _table(place.kind, low, high, place.dtype, level), 1.0
    # A window is a whole piece of another length, seen from the end that it touches.
    side = (0.0, 0.5) if low == 0 else (0.5, 1.0)
    return _table(place.kind, *side, place.dtype, level), 2 * (high - low)


class Placed(NamedTuple):
    """Nodes of a job where they are: points, derivative, and which are not on an end.

    Those on an end are elsewhere, with a derivative of 0; ``inside`` is None without.
    """

    points: Array
    slope: Array
    inside: Mask | None


#: Up to this level, of 385 nodes, whole tables of points are remembered.
REMEMBERED = 4


def _placed(
    place: Place, low: float, high: float, level: int, some: slice | None = None
) -> Placed:
    """Some nodes of a level, or all."""
    if level <= REMEMBERED:
        points, slope, inside = placed = _remembered(place, low, high, level)
        if some is None:
            return placed
        inside = None if inside is None or inside[some].all() else inside[some]
        return Placed(points[some], slope[some], inside)
    table, factor = _table_between(place, low, high, level)
    some = some or slice(None)
    return _between(place, table.positions[some] * factor, table.slope[some] * factor)


@lru_cache(maxsize=256)
def _remembered(place: Place, low: float, high: float, level: int) -> Placed:
    """All nodes of one of the first levels."""
    table, factor = _table_between(place, low, high, level)
    placed = _between(place, table.positions * factor, table.slope * factor)
    for array in placed:
        if array is not None:
            array.setflags(write=False)
    return placed


def _between(place: Place, positions: Array, slope: Array) -> Placed:
    """Nodes at positions, which are monotone."""
    points = place.points(positions)
    lower, upper = place.range(GUARD)
    inside: Mask | None = None
    first, last = sorted((points.item(0), points.item(-1)))
    if not (lower < first and last < upper):
        inside = (points > lower) & (points < upper)
        points, slope = np.where(inside, points, place.home), np.where(inside, slope, 0)
    return Placed(points, slope, inside)


def moved_of(one: Single, jobs: Jobs, level: int) -> Array:
    """By how much rounding moves the nodes of a level; see :func:`displacement`."""
    moved: Array = sides_moved(one.place, *range_of(one, jobs), level).sum(0)
    return moved


@lru_cache(maxsize=64)
def sides_moved(place: Place, low: float, high: float, level: int) -> Array:
    """The same of nodes on the left half, 0 on the other; and right, ``(2, n)``."""
    table, factor = _table_between(place, low, high, level)
    moved = place.displacement(table.positions * factor)
    sides = np.where([table.t < 0, table.t >= 0], moved, 0.0)
    sides.setflags(write=False)
    return sides


def _joined(placed: list[Placed]) -> Placed:
    if len(placed) == 1:
        return placed[0]
    points, slope, inside = zip(*placed, strict=True)
    mask = None
    if any(each is not None for each in inside):
        mask = np.concatenate(
            [np.ones(p.size, bool) if i is None else i for p, _, i in placed]
        )
    return Placed(np.concatenate(points), np.concatenate(slope), mask)


def _sample(one: Single, placed: list[Placed]) -> Terms | Sample:
    """The integrand at nodes; what the batch makes of it where that is no number."""
    points, slope, inside = _joined(placed)
    one.search.ledger.n_evals[0] += points.size
    values = one.values(points)
    # All terms are finite if their sum is.
    real = values.ndim == 1 and values.dtype == float
    if real and math.isfinite(values.dot(slope)):
        return Terms(values * slope, inside, None)
    column = None if inside is None else inside[:, None]
    sample = one.sample(points[:, None], slope[:, None], column, values)
    if sample.values.shape[-1] != 1 or sample.values.dtype != float:
        return sample
    finite = None if sample.finite is None else sample.finite[:, 0]
    return Terms(sample.values[:, 0, 0], inside, finite)


def first_terms(one: Single, jobs: Jobs, max_level: int) -> Seen | Levels:
    """The first levels over all of the reachable range, evaluated in one call.

    Returns:
        Each job with its terms, and the level to which there are some: 2, or 3 of an
        unbounded piece, or less if the budget or ``max_level`` is; for the batch, level
        0 of an integrand that is no number.
    """
    ledger, finest = one.search.ledger, WINDOW if one.kind == FINITE else WHOLE
    finest = min(finest, max_level)
    edge = reach(one.place.dtype)
    points = jobs.piece.size * 2 ** (finest + 1) * edge / FIRST_STEP
    if ledger.n_evals.item(0) + points >= ledger.max_evals:
        finest = 0
    seen = _first_sample(one, jobs, finest)
    return seen if isinstance(seen, Levels) else (seen, finest)


#: Jobs with their terms, and the level of these.
Seen = tuple[list[tuple[Jobs, Terms]], int]


def begin(one: Single, seen: Seen, max_level: int) -> list[Run]:
    """The first levels over the range that matters.

    What is out of it, half of the nodes, is not used; but a call costs as much as some
    hundred points.

    Returns:
        The runs at level 2, or 3 where that will not do, or less if ``max_level`` is.
    """
    terms, finest = seen
    runs = [_narrowed(one, job, each, finest) for job, each in terms]
    if not finest and max_level > 1:
        runs = [_at_level_1(run) for run in halved(one, runs)]
    return runs if runs[0].level >= min(2, max_level) else halved(one, runs)


def _first_sample(
    one: Single, jobs: Jobs, finest: int
) -> list[tuple[Jobs, Terms]] | Levels:
    """Each job with the values of all its nodes."""
    count = jobs.piece.size
    split = [jobs] if count == 1 else [jobs.take(ONE + i) for i in range(count)]
    placed = [_placed(one.place, *range_of(one, j), finest) for j in split]
    seen = _sample(one, placed)
    size = placed[0].points.size
    if isinstance(seen, Sample):
        stride, t = 2**finest, table_of(one, split[0], finest)[0].t
        inside, finite = (None if c is None else c[::stride] for c in seen[1:])
        coarse = Sample(seen.values[::stride], inside, finite)
        return first_levels(one.search, jobs, t[::stride], coarse)
    if count == 1:
        return [(jobs, seen)]
    some = [slice(i * size, (i + 1) * size) for i in range(count)]
    return [(job, seen.at(s)) for job, s in zip(split, some, strict=True)]


def _narrowed(one: Single, jobs: Jobs, seen: Terms, finest: int) -> Run:
    """Level 0, with what else is known between the nodes that matter."""
    stride = 2**finest
    # So few that lists are faster.
    values = seen.values[::stride].tolist()
    sizes = list(map(abs, values))
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
    if finest < 2:
        return run
    run = _at_level_1(run)
    ends = max(sizes[first], sizes[last])
    known = finest > 2 and inner.usable is None and 0 < sum(sizes) < math.inf
    return _at_level_3(one, run) if known and ends <= cut else run


def _at_level_1(run: Run) -> Run:
    """The run at level 2 if it was evaluated; no error is believed before that."""
    # So few that a list is faster.
    values = run.evaluated.values[:: 2 ** (run.finest - 1)].tolist()
    value = FIRST_STEP / 2 * sum(values)
    level = min(2, run.finest)
    change = abs(value - run.value)
    jobs, first, _, finest, evaluated, _, _, slow = run
    return Run(jobs, first, level, finest, evaluated, value, change, slow)


def _at_level_3(one: Single, run: Run) -> Run:
    """The same, where level 3 was evaluated and nothing lies beyond the ends.

    Returns:
        The run at level 3; at level 2 if the change of that says that it may do.
    """
    values = run.evaluated.values[::2].tolist()
    value = FIRST_STEP / 4 * sum(values)
    absolute = FIRST_STEP / 4 * sum(map(abs, values))
    change, ledger, unit = abs(value - run.value), one.search.ledger, one.unit
    if change * unit <= ledger.allowed_plain(value * unit, absolute * unit):
        return run
    slow = change > max(LINEAR * run.change, ledger.epsilon * absolute)
    jobs, first, _, finest, evaluated, *_ = run
    return Run(jobs, first, 3, finest, evaluated, value, change, slow)


def halved(one: Single, runs: list[Run]) -> list[Run]:
    """The runs at the next level."""
    level = runs[0].level + 1
    if runs[0].finest >= level:
        return [run.halved(run.finest, run.evaluated) for run in runs]
    placed = []
    for run in runs:
        first = run.first * 2**level
        some = slice(first + 1, first + 2 * run.evaluated.values.size - 1, 2)
        placed.append(_placed(one.place, *range_of(one, run.jobs), level, some))
    seen = _sample(one, placed)
    assert isinstance(seen, Terms)  # noqa: S101
    halved, start = [], 0
    for run in runs:
        stop = start + run.evaluated.values.size - 1
        own = seen if len(runs) == 1 else seen.at(slice(start, stop))
        terms = run.evaluated.interleaved(own)
        halved.append(run.halved(level, terms))
        start = stop
    return halved
