"""The regularised incomplete beta function, differentiable in all arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_mlcalc.special.arguments import promoted
from torch_mlcalc.special.factorial import scaled_log_factorial, steps
from torch_mlcalc.special.tail import (
    SHIFT,
    cut,
    depth,
    log_ratio,
    tail_integral,
    without_gradient,
)


def betainc(a: Tensor | float, b: Tensor | float, x: Tensor | float) -> Tensor:
    r"""Regularised incomplete beta function, which torch does not have.

    .. math:: I_x(a, b) = \frac{1}{B(a, b)} \int_0^x t^{a - 1} (1 - t)^{b - 1}\,dt,
        \qquad \frac{\partial I}{\partial x} = \frac{x^{a - 1} (1 - x)^{b - 1}}{B(a, b)}

    It is the distribution function of ``Beta(a, b)``. The derivatives in ``a`` and
    ``b`` are those of the integral, under the integral sign.

    Args:
        a: First shape, not negative.
        b: Second shape, not negative.
        x: Upper limit, between 0 and 1.

    Shape:
        The arguments broadcast.

    Returns:
        I, in the promoted dtype; NaN where an argument is out of range, or both shapes
        are 0 or infinite.

    Raises:
        TypeError: If an argument is complex, or neither a tensor nor a number.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> a = torch.tensor([0.5, 2.0, 9.0], requires_grad=True)
        >>> value = mlc.special.betainc(a, 3.0, 0.25)
        >>> value
        tensor([7.9297e-01, 2.6172e-01, 1.2612e-04], grad_fn=...)
        >>> torch.autograd.grad(value.sum(), a)
        (tensor([-4.4304e-01, -2.2805e-01, -1.5160e-04]),)

    References:
        NIST Digital Library of Mathematical Functions, 8.17.2 and 8.17.20,
        https://dlmf.nist.gov/8.17
    """
    return both_betas(a, b, x)[0]


def betaincc(a: Tensor | float, b: Tensor | float, x: Tensor | float) -> Tensor:
    r"""Complement of the regularised incomplete beta function.

    .. math:: 1 - I_x(a, b) = \frac{1}{B(a, b)} \int_x^1 t^{a - 1} (1 - t)^{b - 1}\,dt

    computed as such where it is small, unless that is so because ``a`` is: then, as
    :func:`betainc` where ``b`` is, it is the difference to 1, of which a shape of 1e-4
    leaves 11 digits, 2 in single precision. Its derivatives are those of
    :func:`betainc` with the other sign; for their source see there.

    Args:
        a: First shape, not negative.
        b: Second shape, not negative.
        x: Lower limit, between 0 and 1.

    Shape:
        The arguments broadcast.

    Returns:
        The complement, in the promoted dtype.

    Raises:
        TypeError: If an argument is complex, or neither a tensor nor a number.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.special.betaincc(torch.tensor([0.5, 2.0]), 100.0, 0.5)
        tensor([6.2556e-32, 4.0232e-29])
    """
    return both_betas(a, b, x)[1]


def log_negative_binomial(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""Log of :math:`\Gamma(a + b + 1) x^a y^b / (\Gamma(a + 1) \Gamma(b + 1))`.

    Args:
        a: Positive and finite, as ``b``.
        b: The other shape.
        x: Strictly between 0 and 1.
        y: 1 - x, of which the caller may know more digits.

    Returns:
        The log, without the cancellation of large logs near its peak.
    """
    total = a + b
    excess = x * b - y * a
    below = torch.log(x) + torch.log(total) - torch.log(a)
    above = torch.log(y) + torch.log(total) - torch.log(b)
    return (
        a * log_ratio(x, a, excess / a, below)
        + b * log_ratio(y, b, -excess / b, above)
        + log_choices(a, b)
    )


def log_choices(a: Tensor, b: Tensor) -> Tensor:
    """Scaled log factorial of a sum, less those of its terms."""
    both, one, other = scaled_log_factorial(torch.stack([a + b, a, b]))
    return both - one - other


def both_betas(
    a: Tensor | float, b: Tensor | float, x: Tensor | float
) -> tuple[Tensor, Tensor]:
    """The function and its complement at once, at the edges of their domain too."""
    a, b, x = promoted(a=a, b=b, x=x)
    valid = (a >= 0) & (b >= 0) & (x >= 0) & (x <= 1)
    valid = valid & (a + b > 0) & (a.isfinite() | b.isfinite())
    inside = valid & (a > 0) & (b > 0) & (x > 0) & (x < 1)
    most = torch.finfo(a.dtype).max / 1e4
    middle = torch.where(inside, x, 0.5)
    value, rest = both_tails(
        torch.where(inside, a, 1.0).clamp(max=most),
        torch.where(inside, b, 1.0).clamp(max=most),
        middle,
        1 - middle,
    )
    # At x = 0 and 1 these have the value and the slope of the function.
    low = b * torch.where(inside, 0.5, x).pow(torch.where(inside, 1.0, a))
    high = 1 - a * torch.where(inside, 0.5, 1 - x).pow(torch.where(inside, 1.0, b))
    edge = torch.where(x < 1, low, high)
    # Without a or b all mass is at 0 or at 1; that at infinity is so too.
    edge = torch.where((b == 0) | (a == torch.inf), (x == 1).to(x.dtype), edge)
    edge = torch.where((a == 0) | (b == torch.inf), 1.0, edge)
    edge = torch.where(valid, edge, torch.nan)
    return torch.where(inside, value, edge), torch.where(inside, rest, 1 - edge)


def both_tails(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The function and its complement away from the edges.

    Args:
        a: Positive and finite, as ``b``.
        b: The other shape.
        x: Strictly between 0 and 1.
        y: 1 - x, of which the caller may know more digits.

    Returns:
        The mass below and above x.
    """
    # The smaller of the two has all digits: 1 - x is exact above 1/2.
    mirrored = x > y
    a, b = torch.where(mirrored, b, a), torch.where(mirrored, a, b)
    x, y = torch.where(mirrored, y, x), torch.where(mirrored, x, y)
    lower = x * (a + b) < a.clamp(min=1)
    tail = _tail(a, b, x, y, lower)
    swapped = mirrored == lower
    return torch.where(swapped, 1 - tail, tail), torch.where(swapped, tail, 1 - tail)


def _tail(a: Tensor, b: Tensor, x: Tensor, y: Tensor, lower: Tensor) -> Tensor:
    r"""The lower or the upper tail, for x up to 1/2.

    With s the logit of t less that of x,

    .. math:: I_x(a, b) = \frac{x^a y^b}{B(a, b)} \int_{-\infty}^0
        e^{a s - (a + b) \log(1 + x (e^s - 1))}\,ds

    and the other tail is the integral over positive s. One of the parameters is raised
    before by :math:`I_x(a, b) = I_x(a + 1, b) + x^a y^b / (a B(a, b))`, of positive
    terms, or by the same for the other tail.

    Args:
        a: First shapes.
        b: Second shapes.
        x: Limits up to 1/2.
        y: 1 - x.
        lower: Which tail.

    Returns:
        The tail.
    """
    sign = torch.where(lower, -1.0, 1.0).to(a.dtype)
    tilt = torch.where(lower, a + SHIFT, a)
    total = a + b
    width = without_gradient(_width, tilt, total + SHIFT, x, sign)
    integral = tail_integral(
        lambda s: tilt * s - (total + SHIFT) * torch.log1p(x * torch.expm1(s)),
        width,
        sign,
    )
    near, share = torch.where(lower, a, b), torch.where(lower, b, a) / total
    factor = torch.where(lower, x, y)
    series = (near + SHIFT) * integral
    k = steps(near, 1, SHIFT + 1)
    for ratio in reversed((factor * ((total + (k - 1)) / (near + k))).unbind()):
        series = 1 + ratio * series
    return torch.exp(log_negative_binomial(a, b, x, y)) * share * series


def _width(tilt: Tensor, total: Tensor, x: Tensor, sign: Tensor) -> Tensor:
    below = sign < 0
    slope = sign * (total * x - tilt)
    # The second derivative is total p (1 - p), where the logit of p is w away from that
    # of x, so that it changes by e at most.
    curvature = total * x * (1 - x) / torch.e
    digits = depth(x.dtype)
    bound = torch.where(
        below,
        (digits - total * torch.log1p(-x)) / tilt,
        (digits - total * torch.log(x)) / (total - tilt),
    )
    # The upper tail of a small x ends as that of a gamma variable, much sooner; this is
    # the equation for its end, solved for w on one side, which stays above.
    sooner = torch.log1p(torch.expm1((digits + tilt * bound) / total) / x)
    bound = torch.where(below, bound, torch.minimum(bound, sooner))

    def h(w: Tensor) -> tuple[Tensor, Tensor]:
        s = sign * w
        growth = x * torch.expm1(s)
        here = x * torch.exp(s) / (1 + growth)
        return total * torch.log1p(growth) - tilt * s, sign * (total * here - tilt)

    return cut(h, slope, curvature, bound)
