"""Plans of integrals on a line."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, final
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import (
    LinearSum,
    LogSum,
    Sum,
    block_bytes,
    block_of,
    sum_blocks,
    together,
)
from torch_mlcalc.quadrature.domains import Extent, of_numbers
from torch_mlcalc.quadrature.host import readable
from torch_mlcalc.quadrature.integrand import (
    Function,
    Integrand,
    as_result,
    bind_alone,
)
from torch_mlcalc.quadrature.line_nodes import (
    Placed,
    nodes_of_cells,
    place_alike,
    place_pieces,
)
from torch_mlcalc.quadrature.nodes import Cells
from torch_mlcalc.quadrature.plan import Plan, none_of


@final
@dataclass(frozen=True, eq=False, repr=False)
class LinePlan(Plan):
    """A plan in one dimension: cells of nodes on the pieces between breakpoints.

    Attributes:
        breakpoints: Number of breakpoints that it was made with.
    """

    batch_shape: tuple[int, ...]
    breakpoints: int
    kinds: Tensor
    cells: tuple[Cells, ...]
    gathers: bool
    error: Tensor
    status: Tensor
    n_evals: Tensor

    @property
    def n(self) -> int:
        """Largest number of nodes of an integral."""
        if not self.gathers:
            return sum(c.positions[..., 0].numel() for c in self.cells)
        elements = self.kinds.shape[-1]
        counts = torch.zeros(elements, dtype=torch.int64, device="cpu")
        for c in self.cells:
            counts += (
                torch.bincount(c.piece.cpu() % elements, minlength=elements)
                * c.positions.shape[0]
            )
        return int(counts.max()) if elements else 0

    def __repr__(self) -> str:
        """Size and outcome; the nodes themselves can be many."""
        return (
            f"Plan(n={self.n}, batch_shape={self.batch_shape}, "
            f"breakpoints={self.breakpoints})"
        )

    def to(self, device: torch.device | str) -> LinePlan:
        """The same plan on another device."""
        return replace(
            self,
            kinds=self.kinds.to(device),
            cells=tuple(Cells(*(t.to(device) for t in c)) for c in self.cells),
            error=self.error.to(device),
            status=self.status.to(device),
            n_evals=self.n_evals.to(device),
        )

    def _parts(self) -> dict[str, Any]:
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "cells": [tuple(c) for c in self.cells],
        }

    @classmethod
    def _from_parts(cls, parts: dict[str, Any]) -> LinePlan:
        cells = tuple(Cells(*c) for c in parts["cells"])
        return cls(
            **{**parts, "batch_shape": tuple(parts["batch_shape"]), "cells": cells}
        )

    def apply(
        self,
        extent: Extent,
        integrand: Integrand,
        breakpoints: Tensor | None = None,
        *,
        log: bool = False,
        memory: int | None = None,
    ) -> Tensor:
        """The integral of a function over the domain with limits ``extent``."""
        self._refuse_other_batch(integrand, breakpoints)
        value = None if log else self._at_once(extent, integrand, memory)
        if value is not None:
            return value
        pieces = place_pieces(self.kinds, extent, integrand, breakpoints)
        add: Sum = LogSum() if log else LinearSum()
        total = None
        for cells in self.cells:
            # Of several processes, a few cells of many nodes are shared node by node.
            nodes, columns = cells.positions.shape[:2]
            axis = int(integrand.ranks is None or nodes <= columns)
            count = columns if axis else nodes
            part = partial(_part, cells, pieces, integrand, add, self.gathers, axis)
            width = cells.positions.numel() // count * integrand.dtype.itemsize
            whole = torch.compiler.is_compiling()
            device, ranks = integrand.device, integrand.ranks
            block = block_of(count, width, memory, device, whole=whole)
            value = sum_blocks(part, count, block, add, memory, ranks)
            total = value if total is None else add.join(total, value)
        if total is None:
            total = _nothing(integrand, log=log)
        else:
            total = together(total, add, integrand.ranks)
            total = _blank(total, pieces, add)
        return as_result(_signed(total, pieces.sign, log=log), integrand)

    def apply_at_once(self, extent: Extent, function: Function) -> Tensor | None:
        """A single integral of a function without args; None if it is not that."""
        if self.batch_shape or self.breakpoints:
            return None
        return self._at_once(extent, bind_alone(function), None)

    def _at_once(
        self, extent: Extent, integrand: Integrand, memory: int | None
    ) -> Tensor | None:
        """The integrals from one call at nodes that were placed before.

        To place those of a single integral and to add them up cell by cell takes ten
        times as long as a cheap integrand.

        Returns:
            The integrals, or None where there is more to it.
        """
        alone = integrand.ranks is None and not self.breakpoints
        if not (alone and of_numbers(extent) and readable(self.kinds)):
            return None
        size = sum(c.positions.numel() for c in self.cells) * integrand.dtype.itemsize
        device = integrand.device
        if not 0 < size <= block_bytes(memory, device) or device != self.kinds.device:
            return None
        key, placed = (extent, integrand.dtype), _placed.get(self)
        if placed is None or placed[0] != key:
            placed = _placed[self] = key, self._together(extent, integrand)
        if placed[1] is None:
            return None
        points, weights = placed[1]
        # An integrand may write to its points.
        total = LinearSum()(weights, weights, integrand(points.clone()))
        return as_result(total, integrand)

    def _together(
        self, extent: Extent, integrand: Integrand
    ) -> tuple[Tensor, Tensor] | None:
        """All points and weights, ``(n, *batch)``; None if rows differ in number."""
        pieces = place_alike(self.kinds, extent, integrand)
        every = torch.arange(math.prod(self.batch_shape), device="cpu")
        rows = self.gathers and not all(c.piece.equal(every) for c in self.cells)
        if pieces is None or rows:
            return None
        with torch.inference_mode(False), torch.no_grad():
            nodes = [nodes_of_cells(cells, pieces) for cells in self.cells]
            points, weights = (
                torch.cat([t.reshape(-1, *self.batch_shape) for t in column])
                for column in zip(*nodes, strict=True)
            )
            return points.to(integrand.dtype), weights

    def _refuse_other_batch(
        self, integrand: Integrand, breakpoints: Tensor | None
    ) -> None:
        if integrand.batch_shape != self.batch_shape:
            raise ValueError(
                f"the plan was made for integrals of shape {self.batch_shape}, the "
                f"limits and args now have shape {integrand.batch_shape}; make a new "
                "one with adapt, or pass limits and args of the old shape."
            )
        count = 0 if breakpoints is None else breakpoints.shape[0]
        if count != self.breakpoints:
            raise ValueError(
                f"the plan was made with {self.breakpoints} breakpoints, got {count}; "
                "pass breakpoints= as it was passed to adapt."
            )


#: Where the nodes of plans lay when they were last used.
_placed: WeakKeyDictionary[
    LinePlan, tuple[tuple[Extent, torch.dtype], tuple[Tensor, Tensor] | None]
] = WeakKeyDictionary()


def _part(
    cells: Cells,
    pieces: Placed,
    integrand: Integrand,
    add: Sum,
    gathers: bool,
    axis: int,
    start: int,
    stop: int,
) -> Tensor:
    """Contribution of the cells ``start`` to ``stop``, or of these nodes of all."""
    some = cells
    if stop - start < cells.positions.shape[axis]:
        columns = [c[start:stop] if axis else c for c in cells[2:]]
        here = (slice(None),) * axis + (slice(start, stop),)
        some = Cells(cells.positions[here], cells.weights[here], *columns)
    points, weights = nodes_of_cells(some, pieces)
    points = points.to(integrand.dtype)
    if not gathers:
        shape = (-1, *integrand.batch_shape)
        points, weights = points.reshape(shape), weights.reshape(shape)
        return add(weights, add.weigh(weights), integrand(points))
    elements = math.prod(integrand.batch_shape)
    rows = some.piece % elements
    # As in the search: rows must never pass for the whole batch.
    if rows.numel() == elements:
        points = torch.cat([points, points[:, -1:]], 1)
        values = integrand(points, torch.cat([rows, rows[-1:]]))[:, :-1]
    else:
        values = integrand(points, rows)
    total = add.spread(add(weights, add.weigh(weights), values), rows, elements)
    return total.reshape(*integrand.batch_shape, *total.shape[1:])


def _signed(total: Tensor, sign: Tensor | None, *, log: bool) -> Tensor:
    if sign is None:
        return total
    sign = sign.reshape(sign.shape + (1,) * (total.ndim - sign.ndim))
    if log:
        return torch.where(sign == 0, -torch.inf, total)
    return torch.where(sign == 0, 0, total * sign.to(total.dtype))


def _blank(total: Tensor, pieces: Placed, rule: Sum) -> Tensor:
    """Remove what 0 times an infinite integrand left behind between equal limits."""
    if pieces.sign is None:
        return total
    empty = pieces.unit.reshape(-1, pieces.sign.numel()).sum(0) == 0
    empty = empty.reshape(pieces.sign.shape + (1,) * (total.ndim - pieces.sign.ndim))
    return torch.where(empty & ~total.isfinite(), rule.nothing, total)


def _nothing(integrand: Integrand, *, log: bool) -> Tensor:
    """All limits are equal: nothing was ever evaluated, so there is no event shape."""
    if 0 in integrand.batch_shape:
        return none_of(integrand)
    value = -torch.inf if log else 0.0
    return torch.full(
        integrand.batch_shape, value, dtype=integrand.dtype, device=integrand.device
    )
