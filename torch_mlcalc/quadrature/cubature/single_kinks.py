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

#: Roundings of the values around that a second difference is taken for.
NOISE = 64.0

_FIRST = eased((0.5 + np.arange(POINTS)) / POINTS)
_OTHERS = np.arange(POINTS) / (POINTS - 1)


class _Line(NamedTuple):
    """A line along an axis that is still looked at: from where, and how far."""

    axis: int
    low: float
    width: float
    before: float


class _Look(NamedTuple):
    """What is seen along one line.

    Attributes:
        steps: Places, as parts of it, ``(k)``.
        values: The integrand there.
        second: Sizes of its second differences, ``(k - 2)``.
        factor: How much closer the points are than those of the look before.
    """

    steps: Array
    values: Array
    second: Array
    factor: float


class Kinks(NamedTuple):
    """What is found.

    Attributes:
        places: One for each axis, nan where there is none or none was looked for.
        jumps: Whether the integrand jumps at any of them.
    """

    places: list[float]
    jumps: bool

    @property
    def none(self) -> bool:
        """Whether there are no places."""
        return all(map(math.isnan, self.places))


def find_kinks_single(
    probe: Probe,
    base: Array,
    seen: Sum,
    axes: list[int],
    known: tuple[Array, Array] | None = None,
) -> Kinks | None:
    """Do what :func:`find_kinks` does, for one integral that tensor rules have left.

    Args:
        probe: The integrand.
        base: The node of the cube at which it was largest.
        seen: What is known of the integral.
        axes: Along which to look.
        known: Places on all lines, ``(k)``, and the values there, line by line, if
            there are any.

    Returns:
        They, or None where the integrand is not known to be a finite number everywhere.
    """
    rtol, atol, _ = probe.terms.tolerance
    size = min(seen.absolute, abs(seen.value))
    allowed = max(rtol * size, atol) / abs(probe.volume)
    places, factor = [math.nan] * len(base), float(APART)
    lines, jumps = [_Line(axis, 0.0, 1.0, 0.0) for axis in axes], False
    for look in range(LOOKS):
        if look or known is None:
            steps = _OTHERS if look else _FIRST
            found = _along(probe, base, lines, steps)
            if found is None:
                return None
            values = found
        else:
            steps, values = known
        # Of all lines at once; those from one to the next are not looked at.
        first = values[1:] - values[:-1]
        second = first[1:] - first[:-1]
        np.abs(second, out=second)
        going, k = [], len(steps)
        for i, line in enumerate(lines):
            start, stop = i * k, i * k + k
            own = _Look(steps, values[start:stop], second[start : stop - 2], factor)
            place, jump, closer = _seen(own, line, allowed, probe.terms.epsilon, look)
            places[line.axis] = line.low + line.width * place
            jumps = jumps or jump
            if closer is not None:
                going.append(closer)
        lines, factor = going, NARROWED
        if not lines:
            break
    return Kinks([x if NEAR < x < 1 - NEAR else math.nan for x in places], jumps)


def _seen(
    seen: _Look, line: _Line, allowed: float, epsilon: float, look: int
) -> tuple[float, bool, _Line | None]:
    """Where there is a kink, as a part of a line, if it jumps, where to look closer."""
    steps, values, second, factor = seen
    top = int(second.argmax())
    largest = float(second[top])
    before = line.before if look else _further(values, top + 1)
    # Below the noise of the integrand there is nothing more to see.
    noise = NOISE * epsilon * max(map(abs, values[top : top + 3].tolist()))
    visible = largest > noise
    if largest < factor**SMOOTH * before if visible else not look:
        return math.nan, False, None
    jumps = largest > factor**JUMP * before
    if visible and not jumps:
        met = meeting(steps, values, second, top, BENT * allowed)
        if met is not None:
            return met, False, None
    place, beside = _centre(steps, second, top)
    low, high = steps[top : top + 3 : 2].tolist()
    low, width = line.low + line.width * low, line.width * (high - low)
    unsure = MISPLACED * width * largest / PLACED if jumps else beside / BENT
    if visible and unsure > allowed:
        return place, jumps, _Line(line.axis, low, width, largest)
    return place, jumps, None


def _along(probe: Probe, base: Array, lines: list[_Line], steps: Array) -> Array | None:
    """Values at places on one line after another; None if they are not all finite."""
    points = np.empty((len(base), len(lines), len(steps)))
    points[:] = base[:, None, None]
    for i, line in enumerate(lines):
        own = points[line.axis, i]
        np.multiply(steps, line.width, out=own)
        own += line.low
    return probe(points.reshape(len(base), -1).T)


def _further(values: Array, at: int) -> float:
    """Size of a second difference of points further apart."""
    at = min(max(at, APART), len(values) - 1 - APART)
    return abs(float(values[at + APART] - 2 * values[at] + values[at - APART]))


def _centre(at: Array, second: Array, top: int) -> tuple[float, float]:
    """Centre of the largest second difference and its neighbours, and the least."""
    first = min(max(top, 1), len(second) - 2) - 1
    a, b, c = second[first : first + 3].tolist()
    x, y, z = at[first + 1 : first + 4].tolist()
    total = a + b + c
    return (a * x + b * y + c * z) / total if total > 0 else y, min(a, b, c)
