"""Distribution function and mode of a density in several dimensions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_mlcalc.density.known import integrand_of
from torch_mlcalc.density.support import corners_of
from torch_mlcalc.density.transport import Transport, moments
from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.cubature.chart import BoxChart
from torch_mlcalc.quadrature.cubature.modes import expand, find_modes
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, fold, unfold
from torch_mlcalc.quadrature.integrate import integrate
from torch_mlcalc.quadrature.placement import BELOW, FINITE

if TYPE_CHECKING:
    from torch_mlcalc.density.normalized import NormalizedDensity

#: Where the map to the cube takes coordinates for infinite ones: their squares are not.
FAR = 1e150


def cdf(density: NormalizedDensity, points: Tensor) -> Tensor:
    """Probabilities of the boxes below points ``(m, *batch, d)``.

    They are integrals over parts of the cube on which the axes are stretched around the
    mean of the density, so that its mass is seen however far away a point is.

    Returns:
        Probabilities ``(m, *batch)``.
    """
    lower, upper = (c.expand_as(points) for c in _corners(density, "cdf"))
    top = torch.where(points < upper, points, upper)
    top = torch.where(top > lower, top, lower)
    mean, width = (t.expand_as(points) for t in _extent(density))
    every = integrand_of(density)._replace(batch_shape=tuple(points.shape[:-1]))
    chart = Box(lower, upper, loc=mean, scale=width).chart(every)
    assert isinstance(chart, BoxChart)  # noqa: S101
    kind = torch.zeros_like(points, dtype=torch.int64) + FINITE
    kind = kind if chart.kind is None else chart.kind.expand_as(points)
    # In double precision, as near 1 the cube has no room else.
    anchor, span = (t.expand_as(points).double() for t in (chart.anchor, chart.span))
    some = span != 0
    z = (top.double() - anchor).clamp(-FAR, FAR) / torch.where(some, span, 1)
    u = fold(z, kind, ALGEBRAIC).clamp(0, 1)
    below = kind == BELOW
    low, high = torch.where(below, u, 0), torch.where(below, 1, u)

    def probability(u: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        kind, anchor, span, log_z, *own = args
        z, log_slope = unfold(u, kind, ALGEBRAIC)
        x = (anchor + span * z).to(density.dtype)
        log_volume = (log_slope + span.abs().log()).sum(-1)
        return torch.exp(density.log_unnormalized(x, *own) - log_z + log_volume)

    def repeated(arg: object) -> object:
        if not isinstance(arg, Tensor) or arg.ndim == 0:
            return arg
        return arg.expand(len(points), *arg.shape)

    value = integrate(
        probability,
        Box(low, high),
        args=(
            kind,
            anchor,
            torch.where(some, span, 1),
            *map(
                repeated,
                (density.log_normalizer.expand(density.batch_shape), *density.args),
            ),
        ),
        batch_shape=every.batch_shape,
        atol=torch.finfo(density.dtype).eps ** 0.5,
        max_evals=density._search["max_evals"],
        memory=density._block,
        on_failure=density._search["on_failure"],
    )
    return value.to(density.dtype).clamp(0, 1)


def mode(density: NormalizedDensity, transport: Transport) -> Tensor:
    """The highest point: from the highest node of the grid, by Newton steps."""
    lower, upper = _corners(density, "mode")
    integrand = integrand_of(density)
    with torch.no_grad():
        points, values = transport.nodes(density)
        best = values.argmax(0, keepdim=True)[..., None]
        start = points.gather(0, best.expand(1, *points.shape[1:]))[0]
        width = _extent(density)[1].expand_as(start)
        bounds = lower.expand_as(start), upper.expand_as(start)
        found = find_modes(integrand, start, width, None, bounds)
        at = found.at
        slope = expand(integrand, at[None]).slope[0]
        low, high = (at <= lower) & (slope < 0), (at >= upper) & (slope > 0)
        free = ~(low | high)
        both = free[..., :, None] & free[..., None, :] & found.found[..., None, None]
    # What is held moves with its limit, the rest by the implicit function.
    at = torch.where(low, lower, torch.where(high, upper, at))
    unit = torch.eye(at.shape[-1], dtype=at.dtype, device=at.device)
    wide = accumulator(at.dtype)
    for _ in range(2):
        here = expand(integrand, at[None])
        matrix = torch.where(both, -here.curvature[0], unit)
        slope = torch.where(free & found.found[..., None], here.slope[0], 0)
        step = torch.linalg.solve(matrix.to(wide), slope[..., None].to(wide))[..., 0]
        at = at + step.to(at.dtype)
    return at


def _corners(density: NormalizedDensity, name: str) -> tuple[Tensor, Tensor]:
    """Limits of the support, ``(*batch, d)`` or ``(d)``."""
    corners = corners_of(density.domain, density.dtype, density.device)
    if corners is None:
        raise NotImplementedError(
            f"a density on {density.domain} has no {name}: that needs a Box whose "
            "limits are numbers or tensors."
        )
    return corners


def _extent(density: NormalizedDensity) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation on each axis, as far as the nodes see them."""
    with torch.no_grad():
        mean, covariance = density._memory.recall("moments", partial(moments, density))
    width = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    fine = mean.isfinite() & width.isfinite() & (width > 0)
    return torch.where(fine, mean, 0), torch.where(fine, width, 1)
