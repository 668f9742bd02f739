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
    )


def on_log_odds(distribution: Beta | Dirichlet) -> Placed:
    """A beta variable by its log odds, which tell how near it is to 1; or several.

    Numbers below 1 end at 1e-16 from it, where of a power of 0.1 there is still a
    fortieth of the mass.

    Returns:
        The line of the log odds, or the space of those of a Dirichlet variable.
    """
    if isinstance(distribution, Dirichlet):
        alpha = distribution.concentration
        return (_on_cube if _is_easy(alpha) else _broken_stick)(distribution)
    a, b = distribution.concentration1, distribution.concentration0
    limits, least = torch.finfo(a.dtype), _least(a)
    # The same at 1, next to which numbers are much farther apart: with a power of 0.3
    # the mean of log(1 - x) was 2e-5 off without a word.
    beyond = b.detach() * math.log(limits.eps / 2) < math.log(limits.eps) / 2
    most = 1 - beyond.double() * limits.eps / 2

    def points(z: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(torch.sigmoid(z), least), most)

    place, log_density = _log_odds(distribution)
    return _standardized(place, a.dtype, log_density, points)


def _log_odds(distribution: Beta) -> tuple[RealLine, Function]:
    """Where the log odds are, and their log density, from float64."""
    wide = widened(distribution)
    a, b = wide.concentration1, wide.concentration0
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    with torch.no_grad():
        at = torch.digamma(a) - torch.digamma(b)
        width = (torch.polygamma(1, a) + torch.polygamma(1, b)).sqrt()
    place = RealLine(at, width)
    return place, lambda z: a * logsigmoid(z) + b * logsigmoid(-z) - log_beta


def _least(power: Tensor) -> Tensor:
    """The smallest value that stands for a variable with this power at 0, in float64.

    Not 0 itself, where a function may be infinite, unless it matters that it is: if
    there is mass below all numbers, a function that needs it is to be reported.

    Returns:
        The value, of the shape of the power.
    """
    limits = torch.finfo(power.dtype)
    below = power.detach() * math.log(limits.tiny) < 2 / 3 * math.log(limits.eps)
    return below.double() * limits.tiny


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
    wide = Independent(widened(sticks), 1, validate_args=False)
    box = Box(sticks.concentration1.new_zeros(sticks.batch_shape[-1]), 1.0)

    def points(u: Tensor) -> Tensor:
        one = torch.ones_like(u[..., :1])
        left = (1 - u).cumprod(-1)
        return torch.cat([u, one], -1) * torch.cat([one, left], -1)

    return Placed(box, lambda u: wide.log_prob(u.double()).to(u.dtype), points)


def _broken_stick(distribution: Dirichlet) -> Placed:
    """The same from the log odds of these, where no peak is too narrow to be seen."""
    alpha, sticks = distribution.concentration, _sticks(distribution)
    place, odds = _log_odds(sticks)
    least = _least(alpha)

    def points(z: Tensor) -> Tensor:
        u = torch.sigmoid(z)
        left = torch.sigmoid(-z).cumprod(-1)
        one = torch.ones_like(u[..., :1])
        x = torch.cat([u, one], -1) * torch.cat([one, left], -1)
        return torch.maximum(x, least)

    _, log_density, points = _standardized(place, alpha.dtype, odds, points)
    space = Box(torch.full_like(sticks.concentration0, -math.inf), math.inf)
    return Placed(space, lambda z: log_density(z).sum(-1), points)


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
