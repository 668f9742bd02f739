"""The variables in which a normaliser has its nodes: points from them, and back."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Cells of a finite piece; tanh-sinh, exp-sinh above and below an end, sinh-sinh; what
# fixed rules do above and below an end and on the whole line, rational in the variable.
PLAIN, TANH, ABOVE, BELOW, WHOLE, RISING, FALLING, BOTH = range(8)


class Range(NamedTuple):
    r"""Ranges of points, each with a variable ``v`` that grows with the point.

    .. math:: a + s v, \quad a + \frac{s}{1 + e^{-\pi \sinh v}}, \quad
        a + s\,e^{\frac{\pi}{2} \sinh v}, \quad a - s\,e^{-\frac{\pi}{2} \sinh v},
        \quad a + s \sinh(\tfrac{\pi}{2} \sinh v), \quad a + s \frac{v}{1 - v},
        \quad a - s \frac{1 - v}{v}, \quad a + s \frac{2 v - 1}{4 v (1 - v)}

    All are float64 and broadcast with ``v``: arrays on the host, where nodes are
    judged, and tensors where they are used.

    Attributes:
        kind: One of the eight constants of this module.
        begin: The finite end, or the location of the whole line.
        end: The upper end of a finite range, else the same as ``begin``.
        unit: Length of a finite range, else the scale.
    """

    kind: Any
    begin: Any
    end: Any
    unit: Any

    def take(self, index: Any) -> Range:  # noqa: ANN401
        """Some of the ranges."""
        return Range(*(column[index] for column in self))

    def points(self, v: Any) -> tuple[Any, Any]:  # noqa: ANN401
        """Points, and the logs of their derivative by ``v``.

        Returns:
            Both, of the shape of ``v``.
        """
        kind, begin, end, unit = self
        xp: Any = torch if isinstance(v, Tensor) else np
        inner = math.pi / 2 * xp.sinh(v)
        small = xp.exp(-2 * abs(inner))
        near = unit * small / (1 + small)
        curve = xp.log(math.pi / 2 * xp.cosh(v))
        bend = xp.log1p(small)
        # Counted from the nearer end, as in the search.
        x = xp.where(v <= 0.5, begin + unit * v, end + unit * (v - 1))
        slope = 0 * v
        rest, gap = 1 - v, 4 * v * (1 - v)
        for which, own, own_slope in (
            (
                TANH,
                xp.where(v < 0, begin + near, end - near),
                math.log(2) + curve - 2 * abs(inner) - 2 * bend,
            ),
            (ABOVE, begin + unit * xp.exp(inner), curve + inner),
            (BELOW, begin - unit * xp.exp(-inner), curve - inner),
            (
                WHOLE,
                begin + unit * xp.sinh(inner),
                curve + abs(inner) + bend - math.log(2),
            ),
            (RISING, begin + unit * (v / rest), -2 * xp.log(rest)),
            (FALLING, begin - unit * (rest / v), -2 * xp.log(v)),
            (
                BOTH,
                begin + unit * ((v - rest) / gap),
                xp.log(2 + 2 * (v - rest) ** 2) - 2 * xp.log(gap),
            ),
        ):
            x = xp.where(kind == which, own, x)
            slope = xp.where(kind == which, own_slope, slope)
        return x, slope + xp.log(unit)

    def variable(self, x: Any) -> Any:  # noqa: ANN401
        """The variable at points; infinite beyond the ends."""
        kind, begin, end, unit = self
        xp: Any = torch if isinstance(x, Tensor) else np
        above, below = (x - begin).clip(0), (begin - x).clip(0)
        left, right = above / unit, (end - x).clip(0) / unit
        v = plain = (x - begin) / unit
        for which, own in (
            (TANH, (xp.log(left) - xp.log(right)) / math.pi),
            (ABOVE, 2 / math.pi * xp.log(left)),
            (BELOW, -2 / math.pi * xp.log(below / unit)),
            (WHOLE, 2 / math.pi * xp.arcsinh(plain)),
        ):
            v = xp.where(kind == which, xp.arcsinh(own), v)
        root = xp.sqrt(1 + 4 * plain**2)
        small = (1 + 1 / (root + 2 * abs(plain))) / (1 + root) / 2
        for which, own in (
            (RISING, plain / (1 + plain)),
            (FALLING, 1 / (1 - plain)),
            (BOTH, xp.where(plain < 0, small, 1 - small)),
        ):
            # Infinite points are the ends.
            own = xp.where(abs(x) < math.inf, own, 1.0 * (x > 0))
            v = xp.where(kind == which, own, v)
        return v

    def log_distances(self, v: Any) -> tuple[Any, Any]:  # noqa: ANN401
        """Logs of the distances from both ends, nan from one that is infinite."""
        inner = math.pi / 2 * np.sinh(v)
        bend = np.log1p(np.exp(-2 * abs(inner)))
        tanh, nothing = self.kind == TANH, np.nan
        low = np.where(tanh, -2 * np.maximum(-inner, 0) - bend, nothing)
        low = np.where(self.kind == ABOVE, inner, low)
        high = np.where(tanh, -2 * np.maximum(inner, 0) - bend, nothing)
        high = np.where(self.kind == BELOW, -inner, high)
        return low + np.log(self.unit), high + np.log(self.unit)
