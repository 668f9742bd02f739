"""Checks and promotion of the arguments of special functions."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor


def promoted(**arguments: Tensor | float) -> list[Tensor]:
    """Promote and broadcast, as functions of :mod:`torch.special` do.

    Args:
        **arguments: Tensors or numbers by name; ``float16`` and ``bfloat16`` are
            computed, and returned, in ``float32``.

    Returns:
        Tensors of one shape, dtype and device.

    Raises:
        TypeError: If an argument is complex, or neither a tensor nor a number.
    """
    dtype, device = None, None
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            if value.is_complex():
                raise TypeError(f"{name} has dtype {value.dtype}; it must be real.")
            dtype = (
                value.dtype
                if dtype is None
                else torch.promote_types(dtype, value.dtype)
            )
            # A number in a tensor follows the others, on whatever device they are.
            device = value.device if device is None or value.ndim else device
        elif not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(
                f"{name} is a {type(value).__name__}; a tensor or a number is wanted."
            )
    if dtype is None or not dtype.is_floating_point:
        dtype = torch.get_default_dtype()
    if dtype.itemsize < 4:
        dtype = torch.float32
    tensors = [
        value.to(device, dtype)
        if isinstance(value, Tensor)
        else torch.full((), value, dtype=dtype, device=device)
        for value in arguments.values()
    ]
    return list(torch.broadcast_tensors(*tensors))  # type: ignore[no-untyped-call]
