"""Who looks on while a loss is computed, which decides what is cheapest.

On the CPU a loss may read a value to see that fewer operations are enough. The loss is
the same, to rounding, where it may not.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
)
from torch.autograd import forward_ad
from torch.compiler import is_compiling, is_dynamo_compiling

ORDINARY = (Tensor, nn.Parameter)


def is_watched() -> bool:
    """Whether a compiler, a transform of torch.func or forward mode looks on."""
    return (
        is_compiling()
        or _are_functorch_transforms_active()
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
    # Without a call of is_watched or a name of the device, between a forward and a
    # backward pass, where little is in the cache: 1 us instead of 9, of 60 of a small
    # loss.
    return (
        # Other compilers than Dynamo look on by a dispatch mode or a fake tensor.
        not is_dynamo_compiling()
        and type(tensor) in ORDINARY
        and tensor.is_cpu
        and not _are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not _len_torch_dispatch_stack()
        # Of torch.jit.trace, whose trace would keep what this batch allows.
        and _get_tracing_state() is None
    )
