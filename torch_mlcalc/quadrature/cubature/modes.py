"""Modes of log integrands in several dimensions, all of a batch at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.integrand import Callee
from torch_mlcalc.quadrature.mode import GROW, SHRINK, STEPS


class Taylor(NamedTuple):
    """A log integrand at one point of each element.

    Attributes:
        value: ``(1, *batch)``.
        slope: Gradient, ``(1, *batch, d)``.
        curvature: Matrix of second derivatives, ``(1, *batch, d, d)``.
    """

    value: Tensor
    slope: Tensor
    curvature: Tensor


class Modes(NamedTuple):
    """Where log integrands are largest.

    Attributes:
        at: The modes, or the best points known, ``(*batch, d)``.
        factor: Upper triangular ``F`` of which ``F F^T`` is the inverse of the negative
            curvature; the scale where there is no mode. ``(*batch, d, d)``.
        found: Whether it is a mode: flat, and curved downwards. ``(*batch)``.
        steps: Number of points evaluated for each element.
    """

    at: Tensor
    factor: Tensor
    found: Tensor
    steps: int


def expand(integrand: Callee, x: Tensor) -> Taylor:
    """Value and two derivatives by ``x`` ``(1, *batch, d)``, themselves differentiable.

    Args:
        integrand: Log integrand.
        x: Where.

    Returns:
        The three.

    Raises:
        ValueError: If the integrand has event dimensions.
    """

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        value = integrand(x)
        if value.shape != x.shape[:-1]:
            raise ValueError(
                f"the log integrand returned shape {tuple(value.shape)} for points of "
                f"shape {tuple(x.shape)}; one value for each is wanted, without event "
                "dimensions."
            )
        return value.sum(), value

    def slopes(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.grad(total, has_aux=True)(x)

    # Reverse over reverse: it needs nothing of the integrand but what training needs.
    slope, pull, value = torch.func.vjp(slopes, x, has_aux=True)  # type: ignore[misc]
    axes = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    rows = [pull(axis.expand_as(slope))[0] for axis in axes]
    return Taylor(value, slope, torch.stack(rows, -2))


def find_modes(
    integrand: Callee,
    start: Tensor,
    scale: Tensor,
    mark: Tensor | None,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> Modes:
    r"""Maximise by Newton steps in a trust ball, every element on its own.

    .. math:: x \leftarrow x + |{-\nabla^2 \ell}|^{-1} \nabla \ell

    The absolute value of the matrix, that of its eigenvalues, makes every step go up.
    Steps that end lower are cut back. An element is done when its Newton step is short
    against its width; two more steps then make it exact.

    Args:
        integrand: Log integrand.
        start: Where to start, ``(*batch, d)``.
        scale: Length of the first step on each axis, likewise.
        mark: What carries the dimensions that vmap maps over, or None.
        bounds: Lowest and highest coordinates, likewise. A coordinate that the slope
            pushes against its bound stands still.

    Returns:
        The modes.

    References:
        J. Nocedal, S. J. Wright, "Numerical Optimization", 2nd ed., Springer 2006,
        chapters 3.4, 4 and 16.7.
    """
    at, here, steps = rise(integrand, start[None], scale, mark, bounds)
    found = _newton(here)[1]
    for _ in range(2):
        step = _newton(here)[0]
        at = _clamped(at + torch.where(found[..., None], step, 0), bounds)
        here = _held(expand(integrand, at), at, bounds)
    found = (found & _newton(here)[1] & here.value.isfinite())[0]
    factor, definite = root(here.curvature[0])
    found = found & definite
    plain = torch.diag_embed(scale)
    factor = torch.where(found[..., None, None], factor, plain)
    return Modes(at[0], factor, found, steps + 2)


def rise(
    integrand: Callee,
    at: Tensor,
    scale: Tensor,
    mark: Tensor | None,
    bounds: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Taylor, int]:
    """Newton steps from some points of each element, ``(k, *batch, d)``.

    Args:
        integrand: Log integrand.
        at: Where to start.
        scale: Length of the first step on each axis.
        mark: What carries the dimensions that vmap maps over, or None.
        bounds: Lowest and highest coordinates.

    Returns:
        Where they end, the integrand there, and how many points each took.
    """
    epsilon = torch.finfo(at.dtype).eps
    radius = torch.ones_like(at[..., 0])
    here = _held(expand(integrand, at), at, bounds)
    steps = 1
    for _ in range(STEPS):
        step, done = _newton(here)
        # From where there is no number no step leads away.
        done = done | ~here.value.isfinite() | ~here.slope.isfinite().all(-1)
        if not (read(~done, mark) > 0).any():
            break
        length = (step / scale).square().sum(-1).sqrt()
        cut = torch.where(length > radius, radius / length, 1)
        there_at = _clamped(at + torch.where(done, 0, cut)[..., None] * step, bounds)
        there = _held(expand(integrand, there_at), there_at, bounds)
        steps += 1
        up = there.value >= here.value - 4 * epsilon * here.value.abs()
        up = up & there.slope.isfinite().all(-1)
        up = up & there.curvature.isfinite().flatten(-2).all(-1)
        radius = torch.where(up & (length >= radius), GROW * radius, radius)
        shorter = SHRINK * torch.minimum(length, radius)
        radius = torch.where(up | done, radius, shorter)
        at = torch.where(up[..., None], there_at, at)
        here = Taylor(
            torch.where(up, there.value, here.value),
            torch.where(up[..., None], there.slope, here.slope),
            torch.where(up[..., None, None], there.curvature, here.curvature),
        )
    return at, here, steps


def flat(here: Taylor) -> Tensor:
    """Whether points ``(k, *batch)`` are modes but for one short Newton step."""
    return _newton(here)[1] & here.value.isfinite()


def root(curvature: Tensor) -> tuple[Tensor, Tensor]:
    r"""Upper triangular ``F`` with :math:`F F^T = (-\nabla^2 \ell)^{-1}`.

    Args:
        curvature: Matrices of second derivatives, ``(*batch, d, d)``.

    Returns:
        ``F``, and whether the matrix is negative definite: where not, it is nothing.
    """
    unit = torch.eye(curvature.shape[-1], dtype=curvature.dtype, device="cpu").to(
        curvature
    )
    finite = curvature.isfinite().flatten(-2).all(-1)
    matrix = torch.where(finite[..., None, None], -curvature, unit)
    # Nothing of this is there in half precision.
    wide, unit = (t.to(accumulator(t.dtype)) for t in (matrix, unit))
    lower, fault = torch.linalg.cholesky_ex(wide)
    definite = finite & (fault == 0)
    lower = torch.where(definite[..., None, None], lower, unit)
    upper = lower.transpose(-1, -2)
    factor = torch.linalg.solve_triangular(upper, unit, upper=True)
    return factor.to(curvature), definite


def _newton(here: Taylor) -> tuple[Tensor, Tensor]:
    """The step, and whether it is short against the width of a mode."""
    epsilon = torch.finfo(here.value.dtype).eps
    curvature = here.curvature
    unit = torch.eye(curvature.shape[-1], dtype=curvature.dtype, device="cpu").to(
        curvature
    )
    finite = curvature.isfinite().flatten(-2).all(-1) & here.slope.isfinite().all(-1)
    matrix = torch.where(finite[..., None, None], -curvature, unit)
    slope = torch.where(finite[..., None], here.slope, 0)
    # With 1 or -1 on the diagonal, axes may be of any scale.
    size = matrix.diagonal(dim1=-2, dim2=-1).abs()
    width = torch.where(size > 0, size, 1).rsqrt()
    matrix = width[..., :, None] * matrix * width[..., None, :]
    # There is none in half precision.
    wide = matrix.to(accumulator(matrix.dtype))
    bend, axes = (t.to(matrix) for t in torch.linalg.eigh(wide))
    along = (axes * (width * slope)[..., :, None]).sum(-2)
    least = epsilon * bend.abs().amax(-1, keepdim=True).clamp(min=epsilon)
    short = along / torch.maximum(bend.abs(), least)
    step = width * (axes * short[..., None, :]).sum(-1)
    # Each step squares the distance: two more end at epsilon.
    near = (along * short).sum(-1) <= epsilon**0.5
    return step, near & (bend > 0).all(-1) & finite


def _clamped(x: Tensor, bounds: tuple[Tensor, Tensor] | None) -> Tensor:
    if bounds is None:
        return x
    return torch.minimum(torch.maximum(x, bounds[0]), bounds[1])


def _held(here: Taylor, x: Tensor, bounds: tuple[Tensor, Tensor] | None) -> Taylor:
    """Without the coordinates that the slope pushes against their bounds."""
    if bounds is None:
        return here
    low = (x <= bounds[0]) & (here.slope < 0)
    free = ~(low | (x >= bounds[1]) & (here.slope > 0))
    both = free[..., :, None] & free[..., None, :]
    unit = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return Taylor(
        here.value,
        torch.where(free, here.slope, 0),
        torch.where(both, here.curvature, -unit),
    )
