"""What is to be integrated: the integrand, its domain and breakpoints, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.domains import (
    Extent,
    Limit,
    Line,
    check_limit,
    of_numbers,
)
from torch_mlcalc.quadrature.host import on_device
from torch_mlcalc.quadrature.integrand import Function, Integrand, bind, bind_alone

Breakpoints = Tensor | Sequence[Limit]


class Problem(NamedTuple):
    """What is to be integrated, checked."""

    integrand: Integrand
    extent: Extent
    breakpoints: Tensor | None

    @property
    def tensors(self) -> list[Tensor]:
        """Limits and breakpoints that are tensors."""
        given = (*self.extent, self.breakpoints)
        return [t for t in given if isinstance(t, Tensor)]


def pose(
    function: Function,
    domain: Line,
    args: Sequence[Any],
    batch_shape: Sequence[int] | None,
    breakpoints: Breakpoints | None,
) -> Problem:
    """Check what the caller passed, and bring it together."""
    extent = domain.extent
    alone = breakpoints is None and batch_shape is None and type(args) is tuple
    if alone and not args and of_numbers(extent):
        return Problem(bind_alone(function), extent, None)
    if breakpoints is None:
        integrand = bind(function, extent, args, batch_shape)
        return Problem(integrand, extent, None)
    inner = as_breakpoints(breakpoints)
    # Numbers settle neither dtype nor device.
    given = inner if has_tensors(breakpoints) else None
    integrand = bind(function, extent, args, batch_shape, given)
    return Problem(integrand, extent, follow(inner, integrand))


def follow(breakpoints: Tensor | None, integrand: Integrand) -> Tensor | None:
    """Breakpoints in the dtype in which nodes are placed, on the device of the inputs.

    Args:
        breakpoints: Breakpoints, or None.
        integrand: What has the dtype and device.

    Returns:
        The same.
    """
    if breakpoints is None:
        return None
    wide = accumulator(integrand.dtype)
    return breakpoints.to(integrand.device, wide, non_blocking=True)


def as_breakpoints(breakpoints: object, axis: int | None = None) -> Tensor:
    """Breakpoints, perhaps of one axis of several, as a tensor ``(k, *batch)``."""
    several = axis is not None
    name = f"breakpoints[{axis}]" if several else "breakpoints"
    if not isinstance(breakpoints, Tensor):
        if not isinstance(breakpoints, (list, tuple)):
            raise TypeError(
                f"{name} is a {type(breakpoints).__name__}; {'None, ' * several}a list "
                "of numbers or a tensor (k,) or (k, *batch) is wanted."
            )
        for i, place in enumerate(breakpoints):
            check_limit(f"{name}[{i}]", place)
        breakpoints = _stacked(breakpoints)
    check_limit(name, breakpoints)
    if breakpoints.ndim == 0 or len(breakpoints) == 0:
        raise ValueError(
            f"{name} has shape {tuple(breakpoints.shape)}; at least one, along the "
            f"first dimension, is wanted. "
            f"{'Put None for an axis without' if several else 'Leave it out'}."
        )
    return breakpoints


def has_tensors(breakpoints: Breakpoints) -> bool:
    """Whether they settle dtype and device."""
    if isinstance(breakpoints, Tensor):
        return True
    return any(isinstance(place, Tensor) for place in breakpoints)


def _stacked(places: Sequence[Limit]) -> Tensor:
    """Numbers and tensors as one tensor, to which the gradient of each flows."""
    like = next((place for place in places if isinstance(place, Tensor)), None)
    if like is None:
        return torch.tensor(places, dtype=torch.float64, device="cpu")
    tensors = [
        torch.as_tensor(place, dtype=like.dtype, device=like.device) for place in places
    ]
    return torch.stack(torch.broadcast_tensors(*tensors))  # type: ignore[no-untyped-call]


def per_element(breakpoints: Tensor, integrand: Integrand) -> Tensor:
    """Breakpoints ``(k,)`` or ``(k, *batch)`` as ``(k, *batch)``."""
    count, *own = breakpoints.shape
    missing = len(integrand.batch_shape) - len(own)
    inner = breakpoints.to(integrand.dtype).reshape(count, *(1,) * missing, *own)
    return inner.expand(count, *integrand.batch_shape)


def full(limit: Limit, integrand: Integrand) -> Tensor:
    """A limit as a tensor of the shape of the batch."""
    tensor = on_device(limit, integrand.dtype, integrand.device)
    return tensor.expand(integrand.batch_shape)
