"""Integrals of the difference of two cdfs, or of two quantile functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, TransformedDistribution

from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.support import extent_of
from torch_mlcalc.losses.integral.compare import Search
from torch_mlcalc.losses.integral.crossings import crossings
from torch_mlcalc.losses.integral.pairs import GRID, Pair
from torch_mlcalc.losses.integral.places import (
    kinks_of,
    log_density,
    place_of,
    within,
)
from torch_mlcalc.quadrature.domains import Interval
from torch_mlcalc.quadrature.integrate import integrate

Function = Callable[[Tensor], Tensor]


def between_cdfs(
    function: Function, pair: Pair, search: Search, *, kinks: bool
) -> Tensor:
    """Integral over the line of a function of the difference of two cdfs.

    Args:
        function: Function of the difference, 0 at 0.
        pair: The distributions.
        search: How to integrate.
        kinks: Whether the function has a kink at 0.

    Returns:
        The integrals ``(*batch)``.
    """
    one, other = (_cdf(p, pair.breaks) for p in (pair.input, pair.target))

    def difference(x: Tensor) -> Tensor:
        below = one(x)
        value = below - other(x)
        # Beyond the mass both are 1 but for rounding, which would be integrated up to
        # infinity.
        noise = value.abs() < 8 * torch.finfo(value.dtype).eps
        return torch.where(noise & (below > 0.5), 0, value)

    def integrand(x: Tensor) -> Tensor:
        # The mass as well: beyond it the difference is 0 at every node.
        log_p, log_q = pair.log_densities(x)
        mass = (log_p.exp() + log_q.exp()).detach()
        return torch.stack([function(difference(x)), mass], -1)

    breaks = pair.breaks
    if kinks:
        breaks = torch.cat([breaks, crossings(difference, pair.grid())])
    options: dict[str, Any] = search._asdict()
    rule = options.pop("rule")
    return integrate(
        integrand,
        pair.domain,
        rule,
        batch_shape=pair.batch,
        breakpoints=breaks,
        **options,
    )[..., 0]


def between_quantiles(
    function: Function, pair: Pair, search: Search, kinks: bool
) -> Tensor:
    """Integral over all levels of a function of the difference of two quantiles.

    Args:
        function: Function of the difference.
        pair: The distributions.
        search: How to integrate.
        kinks: Whether the function has a kink at 0.

    Returns:
        The integrals ``(*batch)``.
    """
    one, other = (_with("icdf", p, pair.breaks) for p in (pair.input, pair.target))

    def difference(u: Tensor) -> Tensor:
        return one.icdf(u) - other.icdf(u)

    zero = torch.zeros_like(pair.breaks[0])
    breaks = None
    if kinks:
        levels = torch.linspace(0, 1, 2 * GRID + 2, dtype=zero.dtype, device="cpu")[
            1:-1
        ]
        grid = levels.to(zero.device).reshape(-1, *(1,) * zero.ndim)
        breaks = crossings(difference, grid.expand(-1, *pair.batch))
    options: dict[str, Any] = search._asdict()
    rule = options.pop("rule")
    return integrate(
        lambda u: function(difference(u)),
        Interval(zero, 1.0),
        rule,
        batch_shape=pair.batch,
        breakpoints=breaks,
        **options,
    )


def _cdf(p: Distribution, like: Tensor) -> Function:
    """The cdf at any number."""
    known, place = _with("cdf", p, like), place_of(p)
    upper = extent_of(place)[1]

    def cdf(x: Tensor) -> Tensor:
        at = within(place, x)
        return torch.where(at == x, known.cdf(at), (x >= upper).to(x.dtype))

    return cdf


def _with(method: str, p: Distribution, like: Tensor) -> Distribution:
    """A distribution that has a cdf or icdf with gradients in all parameters."""
    base = p
    while isinstance(base, TransformedDistribution):
        base = base.base_dist
    own = getattr(type(base), method) is not getattr(Distribution, method)
    # torch has no derivative of the incomplete gamma function by its first argument.
    if own and not isinstance(base, Gamma):
        return p
    breaks = kinks_of(p)
    # Errors of a cdf add up along a heavy tail, so they have to be far below those
    # that are allowed in the end.
    precise = torch.finfo(like.dtype).eps ** 0.75
    return NormalizedDensity(
        lambda x, _: log_density(p, x),
        place_of(p),
        # The place may be given by numbers, which say nothing of the dtype.
        args=(like.new_zeros(()),),
        batch_shape=p.batch_shape,
        breakpoints=torch.cat(breaks) if breaks else None,
        rtol=precise,
        validate_args=False,
    )
