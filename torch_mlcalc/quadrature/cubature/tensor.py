"""Tensor Gauss rules of growing size, as long as they pay."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cubature.regions import (
    Regions,
    Table,
    gauss_table,
    join_regions,
)
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.ledger import Amount, factor_between
from torch_mlcalc.quadrature.rules import Array

Mask = npt.NDArray[Any]

#: Nodes on each axis, by dimension. Neighbours differ by a factor of 3 to 6 in cost;
#: the first two are evaluated together.
LADDERS = {
    1: (7, 14, 28, 56),
    2: (4, 8, 15, 28, 48, 80),
    3: (3, 5, 8, 13, 20, 30, 44),
    4: (3, 4, 6, 9, 13, 18),
    5: (3, 4, 6, 8, 11),
    6: (3, 4, 5, 7, 9),
    7: (3, 4, 5, 6),
    8: (3, 4, 5),
}

#: An integrand is smooth enough while the last Legendre coefficients of a larger rule
#: are less than this part of those of the one before. A kink's are 0.3 to 0.5, a jump's
#: more. Oscillations that no rule has resolved yet look the same, so where a larger
#: rule costs little it must be missed up to three times in a row.
SMOOTH = 0.2
PATIENCE = {1: 3, 2: 3, 3: 3, 4: 2, 5: 2}

#: Safety of the change from one rule to the next where coefficients do not fall, and of
#: the error extrapolated from it where they do.
ROUGH, EXTRAPOLATED = 10.0, 5.0

#: Nodes of one rule in all regions of an integral together.
MOST = 400_000

#: Nodes up to which the coefficients are looked at; above, smoothness is known.
MOST_SEEN = 40_000


class Stage(NamedTuple):
    """One or two tensor rules that are evaluated together.

    Attributes:
        size: Nodes on each axis of the last rule.
        table: All nodes, with the weights of the last rule.
        rows: For each rule its weights, then those of its last Legendre coefficients.
        each: Number of rows for each rule.
    """

    size: int
    table: Table
    rows: Array
    each: int


@lru_cache(maxsize=64)
def _stage(sizes: tuple[int, ...], dimension: int) -> Stage:
    tables = [gauss_table(n) for n in sizes]
    counts = [t.count(dimension) for t in tables]
    if len(sizes) == 1 and counts[0] > MOST_SEEN:
        return Stage(sizes[-1], tables[-1], np.empty((0, 0)), 1)
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
    return Stage(sizes[-1], Table(nodes, weights), rows, len(own[-1]))


def _coefficients(n: int, u: Array, weights: Array) -> Array:
    """Weights of the two highest Legendre coefficients along every axis."""
    found = []
    for degree in (n - 2, n - 1):
        basis = np.zeros(degree + 1)
        basis[-1] = 2 * degree + 1
        values = np.polynomial.legendre.legval(2 * u - 1, basis)
        found.append(weights * values.T)
    return np.concatenate(found)


def climb(search: CubeSearch, regions: Regions) -> Regions:
    """Integrate by one tensor rule after another, each checked by the one before.

    Args:
        search: The integrals.
        regions: All regions of some integrals.

    Returns:
        Those of the integrals that are not converged.
    """
    ladder = LADDERS.get(search.dimension, ())
    failed: list[Regions] = []
    before: Amount | None = None
    rough = np.zeros(search.elements, dtype=np.int64)
    for step in range(1, len(ladder)):
        sizes = ladder[:2] if step == 1 else ladder[step : step + 1]
        stage = _stage(sizes, search.dimension)
        if not regions.owner.size or not _fits(search, regions, stage.table):
            break
        amounts, broken = _measure(search, regions, stage, before)
        totals = [search.ledger.with_open(regions.owner, a) for a in amounts]
        before = totals[0] if step == 1 else before
        total = totals[-1]
        assert before is not None  # noqa: S101
        pace = (ladder[-1] - ladder[step]) / (ladder[step] - ladder[step - 1])
        error, slow, late = _judge(search, total, before, pace)
        leaves = np.zeros(search.elements, dtype=bool)
        leaves[regions.owner[broken]] = True
        done = np.logical_and.reduce(error <= search.ledger.allowed(total), 1)
        # Where every value is 0 nothing was seen.
        done &= ~leaves & np.logical_or.reduce(total.absolute != 0, 1)
        if done.any():
            own = done[regions.owner]
            spread = _with_error(regions, amounts[-1], total, error)
            search.keep(gauss_table(stage.size), regions.take(own), spread.take(own))
            if done[regions.owner].all():
                regions = regions.take(~own)
                break
        rough = (rough + 1) * slow
        leaves |= late | (rough >= PATIENCE.get(search.dimension, 1))
        leaves |= done
        gone = leaves[regions.owner]
        failed.append(regions.take(gone & ~done[regions.owner]))
        regions = regions.take(~gone)
        before = total
    return join_regions([*failed, regions])


def _measure(
    search: CubeSearch, regions: Regions, stage: Stage, before: Amount | None
) -> tuple[list[Amount], Mask]:
    """Integral, last coefficients and absolute integral by each rule of a stage."""
    measured = search.measure(regions, stage.table, stage.rows)
    sums, amounts = measured.sums, []
    for first in range(0, len(sums) - 1, stage.each):
        value, *others = sums[first : first + stage.each]
        tail = np.abs(others).max(0) if others else np.full(value.shape, np.nan)
        amounts.append(search.amount(regions, measured, tail, value))
    return amounts, measured.broken


def _fits(search: CubeSearch, regions: Regions, table: Table) -> bool:
    """Whether every integral can pay for the rule in all of its regions."""
    count = table.count(search.dimension)
    cost = count * np.bincount(regions.owner, minlength=search.elements)
    if cost.max() > MOST:
        return False
    return bool((search.ledger.n_evals + cost <= search.ledger.max_evals).all())


def _judge(
    search: CubeSearch, total: Amount, before: Amount, pace: float
) -> tuple[Array, Mask, Mask]:
    """Error of each integral, whether it shrinks slowly, and whether that is too late.

    The change is the error of the smaller rule. A Gauss rule is exact up to twice the
    degree of its last coefficient, so its error shrinks like the square of that.

    Returns:
        Errors, and two masks of integrals.
    """
    ledger = search.ledger
    rounding = ledger.rounding(total)
    factor = factor_between(before.log_unit, total.log_unit)
    change = np.abs(total.value - before.value * factor)
    tail, last = total.error, before.error * factor
    with np.errstate(divide="ignore", invalid="ignore"):
        fall = np.where(last > rounding, tail / last, 0.0)
        floor = np.where(total.absolute > 0, tail**2 / total.absolute, 0.0)
    # Of very large rules the coefficients are not looked at; smaller ones have fallen.
    fall = np.where(np.isnan(fall), SMOOTH / 2, fall)
    floor = np.where(np.isnan(floor), 0.0, floor)
    smooth = fall < SMOOTH
    extrapolated = change * np.clip(EXTRAPOLATED * fall, 0.03, 1)
    error = np.where(
        smooth,
        np.maximum(extrapolated, floor),
        np.maximum(ROUGH * change, np.where(np.isnan(tail), 0, tail)),
    )
    error = np.maximum(error, rounding)
    with np.errstate(invalid="ignore"):  # of a change that is infinite
        best = EXTRAPOLATED * change * np.minimum(fall, 1) ** (2 + 2 * pace)
    seen = change > rounding
    slow = np.logical_or.reduce(~smooth & seen, 1)
    late = np.logical_or.reduce((best > ledger.allowed(total)) & seen, 1)
    return error, slow, late


def _with_error(
    regions: Regions, amount: Amount, total: Amount, error: Array
) -> Amount:
    """Contributions with the error of each integral divided among its regions."""
    owner = regions.owner
    unit = None if total.log_unit is None else total.log_unit[owner]
    columns = amount.columns * factor_between(amount.log_unit, unit)
    count = np.bincount(owner, minlength=len(error))[owner, None]
    columns[1] = error[owner] / count
    return Amount(columns, unit)
