"""Who looks on while a loss is computed, which decides what is cheapest.

On the CPU a loss may read a value to see that fewer operations are enough. The loss is
the same, to rounding, where it may not.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def is_watched() -> bool:
    """Whether a compiler, a transform of torch.func or forward mode looks on."""
    return (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )


def can_read(tensor: Tensor) -> bool:
    """Whether reading a value waits for nothing and breaks nothing.

    Args:
        tensor: Where the value is.

    Returns:
        Whether it is an ordinary tensor on the CPU, in ordinary eager execution: no
        subclass such as a fake one, no transform, no dispatch mode that traces.
    """
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.device.type == "cpu"
        and not is_watched()
        and not torch._C._len_torch_dispatch_stack()
    )
