"""The regularised incomplete gamma functions, differentiable in both arguments."""

from __future__ import annotations

import numpy as np
import torch
from scipy import special
from torch import Tensor

from torch_mlcalc.special.arguments import promoted
from torch_mlcalc.special.factorial import scaled_log_factorial
from torch_mlcalc.special.tail import (
    SHIFT,
    cut,
    depth,
    log_ratio,
    tail_integral,
    where_wanted,
    without_gradient,
)

#: Shape below which Q, as small as that, is not the difference of P to 1.
_SLIGHT = 0.125

_ORDERS = np.arange(2, 20)
#: Taylor coefficients at 0 of log Gamma(1 + a) / a (DLMF 5.7.3); the next is 1e-18.
_LOG_FACTORIAL = [
    -np.euler_gamma,
    *((-1.0) ** _ORDERS * special.zeta(_ORDERS) / _ORDERS).tolist(),
]

#: Terms of the series of P at x = 1; the next is 1e-18.
_TERMS = 19


def gammainc(a: Tensor | float, x: Tensor | float) -> Tensor:
    r"""Regularised lower incomplete gamma function, differentiable in ``a`` too.

    .. math:: P(a, x) = \frac{1}{\Gamma(a)} \int_0^x t^{a - 1} e^{-t}\,dt,
        \qquad \frac{\partial P}{\partial x} = \frac{x^{a - 1} e^{-x}}{\Gamma(a)},
        \qquad \frac{\partial P}{\partial a} = \frac{1}{\Gamma(a)}
        \int_0^x t^{a - 1} e^{-t} (\log t - \psi(a))\,dt

    It is the distribution function of ``Gamma(a, 1)``. ``torch.special.gammainc`` has
    no derivative in ``a``.

    Args:
        a: Shape, not negative.
        x: Upper limit, not negative.

    Shape:
        The arguments broadcast.

    Returns:
        P, in the promoted dtype; NaN where an argument is negative, and at (0, 0) and
        at infinity in both. In float64 value, first and second derivatives were within
        1e-12 of mpmath, relatively, for shapes from 1e-3 to 1e6.

    Raises:
        TypeError: If an argument is complex, or neither a tensor nor a number.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> a = torch.tensor([0.5, 2.0, 9.0], requires_grad=True)
        >>> p = mlc.special.gammainc(a, 2.0)
        >>> p
        tensor([9.5450e-01, 5.9399e-01, 2.3745e-04], grad_fn=...)
        >>> torch.autograd.grad(p.sum(), a)
        (tensor([-0.1356, -0.2940, -0.0004]),)

    References:
        NIST Digital Library of Mathematical Functions, 8.2.4 and 8.8.5,
        https://dlmf.nist.gov/8
    """
    return both_gammas(a, x)[0]


def gammaincc(a: Tensor | float, x: Tensor | float) -> Tensor:
    r"""Regularised upper incomplete gamma function, differentiable in ``a`` too.

    .. math:: Q(a, x) = 1 - P(a, x)
        = \frac{1}{\Gamma(a)} \int_x^\infty t^{a - 1} e^{-t}\,dt

    computed as such where it is small. Its derivatives are those of :func:`gammainc`
    with the other sign; for their source see there.

    Args:
        a: Shape, not negative.
        x: Lower limit, not negative.

    Shape:
        The arguments broadcast.

    Returns:
        Q, in the promoted dtype.

    Raises:
        TypeError: If an argument is complex, or neither a tensor nor a number.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.special.gammaincc(torch.tensor([0.5, 2.0]), 50.0)
        tensor([1.5240e-23, 9.8366e-21])
    """
    return both_gammas(a, x)[1]


def log_poisson(a: Tensor, x: Tensor) -> Tensor:
    r"""Log of :math:`x^a e^{-x} / \Gamma(1 + a)` for positive, finite arguments."""
    far = torch.log(x) - torch.log(a)
    ratio = log_ratio(x, a, (x - a) / a, far)
    return a * ratio - (x - a) - scaled_log_factorial(a)


def both_gammas(a: Tensor | float, x: Tensor | float) -> tuple[Tensor, Tensor]:
    """P and Q at once, at the edges of their domain too."""
    a, x = promoted(a=a, x=x)
    valid = (a >= 0) & (x >= 0) & (a + x > 0) & (a.isfinite() | x.isfinite())
    inside = valid & (a > 0) & (x > 0)
    # So that 700 times it does not overflow; P or Q is 0 long before.
    most = torch.finfo(a.dtype).max / 1e4
    p, q = _inside(
        torch.where(inside, a, 1.0).clamp(max=most),
        torch.where(inside, x, 1.0).clamp(max=most),
    )
    # At x = 0 this has the value and the slopes of P.
    x_edge, a_edge = torch.where(inside, 1.0, x), torch.where(inside, 1.0, a)
    start = torch.where(a == 0, 1.0, x_edge.pow(a_edge) * torch.exp(-x_edge))
    start = torch.where(valid, start, torch.nan)
    return torch.where(inside, p, start), torch.where(inside, q, 1 - start)


def _inside(a: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    r"""P and Q for positive, finite arguments.

    With :math:`t = x e^{-w}` below and :math:`t = x e^w` above,

    .. math:: P = \frac{x^a e^{-x}}{\Gamma(a)} \int_0^\infty
        e^{-a w - x (e^{-w} - 1)}\,dw, \qquad Q = \frac{x^a e^{-x}}{\Gamma(a)}
        \int_0^\infty e^{a w - x (e^w - 1)}\,dw

    and :math:`P(a) = P(a + 1) + x^a e^{-x} / \Gamma(a + 1)`, all terms positive.

    Args:
        a: Shapes.
        x: Limits.

    Returns:
        P and Q.
    """
    lower = x < a.clamp(min=1)
    sign = torch.where(lower, -1.0, 1.0).to(a.dtype)
    shape = torch.where(lower, a + SHIFT, a)
    width = without_gradient(_width, shape, x, sign)
    integral = tail_integral(lambda s: shape * s - x * torch.expm1(s), width, sign)
    density = torch.exp(log_poisson(a, x))
    low = torch.where(lower, x, 1.0)  # powers of a large x would overflow
    series = (a + SHIFT) * integral
    for k in range(SHIFT, 0, -1):
        series = 1 + low / (a + k) * series
    p, q = density * series, density * a * integral
    p, q = torch.where(lower, p, 1 - q), torch.where(lower, 1 - p, q)
    slight = lower & (a < _SLIGHT) & (p > 0.5)
    pair = torch.where(slight, a, _SLIGHT), torch.where(slight, x, 1.0)
    rest = where_wanted(slight, _rest, *pair)
    return torch.where(slight, 1 - rest, p), torch.where(slight, rest, q)


def _rest(a: Tensor, x: Tensor) -> Tensor:
    r"""Q of a small shape and of x up to 1, by the series of P.

    .. math:: Q = 1 - \frac{x^a}{\Gamma(1 + a)} (1 - a S), \qquad
        S = \sum_{n=1}^\infty \frac{-(-x)^n}{n!\,(n + a)}

    where the difference is that of an exponential to 1; DLMF 8.7.1.

    Args:
        a: Shapes.
        x: Limits.

    Returns:
        Q.
    """
    log_factorial = torch.full_like(a, _LOG_FACTORIAL[-1])
    for coefficient in reversed(_LOG_FACTORIAL[:-1]):
        log_factorial = log_factorial * a + coefficient
    series = 1 / (a + _TERMS)
    for n in range(_TERMS - 1, 0, -1):
        series = 1 / (a + n) - x / (n + 1) * series
    power = a * (torch.log(x) - log_factorial)
    return torch.exp(power) * (a * x * series) - torch.expm1(power)


def _width(a: Tensor, x: Tensor, sign: Tensor) -> Tensor:
    digits = depth(a.dtype)
    below = sign < 0
    slope = sign * (x - a)
    # The second derivative is x e^(+-w).
    curvature = torch.where(below, x / torch.e, x)
    normal = 2 * digits / (slope + torch.hypot(slope, (2 * digits * x).sqrt()))
    bound = torch.where(below, (digits + x) / a, torch.log1p((digits + a * normal) / x))

    def h(w: Tensor) -> tuple[Tensor, Tensor]:
        growth = x * torch.expm1(sign * w)
        return growth - sign * a * w, sign * (growth + x - a)

    return cut(h, slope, curvature, bound)
