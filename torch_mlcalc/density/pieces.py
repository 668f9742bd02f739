"""A network evaluated on a few nodes at a time, which the allocator likes better."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from torch_mlcalc.quadrature.contract import Saved
from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.quadrature.integrand import Function

#: Bytes that the graph of a piece keeps. Measured for 1000 densities of a 2x64 network
#: on 32 nodes, forward and backward on one core: 74 ms in one piece of 17 MiB, 17 of
#: them for 6,700 pages mapped anew at every step, as the C library gives its arrays of
#: 8 MiB back; 58 ms with 850 pages in pieces of 1 MiB, 57 ms at 4 MiB, 69 at 0.5 MiB.
PIECE_BYTES = 2**20


def in_pieces(function: Function) -> Function:
    """The same function, evaluated on pieces of the nodes if its graph is large.

    Only the memory of each piece is smaller: all graphs are kept. The first node tells
    how large they are.

    Args:
        function: Function of points ``(n, *batch)`` and further arguments.

    Returns:
        A function with the same values and derivatives.
    """
    return partial(_evaluate, function)


def _evaluate(function: Function, points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
    hidden = transforming() or dual_level() or torch.compiler.is_compiling()
    if len(points) < 2 or hidden or not torch.is_grad_enabled():
        return function(points, *args)
    saved = Saved()
    with saved_tensors_hooks(saved.pack, saved.unpack):
        first = function(points[:1], *args)
    if not isinstance(first, Tensor) or first.shape[:1] != (1,):
        return function(points, *args)  # to be refused with the shape it has
    size = max(1, PIECE_BYTES // saved.bytes) if saved.bytes else len(points)
    starts = range(1, len(points), size)
    rest = [function(points[i : i + size], *args) for i in starts]
    return torch.cat([first, *rest])
