"""Densities that are about normal: grids around modes, and a look elsewhere."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch.quasirandom import SobolEngine

from torch_mlcalc.quadrature.checks import Settings
from torch_mlcalc.quadrature.contract import block_bytes
from torch_mlcalc.quadrature.cubature.adaptive import Spent, new_search
from torch_mlcalc.quadrature.cubature.chart import BoxChart
from torch_mlcalc.quadrature.cubature.found import MAX_EVALS, Found
from torch_mlcalc.quadrature.cubature.hermite import (
    LADDERS,
    White,
    ascend,
    found_of,
    whiten,
    whole_space,
)
from torch_mlcalc.quadrature.cubature.modes import flat, rise
from torch_mlcalc.quadrature.cubature.problem import SolidProblem
from torch_mlcalc.quadrature.cubature.regions import whole_cubes
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, unfold
from torch_mlcalc.quadrature.host import frozen, read, write
from torch_mlcalc.quadrature.mode import STEPS
from torch_mlcalc.quadrature.placement import WHOLE
from torch_mlcalc.quadrature.rules import Array

#: Points of each of two looks elsewhere: 4,000 beside the 700 to 100,000 of the grids.
#: Newton steps are made from the first of them.
POINTS, CLIMBERS = 2048, 32

#: Points that all this may use besides the grids, mostly for steps that do not end.
COST = STEPS + 4 + 2 * (POINTS + 1 + CLIMBERS * (STEPS + 1))

#: How wide, in standard deviations of the normal density at the mode, a normal density
#: is that a density must not exceed. Grids that are good to 1e-8 have then seen all but
#: another mode: a normal density is exceeded nowhere, one with exponential tails from
#: 10 standard deviations on, the same density elsewhere almost at once.
WIDE = 2.0

#: Log of the factor by which it may be, for rounding at the mode itself.
SLACK = 0.1

#: Standard deviations from which on two ends of Newton steps are two modes: their last
#: step is shorter than 1e-2.
APART = 0.1


def find_unimodal(
    problem: SolidProblem, settings: Settings, spent: Spent, *, grad: bool
) -> tuple[Found | None, Spent]:
    """Try grids around modes, for all log integrals of a call or for none.

    Args:
        problem: What is integrated.
        settings: Of the call.
        spent: Points that were used before.
        grad: Whether the caller records gradients.

    Returns:
        What was found, if all have converged; and the points used by now.
    """
    if (settings.max_evals or MAX_EVALS) < np.max(spent, initial=0) + COST:
        return None, spent
    with frozen(), np.errstate(all="ignore"):
        chart = _suitable(problem, settings)
        if chart is None:
            return None, spent
        spent = spent + 1
        try:
            white = whiten(problem, chart)
        except (RuntimeError, NotImplementedError):
            # The integrand has values, but no derivatives: values are all it needs.
            return None, spent + 1
        shared = {"settings": settings, "grad": grad, "log": True}
        own = white.stretched(None)
        search = new_search(problem, own, **shared)  # type: ignore[arg-type]
        ledger = search.ledger
        ledger.n_evals += spent + white.steps
        ledger.max_evals -= COST
        cubes = whole_cubes(search.elements, search.pieces)
        if not white.found.all() or ascend(search, cubes).owner.size:
            return None, ledger.n_evals
        most = max(ledger.tolerance.rtol, ledger.tolerance.atol)
        z, log_slope = _unfolded(search.dimension)
        for other, whitened in ((chart, False), (white.stretched(ALGEBRAIC), True)):
            away = _around(white, z, whitened=whitened)
            elsewhere, steps = _rises_elsewhere(problem, white, away[:CLIMBERS])
            ledger.n_evals += CLIMBERS * steps
            if elsewhere:
                return None, ledger.n_evals
            there = new_search(problem, other, ledger=ledger, **shared)  # type: ignore[arg-type]
            if not (_excess(search, there, log_slope, away) <= most).all():
                return None, ledger.n_evals
    found, _ = found_of(problem, settings, white, [(search, own)], None)
    return found, ledger.n_evals


def _suitable(problem: SolidProblem, settings: Settings) -> BoxChart | None:
    """The chart of a call that this is for."""
    dimension, integrand = problem.domain.dimension, problem.integrand
    if dimension not in LADDERS or settings.grad_rtol is not None:
        return None
    chart = None if any(problem.counts) else whole_space(problem)
    if chart is None:
        return None
    start = chart.anchor.expand(1, *chart.batch_shape, dimension)
    values = integrand(start.to(integrand.dtype))
    return chart if values.ndim == start.ndim - 1 else None


@lru_cache(maxsize=8)
def _points(dimension: int) -> Array:
    """The same points in every call, inside of the cube, ``(n, d)``."""
    engine = SobolEngine(dimension, scramble=True, seed=0)  # type: ignore[no-untyped-call]
    u = engine.draw(POINTS, dtype=torch.float64).clamp(2**-30, 1 - 2**-30).numpy()
    u.setflags(write=False)
    return u


def _unfolded(dimension: int) -> tuple[Array, Array]:
    """The points in all of space, and the log of the density of the map there."""
    kind = torch.full((dimension,), WHOLE, device="cpu")
    z, log_slope = unfold(
        torch.tensor(_points(dimension), device="cpu"), kind, ALGEBRAIC
    )
    return z.numpy(), log_slope.sum(-1).numpy()


def _around(white: White, z: Array, *, whitened: bool) -> Array:
    """Points in units of each mode, ``(n, elements, d)``."""
    d = z.shape[-1]
    centre = read(white.centre, white.mark).reshape(-1, d)
    if whitened:
        return np.repeat(z[:, None], len(centre), 1)
    factor = read(white.factor, white.mark).reshape(-1, d, d)
    away = z[:, None] - centre
    return np.einsum("mij,kmj->kmi", np.linalg.inv(factor), away)


def _rises_elsewhere(problem: SolidProblem, white: White, z: Array) -> tuple[bool, int]:
    """Whether Newton steps from any of the points lead to another mode; and steps."""
    integrand, own = problem.integrand, white.stretched(None)
    shape = (len(z), *white.lead, *integrand.batch_shape, z.shape[-1])
    start = np.moveaxis(z.reshape(shape), 0, len(white.lead))
    points, _ = own(write(start.copy(), white.mark, integrand.device), log=True)
    scale = white.chart.span.to(integrand.dtype)
    at, here, steps = rise(integrand, points.to(integrand.dtype), scale, white.mark)
    y = (at.to(own.dtype) - white.chart.anchor) / white.chart.span - white.centre
    gap = torch.linalg.solve_triangular(white.factor, y[..., None], upper=True)
    away = flat(here) & (gap.abs().amax((-2, -1)) > APART)
    return bool((read(away, white.mark) > 0).any()), steps


def _excess(
    first: CubeSearch, there: CubeSearch, log_slope: Array, away: Array
) -> Array:
    """Part of each integral that a wide normal density does not account for.

    Args:
        first: The search around modes.
        there: One in the chart that places the points.
        log_slope: Log of the density of its map, ``(n)``.
        away: The points in units of each mode, ``(n, elements, d)``.

    Returns:
        The parts.
    """
    u, elements, d = _points(first.dimension), first.elements, first.dimension
    total, every = first.ledger.total, np.arange(elements)
    assert total is not None and total.log_unit is not None  # noqa: S101
    log_total = (np.log(total.value) + total.log_unit)[:, 0]
    peak = first.evaluate(every, np.zeros((1, elements, d)))[0, :, 0]
    most = peak + SLACK - (away**2).sum(-1) / (2 * WIDE**2)
    found = np.zeros(elements)
    step = max(block_bytes(None, first.evaluate.integrand.device) // (elements * d), 1)
    for i in range(0, len(u), step):
        some = slice(i, i + step)
        points = np.repeat(u[some, None], elements, 1)
        values = there.evaluate(every, points)[..., 0]
        share = np.exp(values + there.volume - log_total) / len(u)
        found += np.where(values - log_slope[some, None] <= most[some], 0, share).sum(0)
    first.ledger.count(every, len(u) + 1)
    return found
