"""Plans of integrals on a line."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple, cast, final

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import (
    LinearSum,
    LogSum,
    Sum,
    accumulator,
    block_of,
    sum_blocks,
    together,
)
from torch_mlcalc.quadrature.domains import Extent, Limit, of_numbers
from torch_mlcalc.quadrature.host import dual_level, on_device, readable, transforming
from torch_mlcalc.quadrature.integrand import Integrand, as_result
from torch_mlcalc.quadrature.nodes import Cells
from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE, WHOLE
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
        pieces = _place(self.kinds, extent, integrand, breakpoints)
        add: Sum = LogSum() if log else LinearSum()
        total = None
        for cells in self.cells:
            part = partial(_part, cells, pieces, integrand, add, self.gathers)
            count = cells.positions.shape[1]
            if integrand.ranks is not None and len(cells.positions) > count:
                # A few cells of many nodes are shared node by node.
                count = len(cells.positions)
                part = partial(_nodes_part, cells, pieces, integrand, add, self.gathers)
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
            total = total if log else _blank(total, pieces)
        return as_result(_signed(total, pieces.sign, log=log), integrand)

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


class Placed(NamedTuple):
    """The pieces of a domain on the device, ``(pieces,)``, and the sign ``(*batch)``.

    Where all pieces are placed alike, from numbers, ``positive``, ``negative`` and
    ``unit`` are ``()`` and ``sign`` is None, for 1. ``lower`` and ``upper`` carry
    gradients and are 0 where infinite; they are None if no limit can carry one.
    """

    positive: Tensor
    negative: Tensor
    unit: Tensor
    kind: Tensor
    lower: Tensor | None
    upper: Tensor | None
    sign: Tensor | None


def _place(
    kinds: Tensor, extent: Extent, integrand: Integrand, breakpoints: Tensor | None
) -> Placed:
    batch, wide = integrand.batch_shape, accumulator(integrand.dtype)
    if breakpoints is None and of_numbers(extent) and readable(kinds):
        placed = _place_alike(kinds, extent, integrand)
        if placed is not None:
            return placed

    def full(limit: Limit) -> Tensor:
        tensor = on_device(limit, wide, integrand.device)
        return tensor.expand(batch).reshape(1, -1)

    lower, upper, loc, scale = (full(limit) for limit in extent)
    ordered = lower <= upper
    # Chosen by comparison: at equal limits minimum and maximum would give each of the
    # two half of the gradient.
    low, high = torch.where(ordered, lower, upper), torch.where(ordered, upper, lower)
    if readable(kinds) and readable(low):
        _refuse_other_ends(kinds, low, high)
    edges = [low, high]
    if breakpoints is not None:
        own = breakpoints.shape[1:]
        inner = breakpoints.to(wide).reshape(
            len(breakpoints), *(1,) * (len(batch) - len(own)), *own
        )
        inner = inner.expand(-1, *batch).flatten(1) if batch else inner.reshape(-1, 1)
        inner = torch.minimum(torch.maximum(inner, low), high).sort(0).values
        edges = [low, inner, high]
    ladder = torch.cat(edges)
    ladder = torch.where(ladder.isfinite(), ladder, 0)
    begin, end = ladder[:-1].reshape(-1), ladder[1:].reshape(-1)
    count = ladder.shape[0] - 1
    loc, scale = loc.expand(count, -1).reshape(-1), scale.expand(count, -1).reshape(-1)
    a, b, loc, scale = begin.detach(), end.detach(), loc.detach(), scale.detach()
    whole = kinds == WHOLE
    # Between equal limits there is nothing, but a derivative by either of them.
    sign = torch.where(ordered, 1, -1) * (~lower.isinf() | (lower != upper))
    live = _moves(extent, breakpoints)
    return Placed(
        torch.where(whole, loc, torch.where(kinds == BELOW, b, a)),
        torch.where(whole, loc, torch.where(kinds == ABOVE, a, b)),
        torch.where(kinds == FINITE, b - a, scale),
        kinds,
        begin if live else None,
        end if live else None,
        sign.reshape(batch),
    )


def _place_alike(kinds: Tensor, extent: Extent, integrand: Integrand) -> Placed | None:
    """The piece between two numbers, which all integrals have in common.

    The general way takes 30 operations, of one integral more than half of the time.

    Returns:
        The piece, or None where there is more to it: reversed or equal limits, or a
        plan made for other ends.
    """
    lower, upper, loc, scale = cast("tuple[float, ...]", extent)
    wide, device = accumulator(integrand.dtype), integrand.device
    # Closer than that they may be equal as tensors.
    if not upper - lower >= torch.finfo(wide).tiny:
        return None
    kind = BELOW * (lower == -math.inf) | ABOVE * (upper == math.inf)
    if not (kinds.numpy() == kind).all():
        return None
    anchors = {
        FINITE: (lower, upper, upper - lower),
        BELOW: (upper, upper, scale),
        ABOVE: (lower, lower, scale),
        WHOLE: (loc, loc, scale),
    }[kind]
    positive, negative, unit = (on_device(a, wide, device) for a in anchors)
    return Placed(positive, negative, unit, kinds, None, None, None)


def _refuse_other_ends(kinds: Tensor, low: Tensor, high: Tensor) -> None:
    """Refuse a plan for a range with other infinite ends: its nodes are elsewhere."""
    if not kinds.numel():
        return
    # On the host torch's operations take three times as long.
    lower, upper = low[0].detach().numpy(), high[0].detach().numpy()
    every = kinds.numpy().reshape(-1, lower.size)
    below, above = (np.logical_or.reduce(every & bit) for bit in (BELOW, ABOVE))
    other = (np.isinf(lower) != below) | (np.isinf(upper) != above)
    # At one infinity there is nothing; nodes of a half line would begin at one number.
    if (other & ((lower != upper) | np.isfinite(lower))).any():
        raise ValueError(
            "the plan was made for ranges with other infinite ends than those of the "
            "domain; make a new one with adapt. Finite limits may move."
        )


def _moves(extent: Extent, breakpoints: Tensor | None) -> bool:
    """Whether a derivative by a limit or breakpoint may be asked for."""
    tensors = [
        t for t in (extent.lower, extent.upper, breakpoints) if isinstance(t, Tensor)
    ]
    if transforming() or dual_level():
        return bool(tensors)
    return any(t.requires_grad for t in tensors)


def _nodes(cells: Cells, pieces: Placed) -> tuple[Tensor, Tensor]:
    """Points and weights of some cells; gradients of the limits flow through both."""
    p = cells.positions.to(pieces.unit.dtype)
    w = cells.weights.to(pieces.unit.dtype)
    piece = cells.piece
    positive, negative, unit = pieces[:3]
    if unit.ndim:
        positive, negative, unit = positive[piece], negative[piece], unit[piece]
    points = torch.where(p >= 0, positive, negative)
    points, weights = points + unit * p, unit * w
    if pieces.lower is None or pieces.upper is None:
        return points, weights
    # Zeros that carry the derivative of the limits.
    lower, upper = pieces.lower[piece], pieces.upper[piece]
    lower, upper = lower - lower.detach(), upper - upper.detach()
    kind = pieces.kind[piece]
    low, high = cells.low.to(p.dtype), cells.high.to(p.dtype)
    # Only cells at the ends of a finite piece stretch; see Part.
    at_low = (kind == FINITE) & (low == 0)
    at_high = (kind == FINITE) & (high == 1)
    fraction = torch.where(p >= 0, p, 1 + p)
    rise = (fraction - low) / (high - low)
    pull_low = torch.where(at_low, 1 - rise, (kind == ABOVE).to(p.dtype))
    pull_high = torch.where(at_high, rise, (kind == BELOW).to(p.dtype))
    points = points + pull_low * lower + pull_high * upper
    stretch = torch.where(at_high, upper, 0) - torch.where(at_low, lower, 0)
    return points, weights + w / (high - low) * stretch


def _part(
    cells: Cells,
    pieces: Placed,
    integrand: Integrand,
    add: Sum,
    gathers: bool,
    start: int,
    stop: int,
) -> Tensor:
    """Contribution of the cells ``start`` to ``stop``."""
    some = cells
    if stop - start < cells.positions.shape[1]:
        some = Cells(
            cells.positions[:, start:stop],
            cells.weights[:, start:stop],
            *(column[start:stop] for column in cells[2:]),
        )
    points, weights = _nodes(some, pieces)
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


def _nodes_part(
    cells: Cells,
    pieces: Placed,
    integrand: Integrand,
    add: Sum,
    gathers: bool,
    start: int,
    stop: int,
) -> Tensor:
    """Contribution of nodes ``start`` to ``stop`` of every cell."""
    some = cells._replace(
        positions=cells.positions[start:stop], weights=cells.weights[start:stop]
    )
    return _part(some, pieces, integrand, add, gathers, 0, cells.positions.shape[1])


def _signed(total: Tensor, sign: Tensor | None, *, log: bool) -> Tensor:
    if sign is None:
        return total
    sign = sign.reshape(sign.shape + (1,) * (total.ndim - sign.ndim))
    if log:
        return torch.where(sign == 0, -torch.inf, total)
    return torch.where(sign == 0, 0, total * sign.to(total.dtype))


def _blank(total: Tensor, pieces: Placed) -> Tensor:
    """Remove what 0 times an infinite integrand left behind between equal limits."""
    if pieces.sign is None:
        return total
    empty = pieces.unit.reshape(-1, pieces.sign.numel()).sum(0) == 0
    empty = empty.reshape(pieces.sign.shape + (1,) * (total.ndim - pieces.sign.ndim))
    return torch.where(empty & ~total.isfinite(), 0, total)


def _nothing(integrand: Integrand, *, log: bool) -> Tensor:
    """All limits are equal: nothing was ever evaluated, so there is no event shape."""
    if 0 in integrand.batch_shape:
        return none_of(integrand)
    value = -torch.inf if log else 0.0
    return torch.full(
        integrand.batch_shape, value, dtype=integrand.dtype, device=integrand.device
    )
