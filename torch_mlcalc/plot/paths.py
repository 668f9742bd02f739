"""A path of descent on a loss surface."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.ticker import LogFormatterMathtext, LogLocator
from torch import Tensor

from torch_mlcalc.plot.axes import axes_or_new
from torch_mlcalc.quadrature.rules import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points along a side of the surface.
_SURFACE = 200


def descent(
    loss: Callable[[Tensor], Tensor],
    path: Tensor,
    *,
    levels: int = 15,
    ax: Axes | None = None,
) -> Axes:
    """Draw a loss over two parameters as a surface, and a path of descent on it.

    The surface is coloured by the log of the loss above the lowest value that is seen,
    and reaches a little farther than the path.

    Args:
        loss: Function of points ``(n, 2)`` that returns the losses ``(n,)``.
        path: The parameters after each step, ``(steps, 2)``.
        levels: Number of lines of equal loss.
        ax: Where to draw; by default into a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``path`` is no tensor, or ``levels`` no integer.
        ValueError: If ``path`` has another shape or is not finite, if ``levels`` is
            less than 2, or if the loss returns another shape.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> from matplotlib.figure import Figure
        >>> from torch_mlcalc import plot
        >>> def valley(w):
        ...     return w[..., 0] ** 2 + 10 * w[..., 1] ** 2
        >>> w = torch.tensor([2.0, 1.0], requires_grad=True)
        >>> optimizer = mlc.SGD([w], lr=0.05, momentum=0.5)
        >>> path = [w.detach().clone()]
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     valley(w).backward()
        ...     optimizer.step()
        ...     path.append(w.detach().clone())
        >>> ax = plot.descent(valley, torch.stack(path), ax=Figure().subplots())
        >>> len(ax.lines[0].get_xdata())
        21
    """
    path = _checked_path(path, levels)
    x, y, height = _surface(loss, path)
    ax = axes_or_new(ax)
    top = math.log10(height.max()) if height.max() > 0 else 0.0
    # Four decades: by then a minimum is a few pixels wide.
    steps = np.logspace(top - 4, top, levels)
    surface = ax.contourf(x, y, np.maximum(height, steps[0]), steps, norm="log")
    ax.contour(x, y, height, steps, colors="white", linewidths=0.5, alpha=0.5)
    assert ax.figure is not None  # noqa: S101
    bar = ax.figure.colorbar(surface, ax=ax, label="loss above its lowest value here")
    bar.set_ticks(LogLocator(), format=LogFormatterMathtext())
    ax.plot(*path.cpu().numpy().T, ".-", color="C3")
    ax.set_xlabel("$w_1$")
    ax.set_ylabel("$w_2$")
    return ax


def _checked_path(path: object, levels: object) -> Tensor:
    if not isinstance(path, Tensor):
        raise TypeError(
            f"path is a {type(path).__name__}; a tensor (steps, 2) is wanted, for "
            "example torch.stack of the parameters after each step."
        )
    if path.ndim != 2 or path.shape[1] != 2 or not len(path):
        raise ValueError(f"path has shape {tuple(path.shape)}; (steps, 2) is wanted.")
    if not bool(path.isfinite().all()):
        raise ValueError("path is not finite; leave out the steps that diverged.")
    if isinstance(levels, bool) or not isinstance(levels, int):
        raise TypeError(f"levels is a {type(levels).__name__}; an integer is wanted.")
    if levels < 2:
        raise ValueError(f"levels is {levels}; at least 2 are wanted.")
    return path.detach()


def _surface(
    loss: Callable[[Tensor], Tensor], path: Tensor
) -> tuple[Array, Array, Array]:
    """Both axes, and the loss above its lowest value."""
    low, high = path.amin(0), path.amax(0)
    # A path along an axis, or none at all, is seen in a square.
    reach = (high - low).max().item() or 1.0
    margin = torch.where(high > low, 0.15 * (high - low), 0.5 * reach)
    ends = torch.stack([low - margin, high + margin]).tolist()
    x, y = (
        torch.linspace(a, b, _SURFACE, device="cpu") for a, b in zip(*ends, strict=True)
    )
    grid = torch.cartesian_prod(x, y).to(path)
    with torch.no_grad():
        values = loss(torch.cat([grid, path]))
    if values.shape != (len(grid) + len(path),):
        raise ValueError(
            f"the loss got points of shape {(len(grid) + len(path), 2)} and returned "
            f"shape {tuple(values.shape)}; one loss for each point is wanted."
        )
    finite = values[values.isfinite()]
    if not len(finite):
        raise ValueError("the loss is finite nowhere around the path.")
    values = (values - finite.min()).double().cpu()
    height = values[: len(grid)].reshape(_SURFACE, _SURFACE).T
    return x.numpy(), y.numpy(), np.ma.masked_invalid(height.numpy())
