"""Reading tensors on the host and writing them back, also from inside vmap.

Adaptive rules decide on the host, in float64, from a few numbers per integral. Inside
``torch.func.vmap`` such a number is not readable: each mapped element has its own. An
``autograd.Function`` with a ``vmap`` rule sees the tensor behind it, with the mapped
dimensions in front; that is all that this file uses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._C import _get_tracing_state, _len_torch_dispatch_stack
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad

Maker = TypeVar("Maker", bound=Callable[..., Any])


@contextmanager
def frozen() -> Iterator[None]:
    """Neither reverse nor forward mode records what happens inside."""
    with torch.no_grad(), forward_ad._set_fwd_grad_enabled(False):
        yield


def unrecorded(*, alone: bool) -> AbstractContextManager[None]:
    """That a search records nothing.

    Args:
        alone: Whether nothing but the integrand could, and its evaluator sees to that.

    Returns:
        The context.
    """
    if dual_level():
        return frozen()
    # Without forward mode the half of it does, in a fifth of the time.
    return nullcontext() if alone else torch.no_grad()


def kept(most: int | None = None) -> Callable[[Maker], Maker]:
    """Make tables of tensors once, and never in a mode that is of its caller alone.

    One of the first caller's inference mode has no gradient for all who come after,
    and one made while ``torch.export`` or a ``FakeTensorMode`` looks on has no values.
    What is made inside of a transform of ``torch.func`` is wrapped for it, also after.
    Under a dispatch mode it is made anew, as the mode wants it.

    Args:
        most: Tables to keep; None for all.

    Returns:
        A decorator of what makes a table.
    """

    def decorate(make: Maker) -> Maker:
        def lasting(*arguments: Hashable) -> object:
            with torch.inference_mode(False), temporarily_clear_interpreter_stack():
                return make(*arguments)

        cached = lru_cache(maxsize=most)(lasting)

        @wraps(make)
        def found(*arguments: Hashable) -> object:
            ready = lasting if _len_torch_dispatch_stack() else cached
            return ready(*arguments)

        # What torch.compiler.assume_constant_result sets; calling that would import the
        # whole compiler with this package, 1.5 s.
        found._dynamo_marked_constant = True  # type: ignore[attr-defined]
        return cast("Maker", found)

    return decorate


def transforming() -> bool:
    """Whether a torch.func transform is active."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def readable(tensor: Tensor) -> bool:
    """Whether reading a value is free: not on a GPU, while tracing, or mapped."""
    return (
        tensor.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not transforming()
        # Of torch.jit.trace, whose trace would keep the value.
        and _get_tracing_state() is None
    )


def is_plain(tensor: Tensor) -> bool:
    """Whether a value may decide what is done: readable, and nothing makes a trace."""
    return (
        readable(tensor) and type(tensor) is Tensor and not _len_torch_dispatch_stack()
    )


def on_device(
    value: Tensor | float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A number or tensor on a device, without waiting for what that has to do.

    Args:
        value: A limit, or another number.
        dtype: Wanted dtype.
        device: Wanted device.

    Returns:
        The tensor.
    """
    if isinstance(value, Tensor):
        return value.to(device, dtype)
    # torch.as_tensor copies a number from the host, after all that was queued before.
    return torch.full((), value, dtype=dtype, device=device)


class _Box:
    """Carries an array past the wrappers; a list would be copied on the way."""

    array: npt.NDArray[Any]


def _values(tensor: Tensor) -> npt.NDArray[Any]:
    tensor = tensor.detach()
    if tensor.dtype != torch.float64 or tensor.device.type != "cpu":
        dtype = torch.complex128 if tensor.is_complex() else torch.float64
        tensor = tensor.to("cpu", dtype)
    array: npt.NDArray[Any] = tensor.numpy()
    return array


def _call(function: type[torch.autograd.Function], tensor: Tensor, box: _Box) -> Tensor:
    result: Tensor = function.apply(tensor, box)  # type: ignore[no-untyped-call]
    return result


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor, box: _Box) -> Tensor:
        box.array = _values(tensor)
        return tensor.new_empty(())

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:  # noqa: ANN401
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, tensor: Tensor, box: _Box) -> Any:  # noqa: ANN401
        return _call(_Read, tensor.movedim(in_dims[0], 0), box), None


class _Write(torch.autograd.Function):
    @staticmethod
    def forward(token: Tensor, box: _Box) -> Tensor:
        return torch.as_tensor(box.array, device=token.device)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ANN401
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:  # noqa: ANN401
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, token: Tensor, box: _Box) -> Any:  # noqa: ANN401
        return _call(_Write, token.movedim(in_dims[0], 0), box), 0


def read(tensor: Tensor, mark: Tensor | None = None) -> npt.NDArray[Any]:
    """The values in double precision, mapped dimensions (outermost first) in front.

    With a ``mark``, a tensor that is mapped over some dimensions, those are in front
    even where the tensor itself is not mapped.

    Returns:
        A float64 or complex128 array.
    """
    if not transforming():
        return _values(tensor)
    box = _Box()
    with frozen():
        # A copy has no tangent here.
        copy = tensor.clone() if mark is None else tensor + mark.to(tensor.dtype)
        _call(_Read, copy, box)
    return box.array


def write(array: npt.NDArray[Any], mark: Tensor | None, device: torch.device) -> Tensor:
    """An array as a tensor; the mark is mapped over its leading dimensions."""
    if mark is None:
        return torch.as_tensor(array, device=device)
    box = _Box()
    box.array = array
    return _call(_Write, mark, box)


#: Multiplications up to which numpy's library does a product of a matrix and a vector
#: on one thread (OpenBLAS, interface/gemv.c: 2304 times GEMM_MULTITHREAD_THRESHOLD).
SMALL = 9216


def contract(rows: npt.NDArray[Any], values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Sums ``(r, *)`` of values ``(k, *)`` with rows of real weights ``(r, k)``.

    The threads of numpy's products do not heed ``torch.set_num_threads``, and wait for
    each other in a loop: beside two busy processes on two cores, where torch took 2
    milliseconds they took 100. So all but small products are torch's.

    Args:
        rows: Weights.
        values: Real or complex.

    Returns:
        The sums.
    """
    flat = values.reshape(len(values), -1)
    if rows.size * flat.shape[1] <= SMALL or transforming():
        return (rows @ flat).reshape(-1, *values.shape[1:])
    real = flat.dtype == float
    numbers = flat if real else np.ascontiguousarray(flat).view(float)
    # What may not be written to is copied, as torch would warn of it.
    weights = torch.from_numpy(rows if rows.flags.writeable else rows.copy())
    sums = (weights @ torch.from_numpy(numbers)).numpy()
    return sums.view(flat.dtype).reshape(-1, *values.shape[1:])


def mapped_mark(*tensors: Tensor) -> Tensor | None:
    """A zero that is mapped by vmap over every dimension any of the tensors is."""
    if not transforming():
        return None
    mark = torch.zeros((), dtype=torch.float64, device="cpu")
    for tensor in tensors:
        # zeros_like keeps the mapping and drops the values, which may be nan.
        mark = mark + torch.zeros_like(tensor, dtype=torch.float64).sum()
    return mark


def dual_level() -> bool:
    """Whether forward-mode differentiation is active."""
    return forward_ad._current_level >= 0
