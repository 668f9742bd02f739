"""What lines along the axes show of the rule of Genz and Malik."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.along import (
    SLOPES,
    Lines,
    Parts,
    Probe,
    combinations,
    copied,
    in_parts,
)
from torch_mlcalc.quadrature.cubature.climbed import Sum
from torch_mlcalc.quadrature.cubature.genz_malik import DEGREE, Looked
from torch_mlcalc.quadrature.cubature.genz_malik_table import symmetric_table
from torch_mlcalc.quadrature.cubature.parts import Fitted, between
from torch_mlcalc.quadrature.cubature.regions import Regions
from torch_mlcalc.quadrature.ledger import ROUNDING
from torch_mlcalc.quadrature.rules import Array

#: Bounds of what the rule, and the first of its differences, make of products of
#: Legendre polynomials of even degrees, that are together 8, and more; and the second
#: for 6, 8 and more. Found by trying all up to degree 16 in 8 dimensions.
MISSED, FIRST, SECOND = 0.2, (0.27, 0.16), (1.7, 1.0, 1.0)

#: Least part of what lines predict that is believed of what is missed. Of 1,978 smooth
#: and rough integrals in 4 to 8 dimensions, asked for at tolerances from 0.1 to 1e-7, 4
#: of 7,874 that were said to be met were not, by 1.7 times at most.
SEEN = 0.05

#: The same of the rule on parts, where most is of degrees that are together 10, and for
#: those after. On the whole it would be right too, but what it bounds too much there
#: makes up for what no line sees: of 1,728 hidden bumps 12 more were claimed falsely.
PARTED = 0.07, 0.2

#: Safety of the error that lines predict of parts. With it, of 864 hidden bumps in 8
#: dimensions as many are claimed falsely as without this rule; with 2, two more.
SAFE = 2.4

#: The part of it that is expected to be seen: products of one function for each axis
#: show 0.1 to 0.2.
EXPECTED = 0.2

#: As of a rule of 5 nodes on each axis, which has the same degree; see SLOPES.
STRETCHED = 5 / SLOPES


class Predicted(NamedTuple):
    """Bounds of what is made of a product, as parts of the integral of the size.

    Attributes:
        missed: Error of the rule.
        first: Its difference to the rule of next lower degree.
        second: To the one after.
    """

    missed: float
    first: float
    second: float

    def seen(self, first: float, second: float) -> float:
        """The part that is seen, given both differences."""
        return max(first / self.first, second / self.second)

    def error(self, seen: float) -> float:
        """That of the rule, of which so much is seen; without safety."""
        part = max(seen, SEEN)
        return self.missed * part * max(part, 1.0)


def judge(looked: Looked, lines: Lines) -> tuple[float, float]:
    """Error of the rule of degree 9, as a part of the integral of the size.

    The coefficients of a product are products of those on the lines. All of an even
    degree together bound what the rule misses of it; what is odd along an axis it does
    not see, nor does the integral. Bounds of its differences to rules of lower degree
    come from the same products, and these differences are known.

    Returns:
        The error, without safety, and the part that is seen.
    """
    predicted = predict(lines.even, (MISSED, MISSED))
    if predicted.first == 0:
        return 0.0, 0.0
    part = predicted.seen(looked.first, looked.second)
    return predicted.error(part), part


def predict(even: Array, bounds: tuple[float, float]) -> Predicted:
    """What the rule makes of a product with coefficients 2, 4, ..., ``(d, k)``."""
    (_, _, six, eight, ten), rest = _product(even)
    missed = STRETCHED * (bounds[0] * ten + bounds[1] * rest)
    first = FIRST[0] * eight + FIRST[1] * (ten + rest)
    second = SECOND[0] * six + SECOND[1] * eight + SECOND[2] * (ten + rest)
    return Predicted(missed, first, second)


def in_halves(lines: Lines, allowed: float, most: int) -> tuple[list[int], Predicted]:
    """Axes to halve, so that the rule will do in all parts.

    Args:
        lines: On the whole.
        allowed: Error, as a part of the integral of the size.
        most: Number of parts.

    Returns:
        The axes, and what is predicted for the rule on all parts.
    """
    even, halved = lines.even.copy(), lines.halved
    axes: list[int] = []
    for axis in np.add.reduce(halved - even, 1).argsort().tolist():
        axes.append(axis)
        even[axis] = halved[axis]
        predicted = predict(even, PARTED)
        if predicted.missed <= allowed or 2 << len(axes) > most:
            break
    return axes, predicted


def on_all(probe: Probe, parts: Parts, predicted: Predicted) -> Fitted | None:
    """The integral by the rule on all parts of the cube, if that is enough."""
    regions = between(parts)
    sums = _sums(probe, parts, regions)
    if sums is None:
        return None
    # Weights are of either sign, so that the sum of sizes may be too small.
    sizes = np.abs(sums)
    np.maximum(sizes[0], sums[3], out=sizes[3])
    first, second, whole = np.add.reduce(sizes[1:], 1).tolist()
    total = float(np.add.reduce(sums[0]))
    if not 0 < whole < math.inf:
        return None
    part = predicted.seen(first / whole, second / whole)
    error = max(SAFE * predicted.error(part), ROUNDING * probe.terms.epsilon)
    if error * whole > probe.terms.allowed(Sum(total, error * whole, whole)):
        return None
    columns = np.stack([sums[0], error * sizes[3], sizes[3]])
    return Fitted(None, regions, columns)


def _sums(probe: Probe, parts: Parts, regions: Regions) -> Array | None:
    """The rule, both of its differences, and the absolute values, ``(4, m)``."""
    d, m = len(parts), len(regions.owner)
    table = symmetric_table(DEGREE, d)
    n, rows = len(table.nodes), table.rows[:3].T
    if probe.spent + m * n > probe.budget:
        return None
    placed = in_parts(table.nodes.T, parts)
    which = combinations(parts)
    sums, some = np.empty((m, 4)), max(probe.block // n, 1)
    for first in range(0, m, some):
        own = slice(first, first + some)
        points = copied(placed, which[:, own])
        values = probe(points.reshape(d, -1).T)
        if values is None:
            return None
        same = np.minimum.reduce(values) >= 0
        values = values.reshape(-1, n)
        sums[own, :3] = values @ rows
        sums[own, 3] = sums[own, 0] if same else np.abs(values) @ table.weights
    width = regions.high - regions.low
    found = sums.T * (np.multiply.reduce(width, 1) * probe.volume)
    found[3] *= math.copysign(1.0, probe.volume)
    return found


def _product(series: Array) -> tuple[list[float], float]:
    """Coefficients 1 to 5 of a product of ``1 + ...``, and the sum of the rest."""
    one = two = three = four = five = 0.0
    for a, b, c, d, e in series[:, :5].tolist():
        five += four * a + three * b + two * c + one * d + e
        four += three * a + two * b + one * c + d
        three += two * a + one * b + c
        two += one * a + b
        one += a
    # What is left of a sum of parts of which none is negative.
    total = math.prod((1.0 + np.add.reduce(series, 1)).tolist())
    masses = [one, two, three, four, five]
    return masses, max(total - 1.0 - sum(masses), 0.0)
