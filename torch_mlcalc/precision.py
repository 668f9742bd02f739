"""Products that autocast must not round to half precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


def is_autocast(device: str) -> bool:
    """Whether autocast is on for a type of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Products of matrices in the precision of their factors.

    Autocast is meant for the caller's network. A sum over nodes, or the place of one,
    would keep three digits: the integral of exp over [0, 1] is then off by 5e-4.

    Args:
        device: Where the factors are.

    Returns:
        A context.
    """
    if not is_autocast(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@contextmanager
def own_casts() -> Iterator[None]:
    """Autocast keeps no half-precision copies of parameters inside.

    Blocks that share such a copy add up their gradients in it: of a network in bfloat16
    and 3000 nodes in blocks of 15 the gradient was 69 % off, and 0.4 % in one.
    """
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
