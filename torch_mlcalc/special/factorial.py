"""The gamma function without its large part, so that ratios of it keep their digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

#: From here on the Stirling series below is right to 1e-16, with its derivatives.
_FAR = 10.0

#: Coefficients of the Stirling series in 1/a, 1/a^3, ...; DLMF 5.11.1.
_STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
)
#: By the duplication formula: the series at 2 a, less twice that at a.
_HALF_STEP = tuple(2 * (4.0**-k - 1) * c for k, c in enumerate(_STIRLING, start=1))


def scaled_log_factorial(a: Tensor) -> Tensor:
    r"""Log of :math:`\Gamma(1 + a)\,(e / a)^a`, for a > 0.

    It is 0 at 0 and grows as :math:`\log(2 \pi a) / 2`, so that nothing is lost where
    logs of gamma functions of 1e4 and more are subtracted.

    Args:
        a: Positive.

    Returns:
        The log.

    References:
        NIST Digital Library of Mathematical Functions, 5.11.1, https://dlmf.nist.gov/5.11
    """
    # Below 10 the series is taken at a + 10, and the ten factors between are divided
    # out. Not torch.lgamma, whose second derivative is only right to 1e-9.
    far = a >= _FAR
    shifted = torch.where(far, a, a + _FAR)
    series = torch.log(2 * math.pi * shifted) / 2 + _odd_series(shifted, _STIRLING)
    small = torch.where(far, 1.0, a)
    above = small + _FAR
    rise = product(small + steps(small, 1, int(_FAR))) / above ** (_FAR - 1)
    logs = small * (torch.log(above) - torch.log(small)) - torch.log(rise)
    return torch.where(far, series, series + (logs - _FAR))


def log_half_step(a: Tensor) -> Tensor:
    r"""Log of :math:`\Gamma(a + 1/2) / (\Gamma(a) \sqrt a)`, for a > 0; 0 at infinity.

    :math:`-1 / (8 a) + 1 / (192 a^3) - \dots`; below 10 from that of a + 10 and the ten
    ratios between.

    Args:
        a: Positive.

    Returns:
        The log.
    """
    # A difference of two Stirling series would have a derivative without digits: its
    # terms 1 / (2 a) cancel, and 1 / (8 a^2) is left.
    far = a >= _FAR
    shifted = torch.where(far, a, a + _FAR)
    series = _odd_series(shifted, _HALF_STEP)
    small = torch.where(far, 1.0, a)
    # Gamma(a + 1/2) / Gamma(a) = that at a + 10, times a / (a + 1/2), and so on; the
    # first ratio and sqrt(a) together are sqrt(a) / (a + 1/2).
    raised = small + steps(small, 0, int(_FAR))
    ratios = product(raised / (raised + 0.5))
    near = torch.log(ratios) + (torch.log(small + _FAR) - torch.log(small)) / 2
    return torch.where(far, series, series + near)


def steps(like: Tensor, start: int, stop: int) -> Tensor:
    """Whole numbers along a new first dimension, to be combined with a tensor.

    What depends on the number of a step is one operation then, and not one a step: up
    to 1000 elements all that takes time is how many operations there are.

    Args:
        like: The tensor.
        start: First number.
        stop: The one after the last.

    Returns:
        The numbers.
    """
    numbers = torch.arange(start, stop, dtype=like.dtype, device=like.device)
    return numbers.reshape(-1, *(1,) * like.ndim)


def product(factors: Tensor) -> Tensor:
    """Product along the first dimension; torch.prod looks for zeros, which waits."""
    return reduce(torch.mul, factors.unbind())


def _odd_series(a: Tensor, coefficients: Sequence[float]) -> Tensor:
    square = (1 / a) ** 2
    total = torch.full_like(a, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * square + coefficient
    return total / a
