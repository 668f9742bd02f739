"""How the unit interval is stretched over an infinite one."""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor

from torch_mlcalc.quadrature.placement import FINITE, WHOLE


class Tails(Enum):
    """How the cube is stretched over an infinite axis.

    ``ALGEBRAIC`` maps let densities with heavy tails be integrated. ``LOGISTIC`` ones
    need a third of the nodes on each axis where tails are as light as that of a normal
    distribution. ``GAUSSIAN`` ones are the quantiles of the normal distribution, under
    which a Gaussian of the right ``loc`` and ``scale`` becomes a constant: the only
    kind that still works in a hundred dimensions.
    """

    ALGEBRAIC = 0
    LOGISTIC = 1
    GAUSSIAN = 2


ALGEBRAIC, LOGISTIC, GAUSSIAN = Tails


def unfold(u: Tensor, kind: Tensor, tails: Tails) -> tuple[Tensor, Tensor]:
    r"""Stretch the unit interval over an infinite one, from ``anchor`` outwards.

    .. math:: z = \frac{u}{1 - u}, \qquad z = \frac{2 t}{1 - t^2},\ t = 2u - 1

    with algebraic tails; with logistic ones :math:`-2 \log(1 - u)` on a half line and
    :math:`\log \frac{u}{1 - u}` on the line; with Gaussian ones
    :math:`\Phi^{-1}(\frac{1 + u}{2})` and :math:`\Phi^{-1}(u)`.

    Args:
        u: In the open interval wherever the kind is not finite.
        kind: Which ends are infinite.
        tails: Of which kind.

    Returns:
        ``z`` and the log of its derivative.

    References:
        NIST Digital Library of Mathematical Functions, section 3.5(viii) for rational
        changes of variable, https://dlmf.nist.gov/3.5
    """
    finite, whole = kind == FINITE, kind == WHOLE
    # Closed rules may have nodes at the ends of finite axes.
    v = torch.where(finite, 0.5, u)
    if tails is ALGEBRAIC:
        t = 2 * v - 1
        gap = 4 * v * (1 - v)
        half, line = v / (1 - v), 2 * t / gap
        half_slope = -2 * torch.log1p(-v)
        line_slope = torch.log(4 * (1 + t * t)) - 2 * torch.log(gap)
    elif tails is LOGISTIC:
        rest = torch.log1p(-v)
        half, line = -2 * rest, torch.log(v) - rest
        half_slope = math.log(2) - rest
        line_slope = -torch.log(v) - rest
    else:
        half, line = math.sqrt(2) * torch.erfinv(v), torch.special.ndtri(v)
        half_slope = half * half / 2 + math.log(math.pi / 2) / 2
        line_slope = line * line / 2 + math.log(2 * math.pi) / 2
    z = torch.where(finite, u, torch.where(whole, line, half))
    slope = torch.where(finite, 0.0, torch.where(whole, line_slope, half_slope))
    return z, slope


def fold(z: Tensor, kind: Tensor, tails: Tails) -> Tensor:
    """The inverse of :func:`unfold`."""
    finite, whole = kind == FINITE, kind == WHOLE
    if tails is ALGEBRAIC:
        half = z / (1 + torch.where(finite | whole, 0, z))
        line = (1 + z / (1 + torch.sqrt(1 + z * z))) / 2
    elif tails is LOGISTIC:
        half, line = -torch.expm1(-z / 2), torch.sigmoid(z)
    else:
        half, line = torch.erf(z / math.sqrt(2)), torch.special.ndtr(z)
    return torch.where(finite, z, torch.where(whole, line, half))
