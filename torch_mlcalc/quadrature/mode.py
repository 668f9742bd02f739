"""Modes of log integrands, all of a batch at once, and derivatives there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.integrand import Callee

#: Newton steps at most. Binomial and Poisson likelihoods with a normal prior take 8; a
#: logistic density that is 1e6 widths away takes 44.
STEPS = 60

#: Factors of the trust radius after a step that went up as far as it was let, and after
#: one that went down: Nocedal and Wright, algorithm 4.1, with a bolder growth, as the
#: radius starts at the scale that the caller gave and may be far from the right one.
GROW, SHRINK = 4.0, 0.25


class Taylor(NamedTuple):
    """A log integrand at one point of each element: value, slope, curvature."""

    value: Tensor
    slope: Tensor
    curvature: Tensor


class Modes(NamedTuple):
    """Where log integrands are largest, ``(1, *batch)``.

    Attributes:
        at: The modes, or the best points known.
        width: Standard deviation of the normal density with the curvature there.
        found: Whether it is a mode: flat, and curved downwards.
        steps: Number of points evaluated for each element.
    """

    at: Tensor
    width: Tensor
    found: Tensor
    steps: int


def expand(integrand: Callee, x: Tensor) -> Taylor:
    """Value and two derivatives by ``x`` ``(1, *batch)``, themselves differentiable."""

    def total(x: Tensor) -> tuple[Tensor, Tensor]:
        value = integrand(x)
        if value.shape != x.shape:
            raise ValueError(
                f"the log integrand returned shape {tuple(value.shape)} for points of "
                f"shape {tuple(x.shape)}; AdaptiveGaussHermite wants one value for "
                "each, without event dimensions."
            )
        return value.sum(), value

    def slopes(x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        slope, (_, value) = torch.func.grad_and_value(total, has_aux=True)(x)
        return slope.sum(), (value, slope)

    # Reverse over reverse: it needs nothing of the integrand but what training needs.
    curvature, (value, slope) = torch.func.grad(slopes, has_aux=True)(x)
    return Taylor(value, slope, curvature)


def find_modes(
    integrand: Callee, start: Tensor, scale: Tensor, mark: Tensor | None
) -> Modes:
    r"""Maximise by Newton steps in a trust interval, every element on its own.

    .. math:: x \leftarrow x - \ell'(x) / \ell''(x)

    Steps that would go down are cut back; where the log is not concave the step is as
    long as the interval. An element is done when its Newton step is short against its
    width; two more steps then make it exact.

    Args:
        integrand: Log integrand.
        start: Where to start, ``(1, *batch)``.
        scale: Length of the first step, likewise.
        mark: What carries the dimensions that vmap maps over, or None.

    Returns:
        The modes.

    References:
        J. Nocedal, S. J. Wright, "Numerical Optimization", 2nd ed., Springer 2006,
        chapter 4.
    """
    epsilon = torch.finfo(start.dtype).eps
    at, radius = start, scale.clone()
    here = expand(integrand, at)
    steps = 1
    for _ in range(STEPS):
        done = _flat(here, epsilon)
        if not (read(~done, mark) > 0).any():
            break
        step = _newton(here, radius)
        step = torch.where(done, 0, step.clamp(-radius, radius))
        there = expand(integrand, at + step)
        steps += 1
        up = there.value >= here.value - 4 * epsilon * here.value.abs()
        up = up & there.slope.isfinite() & there.curvature.isfinite()
        far = up & (step.abs() >= radius)
        radius = torch.where(far, GROW * radius, radius)
        radius = torch.where(up | done, radius, SHRINK * step.abs())
        at = torch.where(up, at + step, at)
        here = Taylor(
            *(torch.where(up, n, o) for n, o in zip(there, here, strict=True))
        )
    found = _flat(here, epsilon)
    for _ in range(2):
        at = at + torch.where(found, _newton(here, radius), 0)
        here = expand(integrand, at)
    found = found & here.value.isfinite() & (here.curvature < 0)
    curvature = torch.where(here.curvature < 0, -here.curvature, 1 / scale**2)
    return Modes(at, curvature.rsqrt(), found, steps + 2)


def _newton(here: Taylor, radius: Tensor) -> Tensor:
    concave = here.curvature < 0
    step = here.slope / torch.where(concave, -here.curvature, 1)
    return torch.where(concave, step, torch.sign(here.slope) * radius)


def _flat(here: Taylor, epsilon: float) -> Tensor:
    """Whether the Newton step is short against the width."""
    # Each step squares the distance: two more end at epsilon.
    bend = here.curvature.abs()
    near = here.slope.abs() <= epsilon**0.25 * bend.sqrt()
    return near & (here.curvature < 0) & here.value.isfinite()
