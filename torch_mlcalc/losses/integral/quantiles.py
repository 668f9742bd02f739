"""Integrals of the difference of two cdfs, or of two quantile functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Gamma, TransformedDistribution

from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.support import extent_of
from torch_mlcalc.losses.crps.cdf import cdf_of, is_integrated
from torch_mlcalc.losses.crps.crossings import crossings
from torch_mlcalc.losses.integral.compare import Search
from torch_mlcalc.losses.integral.pairs import GRID, Pair
from torch_mlcalc.losses.integral.places import (
    kinks_of,
    log_density,
    place_of,
    within,
)
from torch_mlcalc.quadrature.contract import accumulator
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
    one, other = (_cdf(p, pair) for p in (pair.input, pair.target))

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
        zeros = pair.useful(crossings(difference, pair.grid()))
        breaks = torch.cat([breaks, zeros])
    return integrate(
        integrand,
        pair.domain,
        batch_shape=pair.batch,
        breakpoints=breaks,
        **search.options(pair.dtype),
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
    one, other = (_with("icdf", p, pair) for p in (pair.input, pair.target))

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
    return integrate(
        lambda u: function(difference(u)),
        Interval(zero, 1.0),
        batch_shape=pair.batch,
        breakpoints=breaks,
        **search.options(pair.dtype),
    )


def _cdf(p: Distribution, pair: Pair) -> Function:
    """The cdf at any number."""
    known = _with("cdf", p, pair).cdf if is_integrated(p) else cdf_of(p)
    place = place_of(p)
    upper = extent_of(place)[1]

    def cdf(x: Tensor) -> Tensor:
        at = within(place, x)
        return torch.where(at == x, known(at), (x >= upper).to(x.dtype))

    return cdf


def _with(method: str, p: Distribution, pair: Pair) -> Distribution:
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
    precise = torch.finfo(accumulator(pair.dtype)).eps ** 0.75
    return NormalizedDensity(
        lambda x, _: log_density(p, x),
        place_of(p),
        # The place may be given by numbers, which say nothing of the dtype.
        args=(pair.breaks.new_zeros(()),),
        batch_shape=p.batch_shape,
        breakpoints=torch.cat(breaks) if breaks else None,
        rtol=precise,
        validate_args=False,
    )
