"""What lies beyond the outermost terms of a single job, in plain numbers.

The formulas are those of :func:`ends.beyond`, which takes ten times as long for it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.double_exponential import FIRST_STEP, reach
from torch_mlcalc.quadrature.ends import LEAST, LEFT, ROUNDING, SMALL_BEND
from torch_mlcalc.quadrature.placement import FINITE, WHOLE
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.runs import Run, range_of, sides_moved
from torch_mlcalc.quadrature.single.sampling import Place, Single


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


_NOTHING = Tail(0.0, 0.0, 0.0)


class Tails(NamedTuple):
    """Both ends, and the sum of terms that rounding has moved; None if of none."""

    left: Tail
    right: Tail
    total: float | None


def tails_of(one: Single, run: Run, used: Array, start: int, cut: float) -> Tails:
    """What lies beyond some terms of a run.

    Args:
        one: The piece, with its search.
        run: The run.
        used: Its terms from the first to the last that can be used.
        start: Which of them is the first.
        cut: Size at which a term does not matter.

    Returns:
        The ends.
    """
    place, first = range_of(one, run.jobs), run.first * 2**run.level + start
    ends = first, first + used.size - 1
    left, right = [
        _tail(one, used, side, cut, (one.place, *place, run.level, ends[side]))
        for side in (0, 1)
    ]
    if one.kind == WHOLE or not (left.power or right.power):
        return Tails(left, right, None)
    shifts = sides_moved(one.place, *place, run.level)[:, first : first + used.size]
    if not left.power or not right.power:
        side = int(not left.power)
        exponents = (left.power or right.power) * shifts[side]
    else:
        exponents = left.power * shifts[0] + right.power * shifts[1]
    return Tails(left, right, float(used.dot(np.exp(exponents))))


class Outside(NamedTuple):
    """What is known of the nodes beyond an outermost one before there are values.

    Attributes:
        depth: Of the three outermost nodes, from the end inwards, how far they are from
            the end: logs.
        weights: From the logs of their terms to those of the integrand.
        slopes: What a power of a logarithm adds to the slope between each two.
        ahead: How much deeper the nodes beyond are.
        bent: What the power of a logarithm adds there.
        factors: What the terms there are multiplied with.
    """

    depth: list[float]
    weights: list[float]
    slopes: tuple[float, float]
    ahead: Array
    bent: Array
    factors: Array


#: Where a job lies, the level, and the node of it.
Node = tuple[Place, float, float, int, int]


@lru_cache(maxsize=256)
def _outside(
    place: Place, low: float, high: float, level: int, node: int, side: int
) -> Outside | None:
    """The nodes beyond one, None if these are not deep enough to tell."""
    step = FIRST_STEP / 2**level
    inwards = -1 if side else 1
    edge = reach(place.dtype)
    nodes = [min(max(node + inwards * i, 0), round(2 * edge / step)) for i in range(3)]
    outer = [abs(i * step - edge) for i in nodes]
    shifts = [0.0] * 3
    if place.kind != WHOLE:
        shifts = sides_moved(place, low, high, level).sum(0)[nodes].tolist()
    unit = math.pi if place.kind == FINITE else math.pi / 2
    depth = [unit * math.sinh(x) - s for x, s in zip(outer, shifts, strict=True)]
    weights = [s - math.log(math.cosh(x)) for x, s in zip(outer, shifts, strict=True)]
    if not depth[0] > depth[1] > depth[2] > 1:
        return None
    near, far = (
        math.log(depth[i] / depth[i + 1]) / (depth[i] - depth[i + 1]) for i in range(2)
    )
    t = outer[0] + step * np.arange(1, 1 + math.ceil(3 / step))
    ahead = unit * np.sinh(t) - depth[0]
    bent = np.log1p(ahead / depth[0]) - near * ahead
    factors = np.cosh(t) * (math.exp(shifts[0]) / math.cosh(outer[0]))
    for array in (ahead, bent, factors):
        array.setflags(write=False)
    return Outside(depth, weights, (near, far), ahead, bent, factors)


def _tail(one: Single, used: Array, side: int, cut: float, node: Node) -> Tail:
    """What lies beyond one end of the terms."""
    outermost = used.item(-side)
    if not outermost:
        return _NOTHING
    # Of an end that does not look like a power, the outermost term is in doubt.
    nothing = Tail(0.0, 2 ** node[3] / FIRST_STEP, 0.0)
    if not abs(outermost) > cut or used.size < 3:
        return nothing
    terms = (used[:-4:-1] if side else used[:3]).tolist()
    outside = _outside(*node, side)
    if outside is None or not all(terms):
        return nothing
    (a, b, c), weights, (near, far), ahead, bent, factors = outside
    x, y, z = [math.log(abs(v)) + w for v, w in zip(terms, weights, strict=True)]
    rate, inner = (x - y) / (a - b), (y - z) / (b - c)
    if not (-math.inf < rate < 0 and -math.inf < inner < 0):
        return nothing
    plain = factors * np.exp(rate * ahead)
    log_power = (rate - inner) / (near - far or math.nan)
    level, whole = (
        float(np.add.reduce(plain)),
        float(plain.dot(np.exp(log_power * bent))),
    )
    bend = abs(whole - level)
    small = bend < SMALL_BEND * whole
    rest = whole if small else level
    least = max(LEAST, ROUNDING * one.search.ledger.epsilon)
    return Tail(rest, (LEFT if small else 1) * bend + least * rest, 1 + rate)
