"""Double-exponential levels of a single integral of a single number."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.double_exponential import (
    EARLIEST,
    FIRST_STEP,
    LINEAR,
    Begun,
    Leftover,
    Levels,
    negligible,
    nodes_of,
    reach,
    refine,
)
from torch_mlcalc.quadrature.ends import FLAT, Beyond, Ends, beyond
from torch_mlcalc.quadrature.ledger import ROUNDING
from torch_mlcalc.quadrature.pieces import Part
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.runs import (
    Run,
    Terms,
    begin,
    first_terms,
    halved,
    moved_of,
    table_of,
)
from torch_mlcalc.quadrature.single.sampling import Single
from torch_mlcalc.quadrature.single.settled import error_of, settled_at_once
from torch_mlcalc.quadrature.single.tails import tails_of
from torch_mlcalc.quadrature.variables import Jobs


class Measured(NamedTuple):
    """What a level says of a job, in units of it.

    ``some`` are the nodes from the first to the last that is usable, and ``cut`` is the
    size of terms beyond which there is something, None where there is nothing.
    """

    value: float
    change: float
    slow: bool
    error: float
    doubt: float
    absolute: float
    some: slice
    cut: float | None
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
    seen = first_terms(one, jobs, max_level)
    if not isinstance(seen, Levels) and settled_at_once(one, *seen):
        return []
    hand_over = partial(refine, one.search, max_level=max_level, patient=patient)
    if isinstance(seen, Levels):
        return hand_over(jobs, begun=Begun(seen, 0))
    runs = begin(one, seen, max_level)
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
        runs = halved(one, [_noted(runs[i], found[i]) for i in left])


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
    return Run(*run[:5], found.value, found.change, found.slow)


def _measure(one: Single, run: Run) -> Measured:
    """Sum of the job with its error, and how it ends."""
    step, before, terms = run.step, run.change, run.terms
    values, some = terms.values, _outermost(terms)
    if some is None:
        return _NOTHING
    size = np.abs(values)
    total, absolute = float(np.add.reduce(values)), float(np.add.reduce(size))
    low, high = values.item(some.start), values.item(some.stop - 1)
    ends, doubt, at = (abs(low), abs(high)), abs(low) + abs(high), None
    odd, cut = False, negligible(one.search.ledger) * absolute
    if max(ends) > cut:
        # A quarter of the time of the largest itself.
        odd = max(ends) > FLAT * size.item(size.argmax())
        left, right, moved = tails_of(one, run, values[some], some.start, cut)
        total = total if moved is None else moved
        total += left.rest * low + right.rest * high
        absolute += left.rest * ends[0] + right.rest * ends[1]
        doubt = step * (left.doubt * ends[0] + right.doubt * ends[1])
        at = cut
    value, absolute = step * total, step * absolute
    error = change = abs(value - run.value)
    slow = change > max(LINEAR * before, one.search.ledger.epsilon * absolute)
    if not (slow or run.slow or step > FIRST_STEP / 8) and absolute > 0:
        table, _ = table_of(one, run.jobs, run.level)
        waves = run.of(table.probe, values.size).dot(values).tolist()
        error = error_of(change, before, absolute, 2 * step * math.hypot(*waves))
    odd |= absolute == 0 or (terms.finite is not None and not terms.finite.all())
    error += doubt
    return Measured(value, change, slow, error, doubt, absolute, some, at, odd)


def _outermost(terms: Terms) -> slice | None:
    """The terms from the first to the last that can be used; None if none can."""
    usable, size = terms.usable, terms.values.size
    if usable is None:
        return slice(0, size)
    first = int(usable.argmax())
    if not usable[first]:
        return None
    return slice(first, size - int(usable[::-1].argmax()))


def _beyond(one: Single, run: Run, size: Array, some: slice, cut: float) -> Beyond:
    """What lies beyond the terms of these sizes, as the plan wants to have it."""
    table, _ = table_of(one, run.jobs, run.level)
    t = run.of(table.t, size.size)[some]
    moved = run.of(moved_of(one, run.jobs, run.level), size.size)[some, None]
    sizes, outermost = size[some, None], np.array([[0], [t.size - 1]])
    matter = sizes[[[0], [-1]], 0] > cut
    return beyond(one.search, run.jobs, t, sizes, outermost, matter, run.step, moved)


#: Of a job without a usable node.
_NOTHING = Measured(0.0, 0.0, False, 0.0, 0.0, 0.0, slice(0), None, odd=True)


def _outlook(one: Single, found: list[Measured]) -> tuple[list[bool], list[bool]]:
    """Which jobs are precise enough, and of which too much is cut off."""
    ledger, unit = one.search.ledger, one.unit
    total, settled, absolute = ledger.plain or (0.0, 0.0, 0.0)
    rounding = ROUNDING * ledger.epsilon
    errors = []
    for each in found:
        total += each.value * unit * one.sign
        absolute += each.absolute * unit
        errors.append(max(each.error, rounding * each.absolute) * unit)
    allowed = ledger.allowed_plain(total, absolute)
    share = max(allowed - settled, 0.0) / (2 * len(found))
    enough = settled + sum(errors) <= allowed
    cut = [each.doubt * unit > allowed for each in found]
    if enough:
        return [True] * len(found), cut
    done = [
        error <= max(share, rounding * each.absolute * unit)
        for error, each in zip(errors, found, strict=True)
    ]
    return done, cut


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
    ledger.add_plain(found.value * unit * one.sign, error, absolute)
    ledger.nodes.append(partial(_nodes, one, run, found))


def _nodes(one: Single, run: Run, found: Measured) -> Part:
    terms, (table, _) = run.terms, table_of(one, run.jobs, run.level)
    t = run.of(table.t, terms.values.size)[found.some]
    used = np.ones(t.size, bool) if terms.usable is None else terms.usable[found.some]
    outermost, nothing = np.array([[0], [t.size - 1]]), np.zeros((1, 1))
    rest = None
    if found.cut is not None:
        rest = _beyond(one, run, np.abs(terms.values), found.some, found.cut)
    ends = Ends(used[:, None], outermost, rest, nothing, np.zeros(1, bool))
    return nodes_of(run.jobs, t, ends, run.step)
