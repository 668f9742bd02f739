"""Variables in which adaptive rules work: as the domain is, or double-exponential.

Each gives the canonical position of a variable ``t`` and its derivative (None where it
is 1), in units of the piece (see :mod:`torch_mlcalc.quadrature.pieces`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.pieces import Index, chosen
from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE, WHOLE
from torch_mlcalc.quadrature.rules import Array


class Jobs(NamedTuple):
    """Ranges to integrate over: whole pieces, or windows at one end of a finite one.

    Attributes:
        piece: The piece of each job, ``(jobs,)``.
        kind: Its kind: which ends are infinite.
        low: Where the job begins, as a fraction of the piece; 0 on infinite ones.
        high: Where it ends; 1 on infinite ones.
    """

    piece: Index
    kind: Index
    low: Array
    high: Array

    def take(self, index: Index | slice) -> Jobs:
        """Some of the jobs."""
        if not isinstance(index, slice) and index.dtype == bool:
            index = np.flatnonzero(index)
        return Jobs(*(chosen(column, index) for column in self))


def identity(jobs: Jobs, t: Array) -> tuple[Array, None]:
    """The fraction of a finite piece itself, counted from the nearer end."""
    return t - np.rint(t), None


def double_exponential(jobs: Jobs, t: Array) -> tuple[Array, Array]:
    r"""Tanh-sinh on finite jobs, exp-sinh on half lines, sinh-sinh on the line.

    .. math::
        \delta(t) = \frac{1}{1 + e^{\pi \sinh |t|}}, \qquad
        p(t) = e^{\frac{\pi}{2} \sinh t}, \qquad
        p(t) = \sinh(\tfrac{\pi}{2} \sinh t)

    where :math:`\delta` is the distance from the nearer end as a fraction of the job.

    Args:
        jobs: Jobs of the ``m`` columns.
        t: Variable, ``(k, m)``, or ``(k, 1)`` for all columns.

    Returns:
        Positions and their derivatives, which broadcast to ``(k, m)``.

    References:
        H. Takahasi, M. Mori, "Double exponential formulas for numerical integration",
        Publ. RIMS 9 (1974), https://doi.org/10.2977/prims/1195192451
    """
    first = jobs.kind[0]
    if jobs.kind.size == 1 or (jobs.kind == first).all():
        return _FORMULAS[int(first)](t, jobs.low, jobs.high)
    shape = (len(t), jobs.kind.size)
    position, slope = np.empty(shape), np.empty(shape)
    for kind, formula in _FORMULAS.items():
        here = jobs.kind == kind
        if here.any():
            some = t if t.shape[1] == 1 else t[:, here]
            position[:, here], slope[:, here] = formula(
                some, jobs.low[here], jobs.high[here]
            )
    return position, slope


def _tanh_sinh(t: Array, low: Array, high: Array) -> tuple[Array, Array]:
    q = np.exp(-math.pi * np.sinh(np.abs(t)))
    near = q / (1 + q)
    far = 1 / (1 + q)
    width = high - low
    slope = width * (math.pi * np.cosh(t) * near * far)
    below = t < 0
    from_low = np.where(below, near, far) * width
    from_high = np.where(below, far, near) * width
    # A window is counted from the end of the piece that it touches; the whole piece
    # from the nearer one.
    count_low = np.where((low == 0) & (high == 1), below, low == 0)
    return np.where(count_low, from_low, -from_high), slope


def _exp_sinh(t: Array, low: Array, high: Array) -> tuple[Array, Array]:
    position = np.exp(math.pi / 2 * np.sinh(t))
    return position, math.pi / 2 * np.cosh(t) * position


def _exp_sinh_below(t: Array, low: Array, high: Array) -> tuple[Array, Array]:
    position, slope = _exp_sinh(t, low, high)
    return -position, slope


def _sinh_sinh(t: Array, low: Array, high: Array) -> tuple[Array, Array]:
    inner = math.pi / 2 * np.sinh(t)
    return np.sinh(inner), math.pi / 2 * np.cosh(t) * np.cosh(inner)


_FORMULAS = {
    FINITE: _tanh_sinh,
    ABOVE: _exp_sinh,
    BELOW: _exp_sinh_below,
    WHOLE: _sinh_sinh,
}
