"""A tensor rule with as many nodes on each axis as lines along it show to be needed.

The rule of 9 nodes on every axis needs 59,049 in 5 dimensions; a product peak there
needs 5 on one axis and 8 on another, which a few hundred points on lines show.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from torch_mlcalc.quadrature.cubature.along import Lines, Parts, Probe, look_along
from torch_mlcalc.quadrature.cubature.climbed import Sum
from torch_mlcalc.quadrature.cubature.genz_malik import DEGREE, Looked
from torch_mlcalc.quadrature.cubature.genz_malik_table import count_nodes
from torch_mlcalc.quadrature.cubature.grid import (
    Sizes,
    absolute_of,
    marginals,
    means_of,
    values_on,
)
from torch_mlcalc.quadrature.cubature.parts import Fitted, between, climb_parts
from torch_mlcalc.quadrature.cubature.single_kinks import find_kinks_single
from torch_mlcalc.quadrature.cubature.symmetric import (
    EXPECTED,
    PARTED,
    SEEN,
    in_halves,
    judge,
    on_all,
    predict,
)
from torch_mlcalc.quadrature.ledger import ROUNDING
from torch_mlcalc.quadrature.rules import Array

#: Nodes of a rule on one cube, all of which a plan holds, in up to 5 dimensions and in
#: more, where regions need less; and on all parts together. A product peak at 1e-6 in 5
#: takes 34 ms with 9e5 nodes, 290 ms in regions; at 1e-3 in 8, 81 ms with 1.5e6, 11 ms
#: in regions.
FLAT, MOST_ON_ONE, MOST = 5, (1_000_000, 400_000), 9_000_000

#: Safety of the error that the lines predict. With it, over 4032 integrals of Genz's
#: families in 2 and 3 dimensions, at tolerances from 0.1 to 1e-7, no error was above
#: the tolerance that it was said to meet.
SAFE = 2.0

#: Points of a tensor rule from which on the rule of Genz and Malik is tried on parts,
#: by dimension. A product peak at 1e-3 takes 0.5, and one with kinks 0.2 of the time.
#: In 5 dimensions slopes of a peak by its place were off by 90 times the tolerance of
#: the value: they are odd, and the lines only bound what is even.
WORTH = {8: 4_000}

#: The part that is taken to be seen on a grid where the rule of Genz and Malik saw less
#: than is believed: so many times as much, and at least the second. Coefficients of a
#: corner peak fall faster on most lines than on those near the corner. Of 750 of them
#: in 4 to 8 dimensions no error was above 0.53 of what was allowed; in 8 dimensions
#: they take a quarter of the points that they take with 0.4 for all of them. Of 2,880
#: hidden bumps in 4 to 6 dimensions 599 are claimed falsely, and 600 were. In up to
#: FLAT dimensions it has to be half as little: with all, smooth peaks, of which 1 in 6
#: is seen so little by accident, take 1.04 times the points, with half 1.01.
RIDGE, SCARCE = (10.0, 0.12), (SEEN / 2, SEEN)

#: Times that a rule is made larger.
TRIES = 3

#: Part of the allowed error that may not be resolved on one line.
RESOLVED = 0.05

#: Least part of the error that lines predict, however little of it is seen. Of 9,400
#: rules in 3 to 8 dimensions none had more than SAFE times the part that was seen.
LEAST = 0.03

#: The part that is taken to be seen on a whole cube before any rule is: of a product of
#: functions of one axis each the lines tell all, and up to 1.2 times as much is seen of
#: it. What is more is taken by its square. In more than FLAT dimensions a node more on
#: some axes costs more than a second try now and then.
EXACT = 1.25

#: Nodes on an axis from which on a rule is checked by one of 0.6 times as many. That is
#: as sure as one node less, which took up to 0.8 times as many points again.
FEW = 5

#: The step of the ladder up to which its rules are tried on the parts between kinks,
#: by dimension, before lines are looked at again: 1,216 points in eight parts, as many
#: as on the lines, and most integrals at 1e-3 need no more.
CUT = {3: 2}


def fit(
    probe: Probe,
    seen: Sum,
    base: Array,
    looked: Looked | None = None,
    lines: Lines | None = None,
) -> Fitted | None:
    """Integrate by a tensor rule that is fitted to the integrand.

    Args:
        probe: The integrand.
        seen: What is known of the integral.
        base: The node of the cube at which the integrand was largest.
        looked: What the rule of Genz and Malik said of it, if it was used.
        lines: What lines show, if they were looked at.

    Returns:
        The integral, or None where this is not the way.
    """
    d = probe.terms.dimension
    parts: Parts = [[0.0, 1.0] for _ in range(d)]
    lines = lines or look_along(probe, _bases(base), parts, seen)
    if lines is None:
        return None
    rough, expected = _rough(probe, lines, seen), EXPECTED
    if rough:
        kinks = find_kinks_single(probe, base, seen, rough)
        if kinks is None or any(math.isnan(kinks.places[axis]) for axis in rough):
            return None
        for axis in rough:
            parts[axis].insert(1, kinks.places[axis])
        return fit_parts(probe, seen, base, parts)
    if looked is not None:
        error, part = judge(looked, lines)
        relative = max(SAFE * error, ROUNDING * probe.terms.epsilon)
        columns = np.array([seen.value, relative * seen.absolute, seen.absolute])
        if columns[1] <= probe.terms.allowed(seen):
            return Fitted(None, between(parts), columns[:, None])
        expected = min(part, EXPECTED)
    return _climb(probe, seen, parts, lines, expected)


def fit_parts(probe: Probe, seen: Sum, base: Array, parts: Parts) -> Fitted | None:
    """Integrate between kinks, by small rules or by one that is fitted."""
    d = len(parts)
    if d in CUT:
        found = climb_parts(probe, between(parts), CUT[d])
        if found is not None:
            return found
    lines = look_along(probe, _bases(base), parts, seen)
    if lines is None or _rough(probe, lines, seen):
        return None
    return _climb(probe, seen, parts, lines, EXPECTED)


def _rough(probe: Probe, lines: Lines, seen: Sum) -> list[int]:
    """Axes along which the lines are not resolved."""
    allowed = RESOLVED * probe.terms.allowed(seen) / seen.absolute
    return [axis for axis, x in enumerate(lines.unseen.tolist()) if x > allowed]


def _climb(
    probe: Probe, seen: Sum, parts: Parts, lines: Lines, expected: float
) -> Fitted | None:
    """Rules that are made larger until one of them will do."""
    regions, flat = math.prod(len(ends) - 1 for ends in parts), len(parts) <= FLAT
    if regions > 1:
        doubt, most = 1.0, MOST
    else:
        doubt, most = (EXACT if flat else 1.0), MOST_ON_ONE[not flat]
    ridge = expected <= SCARCE[not flat]
    if ridge:
        doubt, expected = max(RIDGE[0] * expected, RIDGE[1]), SEEN
    for attempt in range(TRIES):
        allowed = probe.terms.allowed(seen) / seen.absolute / SAFE
        sizes = _sizes(lines.sloped, allowed / doubt)
        if sizes is None:
            return None
        count = regions * (math.prod(sizes) + math.prod(map(_less, sizes)))
        if not attempt and count > WORTH.get(len(parts), math.inf):
            found = _symmetric(probe, parts, lines, allowed / expected, count)
            if found is not None:
                return found
        if count > most or probe.spent + count > probe.budget:
            return None
        measured = _measured(probe, parts, sizes, lines, ridge=ridge)
        if measured is None:
            return None
        seen, doubt, fitted = measured
        if seen.tail <= probe.terms.allowed(seen):
            return fitted
    return None


def _symmetric(
    probe: Probe, parts: Parts, lines: Lines, allowed: float, count: int
) -> Fitted | None:
    """The rule of Genz and Malik on all parts, or on halves of the cube.

    Args:
        probe: The integrand.
        parts: Ends of the parts of each axis.
        lines: What lines show.
        allowed: What may be predicted, as a part of the integral of the size.
        count: Points that a tensor rule needs.

    Returns:
        The integral, or None where this takes more points, or is not enough.
    """
    most = count // count_nodes(DEGREE, len(parts))
    if lines.values is not None:
        axes, predicted = in_halves(lines, allowed, most)
        parts = [[0.0, 0.5, 1.0] if i in axes else ends for i, ends in enumerate(parts)]
    else:
        predicted = predict(lines.even, PARTED)
    regions = math.prod(len(ends) - 1 for ends in parts)
    if regions > most or predicted.missed > allowed:
        return None
    return on_all(probe, parts, predicted)


def _less(n: int) -> int:
    """Nodes of the rule by which one of n nodes on an axis is checked."""
    return n - 1 if n < FEW else -(-3 * n // 5)


def _sizes(errors: Array, allowed: float) -> tuple[int, ...] | None:
    """Few nodes for each axis, at least two; None where no number is known.

    The first numbers whose errors are each allowed, and then one more where the error
    is largest, until all of them together are.

    Returns:
        The numbers.
    """
    fine = errors <= allowed
    fine[:, 0] = False
    at: list[int] = fine.argmax(1).tolist()
    if not all(at):
        return None
    sizes = [n + 1 for n in at]
    own = [float(errors[axis, n]) for axis, n in enumerate(at)]
    # Else the sum of large errors would be met by a rule that is said to miss it.
    while math.expm1(sum(map(math.log1p, own))) > allowed:
        axis = own.index(max(own))
        if sizes[axis] == errors.shape[1]:
            return None
        own[axis] = float(errors[axis, sizes[axis]])
        sizes[axis] += 1
    return tuple(sizes)


def _measured(
    probe: Probe, parts: Parts, sizes: Sizes, lines: Lines, *, ridge: bool = False
) -> tuple[Sum, float, Fitted] | None:
    """The integral by a rule, and by how much the lines are wrong of it."""
    less, regions = tuple(map(_less, sizes)), between(parts)
    values = values_on(probe, parts, sizes, less)
    if values is None:
        return None
    volume = np.multiply.reduce(regions.high - regions.low, 1) * probe.volume
    size, found = np.abs(volume), marginals(values[1], sizes)
    columns = np.empty((3, len(volume)))
    np.multiply(found.means, volume, out=columns[0])
    np.multiply(absolute_of(values[1], sizes, found.means), size, out=columns[2])
    total, whole = np.add.reduce(columns[::2], 1).tolist()
    if not 0 < whole < math.inf:
        return None
    change = abs(total - float(means_of(values[0], less).dot(volume))) / whole
    predicted = _together(lines.sloped, sizes)
    expected = _together(lines.errors, less)
    rounding = ROUNDING * probe.terms.epsilon
    tails = found.tails.dot(size) / whole
    wrong = _wrong(tails, lines.sizes, sizes, rounding, ridge=ridge)
    seen = max(change / max(expected, rounding), wrong, LEAST)
    doubt = seen * max(seen / EXACT, 1.0)
    error = max(SAFE * doubt * predicted, rounding) * whole
    np.multiply(columns[2], error / whole, out=columns[1])
    return Sum(total, error, whole), doubt, Fitted(sizes, regions, columns)


def _wrong(
    tails: Array, lines: Array, sizes: Sizes, rounding: float, *, ridge: bool
) -> float:
    """By how much the last coefficients on lines are wrong of those of marginals."""
    # Of more nodes, the error is wrong by more than that of the smaller.
    each = [
        tail / max(float(own[n - 1]), float(own[max(n - 2, 1)]), rounding)
        for tail, own, n in zip(tails.tolist(), lines, sizes, strict=True)
    ]
    if ridge:
        # Equal at degree 0, those of marginals fall on to the degree of the error.
        both = zip(each, sizes, strict=True)
        each = [x ** (2 * n / max(n - 2, 1)) if x < 1 else x for x, n in both]
    return max(each)


def _together(errors: Array, sizes: Sizes) -> float:
    """Relative error of a product whose factors have those of some rules."""
    return math.expm1(
        sum(math.log1p(errors[axis, n - 1]) for axis, n in enumerate(sizes))
    )


def _bases(base: Array) -> Array:
    """That node, and points elsewhere, ``(4, d)``."""
    return np.concatenate([base[None], elsewhere(len(base))])


@lru_cache(maxsize=8)
def elsewhere(d: int) -> Array:
    """A point on no axis of symmetry, and two near opposite corners, ``(3, d)``."""
    # Waves of a product of coordinates are the shortest there: of sin(40 x y) lines
    # through two nodes showed too little, and 1e-6 was claimed with an error of 2e-4.
    middle = 0.15 + 0.7 * (np.arange(1, d + 1) * (math.sqrt(5) - 1) / 2 % 1)
    return np.stack([middle, np.full(d, 0.03), np.full(d, 0.97)])
