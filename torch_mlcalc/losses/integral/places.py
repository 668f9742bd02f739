"""Where a distribution lives, and points inside."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Laplace, MixtureSameFamily
from torch.distributions.relaxed_bernoulli import LogitRelaxedBernoulli

from torch_mlcalc.density.divergence import log_prob_anywhere
from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.support import extent_of
from torch_mlcalc.density.wide import is_known, widened
from torch_mlcalc.quadrature.cubature.box import Solid
from torch_mlcalc.quadrature.domains import Domain, RealLine, domain_of
from torch_mlcalc.quadrature.problem import as_breakpoints


def is_discrete(distribution: Distribution) -> bool:
    """Whether a distribution is known to have probabilities, not a density."""
    try:
        support = distribution.support
    except NotImplementedError:
        return False
    return support is not None and bool(support.is_discrete)


def place_of(distribution: Distribution) -> Domain:
    """The support, with nodes placed by location and scale where there are such."""
    if isinstance(distribution, NormalizedDensity):
        return distribution.domain
    domain = domain_of(distribution)
    if isinstance(domain, RealLine):
        at, width = centre_of(distribution)
        if isinstance(at, Tensor) and isinstance(width, Tensor):
            # They place nodes, also where there is no mean, and carry no gradient.
            return RealLine(at.detach(), width.detach())
    return domain


def centre_of(distribution: Distribution) -> tuple[object, object]:
    """Location and scale as they are called, or None: also where there is no mean."""
    if isinstance(distribution, LogitRelaxedBernoulli):
        # A logistic distribution that does not say so.
        temperature = distribution.temperature
        return distribution.logits / temperature, 1 / temperature
    return getattr(distribution, "loc", None), getattr(distribution, "scale", None)


def kinks_of(distribution: Distribution) -> list[Tensor]:
    """Points at which to split for the density itself, ``(k, *batch)`` each."""
    if isinstance(distribution, Laplace):
        return [distribution.loc[None]]
    if isinstance(distribution, MixtureSameFamily):
        # Not kinks, but where narrow components are.
        return [distribution.component_distribution.mean.detach().movedim(-1, 0)]
    if isinstance(distribution, NormalizedDensity) and (
        distribution.breakpoints is not None
    ):
        inner = as_breakpoints(distribution.breakpoints)
        inner = inner.to(distribution.device, distribution.dtype)
        batch = distribution.batch_shape
        lead = (1,) * (len(batch) + 1 - inner.ndim)
        shape = (len(inner), *lead, *inner.shape[1:])
        return [inner.reshape(shape).expand(-1, *batch)]
    return []


def log_density(distribution: Distribution, x: Tensor) -> Tensor:
    """Log density at points of the support, as far as rounding goes."""
    if is_known(distribution) and x.dtype != torch.float64:
        return log_density(widened(distribution), x.double()).to(x.dtype)
    # To look whether each is inside would fail under vmap.
    if distribution._validate_args:
        return log_prob_anywhere(distribution, x)
    return distribution.log_prob(x)


def inside(domain: Domain, x: Tensor) -> Tensor:
    """Whether points are within a domain in one dimension, its ends included."""
    lower, upper = extent_of(domain)[:2]
    return (x >= lower) & (x <= upper)


def within(domain: Domain, x: Tensor) -> Tensor:
    """Points to split at, with a point inside in the place of those that are not.

    At an end of the domain a density may be infinite.

    Returns:
        The points, of the same shape.
    """
    lower, upper = extent_of(domain)[:2]
    between = (x > lower) & (x < upper)
    return torch.where(between, x, inner_point(domain, x))


def inner_point(domain: Domain, like: Tensor) -> Tensor:
    """A point of the domain, for each density of a batch on a line."""
    if isinstance(domain, Solid):
        return like.new_zeros(())
    if isinstance(domain, RealLine):
        return torch.as_tensor(
            domain.loc, dtype=like.dtype, device=like.device
        ).detach()
    lower, upper, loc, scale = (
        torch.as_tensor(t, dtype=like.dtype, device=like.device).detach()
        for t in extent_of(domain)
    )
    below, above = lower.isinf(), upper.isinf()
    one_end = torch.where(below, upper - scale, lower + scale)
    middle = torch.where(below | above, one_end, (lower + upper) / 2)
    return torch.where(below & above, loc, middle)
