"""The Fourier transform of a level, which tells a kink from what is analytic."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.rules import Array


def probe(t: Array, step: float) -> Array:
    r"""Cosine and sine of 7/8 of :math:`\pi t / h`, ``(2, n)``."""
    angle = 7 / 8 * math.pi * np.rint(t / step)
    return np.stack([np.cos(angle), np.sin(angle)])


def wave(t: Array, values: npt.NDArray[Any], step: float) -> Array:
    """The size of the Fourier transform at that frequency.

    Args:
        t: Nodes ``(n,)``.
        values: The integrand there, ``(n, jobs, events)``.
        step: Distance of the nodes.

    Returns:
        The size, ``(jobs, events)``.
    """
    # np.tensordot takes twice as long as all of this.
    flat = values.reshape(len(values), -1)
    cosine, sine = (np.abs(row.dot(flat)) for row in probe(t, step))
    # Twice, as the change has the frequencies of both signs.
    return 2 * step * np.hypot(cosine, sine).reshape(values.shape[1:])


#: Plain numbers of a single integral, or arrays of a batch.
Number = TypeVar("Number", float, Array)


def level_of(change: Number, before: Number) -> Number:
    r"""Below what the Fourier transform of the integrand has stopped falling.

    The change is the transform at the frequency :math:`\pi / h`, the one before that at
    half of it. If it falls exponentially, at 7/8 it is larger than the change by the
    fourth root of their ratio; less than the sixth root is a tail, as of a kink.

    Args:
        change: Change from the level before.
        before: The change before that.

    Returns:
        The level for the frequency of :func:`probe`.
    """
    return change ** (5 / 6) * before ** (1 / 6)
