"""What lines along the axes show of the rule of Genz and Malik on the whole."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cubature.along import SLOPES, Lines
from torch_mlcalc.quadrature.cubature.genz_malik import Looked
from torch_mlcalc.quadrature.rules import Array

#: Bounds of what the rule, and the first of its differences, make of products of
#: Legendre polynomials of even degrees, that are together 8, and more; and the second
#: for 6, 8 and more. Found by trying all up to degree 16 in 8 dimensions.
MISSED, FIRST, SECOND = 0.2, (0.27, 0.16), (1.7, 1.0, 1.0)

#: Least part of what lines predict that is believed of what is missed. Of 1,978 smooth
#: and rough integrals in 4 to 8 dimensions, asked for at tolerances from 0.1 to 1e-7, 4
#: of 7,874 that were said to be met were not, by 1.7 times at most.
LEAST = 0.05

#: Where the coefficients of a product of series are read off: on a circle in the plane
#: of its argument, of this radius, at so many points. What is above their number is
#: taken for the coefficient so many lower, times a power of the radius.
RADIUS, POINTS = 0.5, 16

_CIRCLE = RADIUS * np.exp(2j * np.pi * np.arange(POINTS) / POINTS)
_INVERSE = np.vander(1 / _CIRCLE, 5, increasing=True) / POINTS

#: As of a rule of 5 nodes on each axis, which has the same degree; see SLOPES.
STRETCHED = 5 / SLOPES


def judge(looked: Looked, lines: Lines) -> float:
    """Error of the rule of degree 9, as a part of the integral of the size.

    The coefficients of a product are products of those on the lines. All of an even
    degree together bound what the rule misses of it; what is odd along an axis it does
    not see, nor does the integral. Bounds of its differences to rules of lower degree
    come from the same products, and these differences are known.

    Returns:
        The error, without safety.
    """
    even = lines.sizes[:, ::2].copy()
    even[:, 0] = 1.0
    masses, rest = _product(even)
    first = FIRST[0] * masses[4] + FIRST[1] * rest
    second = SECOND[0] * masses[3] + SECOND[1] * masses[4] + SECOND[2] * rest
    if first == 0:
        return 0.0
    part = max(looked.first / first, looked.second / second, LEAST)
    return MISSED * STRETCHED * rest * part * max(part, 1.0)


def _product(series: Array) -> tuple[list[float], float]:
    """First five coefficients of a product of power series, and the sum of the rest."""
    values = np.multiply.reduce(series @ _powers(series.shape[1]), 0)
    total, masses = float(values[0].real), (values[1:] @ _INVERSE).real.tolist()
    return masses, max(total - sum(masses), 0.0)


@lru_cache(maxsize=4)
def _powers(n: int) -> npt.NDArray[Any]:
    """Powers of 1, and of the points on the circle, ``(n, 1 + POINTS)``."""
    return np.vander(np.concatenate([[1.0], _CIRCLE]), n, increasing=True).T.copy()
