"""A single integral over a box of numbers, from end to end in plain numbers.

Of a smooth function of two variables it takes a third of the time of the way by
``engine.py``, which goes on where more is needed than a few tensor rules.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.cubature.climbed import FEW, Climbed, Terms, sums_of_one
from torch_mlcalc.quadrature.cubature.ladder import Stage, stage_of
from torch_mlcalc.quadrature.estimate import Tolerance
from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.quadrature.integrand import Function, checked, default_device

#: Dimensions in which tensor rules come first.
FIRST = (2, 3)

#: Of limits and of values.
KNOWN = (torch.float64, torch.float32)


class Attempt(NamedTuple):
    """The integral, or else where it stands after so many points."""

    value: Tensor | None
    begun: Climbed
    spent: int


def attempt_at_once(
    function: Function, box: Box, rtol: float | None, atol: float | None
) -> Attempt | None:
    """Take the first tensor rules, by the decisions of :func:`climb_single`.

    A gradient flows through the values of the last of them.

    Args:
        function: The integrand, without args.
        box: Where.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Returns:
        How it ended, or None where nothing was done, because there is more to it.
    """
    d, dtype = box.dimension, torch.get_default_dtype()
    if d not in FIRST or dtype not in KNOWN or transforming() or dual_level():
        return None
    corners = box.corners
    if corners is None or default_device().type != "cpu":
        return None
    tolerance, epsilon = Tolerance.of(rtol, atol, dtype), torch.finfo(dtype).eps
    terms, begun, spent = Terms(d, tolerance, epsilon), Climbed(1), 0
    while not begun.left:
        stage = stage_of(begun.step, d, first=begun.before is None)
        if stage.n > FEW:
            break
        nodes, volume = _placed(d, begun.step, begun.before is None, *corners, dtype)
        points = nodes.clone()  # an integrand may write to its points
        values = checked(function(points), points, d)
        if values.ndim != 1 or values.dtype not in KNOWN or not values.is_cpu:
            break
        numbers = values.detach().numpy()
        # Where every value is 0 nothing was seen.
        if not 0 < np.add.reduce(np.abs(numbers)) < math.inf:
            break
        sums = sums_of_one(stage, numbers, volume, epsilon)
        spent += stage.n
        begun = begun.judged(sums, terms)
        if begun.done:
            return Attempt(_result(values, stage, volume, sums[-1].value), begun, spent)
        if begun.left:
            begun = begun.seen(stage, numbers)
    return Attempt(None, begun, spent)


def _result(values: Tensor, stage: Stage, volume: float, value: float) -> Tensor:
    """The integral, with the gradient that the values carry."""
    dtype = torch.promote_types(values.dtype, torch.get_default_dtype())
    if not (values.requires_grad and torch.is_grad_enabled()):
        return torch.tensor(value, dtype=dtype)
    last = stage.size ** stage.table.nodes.shape[1]
    weights = torch.from_numpy(stage.table.weights[-last:] * volume)
    return (values[-last:] * weights).sum().to(dtype)


@lru_cache(maxsize=64)
def _placed(
    dimension: int,
    step: int,
    first: bool,
    lower: tuple[float, ...],
    upper: tuple[float, ...],
    dtype: torch.dtype,
) -> tuple[Tensor, float]:
    """The nodes of a stage in a box, and its volume."""
    stage, low = stage_of(step, dimension, first=first), np.array(lower)
    span = np.array(upper) - low
    with torch.inference_mode(False):
        nodes = torch.tensor(low + span * stage.table.nodes, dtype=dtype)
    return nodes, float(span.prod())
