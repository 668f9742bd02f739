"""Applying a fixed rule: place its nodes, call the integrand, contract, in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import (
    BLOCK_BYTES,
    LinearSum,
    LogSum,
    Sum,
    accumulator,
    block_of,
    sum_blocks,
)
from torch_mlcalc.quadrature.domains import Extent, of_numbers
from torch_mlcalc.quadrature.host import dual_level, is_plain, kept, readable
from torch_mlcalc.quadrature.integrand import (
    HALF,
    Function,
    Integrand,
    ask,
    checked,
    default_device,
)
from torch_mlcalc.quadrature.placement import (
    ABOVE,
    BELOW,
    FINITE,
    WHOLE,
    Placement,
    place,
    placed_table,
    unfold,
)
from torch_mlcalc.quadrature.rules import Array, FixedRule
from torch_mlcalc.quadrature.spaced import SpacedBlocks

Table = tuple[Tensor, ...]

#: Rules longer than one block make their nodes block by block and keep no table.
_LONGEST_TABLE = BLOCK_BYTES // 8


@kept()
def _cached_table(
    family: type[FixedRule],
    settings: tuple[object, ...],
    kind: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Table:
    """Positions, weights and log weights as tensors; for no kind, of all four kinds."""
    # The rule comes in parts: the compiler cannot pass one that was made while tracing.
    rule = family(*settings)
    arrays = _all_kinds(rule) if kind is None else placed_table(rule, kind)
    return _cast(arrays, dtype, device)


def _all_kinds(rule: FixedRule) -> tuple[Array, ...]:
    rows: list[tuple[Array, ...]] = []
    for kind in (FINITE, BELOW, ABOVE, WHOLE):
        try:
            rows.append(placed_table(rule, kind))
        except ValueError:
            rows.append((np.full(rule.n, np.nan),) * 3)
    return tuple(np.stack(column, -1) for column in zip(*rows, strict=True))


def _cast(arrays: tuple[Array, ...], dtype: torch.dtype, device: torch.device) -> Table:
    return tuple(
        torch.tensor(a, dtype=accumulator(dtype), device=device) for a in arrays
    )


@kept(256)
def _placed_table(
    rule: FixedRule, extent: Extent, dtype: torch.dtype, device: torch.device
) -> Table | None:
    """Points between two numbers with their weights; None if there is no length."""
    kind, anchor, span, length = place(extent)
    if length == 0:
        return None
    assert isinstance(kind, int)  # noqa: S101
    positions, weights, log_weights = placed_table(rule, kind)
    with np.errstate(invalid="ignore"):
        logs = log_weights + np.log(length)  # nan if reversed: no log of the integral
    return _cast((positions * span + anchor, weights * length, logs), dtype, device)


def _block_table(
    rule: FixedRule,
    kind: int,
    integrand: Integrand,
    add: Sum,
    start: int,
    stop: int,
) -> Table:
    """Positions and weights of a part of a rule that is too long for a table."""
    if rule.measure != "lebesgue":
        arrays = tuple(a[start:stop] for a in placed_table(rule, kind))
    else:
        positions, weights = unfold(*rule.slice(start, stop), kind, rule)
        # Made anew for each block, so only what the sum will use.
        logs = np.log(weights) if isinstance(add, LogSum) else weights
        arrays = positions, weights, logs
    wide, device = accumulator(integrand.dtype), integrand.device
    # Copied, as the arrays of a table that is kept are not for torch to write to.
    copy = torch.tensor if rule.measure != "lebesgue" else torch.as_tensor
    # A copy that blocks would wait for all that a GPU has to do.
    return tuple(
        copy(a, dtype=wide, device="cpu").to(device, non_blocking=True) for a in arrays
    )


def _table(
    rule: FixedRule,
    placement: Placement,
    integrand: Integrand,
    add: Sum,
    start: int,
    stop: int,
) -> Table:
    kind = placement.kind
    dtype, device = integrand.dtype, integrand.device
    if isinstance(kind, Tensor):
        tables = _cached_table(type(rule), rule.settings, None, dtype, device)
        # (n, 4) indexed by the kind of each element: (n, *batch). Not by brackets,
        # which read a single kind on the host, impossible below vmap.
        missing = len(integrand.batch_shape) - kind.ndim
        shape = (-1, *(1,) * missing, *kind.shape)
        return tuple(
            t[start:stop].index_select(1, kind.reshape(-1)).reshape(shape)
            for t in tables
        )
    if rule.n > _LONGEST_TABLE:
        return _block_table(rule, kind, integrand, add, start, stop)
    tables = _cached_table(type(rule), rule.settings, kind, dtype, device)
    if start == 0 and stop == rule.n:
        return tables
    return tuple(t[start:stop] for t in tables)


def _part(
    rule: FixedRule,
    placement: Placement,
    integrand: Integrand,
    add: Sum,
    start: int,
    stop: int,
) -> Tensor:
    positions, weights, log_weights = _table(
        rule, placement, integrand, add, start, stop
    )
    positions = _aligned(positions, integrand)
    points = positions * placement.span + placement.anchor
    return add(weights, log_weights, integrand(_spread(points, integrand)))


def _aligned(positions: Tensor, integrand: Integrand) -> Tensor:
    """Positions ``(n, ...)`` with all the dimensions of ``(n, *batch)``."""
    missing = len(integrand.batch_shape) + 1 - positions.ndim
    if not missing:
        return positions
    return positions.reshape(-1, *(1,) * missing, *positions.shape[1:])


def _spread(points: Tensor, integrand: Integrand) -> Tensor:
    """Points ``(n, *batch)`` in the dtype of the inputs."""
    batch = integrand.batch_shape
    if points.dtype != integrand.dtype:
        points = points.to(integrand.dtype)
    if points.shape[1:] != batch:
        points = points.expand(points.shape[0], *batch)
    return points


def apply_at_once(rule: FixedRule, extent: Extent, function: Function) -> Tensor | None:
    """The integral of a function without args between two numbers, all in one call.

    Of 32 nodes it takes 16 microseconds, where the sum alone takes 9, and the way by
    :func:`apply_fixed`, which does whatever this cannot, 29.

    Returns:
        The integral, or None where there is more to it.
    """
    dtype = torch.get_default_dtype()
    if not of_numbers(extent) or rule.n > _LONGEST_TABLE or dtype in HALF:
        return None
    placed = _placed_table(rule, extent, dtype, default_device())
    if placed is None:
        return None
    points, weights, log_weights = placed
    # An integrand may write to its points.
    values = checked(ask(function, points.clone()), points)
    return LinearSum()(weights, log_weights, values)


def _read(extent: Extent) -> Extent:
    """The same in numbers, if it is one for all and to read it costs nothing."""
    if dual_level():
        return extent
    for limit in extent:
        if isinstance(limit, Tensor) and (
            limit.ndim or limit.requires_grad or not is_plain(limit)
        ):
            return extent
    return Extent(*map(float, extent))


def apply_fixed(
    rule: FixedRule,
    extent: Extent,
    integrand: Integrand,
    add: Sum,
    memory: int | None,
) -> Tensor:
    """The integral, or its log, by a fixed rule; of several processes, a part of it."""
    n, dtype, batch = rule.n, integrand.dtype, integrand.batch_shape
    whole = torch.compiler.is_compiling()
    bytes_each = dtype.itemsize * math.prod(batch)
    device, ranks = integrand.device, integrand.ranks
    block = block_of(n, bytes_each, memory, device, whole=whole)
    alone = ranks is None
    short = n <= min(block.unseen, _LONGEST_TABLE) and alone and not whole
    if short:
        extent = _read(extent)
    if of_numbers(extent) and short:
        # Nothing to place and nothing to scale: most of the time of a small integral.
        placed = _placed_table(rule, extent, dtype, integrand.device)
        if placed is not None:
            points, weights, log_weights = placed
            points = points.clone()  # an integrand may write to its points
            if batch or points.dtype != dtype:
                points = _spread(_aligned(points, integrand), integrand)
            return add(weights, log_weights, integrand(points))
    placement = place(extent)
    kind, _, _, length = placement
    if isinstance(kind, Tensor) and readable(kind):
        for each in set(kind.flatten().tolist()):
            placed_table(rule, each)  # says so if the rule does not fit
    part: Callable[[int, int], Tensor]
    # On the host a block that is whole is as fast made there.
    long = n > _LONGEST_TABLE and (n > block.size or device.type != "cpu")
    fresh = long and not whole and memory is None
    if fresh and SpacedBlocks.fit(rule, placement):
        part = SpacedBlocks(rule, placement, integrand, add, block.size)
    else:
        part = partial(_part, rule, placement, integrand, add)
    if n <= block.unseen and alone:
        total = part(0, n)
    else:
        total = sum_blocks(part, n, block, add, memory, ranks)
    if isinstance(length, Tensor):
        length = length.to(accumulator(dtype)).expand(batch)
    return add.scale(total, length)
