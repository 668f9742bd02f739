"""Functions of elements with the derivatives that autograd's composition gets wrong.

Composed of torch's operations, the losses of classes lose digits or become NaN: the
derivative of ``sigmoid`` is ``s * (1 - s)``, which is 0 in ``float32`` from 17 on, that
of ``0 * log(0)`` is ``0 / 0``. Here each function states its value and its slope, the
slope in terms of such functions again, so that all orders are exact. The value is
computed in place and only the arguments are kept, so that time and memory of large
tensors stay near those of torch's kernels. For small ones what counts is the number of
operations, and so value and slope are tried in fewer of them, which make NaN where more
are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor, unwrap_if_dead

from torch_mlcalc.losses.reduction import FEW, Reduction, reduce
from torch_mlcalc.losses.short import applied, divisor
from torch_mlcalc.losses.watch import can_read, is_watched

#: Elements that the value is computed of at a time, so that what is in between stays in
#: the cache, in pages that are there: the logistic loss of 1e6 float32 elements then
#: takes 0.7 of the time of one sweep on one core, from 8 k to 128 k alike. Up to twice
#: as many are not split: 1e5 elements take up to 1.2 times as long in two blocks.
_BLOCK = 1 << 16

Formula = Callable[..., Tensor]


class Pointwise:
    """A function of elements, which has all orders, forward mode, vmap and compile.

    Args:
        value: The function, of tensors of one shape; autograd does not look into it.
        slopes: Its derivative by each argument in turn, differentiable.
        whole: The value again, in more operations and right everywhere: the value may
            be NaN where the arguments are not.
        short: Returns it reduced, given two arguments and the number to divide the sum
            by, in fewer operations; or None where more are needed.
        few: Elements up to which that is faster, by a measurement.
    """

    def __init__(
        self,
        value: Formula,
        *slopes: Formula,
        whole: Formula | None = None,
        short: Callable[[Tensor, Tensor, int], Tensor | None] | None = None,
        few: int = FEW,
    ) -> None:
        """Make the autograd.Functions of it."""
        total = _total_of(value, whole)
        self.value = value = _right(value, whole) if whole else value
        self._short, self._few = short, few if short else 0

        # A Function with setup_context, which transforms need, looks at the signature
        # of its forward in each call: a third of the time of a loss of 1000 elements,
        # forward and backward. And torch 2.13 does not compile one with a jvp.
        class Traced(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *arguments: Tensor) -> Tensor:  # noqa: ANN401
                ctx.save_for_backward(*arguments)
                return value(*arguments)

            @staticmethod
            def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
                return _pull(slopes, ctx.saved_tensors, ctx.needs_input_grad, grad)

        class Direct(Traced):
            @staticmethod
            def forward(ctx: Any, *arguments: Tensor) -> Tensor:  # noqa: ANN401
                ctx.save_for_backward(*arguments)
                ctx.save_for_forward(*arguments)
                return _in_blocks(value, arguments)

            @staticmethod
            def jvp(ctx: Any, *tangents: Any) -> Any:  # noqa: ANN401
                return _push(slopes, ctx.saved_tensors, tangents)

        class Transformed(Direct):
            @staticmethod
            def forward(*arguments: Tensor) -> Tensor:
                return _in_blocks(value, arguments)

            @staticmethod
            def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
                ctx.save_for_backward(*inputs)
                ctx.save_for_forward(*inputs)

            @staticmethod
            def vmap(info: Any, in_dims: Any, *arguments: Tensor) -> Any:  # noqa: ANN401
                return self(*_lanes(info.batch_size, in_dims, arguments)), 0

        self._traced: Any = Traced
        self._direct: Any = Direct
        self._transformed: Any = Transformed
        self._total = _reducing(partial(_total, total), slopes)

    def __call__(self, *arguments: Tensor) -> Tensor:
        """Return the function of each element."""
        if _nothing_follows():
            return self.without_graph(*arguments)
        chosen = self._direct
        if torch.compiler.is_compiling():
            chosen = self._traced
        elif torch._C._are_functorch_transforms_active():
            chosen = self._transformed
        result: Tensor = chosen.apply(*arguments)
        return result

    def without_graph(self, *arguments: Tensor) -> Tensor:
        """Return the function of each element, where neither autograd looks on."""
        return _in_blocks(self.value, arguments)

    def reduced(
        self, weight: Tensor | None, reduction: Reduction, *arguments: Tensor
    ) -> Tensor:
        """Return ``reduce(self(*arguments), weight, reduction)``, without the elements.

        Args:
            weight: Weight of each element, or None.
            reduction: ``"none"``, ``"mean"`` or ``"sum"``.
            arguments: Those of the function.

        Returns:
            What :func:`reduce` returns.
        """
        if (
            self._short
            and weight is None
            and reduction != "none"
            and can_read(arguments[0])
            and not arguments[1].requires_grad
        ):
            input, target = arguments
            return self.usual(input, target, reduction)
        if weight is not None or reduction == "none" or is_watched():
            return reduce(self(*arguments), weight, reduction)
        return self._apply(self._total, reduction, arguments)

    def usual(self, input: Tensor, target: Tensor, reduction: str) -> Tensor:
        """Return the loss of what ``is_usual`` lets pass, reduced."""
        size = input.numel()
        if self._short and 0 < size <= self._few:
            count = size if reduction == "mean" else divisor(input, reduction)
            loss = self._short(input, target, count)
            if loss is not None:
                return loss
        return self._apply(self._total, reduction, (input, target))

    def _apply(
        self, total: Callable[..., Tensor], reduction: str, arguments: Sequence[Tensor]
    ) -> Tensor:
        count = divisor(arguments[0], reduction)
        return total(count, *map(unwrap_if_dead, arguments))


def forget_nan_(x: Tensor) -> Tensor:
    """Put 0 for NaN, in place: where only ``0 * inf`` or ``0 / 0`` can have made it."""
    return x.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf)


def log1p_exp_minus_abs(x: Tensor) -> Tensor:
    """Return ``log(1 + exp(-|x|))``, the curved part of softplus on either side."""
    # Four fifths of the time of softplus, which is not vectorised.
    return x.abs().neg_().exp_().log1p_()


def softplus_value(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)), whose derivatives autograd would get wrong."""
    # Above 40 it is its argument, to a digit more than float64 has.
    return F.softplus(x, threshold=40)


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function; its derivative keeps both tails."""
    return _sigmoid(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), to the last digits at both ends and with the slope 1/2 at 0."""
    return _softplus(x)


def quotient(top: Tensor, bottom: Tensor) -> Tensor:
    """Return top / bottom with 0 / 0 = 0, and 0 its derivatives by ``bottom``."""
    return _quotient(top, bottom)


def product(factor: Tensor, value: Tensor) -> Tensor:
    """Return factor * value with 0 * inf = 0, and 0 its derivative by ``factor``."""
    # NaN becomes 0 as well: the caller adds it back, which is cheaper than doing so.
    return _product(factor, value)


def _quotient_value(top: Tensor, bottom: Tensor) -> Tensor:
    # The second term is NaN where an argument is, else 0.
    return forget_nan_(top / bottom).add_(top.clamp(-1, 1).add_(bottom).mul_(0))


def _product_slope(factor: Tensor, value: Tensor) -> Tensor:
    return value.masked_fill((factor == 0) & value.isinf(), 0)


def _in_blocks(value: Formula, arguments: Sequence[Tensor]) -> Tensor:
    if torch.compiler.is_compiling() or arguments[0].numel() <= FEW:
        return value(*arguments)
    first, *others = _blocks(arguments)
    if not others:
        return value(*first)
    result = torch.empty_like(arguments[0])
    for part, *inputs in _blocks((result, *arguments)):
        part.copy_(value(*inputs))
    return result


def _blocks(arguments: Sequence[Tensor]) -> Sequence[Sequence[Tensor]]:
    first = arguments[0]
    whole = first.numel() <= 2 * _BLOCK or first.device.type != "cpu"
    if whole or not all(argument.is_contiguous() for argument in arguments):
        return (arguments,)
    flat = (torch.split(x.view(-1), _BLOCK) for x in arguments)
    return tuple(zip(*flat, strict=True))


def _right(value: Formula, whole: Formula) -> Formula:
    def right(*arguments: Tensor) -> Tensor:
        if can_read(arguments[0]):
            found = value(*arguments)
            if not math.isnan(found.sum().item()):
                return found
        return whole(*arguments)

    return right


def _total_of(value: Formula, whole: Formula | None) -> Formula:
    def total(*arguments: Tensor) -> Tensor:
        if whole is None:
            return value(*arguments).sum()
        if can_read(arguments[0]):
            found = value(*arguments).sum()
            if not math.isnan(found.item()):
                return found
        return whole(*arguments).sum()

    return total


def _reducing(
    total: Callable[[int, Sequence[Tensor]], Tensor], slopes: Sequence[Formula]
) -> Callable[..., Tensor]:
    class Total(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, count: int, *arguments: Tensor) -> Tensor:  # noqa: ANN401
            ctx.count = count
            ctx.save_for_backward(*arguments)
            return total(count, arguments)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # noqa: ANN401
            grad, needed = grad.div(ctx.count), ctx.needs_input_grad[1:]
            return None, *_pull(slopes, ctx.saved_tensors, needed, grad)

    return applied(Total)


def _total(total: Formula, count: int, arguments: Sequence[Tensor]) -> Tensor:
    if arguments[0].numel() <= FEW:
        return total(*arguments).div_(count)
    first, *others = _blocks(arguments)
    added = total(*first)
    if others:
        # Numbers of their own would lie between the blocks and keep malloc from using
        # the place of one for the next: 71 MiB instead of 38 for 1e7 elements.
        sums = added.new_empty(len(others))
        for i, part in enumerate(others):
            sums[i] = total(*part)
        added = sums.sum().add_(added)
    return added.div_(count)


def _nothing_follows() -> bool:
    """Whether neither autograd nor a transform looks on, as in most backward passes."""
    if torch.is_grad_enabled():
        return False
    return not is_watched() or torch.compiler.is_compiling()


def _pull(
    slopes: Sequence[Formula],
    inputs: Sequence[Tensor],
    needed: Sequence[bool],
    grad: Tensor,
) -> tuple[Tensor | None, ...]:
    watched = (
        torch.is_grad_enabled()
        or is_watched()
        # Several gradients at once, by is_grads_batched, which no transform tells of.
        or is_legacy_batchedtensor(grad)
    )
    pulled: list[Tensor | None] = [None] * len(slopes)
    for i, slope in enumerate(slopes):
        if not needed[i]:
            continue
        if watched:
            pulled[i] = slope(*inputs) * grad
        elif isinstance(slope, Pointwise):
            pulled[i] = slope.without_graph(*inputs).mul_(grad)
        else:
            # It may be an argument, or part of one.
            found = slope(*inputs)
            own = found._base is None and all(found is not x for x in inputs)
            pulled[i] = found.mul_(grad) if own else found * grad
    return tuple(pulled)


def _push(
    slopes: Sequence[Formula],
    inputs: Sequence[Tensor],
    tangents: Sequence[Tensor | None],
) -> Tensor:
    moved = [
        tangent * slope(*inputs)
        for slope, tangent in zip(slopes, tangents, strict=True)
        if tangent is not None
    ]
    return sum(moved[1:], start=moved[0])


def _lanes(
    size: int, in_dims: Sequence[int | None], arguments: Sequence[Tensor]
) -> list[Tensor]:
    return [
        argument.expand(size, *argument.shape)
        if dim is None
        else argument.movedim(dim, 0)
        for argument, dim in zip(arguments, in_dims, strict=True)
    ]


_sigmoid = Pointwise(torch.sigmoid, lambda x: sigmoid(x) * sigmoid(-x))
_softplus = Pointwise(softplus_value, sigmoid)
_quotient = Pointwise(
    _quotient_value,
    lambda top, bottom: bottom.reciprocal(),
    lambda top, bottom: -quotient(quotient(top, bottom), bottom),
)
_product = Pointwise(
    lambda factor, value: forget_nan_(factor * value),
    _product_slope,
    lambda factor, value: factor,
)
