"""Where a distribution lives, for integrals over its support."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Dirichlet,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    constraints,
)

from torch_mlcalc.density.divergence import log_prob_anywhere
from torch_mlcalc.density.logs import Logs, Stop, dtype_of, logs_of, student_log_density
from torch_mlcalc.density.nodes import of_standard_normal
from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.wide import is_known, widened
from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.domains import Domain, RealLine, domain_of
from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.quadrature.integrand import Function

#: Sum of the parameters up to which a Dirichlet density is integrated on the cube, in
#: float64 in 1/40 of the time for (10, 15, 10, 14), in ten times that for (20, 30, 20,
#: 29); (1e3, 2e3, 1e3) takes 30 times as long there, and beyond nothing is found of it.
WIDE = 50


class Placed(NamedTuple):
    """A domain, the log density there, and the values that its points stand for."""

    domain: Domain
    log_density: Function
    points: Function
    stops: tuple[Stop, ...] = ()


def has_box(distribution: Distribution) -> bool:
    """Whether a distribution of several variables can be integrated over a box."""
    if isinstance(distribution, MixtureSameFamily):
        return has_box(distribution.component_distribution)
    known = isinstance(distribution, (MultivariateNormal, Dirichlet))
    return known or _is_independent_normal(distribution)


def _is_independent_normal(distribution: object) -> TypeGuard[Independent[Any]]:
    return (
        isinstance(distribution, Independent)
        and isinstance(distribution.base_dist, Normal)
        and distribution.reinterpreted_batch_ndims == 1
    )


def density_on(distribution: Distribution) -> Placed:
    """Where a distribution lives, its density there, and its values as points."""

    def same(x: Tensor) -> Tensor:
        return x

    if isinstance(distribution, NormalizedDensity):
        log_z = distribution.log_normalizer
        domain, _ = distribution._placed
        return Placed(domain, lambda x: distribution._log_density(x) - log_z, same)
    if _is_independent_normal(distribution):
        base = distribution.base_dist
        tril = torch.diag_embed(base.scale)
        return density_on(
            MultivariateNormal(base.loc, scale_tril=tril, validate_args=False)
        )
    if isinstance(distribution, MultivariateNormal):
        loc = distribution.loc
        normal = torch.distributions.Normal(loc.new_zeros(()), loc.new_ones(()))
        d = loc.shape[-1]
        box = Box(loc.new_full((d,), -math.inf), math.inf)
        return Placed(
            box,
            lambda z: normal.log_prob(z).sum(-1),
            partial(of_standard_normal, distribution),
        )
    if isinstance(distribution, Dirichlet):
        return _on_cube(distribution)
    if not _has_density(distribution):
        raise ValueError(
            f"nothing is known about {type(distribution).__name__}: it has no nodes "
            "(register_expectation_rule) and not both of support and log_prob of a "
            "continuous variable."
        )
    return _on_support(distribution)


def _on_support(distribution: Distribution) -> Placed:
    """A variable of one dimension; of known ones the log density is from float64."""
    domain, known = domain_of(distribution), is_known(distribution)
    wide = widened(distribution)

    def same(x: Tensor) -> Tensor:
        return x

    def log_density(x: Tensor) -> Tensor:
        return log_prob_anywhere(wide, x)

    if known and isinstance(wide, StudentT):
        log_density = student_log_density(wide)
    if isinstance(domain, RealLine):
        at, width = (getattr(distribution, n, None) for n in ("loc", "scale"))
        if isinstance(at, Tensor) and isinstance(width, Tensor):
            # They place nodes, also where there is no mean, and carry no gradient.
            at, width = at.detach(), width.detach()
            domain = RealLine(at, width)
            if known:
                return _standardized(Logs(domain, log_density, same), at.dtype)
    if not known:
        return Placed(domain, log_density, same)
    return Placed(domain, lambda x: log_density(x.double()).to(x.dtype), same)


def _standardized(line: Logs, dtype: torch.dtype) -> Placed:
    """A variable on the line in units of its width, from float64 and back.

    One around 1e6 has 16 different values within a unit in float32.

    Args:
        line: Middle and width, without a gradient; density and values in float64.
        dtype: That of the units, and of the values.

    Returns:
        The line of the units.
    """
    place, log_density, points, stops = line
    loc, scale = place.loc, place.scale
    assert isinstance(loc, Tensor) and isinstance(scale, Tensor)  # noqa: S101
    loc, scale = loc.double(), scale.double()
    zero = torch.zeros_like(loc, dtype=dtype)
    log_scale = scale.log()

    def at(z: Tensor) -> Tensor:
        return loc + scale * z.double()

    return Placed(
        RealLine(zero, zero + 1),
        lambda z: (log_density(at(z)) + log_scale).to(z.dtype),
        lambda z: points(at(z)).to(z.dtype),
        tuple(Stop(s.at.to(dtype), s.before.to(dtype), s.mass) for s in stops),
    )


def on_logs(distribution: Distribution) -> Placed:
    """A variable of one of the families of ``logs.py``, or a Dirichlet one.

    Returns:
        The line of its logs or log odds, or the space of those of several.
    """
    if isinstance(distribution, Dirichlet):
        alpha = distribution.concentration
        return (_on_cube if _is_easy(alpha) else _broken_stick)(distribution)
    return _standardized(logs_of(distribution), dtype_of(distribution))


def _is_easy(alpha: Tensor) -> bool:
    """Whether no Dirichlet density has a pole, a narrow peak, or a slope to be found.

    A polynomial is right on the cube from few nodes on, and its derivative by a
    concentration, which has a logarithm in it, was 3 % off.

    Returns:
        Whether the cube will do.
    """
    if transforming() or dual_level() or alpha.requires_grad:
        return False
    low, high = alpha.amin(-1), alpha.sum(-1)
    return bool(((low >= 1) & (high <= WIDE)).all())


def _sticks(distribution: Dirichlet) -> Beta:
    alpha = distribution.concentration
    rest = alpha.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return Beta(alpha[..., :-1], rest, validate_args=False)


def _on_cube(distribution: Dirichlet) -> Placed:
    """A Dirichlet variable from independent beta variables."""
    sticks = _sticks(distribution)
    wide = widened(sticks)
    box = Box(sticks.concentration1.new_zeros(sticks.batch_shape[-1]), 1.0)

    def points(u: Tensor) -> Tensor:
        one = torch.ones_like(u[..., :1])
        left = (1 - u).cumprod(-1)
        return torch.cat([u, one], -1) * torch.cat([one, left], -1)

    return Placed(box, lambda u: wide.log_prob(u.double()).sum(-1).to(u.dtype), points)


def _broken_stick(distribution: Dirichlet) -> Placed:
    """The same from the log odds of these, where no peak is too narrow to be seen."""
    alpha, sticks = distribution.concentration, _sticks(distribution)
    place, odds = logs_of(sticks)[:2]
    least = torch.finfo(alpha.dtype).tiny

    def points(z: Tensor) -> Tensor:
        u = torch.sigmoid(z)
        left = torch.sigmoid(-z).cumprod(-1)
        one = torch.ones_like(u[..., :1])
        x = torch.cat([u, one], -1) * torch.cat([one, left], -1)
        return x.clamp(min=least)

    line = Logs(place, odds, points, _corners(distribution))
    _, log_density, points, stops = _standardized(line, alpha.dtype)
    space = Box(torch.full_like(sticks.concentration0, -math.inf), math.inf)
    return Placed(space, lambda z: log_density(z).sum(-1), points, stops)


def _corners(distribution: Dirichlet) -> tuple[Stop, ...]:
    """Where one of several variables stops, and the others are at their mean."""
    alpha = distribution.concentration.detach()
    total = alpha.sum(-1, keepdim=True)
    found = []
    for i in range(alpha.shape[-1]):
        one = alpha[..., i]
        low = logs_of(Beta(one, total[..., 0] - one, validate_args=False)).stops[0]
        own = torch.arange(alpha.shape[-1], device=alpha.device) == i
        rest = torch.where(own, 0, alpha / (total - alpha[..., i : i + 1]))
        at, before = (torch.where(own, t[..., None], rest.to(t)) for t in low[:2])
        found.append(Stop(at, before, low.mass))
    return tuple(found)


def _has_density(distribution: Distribution) -> bool:
    try:
        support = distribution.support
    except (NotImplementedError, AttributeError):
        return False
    if not isinstance(support, constraints.Constraint) or support.is_discrete:
        return False
    return (
        not distribution.event_shape
        and type(distribution).log_prob is not Distribution.log_prob
    )
