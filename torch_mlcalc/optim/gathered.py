"""The update of small vectors whose momentum lies together in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from torch_mlcalc.optim.foreach import decayed_
from torch_mlcalc.optim.options import Numbers

Tensors = list[Tensor]

#: Elements of one block. With several threads torch.cat copies a block of 32768 or more
#: by one call for each tensor, a smaller one by one loop: 5.5 against 1.0 ms for 2000.
MAX_ELEMENTS = 32767


class Gathered:
    """The formula of :class:`SGD` for vectors, with momentum in one block.

    One call for each parameter and operation is most of the time of the update of small
    vectors. Of three operations this leaves one, and a copy of each gradient, which is
    cheaper than an operation: momentum is updated as a whole. From 2 vectors on it was
    faster than :func:`foreach_` on 2 threads, by 1.1 times for 4 and 1.4 for 64.

    The buffers remain the tensors that they were, each with a storage of its own, so
    that a checkpoint or a copy of one has not the others in it. Just their memory is
    now side by side.
    """

    def __init__(self, buffers: Tensors) -> None:
        """Move momentum buffers into one block.

        Args:
            buffers: Vectors of float32 or float64 on a CPU, no two of them the same.
        """
        sizes = [buffer.numel() for buffer in buffers]
        self._momentum = torch.cat(buffers)
        self._grads = torch.empty_like(self._momentum)
        self._views = [
            list(torch.split(b, sizes)) for b in (self._momentum, self._grads)
        ]
        array = self._momentum.numpy()
        ends = itertools.pairwise(itertools.accumulate(sizes, initial=0))
        for buffer, (start, stop) in zip(buffers, ends, strict=True):
            buffer.data = torch.from_numpy(array[start:stop])
        self._places = list(map(Tensor.data_ptr, buffers))

    def holds(self, buffers: Sequence[Tensor]) -> bool:
        """Return whether the memory of the buffers is where it was put.

        Args:
            buffers: The buffers.
        """
        return list(map(Tensor.data_ptr, buffers)) == self._places

    def __call__(
        self, params: Tensors, grads: Tensors, buffers: Tensors, numbers: Numbers
    ) -> None:
        """Apply the formula, but for the last vector register equal to the reference.

        Args:
            params: Parameters, changed in place.
            grads: Their gradients, never written to.
            buffers: Their momentum buffers, those that were moved.
            numbers: The options, all of them numbers.
        """
        del buffers  # They are views of what is changed here.
        momentum = numbers.momentum
        torch.cat(decayed_(params, grads, numbers), out=self._grads)
        self._momentum.mul_(momentum).add_(self._grads, alpha=1 - numbers.dampening)
        if numbers.nesterov:
            self._grads.add_(self._momentum, alpha=momentum)
        directions = self._views[numbers.nesterov]
        torch._foreach_add_(params, directions, alpha=-numbers.lr)


def blocks_of(positions: list[int], tensors: Tensors) -> list[list[int]]:
    """Divide small vectors into blocks.

    Args:
        positions: Where the vectors are.
        tensors: Among which tensors.

    Returns:
        Positions for each block.
    """
    blocks: list[list[int]] = []
    room = -1
    for i in positions:
        size = tensors[i].numel()
        if size > room:
            blocks.append([])
            room = MAX_ELEMENTS
        blocks[-1].append(i)
        room -= size
    return blocks
