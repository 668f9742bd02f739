"""Samples of densities in several dimensions, by a map from the unit cube."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torch_mlcalc.density.known import integrand_of
from torch_mlcalc.precision import full_precision
from torch_mlcalc.quadrature.cubature.box import Solid
from torch_mlcalc.quadrature.cubature.chart import BoxChart, Chart
from torch_mlcalc.quadrature.cubature.tails import (
    ALGEBRAIC,
    GAUSSIAN,
    LOGISTIC,
    Tails,
    unfold,
)
from torch_mlcalc.quadrature.cubature.whitened import WhitenedChart
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.estimate import report
from torch_mlcalc.quadrature.gauss import GaussLegendre
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.integrate import integrate
from torch_mlcalc.quadrature.placement import FINITE, WHOLE
from torch_mlcalc.quadrature.rules import table

if TYPE_CHECKING:
    from torch_mlcalc.density.normalized import NormalizedDensity

#: Nodes on each axis, by dimension: of the last, 65,000 to 250,000 in all.
LADDERS = {
    1: (16, 32, 64, 128),
    2: (16, 32, 64, 128, 256),
    3: (8, 16, 32, 48),
    4: (6, 10, 16, 22),
    5: (5, 7, 9, 11),
    6: (4, 5, 6, 7),
}

#: Error of a density times squares that is small enough for the gradients of samples,
#: which those of location and scale do not need: they are exact.
SCORES = 5e-3

#: A kind of tails that is so much worse than another on one grid is given up.
WORSE = 10.0

#: Error of a density, root mean square over the cube where its mean is 1, from which on
#: samples are reported: 1e5 of them do not show a tenth of it.
ROUGH = 1e-2

#: Newton steps, or halvings where they leave the bracket, from a grid of four points
#: for each node. Where a density is not 0 three are enough.
STEPS = 8

#: Nearest to the ends of the cube that a sample may be: an end can be at infinity.
NEAR = 2.0**-53

#: Bytes of the densities of some samples given their first coordinates.
BYTES = 2**26

_ROUGH = (
    " The density is not resolved by the largest grid, to which samples belong; pass "
    "a smaller domain, or loc= and scale= of the Box."
)


@dataclass(frozen=True)
class Transport:
    r"""The Rosenblatt map from uniform numbers to samples, on a grid of each density.

    On the cube of the domain a density is a Legendre series in every coordinate, made
    from its values at a grid of Gauss nodes. Its marginal densities are some of the
    coefficients, and so one coordinate after another is drawn from its distribution
    given those before, by inversion:

    .. math:: F_j(u_j \mid u_1, \dots, u_{j-1}) = q_j, \qquad x = x(u)

    Over all of space the cube is stretched around the mean of each density, by the
    factor of its covariance. Both carry gradients, so that for a normal density nothing
    is left to the series.

    Attributes:
        n: Nodes on each axis.
        tails: How the cube is stretched over infinite axes.

    References:
        M. Rosenblatt, "Remarks on a multivariate transformation", Ann. Math. Statist.
        23 (1952), https://doi.org/10.1214/aoms/1177729394
    """

    n: int
    tails: Tails

    @staticmethod
    def of(density: NormalizedDensity) -> Transport:
        """Find the grid and the tails that resolve a density."""
        domain = density.domain
        assert isinstance(domain, Solid)  # noqa: S101
        with torch.no_grad():
            unbounded = domain.chart(integrand_of(density)).unbounded
            kinds = [GAUSSIAN, LOGISTIC, ALGEBRAIC] if unbounded else [ALGEBRAIC]
            enough = torch.finfo(density.dtype).eps ** 0.4
            for n in LADDERS[domain.dimension]:
                tried = [Transport(n, tails) for tails in kinds]
                errors = [read(each._errors(density)) for each in tried]
                worst = [error.max(1, initial=0.0) for error in errors]
                best = min(range(len(tried)), key=lambda i: worst[i][0])
                if worst[best][0] <= enough and worst[best][1] <= SCORES:
                    break
                near = [w[0] <= WORSE * worst[best][0] for w in worst]
                kinds = [k for k, keep in zip(kinds, near, strict=True) if keep]
        rough = errors[best][0] > ROUGH
        report(rough * 1, _ROUGH, density._search["on_failure"], 5)
        return tried[best]

    def draw(self, density: NormalizedDensity, uniform: Tensor) -> Tensor:
        """Samples ``(m, *batch, coordinates)`` of uniform numbers ``(m, *batch, d)``.

        Args:
            density: The densities.
            uniform: Numbers between 0 and 1.

        Returns:
            The samples, with the gradients of the map.
        """
        batch, d = density.batch_shape, uniform.shape[-1]
        series = density._memory.recall(
            f"series {self.n} {self.tails}", partial(self.series, density)
        )
        q = uniform.reshape(len(uniform), math.prod(batch), d)
        each = series.numel() // series.shape[1] * series.itemsize
        size = max(1, BYTES // max(each, 1))
        parts = [_rosenblatt(series, some) for some in q.split(size)]
        u = torch.cat(parts) if parts else q
        chart = self._chart(density)
        points, _ = chart(u.reshape(uniform.shape).to(chart.dtype), log=True)
        shape = (len(uniform), *batch, points.shape[-1])
        return points.to(density.dtype).expand(shape)

    def series(self, density: NormalizedDensity) -> Tensor:
        """Coefficients of each density on the cube, ``(elements, n, ..., n)``."""
        return self._transformed(self._values(density)[0])

    def _transformed(self, values: Tensor) -> Tensor:
        n, device = self.n, values.device
        t, w = (torch.tensor(a, device=device) for a in table(GaussLegendre(n)))
        rows = [(2 * k + 1) / 2 * w * p for k, p in enumerate(_legendre(t, n))]
        transform = torch.stack(rows).to(values.dtype)
        # Each axis in turn comes to the end: after all they are in order again.
        with full_precision(device):
            for _ in range(values.ndim - 1):
                values = torch.tensordot(values, transform, ([1], [1]))
        return values

    def nodes(self, density: NormalizedDensity) -> tuple[Tensor, Tensor]:
        """All points of the grid ``(n, *batch, d)`` and the log density there."""
        chart = self._chart(density)
        points, _ = chart(self._grid(chart), log=True)
        points = points.to(density.dtype)
        return points, integrand_of(density)(points)

    def _grid(self, chart: Chart) -> Tensor:
        t, _ = table(GaussLegendre(self.n))
        row = (1 + torch.tensor(t, device=chart.device)) / 2
        axes = torch.meshgrid(*[row] * chart.dimension, indexing="ij")
        return torch.stack(axes, -1).reshape(-1, chart.dimension).to(chart.dtype)

    def _values(self, density: NormalizedDensity) -> tuple[Tensor, Tensor]:
        """Each density on the cube, ``(elements, n, ..., n)``, and nodes ``(n, d)``."""
        chart = self._chart(density)
        u = self._grid(chart)
        points, slope = chart(u, log=True)
        logs = integrand_of(density)(points.to(density.dtype))
        logs = logs if slope is None else logs + slope
        logs = chart.scale(logs.movedim(0, -1), log=True)
        values = torch.exp(logs - density.log_normalizer.detach()[..., None])
        return values.reshape(
            density.batch_shape.numel(), *(self.n,) * chart.dimension
        ), u

    def _errors(self, density: NormalizedDensity) -> Tensor:
        """Errors of each density, and of it times a square, ``(2, elements)``.

        The derivative of a density by its scale is like the second, which needs larger
        grids where tails are stretched much.

        Returns:
            Root mean squares of the last terms of each series, with the error of its
            mean.
        """
        values, u = self._values(density)
        kind = getattr(self._chart(density), "kind", None)
        heavier = values
        if kind is not None:
            kind = kind.reshape(-1, kind.shape[-1])[0]
            z, _ = unfold(u, kind, self.tails)
            square = torch.where(kind == FINITE, 0, z.square()).mean(-1)
            heavier = values * (1 + square.reshape(values.shape[1:]))
        both = torch.stack([values, heavier])
        series = self._transformed(both.flatten(0, 1)).unflatten(0, both.shape[:2])
        d, n = values.ndim - 1, self.n
        degree = torch.arange(n, device=series.device)
        power = series.square()
        for axis in range(d):
            shape = [1] * d
            shape[axis] = n
            power = power / (2 * degree + 1).reshape(shape)
        last = [power.narrow(axis + 2, n - 2, 2).flatten(2).sum(2) for axis in range(d)]
        error = torch.stack(last).sum(0).sqrt()
        error = error + (series[0].flatten(1)[:, 0] - 1).abs()
        return torch.where(error.isnan(), math.inf, error)

    def _chart(self, density: NormalizedDensity) -> Chart:
        assert isinstance(density.domain, Solid)  # noqa: S101
        chart = density.domain.chart(integrand_of(density), self.tails)
        if not isinstance(chart, BoxChart) or chart.bounds or chart.kind is None:
            return chart
        if not (read(chart.kind) == WHOLE).all():
            return chart
        white = density._memory.recall("white", partial(_spread, density, chart))
        centre, factor = white[..., 0], white[..., 1:]
        return WhitenedChart.of(chart, centre, factor, self.tails)


def moments(density: NormalizedDensity) -> tuple[Tensor, Tensor]:
    """Mean ``(*batch, d)`` and covariance by the nodes of the normaliser.

    Returns:
        The two, as these nodes see them: finite also where they do not exist.
    """

    def weighted(x: Tensor, log_z: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        logs = density.log_unnormalized(x, *args) - log_z
        p = torch.exp(logs)[..., None]
        products = (x[..., :, None] * x[..., None, :]).flatten(-2)
        every = torch.cat([torch.ones_like(p), x, products], -1)
        return torch.where(p > 0, p * every, 0)

    sums = integrate(
        weighted,
        density.domain,
        density._plan,
        args=(density.log_normalizer, *density.args),
        batch_shape=density.batch_shape,
        breakpoints=density.breakpoints,
        max_evals=density._search["max_evals"] if density._fixed else None,
    )
    d = density.event_shape[0]
    mean = sums[..., 1 : 1 + d] / sums[..., :1]
    second = (sums[..., 1 + d :] / sums[..., :1]).unflatten(-1, (d, d))
    return mean, second - mean[..., :, None] * mean[..., None, :]


def _spread(density: NormalizedDensity, chart: BoxChart) -> Tensor:
    """Centre and factor of each density, in units of the chart, ``(*batch, d, 1 + d)``.

    Returns:
        Both; where there are none, 0 and 1.
    """
    mean, covariance = moments(density)
    centre = ((mean - chart.anchor) / chart.span).to(chart.dtype)
    scaled = covariance / (chart.span[..., :, None] * chart.span[..., None, :])
    scaled, unit = (
        scaled.to(chart.dtype),
        torch.eye(chart.dimension, device="cpu").to(centre),
    )
    finite = scaled.isfinite().flatten(-2).all(-1) & centre.isfinite().all(-1)
    safe = torch.where(finite[..., None, None], scaled, unit)
    fine = finite & (torch.linalg.cholesky_ex(safe.detach())[1] == 0)
    lower = torch.linalg.cholesky(torch.where(fine[..., None, None], safe, unit))
    centre = torch.where(fine[..., None], centre, 0)
    return torch.cat([centre[..., None], lower], -1)


def _rosenblatt(series: Tensor, q: Tensor) -> Tensor:
    """Places in the cube ``(m, elements, d)`` of uniform numbers ``q``."""
    rest, found = series[None], []
    for axis in range(q.shape[-1]):
        marginal = rest.flatten(3)[..., 0] if rest.ndim > 3 else rest
        t = _inverted(marginal, q[..., axis])
        found.append(((1 + t) / 2).clamp(NEAR, 1 - NEAR))
        if rest.ndim > 3:
            basis = torch.stack(list(_legendre(t, rest.shape[2])), -1)
            shape, terms = rest.shape[3:], rest.flatten(3)
            with full_precision(q.device):
                if len(rest) == 1:  # the same for all samples
                    rest = torch.einsum("mek,ekr->mer", basis, terms[0])
                else:
                    rest = torch.einsum("mek,mekr->mer", basis, terms)
            rest = rest.unflatten(-1, shape)
    return torch.stack(found, -1)


def _inverted(series: Tensor, q: Tensor) -> Tensor:
    """Where in [-1, 1] a part ``q`` of the integral of each series is reached."""
    goal = q * series[..., 0]
    with torch.no_grad():
        low, high = _bracket(series, goal)
        t = (low + high) / 2
        for _ in range(STEPS):
            value, slope = _integral(series, t)
            below = value < goal
            low, high = torch.where(below, t, low), torch.where(below, high, t)
            step = t - (value - goal) / slope
            t = torch.where((low < step) & (step < high), step, (low + high) / 2)
    # Taken with gradients, they give those of the implicit function.
    for _ in range(2):
        value, slope = _integral(series, t)
        rising = slope > 0
        step = (value - goal) / torch.where(rising, slope, 1)
        t = t - torch.where(rising, step, 0)
    return t


def _bracket(series: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours on a grid between which a part of the integral is reached."""
    n = series.shape[-1]
    # Dense at the ends, as the zeros of polynomials are.
    angle = torch.linspace(math.pi, 0, 4 * n + 1, dtype=torch.float64, device="cpu")
    edges = torch.cos(angle).to(goal)
    basis = _integrals(edges, n)
    with full_precision(series.device):
        known = (series @ basis.mT).cummax(-1).values
    known = known.expand(*goal.shape, -1).contiguous()
    above = torch.searchsorted(known, goal[..., None])[..., 0].clamp(1, 4 * n)
    return edges[above - 1], edges[above]


def _integral(series: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The integral of each series from -1, in units of the cube, and its slope."""
    n = series.shape[-1]
    slope = (series * torch.stack(list(_legendre(t, n)), -1)).sum(-1) / 2
    return (series * _integrals(t, n)).sum(-1), slope


def _integrals(t: Tensor, n: int) -> Tensor:
    """Integrals of ``n`` Legendre polynomials from -1, halved, ``(*, n)``."""
    p = torch.stack(list(_legendre(t, n + 1)), -1)
    k = torch.arange(1, n, dtype=t.dtype, device=t.device)
    rest = (p[..., 2:] - p[..., :-2]) / (4 * k + 2)
    return torch.cat([((1 + t) / 2)[..., None], rest], -1)


def _legendre(t: Tensor, n: int) -> Iterator[Tensor]:
    """Legendre polynomials of degree 0 to ``n - 1``."""
    before, here = torch.ones_like(t), t
    yield before
    for k in range(1, n):
        yield here
        before, here = here, ((2 * k + 1) * t * here - k * before) / (k + 1)


def can_transport(domain: Domain) -> bool:
    """Whether there are grids in so many dimensions."""
    return isinstance(domain, Solid) and domain.dimension in LADDERS
