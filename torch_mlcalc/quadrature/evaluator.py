"""Evaluating the integrand at points that an adaptive rule chose on the host."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import BLOCK_BYTES, block_bytes, block_of
from torch_mlcalc.quadrature.host import read, transforming, write
from torch_mlcalc.quadrature.integrand import CPU, Callee
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array

Values = npt.NDArray[Any]

#: Blocks of a search of many integrals are so many times as large as those of a sum:
#: what is done with one takes half a millisecond besides. 10,000 peaks took on one core
#: 42 ms at 1, 28 at 2, 27 at 4 and 34 at 8 for widths of 0.02 and more, and 92, 71, 62
#: and 69 ms for 0.001 and more.
SEARCHED = 4


class Evaluator:
    """Calls the integrand at host points for any subset of the integrals.

    Only the first call may record a gradient, which tells whether one is wanted.

    With batched args (and outside torch.func) only the rows asked for are evaluated.
    Without, the integrand may close over batched tensors, so it always gets the whole
    batch. Points in several dimensions have their coordinates behind, ``(k, m, d)``.

    Attributes:
        elements: Number of integrals, the mapped dimensions of vmap included.
        event_shape: Trailing dimensions of the values; known after the first call.
        dtype: Dtype of the integrals; known after the first call.
        requires_grad: Whether the values carry a gradient; likewise.
        single: Whether points are rounded to single precision or less.
        on_host: Whether the integrand runs on the CPU.
    """

    def __init__(
        self,
        integrand: Callee,
        lead: tuple[int, ...],
        mark: Tensor | None,
        home: Array,
        memory: int | None,
        *,
        grad: bool,
    ) -> None:
        """Take what one search needs; nothing is evaluated yet.

        Args:
            integrand: The function with its args.
            lead: Sizes of the mapped dimensions of vmap, outermost first.
            mark: A tensor mapped over these dimensions, or None without them.
            home: A point inside each domain, for elements nobody asked for.
            memory: Bytes that one call may use.
            grad: Whether the caller records gradients; the search itself does not.
        """
        self.integrand = integrand
        self.lead = lead
        self.mark = mark
        self.home = home
        self.memory = memory
        self.grad = grad
        self.elements = home.shape[0]
        self.tail = home.shape[1:]
        self.event_shape: tuple[int, ...] = ()
        self.dtype = integrand.dtype
        self.requires_grad = False
        self.single = integrand.dtype.itemsize <= 4
        # To ask for the type makes a string of it.
        self.on_host = integrand.device is CPU or integrand.device.type == "cpu"
        self._fresh = True
        self.gathers = bool(
            self.elements > 1
            and not transforming()
            and any(isinstance(a, Tensor) and a.ndim for a in integrand.args)
        )

    def __call__(self, element: Index, points: Array) -> Values:
        """Values ``(k, m, events)`` at points ``(k, m)`` of elements ``(m,)``.

        Several processes share the columns, or the nodes of all columns where there are
        more of these or the whole batch is evaluated anyway.

        Returns:
            The values, on every process all of them.
        """
        ranks = self.integrand.ranks
        if ranks is None:
            return self._evaluate(element, points)
        k, m = points.shape[:2]
        axis = int(m > k and (self.elements == 1 or self.gathers))
        start, stop, _ = ranks.share(points.shape[axis])
        if axis:
            own = self._evaluate(element[start:stop], points[:, start:stop])
        else:
            own = self._evaluate(element, points[start:stop])
        return ranks.collect(own, points.shape[axis], axis)

    def _evaluate(self, element: Index, points: Array) -> Values:
        k, m = points.shape[:2]
        if self.elements > 1 and not self.gathers:
            return self._whole_batch(element, points)
        blocks = self.blocks(m, k)
        if len(blocks) == 1:
            return self._columns(element, points)
        first = self._columns(element[blocks[0]], points[:, blocks[0]])
        values = np.empty((k, m, self._events), first.dtype)
        values[:, blocks[0]] = first
        # At once: the next values may be written where these are.
        for i in blocks[1:]:
            values[:, i] = self._columns(element[i], points[:, i])
        return values

    def blocks(self, columns: int, nodes: int) -> list[slice]:
        """Which columns, of so many nodes each, are evaluated together."""
        size = columns
        if self.elements == 1 or self.gathers:
            budget = block_bytes(self.memory, self.integrand.device)
            if self.gathers and self.memory is None and self.on_host:
                budget *= max(SEARCHED // max(self._events, 1), 1)
            size = min(columns, max(budget // (nodes * self._bytes), 1))
        return [slice(i, i + size) for i in range(0, columns, max(size, 1))]

    def in_one_block(self, columns: int, nodes: int) -> bool:
        """Whether so many columns of a single integral are evaluated together."""
        size = columns * nodes * self.integrand.dtype.itemsize
        if self.memory is None and size <= BLOCK_BYTES:
            return True
        return columns == 1 or size <= block_bytes(self.memory, self.integrand.device)

    @property
    def is_alone(self) -> bool:
        """Whether :meth:`row` will do: one integral, on one process, without vmap."""
        shared = self.integrand.ranks is not None
        return self.elements == 1 and self.mark is None and not shared

    @property
    def is_plain(self) -> bool:
        """Whether each value was a single real number."""
        return not (self._fresh or self.event_shape or self.dtype.is_complex)

    @property
    def _bytes(self) -> int:
        """Size of one point."""
        return self.integrand.dtype.itemsize * math.prod(self.tail)

    @property
    def _events(self) -> int:
        return math.prod(self.event_shape)

    def _columns(self, element: Index, points: Array) -> Values:
        k, m = points.shape[:2]
        if not self.gathers:
            values = self._call(points.reshape(-1, 1, *self.tail))
            return values.reshape(k, m, self._events)
        # One row more where the rows would pass for the whole batch: a closed-over
        # batched tensor then fails on its shape instead of meeting the wrong rows.
        if m == self.elements and not np.array_equal(element, np.arange(m)):
            element = np.append(element, element[-1:])
            points = np.append(points, points[:, -1:], axis=1)
        rows = torch.tensor(element, device=self.integrand.device)
        return self._call(points, rows)[:, :m]

    def _whole_batch(self, element: Index, points: Array) -> Values:
        k = points.shape[0]
        slot, cells = slots(element, self.elements)
        dense = np.empty((k, cells, self.elements, *self.tail))
        dense[:] = self.home
        dense[:, :, element] = points[:, None]
        dense[:, slot, element] = points
        each = k * self.elements * self._bytes
        size = block_of(cells, each, self.memory, self.integrand.device).size
        shape = (-1, self.elements, *self.tail)
        values = [
            self._call(dense[:, i : i + size].reshape(shape)).reshape(
                k, -1, self.elements, self._events
            )
            for i in range(0, cells, size)
        ]
        return np.concatenate(values, axis=1)[:, slot, element]

    def row(self, points: Array) -> Values:
        """Values ``(n, *event)`` at points ``(n,)`` of the only integral on a line."""
        tensor = torch.from_numpy(points.copy("K"))  # as it lies in memory
        if not self.on_host:
            tensor = tensor.to(self.integrand.device)
        batch = self.integrand.batch_shape
        if not batch:
            found = self._values(tensor)
            # Nearly always; what read does besides takes as long as this.
            if found.dtype is torch.float64 and self.on_host:
                found = found.detach() if found.requires_grad else found
                array: Values = found.numpy()
                return array
            return read(found)
        values = read(self._values(tensor.reshape(len(points), *batch, *self.tail)))
        return values.reshape(len(points), *self.event_shape)

    def _values(self, tensor: Tensor, rows: Tensor | None = None) -> Tensor:
        integrand = self.integrand
        if tensor.dtype != integrand.dtype:
            tensor = tensor.to(integrand.dtype)
        # The first call tells whether a gradient will be wanted at all, also of
        # closed-over tensors, and none after it has to record one. To set a mode that
        # changes nothing takes as long as a small operation.
        enabled = torch.is_grad_enabled()
        records = self.grad if self._fresh else enabled and not self.requires_grad
        if records == enabled:
            values = integrand(tensor, rows)
        else:
            with torch.set_grad_enabled(records):
                values = integrand(tensor, rows)
        if not self._fresh:
            return values
        if self.tail or values.ndim > tensor.ndim:
            self.event_shape = tuple(values.shape[tensor.ndim - len(self.tail) :])
        self.dtype = integrand.result_dtype(values)
        self.requires_grad = values.requires_grad
        self._fresh = False
        return values

    def _call(self, points: Array, rows: Tensor | None = None) -> Values:
        """Host points ``(n, columns)`` to host values ``(n, columns, events)``."""
        integrand, n = self.integrand, points.shape[0]
        if rows is None:
            shape = (n, *self.lead, *integrand.batch_shape, *self.tail)
            points = points.reshape(shape)
            if self.lead:
                points = np.moveaxis(points, 0, len(self.lead))
        if self.tail and self.mark is None and points.strides[1] == 0:
            # The same nodes for all, to be placed by a chart: not written out.
            tensor = write(points[:, :1].copy(), None, integrand.device)
            tensor = tensor.expand(points.shape)
        else:
            tensor = write(points.copy(), self.mark, integrand.device)
        array = read(self._values(tensor, rows), self.mark)
        if self.lead:
            array = np.moveaxis(array, len(self.lead), 0)
        columns = points.size // (n * math.prod(self.tail))
        return array.reshape(n, columns, self._events)


def slots(element: Index, elements: int) -> tuple[Index, int]:
    """The how-many-th cell of its element each cell is, and the largest number."""
    counts = np.bincount(element, minlength=elements)
    if counts.max() == 1:
        return np.zeros_like(element), 1
    order = np.argsort(element, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    slot = np.empty_like(element)
    slot[order] = np.arange(element.size) - starts[element[order]]
    return slot, int(counts.max())
