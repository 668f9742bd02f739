"""Applying a fixed rule: place its nodes, call the integrand, contract, in blocks."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import (
    BLOCK_BYTES,
    LogSum,
    Sum,
    accumulator,
    block_size,
    sum_blocks,
)
from torch_mlcalc.quadrature.host import readable
from torch_mlcalc.quadrature.integrand import Integrand, as_result
from torch_mlcalc.quadrature.placement import (
    ABOVE,
    BELOW,
    FINITE,
    WHOLE,
    Placement,
    placed_table,
    unfold,
)
from torch_mlcalc.quadrature.rules import Array, FixedRule

Table = tuple[Tensor, ...]

#: Rules longer than one block make their nodes block by block and keep no table.
_LONGEST_TABLE = BLOCK_BYTES // 8

_tables: dict[tuple[object, ...], Table] = {}


def _cached_table(
    family: type[FixedRule],
    settings: tuple[object, ...],
    kind: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> Table:
    """Positions, weights and log weights as tensors; for no kind, of all four kinds."""
    # The rule comes in parts: the compiler cannot pass one that was made while tracing.
    key = (family, settings, kind, dtype, device)
    if key not in _tables:
        rule = family(*settings)
        if kind is not None:
            arrays: tuple[Array, ...] = placed_table(rule, kind)
        else:
            arrays = _all_kinds(rule)
        # Never an inference tensor, whatever mode the first caller was in.
        with torch.inference_mode(False):
            _tables[key] = _cast(arrays, dtype, device)
    return _tables[key]


# What torch.compiler.assume_constant_result sets; calling that would import the whole
# compiler with this package, 1.5 s.
_cached_table._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _all_kinds(rule: FixedRule) -> tuple[Array, ...]:
    rows: list[tuple[Array, ...]] = []
    for kind in (FINITE, BELOW, ABOVE, WHOLE):
        try:
            rows.append(placed_table(rule, kind))
        except ValueError:
            rows.append((np.full(rule.n, np.nan),) * 3)
    return tuple(np.stack(column, -1) for column in zip(*rows, strict=True))


def _cast(arrays: tuple[Array, ...], dtype: torch.dtype, device: torch.device) -> Table:
    wide = accumulator(dtype)
    positions, weights, log_weights = (
        torch.tensor(a, dtype=wide, device=device) for a in arrays
    )
    return positions, weights, log_weights


def _block_table(
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
    if rule.n <= _LONGEST_TABLE:
        tables = _cached_table(type(rule), rule.settings, kind, dtype, device)
        if start == 0 and stop == rule.n:
            return tables
        return tuple(t[start:stop] for t in tables)
    if rule.measure != "lebesgue":
        arrays = tuple(a[start:stop] for a in placed_table(rule, kind))
        return _cast(arrays, dtype, device)
    positions, weights = unfold(*rule.slice(start, stop), kind, rule)
    # Each block of a long rule makes its table anew, so only what the sum will use.
    logs = np.log(weights) if isinstance(add, LogSum) else weights
    return _cast((positions, weights, logs), dtype, device)


def _part(
    rule: FixedRule,
    placement: Placement,
    integrand: Integrand,
    add: Sum,
    start: int,
    stop: int,
) -> Tensor:
    positions, weights, log_weights = _block_table(
        rule, placement, integrand, add, start, stop
    )
    points = place_points(positions, placement, integrand)
    return add(weights, log_weights, integrand(points))


def place_points(
    positions: Tensor, placement: Placement, integrand: Integrand
) -> Tensor:
    """Points ``(n, *batch)`` in the dtype of the inputs, placed in at least float32."""
    batch = integrand.batch_shape
    if batch and positions.ndim == 1:
        positions = positions.reshape(-1, *(1,) * len(batch))
    elif batch:
        missing = len(batch) + 1 - positions.ndim
        positions = positions.reshape(-1, *(1,) * missing, *positions.shape[1:])
    points = positions * placement.span + placement.anchor
    if points.dtype != integrand.dtype:
        points = points.to(integrand.dtype)
    if batch and points.shape[1:] != batch:
        points = points.expand(points.shape[0], *batch)
    return points


def apply_fixed(
    rule: FixedRule,
    placement: Placement,
    integrand: Integrand,
    add: Sum,
    memory: int | None,
) -> Tensor:
    """The integral, or its log, by a fixed rule."""
    kind = placement.kind
    if isinstance(kind, Tensor) and readable(kind):
        for each in set(kind.flatten().tolist()):
            placed_table(rule, each)  # says so if the rule does not fit
    part = partial(_part, rule, placement, integrand, add)
    bytes_each = integrand.dtype.itemsize
    for count in integrand.batch_shape:
        bytes_each *= count
    whole = torch.compiler.is_compiling()
    size = block_size(rule.n, bytes_each, memory, whole=whole)
    if size >= rule.n:
        total = part(0, rule.n)
    else:
        total = sum_blocks(part, rule.n, size, add)
    length = placement.length
    if isinstance(length, Tensor):
        length = length.expand(integrand.batch_shape)
    total = add.scale(total, length)
    return as_result(total, integrand)
