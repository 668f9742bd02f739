"""Kinks and jumps of a single integrand, found as in ``kinks.py``, in plain numbers."""

from __future__ import annotations

import math
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
    PLACED,
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

_FIRST = (0.5 + np.arange(POINTS)) / POINTS
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
        t = _between(lines, _OTHERS if look else _FIRST)
        values = _along(probe, base, lines, eased(t))
        if values is None:
            return None
        steps = values[:, 1:] - values[:, :-1]
        second = np.abs(steps[:, 1:] - steps[:, :-1])
        tops: list[int] = second.argmax(1).tolist()
        noise: list[float] = np.maximum.reduce(np.abs(values), 1).tolist()
        going = []
        for i, (line, top) in enumerate(zip(lines, tops, strict=True)):
            largest = float(second[i, top])
            before = line.before if look else _further(values[i], top + 1)
            # Below the noise of the integrand there is nothing more to see.
            visible = largest > 64 * probe.terms.epsilon * noise[i]
            real = largest >= factor**SMOOTH * before if visible else look > 0
            low, high = float(t[i, top]), float(t[i, top + 2])
            place, beside = _centre(t[i], second[i], top)
            places[line.axis] = eased(place) if real else math.nan
            jumps = largest > factor**JUMP * before
            unsure = (high - low) * largest / PLACED if jumps else beside / BENT
            if visible and real and unsure > allowed:
                going.append(_Line(line.axis, low, high, largest))
        lines, factor = going, NARROWED
        if not lines:
            break
    return [x if NEAR < x < 1 - NEAR else math.nan for x in places]


def _between(lines: list[_Line], steps: Array) -> Array:
    """Places on the lines, ``(lines, k)``."""
    ends = np.array([line[1:3] for line in lines])
    low: Array = ends[:, :1]
    return low + (ends[:, 1:] - low) * steps


def _along(
    probe: Probe, base: Array, lines: list[_Line], places: Array
) -> Array | None:
    """Values ``(lines, k)`` at places along an axis each; None if not all finite."""
    m, k = places.shape
    points = np.empty((len(base), m, k))
    points[:] = base[:, None, None]
    for i, line in enumerate(lines):
        points[line.axis, i] = places[i]
    values = probe(points.reshape(len(base), -1).T)
    return None if values is None else values.reshape(m, k)


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
