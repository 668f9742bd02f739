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
from torch_mlcalc.quadrature.cubature.climbed import Sum
from torch_mlcalc.quadrature.cubature.grid import (
    Sizes,
    means_of,
    nodes_of,
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


class _Judged(NamedTuple):
    """What values on a grid say.

    Attributes:
        total: The integral, with its error for the last coefficients.
        enough: Whether it is smooth, and the error is allowed.
        larger: The grid that is expected to do, or None where none is.
    """

    total: Sum
    enough: bool
    larger: Sizes | None


def grow(
    probe: Probe, values: Values, sizes: Sizes, known: Callable[[], Lines]
) -> Fitted | None:
    """Integrate by a grid on the cube, or one that is as large as this one says.

    Args:
        probe: The integrand.
        values: It at the nodes of the grid, ``(k)``.
        sizes: Nodes of it on each axis.
        known: What lines show.

    Returns:
        The integral, or None where this is not the way.
    """
    first = _judged(probe, values, sizes)
    larger = sizes if first.enough else first.larger
    if larger is None or math.prod(larger) > probe.block:
        return None
    if not _agree(probe, first.total, larger, known()):
        return None
    if first.enough:
        return on_whole(first.total, sizes)
    more = probe(nodes_of(larger).T)
    if more is None:
        return None
    last = _judged(probe, more, larger)
    # By as much as was expected, or what was expected of the last is worth nothing.
    expected = abs(last.total.value - first.total.value) <= first.total.tail
    return on_whole(last.total, larger) if last.enough and expected else None


def _agree(probe: Probe, total: Sum, sizes: Sizes, lines: Lines) -> bool:
    """Whether the error of a grid on lines is not much more than is allowed."""
    most = lines.errors.shape[1]
    each = (lines.errors[axis, min(n, most) - 1] for axis, n in enumerate(sizes))
    return float(sum(each)) * total.absolute <= AGREED * probe.terms.allowed(total)


def on_whole(total: Sum, sizes: Sizes) -> Fitted:
    """The integral by a grid on the cube."""
    whole = whole_cubes(1, (1,) * len(sizes))
    return Fitted(sizes, whole, np.array(total)[:, None])


def _judged(probe: Probe, values: Values, sizes: Sizes) -> _Judged:
    size = abs(probe.volume)
    absolute = float(means_of(np.abs(values[None]), sizes)[0])
    noise = ROUNDING * probe.terms.epsilon * absolute
    mean, paces = paces_of(values, sizes, noise)
    both = list(zip(paces, sizes, strict=True))
    error = SAFE * sum(pace.last * pace.rate ** (n + 1) for pace, n in both)
    total = Sum(mean * probe.volume, max(error, noise) * size, absolute * size)
    allowed = probe.terms.allowed(total)
    enough = total.tail <= allowed and all(p.rate < _smooth(n) for p, n in both)
    if any(pace.rate >= TRIED for pace in paces):
        return _Judged(total, enough, None)
    each = allowed / (size * SAFE * MARGIN * len(sizes))
    return _Judged(total, enough, tuple(pace.enough(n, each) for pace, n in both))


def paces_of(values: Values, sizes: Sizes, noise: float) -> tuple[float, list[Pace]]:
    """The mean of values on a grid, and how coefficients fall along its axes."""
    found = resolved(values, tuple(map(_rows, sizes)))
    sizes_of_all, paces = list(map(abs, found)), []
    for axis, n in enumerate(sizes):
        own = sizes_of_all[1 + 4 * axis : 5 + 4 * axis]
        middle, last = max(own[:2]), max(own[2:])
        rate = (last / middle) ** (1 / (n - 1 - n // 2)) if middle else 1.0
        paces.append(Pace(last, rate if last > noise else 0.0))
    return found[0], paces


@lru_cache(maxsize=64)
def _smooth(n: int) -> float:
    """Fall from the middle to the end of a rule below which something is smooth."""
    middle, last = n // 2, n - 1
    return SMOOTH * (middle / last) ** (2 / (last - middle))


@lru_cache(maxsize=64)
def _rows(n: int) -> Array:
    """Weights of the mean, and of four Legendre coefficients along an axis."""
    return mean_and(n, (n // 2 - 1, n // 2, n - 2, n - 1))
