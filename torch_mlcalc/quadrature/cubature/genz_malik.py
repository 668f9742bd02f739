"""Genz-Malik cubature, breadth first: all failing regions are halved at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cubature.genz_malik_table import (
    SymmetricTable,
    symmetric_table,
)
from torch_mlcalc.quadrature.cubature.regions import Regions, Table
from torch_mlcalc.quadrature.cubature.search import CubeSearch, Measured
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.ledger import Amount, Ledger, factor_between, sum_by
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Rule

Mask = npt.NDArray[Any]

#: Least error of a half, as a part of what its halves changed in a region. In smooth
#: integrands 2^-8 of the error remains, and more is estimated; where the two rules of a
#: region agree by accident, this is what tells.
INHERITED = 0.1

#: Safety of an error that no second look confirms.
CERTAIN = 10.0

#: Part of the error that is still allowed which the regions of one level may keep for
#: good. Each level halves what is left, so later levels can always retire some too.
RETIRED = 0.5


@final
@dataclass(frozen=True)
class GenzMalik(Rule):
    r"""Adaptive cubature with a fully symmetric rule and an embedded one.

    In every level all regions of all integrals whose error counts are halved, across
    the axis with the largest fourth difference; of the others the smallest errors, up
    to half of what the tolerance still allows, are retired.

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


def subdivide(search: CubeSearch, regions: Regions, degree: int) -> None:
    """Halve regions until every integral is converged, or out of budget or digits."""
    ledger, symmetric = search.ledger, symmetric_table(degree, search.dimension)
    table = Table(symmetric.nodes, symmetric.weights)
    rows = np.concatenate([[symmetric.weights, symmetric.difference], symmetric.fourth])
    looks = search.dimension
    parents: Amount | None = None
    while regions.owner.size:
        measured = search.measure(regions, table, rows)
        amount = search.amount(
            regions, measured, np.abs(measured.sums[1]), measured.sums[0]
        )
        if parents is not None:
            amount = _compared(amount, parents)
        total = ledger.with_open(regions.owner, amount)
        split = ~retired(ledger, regions.owner, amount, total) | measured.broken
        blind = (total.absolute == 0).all(1)[regions.owner] & (looks > 0)
        split |= blind
        looks -= 1
        narrow = (regions.high - regions.low).max(1) < 64 * ledger.epsilon
        split &= ~narrow & _affordable(ledger, regions.owner, split, amount, table)
        keep = ~split
        ledger.blame(regions.owner[keep & measured.broken], Status.NON_FINITE)
        search.keep(table, regions.take(keep), amount.take(keep))
        parents = amount.take(split)
        axis = _axis(search, regions, measured, symmetric)[split]
        regions = regions.take(split).cut(axis, np.full(axis.size, 0.5))


def _compared(amount: Amount, parents: Amount) -> Amount:
    """Contributions whose errors admit what the regions they are halves of missed."""
    m = parents.columns.shape[1]
    one, other = amount.take(np.arange(m)), amount.take(np.arange(m, 2 * m))
    unit = parents.log_unit
    if unit is not None:
        assert one.log_unit is not None and other.log_unit is not None  # noqa: S101
        unit = np.maximum(unit, np.maximum(one.log_unit, other.log_unit))
    halves = [a.value * factor_between(a.log_unit, unit) for a in (one, other)]
    missed = np.abs(
        halves[0] + halves[1] - parents.value * factor_between(parents.log_unit, unit)
    )
    least = np.concatenate([missed, missed]) * INHERITED
    if unit is not None:
        least = least * factor_between(np.concatenate([unit, unit]), amount.log_unit)
    columns = amount.columns.copy()
    columns[1] = np.maximum(amount.error, least)
    return amount._replace(columns=columns)


def glance(search: CubeSearch, regions: Regions, degree: int) -> Regions:
    """Book the integrals for which one use of the rule is enough.

    Returns:
        The regions of all others.
    """
    symmetric = symmetric_table(degree, search.dimension)
    table = Table(symmetric.nodes, symmetric.weights)
    rows = np.stack([symmetric.weights, symmetric.difference])
    measured = search.measure(regions, table, rows)
    error = CERTAIN * np.abs(measured.sums[1])
    amount = search.amount(regions, measured, error, measured.sums[0])
    owner, ledger = regions.owner, search.ledger
    total = ledger.with_open(owner, amount)
    done = (total.error <= ledger.allowed(total)).all(1)
    # Where every value is 0 nothing was seen.
    done &= (total.absolute != 0).any(1)
    done[owner[measured.broken]] = False
    search.keep(table, regions.take(done[owner]), amount.take(done[owner]))
    return regions.take(~done[owner])


def retired(ledger: Ledger, owner: Index, amount: Amount, total: Amount) -> Mask:
    """Which regions need no more work: the smallest errors, bounded in their sum."""
    allowed = ledger.allowed(total)
    fine = np.less_equal(total.error, allowed)
    if fine.all():
        return np.ones(owner.size, dtype=bool)
    unit = None if total.log_unit is None else total.log_unit[owner]
    error = amount.error * factor_between(amount.log_unit, unit)
    settled = total.error - sum_by(owner, error, ledger.elements)
    room = np.maximum(allowed - settled, 0) * RETIRED
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
    limited = (amount.error <= ledger.rounding(amount)).all(1)
    return np.logical_and.reduce(fine, 1)[owner] | small | limited


def _affordable(
    ledger: Ledger, owner: Index, split: Mask, amount: Amount, table: Table
) -> Mask:
    """The regions with the largest errors that an integral can pay to halve."""
    cost = 2 * len(table.nodes)
    wanted = np.flatnonzero(split)
    lacking = np.bincount(owner[wanted], minlength=ledger.elements) * cost
    lacks = ledger.n_evals + lacking > ledger.max_evals
    if not lacks.any():
        return split
    error = amount.error.max(1)
    if amount.log_unit is not None:
        error = np.log(np.maximum(error, 1e-300)) + amount.log_unit.max(1)
    order = wanted[np.lexsort((-error[wanted], owner[wanted]))]
    first = np.searchsorted(owner[order], owner[order])
    rank = np.arange(order.size) - first
    most = np.maximum(ledger.max_evals - ledger.n_evals, 0) // cost
    fine = rank < most[owner[order]]
    result = np.zeros_like(split)
    result[order[fine]] = True
    ledger.blame(np.flatnonzero(lacks), Status.TOLERANCE_NOT_REACHED)
    return result


def _axis(
    search: CubeSearch, regions: Regions, measured: Measured, table: SymmetricTable
) -> Index:
    """Where to cut: across the largest fourth difference, else the longest side."""
    _, width = search.corners(regions)
    d = search.dimension
    fourth = np.abs(measured.sums[2 : 2 + d]).max(-1).T
    rounding = 64 * search.ledger.epsilon * np.abs(measured.sums[-1]).max(-1)
    flat = fourth.max(1) <= rounding
    # Where differences are equal, as those of symmetric integrands, the longest side.
    score = fourth * (1 + 1e-6 * width)
    axis: Index = np.where(flat, width.argmax(1), score.argmax(1))
    return axis
