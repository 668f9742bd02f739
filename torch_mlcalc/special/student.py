"""Student's t distribution function, differentiable in the degrees of freedom."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_mlcalc.special.arguments import promoted
from torch_mlcalc.special.beta import both_tails
from torch_mlcalc.special.factorial import log_half_step
from torch_mlcalc.special.tail import depth, tail_nodes, where_wanted, without_gradient

#: Degrees of freedom beyond which all digits are those of the normal distribution.
MOST_DF = 1e30

#: From here on a tail is integrated as such, whose derivatives in the degrees of
#: freedom keep their digits, and not as that of a beta variable, whose do not.
_MANY = 64.0

#: Below this z a series is used; above, two digits cancel in the derivative.
_SMALL = 0.02


def stdtr(df: Tensor | float, t: Tensor | float) -> Tensor:
    r"""Distribution function of Student's t, which torch does not have.

    .. math:: F_\nu(t) = \frac{\Gamma(\frac{\nu + 1}{2})}
        {\Gamma(\frac \nu 2) \sqrt{\pi \nu}} \int_{-\infty}^t
        \left(1 + \frac{u^2}{\nu}\right)^{-\frac{\nu + 1}{2}} du

    Its derivative in t is the density; those in the degrees of freedom are taken under
    the integral sign. It is smooth at t = 0, and becomes the normal distribution
    function without a loss of digits, also of the derivative in the degrees of freedom,
    which is of the size of :math:`1 / \nu^2`.

    Args:
        df: Degrees of freedom, positive; infinity gives the normal distribution.
        t: Upper limit.

    Shape:
        The arguments broadcast.

    Returns:
        F, in the promoted dtype; NaN where ``df`` is not positive.

    Raises:
        TypeError: If an argument is complex, or neither a tensor nor a number.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> df = torch.tensor([1.0, 5.0, 30.0], requires_grad=True)
        >>> value = mlc.special.stdtr(df, -2.0)
        >>> value
        tensor([0.1476, 0.0510, 0.0273], grad_fn=...)
        >>> torch.autograd.grad(value.sum(), df)
        (tensor([-0.0968, -0.0057, -0.0002]),)

    References:
        Abramowitz, Stegun, "Handbook of Mathematical Functions" (1964), 26.7.1.
    """
    df, t = promoted(df=df, t=t)
    middle, tail = middle_and_tail(df, t)
    outside = torch.where(t < 0, tail, 1 - tail)
    value = torch.where(is_central(df, t), 0.5 + middle, outside)
    return torch.where((df > 0) & ~t.isnan(), value, torch.nan)


def is_central(df: Tensor, t: Tensor) -> Tensor:
    """Where the integral from 0 is used, and not the tail."""
    return t * t < df.clamp(max=2)


def middle_and_tail(df: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Two integrals of the density; which of them is right says :func:`is_central`.

    Args:
        df: Degrees of freedom.
        t: Limit.

    Returns:
        That from 0 to t where it is central, and from abs(t) on where it is not.
    """
    central = is_central(df, t)
    df = torch.where(df > 0, df, 1.0).clamp(max=MOST_DF)
    # Beyond this the squares below underflow; the tail is then 1e-150^df, or nothing.
    most = torch.finfo(t.dtype).max ** 0.45
    root = df.sqrt()
    far = torch.where(central | t.isnan(), 2 * root, t.abs())
    far = torch.minimum(far, most * root)
    heavy = ~central & (df < _MANY)
    start = torch.where(central | heavy, 0.0, far)
    width = torch.where(central, t, without_gradient(_width, df, start))
    integral = where_wanted(~heavy, _integral, df, start, width)
    tail = torch.where(heavy, where_wanted(heavy, _heavy_tail, df, far), integral)
    return integral, torch.where(t.isinf(), 0.0, tail)


def _heavy_tail(df: Tensor, t: Tensor) -> Tensor:
    """From a positive t on, as the tail of a beta variable."""
    root = df.sqrt()
    radius = torch.hypot(root, t)
    x, y = (t / radius).square(), (root / radius).square()
    return both_tails(torch.full_like(df, 0.5), df / 2, x, y)[1] / 2


def _integral(df: Tensor, start: Tensor, width: Tensor) -> Tensor:
    """The density's over an interval, by as many nodes as a tail of it needs."""
    nodes, weights = tail_nodes(df.dtype, df.device)
    shape = (-1, *(1,) * df.ndim)
    square = (start + width * nodes.reshape(shape)).square()
    fall = log_power(df, square, square / df, 1)
    integral = (weights.reshape(shape) * torch.exp(-fall)).sum(0)
    scale = torch.exp(log_half_step(df / 2)) / math.sqrt(2 * math.pi)
    return width * scale * integral


def log_power(df: Tensor, square: Tensor, z: Tensor, shift: int) -> Tensor:
    r""":math:`\frac{\nu + s}{2} \log(1 + z)`, whose derivative keeps its digits.

    That in :math:`\nu` has terms that cancel for small z; with :math:`y = z / (2 + z)`
    and :math:`\log(1 + z) = 2\,\mathrm{artanh}\,y` none do.

    Args:
        df: Degrees of freedom.
        square: The square of t, which is only used where z is small.
        z: The square over the degrees of freedom.
        shift: The s.

    Returns:
        The product.
    """
    small = z.clamp(max=_SMALL)
    inverse = 1 / (2 + small)
    # The next term is 1e-17.
    y = (small * inverse).square()
    near = (square + shift * z) * inverse * (1 + y * (1 / 3 + y * (1 / 5 + y / 7)))
    return torch.where(z < _SMALL, near, (df + shift) / 2 * torch.log1p(z))


def _width(df: Tensor, start: Tensor) -> Tensor:
    """How far the density falls to a rounding error of what it is at the start."""
    more = 2 * depth(df.dtype) / (df + 1)
    more = torch.expm1(more) * (df + start.square())
    return more / (start + (start.square() + more).sqrt())
