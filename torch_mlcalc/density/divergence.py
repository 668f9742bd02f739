"""Kullback-Leibler divergences of normalised densities, in torch's own registry."""

from __future__ import annotations

import math
from copy import copy

import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl

from torch_mlcalc.density.means import mean_of
from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.support import contains
from torch_mlcalc.quadrature.domains import domain_of
from torch_mlcalc.quadrature.host import readable


def register_divergences() -> None:
    r"""Make :func:`torch.distributions.kl_divergence` take a NormalizedDensity.

    .. math:: D(p \,\|\, q) = \int p(x) \log \frac{p(x)}{q(x)}\,dx

    It is infinite where p has mass outside of the support of q.
    """
    register_kl(NormalizedDensity, Distribution)(_from_density)
    register_kl(Distribution, NormalizedDensity)(_to_density)
    register_kl(NormalizedDensity, NormalizedDensity)(_from_density)


def _from_density(p: NormalizedDensity, q: Distribution) -> Tensor:
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"p has event_shape {tuple(p.event_shape)} and q {tuple(q.event_shape)}; "
            "they must be equal."
        )
    batch = torch.broadcast_shapes(p.batch_shape, q.batch_shape)
    p = p if batch == p.batch_shape else p.expand(batch)
    # Where it does not exist it is infinite, as its negative part is at most 1 / e.
    return mean_of(
        p,
        lambda x, log_p: log_p - log_prob_anywhere(q, x),
        otherwise=math.inf,
        atol=1.0,
    )


def _to_density(p: Distribution, q: NormalizedDensity) -> Tensor:
    domain = domain_of(p)
    density = NormalizedDensity(
        lambda x: log_prob_anywhere(p, x), domain, batch_shape=p.batch_shape
    )
    return _from_density(density, q)


def log_prob_anywhere(distribution: Distribution, x: Tensor) -> Tensor:
    """Log density, minus infinity outside of the support instead of an error."""
    try:
        support = distribution.support
    except NotImplementedError:
        support = None
    if support is None:
        return distribution.log_prob(x)
    inside = contains(support, x)
    if readable(inside):
        if bool(inside.all()):
            return distribution.log_prob(x)
        if not bool(inside.any()):
            return torch.full(inside.shape, -math.inf, dtype=x.dtype, device=x.device)
    home = _home(x, inside, support.event_dim)
    here = inside.reshape(inside.shape + (1,) * support.event_dim)
    # Where there is no point inside, validation would refuse what is not used.
    plain = copy(distribution)
    plain._validate_args = False
    return torch.where(inside, plain.log_prob(torch.where(here, x, home)), -math.inf)


def _home(x: Tensor, inside: Tensor, event_dim: int) -> Tensor:
    """The first point of each element that is inside, or of another element."""
    first = inside.to(torch.uint8).argmax(0, keepdim=True)
    first = first.reshape(first.shape + (1,) * event_dim).expand(1, *x.shape[1:])
    home = x.gather(0, first)
    if event_dim or not readable(inside):
        return home
    return torch.where(inside.any(0), home, x[inside][0])
