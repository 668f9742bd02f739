"""Means of functions under a density, and its moments."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_mlcalc.density.peaks import Peaks
from torch_mlcalc.density.support import extent_of
from torch_mlcalc.quadrature.adaptive_hermite import AdaptiveGaussHermite
from torch_mlcalc.quadrature.cubature.hermite import hermite_table
from torch_mlcalc.quadrature.cubature.whitened import WhitenedPlan
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.estimate import Estimate, Status, report
from torch_mlcalc.quadrature.host import dual_level, read, readable, transforming
from torch_mlcalc.quadrature.integrand import Function, checked
from torch_mlcalc.quadrature.integrate import integrate, integrate_with_error
from torch_mlcalc.quadrature.rules import Rule

if TYPE_CHECKING:
    from torch_mlcalc.density.normalized import NormalizedDensity

#: Part of the exponents of a dtype, in tens, that is far out: the square of such a
#: point and the density there can still be written down.
FAR = 0.2

#: Nodes of a grid for means, of which several are tried: 9 on each of five axes.
MOST_NODES = 60_000

#: By how much the exponent of a tail may be above that at which a moment exists, for
#: rounding: that of a Student density is exact to 1e-15.
MARGIN = 1e-6


def mean_of(
    density: NormalizedDensity,
    f: Callable[[Tensor, Tensor], Tensor],
    *,
    otherwise: float | None = None,
    atol: float | None = None,
    lost: Tensor | None = None,
) -> Tensor:
    """A mean, and ``otherwise`` where it does not exist.

    Args:
        density: The densities.
        f: Function of points and the log of the density there.
        otherwise: What to return where the integral is found to diverge.
        atol: Wanted absolute error in units of the relative one.
        lost: Where the mean is known not to exist.

    Returns:
        The mean ``(*batch, *shape)``.
    """
    shape: torch.Size | None = None
    log_z, log_density = density.log_normalizer, density._remembered
    coordinates = density.event_shape.numel() if density.event_shape else 0

    def weighted(points: Tensor, _: Tensor) -> Tensor:
        nonlocal shape
        log_p = log_density(points) - log_z
        p = torch.exp(log_p)
        values = checked(f(points, log_p), points, coordinates)
        shape = values.shape[p.ndim :]
        values = values.reshape((*p.shape, math.prod(shape)))
        mass = p[..., None]
        # Where there is no mass the function may be infinite.
        weighted = torch.where(mass > 0, mass * torch.where(mass > 0, values, 0), 0)
        # The mass as well: it tells whether the rule has seen the density.
        return torch.cat([weighted, mass.to(weighted.dtype)], -1)

    domain, breakpoints = density._placed
    settings: dict[str, Any] = {
        # Limits that are numbers have no dtype.
        "args": (log_z.detach().new_zeros(()),),
        "batch_shape": density.batch_shape,
        "breakpoints": breakpoints,
        "memory": density._block,
    }
    value = _by_grids(density, weighted, settings, atol)
    if value is None and density._fixed:
        value = integrate(
            weighted,
            domain,
            density.rule,
            max_evals=density._search["max_evals"],
            **settings,
        )
    elif value is None:
        settings |= density._search | {"on_failure": "ignore"}
        if atol is not None and settings["atol"] is None:
            default = torch.finfo(density.dtype).eps ** 0.5
            settings["rtol"] = settings["rtol"] or default
            settings["atol"] = atol * settings["rtol"]
        # Log rules are for the normaliser alone.
        hermite = isinstance(density.rule, AdaptiveGaussHermite)
        rule = None if hermite else density.rule
        found = _found(density, weighted, domain, rule, settings)
        value = _judged(density, found, otherwise, lost)
    assert shape is not None  # noqa: S101
    # Without a normaliser there is no mean.
    value = torch.where(log_z.isfinite()[..., None], value, math.nan)
    return value[..., :-1].reshape(density.batch_shape + shape)


def _found(
    density: NormalizedDensity,
    weighted: Function,
    domain: Domain,
    rule: Rule | None,
    settings: dict[str, Any],
) -> Estimate:
    """A search among what is known, whose nodes are then applied with gradients."""
    graph = torch.is_grad_enabled() and not (transforming() or dual_level())
    if not graph or density.event_shape or not density._known.has_graph:
        return integrate_with_error(weighted, domain, rule, **settings)
    # A search that may record gradients begins by looking whether there are any.
    with torch.no_grad():
        found = integrate_with_error(weighted, domain, rule, **settings)
    names = ("args", "batch_shape", "breakpoints", "memory")
    applied = {name: settings[name] for name in names}
    return found._replace(value=integrate(weighted, domain, found.plan, **applied))


def _by_grids(
    density: NormalizedDensity,
    weighted: Function,
    settings: dict[str, Any],
    atol: float | None,
) -> Tensor | None:
    """Means by larger and larger grids around the modes that the normaliser found.

    Returns:
        The mean, where one grid agrees with the next; None if there are no grids, or
        one of the means needs more nodes than they may have.
    """
    plan = density._plan
    if not isinstance(plan, WhitenedPlan) or not plan.on_grids or transforming():
        return None
    search, d = density._search, density.event_shape[0]
    default = torch.finfo(density.dtype).eps ** 0.5
    rtol = search["rtol"] or default
    least = search["atol"] or (atol or 0.0) * rtol
    n, before = round(plan.n ** (1 / d)), None
    while n**d <= MOST_NODES:
        grid = plan.with_grid(*hermite_table(n))
        value = integrate(weighted, density.domain, grid, **settings)
        if before is not None:
            change, size = (value - before).abs(), value.abs()
            rounding = 64 * torch.finfo(density.dtype).eps * size.clamp(min=1)
            if bool((change <= (rtol * size).clamp(min=least) + rounding).all()):
                return value
        # Odd steps: even grids share the gap around the mode, and any step in it.
        n, before = n + (3 if d <= 3 else 1), value.detach()
    return None


def _judged(
    density: NormalizedDensity,
    found: Estimate,
    otherwise: float | None,
    lost: Tensor | None,
) -> Tensor:
    """Means with the mass behind, of which some do not exist or are not right."""
    status, mass = found.status, found.value[..., -1:].detach()
    bad = status >= Status.SUSPECTED_DIVERGENT
    bad = bad if lost is None else bad | lost
    # Where the normaliser failed there is a report on that.
    off = (mass - 1).abs() > torch.finfo(density.dtype).eps ** 0.4
    status = torch.where(off[..., 0] & (status == 0), 1, status)
    if otherwise is not None:
        status = torch.where(bad, 0, status)
    if readable(status):
        report(read(status).astype(int), "", density._search["on_failure"], 6)
    if otherwise is None:
        return found.value
    return torch.where(bad[..., None], otherwise, found.value)


def mean(density: NormalizedDensity) -> Tensor:
    """Means; nan where there are none."""
    at, width = _unit(density)
    mean = mean_of(
        density,
        lambda x, _: (x - at) / width,
        otherwise=math.nan,
        atol=1.0,
        lost=_lost(density, 1),
    )
    return at + width * mean


def variance(density: NormalizedDensity) -> Tensor:
    """Variances; infinite where there are none."""
    mean = density.mean
    centre = torch.where(mean.isfinite(), mean, 0)
    _, width = _unit(density)
    square = mean_of(
        density,
        lambda x, _: ((x - centre) / width) ** 2,
        otherwise=math.inf,
        lost=_lost(density, 2),
    )
    return square * width**2


def entropy(density: NormalizedDensity) -> Tensor:
    """Differential entropies."""
    return mean_of(density, lambda _, log_p: -log_p, atol=1.0)


def _unit(density: NormalizedDensity) -> tuple[Tensor | float, Tensor | float]:
    """Where the mass is and how wide, to measure errors by; constants."""
    if density.event_shape or transforming():
        return 0.0, 1.0
    peaks = density._memory.recall("peaks", partial(Peaks.of, density), value=False)
    return peaks.at, peaks.width


def _lost(density: NormalizedDensity, order: int) -> Tensor | None:
    """Where a tail falls by a power that leaves no moment of this order.

    An integral that diverges slowly looks like one that converges slowly; two points
    far out on each side tell the power.

    Returns:
        A mask ``(*batch)``; None in several dimensions.
    """
    if density.event_shape or transforming():
        return None
    at, width = (torch.as_tensor(t, device=density.device) for t in _unit(density))
    known = density._known
    reach = FAR * math.log10(torch.finfo(density.dtype).max)
    lost = torch.zeros_like(at, dtype=torch.bool).expand(density.batch_shape)
    for sign, limit in zip((-1, 1), extent_of(density.domain)[:2], strict=True):
        open_ = torch.as_tensor(limit, device=at.device).isinf()
        if not bool(open_.any()):
            continue
        steps = torch.stack([at + sign * width * 10**r for r in (reach / 2, reach)])
        points = torch.where(open_, steps.to(density.dtype), density._home)
        with torch.no_grad():
            near, far = known.at(points.expand(2, *density.batch_shape))
        power = (near - far) / (reach / 2 * math.log(10))
        lost = lost | (open_ & (power <= order + 1 + MARGIN))
    return lost
