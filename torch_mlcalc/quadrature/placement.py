"""Where reference nodes go: from a rule and a domain to points and weights."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.domains import Extent, Limit
from torch_mlcalc.quadrature.host import on_device, readable
from torch_mlcalc.quadrature.rules import (
    HALF_LINE,
    INTERVAL,
    REAL_LINE,
    Array,
    FixedRule,
    table,
)

# Which ends of an interval are infinite: bit 0 the lower one, bit 1 the upper one.
FINITE, BELOW, ABOVE, WHOLE = 0, 1, 2, 3

_KINDS_OF = {
    INTERVAL: (FINITE, BELOW, ABOVE, WHOLE),
    HALF_LINE: (BELOW, ABOVE),
    REAL_LINE: (WHOLE,),
}
_NAME_OF = {
    FINITE: "a finite interval",
    BELOW: "a half line",
    ABOVE: "a half line",
    WHOLE: "the real line",
}


class Placement(NamedTuple):
    """Points are ``anchor + span * position``, Lebesgue weights ``length * weight``.

    ``kind`` is one of the four constants above for the whole batch, or a tensor of them
    where it differs between elements or cannot be read without a synchronisation.
    """

    kind: int | Tensor
    anchor: Limit
    span: Limit
    length: Limit


def place(extent: Extent) -> Placement:
    """Anchor, span and length of a domain; gradients of its limits flow through."""
    lower, upper, loc, scale = extent = _floating(extent)
    low, high = _infinity(lower), _infinity(upper)
    if low is None or high is None:
        return _place_mixed(extent)
    if low == high == 0:
        # Halved first: the length of an interval may be beyond the largest number.
        half = upper * 0.5 - lower * 0.5
        return Placement(FINITE, lower + half, half, half)
    if low == high:
        return Placement(FINITE, 0.0, 0.0, 0.0)
    sign = 1.0
    if low > high:
        low, high, lower, upper, sign = high, low, upper, lower, -1.0
    kind = (BELOW if low else 0) | (ABOVE if high else 0)
    anchor = {BELOW: upper, ABOVE: lower, WHOLE: loc}[kind]
    return Placement(kind, anchor, -scale if kind == BELOW else scale, sign * scale)


def _floating(extent: Extent) -> Extent:
    """Integers as floating point numbers: the difference of two could wrap around."""
    tensors = [t for t in extent if isinstance(t, Tensor)]
    if all(t.is_floating_point() for t in tensors):
        return extent
    known = [t.dtype for t in tensors if t.is_floating_point()]
    dtype = known[0] if known else torch.get_default_dtype()
    return Extent(*(t.to(dtype) if isinstance(t, Tensor) else t for t in extent))


def _infinity(limit: Limit) -> int | None:
    """-1, 0 or 1 for minus infinity, finite, infinity; None if that is not known."""
    if not isinstance(limit, Tensor):
        return 0 if math.isfinite(limit) else int(math.copysign(1, limit))
    if readable(limit) and bool(torch.isfinite(limit).all()):
        return 0
    return None


def _place_mixed(extent: Extent) -> Placement:
    like = next(t for t in extent[:2] if isinstance(t, Tensor))
    lower, upper, loc, scale = (on_device(t, like.dtype, like.device) for t in extent)
    # Selecting by comparison, not minimum and maximum: at equal limits those would
    # hand half of the gradient to each.
    ordered = lower <= upper
    low, high = torch.where(ordered, lower, upper), torch.where(ordered, upper, lower)
    below, above = low == -math.inf, high == math.inf
    kind = below.long() * BELOW + above.long() * ABOVE
    # Infinite limits are replaced before any arithmetic, else their nan would reach
    # the gradient through the branch that is not taken.
    low = torch.where(~low.isinf(), low, 0)
    high = torch.where(~high.isinf(), high, 0)
    half = high * 0.5 - low * 0.5
    anchor = torch.where(
        above, torch.where(below, loc, low), torch.where(below, high, low + half)
    )
    length = torch.where(below | above, scale, half)
    span = torch.where(below & ~above, -scale, length)
    # Equal finite limits have a length of 0 already, and a gradient to keep.
    sign = torch.where(ordered, 1.0, -1.0) * ((lower != upper) | lower.isfinite())
    return Placement(kind, anchor, span, length * sign)


@lru_cache(maxsize=256)
def placed_table(rule: FixedRule, kind: int) -> tuple[Array, Array, Array]:
    """Positions, Lebesgue weights and their logs for a kind of interval."""
    weighted = rule.measure != "lebesgue" and rule.reference == INTERVAL
    if kind not in _KINDS_OF[rule.reference] or (weighted and kind != FINITE):
        raise ValueError(
            f"{rule} lives on {rule.reference} (measure: {rule.measure}) and cannot "
            f"integrate over {_NAME_OF[kind]}; use a rule such as "
            f"GaussLegendre({rule.n}), or leave out the rule."
        )
    nodes, weights = table(rule)
    if rule.measure != "lebesgue":
        log_weights = rule.log_lebesgue_weights()
        return nodes, np.exp(log_weights), log_weights
    positions, weights = unfold(nodes, weights, kind, rule)
    with np.errstate(divide="ignore", invalid="ignore"):
        return positions, weights, np.log(weights)


def unfold(
    nodes: Array, weights: Array, kind: int, rule: FixedRule
) -> tuple[Array, Array]:
    r"""Stretch a rule on ``[-1, 1]`` over an unbounded interval.

    .. math:: z = \frac{1 + u}{1 - u} \quad\text{or}\quad z = \frac{u}{1 - u^2}

    Returns:
        Positions and weights.

    Raises:
        ValueError: If a node would be placed at infinity.

    References:
        NIST Digital Library of Mathematical Functions, section 3.5(viii) for rational
        changes of variable, https://dlmf.nist.gov/3.5
    """
    if kind == FINITE:
        return nodes, weights
    if np.abs(nodes).max() == 1:
        raise ValueError(
            f"{rule} has a node at the end of the interval, which is infinite here; "
            "use an open rule such as GaussLegendre, or leave out the rule."
        )
    if kind == WHOLE:
        gap = (1 - nodes) * (1 + nodes)
        return nodes / gap, weights * (1 + nodes**2) / gap**2
    return (1 + nodes) / (1 - nodes), weights * 2 / (1 - nodes) ** 2
