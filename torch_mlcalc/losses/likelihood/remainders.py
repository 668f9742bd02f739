r"""What is left of logarithms and gamma functions when their leading terms cancel.

Each is plain torch with a derivative of every order that keeps its digits too: where
the textbook form cancels it is a short series, which autograd differentiates term by
term. The lengths are such that the first term left out, and its second derivative, is
below the precision of the dtype.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

#: B_2k / (2k (2k - 1)), Abramowitz and Stegun 6.1.40.
_STIRLING = (
    *(1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156),
    *(-3617 / 122400, 43867 / 244188, -174611 / 125400),
)
#: (1 - 4^k) B_2k / (2k (2k - 1)): those of twice the argument, less those of it.
_HALF_STEP = tuple((1 - 4.0 ** (k + 1)) * c for k, c in enumerate(_STIRLING))


def log1p_ratio(x: Tensor) -> Tensor:
    r"""Return :math:`\log(1 + x) / x` for :math:`|x| \le 1/2`, which is 1 at 0.

    With :math:`y = x / (2 + x)` it is :math:`(1 - y)\,\mathrm{artanh}(y) / y`.

    Args:
        x: Numbers of size at most 1/2.

    Returns:
        The ratios, of the same shape.
    """
    y = x / (2 + x)
    return (1 - y) * horner(y * y, _artanh(x.dtype))


def log1p_second(x: Tensor) -> Tensor:
    r"""Return :math:`(\log(1 + x) - x) / x^2` for :math:`|x| \le 1/2`, -1/2 at 0.

    Args:
        x: Numbers of size at most 1/2.

    Returns:
        The quotients, of the same shape.
    """
    y = x / (2 + x)
    # artanh(y)/y = 1 + y^2 Q(y^2)
    rest = horner(y * y, _artanh(x.dtype)[1:])
    return (y - 1) / 2 * (1 - y * (1 - y) * rest)


def stirling_remainder(inverse: Tensor) -> Tensor:
    r"""Return the remainder of Stirling's formula at :math:`x = 1/\text{inverse}`.

    .. math:: \log\Gamma(x) - \bigl(x - \tfrac12\bigr) \log x + x - \tfrac12 \log 2\pi
        = \frac{1}{12 x} - \frac{1}{360 x^3} + \dots

    As a function of the inverse it is smooth down to 0, where it is 0.

    Args:
        inverse: The inverse of the argument, not negative.

    Returns:
        The remainder, of the same shape.

    References:
        Loader, "Fast and accurate computation of binomial probabilities" (2000).
    """
    # Not torch's lgamma, whose second derivative is off by 1e-9 in float64.
    start, terms = (4, 6) if inverse.dtype == torch.float32 else (10, 9)
    is_small = inverse * start <= 1
    large = torch.where(is_small, 1, inverse)
    x = 1 / large
    steps = (x + 0.5) * large.log1p() - 1
    for j in range(1, start):
        steps = steps + ((x + (j + 0.5)) * (1 / (x + j)).log1p() - 1)
    a = torch.where(is_small, inverse, 1 / (x + start))
    series = a * horner(a * a, _STIRLING[:terms])
    return series + torch.where(is_small, 0, steps)


def log_factorial_remainder(count: Tensor) -> Tensor:
    r"""Return :math:`\log n! - n \log n + n`, which is 0 at 0.

    Args:
        count: The numbers :math:`n`, whole or not, not negative.

    Returns:
        The remainders, of the same shape.
    """
    if not count.requires_grad:
        return _of_constants(count)
    # Above 1 by Stirling, which does not cancel. Below, the remainder of n + 1.
    is_large = count > 1
    large = torch.where(is_large, count, 1)
    small = torch.where((count > 0) & ~is_large, count, 1)
    remainder = stirling_remainder(torch.where(is_large, 1 / large, 1 / (small + 1)))
    above = large.log() / 2 + (HALF_LOG_2PI + remainder)
    below = (small + 0.5) * small.log1p() - small * small.log()
    below = below + (HALF_LOG_2PI - 1 + remainder)
    return torch.where(is_large, above, torch.where(count > 0, below, 0))


def half_step_remainder(x: Tensor) -> Tensor:
    r"""Return the logarithm of :math:`\Gamma(x/2 + 1/2) / (\Gamma(x/2) \sqrt{x/2})`.

    It is :math:`-1/(4x) + 1/(24 x^3) - \dots` for large :math:`x`. For small it is
    carried there by the recurrence of the gamma function,

    .. math:: c(x) = c(x + 2m)
        + \frac12 \sum_{j<m} \log\frac{x_j (x_j + 2)}{(x_j + 1)^2}, \qquad x_j = x + 2j

    whose terms all have one sign.

    Args:
        x: Positive numbers, infinity included.

    Returns:
        The remainder, of the same shape.
    """
    steps, terms = (3, 5) if x.dtype == torch.float32 else (9, 9)
    is_small = x < 1
    small, large = x.clamp(max=1), x.clamp(min=1)
    # The two forms of x (x + 2) / (x + 1)^2: 1 - 1/(x + 1)^2 cancels near 0, and the
    # derivative of x / (x + 1) far out.
    first = torch.where(
        is_small,
        (small * (small + 2) / (small + 1).square()).log(),
        (-(1 / (large + 1)).square()).log1p(),
    )
    product = 1 - (1 / (x + 3)).square()
    for j in range(2, steps):
        product = product * (1 - (1 / (x + (2 * j + 1))).square())
    inverse = 1 / (x + 2 * steps)
    series = inverse * horner(inverse * inverse, _HALF_STEP[:terms])
    return (first + product.log()) / 2 + series


def _of_constants(count: Tensor) -> Tensor:
    # The same values in a fifth of the time, but of lower accuracy in the second
    # derivative; up to 8 at most three digits of the constant cancel.
    inverse = 1 / count.clamp(min=8)
    terms = 3 if count.dtype == torch.float32 else 9
    series = inverse * horner(inverse * inverse, _STIRLING[:terms])
    by_stirling = HALF_LOG_2PI + series - inverse.log() / 2
    small = count.clamp(max=8)
    direct = (small + 1).lgamma() - torch.xlogy(small, small) + small
    return torch.where(count > 8, by_stirling, direct)


def _artanh(dtype: torch.dtype) -> list[float]:
    # y^2 is at most 1/9.
    return [1 / (2 * k + 1) for k in range(11 if dtype == torch.float32 else 20)]


def horner(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Return the polynomial with these coefficients, the constant first.

    Args:
        x: Where to evaluate it.
        coefficients: Two at least.

    Returns:
        Its values, of the shape of ``x``.
    """
    *others, before, last = coefficients
    value = last * x + before
    for coefficient in reversed(others):
        value = value * x + coefficient
    return value
