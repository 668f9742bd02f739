"""Losses of few elements, in what most call them with, in the fewest operations.

Between a forward and a backward pass little is in the cache, so that at 1000 elements
each step counts, a check as much as an operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad
from torch.compiler import is_dynamo_compiling

from torch_mlcalc.losses.reduction import PLAIN, Reduction
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.losses.watch import ORDINARY


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
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not _len_torch_dispatch_stack()
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
    terms: Callable[..., Sequence[Tensor]],
    pull: Callable[..., Tensor],
    slope: Callable[..., Tensor],
    sign: int,
) -> Callable[[Tensor, Tensor, int], Tensor | None]:
    """Return a reduced loss of two arguments in the fewest operations.

    Of few different ones, because each of 1000 elements takes 2 us, and 5 to 10 for the
    first time between two backward passes. None with a Python number in it, which is
    made a tensor and cast to ``float32``, 2 us, or 6 for the first time.

    Args:
        terms: The loss of each element, or the negative of it, and what to keep. Where
            one is NaN nothing is returned.
        pull: The negative of the derivative of the terms by the first argument, of the
            arguments and what was kept.
        slope: The derivative of the loss, of the arguments, differentiable.
        sign: 1, or -1 where the terms are the negative of the loss.
    """

    class Short(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, count: int, x: Tensor, t: Tensor) -> Tensor:  # noqa: ANN401
            found, *kept = terms(x, t)
            ctx.count, ctx.share = count, constant(-sign / count, x.dtype)
            ctx.save_for_backward(x, t, *kept)
            return found.sum().mul_(constant(sign / count, x.dtype))

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
            x, t, *kept = ctx.saved_tensors
            if torch.is_grad_enabled():
                return None, slope(x, t) * (grad / ctx.count), None
            # Not in place: is_grads_batched asks for several gradients at once.
            return None, pull(x, t, *kept) * (grad * ctx.share), None

    apply = applied(Short)

    def short(input: Tensor, target: Tensor, count: int) -> Tensor | None:
        # What has left a transform is a wrapper, in which a Function finds no graph.
        loss = apply(count, unwrap_if_dead(input), target)
        value: Any = loss.tolist()
        return loss if value == value else None

    return short


@lru_cache(maxsize=128)
def constant(value: float, dtype: torch.dtype) -> Tensor:
    """Return a number as a tensor on the CPU, made once; not to be written to."""
    return torch.full((), value, dtype=dtype, device="cpu")


def applied(function: type[torch.autograd.Function]) -> Callable[..., Tensor]:
    """Return ``function.apply`` without what is for transforms.

    That is 3 % of the time of 1000 elements.
    """
    parent: Any = super(torch.autograd.Function, function)
    apply: Callable[..., Tensor] = parent.apply
    return apply
