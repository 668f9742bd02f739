r"""Integrals of tails that fall from their first point on: what both families share.

A tail of a gamma or beta density, written in :math:`s = \log(t / x)` or in the logit of
t, is the density at x times :math:`\int_0^\infty e^{-h(w)}\,dw` with a convex
:math:`h`, :math:`h(0) = 0`. Where :math:`e^{-h}` is below the rounding error it is cut
off, and Gauss-Legendre nodes do the rest; they are put there without a gradient, since
the integral does not depend on where, so that plain autograd gives every derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torch_mlcalc.quadrature.gauss import GaussLegendre
from torch_mlcalc.quadrature.host import frozen, is_plain, kept
from torch_mlcalc.quadrature.rules import table

#: Nodes for float64 and for narrower dtypes. With 24 values and slopes of 60 000 random
#: arguments, shapes up to 1e8, are those with 120 but for rounding; 20 leave 4e-12.
#: Against mpmath: ``tests/special/test_incomplete.py``.
NODES = {torch.float64: 24}
FEWER = 16

#: How often the recurrence raises a parameter before the integral. With less the cut is
#: further out than the nodes can follow.
SHIFT = 16

#: Newton steps for the cut. It starts less than a factor 2 too far out where the tail
#: is normal, further where it is not; each step from above stays above.
_STEPS = 4


@kept()
def unit_nodes(
    n: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1], made once."""
    nodes, weights = table(GaussLegendre(n))
    return (
        torch.tensor((1 + nodes) / 2, dtype=dtype, device=device),
        torch.tensor(weights / 2, dtype=dtype, device=device),
    )


def tail_nodes(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """As many as a tail needs."""
    return unit_nodes(NODES.get(dtype, FEWER), dtype, device)


def tail_integral(
    log_integrand: Callable[[Tensor], Tensor], width: Tensor, sign: Tensor
) -> Tensor:
    r"""Integral of :math:`e^{E(\pm w)}` over w from 0 to the width.

    Args:
        log_integrand: The function E of nodes ``(n, *batch)``.
        width: Where to cut, without a gradient.
        sign: The sign, 1 or -1.

    Returns:
        The integral, ``(*batch)``.
    """
    nodes, weights = tail_nodes(width.dtype, width.device)
    shape = (-1, *(1,) * width.ndim)
    s = nodes.reshape(shape) * (sign * width)
    values = torch.exp(log_integrand(s))
    return width * (weights.reshape(shape) * values).sum(0)


def cut(
    h: Callable[[Tensor], tuple[Tensor, Tensor]],
    slope: Tensor,
    curvature: Tensor,
    bound: Tensor,
) -> Tensor:
    r"""Where :math:`h(w)` has grown to the digits of the dtype: the width of a tail.

    Args:
        h: The convex function and its derivative.
        slope: Its derivative at 0.
        curvature: A lower bound of its second derivative for w up to 1.
        bound: A width that is surely enough.

    Returns:
        The width or somewhat more.
    """
    digits = depth(slope.dtype)
    normal = 2 * digits / (slope + torch.hypot(slope, (2 * digits * curvature).sqrt()))
    w = torch.where(normal <= 1, torch.minimum(normal, bound), bound)
    for _ in range(_STEPS):
        value, derivative = h(w)
        w = w - (value - digits) / derivative
    return w


def depth(dtype: torch.dtype) -> float:
    """By how many factors of e a tail falls before it is cut."""
    # e^-3 of a rounding error: the cut is not seen.
    return 3 - math.log(torch.finfo(dtype).eps)


def without_gradient(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """Call a function whose result no derivative shall follow."""
    with frozen():
        return function(*(argument.detach() for argument in arguments)).detach()


def where_wanted(
    mask: Tensor, function: Callable[..., Tensor], *arguments: Tensor
) -> Tensor:
    """Call a function of elements, only for those that are wanted where that is known.

    Student's distribution has two functions: value and slopes of 1e5 then take 0.3 to
    0.45 of the time.

    Args:
        mask: Which are.
        function: Of tensors of one shape.
        arguments: Its arguments, of the shape of the mask.

    Returns:
        Its values; elsewhere anything finite.
    """
    if not is_plain(mask):
        return function(*arguments)
    places = mask.reshape(-1).nonzero().squeeze(1)
    if len(places) == mask.numel():
        return function(*arguments)
    whole = arguments[0].new_zeros(mask.numel())
    if len(places):
        found = function(*(argument.reshape(-1)[places] for argument in arguments))
        whole = whole.scatter(0, places, found)
    return whole.reshape(mask.shape)


def log_ratio(x: Tensor, c: Tensor, difference: Tensor, far: Tensor) -> Tensor:
    """Log of x / c from a difference (x - c) / c known well, or ``far`` if large."""
    near = difference.abs() < 0.5
    return torch.where(near, torch.log1p(torch.where(near, difference, 0.0)), far)
