"""Which parameters can be moved in memory without a change elsewhere."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.parameter import is_lazy

Tensors: TypeAlias = list[Tensor]


def check_movable(params: Tensors, others: Tensors) -> None:
    """Refuse parameters whose memory is not, or not only, their own.

    Args:
        params: Parameters that are to be moved.
        others: Parameters of other groups, which may not be in the same memory.

    Raises:
        ValueError: If there is one.
    """
    for i, param in enumerate(params):
        problem = _what_binds(param)
        if problem is not None:
            shape = "unknown" if is_lazy(param) else tuple(param.shape)
            raise ValueError(
                f"flat=True moves parameters in memory, but parameter {i} of the "
                f"group, of shape {shape}, {problem}. Put it into a group of its own "
                "with flat=False."
            )
    extents = [(*_extent(p), True) for p in params if _has_memory(p)]
    extents += [(*_extent(p), False) for p in others if _has_memory(p)]
    ends: dict[str, tuple[int, int]] = {}
    for device, start, stop, moves in sorted(extents):
        end_of_moved, end_of_any = ends.get(device, (0, 0))
        if start < (end_of_any if moves else end_of_moved):
            raise ValueError(
                "flat=True moves parameters in memory, but two parameters share "
                "theirs, one of them in the group. Pass one of them, or flat=False."
            )
        ends[device] = (stop if moves else end_of_moved, max(end_of_any, stop))


def _has_memory(param: Tensor) -> bool:
    plain = type(param) in (Tensor, Parameter) and param.layout == torch.strided
    return plain and param.device.type != "meta" and param.numel() > 0


def _extent(param: Tensor) -> tuple[str, int, int]:
    """Return the device, and where the memory of a parameter starts and stops."""
    pairs = zip(param.shape, param.stride(), strict=True)
    elements = 1 + sum((size - 1) * stride for size, stride in pairs)
    start = param.data_ptr()
    return str(param.device), start, start + elements * param.element_size()


def _what_binds(param: Tensor) -> str | None:
    if is_lazy(param):
        return "has no memory before the model has run once; run it first"
    if type(param) not in (Tensor, Parameter) or param.layout != torch.strided:
        return f"is a {type(param).__name__} of layout {param.layout}"
    if param._is_view():
        return "is a view of another tensor"
    if param.device.type == "cpu" and param.untyped_storage().is_shared():
        return "is in memory shared with other processes"
    if torch.empty_like(param, device="meta").stride() != param.stride():
        return f"has gaps or overlaps in memory, with strides {param.stride()}"
    return None
