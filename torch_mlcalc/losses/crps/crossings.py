"""Where a function changes its sign, which is where its absolute value has a kink."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from torch_mlcalc.quadrature.brackets import narrowed
from torch_mlcalc.quadrature.host import frozen, transforming

#: Sign changes that are looked for: two normal densities have two, mixtures of four
#: have up to eight. Those beyond cost accuracy that the rule reports.
MOST = 8

#: Halvings that bring any bracket of float64 numbers of one sign to neighbours.
HALVINGS = 60


def crossings(function: Callable[[Tensor], Tensor], grid: Tensor) -> Tensor:
    r"""Zeros between points of a grid that have different signs.

    They carry the gradient of the implicit function,
    :math:`dx/d\theta = -f_\theta / f_x`, so that an integral of :math:`|f|` that is
    split there has the right second derivative.

    Args:
        function: Function of points ``(n, *batch)`` that returns ``(n, *batch)``.
        grid: Ascending points ``(n, *batch)``, constants.

    Returns:
        Zeros ``(k, *batch)``; the first point of the grid in the place of those that
        are not there.
    """
    with frozen():
        low, high, found, rising = _brackets(function(grid) > 0, grid)
        low, high = narrowed(
            lambda x: (function(x.flatten(0, 1)).reshape(x.shape) > 0) == rising,
            low,
            high,
            HALVINGS,
        )
        at = torch.where(found, (low + high) / 2, grid[:1])
        slope = _slope(function, at)
        width = (grid[1:] - grid[:-1]).amax(0)
    value = function(at)
    step = value / slope
    # A jump over 0 has no slope; it stands still.
    smooth = found & step.detach().isfinite() & (step.detach().abs() < 1e-3 * width)
    return at - torch.where(smooth, value / torch.where(smooth, slope, 1), 0)


def _brackets(positive: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ends of the first intervals with a change, which are such, and which go up."""
    change = positive[1:] != positive[:-1]
    count = min(MOST, len(change))
    order = torch.sort((~change).to(torch.int8), dim=0, stable=True).indices[:count]
    found = change.gather(0, order)
    low, high = grid[:-1].gather(0, order), grid[1:].gather(0, order)
    return low, high, found, positive[1:].gather(0, order)


def _slope(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    """Derivative by the points, each of which matters for its own value alone."""
    if transforming():
        return torch.func.grad(lambda x: function(x).sum())(at)
    # Not by torch.func, inside of which a density could not look for its nodes.
    with torch.enable_grad():
        x = at.detach().requires_grad_()
        total = function(x).sum()
        if not total.requires_grad:
            return torch.zeros_like(x)  # constant between jumps
        return torch.autograd.grad(total, x, materialize_grads=True)[0]
