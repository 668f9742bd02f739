"""What tensor rules say of a single integral, judged in plain numbers.

The decisions are those of :func:`climb`, on the same nodes; see the package ``single``
for one dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.ladder import (
    CHEAP,
    EXTRAPOLATED,
    JUMPED,
    JUMPING,
    LADDERS,
    LEAST,
    LEAST_UNBOUNDED,
    MISSED,
    OFTEN,
    ROUGH,
    SMOOTH,
    SMOOTH_AGAIN,
    STEADY,
    STEEP,
    SURE,
    TAIL_ROUGH,
    TAIL_UNBOUNDED,
    Pace,
    Stage,
    budget_of,
    expected,
    pace_of,
    patience_of,
)
from torch_mlcalc.quadrature.cubature.regions import resolved
from torch_mlcalc.quadrature.estimate import Tolerance
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import SMALL, contract
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount
from torch_mlcalc.quadrature.rules import Array

#: Nodes of a rule that are evaluated in one call, and where memory is asked for.
MOST_AT_ONCE, FEW = 60_000, 10_000


class Sum(NamedTuple):
    """Value, size of the last coefficients, and integral of the absolute value."""

    value: float
    tail: float
    absolute: float


class Terms(NamedTuple):
    """What an integral over the cube is judged by.

    Attributes:
        dimension: Of the cube.
        tolerance: When it counts as converged.
        epsilon: Relative rounding error of one value.
        begin: The step of the ladder that was the first.
        parts: Whether it is one of the parts between kinks.
        unbounded: Whether there may be infinite limits.
    """

    dimension: int
    tolerance: Tolerance
    epsilon: float
    begin: int = 1
    parts: bool = False
    unbounded: bool = False

    def patience(self, step: int, fall: float) -> float:
        """See :func:`patience_of`; less where last coefficients hardly fall."""
        whole = self.begin == 1 and not self.parts
        if whole and fall > JUMPING and step < CHEAP.get(self.dimension, 0):
            return JUMPED
        return patience_of(step, self.begin, self.dimension, parts=self.parts)

    def budget(self, max_evals: int) -> int:
        """See :func:`budget_of`."""
        return budget_of(self.begin, max_evals)

    def allowed(self, total: Sum) -> float:
        """See :meth:`Ledger.allowed_plain`."""
        rtol, atol, _ = self.tolerance
        floor = ROUNDING * self.epsilon * total.absolute * (1 + 1e-3)
        return max(atol, rtol * abs(total.value), floor)


class Climbed(NamedTuple):
    """How far a single integral came: the arguments with which the batch goes on.

    Attributes:
        step: The step that is next.
        before: What the rule before said, None at first.
        rate: Least fall of its last coefficients for each degree, 0 at first.
        rough: How many rules in a row found it rough.
        change: From the rule before that to it, nan at first.
        error: That of the last rule.
        values: The integrand at the nodes of the next step, if it was evaluated.
        base: The node of the cube at which it was largest, if it was looked for.
        left: Whether tensor rules will not do.
        steep: Whether a fitted one should be tried at once.
        done: Whether it has converged.
        fitted: Whether a fitted rule was tried.
        whole: The integrand at the nodes of the rule of Genz and Malik on the cube, if
            it was evaluated.
    """

    step: int
    before: Sum | None = None
    rate: float = 0.0
    rough: int = 0
    change: float = math.nan
    error: float = math.inf
    values: Values | None = None
    base: Array | None = None
    left: bool = False
    steep: bool = False
    done: bool = False
    fitted: bool = False
    whole: Values | None = None

    @property
    def amount(self) -> Amount | None:
        """What the rule before said, for the batch."""
        if self.before is None:
            return None
        return Amount(np.array(self.before).reshape(3, 1, 1), None)

    def seen(self, stage: Stage, values: Values) -> Climbed:
        """With the node of a cube at which the integrand was largest."""
        top = int(np.abs(values).argmax())
        return self._replace(base=stage.table.nodes[top])

    def misses(self, step: int, terms: Terms) -> bool:
        """Whether the rule of a step is expected to miss by much, at this pace."""
        total = self.before
        if total is None:
            return False
        seen, allowed = self.step - 1, terms.allowed(total)
        error = expected(terms.dimension, step, seen, total.tail, self.rate)
        return error > MISSED * allowed

    def judged(self, sums: Sequence[Sum], terms: Terms, steps: int = 1) -> Climbed:
        """With the sums of the rules of a stage, one or two, so many steps further."""
        total, before = sums[-1], sums[0] if self.before is None else self.before
        step, rough, d = self.step + steps - 1, self.rough, terms.dimension
        pace, allowed = pace_of(step, d, steps), terms.allowed(total)
        change = abs(total.value - before.value)
        rounding = ROUNDING * terms.epsilon * total.absolute
        # A rule that saw only zeros has no coefficients; all those of the next are new.
        largest = max(total.tail, before.tail)
        fall = total.tail / max(before.tail, rounding) if largest > rounding else 0.0
        own = fall ** (1 / pace.length)
        if fall < SMOOTH:
            error = _extrapolated(terms, total, change, fall, own, pace, self)
        else:
            error = max(ROUGH * change, total.tail)
        if max(error, rounding) <= allowed:
            return Climbed(step, total, error=max(error, rounding), done=True)
        smooth = fall < (SMOOTH_AGAIN if rough >= OFTEN else SMOOTH)
        best = change * fall ** (2 + 2 * pace.left) if smooth else 0.0
        seen = change > rounding
        rough = rough + 1 if seen and not smooth else 0
        last = step + 1 == len(LADDERS[d])
        left = (best > allowed and seen) or last
        left = left or bool(rough and rough >= terms.patience(step, fall))
        steep = step == 1 and fall > STEEP.get(d, math.inf)
        return Climbed(
            step + 1,
            total,
            min(own, self.rate) if self.rate else own,
            rough,
            change,
            max(error, rounding),
            left=left,
            steep=steep,
            fitted=self.fitted,
            whole=self.whole,
        )


def sums_of_one(
    stage: Stage, values: Values, volume: float, epsilon: float
) -> list[Sum]:
    """What each rule of a stage says of values ``(n,)`` in a cube."""
    absolute = float(np.abs(values).dot(stage.table.weights))
    if stage.axes:
        return [sum_of(resolved(values, stage.axes), absolute, volume, epsilon)]
    rows: list[float]
    if stage.rows.size <= SMALL:
        # The same as contract, whose care for shapes takes as long as the sums.
        rows = stage.rows.dot(values).tolist()
    else:
        rows = contract(stage.rows, values).tolist()
    each = stage.each
    return [
        sum_of(rows[i : i + each], absolute, volume, epsilon)
        for i in range(0, len(rows), each)
    ]


def sum_of(rows: list[float], absolute: float, volume: float, epsilon: float) -> Sum:
    """The sum with this mean and last coefficients, and the mean of the size."""
    mean, *tail = rows
    size = abs(volume)
    absolute *= size
    last = max(max(tail), -min(tail)) * size
    return Sum(mean * volume, max(last, ROUNDING * epsilon * absolute), absolute)


def _extrapolated(
    terms: Terms,
    total: Sum,
    change: float,
    fall: float,
    own: float,
    pace: Pace,
    begun: Climbed,
) -> float:
    """The error of a rule whose last coefficients fall; see climb."""
    rate, rough = begun.rate, begun.rough
    doubted = fall > SURE and (rough or not rate)
    steady = own <= rate**STEADY and not doubted
    trusted = fall**2 if steady or not (rate or doubted) else fall
    least = 1.0 if doubted and rough else LEAST
    floor = total.tail * (total.tail / total.absolute)
    if terms.unbounded:
        sure = fall <= SURE and not rough and rate
        least = 1.0 if rough else LEAST_UNBOUNDED
        floor = floor if sure else TAIL_UNBOUNDED**2 * floor
    elif steady:
        floor = min(floor, total.tail * fall**pace.passed)
    elif rough >= OFTEN:
        floor *= TAIL_ROUGH
    return max(change * min(max(EXTRAPOLATED * trusted, least), 1.0), floor)
