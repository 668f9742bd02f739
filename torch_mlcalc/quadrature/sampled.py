"""Integrals of given samples by Simpson's rule; torch has the trapezoidal rule only."""

from __future__ import annotations

import torch
from torch import Tensor


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
    return _intervals(*_prepare(y, x, dx, dim)).sum(-1)


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
    total = _intervals(*_prepare(y, x, dx, dim)).cumsum(-1)
    return total.movedim(-1, dim)


def _prepare(
    y: Tensor, x: Tensor | None, dx: float | None, dim: int
) -> tuple[Tensor, Tensor]:
    """Values and steps, ``(*, n)`` and broadcastable to ``(*, n - 1)``."""
    _check("y", y)
    if y.ndim == 0 or y.shape[dim] == 0:
        raise ValueError(
            f"y has shape {tuple(y.shape)}; at least one sample along dim={dim} is "
            "wanted."
        )
    y = y.movedim(dim, -1)
    if x is None:
        return y, torch.full_like(y.real[..., 1:], 1.0 if dx is None else dx)
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
    return y, x.diff(dim=-1)


def _check(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; a tensor is wanted.")
    if not (value.is_floating_point() or value.is_complex()):
        raise TypeError(
            f"{name} has dtype {value.dtype}; floating-point numbers are wanted: "
            f"{name}.double()."
        )


def _intervals(y: Tensor, step: Tensor) -> Tensor:
    """Integral over each interval between neighbours, ``(*, n - 1)``."""
    count = y.shape[-1] - 1
    step = step.expand(*y.shape[:-1], count)
    if count < 2:
        return step * (y[..., 1:] + y[..., :-1]) / 2
    first = _first_of_three(step[..., :-1], step[..., 1:], y)
    last = _first_of_three(step[..., 1:].flip(-1), step[..., :-1].flip(-1), y.flip(-1))
    last = last.flip(-1)
    # Interval i is the first of the three samples i, i+1, i+2 if i is even, and else
    # the last of i-1, i, i+1: pairs of intervals then share one parabola.
    index = torch.arange(count - 1, device=y.device)
    body = torch.where(index % 2 == 0, first, torch.roll(last, 1, -1))
    return torch.cat([body, last[..., -1:]], -1)


def _first_of_three(h1: Tensor, h2: Tensor, y: Tensor) -> Tensor:
    """Integral of the parabola through each three neighbours over the first interval.

    Returns:
        The integrals, ``(*, n - 2)``.
    """
    y1, y2, y3 = y[..., :-2], y[..., 1:-1], y[..., 2:]
    # Where positions are equal there is no parabola, and a nan would be summed.
    jump = (h2 == 0) | (h1 + h2 == 0)
    part = h1 / torch.where(jump, 1, h1 + h2)
    bend = part * h1 / torch.where(jump, 1, h2)
    parabola = h1 / 6 * ((3 - part) * y1 + (3 + bend + part) * y2 - bend * y3)
    return torch.where(jump, h1 / 2 * (y1 + y2), parabola)
