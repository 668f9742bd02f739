"""The update in one pass over memory, where torch's kernel for it is right."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_mlcalc.optim.foreach import scale_
from torch_mlcalc.optim.options import Numbers

Tensors = list[Tensor]

#: Elements from which the kernel is faster on several threads. It starts all of them
#: for each tensor, however small; on 2 threads the break-even was between 4096 and
#: 16384 elements, and far higher while the cores were busy with something else.
MIN_ELEMENTS = 16384

#: Elements up to which the kernel is faster than the one addition that is the whole
#: step without momentum, weight decay and sign: 0.54 against 0.70 ms for 2 million
#: elements in tensors of 16384, 0.52 against 0.44 ms in tensors of 65536.
MAX_ELEMENTS_OF_ADDITION = 32768


def fused_(params: Tensors, grads: Tensors, buffers: Tensors, numbers: Numbers) -> None:
    """Apply the formula of :class:`SGD`, within rounding equal to the reference.

    Only the elements after the last full vector register of a tensor can differ: there
    the kernel rounds the new momentum once less.

    Args:
        params: Parameters, changed in place, each one :func:`is_safe`.
        grads: Their gradients, never written to.
        buffers: Their momentum buffers, changed in place; empty without momentum.
        numbers: The options, all of them numbers.
    """
    lr, momentum, dampening, weight_decay, nesterov, maximize, decoupled = numbers
    if weight_decay != 0 and decoupled:
        scale_(params, 1 - lr * weight_decay)
        weight_decay = 0
    torch._fused_sgd_(
        params,
        grads,
        buffers,
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=dampening,
        nesterov=nesterov,
        maximize=maximize,
        # The kernel would not read the buffer then; it is always initialised here.
        is_first_step=False,
    )
    # The kernel does not, and a backward pass through the old values must notice.
    torch.autograd.graph.increment_version(params)


def is_safe(param: Tensor, grad: Tensor, buffer: Tensor | None) -> bool:
    """Return whether torch's kernel is right for these tensors.

    In torch 2.13 that for the CPU never writes whole vectors of 16-bit numbers back,
    and pairs elements by their place in memory, whatever the shapes and strides are;
    that for CUDA refuses those that differ.

    Args:
        param: A parameter.
        grad: Its gradient.
        buffer: Its momentum buffer, if it has momentum.
    """
    # This keeps the strides of a tensor just if they are dense and do not overlap.
    dense = torch.empty_like(param, device="meta")
    return all(
        tensor.device.type in ("cpu", "cuda")
        and tensor.device == param.device
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.dtype == param.dtype
        and tensor.layout == torch.strided
        and tensor.shape == param.shape
        and tensor.stride() == dense.stride()
        for tensor in (param, grad, buffer)
        if tensor is not None
    )
