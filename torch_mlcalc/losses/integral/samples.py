"""Samples on a line as step functions: quantiles and cumulative distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.losses.integral.settings import check_weight
from torch_mlcalc.losses.reduction import Reduction, prepare_all


class Samples(NamedTuple):
    """Values ``(*batch, n)`` and their shares, which sum to 1, in ``float64``.

    ``equal`` says that all shares are the same.
    """

    values: Tensor
    shares: Tensor
    equal: bool


def prepare_samples(
    input: Tensor,
    target: Tensor,
    input_weight: Tensor | None,
    target_weight: Tensor | None,
    weight: Tensor | None,
    reduction: Reduction,
) -> tuple[Samples, Samples, torch.dtype]:
    """Check and promote two sets of samples.

    Args:
        input: Samples ``(*batch, n)``.
        target: Samples ``(*batch, m)``.
        input_weight: Weights of the first, or None.
        target_weight: Weights of the second, or None.
        weight: Weight of each pair, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Both, in the dtype to compute in, and the dtype of the result.

    Raises:
        ValueError: If shapes do not fit, or there are no samples.
    """
    # Counts against numbers are promoted as in any other loss.
    common = torch.promote_types(input.dtype, target.dtype)
    if common.is_floating_point:
        input, target = (
            x if x.is_floating_point() else x.to(common) for x in (input, target)
        )
    found, dtypes = [], []
    for name, value, own in (
        ("input", input, input_weight),
        ("target", target, target_weight),
    ):
        given = {name: value} if own is None else {name: value, f"{name}_weight": own}
        tensors, dtype = prepare_all(given, None, reduction)
        if value.ndim == 0 or value.shape[-1] == 0:
            raise ValueError(
                f"{name} must have samples in its last dimension, got the shape "
                f"{tuple(value.shape)}"
            )
        mass = tensors[1] if own is not None else torch.ones_like(tensors[0])
        # In float32 the sums of 1e5 shares, and so the distances, are 1e-5 off.
        mass = mass.double()
        shares = mass / mass.sum(-1, keepdim=True)
        found.append(Samples(tensors[0], shares, own is None))
        dtypes.append(dtype)
    batch = input.shape[:-1]
    if target.shape[:-1] != batch:
        raise ValueError(
            f"target must have the shape {tuple(batch)} before the samples, got "
            f"{tuple(target.shape[:-1])}"
        )
    check_weight(weight, batch, "before the samples")
    dtype = torch.promote_types(*dtypes)
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    wide = torch.promote_types(found[0].values.dtype, found[1].values.dtype)
    x, y = (s._replace(values=s.values.to(wide)) for s in found)
    return x, y, dtype


def step_quantiles(x: Samples, y: Samples) -> tuple[Tensor, Tensor, Tensor]:
    """Where both quantile functions are constant: shares of the levels, and values.

    Args:
        x: Samples.
        y: Others.

    Returns:
        Shares ``(*batch, k)`` that sum to 1, and the quantiles of both there.
    """
    if x.values.shape == y.values.shape and x.equal and y.equal:
        return x.shares, x.values.sort(-1).values, y.values.sort(-1).values
    rows = [s.values.sort(-1) for s in (x, y)]
    levels = [
        s.shares.gather(-1, row.indices).cumsum(-1)
        for s, row in zip((x, y), rows, strict=True)
    ]
    merged = torch.cat(levels, -1).sort(-1).values
    shares = merged.diff(dim=-1, prepend=torch.zeros_like(merged[..., :1]))
    ends = merged.detach().contiguous()
    quantiles = []
    for row, level in zip(rows, levels, strict=True):
        index = torch.searchsorted(level.detach().contiguous(), ends)
        last = level.shape[-1] - 1
        quantiles.append(row.values.gather(-1, index.clamp(max=last)))
    return shares, quantiles[0], quantiles[1]


def between_samples(
    function: Callable[[Tensor], Tensor], x: Samples, y: Samples
) -> Tensor:
    """Integral of a function, 0 at 0, of the difference of two distribution functions.

    Args:
        function: Function of the difference.
        x: Samples.
        y: Others.

    Returns:
        The integrals ``(*batch)``.
    """
    points = torch.cat([x.values, y.values], -1).sort(-1)
    jumps = torch.cat([x.shares, -y.shares], -1).gather(-1, points.indices)
    difference = jumps.cumsum(-1)[..., :-1]
    return (function(difference) * points.values.diff(dim=-1)).sum(-1)
