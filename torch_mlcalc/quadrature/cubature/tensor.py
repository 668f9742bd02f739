"""Tensor Gauss rules of growing size, as long as they pay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cubature.climbed import Climbed
from torch_mlcalc.quadrature.cubature.ladder import (
    EXTRAPOLATED,
    LADDERS,
    LEAST,
    LEAST_UNBOUNDED,
    MILD,
    MOST,
    OFTEN,
    ROUGH,
    SMOOTH,
    SMOOTH_AGAIN,
    STEADY,
    SURE,
    TAIL_ROUGH,
    TAIL_UNBOUNDED,
    Pace,
    Stage,
    budget_of,
    pace_of,
    patience_of,
    stage_of,
)
from torch_mlcalc.quadrature.cubature.regions import (
    Regions,
    Table,
    gauss_table,
    join_regions,
    no_regions,
)
from torch_mlcalc.quadrature.cubature.search import CubeSearch, Measured
from torch_mlcalc.quadrature.cubature.single import climb_single, is_single
from torch_mlcalc.quadrature.ledger import Amount, factor_between
from torch_mlcalc.quadrature.rules import Array

Mask = npt.NDArray[Any]


def climb(
    search: CubeSearch,
    regions: Regions,
    begin: int = 1,
    begun: Climbed | None = None,
    *,
    parts: bool = False,
) -> Regions:
    """Integrate by one tensor rule after another, each checked by the one before.

    Args:
        search: The integrals.
        regions: All regions of some integrals.
        begin: The first step, of which the rule before is evaluated too.
        begun: Where a single integral stands, if it is not at the first step.
        parts: Whether the regions are those between kinks.

    Returns:
        Those of the integrals that are not converged.
    """
    ladder = LADDERS.get(search.dimension, ())
    begun = begun or Climbed(begin)
    if is_single(search):
        begun = climb_single(search, regions, begin, begun, parts=parts)
        search.begun = begun
        if begun.done or begun.left:
            return regions if begun.left else no_regions(search.dimension)
    failed: list[Regions] = []
    before, values = begun.amount, begun.values
    rough = np.full(search.elements, float(begun.rough))
    rate: Array | float = begun.rate
    change: Array | float = begun.change
    for step in range(begun.step, len(ladder)):
        stage = stage_of(step, search.dimension, first=before is None)
        if values is not None:
            measured, values = (
                search.summed(regions, stage.table, stage.rows, values),
                None,
            )
        elif regions.owner.size and _fits(search, regions, stage.table, begin):
            measured = search.measure(regions, stage.table, stage.rows)
        else:
            break
        amounts, broken = _amounts(search, regions, stage, measured)
        totals = [search.ledger.with_open(regions.owner, a) for a in amounts]
        total = totals[-1]
        before = totals[0] if before is None else before
        pace = pace_of(step, search.dimension)
        error, slow, late, rate, change = _judge(
            search, total, before, pace, rate, change, rough
        )
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
        rough = (rough + slow) * (slow > 0)
        patience = patience_of(step, begin, search.dimension, parts=parts)
        leaves |= late | (rough >= patience)
        leaves |= done
        gone = leaves[regions.owner]
        failed.append(regions.take(gone & ~done[regions.owner]))
        regions = regions.take(~gone)
        before = total
    return join_regions([*failed, regions])


def _amounts(
    search: CubeSearch, regions: Regions, stage: Stage, measured: Measured
) -> tuple[list[Amount], Mask]:
    """Integral, last coefficients and absolute integral by each rule of a stage."""
    sums, amounts = measured.sums, []
    for first in range(0, len(sums) - 1, stage.each):
        value, *others = sums[first : first + stage.each]
        tail = np.abs(others).max(0) if others else np.full(value.shape, np.nan)
        amounts.append(search.amount(regions, measured, tail, value))
    return amounts, measured.broken


def _fits(search: CubeSearch, regions: Regions, table: Table, begin: int) -> bool:
    """Whether every integral can pay for the rule in all of its regions."""
    count = table.count(search.dimension)
    cost = count * np.bincount(regions.owner, minlength=search.elements)
    if cost.max() > MOST:
        return False
    budget = budget_of(begin, search.ledger.max_evals)
    return bool((search.ledger.n_evals + cost <= budget).all())


def _judge(
    search: CubeSearch,
    total: Amount,
    before: Amount,
    pace: Pace,
    rate: Array | float,
    moved: Array | float,
    count: Array,
) -> tuple[Array, Array, Mask, Array, Array]:
    """Error of each integral, whether it shrinks slowly or too late, and at which rate.

    The change is the error of the smaller rule. A Gauss rule is exact up to twice the
    degree of its last coefficient, so its error shrinks like the square of that. Where
    the change is small by chance there are the coefficients themselves: that of twice
    the degree follows from the last by that square, or by a fall at the same pace. What
    falls more slowly than before may have a kink, whose coefficients fall by the change
    itself, and more by accident: then it is the first power. After a rule that found
    the integrand rough the whole change counts, unless they fall so much that it is no
    accident.

    Returns:
        Errors, how much each counts as a rule that finds it rough, a mask of those that
        are too late, the least fall of coefficients so far for each degree, and the
        change.
    """
    ledger = search.ledger
    rounding = ledger.rounding(total)
    factor = factor_between(before.log_unit, total.log_unit)
    change = np.abs(total.value - before.value * factor)
    tail, last = total.error, before.error * factor
    with np.errstate(divide="ignore", invalid="ignore"):
        # A rule that saw only zeros has no coefficients; those of the next are new.
        none = np.maximum(tail, last) <= rounding
        fall = np.where(none, 0.0, tail / np.maximum(last, rounding))
        floor = np.where(total.absolute > 0, tail * (tail / total.absolute), 0.0)
        # Of very large rules the coefficients are not looked at.
        unseen = np.sqrt(change / (moved * factor))
    fall = np.where(np.isnan(fall), np.nan_to_num(unseen, nan=1.0), fall)
    floor = np.where(np.isnan(floor), 0.0, floor)
    smooth, fall = fall < SMOOTH, np.minimum(fall, 1)
    own, rate = fall ** (1 / pace.length), np.asarray(rate)
    rough, often = count[:, None] > 0, count[:, None] >= OFTEN
    doubted = (fall > SURE) & (rough | (rate == 0))
    steady = (own <= rate**STEADY) & ~doubted
    trusted = np.where(steady | ((rate == 0) & ~doubted), fall**2, fall)
    if search.unbounded:
        least = np.where(rough, 1.0, LEAST_UNBOUNDED)
        sure = (fall <= SURE) & ~rough & (rate > 0)
        floor = np.where(sure, floor, TAIL_UNBOUNDED**2 * floor)
    else:
        least = np.where(doubted & rough, 1.0, LEAST)
        extended = np.minimum(floor, np.nan_to_num(tail) * fall**pace.passed)
        floor = np.where(steady, extended, np.where(often, TAIL_ROUGH * floor, floor))
    extrapolated = change * np.clip(EXTRAPOLATED * trusted, least, 1)
    error = np.where(
        smooth,
        np.maximum(extrapolated, floor),
        np.maximum(ROUGH * change, np.where(np.isnan(tail), 0, tail)),
    )
    error = np.maximum(error, rounding)
    with np.errstate(invalid="ignore"):  # of a change that is infinite
        best = change * fall ** (2 + 2 * pace.left)
    seen = change > rounding
    counted = np.where(fall < MILD.get(search.dimension, 0.0), 0.5, 1.0)
    smooth &= (fall < SMOOTH_AGAIN) | ~often
    slow = np.maximum.reduce(np.where(~smooth & seen, counted, 0.0), 1)
    late = np.logical_or.reduce(smooth & (best > ledger.allowed(total)) & seen, 1)
    rate = np.where(rate > 0, np.minimum(own, rate), own)
    return error, slow, late, rate, change


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
