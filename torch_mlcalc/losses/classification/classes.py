"""What losses of many classes share: where the classes are, and the checks.

As in torch, the classes are dimension 1, or dimension 0 of an input without a batch:
``(N, C, d1, ...)`` or ``(C,)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torch_mlcalc.losses.classification.settings import (
    check_buffer,
    check_index,
)
from torch_mlcalc.losses.reduction import (
    PLAIN,
    Loss,
    Reduction,
    prepare,
)
from torch_mlcalc.losses.validation import check_values, is_validated
from torch_mlcalc.losses.watch import can_read

#: What torch's kernels raise for arguments that do not fit.
REFUSALS = (RuntimeError, ValueError, IndexError)

#: What torch's losses take for "no target here".
IGNORED = -100


class BinaryLoss(Loss):
    """Base of the modules for two classes: holds what these losses have in common.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self, reduction: Reduction = "mean", *, validate: bool | None = None
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        is_validated(validate)
        self.validate = validate


class ClassLoss(Loss):
    """Base of the modules for many classes: holds what these losses have in common.

    Args:
        weight: Weight of each class; a buffer.
        ignore_index: Target that does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = IGNORED,
        reduction: Reduction = "mean",
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        check_buffer("weight", weight)
        check_index("ignore_index", ignore_index)
        is_validated(validate)
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.validate = validate

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, ignore_index={self.ignore_index}"


def check_probabilities(name: str, value: Tensor) -> None:
    """Refuse what is no probability.

    Args:
        name: Name of the argument.
        value: Its value.
    """
    check_values(name, value, (value >= 0) & (value <= 1), "must be from 0 to 1")


def class_axis(input: Tensor) -> int:
    """Return the dimension of the classes."""
    return 0 if input.ndim == 1 else 1


def prepare_classes(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    *,
    probabilities: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, torch.dtype]:
    """Check what a loss of classes is called with, and promote it.

    Args:
        input: Scores of the classes.
        target: Class indices; or probabilities, if they are floating-point.
        weight: Weight of each class, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        probabilities: Whether targets may be probabilities.

    Returns:
        ``input``, ``target`` and ``weight`` in the dtype to compute in, indices in
        ``int64``, and the dtype of the result.

    Raises:
        TypeError: If an argument is no tensor or holds numbers of the wrong kind.
        ValueError: If the shapes do not fit or the reduction does not exist.
    """
    given, _, dtype = prepare(input, input, None, reduction)
    if input.ndim == 0 or not input.shape[class_axis(input)]:
        raise ValueError(
            "input must have the classes in dimension 1, or in dimension 0 without a "
            f"batch, and one class at least, got shape {tuple(input.shape)}"
        )
    if isinstance(target, Tensor) and target.is_floating_point():
        if not probabilities:
            raise TypeError(
                f"target must be class indices, got {target.dtype}; convert with "
                ".long(), or take probabilities apart with argmax"
            )
        input, target, dtype = prepare(input, target, None, reduction)
    else:
        input, target = given, _indices(input, target)
    if weight is not None:
        weight, dtype = _class_weight(weight, input, dtype)
    return input, target, weight, dtype


def is_usual_mean(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: Reduction
) -> bool:
    """Whether a loss is called with what most call it with, but for the shapes.

    Then torch's kernel may be tried without the checks, which are a tenth of the time
    of forward and backward at 1000 elements: it has its own of the shapes.

    Args:
        input: Scores of the classes.
        target: Class indices or probabilities.
        weight: Weight of each class, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Whether it is a mean without weights, of ordinary tensors on the CPU.
    """
    return (
        weight is None
        and reduction == "mean"
        and can_read(input)
        and type(target) is Tensor
        and (dtype := input.dtype) in PLAIN
        and input.ndim == 2
        and (
            (target.ndim == 1 and target.dtype is torch.int64)
            or (target.dtype is dtype and target.shape == input.shape)
        )
    )


def mean_of_kernel(
    kernel: Callable[..., Tensor], input: Tensor, target: Tensor, *settings: object
) -> Tensor | None:
    """Return what torch's kernel gives, if it is a number.

    Args:
        kernel: Called with ``input``, ``target`` and the settings.
        input: Scores of the classes.
        target: Class indices or probabilities.
        settings: The other arguments of the kernel, for a mean without weights.

    Returns:
        The mean, or None where it is refused or NaN: then all has to be looked at.
    """
    try:
        loss = kernel(input, target, *settings)
    except REFUSALS:
        return None
    return None if math.isnan(loss.item()) else loss


def check_classes(input: Tensor, target: Tensor, ignore_index: int | None) -> None:
    """Refuse class indices out of range and what are no probabilities.

    Args:
        input: Scores of the classes.
        target: Class indices or probabilities.
        ignore_index: Target that does not count, or None.

    Raises:
        ValueError: If there is one.
    """
    axis = class_axis(input)
    count = input.shape[axis]
    if target.is_floating_point():
        check_probabilities("target", target)
        total = target.sum(axis)
        # Each of the terms may be rounded, by half of eps.
        off = (total - 1).abs() <= count * torch.finfo(target.dtype).eps
        check_values("sum of target", total, off, "over the classes must be 1")
        return
    valid = (target >= 0) & (target < count)
    also = "" if ignore_index is None else f", or ignore_index = {ignore_index}"
    if ignore_index is not None:
        valid = valid | (target == ignore_index)
    check_values("target", target, valid, f"must be from 0 to {count - 1}{also}")


def reduce_classes(
    loss: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: Reduction,
) -> Tensor:
    """Weight the losses of elements by their target class, and reduce those that count.

    Args:
        loss: Loss of each element.
        target: Class indices.
        weight: Weight of each class, or None.
        ignore_index: Target that does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; ``"mean"`` divides by the sum of
            the weights of those that count, and is 0 where none does.

    Returns:
        A tensor of the shape of ``loss`` with ``"none"``, of shape ``()`` otherwise.
    """
    ignored = target == ignore_index
    loss = loss.masked_fill(ignored, 0)
    if weight is not None:
        of_target = weight[known(target, ignore_index)].masked_fill(ignored, 0)
        loss = loss * of_target
    if reduction == "none":
        return loss
    if reduction == "sum" or not target.numel():
        return loss.sum() if reduction == "sum" else loss.mean()
    total = (~ignored).sum() if weight is None else of_target.sum()
    return loss.sum() / total.masked_fill(ignored.all(), 1)


def known(target: Tensor, ignore_index: int) -> Tensor:
    """Return indices that exist: 0 in the place of those that do not count."""
    return target.masked_fill(target == ignore_index, 0)


def _indices(input: Tensor, target: Tensor) -> Tensor:
    if not isinstance(target, Tensor):
        raise TypeError(
            f"target must be a torch.Tensor, got {type(target).__name__}; "
            "convert with torch.as_tensor"
        )
    check_buffer("target", target)
    axis = class_axis(input)
    wanted = tuple(input.shape[:axis]) + tuple(input.shape[axis + 1 :])
    if tuple(target.shape) != wanted:
        raise ValueError(
            f"target must have the shape of input without the classes, {wanted}, got "
            f"{tuple(target.shape)}; input has shape {tuple(input.shape)}, of which "
            f"dimension {axis} are the classes. Probabilities are floating-point"
        )
    return target.long()


def _class_weight(
    weight: Tensor, input: Tensor, dtype: torch.dtype
) -> tuple[Tensor, torch.dtype]:
    check_buffer("weight", weight)
    wanted = (input.shape[class_axis(input)],)
    if tuple(weight.shape) != wanted:
        raise ValueError(
            f"weight must have a number for each class, shape {wanted}, got "
            f"{tuple(weight.shape)}; for weights of elements use reduction='none'"
        )
    if weight.is_floating_point():
        dtype = torch.promote_types(dtype, weight.dtype)
    return weight.to(input.dtype), dtype
