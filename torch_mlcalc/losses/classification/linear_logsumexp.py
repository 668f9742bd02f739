r"""logsumexp of the output of a linear layer, block by block.

With logits :math:`z = X W^\top + b` and :math:`P = e^{z - \lambda}`, where
:math:`\lambda` is the result, its gradient for the incoming :math:`g` is

.. math:: \bar X = G W, \quad \bar W = G^\top X, \quad \bar b = G^\top 1,
    \qquad G = \operatorname{diag}(g) P

and what that changes by when its arguments do, all sums over blocks of :math:`P`, which
is never there as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from torch_mlcalc.precision import full_precision

#: Rows, and logits, of a block: 8 MiB in float32. Blocks are of classes, so that each
#: part of the gradient by the weight is written once for all of a batch of 2048.
_ROWS, _LOGITS = 2048, 1 << 21

#: So many times as many on a GPU, where a block must outlast the launch of its kernels.
#: Measured on an H100 for 2048 x 256 x 32000 in float32: 17.2 ms and 24 MiB at 1, 6.5
#: ms and 96 MiB at 4, 5.7 ms and 192 MiB at 8, 5.4 ms and 266 MiB at 16; 3.1 ms and 717
#: MiB with all logits at once.
_WIDER = 4

Blocks = Iterator[tuple[slice, slice]]


def linear_logsumexp(
    x: Tensor, weight: Tensor, bias: Tensor, index: Tensor
) -> tuple[Tensor, Tensor]:
    """Return logsumexp over the classes of ``x @ weight.T + bias``, and one of these.

    Both at once, so that the gradient by the weight is held once.

    Args:
        x: Rows, of shape ``(N, F)``.
        weight: Of shape ``(C, F)``.
        bias: Of shape ``(C)``.
        index: The class of each row whose logit is returned, of shape ``(N)``.

    Returns:
        Two tensors of shape ``(N)``, with derivatives of all orders.
    """
    if torch.compiler.is_compiling():
        # torch 2.13 does not compile a Function that has a jvp.
        logits = F.linear(x, weight, bias)
        return logits.logsumexp(-1), logits.gather(-1, index[:, None])[:, 0]
    result: tuple[Tensor, Tensor] = _LogSumExp.apply(x, weight, bias, index)  # type: ignore[no-untyped-call]
    return result


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor]:
        result = x.new_empty(x.shape[0])
        lowest, place = torch.finfo(x.dtype).min, _place(x, weight)
        for rows in _row_blocks(x):
            # Finite, since infinity less infinity is NaN.
            top = x.new_full((x[rows].shape[0],), lowest)
            total = torch.zeros_like(top)
            for classes in _class_blocks(x, weight):
                logits = _logits(x[rows], weight[classes], bias[classes], place)
                higher = torch.maximum(top, logits.amax(1))
                total.mul_((top - higher).exp_())
                total.add_(logits.sub_(higher[:, None]).exp_().sum(1))
                top = higher
            result[rows] = total.log_().add_(top)
        return result, _picked(x, weight, index) + bias[index]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs, output[0])
        ctx.save_for_forward(*inputs, output[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ANN401
        x, weight, bias, index, result = ctx.saved_tensors
        with full_precision(grads[0].device):
            found = _Gradient.apply(x, weight, bias, result, grads[0])  # type: ignore[no-untyped-call]
        return *_with_picked(found, x, weight, index, grads[1]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:  # noqa: ANN401
        x, weight, bias, index, result = ctx.saved_tensors
        moved = _or_zeros(tangents[:3], (x, weight, bias))
        picked = _picked(moved[0], weight, index) + _picked(x, moved[1], index)
        parts = []
        for rows in _row_blocks(x):
            part = torch.zeros_like(result[rows])
            for classes in _class_blocks(x, weight):
                p, change = _block(x, weight, bias, result, moved, rows, classes)
                part = part + (p * change).sum(1)
            parts.append(part)
        total = torch.cat(parts) if parts else torch.zeros_like(result)
        return total, picked + moved[2][index]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Tensor) -> Any:  # noqa: ANN401
        return _one_by_one(_LogSumExp, info.batch_size, in_dims, arguments), (0, 0)


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, result: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if is_legacy_batchedtensor(grad):
            # Several at once, which cannot be written into what is there once. It is
            # linear: what it changes by when grad alone does, from 0 to this.
            nothing = torch.zeros_like(result)
            return _moved(x, weight, bias, result, nothing, [None] * 4 + [grad])
        by_x, by_weight = torch.zeros_like(x), torch.zeros_like(weight)
        by_bias, place = weight.new_zeros(weight.shape[0]), _place(x, weight)
        for rows in _row_blocks(x):
            for classes in _class_blocks(x, weight):
                p = _logits(x[rows], weight[classes], bias[classes], place)
                p.sub_(result[rows, None]).exp_().mul_(grad[rows, None])
                by_x[rows].addmm_(p, weight[classes])
                by_weight[classes].addmm_(p.T, x[rows])
                by_bias[classes] += p.sum(0)
        return by_x, by_weight, by_bias

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ANN401
        x, weight, bias, result, grad = ctx.saved_tensors
        collected: list[list[Tensor]] = [[], [], []]
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for rows in _row_blocks(x):
            found = [x.new_zeros(()) for _ in range(3)]
            of_weight, of_bias = [], []
            for classes in _class_blocks(x, weight):
                p, change = _block(x, weight, bias, result, grads, rows, classes)
                scaled = p * grad[rows, None]
                curved = scaled * change
                found[0] = found[0] + curved @ weight[classes]
                found[0] = found[0] + scaled @ grads[1][classes]
                found[1] = found[1] - curved.sum(1)
                found[2] = found[2] + (p * change).sum(1)
                of_weight.append(curved.T @ x[rows] + scaled.T @ grads[0][rows])
                of_bias.append(curved.sum(0))
            for column, one in zip(collected, found, strict=True):
                column.append(one)
            by_weight = by_weight + torch.cat(of_weight)
            by_bias = by_bias + torch.cat(of_bias)
        if not collected[0]:
            return x * 0, by_weight, by_bias, result * 0, grad * 0
        by_x, by_result, by_grad = (torch.cat(column) for column in collected)
        return by_x, by_weight, by_bias, by_result, by_grad

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:  # noqa: ANN401
        x, weight, bias, result, grad = ctx.saved_tensors
        return _moved(x, weight, bias, result, grad, tangents)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Tensor) -> Any:  # noqa: ANN401
        return _one_by_one(_Gradient, info.batch_size, in_dims, arguments), (0, 0, 0)


def _picked(x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    # Unlike an index in brackets, an embedding refuses negative ones.
    return (x * F.embedding(index, weight)).sum(-1)


def _with_picked(
    found: tuple[Tensor, Tensor, Tensor],
    x: Tensor,
    weight: Tensor,
    index: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient with that of the logits that were picked."""
    by_x, by_weight, by_bias = found
    of_x, of_weight = grad[:, None] * weight[index], grad[:, None] * x
    if torch.is_grad_enabled() or is_legacy_batchedtensor(grad):
        return (
            by_x + of_x,
            by_weight.index_add(0, index, of_weight),
            by_bias.index_add(0, index, grad),
        )
    # By an embedding of its own it was another tensor of the size of the weight.
    return (
        by_x.add_(of_x),
        by_weight.index_add_(0, index, of_weight),
        by_bias.index_add_(0, index, grad),
    )


def _moved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    result: Tensor,
    grad: Tensor,
    tangents: Any,  # noqa: ANN401
) -> tuple[Tensor, Tensor, Tensor]:
    """What the gradient changes by when its arguments do."""
    moved = _or_zeros(tangents, (x, weight, bias, result, grad))
    by_x = []
    by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
    for rows in _row_blocks(x):
        part = x.new_zeros(())
        of_weight, of_bias = [], []
        for classes in _class_blocks(x, weight):
            p, change = _block(x, weight, bias, result, moved, rows, classes)
            scaled = p * grad[rows, None]
            change = scaled * (change - moved[3][rows, None])
            change = change + p * moved[4][rows, None]
            part = part + change @ weight[classes] + scaled @ moved[1][classes]
            of_weight.append(change.T @ x[rows] + scaled.T @ moved[0][rows])
            of_bias.append(change.sum(0))
        by_x.append(part)
        by_weight = by_weight + torch.cat(of_weight)
        by_bias = by_bias + torch.cat(of_bias)
    return torch.cat(by_x) if by_x else x * 0, by_weight, by_bias


def _row_blocks(x: Tensor) -> Iterator[slice]:
    for start in range(0, x.shape[0], _ROWS):
        yield slice(start, start + _ROWS)


def _class_blocks(x: Tensor, weight: Tensor) -> Iterator[slice]:
    step = _step(x)
    for start in range(0, weight.shape[0], step):
        yield slice(start, start + step)


def _step(x: Tensor) -> int:
    logits = _LOGITS if x.is_cpu else _WIDER * _LOGITS
    return max(1, logits // max(1, min(_ROWS, x.shape[0])))


def _place(x: Tensor, weight: Tensor) -> Tensor:
    # One for all blocks: malloc did not always use the place of one for the next, and
    # 2048 x 256 x 32000 took 127 to 202 MB, of which 88 were in use.
    return x.new_empty(min(_ROWS, x.shape[0]) * min(_step(x), weight.shape[0]))


def _logits(x: Tensor, weight: Tensor, bias: Tensor, place: Tensor) -> Tensor:
    shape = x.shape[0], weight.shape[0]
    out = place[: shape[0] * shape[1]].view(shape)
    return torch.addmm(bias, x, weight.T, out=out)


def _block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    result: Tensor,
    moved: Any,  # noqa: ANN401
    rows: slice,
    classes: slice,
) -> tuple[Tensor, Tensor]:
    """A block of the probabilities, and what its logits change by."""
    logits = F.linear(x[rows], weight[classes], bias[classes])
    change = moved[0][rows] @ weight[classes].T + x[rows] @ moved[1][classes].T
    return (logits - result[rows, None]).exp(), change + moved[2][classes]


def _or_zeros(tangents: Any, like: tuple[Tensor, ...]) -> list[Tensor]:  # noqa: ANN401
    return [
        torch.zeros_like(tensor) if tangent is None else tangent
        for tangent, tensor in zip(tangents, like, strict=True)
    ]


def _one_by_one(
    function: type[torch.autograd.Function],
    size: int,
    in_dims: Any,  # noqa: ANN401
    arguments: tuple[Tensor, ...],
) -> Any:  # noqa: ANN401
    lanes = [
        function.apply(  # type: ignore[no-untyped-call]
            *(
                argument if dim is None else argument.select(dim, lane)
                for argument, dim in zip(arguments, in_dims, strict=True)
            )
        )
        for lane in range(size)
    ]
    return tuple(torch.stack(column) for column in zip(*lanes, strict=True))
