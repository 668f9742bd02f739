"""The update with one call per operation, for many parameters at once."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_mlcalc.optim.options import Numbers

Tensors = list[Tensor]


def foreach_(
    params: Tensors,
    grads: Tensors,
    buffers: Tensors,
    numbers: Numbers,
) -> None:
    """Apply the formula of :class:`SGD`; on a CPU equal to the reference bit for bit.

    Args:
        params: Parameters, changed in place.
        grads: Their gradients, never written to.
        buffers: Their momentum buffers, changed in place; empty without momentum.
        numbers: The options, all of them numbers.
    """
    grads = decayed_(params, grads, numbers)
    momentum = numbers.momentum
    if momentum != 0:
        scale_(buffers, momentum)
        torch._foreach_add_(buffers, grads, alpha=1 - numbers.dampening)
        if numbers.nesterov:
            grads = list(torch._foreach_add(grads, buffers, alpha=momentum))
        else:
            grads = buffers
    torch._foreach_add_(params, grads, alpha=-numbers.lr)


def decayed_(params: Tensors, grads: Tensors, numbers: Numbers) -> Tensors:
    """Apply the sign and the weight decay, to the gradients or, decoupled, in place.

    Args:
        params: Parameters, changed in place by decoupled decay.
        grads: Their gradients, never written to.
        numbers: The options, all of them numbers.

    Returns:
        What goes into momentum.
    """
    lr, weight_decay = numbers.lr, numbers.weight_decay
    if numbers.maximize:
        grads = list(torch._foreach_neg(grads))
    if weight_decay != 0 and numbers.decoupled_weight_decay:
        scale_(params, 1 - lr * weight_decay)
    elif weight_decay != 0:
        grads = list(torch._foreach_add(grads, params, alpha=weight_decay))
    return grads


def scale_(tensors: Tensors, factor: float) -> None:
    """Multiply tensors by a number, in place.

    On a CPU, torch 2.13 takes three times as long in one call with a number as with a
    tensor, and first rounds the number to the dtype of the tensors: 0.9 becomes 0.8984
    for bfloat16.

    Args:
        tensors: Tensors of one dtype and device, changed in place.
        factor: What to multiply by.
    """
    first = tensors[0]
    if first.device.type != "cpu":
        torch._foreach_mul_(tensors, factor)
    elif first.dtype in (torch.float32, torch.float64):
        # Without a device it would be where torch.set_default_device says, and on
        # "meta" torch multiplies by nothing.
        number = torch.tensor(factor, dtype=first.dtype, device=first.device)
        torch._foreach_mul_(tensors, number)
    else:
        for tensor in tensors:
            tensor.mul_(factor)
