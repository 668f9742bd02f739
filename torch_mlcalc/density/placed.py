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
    MultivariateNormal,
    Normal,
    constraints,
)
from torch.nn.functional import logsigmoid

from torch_mlcalc.density.divergence import log_prob_anywhere
from torch_mlcalc.density.nodes import of_standard_normal
from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.wide import is_known, widened
from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.domains import Domain, RealLine, domain_of
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.rules import Array

#: Sum of the parameters up to which a Dirichlet density is integrated on the cube, in
#: float64 in 1/40 of the time for (10, 15, 10, 14), in ten times that for (20, 30, 20,
#: 29); (1e3, 2e3, 1e3) takes 30 times as long there, and beyond nothing is found of it.
WIDE = 50


class Placed(NamedTuple):
    """A domain, the log density there, and the values that its points stand for."""

    domain: Domain
    log_density: Function
    points: Function


def has_box(distribution: Distribution) -> bool:
    """Whether a distribution of several variables can be integrated over a box."""
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
        return _broken_stick(distribution)
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

    if isinstance(domain, RealLine):
        at, width = (getattr(distribution, n, None) for n in ("loc", "scale"))
        if isinstance(at, Tensor) and isinstance(width, Tensor):
            # They place nodes, also where there is no mean, and carry no gradient.
            at, width = at.detach(), width.detach()
            domain = RealLine(at, width)
            if known:
                return _standardized(domain, at.dtype, log_density, same)
    if not known:
        return Placed(domain, log_density, same)
    return Placed(domain, lambda x: log_density(x.double()).to(x.dtype), same)


def _standardized(
    place: RealLine, dtype: torch.dtype, log_density: Function, points: Function
) -> Placed:
    """A variable on the line in units of its width, from float64 and back.

    One around 1e6 has 16 different values within a unit in float32.

    Args:
        place: Middle and width, without a gradient.
        dtype: That of the units, and of the values.
        log_density: Log density of points in float64.
        points: The values that these stand for.

    Returns:
        The line of the units.
    """
    loc, scale = (torch.as_tensor(t).double() for t in (place.loc, place.scale))
    zero = torch.zeros_like(loc, dtype=dtype)
    log_scale = scale.log()

    def at(z: Tensor) -> Tensor:
        return loc + scale * z.double()

    return Placed(
        RealLine(zero, zero + 1),
        lambda z: (log_density(at(z)) + log_scale).to(z.dtype),
        lambda z: points(at(z)).to(z.dtype),
    )


def on_log_odds(distribution: Beta | Dirichlet) -> Placed:
    """A beta variable by its log odds, which tell how near it is to 1; or several.

    Numbers below 1 end at 1e-16 from it, where of a power of 0.1 there is still a
    fortieth of the mass.

    Returns:
        The line of the log odds, or the space of those of a Dirichlet variable.
    """
    if isinstance(distribution, Dirichlet):
        smooth = _is_smooth(read(distribution.concentration))
        return (_broken_stick if smooth else _on_stick_odds)(distribution)
    dtype, wide = distribution.concentration1.dtype, widened(distribution)
    a, b = wide.concentration1, wide.concentration0
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    with torch.no_grad():
        at = torch.digamma(a) - torch.digamma(b)
        width = (torch.polygamma(1, a) + torch.polygamma(1, b)).sqrt()

    def log_density(z: Tensor) -> Tensor:
        return a * logsigmoid(z) + b * logsigmoid(-z) - log_beta

    limits = torch.finfo(dtype)
    # Not on an end, where a function may be infinite, unless it matters that it is: if
    # there is mass below all numbers, a function that needs it is to be reported.
    below = a.detach() * math.log(limits.tiny) < 2 / 3 * math.log(limits.eps)
    least = below.to(a.dtype) * limits.tiny

    def points(z: Tensor) -> Tensor:
        x = torch.sigmoid(z).clamp(max=1 - limits.eps / 2)
        return torch.maximum(x, least)

    return _standardized(RealLine(at, width), dtype, log_density, points)


def _broken_stick(distribution: Dirichlet) -> Placed:
    """A Dirichlet variable from independent beta variables on a cube."""
    sticks = _sticks(distribution)
    wide = Independent(widened(sticks), 1, validate_args=False)
    box = Box(sticks.concentration1.new_zeros(sticks.batch_shape[-1]), 1.0)
    return Placed(box, lambda u: wide.log_prob(u.double()).to(u.dtype), _from_sticks)


def _on_stick_odds(distribution: Dirichlet) -> Placed:
    """The same by log odds: on the cube a narrow peak is missed, a pole costs more."""
    sticks = _sticks(distribution)
    _, log_density, points = on_log_odds(sticks)
    box = Box(
        sticks.concentration1.new_full(sticks.batch_shape[-1:], -math.inf), math.inf
    )
    return Placed(
        box, lambda z: log_density(z).sum(-1), lambda z: _from_sticks(points(z))
    )


def _is_smooth(alpha: Array) -> bool:
    """Whether Dirichlet densities have neither poles nor a peak that is hard to see."""
    return bool((alpha >= 1).all() and (alpha.sum(-1) <= WIDE).all())


def _sticks(distribution: Dirichlet) -> Beta:
    alpha = distribution.concentration
    rest = alpha.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    return Beta(alpha[..., :-1], rest, validate_args=False)


def _from_sticks(u: Tensor) -> Tensor:
    left = torch.cat([torch.ones_like(u[..., :1]), (1 - u).cumprod(-1)], -1)
    return torch.cat([u, torch.ones_like(u[..., :1])], -1) * left


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
