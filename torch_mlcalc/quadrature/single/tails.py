"""What lies beyond the outermost terms of a single job, in plain numbers.

The formulas are those of :func:`ends.beyond`, which takes ten times as long for it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.ends import LEAST, LEFT, ROUNDING, SMALL_BEND
from torch_mlcalc.quadrature.placement import FINITE, WHOLE
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.runs import Run, moved_of, table_of
from torch_mlcalc.quadrature.single.sampling import Single


class Tail(NamedTuple):
    """What lies beyond one end, in units of its outermost term.

    Attributes:
        rest: The sum.
        doubt: Its uncertainty.
        power: That of the distance from the end.
    """

    rest: float
    doubt: float
    power: float


class Tails(NamedTuple):
    """Both ends, and the sum of the terms with that rounding moves their nodes."""

    left: Tail
    right: Tail
    total: float


def tails_of(one: Single, run: Run, some: slice, cut: float) -> Tails:
    """What lies beyond some terms of a run.

    Args:
        one: The piece, with its search.
        run: The run.
        some: From the first term to the last that can be used.
        cut: Size at which a term does not matter.

    Returns:
        The ends.
    """
    values = run.terms.values
    table, _ = table_of(one, run.jobs, run.level)
    t, used = run.of(table.t, values.size)[some], values[some]
    moved: Array | None = None
    if one.kind != WHOLE:
        shifts = moved_of(one, run.jobs, run.level)
        moved = run.of(shifts, values.size)[some]
    left, right = (
        _tail(one, run.step, *(_three(c, side) for c in (t, used, moved)))
        if abs(used.item(-side)) > cut
        else Tail(0.0, 1 / run.step if used.item(-side) else 0.0, 0.0)
        for side in (0, 1)
    )
    if moved is None or not (left.power or right.power):
        return Tails(left, right, float(np.add.reduce(used)))
    factor = np.exp(np.where(t < 0, left.power, right.power) * moved)
    return Tails(left, right, float(used.dot(factor)))


#: Of the three outermost nodes, from an end inwards.
Three = tuple[float, float, float]


def _three(column: Array | None, side: int) -> Three:
    if column is None:
        return 0.0, 0.0, 0.0
    three = (column[:-4:-1] if side else column[:3]).tolist()
    # Where there are fewer, two alike say nothing.
    first, second, third = three + three[-1:] * (3 - len(three))
    return first, second, third


def _tail(one: Single, step: float, t: Three, values: Three, shifts: Three) -> Tail:
    """What lies beyond one end."""
    sizes, outer = [abs(v) for v in values], [abs(x) for x in t]
    # Of an end that does not look like a power, the outermost term is in doubt.
    nothing = Tail(0.0, 1 / step, 0.0)
    if not min(sizes) > 0:
        return nothing
    unit = math.pi if one.kind == FINITE else math.pi / 2
    depth, logs = [], []
    for x, size, shift in zip(outer, sizes, shifts, strict=True):
        depth.append(unit * math.sinh(x) - shift)
        logs.append(math.log(size) - math.log(math.cosh(x)) + shift)
    if not depth[0] > depth[1] > depth[2] > 1:
        return nothing
    rate, inner = (
        (logs[i] - logs[i + 1]) / (depth[i] - depth[i + 1]) for i in range(2)
    )
    if not (-math.inf < rate < 0 and -math.inf < inner < 0):
        return nothing
    sinh, cosh = _missing(outer[0], step)
    ahead = unit * sinh - depth[0]
    plain = cosh * (math.exp(shifts[0]) / math.cosh(outer[0])) * np.exp(rate * ahead)
    # What a power of a logarithm adds to the slope between the same nodes.
    near, far = (
        math.log(depth[i] / depth[i + 1]) / (depth[i] - depth[i + 1]) for i in range(2)
    )
    log_power = (rate - inner) / (near - far or math.nan)
    curved = plain * np.exp(log_power * (np.log1p(ahead / depth[0]) - near * ahead))
    level, whole = float(np.add.reduce(plain)), float(np.add.reduce(curved))
    bend = abs(whole - level)
    small = bend < SMALL_BEND * whole
    rest = whole if small else level
    least = max(LEAST, ROUNDING * one.search.ledger.epsilon)
    return Tail(rest, (LEFT if small else 1) * bend + least * rest, 1 + rate)


@lru_cache(maxsize=256)
def _missing(outer: float, step: float) -> tuple[Array, Array]:
    """Hyperbolic sine and cosine at the nodes beyond an outermost one."""
    t = outer + step * np.arange(1, 1 + math.ceil(3 / step))
    return np.sinh(t), np.cosh(t)
