"""Where the nodes of a plan on a line lie, between limits that may have moved."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.domains import Extent, Limit, of_numbers
from torch_mlcalc.quadrature.host import dual_level, on_device, readable, transforming
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.nodes import Cells
from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE, WHOLE


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


def place_pieces(
    kinds: Tensor, extent: Extent, integrand: Integrand, breakpoints: Tensor | None
) -> Placed:
    """The pieces between limits and breakpoints, whose gradients flow through."""
    batch, wide = integrand.batch_shape, accumulator(integrand.dtype)
    if breakpoints is None and of_numbers(extent) and readable(kinds):
        placed = place_alike(kinds, extent, integrand)
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


def place_alike(kinds: Tensor, extent: Extent, integrand: Integrand) -> Placed | None:
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


def nodes_of_cells(cells: Cells, pieces: Placed) -> tuple[Tensor, Tensor]:
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
