"""What the robust losses share: the residual in units of a scale."""

from numbers import Real

import torch
from torch import Tensor, nn

from torch_mlcalc.losses.reduction import Reduction, prepare


def scaled_residual(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    scale: float | Tensor,
) -> tuple[Tensor, torch.dtype]:
    """Check what a robust loss is called with, and divide the residual by the scale.

    Args:
        input: Predictions.
        target: Values to predict.
        weight: Weight of each element, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        scale: A number, or a tensor that broadcasts to ``input``.

    Returns:
        The scaled residual, and the dtype of the result.

    Raises:
        TypeError: If an argument is no tensor or of the wrong kind.
        ValueError: If the shapes do not fit or a number is not positive.
    """
    check_scale(scale)
    input, target, dtype = prepare(input, target, weight, reduction)
    check_broadcasts("scale", scale, input)
    if isinstance(scale, Tensor):
        scale = scale.to(input.dtype)
    return (input - target) / scale, dtype


def check_scale(scale: float | Tensor) -> None:
    """Refuse a scale that is no positive number; values in tensors are not looked at.

    Args:
        scale: The caller's choice.

    Raises:
        TypeError: If it is neither a number nor a real tensor.
        ValueError: If the number is not positive and finite.
    """
    check_setting("scale", scale)
    if not isinstance(scale, Tensor) and not 0 < scale < float("inf"):
        raise ValueError(f"scale must be positive and finite, got {scale}")


def check_setting(name: str, value: object) -> None:
    """Refuse a setting that is neither a number nor a real tensor.

    Args:
        name: Its name.
        value: The caller's choice.

    Raises:
        TypeError: If it is neither.
    """
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be floating-point, got {value.dtype}")
    elif not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a number or a tensor, got {type(value).__name__}"
        )


def check_broadcasts(name: str, setting: float | Tensor, input: Tensor) -> None:
    """Refuse a setting whose shape would change that of the loss.

    Args:
        name: Its name.
        setting: The caller's choice.
        input: What it has to broadcast to.

    Raises:
        ValueError: If it does not.
    """
    if not isinstance(setting, Tensor):
        return
    last = input.shape[input.ndim - setting.ndim :]
    fits = setting.ndim <= input.ndim and all(
        n in (1, m) for n, m in zip(setting.shape, last, strict=False)
    )
    if not fits:
        raise ValueError(
            f"{name} must broadcast to the shape of input, {tuple(input.shape)}, got "
            f"{tuple(setting.shape)}"
        )


def keep_setting(module: nn.Module, name: str, value: float | Tensor) -> None:
    """Make a setting part of a module: parameter, buffer or attribute.

    Args:
        module: The module.
        name: Name of the setting.
        value: A number or a tensor.
    """
    if isinstance(value, nn.Parameter):
        module.register_parameter(name, value)
    elif isinstance(value, Tensor):
        module.register_buffer(name, value)
    else:
        setattr(module, name, value)


def shown(value: float | Tensor) -> str:
    """Return a setting for ``repr``: the number, or the kind and shape of the tensor.

    Args:
        value: The setting.

    Returns:
        Its description.
    """
    if isinstance(value, Tensor):
        return f"{type(value).__name__}{tuple(value.shape)}"
    return str(value)
