"""Integrals of given samples by Simpson's rule; torch has the trapezoidal rule only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_mlcalc.precision import is_autocast
from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.host import kept


def simpson(
    y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1
) -> Tensor:
    r"""Integrate samples by parabolas, as :func:`torch.trapezoid` does by lines.

    .. math:: \int y\,dx \approx \frac{h}{3} \sum_{j \text{ odd}}
        (y_{j-1} + 4 y_j + y_{j+1})

    for equal steps, and the parabola through three neighbours for unequal ones. With an
    even number of samples the last interval is that of the last three (Cartwright). A
    position that is there twice is a jump, with a line beside it.

    Args:
        y: Values.
        x: Where they were taken, increasing or decreasing; by default equally spaced.
        dx: Distance between them, if ``x`` is not given; 1 by default.
        dim: Dimension to integrate over.

    Shape:
        ``y``: ``(*, n, *)``, ``n`` along ``dim``. ``x``: ``(n,)``, or of as many
        dimensions as ``y`` and broadcastable to it. Returns ``y`` without ``dim``.

    Returns:
        The integral, with gradients in ``y`` and ``x``.

    Raises:
        TypeError: If ``y`` or ``x`` is not a tensor of floating-point numbers.
        ValueError: If the shapes do not fit, or both ``x`` and ``dx`` are given.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> x = torch.linspace(0, 2, 5)
        >>> mlc.simpson(x**3, x)
        tensor(4.)

    References:
        NIST Digital Library of Mathematical Functions, equation 3.5.6,
        https://dlmf.nist.gov/3.5; K. V. Cartwright, "Simpson's rule cumulative
        integration with MS Excel and irregularly-spaced data", Journal of Mathematical
        Sciences and Mathematics Education 12 (2017), equation 8.
    """
    y, step, dtype = _prepare(y, x, dx, dim)
    if x is None:
        weights = _equal_weights(y.shape[-1], y.real.dtype, y.device)
        return (_weighted(y, weights) * step).to(dtype)
    return _weighted(y, _weights(step)).to(dtype)


def cumulative_simpson(
    y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1
) -> Tensor:
    r"""Running integral of samples, as :func:`torch.cumulative_trapezoid` gives it.

    .. math:: F_i = \int_{x_0}^{x_i} y\,dx, \qquad i = 1, \dots, n - 1

    Every interval is integrated by the parabola through three neighbours; the last
    value is that of :func:`simpson`.

    Args:
        y: Values; all arguments are those of :func:`simpson`.
        x: Where they were taken.
        dx: Distance between them.
        dim: Dimension to integrate over.

    Shape:
        ``y``: ``(*, n, *)``. Returns ``(*, n - 1, *)``.

    Returns:
        The integral up to each sample but the first, where it is 0.

    Raises:
        TypeError: If ``y`` or ``x`` is not a tensor of floating-point numbers.
        ValueError: If the shapes do not fit, or both ``x`` and ``dx`` are given.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> x = torch.linspace(0, 2, 5)
        >>> mlc.cumulative_simpson(x**2, x)
        tensor([0.0417, 0.3333, 1.1250, 2.6667])

    References:
        K. V. Cartwright, "Simpson's rule cumulative integration with MS Excel and
        irregularly-spaced data", Journal of Mathematical Sciences and Mathematics
        Education 12 (2017), equation 8.
    """
    y, step, dtype = _prepare(y, x, dx, dim)
    if x is None:
        ones = torch.ones(y.shape[-1] - 1, dtype=y.real.dtype, device=y.device)
        total = _intervals(y, ones).cumsum(-1) * step
    else:
        total = _intervals(y, step).cumsum(-1)
    return total.movedim(-1, dim).to(dtype)


def _prepare(
    y: Tensor, x: Tensor | None, dx: float | None, dim: int
) -> tuple[Tensor, Any, torch.dtype]:
    """Values ``(*, n)``; steps ``(*, n - 1)``, or the only one; the result's dtype."""
    _check("y", y)
    if y.ndim == 0 or y.shape[dim] == 0:
        raise ValueError(
            f"y has shape {tuple(y.shape)}; at least one sample along dim={dim} is "
            "wanted."
        )
    dtype, wide = y.dtype, accumulator(y.dtype)
    y = y.movedim(dim, -1).to(wide)
    if x is None:
        return y, 1.0 if dx is None else dx, dtype
    _check("x", x)
    if dx is not None:
        raise ValueError("both x and dx are given; leave one of them out.")
    if x.ndim == y.ndim:
        x = x.movedim(dim, -1)
    shape = (*(1,) * (y.ndim - x.ndim), *x.shape)
    fits = x.ndim in (1, y.ndim) and shape[-1] == y.shape[-1]
    if not fits or any(i not in (1, j) for i, j in zip(shape, y.shape, strict=True)):
        raise ValueError(
            f"x has {tuple(x.shape)} and y {tuple(y.shape)} samples (dim={dim} last); "
            "x must have as many along dim, and one dimension or those of y."
        )
    dtype = torch.promote_types(dtype, x.dtype)
    return y, x.to(accumulator(x.dtype)).diff(dim=-1), dtype


def _check(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; a tensor is wanted.")
    if not (value.is_floating_point() or value.is_complex()):
        raise TypeError(
            f"{name} has dtype {value.dtype}; floating-point numbers are wanted: "
            f"{name}.double()."
        )


def _weighted(y: Tensor, weights: Tensor) -> Tensor:
    """Sum over the last dimension of values times weights, ``(n)`` or ``(*, n)``."""
    dtype = torch.promote_types(y.dtype, weights.dtype)
    y, weights = y.to(dtype), weights.to(dtype)
    # Autocast keeps three digits of a matrix product.
    if weights.ndim == 1 and not is_autocast(y.device.type):
        return y @ weights
    return (y * weights).sum(-1)


@kept(32)
def _equal_weights(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of ``n`` samples whose distance is 1."""
    ones = torch.ones(n - 1, dtype=torch.float64, device="cpu")
    return _weights(ones).to(device, dtype)


def _weights(step: Tensor) -> Tensor:
    """Weight of each sample in the whole integral, ``(*, n)``."""
    count = step.shape[-1]
    if count < 2:
        return _lone(step)
    one, two, three = _of_three(step)
    # Each parabola over two intervals, beside the next one.
    even = F.pad(one, (0, 1)) + F.pad(three, (1, 0))
    weights = torch.stack([even[..., :-1], two], -1).flatten(-2)
    weights = torch.cat([weights, even[..., -1:]], -1)
    if count % 2 == 0:
        return weights
    last = torch.stack(_first_of_three(step[..., -1:], step[..., -2:-1])[::-1], -1)
    return F.pad(weights, (0, 1)) + F.pad(last.squeeze(-2), (count - 2, 0))


def _of_three(step: Tensor) -> tuple[Tensor, ...]:
    """Weights of three samples for the integral over both intervals, ``(*, pairs)``."""
    weights = _of_each(step)
    return tuple(w[0] + v[1] for w, v in zip(weights, weights[::-1], strict=True))


def _of_each(step: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of three samples, from the outer one on, for either interval of a pair.

    Returns:
        Three times ``(2, *, pairs)``: of the first and of the second interval.
    """
    count = step.shape[-1] // 2 * 2
    both = torch.stack([step[..., 0:count:2], step[..., 1:count:2]])
    return _first_of_three(both, both.flip(0))


def _lone(step: Tensor) -> Tensor:
    """Weights of one sample or two."""
    half = step / 2
    if not step.shape[-1]:
        return step.new_zeros(*step.shape[:-1], 1)
    return torch.cat([half, half], -1)


def _intervals(y: Tensor, step: Tensor) -> Tensor:
    """Integral over each interval between neighbours, ``(*, n - 1)``."""
    count = y.shape[-1] - 1
    if count < 2:
        return step * (y[..., 1:] + y[..., :-1]) / 2
    weights = _of_each(step)
    samples = tuple(y[..., i : count + i - 1 : 2] for i in range(3))
    first = _dot([w[0] for w in weights], samples)
    second = _dot([w[1] for w in weights], samples[::-1])
    found = torch.stack([first, second], -1).flatten(-2)
    if count % 2 == 0:
        return found
    # The last of an odd number has the parabola of the last three samples.
    ends = _first_of_three(step[..., -1:], step[..., -2:-1])
    last = _dot(ends, (y[..., -1:], y[..., -2:-1], y[..., -3:-2]))
    return torch.cat([found, last.expand(*found.shape[:-1], 1)], -1)


def _dot(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    one, two, three = (w * v for w, v in zip(weights, values, strict=True))
    return one + two + three


def _first_of_three(h1: Tensor, h2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of three neighbours for the integral over their first interval.

    That is the integral of the parabola through them; without the third, of a line,
    where two positions are equal: there is no parabola, and a nan would be summed.

    Returns:
        The weights of the three.
    """
    jump = (h2 == 0) | (h1 + h2 == 0)
    part = h1 / torch.where(jump, 1, h1 + h2)
    bend = part * h1 / torch.where(jump, 1, h2)
    half, sixth = h1 / 2, h1 / 6
    return (
        torch.where(jump, half, sixth * (3 - part)),
        torch.where(jump, half, sixth * (3 + bend + part)),
        torch.where(jump, 0, -sixth * bend),
    )
