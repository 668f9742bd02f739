"""Kinks and jumps of a single integrand, found as in ``kinks.py``, in plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cubature.along import Probe
from torch_mlcalc.quadrature.cubature.climbed import Sum
from torch_mlcalc.quadrature.cubature.kinks import (
    APART,
    BENT,
    JUMP,
    LOOKS,
    NEAR,
    SMOOTH,
    eased,
)
from torch_mlcalc.quadrature.rules import Array

#: Points on a line in one look, four times those of a batch: a call with 1,000 points
#: takes a fifth longer than with 250, and two or three looks are enough instead of
#: three or four.
POINTS = 513

#: How much a look narrows a line.
NARROWED = (POINTS - 1) / 2

#: Parts of a line between which a jump is misplaced, at most, when it is said to be in
#: the middle of two neighbours among three points; and part of the allowed error that
#: this may be. In a batch it is less, as there are fewer points in a look.
MISPLACED, PLACED = 0.25, 0.1

_FIRST = (0.5 + np.arange(POINTS)) / POINTS
_FIRST_EASED = eased(_FIRST)
_OTHERS = np.arange(POINTS) / (POINTS - 1)


class _Line(NamedTuple):
    """A line along an axis that is still looked at, between where."""

    axis: int
    low: float
    high: float
    before: float


def find_kinks_single(
    probe: Probe, base: Array, seen: Sum, axes: list[int]
) -> list[float] | None:
    """Do what :func:`find_kinks` does, for one integral that tensor rules have left.

    Args:
        probe: The integrand.
        base: The node of the cube at which it was largest.
        seen: What is known of the integral.
        axes: Along which to look.

    Returns:
        One place for each axis, nan where there is none or none was looked for; None
        where the integrand is not known to be a finite number everywhere.
    """
    rtol, atol, _ = probe.terms.tolerance
    size = min(seen.absolute, abs(seen.value))
    allowed = max(rtol * size, atol) / abs(probe.volume)
    places, factor = [math.nan] * len(base), float(APART)
    lines = [_Line(axis, 0.0, 1.0, 0.0) for axis in axes]
    for look in range(LOOKS):
        steps = _OTHERS if look else _FIRST
        at = _between(lines, steps) if look else [_FIRST_EASED] * len(lines)
        values = _along(probe, base, lines, at)
        if values is None:
            return None
        first = values[:, 1:] - values[:, :-1]
        second = np.abs(first[:, 1:] - first[:, :-1])
        tops: list[int] = second.argmax(1).tolist()
        noise: list[float] = np.maximum.reduce(np.abs(values), 1).tolist()
        going = []
        for i, (line, top) in enumerate(zip(lines, tops, strict=True)):
            largest, width = float(second[i, top]), line.high - line.low
            before = line.before if look else _further(values[i], top + 1)
            # Below the noise of the integrand there is nothing more to see.
            visible = largest > 64 * probe.terms.epsilon * noise[i]
            real = largest >= factor**SMOOTH * before if visible else look > 0
            if not real:
                places[line.axis] = math.nan
                continue
            place, beside = _centre(steps, second[i], top)
            places[line.axis] = eased(line.low + width * place)
            low = line.low + width * float(steps[top])
            high = line.low + width * float(steps[top + 2])
            jumps = largest > factor**JUMP * before
            misplaced = MISPLACED * (high - low) * largest / PLACED
            unsure = misplaced if jumps else beside / BENT
            if visible and unsure > allowed:
                going.append(_Line(line.axis, low, high, largest))
        lines, factor = going, NARROWED
        if not lines:
            break
    return [x if NEAR < x < 1 - NEAR else math.nan for x in places]


def _between(lines: list[_Line], steps: Array) -> Array:
    """Places on the lines, ``(lines, k)``."""
    low = np.array([line.low for line in lines])
    width = np.array([line.high for line in lines]) - low
    return eased(low[:, None] + width[:, None] * steps)


def _along(
    probe: Probe, base: Array, lines: list[_Line], places: Iterable[Array]
) -> Array | None:
    """Values ``(lines, k)`` at places along an axis each; None if not all finite."""
    points = np.empty((len(base), len(lines), POINTS))
    points[:] = base[:, None, None]
    for i, (line, own) in enumerate(zip(lines, places, strict=True)):
        points[line.axis, i] = own
    values = probe(points.reshape(len(base), -1).T)
    return None if values is None else values.reshape(-1, POINTS)


def _further(values: Array, at: int) -> float:
    """Size of a second difference of points further apart."""
    at = min(max(at, APART), POINTS - 1 - APART)
    return abs(float(values[at + APART] - 2 * values[at] + values[at - APART]))


def _centre(t: Array, second: Array, top: int) -> tuple[float, float]:
    """Centre of the largest second difference and its neighbours, and the least."""
    at = min(max(top, 1), POINTS - 4)
    weights, near = second[at - 1 : at + 2].tolist(), t[at : at + 3].tolist()
    total = sum(weights)
    if not total > 0:
        return near[1], min(weights)
    moment = sum(w * x for w, x in zip(weights, near, strict=True))
    return moment / total, min(weights)
