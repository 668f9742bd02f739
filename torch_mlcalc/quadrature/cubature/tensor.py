"""Tensor Gauss rules of growing size, as long as they pay."""

from __future__ import annotations

from typing import Any

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

#: Nodes on each axis, by dimension. Neighbours differ by a factor of 4 to 6 in cost.
LADDERS = {
    1: (7, 14, 28, 56),
    2: (4, 8, 15, 28, 48),
    3: (3, 5, 8, 13, 20, 32),
    4: (3, 4, 6, 9, 13),
    5: (2, 3, 4, 6, 8, 11),
    6: (2, 3, 4, 5, 7),
    7: (2, 3, 4, 5),
    8: (2, 3, 4, 5),
}

#: An integrand is smooth enough while a larger rule leaves less than this of the error
#: of the one before. Kinks leave 0.3 to 0.5, jumps more. Densities over infinite axes
#: also miss it once in a while, so where a larger rule costs little, up to 3 axes,
#: it must be missed twice in a row.
SMOOTH = 0.2
PATIENT = 3

#: Safety of the error of the first pair of rules, which nothing confirms, and of that
#: extrapolated from two pairs.
FIRST, LATER = 10.0, 5.0

#: Nodes of one rule in all regions of an integral together.
MOST = 400_000


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
    last: Array | None = None
    rough = np.zeros(search.elements, dtype=np.int64)
    for step, n in enumerate(ladder):
        table = gauss_table(n)
        if not regions.owner.size or not _fits(search, regions, table):
            break
        measured = search.measure(regions, table, np.empty((0, 0)))
        value = measured.sums[0]
        amount = search.amount(regions, measured, np.zeros(value.shape), value)
        total = search.ledger.with_open(regions.owner, amount)
        leaves = np.zeros(search.elements, dtype=bool)
        leaves[regions.owner[measured.broken]] = True
        if before is not None:
            change = _change(before, total)
            pace = (ladder[-1] - n) / (n - ladder[step - 1])
            error, slow, late = _judge(search, total, change, last, pace)
            rough = (rough + 1) * slow
            hopeless = late | (rough > (search.dimension <= PATIENT))
            done = (error <= search.ledger.allowed(total)).all(1) & ~leaves
            # Where every value is 0 nothing was seen.
            done &= (total.absolute != 0).any(1)
            own = done[regions.owner]
            spread = _with_error(regions, amount, total, error)
            search.keep(table, regions.take(own), spread.take(own))
            leaves |= hopeless | done
            failed.append(regions.take((leaves & ~done)[regions.owner]))
            last = change
        elif leaves.any():
            failed.append(regions.take(leaves[regions.owner]))
        regions = regions.take(~leaves[regions.owner])
        before = total
    return join_regions([*failed, regions])


def _fits(search: CubeSearch, regions: Regions, table: Table) -> bool:
    """Whether every integral can pay for the rule in all of its regions."""
    count = table.count(search.dimension)
    cost = count * np.bincount(regions.owner, minlength=search.elements)
    if cost.max() > MOST:
        return False
    return bool((search.ledger.n_evals + cost <= search.ledger.max_evals).all())


def _change(before: Amount, total: Amount) -> Array:
    factor = factor_between(before.log_unit, total.log_unit)
    change: Array = np.abs(total.value - before.value * factor)
    return change


def _judge(
    search: CubeSearch, total: Amount, change: Array, last: Array | None, pace: float
) -> tuple[Array, Mask, Mask]:
    """Error of each integral, whether it shrinks slowly, and whether that is too late.

    The change is the error of the smaller rule. Where it shrinks geometrically that of
    the larger one is about the change times the ratio of the last two.

    Returns:
        Errors, and two masks of integrals.
    """
    ledger = search.ledger
    rounding = ledger.rounding(total)
    if last is None:
        error = np.maximum(FIRST * change, rounding)
        none = np.zeros(len(error), dtype=bool)
        return error, none, none
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(last > 0, change / last, np.where(change > 0, 1.0, 0.0))
    factor = np.where(ratio < SMOOTH, np.clip(LATER * ratio, 0.01, 1), FIRST)
    error = np.maximum(factor * change, rounding)
    # What the largest rule could reach at this pace.
    best = LATER * change * np.minimum(ratio, 1) ** (1 + pace)
    seen = change > rounding
    slow = np.logical_or.reduce((ratio >= SMOOTH) & seen, 1)
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
