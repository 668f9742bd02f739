"""Barron's family of robust losses at any shape, with exact derivatives in the shape.

The formula cancels, or divides by zero, in different ways near the shapes 0 and 2 and
for small residuals. Each of three forms of it is right where it is used; what is put
into the others is a number at which they are finite.
"""

import torch
from torch import Tensor

from torch_mlcalc.losses.robust.fixed import welsch

# Coefficients of (exp(z) - 1) / z, highest first. For |z| < 1/2 the rest is below 1e-19
# in the value and 1e-17 in the second derivative.
_SERIES = 17


def general(x: Tensor, alpha: Tensor) -> Tensor:
    r"""Return the loss of a scaled residual.

    Value, derivatives in both arguments and second derivatives are right to a few eps
    of the larger of the derivative and the loss (over ``|alpha - 2|`` for the second
    derivative in ``alpha``), as long as the loss does not grow beyond 1e10.

    Args:
        x: Scaled residual.
        alpha: Shape, of the dtype of ``x``, with which it broadcasts.

    Returns:
        The loss, in the common shape.
    """
    at_two, endless = alpha == 2, alpha.isinf()
    # Special shapes and residuals are put in at the end, in place of what comes of 1.
    a = torch.where(at_two | endless, 1, alpha)
    r = torch.where(x.isinf(), 1, x)
    delta = a - 2
    b = delta.abs()
    log = _log1p_square(r / b.sqrt())
    by_two = (b < 1) & (b * log < 1)
    by_zero = (b >= 1) & (a.abs() * log < 1)
    direct = ~(by_two | by_zero)

    loss = _near_two(_only(by_two, r, 0), _only(by_two, a, 1.5), _only(by_two, log, 0))
    loss = torch.where(
        by_zero, _near_zero(_only(by_zero, a, 1), _only(by_zero, log, 0)), loss
    )
    shape = _only(direct, a, 1)
    # Not expm1, from whose value near -1 autograd cannot tell the derivative. Here the
    # exponent is at least 1/2 in size.
    power = torch.exp(shape * _only(direct, log, 0) / 2) - 1
    loss = torch.where(direct, (shape - 2).abs() / shape * power, loss)

    loss = torch.where(at_two, _at_two(_only(at_two, r, 0), alpha), loss)
    loss = torch.where(endless, _endless(_only(endless, r, 0), alpha), loss)
    return torch.where(x.isinf(), _far(x, alpha), loss)


def _only(mask: Tensor, value: Tensor, other: float) -> Tensor:
    return torch.where(mask, value, other)


def _log1p_square(y: Tensor) -> Tensor:
    """Return log(1 + y^2), whose square does not overflow."""
    outside = y.abs() > 1
    near = _only(~outside, y, 0).square().log1p()
    size = _only(outside, y.abs(), 1)
    far = 2 * size.log() + size.reciprocal().square().log1p()
    return torch.where(outside, far, near)


def _near_two(x: Tensor, a: Tensor, log: Tensor) -> Tensor:
    r"""Return :math:`(x^2 + (b + x^2) (e^{(a - 2) L / 2} - 1)) / a`.

    In the textbook form the derivative in the shape is a difference of terms that are
    :math:`1 / b` times as large.
    """
    square, delta = x.square(), a - 2
    return (square + (delta.abs() + square) * torch.expm1(delta * log / 2)) / a


def _near_zero(a: Tensor, log: Tensor) -> Tensor:
    r"""Return :math:`b L / 2 \cdot (e^z - 1) / z` with :math:`z = a L / 2`."""
    z = a * log / 2
    series = torch.ones_like(z)
    for k in range(_SERIES, 1, -1):
        series = 1 + z / k * series
    return (a - 2).abs() * log / 2 * series


def _at_two(x: Tensor, alpha: Tensor) -> Tensor:
    r"""Return :math:`u = x^2 / 2`, with the derivative of the next number as shape.

    The derivative :math:`\frac{1}{2} u \log(1 + 2u / b) - u` at the distance ``b`` has
    no limit, but no shape that can be written down is closer than eps.
    """
    u, b = x.square() / 2, torch.finfo(x.dtype).eps
    slope = u / 2 * _log1p_square(x / b**0.5) - u
    at_two = torch.where(alpha == 2, alpha, 2)
    return u + (at_two - at_two.detach()) * slope


def _endless(x: Tensor, alpha: Tensor) -> Tensor:
    """Return the limits of infinite shapes; derivatives in the shape tend to 0."""
    return torch.where(
        alpha > 0, torch.expm1(_only(alpha > 0, x, 0).square() / 2), welsch(x)
    )


def _far(x: Tensor, alpha: Tensor) -> Tensor:
    """Return the limits for infinite residuals, of the value and of the slope."""
    rises = x.isinf() & (alpha >= 1)
    line = _only(rises, x.abs(), 0) * torch.where(alpha > 1, torch.inf, 1)
    a = torch.where((alpha < 0) & ~alpha.isinf(), alpha.detach(), -1)
    bounded = torch.where(alpha.isinf(), 1, (a - 2) / a)
    flat = torch.where(alpha < 0, bounded, torch.inf)
    return torch.where(rises, line, flat)
