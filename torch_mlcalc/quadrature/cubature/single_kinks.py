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
from torch_mlcalc.quadrature.cubature.meeting import meeting
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

_FIRST = eased((0.5 + np.arange(POINTS)) / POINTS)
_OTHERS = np.arange(POINTS) / (POINTS - 1)


class _Line(NamedTuple):
    """A line along an axis that is still looked at, between where."""

    axis: int
    low: float
    high: float
    before: float


class _Look(NamedTuple):
    """What is seen along one line.

    Attributes:
        at: Places, ``(k)``.
        values: The integrand there.
        second: Sizes of its second differences, ``(k - 2)``.
        noise: What rounding leaves of them.
        factor: How much closer the points are than those of the look before.
    """

    at: Array
    values: Array
    second: Array
    noise: float
    factor: float


def find_kinks_single(
    probe: Probe,
    base: Array,
    seen: Sum,
    axes: list[int],
    known: tuple[Array, Array] | None = None,
) -> list[float] | None:
    """Do what :func:`find_kinks` does, for one integral that tensor rules have left.

    Args:
        probe: The integrand.
        base: The node of the cube at which it was largest.
        seen: What is known of the integral.
        axes: Along which to look.
        known: Places on all lines and the values there, ``(k)`` and ``(axes, k)``, if
            there are any.

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
        if look or known is None:
            at = _between(lines) if look else [_FIRST] * len(lines)
            values = _along(probe, base, lines, at)
            if values is None:
                return None
        else:
            at, values = [known[0]] * len(lines), known[1]
        first = values[:, 1:] - values[:, :-1]
        second = np.abs(first[:, 1:] - first[:, :-1])
        noise = 64 * probe.terms.epsilon * np.maximum.reduce(np.abs(values), 1)
        going = []
        for i, line in enumerate(lines):
            own = _Look(at[i], values[i], second[i], noise[i], factor)
            places[line.axis], closer = _seen(own, line, allowed, first=not look)
            if closer is not None:
                going.append(closer)
        lines, factor = going, NARROWED
        if not lines:
            break
    return [x if NEAR < x < 1 - NEAR else math.nan for x in places]


def _seen(
    look: _Look, line: _Line, allowed: float, *, first: bool
) -> tuple[float, _Line | None]:
    """Where there is a kink or jump, and between where to look for it again."""
    at, values, second, noise, factor = look
    top = int(second.argmax())
    largest = float(second[top])
    before = _further(values, top + 1) if first else line.before
    # Below the noise of the integrand there is nothing more to see.
    visible = largest > noise
    if largest < factor**SMOOTH * before if visible else first:
        return math.nan, None
    jumps = largest > factor**JUMP * before
    if visible and not jumps:
        met = meeting(at, values, second, top, BENT * allowed)
        if met is not None:
            return met, None
    place, beside = _centre(at, second, top)
    low, high = at[top : top + 3 : 2].tolist()
    misplaced = MISPLACED * (high - low) * largest / PLACED
    unsure = misplaced if jumps else beside / BENT
    if visible and unsure > allowed:
        return place, _Line(line.axis, low, high, largest)
    return place, None


def _between(lines: list[_Line]) -> Array:
    """Places on the lines, ``(lines, k)``."""
    low = np.array([line.low for line in lines])[:, None]
    high = np.array([line.high for line in lines])[:, None]
    return low + (high - low) * _OTHERS


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
    at = min(max(at, APART), len(values) - 1 - APART)
    return abs(float(values[at + APART] - 2 * values[at] + values[at - APART]))


def _centre(at: Array, second: Array, top: int) -> tuple[float, float]:
    """Centre of the largest second difference and its neighbours, and the least."""
    first = min(max(top, 1), len(second) - 2) - 1
    weights = second[first : first + 3].tolist()
    near = at[first + 1 : first + 4].tolist()
    total = sum(weights)
    if not total > 0:
        return near[1], min(weights)
    moment = sum(w * x for w, x in zip(weights, near, strict=True))
    return moment / total, min(weights)
