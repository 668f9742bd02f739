"""What a ``state_dict`` has for the parameters of an optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torch_mlcalc.optim.options import check_options


def check_groups(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Refuse options that no group may have, before they are loaded.

    Args:
        optimizer: Who is about to load it.
        state_dict: What ``state_dict`` returned.

    Raises:
        ValueError: If a number is out of range.
        RuntimeError: If two switches exclude each other.
    """
    # What an older torch did not save is off; flat is not loaded.
    off = dict.fromkeys(("fused", "foreach", "differentiable"), False)
    groups = optimizer.param_groups, state_dict["param_groups"]
    for group, saved in zip(*groups, strict=False):
        options = {**optimizer.defaults, **off, **saved, "flat": group["flat"]}
        # As in torch, a group may have switched momentum off under nesterov.
        check_options({**options, "nesterov": False})


def check_shapes(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Refuse the state of other parameters, before it is loaded.

    Args:
        optimizer: Who is about to load it.
        state_dict: What ``state_dict`` returned.

    Raises:
        ValueError: If a buffer is not of the shape of its parameter.
    """
    for i, (param, saved) in enumerate(_entries(optimizer, state_dict)):
        for key in ("momentum_buffer", "compensation"):
            value = saved.get(key)
            if value is not None and value.shape != param.shape:
                raise ValueError(
                    f"state_dict must have a {key} of shape {tuple(param.shape)} for "
                    f"parameter {i}, got {tuple(value.shape)}; pass the parameters in "
                    "the order they had when it was saved"
                )


def restore_precision(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Load momentum once more where it is more precise than its parameter.

    Args:
        optimizer: Who has loaded it.
        state_dict: What was loaded.
    """
    for param, saved in _entries(optimizer, state_dict):
        buffer = saved.get("momentum_buffer")
        if buffer is None:
            continue
        loaded = optimizer.state[param]["momentum_buffer"]
        dtype = torch.promote_types(buffer.dtype, loaded.dtype)
        if loaded.dtype != dtype:
            optimizer.state[param]["momentum_buffer"] = buffer.to(loaded.device, dtype)


def _entries(
    optimizer: Optimizer, state_dict: dict[str, Any]
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    """Yield each parameter and what was saved for it."""
    names = [i for group in state_dict["param_groups"] for i in group["params"]]
    params = [param for group in optimizer.param_groups for param in group["params"]]
    # Other lengths are refused by torch, after the first hook.
    for name, param in zip(names, params, strict=False):
        yield param, state_dict["state"].get(name, {})
