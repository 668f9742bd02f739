"""A tensor rule as large as coefficients say that fall within a smaller one.

The error of a tensor rule is, but for products that are smaller, that of its rule on
each axis, used on the integral over all others. How the Legendre coefficients of that
integral fall along its axis is known from values on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.along import Lines, Probe
from torch_mlcalc.quadrature.cubature.climbed import Sum, sum_of
from torch_mlcalc.quadrature.cubature.grid import (
    Sizes,
    nodes_of,
    weights_of,
)
from torch_mlcalc.quadrature.cubature.parts import Fitted
from torch_mlcalc.quadrature.cubature.regions import mean_and, resolved, whole_cubes
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.ledger import ROUNDING
from torch_mlcalc.quadrature.rules import Array

#: Fall for each degree up to which a larger rule is tried, and part of that of a kink,
#: whose coefficients are as the inverse square of the degree, below which something is
#: smooth.
TRIED, SMOOTH = 0.9, 0.95

#: Safety of the error, and by how much less it should be of a larger rule that is
#: tried. With 2 none of three of Genz's peaks was then believed, up to three times too
#: large an error; all were right to a fortieth of that.
SAFE, MARGIN = 2.0, 8.0

#: Part of the allowed error that there may be on lines through the largest value, where
#: nothing cancels. Of 177 product peaks that 13 nodes were enough for by what falls
#: alone 16 were claimed falsely; by the lines as well none of 156.
AGREED = 0.5

#: Least nodes on an axis of a larger rule.
FEWEST = 7


class Pace(NamedTuple):
    """How coefficients fall along an axis.

    Attributes:
        last: Size of the last of them.
        rate: Fall for each degree.
    """

    last: float
    rate: float

    def enough(self, seen: int, allowed: float) -> int:
        """Nodes of a rule for that error, if so many have been used."""
        degrees = 0.0
        if self.last > allowed:
            degrees = math.log(allowed / self.last) / math.log(self.rate)
        return max(math.ceil((degrees + seen - 1) / 2), FEWEST)


class OnGrid(NamedTuple):
    """What values on a grid say, as means over the cube.

    Attributes:
        sizes: Nodes on each axis.
        absolute: Of the size.
        rows: Of the integrand, and then four Legendre coefficients along each axis: two
            in the middle, and the last two.
    """

    sizes: Sizes
    absolute: float
    rows: list[float]

    @staticmethod
    def of(values: Values, sizes: Sizes) -> OnGrid:
        """That of values ``(k)``."""
        absolute = float(np.abs(values).dot(weights_of(sizes)))
        return OnGrid(sizes, absolute, _rows_of(values, sizes))

    def total(self, probe: Probe) -> Sum:
        """As of a tensor rule, with its last coefficients."""
        rows = self.rows[:1] + self.rows[3::4] + self.rows[4::4]
        return sum_of(rows, self.absolute, probe.volume, probe.terms.epsilon)

    def paces(self, noise: float) -> list[Pace]:
        """How coefficients fall along each axis."""
        paces, rows = [], self.rows
        for axis, n in enumerate(self.sizes):
            a, b, c, d = rows[1 + 4 * axis : 5 + 4 * axis]
            middle, last = max(abs(a), abs(b)), max(abs(c), abs(d))
            rate = (last / middle) ** (1 / (n - 1 - n // 2)) if middle else 1.0
            paces.append(Pace(last, rate if last > noise else 0.0))
        return paces


class _Judged(NamedTuple):
    """What values on a grid are worth.

    Attributes:
        total: The integral, with its error for the last coefficients.
        enough: Whether it is smooth, and the error is allowed.
        paces: How coefficients fall.
    """

    total: Sum
    enough: bool
    paces: list[Pace]


def grow(probe: Probe, grid: OnGrid, known: Callable[[], Lines]) -> Fitted | None:
    """Integrate by a grid on the cube, or one that is as large as this one says.

    Args:
        probe: The integrand.
        grid: What is known of it.
        known: What lines show.

    Returns:
        The integral, or None where this is not the way.
    """
    first, sizes = _judged(probe, grid), grid.sizes
    if not first.enough:
        larger = _larger(probe, first, sizes)
        if larger is None:
            return None
        sizes = larger
    if not _agree(probe, first.total, sizes, known()):
        return None
    if first.enough:
        return on_whole(first.total, sizes)
    values = probe(nodes_of(sizes).T)
    if values is None:
        return None
    # Of the size a smaller grid tells enough.
    last = _judged(probe, OnGrid(sizes, grid.absolute, _rows_of(values, sizes)))
    # By as much as was expected, or what was expected of the last is worth nothing.
    expected = abs(last.total.value - first.total.value) <= first.total.tail
    return on_whole(last.total, sizes) if last.enough and expected else None


def _larger(probe: Probe, first: _Judged, sizes: Sizes) -> Sizes | None:
    """The grid that is expected to do, or None where none is, or it is too large."""
    paces = first.paces
    if max(pace.rate for pace in paces) >= TRIED:
        return None
    share = abs(probe.volume) * SAFE * MARGIN * len(sizes)
    each = probe.terms.allowed(first.total) / share
    larger = [pace.enough(n, each) for pace, n in zip(paces, sizes, strict=True)]
    return tuple(larger) if math.prod(larger) <= probe.block else None


def _agree(probe: Probe, total: Sum, sizes: Sizes, lines: Lines) -> bool:
    """Whether the error of a grid on lines is not much more than is allowed."""
    errors = lines.errors
    most = errors.shape[1]
    each = [errors.item(axis, min(n, most) - 1) for axis, n in enumerate(sizes)]
    return sum(each) * total.absolute <= AGREED * probe.terms.allowed(total)


def on_whole(total: Sum, sizes: Sizes) -> Fitted:
    """The integral by a grid on the cube."""
    whole = whole_cubes(1, (1,) * len(sizes))
    return Fitted(sizes, whole, np.array(total)[:, None])


def _judged(probe: Probe, grid: OnGrid) -> _Judged:
    size, absolute = abs(probe.volume), grid.absolute
    noise = ROUNDING * probe.terms.epsilon * absolute
    paces, smooth, predicted = grid.paces(noise), True, 0.0
    for (last, rate), n in zip(paces, grid.sizes, strict=True):
        predicted += last * rate ** (n + 1)
        smooth = smooth and rate < _smooth(n)
    error = max(SAFE * predicted, noise)
    total = Sum(grid.rows[0] * probe.volume, error * size, absolute * size)
    return _Judged(total, smooth and total.tail <= probe.terms.allowed(total), paces)


@lru_cache(maxsize=64)
def _smooth(n: int) -> float:
    """Fall from the middle to the end of a rule below which something is smooth."""
    middle, last = n // 2, n - 1
    return SMOOTH * (middle / last) ** (2 / (last - middle))


def _rows_of(values: Values, sizes: Sizes) -> list[float]:
    return resolved(values, tuple(map(_rows, sizes)))


@lru_cache(maxsize=64)
def _rows(n: int) -> Array:
    """Weights of the mean, and of four Legendre coefficients along an axis."""
    return mean_and(n, (n // 2 - 1, n // 2, n - 2, n - 1))
