"""What every loss does before and after its formula: check, promote, weight, reduce."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torch_mlcalc.precision import is_autocast

Reduction = Literal["none", "mean", "sum"]

#: Elements up to which calling an operation takes longer than what it does to them.
FEW = 4096

#: As torch's kernels name them.
KERNEL_REDUCTION = {"none": 0, "mean": 1, "sum": 2}
_REDUCTIONS = tuple(KERNEL_REDUCTION)

#: What is computed in its own dtype needs no promotion: a tenth of a small call.
PLAIN = (torch.float32, torch.float64)

# dtype.to_real() in a form that torch.compile can trace.
_REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}


class Loss(nn.Module):
    """Base of the loss modules: holds the ``reduction``.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If ``reduction`` is none of the three.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        """Check and keep the reduction."""
        super().__init__()
        check_reduction(reduction)
        self.reduction: Reduction = reduction

    def extra_repr(self) -> str:
        """Return the settings for ``repr``, and ``validate`` where it is set."""
        validate = getattr(self, "validate", None)
        shown = "" if validate is None else f", validate={validate}"
        return f"reduction={self.reduction!r}{shown}"

    def _buffer(self, name: str) -> Tensor | None:
        # nn.Module looks for attributes there last of all: 5 us of 60 of a small loss.
        buffers = self._buffers
        return buffers[name] if name in buffers else getattr(self, name)


def check_reduction(reduction: Reduction) -> None:
    """Refuse a reduction that does not exist.

    Args:
        reduction: The caller's choice.

    Raises:
        ValueError: If ``reduction`` is not ``"none"``, ``"mean"`` or ``"sum"``.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(
            f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}"
        )


def prepare(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    *,
    allow_complex: bool = False,
) -> tuple[Tensor, Tensor, torch.dtype]:
    """Check what a loss is called with, and promote it to the dtype to compute in.

    Half precisions are computed in ``float32`` and rounded once, at the end.

    Args:
        input: Predictions.
        target: Values to predict.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        allow_complex: Whether the loss is defined for complex residuals.

    Returns:
        ``input`` and ``target`` in the dtype to compute in, and that of the result.

    Raises:
        TypeError: If an argument is no tensor or holds numbers of the wrong kind.
        ValueError: If the shapes differ or the reduction does not exist.
    """
    if (
        # What most are called with, in one look.
        weight is None
        and reduction in _REDUCTIONS
        and isinstance(input, Tensor)
        and isinstance(target, Tensor)
        and input.dtype is target.dtype
        and input.dtype in PLAIN
        and input.shape == target.shape
    ):
        return input, target, input.dtype
    check_reduction(reduction)
    _check_tensor("input", input)
    _check_tensor("target", target)
    _check_shape("target", target, input)
    dtype = torch.promote_types(input.dtype, target.dtype)
    _check_dtype(dtype, input, target, allow_complex)
    dtype, result = _compute_and_result(dtype, input.device.type)
    if weight is not None:
        result = torch.promote_types(result, _check_weight(weight, input).dtype)
    return input.to(dtype), target.to(dtype), result


def prepare_all(
    tensors: dict[str, Tensor], weight: Tensor | None, reduction: Reduction
) -> tuple[list[Tensor], torch.dtype]:
    """Check and promote several real tensors of one shape, as :func:`prepare` does two.

    Args:
        tensors: The arguments by name; the first sets the shape that all must have.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The tensors in the dtype to compute in, in order, and the dtype of the result.

    Raises:
        TypeError: If an argument is no tensor, or complex, or none is floating-point.
        ValueError: If the shapes differ or the reduction does not exist.
    """
    check_reduction(reduction)
    (first_name, first), *others = tensors.items()
    _check_tensor(first_name, first)
    dtype = first.dtype
    for name, tensor in others:
        _check_tensor(name, tensor)
        _check_shape(name, tensor, first, first_name)
        dtype = torch.promote_types(dtype, tensor.dtype)
    if not dtype.is_floating_point:
        got = ", ".join(f"{name} {tensor.dtype}" for name, tensor in tensors.items())
        kind = "real" if dtype.is_complex else "floating-point"
        if others and not dtype.is_complex:
            kind += ", one of them at least"
        raise TypeError(f"{', '.join(tensors)} must be {kind}, got {got}")
    dtype, result = _compute_and_result(dtype, first.device.type)
    if weight is not None:
        result = torch.promote_types(
            result, _check_weight(weight, first, first_name).dtype
        )
    return [tensor.to(dtype) for tensor in tensors.values()], result


def reduce(loss: Tensor, weight: Tensor | None, reduction: Reduction) -> Tensor:
    r"""Weight the losses of the elements and reduce them.

    .. math::
        w_i \ell_i, \qquad \sum_i w_i \ell_i, \qquad
        \frac{\sum_i w_i \ell_i}{\sum_i w_i}

    for ``"none"``, ``"sum"`` and ``"mean"``; without weights all :math:`w_i = 1`. An
    infinite loss with a weight of 0 is NaN, as in torch.

    Args:
        loss: Loss of each element.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        A tensor of the shape of ``loss`` with ``"none"``, of shape ``()`` otherwise.
    """
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    # Tensor.mean has a backward that fills a tensor as large as the loss with a number,
    # a third of the time of forward and backward at 1e6 elements; at 1e3 it is a tenth
    # faster than a sum and a quotient. On the CPU the bits are the same.
    if weight is None and loss.numel() <= FEW:
        return loss.mean()
    count = loss.numel() if weight is None else weight.sum(dtype=loss.dtype)
    return loss.sum() / count


def reduce_kernel(
    kernel: Callable[..., Tensor],
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    *settings: float,
) -> Tensor:
    """Weight and reduce a loss of which torch has a kernel that can reduce by itself.

    Args:
        kernel: Called with ``input``, ``target``, the number that stands for the
            reduction, and the settings. From ``torch._C._nn`` and not from
            ``torch.nn.functional``, whose functions broadcast before, which takes a
            tenth of the time of forward and backward at 1000 elements.
        input: Predictions.
        target: Values to predict.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        settings: The other arguments of the kernel.

    Returns:
        What :func:`reduce` returns.
    """
    if weight is None:
        return kernel(input, target, KERNEL_REDUCTION[reduction], *settings)
    return reduce(kernel(input, target, 0, *settings), weight, reduction)


def with_slope(
    loss: Tensor, slope: Callable[..., Tensor], *arguments: object
) -> Tensor:
    """Let a kernel's derivative be differentiated further, by the formula of it.

    By a hook, which takes 10 us. An autograd.Function has to call the kernel of the
    backward pass through ``torch.ops``, which takes 40 in all.

    Args:
        loss: What the kernel returned, as it is.
        slope: The derivative by the first argument, differentiable; gets the gradient
            of the loss and the arguments, and is asked where a graph is made of the
            backward pass.
        arguments: The others of ``slope``.

    Returns:
        The loss.
    """
    node = loss.grad_fn
    if node is not None:
        # As Tensor.register_hook does, without a handle that nobody wants: half the
        # time, and half of that of a hook that gets and returns the derivative.
        hook = _SlopeHook()
        hook.slope, hook.arguments = slope, arguments
        hooks: Any = _Hooks(slope=hook)
        loss._backward_hooks = hooks
        node._register_hook_dict(loss)
    return loss


class _Hooks(dict[str, Any]):
    """What Tensor.register_hook can refer to weakly, cheaper than an OrderedDict."""

    __slots__ = ("__weakref__",)


class _SlopeHook:
    """Has the derivative replaced when a graph is made of the backward pass."""

    __slots__ = ("arguments", "slope")
    #: To pickle the loss without a word, which has no hook then.
    __torch_unserializable__ = True

    slope: Callable[..., Tensor]
    arguments: tuple[Any, ...]

    def __call__(self, grad: Tensor) -> None:
        if torch.is_grad_enabled():
            # If the hook kept the node, each would keep the other.
            node = torch._C._current_autograd_node()
            handle = node.register_hook(lambda *grads: self._replaced(handle, *grads))

    def _replaced(self, handle: Any, found: Any, grads: Any) -> Any:  # noqa: ANN401
        handle.remove()
        return (self.slope(grads[0], *self.arguments), *found[1:])


def as_dtype(loss: Tensor, dtype: torch.dtype) -> Tensor:
    """Return ``loss.to(dtype)``, which takes 4 us to find out that nothing is to do."""
    return loss if loss.dtype is dtype else loss.to(dtype)


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(value).__name__}; "
            "convert with torch.as_tensor"
        )


def _check_dtype(
    dtype: torch.dtype, input: Tensor, target: Tensor, allow_complex: bool
) -> None:
    if dtype.is_complex and not allow_complex:
        raise TypeError(
            f"input and target must be real, got {input.dtype} and {target.dtype}; "
            "torch.view_as_real gives the real and imaginary parts as elements"
        )
    if not (dtype.is_floating_point or dtype.is_complex):
        raise TypeError(
            "input or target must be floating-point, got "
            f"{input.dtype} and {target.dtype}; convert with .to(torch.float32)"
        )


def _compute_and_result(
    dtype: torch.dtype, device: str
) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtype to compute in and that of the result, for arguments of dtype."""
    result = _REAL.get(dtype, dtype)
    if dtype in (torch.float16, torch.bfloat16):
        dtype = torch.float32
        # As torch's own losses: what GradScaler multiplies by 65536 must not be half.
        result = dtype if is_autocast(device) else result
    return dtype, result


def _check_weight(weight: Tensor, input: Tensor, name: str = "input") -> Tensor:
    _check_tensor("weight", weight)
    _check_shape("weight", weight, input, name)
    if weight.is_complex():
        raise TypeError(f"weight must be real, got {weight.dtype}")
    return weight


def _check_shape(
    name: str, tensor: Tensor, input: Tensor, input_name: str = "input"
) -> None:
    if tensor.shape != input.shape:
        raise ValueError(
            f"{name} must have the shape of {input_name}, {tuple(input.shape)}, got "
            f"{tuple(tensor.shape)}; losses do not broadcast: say what is meant with "
            "unsqueeze, squeeze or expand_as"
        )
