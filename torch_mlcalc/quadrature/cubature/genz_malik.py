"""Genz-Malik cubature, breadth first: all failing regions are halved at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cubature.climbed import Sum
from torch_mlcalc.quadrature.cubature.genz_malik_table import (
    SymmetricTable,
    symmetric_table,
)
from torch_mlcalc.quadrature.cubature.regions import (
    Regions,
    Table,
    join_regions,
)
from torch_mlcalc.quadrature.cubature.search import CubeSearch, Measured
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.ledger import (
    ROUNDING,
    Amount,
    Ledger,
    factor_between,
    join,
)
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array, Rule

Mask = npt.NDArray[Any]

#: Least error of a half, as a part of what its halves changed in a region. In smooth
#: integrands 2^-8 of the error remains, and more is estimated; where the two rules of a
#: region agree by accident, this is what tells.
INHERITED = 0.25

#: Least error of a half, as a part of that of a region that is not resolved, or is. The
#: outermost nodes leave 2 % of a side on which a jump is not seen; where all is smooth
#: 2^-9 of the error remains.
LEAST = 0.1, 0.03

#: Safety of the error of a region that is not half of another, to compare it with.
CERTAIN = 10.0

#: A region is resolved where the differences to the rules of lower degrees fall at
#: least so much, and else their largest is multiplied. Chosen on the Genz families in
#: 5 dimensions, where the plain difference claims up to 4 times too little.
RESOLVED, UNRESOLVED = 0.3, 3.0

#: Safety of the error of few regions where there is another rule to ask. Of 960 smooth
#: integrals in 5 and 8 dimensions one in a hundred claimed up to 1.7 times too little.
FEW = 2.0

#: Degree of the rule where it is not asked for by name.
DEGREE = 9

#: Regions at rest, which are not halved in a level, together have at most the first of
#: these parts of the allowed error, or the second of the error there is. PAGANI retires
#: them for good; here they may be taken up again, so that little remains for the last.
AT_REST, REMAINDER = 0.5, 0.05

#: Side of a region, in epsilons of its cube, that is not halved any more.
NARROW = 64


@final
@dataclass(frozen=True)
class GenzMalik(Rule):
    r"""Adaptive cubature with a fully symmetric rule and an embedded one.

    In every level all regions of all integrals whose error counts are halved, across
    the axis with the largest fourth difference. The others, whose errors together are
    half of what the tolerance allows, rest.

    Args:
        degree: 7, with :math:`2^d + 2d^2 + 2d + 1` nodes a region, or 9, with
            :math:`2^d + \frac{4}{3} d^3 + 2 d^2 + \frac{8}{3} d + 1`.

    Raises:
        ValueError: If ``degree`` is neither 7 nor 9.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> corner = lambda x: torch.sqrt(x.prod(-1))
        >>> mlc.integrate(corner, mlc.Box(0.0, 1.0, 2), mlc.GenzMalik())
        tensor(0.4444)

    References:
        A. C. Genz, A. A. Malik, "Remarks on algorithm 006: an adaptive algorithm for
        numerical integration over an N-dimensional rectangular region", J. Comput.
        Appl. Math. 6 (1980), https://doi.org/10.1016/0771-050X(80)90039-X
        I. Sakiotis, K. Arumugam, M. Paterno, D. Ranjan, B. Terzic, M. Zubair, "PAGANI:
        a parallel adaptive GPU algorithm for numerical integration", SC 2021,
        https://doi.org/10.1145/3458817.3476198
    """

    degree: int = 7

    def __post_init__(self) -> None:  # noqa: D105
        if self.degree not in (7, 9):
            raise ValueError(f"GenzMalik got degree={self.degree}; 7 or 9 is wanted.")


class Looked(NamedTuple):
    """What the rule says of an integral that it was used on as a whole.

    Attributes:
        total: Value, error and absolute value, as :func:`attempt` knows them at first.
        first: Size of the difference to the rule of next lower degree, as a part of the
            absolute value.
        second: The same of the one after.
        top: The node at which the integrand was largest.
        largest: Its size there.
        peak: The same in means over all nodes.
    """

    total: Sum
    first: float
    second: float
    top: int
    largest: float
    peak: float


class Pool(NamedTuple):
    """Regions that may still be halved, with what is known of each.

    Attributes:
        regions: The regions.
        amount: Their contributions.
        axis: Across which to cut, ``(m)``.
        broken: Whether a value was not finite, ``(m)``.
        lost: Whether none was, ``(m)``.
        rough: Whether the integrand is not resolved, ``(m)``.
    """

    regions: Regions
    amount: Amount
    axis: Index
    broken: Mask
    lost: Mask
    rough: Mask

    def take(self, index: npt.NDArray[Any]) -> Pool:
        """Some of the regions."""
        return Pool(
            self.regions.take(index),
            self.amount.take(index),
            self.axis[index],
            self.broken[index],
            self.lost[index],
            self.rough[index],
        )


def subdivide(
    search: CubeSearch, regions: Regions, degree: int, levels: int = 0
) -> None:
    """Halve regions until every integral is converged, or out of budget or digits.

    Args:
        search: The integrals.
        regions: All regions of some of them.
        degree: Of the rule.
        levels: In how many levels all regions are halved, whatever their errors.
    """
    ledger, table = search.ledger, symmetric_table(degree, search.dimension)
    pool, _ = _refine(search, regions, table, ledger.max_evals, 1.0, levels)
    owner = pool.regions.owner
    ledger.blame(owner[pool.broken], Status.NON_FINITE)
    search.keep(Table(table.nodes, table.weights), pool.regions, pool.amount)


def attempt(search: CubeSearch, regions: Regions, degree: int, budget: int) -> Regions:
    """Do so with a small budget, and book only the integrals for which it is enough.

    Returns:
        The given regions of all others.
    """
    ledger, table = search.ledger, symmetric_table(degree, search.dimension)
    each = np.full(regions.owner.size, len(table.nodes))
    if not ledger.affordable(regions.owner, each).all():
        return regions
    most = min(ledger.max_evals, int(ledger.n_evals.max()) + budget)
    pool, total = _refine(search, regions, table, most, FEW)
    # Where every value is 0 nothing was seen.
    fine = (total.error <= ledger.allowed(total) / FEW) & (total.absolute != 0)
    done = np.logical_and.reduce(fine, 1)
    done[pool.regions.owner[pool.broken]] = False
    own = done[pool.regions.owner]
    if own.any():
        kept = Table(table.nodes, table.weights)
        search.keep(kept, pool.regions.take(own), pool.amount.take(own))
    return regions.take(~done[regions.owner])


def _refine(
    search: CubeSearch,
    regions: Regions,
    table: SymmetricTable,
    most: int,
    safety: float,
    levels: int = 0,
) -> tuple[Pool, Amount]:
    """Halve regions while an integral needs it and has used fewer points than most."""
    ledger = search.ledger
    pool = _measure(search, regions, table, None)
    level = 0
    while True:
        owner = pool.regions.owner
        total = ledger.with_open(owner, pool.amount)
        allowed = ledger.allowed(total) / safety
        split = ~resting(ledger, owner, pool.amount, total, allowed) | pool.broken
        if level < search.dimension:
            # Where every value is 0 nothing was seen.
            split |= np.logical_and.reduce(total.absolute == 0, 1)[owner]
        split |= level < levels
        # Where no value is finite, smaller regions have none either: a network that has
        # come to nan in training is asked once, not until max_evals.
        split &= ~pool.lost
        size = np.max(pool.regions.high - pool.regions.low, 1)
        split &= size >= NARROW * ledger.epsilon
        split = _affordable(
            ledger, owner, split, pool.amount, 2 * len(table.nodes), most
        )
        if not split.any():
            return pool, total
        failing, rest = pool.take(split), pool.take(~split)
        halves = failing.regions.cut(failing.axis, np.full(failing.axis.size, 0.5))
        pool = _joined(rest, _measure(search, halves, table, failing))
        level += 1


def _joined(one: Pool, other: Pool) -> Pool:
    return Pool(
        join_regions([one.regions, other.regions]),
        join([one.amount, other.amount]),
        np.concatenate([one.axis, other.axis]),
        np.concatenate([one.broken, other.broken]),
        np.concatenate([one.lost, other.lost]),
        np.concatenate([one.rough, other.rough]),
    )


def _measure(
    search: CubeSearch, regions: Regions, table: SymmetricTable, parents: Pool | None
) -> Pool:
    """Use the rule on regions, which are the halves of others if there are parents."""
    rule = Table(table.nodes, table.weights)
    begun, single = search.begun, parents is None and regions.owner.size == 1
    known = begun.whole if begun and single else None
    if known is not None and len(known) == len(rule.nodes):
        measured = search.summed(regions, rule, table.rows, known)
    else:
        measured = search.measure(regions, rule, table.rows)
    error, rough = _error(measured.sums[1], measured.sums[2])
    if parents is None:
        error = np.maximum(error, _unresolved(measured, search.dimension))
    amount = search.amount(regions, measured, error, measured.sums[0])
    if parents is None:
        amount.columns[1] *= CERTAIN
    else:
        amount = _compared(amount, parents)
    axis = _axis(search, regions, measured)
    return Pool(regions, amount, axis, measured.broken, measured.lost, rough)


def look_at_one(
    table: SymmetricTable, values: Values, volume: float, epsilon: float
) -> Looked | None:
    """What the rule says of values ``(n,)`` in a whole cube, in plain numbers.

    Returns:
        It, or None where every value is 0: nothing was seen.
    """
    sizes = np.abs(values)
    # Weights are of either sign, so that their sum may be too small, and even below 0.
    weighted, mean = table.means.dot(sizes).tolist()
    if mean == 0:
        return None
    value, difference, lower = table.rows[:3].dot(values).tolist()
    # Only nodes on the axes, which are the first, have a part in fourth differences.
    few = 1 + 4 * len(table.fourth)
    fourth = max(map(abs, table.fourth[:, :few].dot(values[:few]).tolist()))
    absolute = max(weighted, abs(value)) or mean
    error, coarse = abs(difference), abs(lower)
    differences = error / absolute, coarse / absolute
    if error > RESOLVED * coarse:
        error = UNRESOLVED * max(error, coarse)
    error = max(error, fourth * (fourth / absolute))
    error, size = max(error, ROUNDING * epsilon * absolute), abs(volume)
    total = Sum(value * volume, CERTAIN * error * size, absolute * size)
    top = int(sizes.argmax())
    largest = float(sizes[top])
    return Looked(total, *differences, top, largest, largest / mean)


def _error(difference: Values, lower: Values) -> tuple[Array, Mask]:
    """Error of a region: the difference to the rule of next lower degree.

    Where that is not much less than the difference to one of still lower degree, the
    integrand is not resolved, and neither says much.

    Returns:
        The error, ``(m, events)``, and whether it is so, ``(m)``.
    """
    error, coarse = np.abs(difference), np.abs(lower)
    rough = error > RESOLVED * coarse
    error = np.where(rough, UNRESOLVED * np.maximum(error, coarse), error)
    return error, np.logical_or.reduce(rough, 1)


def _unresolved(measured: Measured, dimension: int) -> Array:
    """The square of the largest fourth difference, as a part of the whole.

    The rules of a region may agree by accident, on a jump that is beyond most nodes,
    but then the integrand is not smooth along its axes. Where it is, this is small.

    Returns:
        A least error, ``(m, events)``.
    """
    fourth = np.abs(measured.sums[3 : 3 + dimension]).max(0)
    absolute = measured.sums[-1].real
    return np.where(absolute > 0, fourth**2 / np.where(absolute > 0, absolute, 1), 0.0)


def _compared(amount: Amount, pool: Pool) -> Amount:
    """Contributions whose errors admit what the regions they are halves of missed."""
    parents, rough = pool.amount, pool.rough[:, None]
    m = parents.columns.shape[1]
    one, other = amount.take(np.arange(m)), amount.take(np.arange(m, 2 * m))
    unit = parents.log_unit
    if unit is not None:
        assert one.log_unit is not None and other.log_unit is not None  # noqa: S101
        unit = np.maximum(unit, np.maximum(one.log_unit, other.log_unit))
    halves = [a.value * factor_between(a.log_unit, unit) for a in (one, other)]
    factor = factor_between(parents.log_unit, unit)
    missed = np.abs(halves[0] + halves[1] - parents.value * factor)
    least = np.maximum(
        INHERITED * missed, np.where(rough, *LEAST) * parents.error * factor
    )
    least = np.concatenate([least, least])
    if unit is not None:
        unit = np.concatenate([unit, unit])
    columns = amount.columns * factor_between(amount.log_unit, unit)
    columns[1] = np.maximum(columns[1].real, least)
    return Amount(columns, unit)


def resting(
    ledger: Ledger, owner: Index, amount: Amount, total: Amount, allowed: Array
) -> Mask:
    """Which regions need no more work now: the smallest errors, bounded in their sum.

    The bound is a part of what the tolerance allows, and while the error is far above
    that, a small part of the error.

    Returns:
        A mask, ``(m)``.
    """
    fine = np.less_equal(total.error, allowed)
    if fine.all():
        return np.ones(owner.size, dtype=bool)
    unit = None if total.log_unit is None else total.log_unit[owner]
    error = amount.error * factor_between(amount.log_unit, unit)
    room = np.maximum(AT_REST * allowed, REMAINDER * total.error)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(error > 0, error / room[owner], 0.0).max(1)
    order = np.lexsort((share, owner))
    ends = np.cumsum(share[order])
    begins = np.concatenate([[0.0], ends])[
        np.searchsorted(owner[order], np.arange(ledger.elements))
    ]
    small = np.empty(owner.size, dtype=bool)
    # Infinite shares make the differences nan, which is not small.
    with np.errstate(invalid="ignore"):
        small[order] = ends - begins[owner[order]] <= 1
    limited = np.logical_and.reduce(amount.error <= ledger.rounding(amount), 1)
    return np.logical_and.reduce(fine, 1)[owner] | small | limited


def _affordable(
    ledger: Ledger, owner: Index, split: Mask, amount: Amount, cost: int, most: int
) -> Mask:
    """The regions with the largest errors that an integral can pay to halve."""
    wanted = np.flatnonzero(split)
    lacking = np.bincount(owner[wanted], minlength=ledger.elements) * cost
    if (ledger.n_evals + lacking <= most).all():
        return split
    error = amount.error.max(1)
    if amount.log_unit is not None:
        error = np.log(np.maximum(error, 1e-300)) + amount.log_unit.max(1)
    order = wanted[np.lexsort((-error[wanted], owner[wanted]))]
    first = np.searchsorted(owner[order], owner[order])
    rank = np.arange(order.size) - first
    affordable = np.maximum(most - ledger.n_evals, 0) // cost
    result = np.zeros_like(split)
    result[order[rank < affordable[owner[order]]]] = True
    return result


def _axis(search: CubeSearch, regions: Regions, measured: Measured) -> Index:
    """Where to cut: across the largest fourth difference, else the longest side."""
    _, width = search.corners(regions)
    d = search.dimension
    fourth = np.abs(measured.sums[3 : 3 + d]).max(-1).T
    rounding = 64 * search.ledger.epsilon * np.abs(measured.sums[-1]).max(-1)
    flat = fourth.max(1) <= rounding
    # Where differences are equal, as those of symmetric integrands, the longest side.
    score = fourth * (1 + 1e-6 * width)
    axis: Index = np.where(flat, width.argmax(1), score.argmax(1))
    return axis
