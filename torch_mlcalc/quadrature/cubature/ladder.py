"""The tensor Gauss rules of growing size, and what is expected of them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.regions import Table, gauss_table, mean_and
from torch_mlcalc.quadrature.rules import Array

#: Nodes on each axis, by dimension. Neighbours differ by a factor of 3 to 6 in cost;
#: the first two are evaluated together.
LADDERS = {
    1: (7, 14, 28, 56),
    2: (4, 8, 15, 28, 48, 80),
    3: (3, 5, 8, 13, 20, 30, 44),
    4: (3, 4, 6, 9, 13, 18),
    5: (3, 5, 7, 9, 11, 14),
    6: (3, 4, 5, 7, 9, 11),
    7: (3, 4, 5, 6),
    8: (3, 4, 5),
}

#: An integrand is smooth enough while the last Legendre coefficients of a larger rule
#: are less than this part of those of the one before. A kink's are 0.3 to 0.5, a jump's
#: more. Oscillations that no rule has resolved yet look the same, so where a larger
#: rule costs little it must be missed several times in a row: so many times before
#: kinks are looked for, and again, from a step on, where there are none; less often on
#: the parts between kinks, of which there are many. The rule of 11 nodes on each axis
#: in 6 dimensions gives the sine of the sum over [0, 10]^6 to 2e-11, of which that of 5
#: knows only one digit.
SMOOTH = 0.2
PATIENCE = {1: 3, 2: 2, 3: 2, 5: 2}
IMPATIENCE = {1: 3, 2: 2, 3: 2}
RESUMED = {2: 3, 3: 3, 4: 2, 5: 2, 6: 2}
PERSISTENT = {2: 2, 3: 2, 4: 3, 5: 3, 6: 3}

#: The step before which no rule is the last: on the plane that of 28 nodes on each axis
#: has fewer points than a search for kinks. A product peak takes 0.4 ms, not 1.0.
CHEAP = {2: 3}

#: The fall of last coefficients above which a single integral does not wait for that:
#: the next rule only shows a jump again. So many rules must find it rough.
JUMPING, JUMPED = 0.5, 2

#: The step of the ladder at which a single integral is tried by a rule that is fitted
#: to it. In 4 dimensions and more the rule of Genz and Malik comes first, and then at
#: once the fitted one. On the plane the next steps cost less than the lines; in 3
#: dimensions a step earlier took 1.0 to 1.6 ms for Genz's smooth families, not 0.5 to
#: 0.7.
FITTED = {3: 4, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1}

#: The fall of the last coefficients from the first rule to the second above which lines
#: are looked at beside the next rule of a single integral, by dimension: all kinks and
#: jumps of Genz's families fall less than that. And how many times what is allowed a
#: rule has to be expected to miss to be left out.
STEEP, MISSED = {2: 0.25, 3: 0.5}, 5.0

#: Dimensions up to which a single integral is begun in plain numbers.
MOST_AXES = max(FITTED)

#: In a batch less than this counts as half a rule that finds it rough, by dimension.
#: Of 1000 Gaussians in 3 dimensions at 1e-4 a third fall by 0.2 to 0.36 twice, and the
#: next rule integrates them: 2.0e6 points, not 2.3e6 with a search for kinks. 200
#: integrands with kinks or jumps take 5 % longer. On the plane the search costs less.
MILD = {3: 0.36}

#: Safety of the change from one rule to the next where coefficients do not fall, and
#: of the error extrapolated from it where they do. With the square of their fall, over
#: 1600 integrals of Genz's smooth families in 2 and 3 dimensions, at tolerances from
#: 1e-2 to 1e-8, no error was above a tenth of the tolerance that it was said to meet.
ROUGH, EXTRAPOLATED = 10.0, 5.0

#: Coefficients that fall at the same pace or faster, as those of a function that is
#: analytic on the whole cube, may be extrapolated. Those of one that is singular at an
#: end fall like a power of the degree: from 3 to 5 to 8 to 13 nodes their rate for each
#: degree is at most the power 0.62 of the rate before.
STEADY = 0.8

#: Least part of the change that is taken for the error.
LEAST = 0.01

#: So many times in a row rough, an integrand falls by accident sooner or later: it is
#: smooth again where it falls more than that, and the square of its last coefficients
#: counts so many times. Without, of 4032 integrals of Genz's families in 2 and 3
#: dimensions a kinked one on the plane claimed 1.5 times too little.
OFTEN, SMOOTH_AGAIN, TAIL_ROUGH = 2, SMOOTH / 2, 10.0

#: A fall that is no accident, neither after a rule that found the integrand rough nor
#: from the first rule to the second, before which there is no pace. With the square of
#: SMOOTH instead, over 4032 integrals of Genz's families in 2 and 3 dimensions, at
#: tolerances from 0.1 to 1e-7, 8 errors were above the tolerance they were said to
#: meet, up to 50 times; with this it is one, 1.4 times, for 2 % more points.
SURE = 0.01

#: The same where there are infinite limits, whose tails are singular at the ends of the
#: cube: coefficients fall in bursts there and then no more, and of few nodes some are
#: small by chance. They are taken ten times as large, at no pace, unless they fall a
#: hundredfold after a rule that was smooth; after a rough one the whole change counts.
#: Over 320 normal densities, funnels, bananas and mixtures in 2 and 3 dimensions, at
#: tolerances from 3e-4 to 1.5e-8, 12 of 628 errors were above the tolerance they were
#: said to meet, the worst 5 times. Judged as in a cube, 113 of 819 are, 39 of them more
#: than 10 times and one 1800 times.
LEAST_UNBOUNDED, TAIL_UNBOUNDED = 0.1, 10.0

#: Nodes of one rule in all regions of an integral together.
MOST = 2_000_000

#: Nodes up to which the coefficients are looked at; above, their fall is the root of
#: that of the changes.
MOST_SEEN = 60_000


class Stage(NamedTuple):
    """One or two tensor rules that are evaluated together.

    Attributes:
        size: Nodes on each axis of the last rule.
        table: All nodes, with the weights of the last rule.
        rows: For each rule its weights, then those of its last Legendre coefficients.
        each: Number of rows for each rule.
        n: Number of nodes.
        axes: If it is one rule, for each axis the weights of the mean and of the last
            coefficients, ``(size, 3)``.
    """

    size: int
    table: Table
    rows: Array
    each: int
    n: int
    axes: tuple[Array, ...] = ()


def stage_of(step: int, dimension: int, *, first: bool) -> Stage:
    """The rule of a step of the ladder, with the one before if it is the first step."""
    return _stage(LADDERS[dimension][step - first : step + 1], dimension)


def patience_of(step: int, begin: int, dimension: int, *, parts: bool) -> float:
    """How many rules in a row may find an integrand rough, up to a step."""
    if parts:
        return IMPATIENCE.get(dimension, 1)
    if begin > 1:
        return PERSISTENT.get(dimension, 1)
    return PATIENCE.get(dimension, 1) if step >= CHEAP.get(dimension, 0) else math.inf


def expected(dimension: int, step: int, seen: int, tail: float, rate: float) -> float:
    """Error expected of the rule of a step, from the last coefficients of one before.

    Args:
        dimension: Of the cube.
        step: Of which rule.
        seen: The step of the one that was used.
        tail: Its last coefficients.
        rate: By how much they fall for each degree.

    Returns:
        The coefficient of the first degree that it does not integrate.
    """
    ladder = LADDERS[dimension]
    return tail * rate ** (2 * ladder[step] - ladder[seen] + 1)


def budget_of(begin: int, max_evals: int) -> int:
    """Points that an integral may have used after a rule; half is for subdivision."""
    return max_evals if begin == 1 else max_evals // 2


class Pace(NamedTuple):
    """A step from one rule to the next, as a unit of degrees.

    Attributes:
        length: Degrees of the step.
        left: Steps like this one that are left to the largest rule.
        passed: Steps like this one from degree 0 to that of the last coefficient.
    """

    length: int
    left: float
    passed: float


@lru_cache(maxsize=64)
def pace_of(step: int, dimension: int, steps: int = 1) -> Pace:
    """The pace of one or more steps of the ladder."""
    ladder = LADDERS[dimension]
    last, length = ladder[step], ladder[step] - ladder[step - steps]
    return Pace(length, (ladder[-1] - last) / length, last / length)


@lru_cache(maxsize=64)
def _stage(sizes: tuple[int, ...], dimension: int) -> Stage:
    tables = [gauss_table(n) for n in sizes]
    counts = [t.count(dimension) for t in tables]
    if len(sizes) == 1 and counts[0] > MOST_SEEN:
        return Stage(sizes[-1], tables[-1], np.empty((0, 0)), 1, counts[0])
    blocks = [t.block(0, c, dimension) for t, c in zip(tables, counts, strict=True)]
    nodes = np.concatenate([b[0] for b in blocks])
    own = [
        np.concatenate([w[None], _coefficients(n, u, w)])
        for n, (u, w) in zip(sizes, blocks, strict=True)
    ]
    rows = np.zeros((sum(len(r) for r in own), len(nodes)))
    weights, row, column = np.zeros(len(nodes)), 0, 0
    for r in own:
        rows[row : row + len(r), column : column + r.shape[1]] = r
        row, column = row + len(r), column + r.shape[1]
    weights[-counts[-1] :] = blocks[-1][1]
    # The coordinates of all nodes one after another; see grid.py.
    table = Table(np.asfortranarray(nodes), weights)
    table.nodes.setflags(write=False)
    n = sizes[-1]
    axes: tuple[Array, ...] = ()
    if len(sizes) == 1:
        axes = (mean_and(n, (n - 2, n - 1)),) * dimension
    return Stage(n, table, rows, len(own[-1]), len(nodes), axes)


def _coefficients(n: int, u: Array, weights: Array) -> Array:
    """Weights of the two highest Legendre coefficients along every axis."""
    found = []
    for degree in (n - 2, n - 1):
        basis = np.zeros(degree + 1)
        basis[-1] = 2 * degree + 1
        values = np.polynomial.legendre.legval(2 * u - 1, basis)
        found.append(weights * values.T)
    return np.concatenate(found)
