"""Means of functions as integrals over the support of a distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Dirichlet, Distribution, MixtureSameFamily

from torch_mlcalc.density.logs import Stop, has_logs
from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.placed import density_on, on_logs
from torch_mlcalc.quadrature.checks import Settings
from torch_mlcalc.quadrature.estimate import Status, Tolerance, report
from torch_mlcalc.quadrature.host import frozen, read, readable
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import integrate, log_integrate
from torch_mlcalc.quadrature.rules import Rule
from torch_mlcalc.quadrature.sharding import Ranks


def over_support(
    function: Function,
    distribution: Distribution,
    rule: Rule | None,
    settings: Settings,
    ranks: Ranks | None,
    *,
    log: bool,
) -> Tensor:
    """Integral over the support with the density, or its log."""
    if isinstance(distribution, NormalizedDensity) and not log and rule is None:
        return distribution.expectation(function)
    if isinstance(distribution, MixtureSameFamily):
        return _over_components(function, distribution, rule, settings, ranks, log=log)
    if rule is None and (has_logs(distribution) or isinstance(distribution, Dirichlet)):
        placed = on_logs(distribution)
    else:
        placed = density_on(distribution)
    domain, density, place, stops = placed
    options: dict[str, Any] = {**settings._asdict(), "process_group": ranks}
    if rule is not None and rule.fixed:
        options.pop("on_failure")

    if isinstance(distribution, NormalizedDensity):
        # Limits that are numbers have no dtype.
        options["args"] = (distribution.log_normalizer.detach().new_zeros(()),)

    def weighted(x: Tensor, *_: Tensor) -> Tensor:
        values, logs = function(place(x)), density(x)
        logs = logs.reshape(logs.shape + (1,) * (values.ndim - logs.ndim))
        if log:
            return values + logs
        mass = logs.exp()
        # Where there is none the function may be infinite.
        some = mass > 0
        return torch.where(some, torch.where(some, values, 0) * mass, 0)

    solve = log_integrate if log else integrate
    value = solve(
        weighted, domain, rule, batch_shape=distribution.batch_shape, **options
    )
    if stops and value.numel() and readable(value):
        _look_beyond(function, stops, value, settings, log=log)
    return value


def _over_components(
    function: Function,
    mixture: MixtureSameFamily,
    rule: Rule | None,
    settings: Settings,
    ranks: Ranks | None,
    *,
    log: bool,
) -> Tensor:
    """Mean of the means under components, each of which has a support of its own."""
    part = mixture.component_distribution
    axis = len(mixture.batch_shape)

    def each(x: Tensor) -> Tensor:
        # Components become more points: the function knows of the batch alone.
        points = x.movedim(1 + axis, 1)
        values = function(points.flatten(0, 1))
        return values.unflatten(0, points.shape[:2]).movedim(1, 1 + axis)

    means = over_support(each, part, rule, settings, ranks, log=log)
    logs = mixture.mixture_distribution.logits.log_softmax(-1)
    logs = logs.expand(part.batch_shape).to(means.real.dtype)
    logs = logs.reshape(logs.shape + (1,) * (means.ndim - logs.ndim))
    if log:
        return (means + logs).logsumexp(axis)
    return (means * logs.exp()).sum(axis)


def _look_beyond(
    function: Function,
    stops: tuple[Stop, ...],
    value: Tensor,
    settings: Settings,
    *,
    log: bool,
) -> None:
    """Report means that would be others if the numbers went on further."""
    with frozen():
        rows = torch.stack([torch.stack([stop.at, stop.before]) for stop in stops])
        values = function(rows.flatten(0, 1))
        values = values.reshape(*rows.shape[:2], *values.shape[1:])
        mass = torch.stack([stop.mass for stop in stops])
        mass = mass.reshape(mass.shape + (1,) * (values.ndim - 1 - mass.ndim))
        size = value
        if log:
            # In units of the mean.
            values, size = (values - value).exp(), torch.ones_like(value)
        change = torch.where(mass > 0, (values[:, 0] - values[:, 1]).abs(), 0) * mass
        tolerance = Tolerance.of(settings.rtol, settings.atol, value.real.dtype)
        rtol = max(tolerance.rtol, tolerance.atol) if log else tolerance.rtol
        allowed = (rtol * size.abs()).clamp(min=0.0 if log else tolerance.atol)
        more = (change > allowed).any(0)
        count = stops[0].mass.numel()
        status = read(more.reshape(count, -1).any(1)) * int(Status.SUSPECTED_DIVERGENT)
        missing = float(read(change.amax())) if change.numel() else 0.0
    detail = (
        " The function is large where the numbers of this dtype end and the "
        f"distribution goes on: about {missing:.0e} of {'1' if log else 'a mean'} is "
        "missing, or it is infinite."
    )
    report(status, detail, settings.on_failure, stacklevel=6)
