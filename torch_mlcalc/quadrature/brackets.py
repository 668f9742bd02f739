"""Brackets of sign changes, narrowed for all elements of a batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

#: Points in a call of the function, for which brackets are cut into up to so many parts
#: and not into halves: of so few points all that takes time is the call. The variation
#: and Wasserstein distances of 3 pairs, with gradients, took 20 and 22 ms by halves, 12
#: and 14 with these; those of 300 pairs 62 and 125 ms with up to 8192 or by halves.
POINTS, MOST_PARTS = 2048, 32


def narrowed(
    above: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, halvings: int
) -> tuple[Tensor, Tensor]:
    """Cut brackets again and again, each time to the first part with a change.

    How often is known beforehand, so that nothing is read from a device.

    Args:
        above: Whether points ``(parts, *shape)`` are above the change.
        low: Lower ends ``(*shape)``, which are not.
        high: Upper ends, which are.
        halvings: How many halvings to be as good as.

    Returns:
        Lower and upper ends.
    """
    parts = min(max(POINTS // max(low.numel(), 1), 2), MOST_PARTS)
    shares = torch.arange(1, parts, dtype=low.dtype, device=low.device) / parts
    shares = shares.reshape(-1, *(1,) * low.ndim)
    for _ in range(math.ceil(halvings / math.log2(parts))):
        inner = low + (high - low) * shares
        first = (above(inner).cumsum(0) == 0).sum(0, keepdim=True)
        edges = torch.cat([low[None], inner, high[None]])
        low, high = edges.gather(0, first)[0], edges.gather(0, first + 1)[0]
    return low, high
