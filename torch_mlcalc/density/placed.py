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
from torch_mlcalc.density.support import extent_of
from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.domains import Domain, RealLine, domain_of
from torch_mlcalc.quadrature.integrand import Function


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
    domain = domain_of(distribution)
    if isinstance(domain, RealLine):
        at, width = (getattr(distribution, n, None) for n in ("loc", "scale"))
        if isinstance(at, Tensor) and isinstance(width, Tensor):
            # They place nodes, also where there is no mean, and carry no gradient.
            domain = RealLine(at.detach(), width.detach())
    return Placed(domain, lambda x: log_prob_anywhere(distribution, x), same)


def on_log_odds(distribution: Distribution) -> Placed:
    """A beta variable by its log odds, which tell how near it is to 1.

    Numbers below 1 end at 1e-16 from it, where of a power of 0.1 there is still a
    fortieth of the mass.

    Returns:
        The line of the log odds.
    """
    assert isinstance(distribution, Beta)  # noqa: S101
    a, b = distribution.concentration1, distribution.concentration0
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    with torch.no_grad():
        at = torch.digamma(a) - torch.digamma(b)
        width = (torch.polygamma(1, a) + torch.polygamma(1, b)).sqrt()

    def log_density(z: Tensor) -> Tensor:
        return a * logsigmoid(z) + b * logsigmoid(-z) - log_beta

    limits, least = torch.finfo(a.dtype), _least(a)
    # The same at 1, next to which numbers are much farther apart: with a power of 0.3
    # the mean of log(1 - x) was 2e-5 off without a word.
    beyond = b.detach() * math.log(limits.eps / 2) < math.log(limits.eps) / 2
    most = 1 - beyond.to(a.dtype) * limits.eps / 2

    def points(z: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(torch.sigmoid(z), least), most)

    return Placed(RealLine(at, width), log_density, points)


def _least(power: Tensor) -> Tensor:
    """The smallest value that stands for a variable with this power at 0.

    Not 0 itself, where a function may be infinite, unless it matters that it is: if
    there is mass below all numbers, a function that needs it is to be reported.

    Returns:
        The value, of the shape of the power.
    """
    limits = torch.finfo(power.dtype)
    below = power.detach() * math.log(limits.tiny) < 2 / 3 * math.log(limits.eps)
    return below.to(power.dtype) * limits.tiny


def _broken_stick(distribution: Dirichlet) -> Placed:
    """A Dirichlet variable from the log odds of independent beta variables.

    On the cube of these themselves a polynomial is right from few nodes on, and its
    derivative by a concentration, which has a logarithm in it, was 3 % off.

    Returns:
        The space of the log odds.
    """
    alpha = distribution.concentration
    rest = alpha.flip(-1).cumsum(-1).flip(-1)[..., 1:]
    sticks = on_log_odds(Beta(alpha[..., :-1], rest, validate_args=False))
    at, width = extent_of(sticks.domain)[2:]
    least = _least(alpha)
    box = Box(torch.full_like(rest, -math.inf), math.inf, loc=at, scale=width)

    def points(z: Tensor) -> Tensor:
        u = torch.sigmoid(z)
        left = torch.sigmoid(-z).cumprod(-1)
        one = torch.ones_like(u[..., :1])
        x = torch.cat([u, one], -1) * torch.cat([one, left], -1)
        return torch.maximum(x, least)

    return Placed(box, lambda z: sticks.log_density(z).sum(-1), points)


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
