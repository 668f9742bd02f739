"""Random numbers that are a function of a seed and a place, never of what was drawn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.rules import Array

#: Uniform numbers are multiples of 2^-53; half of that keeps them off 0.
_LEAST = 2.0**-54


def uniform(seed: int, stream: int, first: int, last: int, width: int) -> Array:
    """Rows ``first`` to ``last`` of an endless table of uniform numbers in (0, 1).

    Args:
        seed: Which family of tables.
        stream: Which table of the family; different ones are independent.
        first: First row.
        last: The row after the last.
        width: Numbers in a row.

    Returns:
        Float64 numbers ``(last - first, width)``.

    References:
        J. K. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
        https://doi.org/10.1145/2063384.2063405
    """
    # The counter counts groups of four 64-bit words, of which a number takes one.
    group, skip = divmod(first * width, 4)
    philox = np.random.Philox(key=[seed, stream], counter=[group, 0, 0, 0])
    count = (last - first) * width
    numbers = np.random.Generator(philox).random(skip + count)[skip:]
    np.maximum(numbers, _LEAST, out=numbers)
    return numbers.reshape(last - first, width)


def uniform_tensor(
    seed: int, stream: int, first: int, last: int, width: int, device: torch.device
) -> Tensor:
    """The same as a tensor."""
    numbers = torch.as_tensor(uniform(seed, stream, first, last, width), device="cpu")
    return numbers.to(device, non_blocking=True)


# The compiler cannot trace the random numbers; see also host.py.
uniform_tensor._dynamo_marked_constant = True  # type: ignore[attr-defined]
