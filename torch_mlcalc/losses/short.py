"""Losses of few elements, in what most call them with, in the fewest operations.

Between a forward and a backward pass little is in the cache, so that at 1000 elements
each step counts, a check as much as an operation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
)
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from torch_mlcalc.losses.reduction import FEW, PLAIN, Reduction
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.losses.watch import ORDINARY

#: Smaller losses are left to those who add first and divide then, because the share of
#: each element may be less than ``float32`` can hold.
_LEAST = 1e-30


def is_usual(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    validate: bool | None,
) -> bool:
    """Whether a loss is called with what most call it with.

    Then there is nothing to check, to promote or to weight. All in one look: at 1000
    elements the steps that it replaces take a tenth of the time of both passes.

    Args:
        input: Predictions.
        target: Values to predict.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        validate: Whether to refuse values out of range.

    Returns:
        Whether ``Pointwise.usual`` may be called with them.
    """
    return (
        weight is None
        and (reduction == "mean" or reduction == "sum")
        and not is_validated(validate)
        # can_read without the call.
        and not is_dynamo_compiling()
        and type(input) in ORDINARY
        and type(target) is Tensor
        and input.is_cpu
        and not _are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not _len_torch_dispatch_stack()
        and _get_tracing_state() is None
        and not target.requires_grad
        and (dtype := input.dtype) is target.dtype
        and dtype in PLAIN
        and input.shape == target.shape
    )


def divisor(input: Tensor, reduction: str) -> int:
    """Return what the sum of the losses of all elements is divided by.

    Args:
        input: Predictions.
        reduction: ``"mean"``, ``"sum"`` or ``"batchmean"``.

    Returns:
        The number of elements, 1, or the size of the first dimension.
    """
    if reduction == "mean":
        return input.numel()
    return input.size(0) if reduction == "batchmean" and input.ndim else 1


def shortened(
    both: Callable[..., tuple[Tensor, Tensor]], slope: Callable[..., Tensor]
) -> Callable[[Tensor, Tensor, int], Tensor | None]:
    """Return a reduced loss of two arguments in the fewest operations.

    Of few different ones, because each of 1000 elements takes 2 us, and 5 to 10 for the
    first time between two backward passes. None with a Python number in it, which is
    made a tensor and cast to ``float32``, 2 us, or 6 for the first time.

    Args:
        both: The negative of the loss of each element, NaN where this is not the way
            to compute it, and the derivative of the loss by the first argument.
        slope: That derivative, differentiable.
    """
    mean, total = (_reduced(both, slope, mean=mean) for mean in (True, False))

    def short(input: Tensor, target: Tensor, count: int) -> Tensor | None:
        # What has left a transform is a wrapper, in which a Function finds no graph.
        loss = (mean if count > 1 else total)(unwrap_if_dead(input), target)
        return loss if loss.item() > _LEAST else None

    return short


def _reduced(
    both: Callable[..., tuple[Tensor, Tensor]],
    slope: Callable[..., Tensor],
    *,
    mean: bool,
) -> Callable[[Tensor, Tensor], Tensor]:
    # A third argument with the number to divide by takes 3 % of the time.
    class Short(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, t: Tensor) -> Tensor:  # noqa: ANN401
            # Together, because what the derivative is made of is in the cache.
            gains, found = both(x, t)
            ctx.save_for_backward(x, t, found)
            size = x.numel()
            factor = -1 / size if mean else -1.0
            if size > FEW:
                return gains.sum().mul_(constant(factor, x.dtype))
            # A fourth of the time of both, and as exact for so few.
            if x.ndim != 1:
                # In whatever order: half the time of a view.
                gains.resize_(size)
            return torch.dot(gains, constant(factor, x.dtype, size))

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
            x, t, found = ctx.saved_tensors
            if torch.is_grad_enabled():
                found = slope(x, t)
            if mean:
                grad = grad * constant(1 / x.numel(), x.dtype)
            # Not in place: is_grads_batched asks for several gradients at once.
            return found * grad, None

    return applied(Short)


@lru_cache(maxsize=128)
def constant(value: float, dtype: torch.dtype, *size: int) -> Tensor:
    """Return a number as a tensor on the CPU, made once; not to be written to."""
    # For a graph as well, whoever asks first.
    with torch.inference_mode(False):
        return torch.full(size, value, dtype=dtype, device="cpu")


def applied(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    """Return ``function.apply`` without what is for transforms.

    That is 3 % of the time of 1000 elements, and 4 % that the backward pass does not
    look for which of two names it has.
    """
    parent: Any = super(torch.autograd.Function, function)
    apply: Callable[..., Tensor] = parent.apply
    node: Any = function
    node._backward_cls.apply = node.backward
    return apply
