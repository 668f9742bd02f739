"""A distribution function on the nodes of its normaliser, in blocks of panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.density.panels import Block
from torch_mlcalc.density.ranges import Range
from torch_mlcalc.precision import full_precision
from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.evaluator import slots
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.primitive import Piecewise, find
from torch_mlcalc.quadrature.rules import Array


class Plates(NamedTuple):
    """Blocks on the device, and their panels in the order of the points.

    Attributes:
        nodes: Nodes of each block, ``(k, columns, *batch)``.
        beyond: Numbers of two nodes and a rate for each node, of blocks that go on
            behind their ends (see :class:`Beyond`); None of others.
        scale: Logs of what the density is multiplied by, like the nodes.
        matrices: From there to series, ``(panels, terms, k)``.
        order: Numbers of the panels of all blocks in order, ``(n, *batch)``.
        some: Which of these are not padding, at the end.
        ranges: The range of each panel, ``(n, *batch)``.
        middle: Its middle in the variable of the range.
        half: Half its length.
        edges: Where panels begin, infinite where padded and once more at the end;
            ``(n + 1, *batch)``.
    """

    nodes: list[Tensor]
    beyond: list[tuple[Tensor, Tensor, Tensor] | None]
    scale: list[Tensor]
    matrices: list[Tensor]
    order: Tensor
    some: Tensor
    ranges: Range
    middle: Tensor
    half: Tensor
    edges: Tensor


def plates_of(blocks: Sequence[Block], integrand: Integrand, home: Array) -> Plates:
    """Blocks on the device.

    Args:
        blocks: The blocks.
        integrand: What they are for.
        home: A point in the domain of each element, ``(elements,)``.

    Returns:
        The same as tensors.
    """
    elements, device = home.size, integrand.device
    batch = integrand.batch_shape
    nodes, scales, matrices, beyond = [], [], [], []
    panels: list[Array] = []

    def tensor(array: Array) -> Tensor:
        own = torch.as_tensor(np.ascontiguousarray(array), device=device)
        return own.reshape(*array.shape[:-1], *batch)

    for block in blocks:
        columns = block.columns
        slot, count = slots(columns.element, elements)

        def dense(array: Array, fill: Any, place: Any = (slot, columns.element)) -> Any:  # noqa: ANN401
            shape = (*array.shape[:-1], int(place[0].max()) + 1, elements)
            full = np.empty(shape, array.dtype)
            full[:] = fill
            full[..., place[0], place[1]] = array
            return full

        nodes.append(tensor(dense(columns.x, home)).to(integrand.dtype))
        scales.append(tensor(dense(block.scale, -np.inf)))
        matrices.append(torch.tensor(block.matrix, device=device))
        rest = block.beyond
        beyond.append(
            None
            if rest is None
            else (
                tensor(dense(rest.one, 0)),
                tensor(dense(rest.other, 0)),
                tensor(dense(rest.rate, 0.0)),
            )
        )
        low, high = block.edges[:-1], block.edges[1:]
        x, end = (columns.ranges.points(t)[0] for t in (low, high))
        x = np.where(high > low, x, np.inf)
        end = np.where(high > low, end, -np.inf)
        shown = [*(np.broadcast_to(t, low.shape) for t in columns.ranges)]
        rows = np.stack([x, end, (low + high) / 2, (high - low) / 2, *shown])
        fill = np.array([np.inf, -np.inf, 0, 0, 0, 0, 1, 1]).reshape(8, 1, 1, 1)
        # (8, panels, columns, elements): the panels of all columns one after another.
        panels.append(dense(rows, fill).reshape(8, -1, elements))
    every = np.concatenate(panels, 1)
    # One that rounding has made nothing of comes before that which begins there.
    order = np.lexsort((every[1], every[0]), axis=0)
    order = order[: max(1, int((every[0] < np.inf).sum(0).max()))]
    x, _, middle, half, *shown = np.take_along_axis(every, order[None], 1)
    edges = np.concatenate([x, np.full((1, elements), np.inf)])
    return Plates(
        nodes,
        beyond,
        scales,
        matrices,
        tensor(order),
        tensor(half > 0),
        Range(*(tensor(t) for t in shown)),
        tensor(middle),
        tensor(half),
        tensor(edges),
    )


class Cumulated(Piecewise):
    """The integral of a density up to any point, on the nodes of its normaliser."""

    def __init__(self, density: Integrand, log: Integrand, plates: Plates) -> None:
        """Evaluate the log density at all nodes, as far as it is not known.

        Args:
            density: The density.
            log: Its log.
            plates: The panels.
        """
        self.plates = plates
        terms = max(matrix.shape[1] for matrix in plates.matrices)
        rows = []
        for nodes, beyond, scale, matrix in zip(*plates[:4], strict=True):
            logs = log(nodes.flatten(0, 1)).reshape(nodes.shape)
            wide = accumulator(logs.dtype)
            values = _products(logs.to(wide), beyond, scale.to(wide))
            with full_precision(values.device):
                found = torch.tensordot(matrix.to(wide), values, 1)
            # (panels, terms, columns, *batch): panels and columns are one, in order.
            found = found.transpose(0, 1).flatten(1, 2)
            missing = found.new_zeros((terms - len(found), *found.shape[1:]))
            rows.append(torch.cat([found, missing]))
        every = torch.cat(rows, 1)
        order = plates.order.expand(terms, *plates.order.shape)
        series = torch.where(plates.some, every.gather(1, order), 0)
        super().__init__(density, series)

    def nodes(self) -> Tensor:
        """Points at which the density was evaluated, ``(n, *batch)``."""
        return torch.cat([nodes.flatten(0, 1) for nodes in self.plates.nodes])

    @property
    def last(self) -> Tensor:
        """The last panel of each density: padding sits at the end."""
        return (self.plates.some.sum(0) - 1).clamp(min=0)

    def locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The panels of points ``(m, *batch)``, and the places ``s`` in them."""
        edges = self.plates.edges
        index = torch.minimum(find(edges, x), self.last)
        # Many panels may begin there: those whose points are too small for the dtype.
        index = torch.where(x <= edges[:1], 0, index)
        half = self.plates.half.gather(0, index)
        v = self._ranges(index).variable(x) - self.plates.middle.gather(0, index)
        return index, v / torch.where(half > 0, half, 1)

    def points(self, index: Tensor, s: Tensor) -> Tensor:
        """The points at places in panels, ``(m, *batch)``."""
        half = self.plates.half.gather(0, index)
        v = self.plates.middle.gather(0, index) + half * s
        x: Tensor = self._ranges(index).points(v)[0]
        return x

    def _ranges(self, index: Tensor) -> Range:
        return Range(*(column.gather(0, index) for column in self.plates.ranges))


def _products(
    logs: Tensor, beyond: tuple[Tensor, Tensor, Tensor] | None, scale: Tensor
) -> Tensor:
    """The density times slope at all nodes; 0 where there are none."""
    if beyond is not None:
        one, other, rate = beyond
        here, moves = logs.gather(0, one), rate != 0
        # Where nothing moves both are the same, also where they are infinite.
        there = torch.where(moves, logs.gather(0, other), 0)
        away = torch.where(moves, here, 0) - there
        logs = here + rate.to(logs.dtype) * away
    total = logs + scale
    some = total.isfinite() & (total.detach().exp() < math.inf)
    return torch.where(some, torch.where(some, total, 0).exp(), 0)
