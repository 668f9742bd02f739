"""The first tensor rules for a single integral, judged in plain numbers.

The decisions are those of :func:`climb`, on the same nodes; see the package ``single``
for one dimension. What is out of the ordinary goes on there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.ladder import (
    EXTRAPOLATED,
    LADDERS,
    LEAST,
    LEAST_UNBOUNDED,
    ROUGH,
    SMOOTH,
    STEADY,
    SURE,
    TAIL_UNBOUNDED,
    Pace,
    Stage,
    budget_of,
    pace_of,
    patience_of,
    stage_of,
)
from torch_mlcalc.quadrature.cubature.regions import Regions, gauss_table
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.sampling import is_ordinary

#: Nodes of a rule up to which its own cost does not outweigh what is saved.
FEW = 10_000


class Sum(NamedTuple):
    """Value, size of the last coefficients, and integral of the absolute value."""

    value: float
    tail: float
    absolute: float


class Climbed(NamedTuple):
    """How far a single integral came: the arguments with which the batch goes on.

    Attributes:
        step: The step that is next.
        before: Totals of the rule before, None at first.
        rate: Least fall of its last coefficients for each degree, 0 at first.
        rough: How many rules in a row found it rough.
        change: From the rule before that to it, nan at first.
        values: The integrand at the nodes of that step, if it was evaluated already.
        left: Whether tensor rules will not do.
        done: Whether it has converged.
    """

    step: int
    before: Amount | None = None
    rate: float = 0.0
    rough: int = 0
    change: float = math.nan
    values: Values | None = None
    left: bool = False
    done: bool = False


def is_single(search: CubeSearch) -> bool:
    """Whether there is one integral, of which nothing is known yet, not in log form."""
    ledger = search.ledger
    return (
        search.evaluate.is_alone
        and not ledger.log
        and ledger.tolerance.grad_rtol is None
        and ledger.total is None
    )


def climb_single(search: CubeSearch, regions: Regions, begin: int) -> Climbed:
    """Take the first steps of :func:`climb`.

    Args:
        search: The integral.
        regions: All of its regions.
        begin: The first step.

    Returns:
        Where it stands.
    """
    ledger, ladder = search.ledger, LADDERS.get(search.dimension, ())
    (low, width), m = search.corners(regions), regions.owner.size
    volume = width.prod(1) * search.volume[0]
    before: Sum | None = None
    rate, change, rough, step = 0.0, math.nan, 0, begin
    for step in range(begin, len(ladder)):
        stage = stage_of(step, search.dimension, first=before is None)
        count = stage.table.count(search.dimension) * m
        paid = ledger.n_evals[0] + count <= budget_of(begin, ledger.max_evals)
        if count > FEW or not stage.rows.size or not paid:
            return Climbed(step, _as_amount(before), rate, rough, change)
        points = low + width * stage.table.nodes[:, None]
        values = search.evaluate.row(points.reshape(count, -1))
        ledger.n_evals += count
        ordinary = is_ordinary(values) and values.any()
        values = values.reshape(-1, m, *values.shape[1:])
        if not ordinary:
            return Climbed(step, _as_amount(before), rate, rough, change, values)
        sums = _sums(search, stage, values, volume)
        total = _total(sums[-1])
        before = _total(sums[0]) if before is None else before
        pace = pace_of(step, search.dimension)
        error, slow, late, rate = _judge(search, total, before, pace, rate, rough)
        if error <= ledger.allowed_plain(total.value, total.absolute):
            columns = sums[-1][..., None]
            columns[1] = error / m
            search.keep(gauss_table(stage.size), regions, Amount(columns, None))
            return Climbed(step, done=True)
        rough = rough + 1 if slow else 0
        change = abs(total.value - before.value)
        before = total
        if late or rough >= patience_of(begin, search.dimension):
            return Climbed(step, left=True)
    return Climbed(step + 1, left=True)


def _sums(
    search: CubeSearch, stage: Stage, values: Values, volume: Array
) -> list[Array]:
    """Value, last coefficients and absolute value by each rule, ``(3, m)``."""
    rows = contract(stage.rows, values) * volume
    size = contract(stage.table.weights[None], np.abs(values))
    absolute = size[0] * np.abs(volume)
    floor = ROUNDING * search.ledger.epsilon * absolute
    found = []
    for first in range(0, len(rows), stage.each):
        tail = np.abs(rows[first + 1 : first + stage.each]).max(0)
        found.append(np.array([rows[first], np.maximum(tail, floor), absolute]))
    return found


def _total(columns: Array) -> Sum:
    return Sum(*np.add.reduce(columns, 1).tolist())


def _judge(
    search: CubeSearch, total: Sum, before: Sum, pace: Pace, rate: float, rough: int
) -> tuple[float, bool, bool, float]:
    """Error, whether it shrinks slowly, whether that is too late, rate; see climb."""
    ledger = search.ledger
    rounding = ROUNDING * ledger.epsilon * total.absolute
    change = abs(total.value - before.value)
    # A rule that saw only zeros has no coefficients, and those of the next are all new.
    largest = max(total.tail, before.tail)
    fall = total.tail / max(before.tail, rounding) if largest > rounding else 0.0
    own = fall ** (1 / pace.length)
    error = max(ROUGH * change, total.tail)
    if fall < SMOOTH:
        steady = own <= rate**STEADY and (fall <= SMOOTH**2 or not rough)
        trusted = fall**2 if steady or not rate else fall
        least, floor = LEAST, total.tail**2 / total.absolute
        if search.unbounded:
            sure = fall <= SURE and not rough and rate
            least = 1.0 if rough else LEAST_UNBOUNDED
            floor = floor if sure else TAIL_UNBOUNDED**2 * floor
        elif steady:
            floor = min(floor, total.tail * fall**pace.passed)
        extrapolated = change * min(max(EXTRAPOLATED * trusted, least), 1.0)
        error = max(extrapolated, floor)
    seen, smooth = change > rounding, fall < SMOOTH
    best = change * fall ** (2 + 2 * pace.left) if smooth else 0.0
    late = best > ledger.allowed_plain(total.value, total.absolute) and seen
    rate = min(own, rate) if rate else own
    return max(error, rounding), seen and not smooth, late, rate


def _as_amount(total: Sum | None) -> Amount | None:
    if total is None:
        return None
    return Amount(np.array(total).reshape(3, 1, 1), None)
