"""What lines along the axes show of the rule of Genz and Malik on the whole."""

from __future__ import annotations

import math

import numpy as np

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
    masses, rest = _product(lines.sizes[:, 2::2])
    first = FIRST[0] * masses[3] + FIRST[1] * rest
    second = SECOND[0] * masses[2] + SECOND[1] * masses[3] + SECOND[2] * rest
    if first == 0:
        return 0.0
    part = max(looked.first / first, looked.second / second, LEAST)
    return MISSED * STRETCHED * rest * part * max(part, 1.0)


def _product(series: Array) -> tuple[list[float], float]:
    """Coefficients 1 to 4 of a product of ``1 + ...``, and the sum of the rest."""
    one = two = three = four = 0.0
    for a, b, c, d in series[:, :4].tolist():
        four += three * a + two * b + one * c + d
        three += two * a + one * b + c
        two += one * a + b
        one += a
    # What is left of a sum of parts of which none is negative.
    total = math.prod((1.0 + np.add.reduce(series, 1)).tolist())
    masses = [one, two, three, four]
    return masses, max(total - 1.0 - sum(masses), 0.0)
