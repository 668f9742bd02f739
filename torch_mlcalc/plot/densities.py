"""A density with the nodes on which it was normalised."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.density import NormalizedDensity
from torch_mlcalc.plot.axes import axes_or_new
from torch_mlcalc.quadrature import log_integrate
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.rules import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Points of a curve: a figure of matplotlib's default size has 640 pixels.
_CURVE = 600

#: Probability in each tail that is not drawn.
_TAIL = 1e-3


def density(
    density: NormalizedDensity, *, nodes: bool = True, ax: Axes | None = None
) -> Axes:
    r"""Draw a density, and below it the nodes on which it was normalised.

    The curve goes from the 0.1 % to the 99.9 % quantile; each density of a batch has a
    colour and a row of nodes of its own. Nodes outside of the picture are left out.

    Args:
        density: In one dimension.
        nodes: Whether to draw the nodes.
        ax: Where to draw; by default into a new figure.

    Returns:
        The Axes.

    Raises:
        TypeError: If ``density`` is no :class:`NormalizedDensity`.
        ValueError: If it has more than one dimension, is an empty batch, or cannot be
            normalised.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> from matplotlib.figure import Figure
        >>> from torch_mlcalc import plot
        >>> wells = mlc.NormalizedDensity(
        ...     lambda x: -4 * (x * x - 1) ** 2, mlc.RealLine()
        ... )
        >>> ax = plot.density(wells, ax=Figure().subplots())
        >>> ax.get_ylabel()
        'density'
    """
    if not isinstance(density, NormalizedDensity):
        raise TypeError(
            f"density is a {type(density).__name__}; a NormalizedDensity is wanted."
        )
    if density.event_shape:
        raise ValueError(
            f"the density has {density.event_shape[0]} dimensions; one is wanted. "
            "Draw its log_prob on a grid with contourf."
        )
    if not math.prod(density.batch_shape):
        raise ValueError("the batch of densities is empty; at least one is wanted.")
    x, p = _curves(density)
    ax = axes_or_new(ax)
    lines = ax.plot(x, p)
    if density.batch_shape:
        for line, index in zip(lines, np.ndindex(*density.batch_shape), strict=True):
            line.set_label(", ".join(map(str, index)))
        ax.legend(title="batch index")
    if nodes:
        low, high = ax.get_xlim()
        gap = 0.04 * float(np.nanmax(p))
        for row, (line, own) in enumerate(zip(lines, _nodes_of(density), strict=True)):
            own = own[(own >= low) & (own <= high)]
            height = np.full(own.shape, -gap * (row + 1))
            ax.plot(own, height, "|", color=line.get_color())
        ax.set_xlim(low, high)
    ax.set_xlabel("x")
    ax.set_ylabel("density")
    return ax


def _curves(density: NormalizedDensity) -> tuple[Array, Array]:
    """Points ``(m)`` and densities ``(m, batch)``."""
    with torch.no_grad():
        tails = torch.tensor([_TAIL, 1 - _TAIL], dtype=density.dtype, device="cpu")
        shape = (2, *(1,) * len(density.batch_shape))
        ends = density.icdf(tails.to(density.device).reshape(shape)).double()
        divergent = (density.status == Status.SUSPECTED_DIVERGENT).any()
        if divergent or not ends.isfinite().all():
            raise ValueError(
                "the density has quantiles that are not finite; see whether its "
                "integral exists."
            )
        x = torch.linspace(
            ends[0].min().item(), ends[1].max().item(), _CURVE, device="cpu"
        )
        points = x.to(ends).reshape(-1, *shape[1:])
        # A curve may begin before the support of its neighbour in the batch does.
        inside = density.support.check(points.expand(-1, *density.batch_shape))
        safe = torch.where(inside, points, ends.mean(0))
        p = torch.where(inside, density.log_prob(safe.to(density.dtype)).exp(), 0.0)
    p = torch.where(p.isfinite(), p, math.nan)
    return x.numpy(), p.double().cpu().reshape(len(x), -1).numpy()


def _nodes_of(density: NormalizedDensity) -> list[Array]:
    """The nodes of the normaliser of each density of a batch."""
    batch = tuple(density.batch_shape)
    count = math.prod(batch)
    seen: list[tuple[Tensor, Tensor]] = []

    def record(x: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        *own, index = args
        seen.append((x, index.expand(x.shape)))
        return density.log_unnormalized(x, *own)

    # The number of a density as an arg: it is there wherever nodes are chosen by it.
    index = torch.arange(count, device=density.device).reshape(batch)
    with torch.no_grad():
        log_integrate(
            record,
            density.domain,
            density._plan,
            args=(*density.args, index),
            batch_shape=batch,
            breakpoints=density.breakpoints,
        )
    points = torch.cat([x.reshape(-1) for x, _ in seen])
    owner = torch.cat([i.reshape(-1) for _, i in seen])
    return [np.unique(points[owner == k].double().cpu().numpy()) for k in range(count)]
