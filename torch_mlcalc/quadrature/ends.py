"""What lies beyond the outermost nodes of the double-exponential rule."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Mask

#: Last term over largest term at which the sum shows no sign of ending: 1/x has 1.
FLAT = 0.1


class Ends(NamedTuple):
    """What is known of the sums beyond their outermost nodes.

    Attributes:
        used: Which nodes are in the sum, ``(n, jobs)``.
        outermost: The first and last of them, ``(2, jobs)``.
        rest: Weight of what they also stand for, in steps, ``(2, jobs)``.
        doubt: Error from there, ``(jobs, events)``, in the unit of the amounts.
        endless: Whether the terms show no sign of ending, ``(jobs,)``.
    """

    used: Mask
    outermost: Index
    rest: Array
    doubt: Array
    endless: Mask

    def take(self, job: Mask) -> Ends:
        """Those of some jobs."""
        return Ends(
            self.used[:, job],
            self.outermost[:, job],
            self.rest[:, job],
            self.doubt[job],
            self.endless[job],
        )

    def sum(self, terms: npt.NDArray[Any], step: float) -> npt.NDArray[Any]:
        """Sums of terms ``(n, jobs, events)`` with what lies beyond."""
        outermost = terms[self.outermost, np.arange(terms.shape[1])]
        return step * (terms.sum(0) + (self.rest[..., None] * outermost).sum(0))


def ends_of(t: Array, used: Mask, size: Array, step: float, cut: float) -> Ends:
    """What lies beyond the outermost nodes.

    Where rounding or the range of the dtype cuts the sum off, the outermost node also
    stands for the nodes beyond, as if the integrand were a power of the distance there.

    Args:
        t: Nodes, ascending, ``(n,)``.
        used: Which are in the sum, ``(n, jobs)``.
        size: Absolute terms, ``(n, jobs, events)``.
        step: Distance of the nodes.
        cut: Part of the sum at which a term is negligible.

    Returns:
        The ends of the sums.
    """
    count, jobs = used.shape
    column = np.arange(jobs)
    first = used.argmax(0)
    last = count - 1 - used[::-1].argmax(0)
    index = np.stack([first, last])
    # The three outermost nodes at either end, outermost first: (3, 2, jobs).
    inward = np.arange(3)[:, None, None] * np.array([1, -1])[:, None]
    three = np.clip(index + inward, 0, count - 1)
    largest = size.max(-1) if size.shape[-1] != 1 else size[..., 0]
    terms = largest[three, column]
    matter = terms[0] > cut * largest.sum(0)
    rest, doubt = beyond(np.abs(t[three]), terms, matter, step)
    outermost = size[index, column]
    endless = ((outermost > FLAT * size.max(0)) & (outermost > 0)).any((0, 2))
    doubt = step * (doubt[..., None] * outermost).sum(0)
    return Ends(used, index, rest * used[index, column], doubt, endless)


def beyond(t: Array, terms: Array, matter: Mask, step: float) -> tuple[Array, Array]:
    r"""Sum of the terms beyond the outermost, in units of it, and its uncertainty.

    If the integrand is a power of the distance from the end, its terms are
    :math:`c \cosh(t) e^{k \sinh t}`; two neighbouring terms give k, and the next two
    give another one.

    Args:
        t: Absolute values of the three outermost nodes, ``(3, 2, jobs)``.
        terms: Terms there, ``(3, 2, jobs)``.
        matter: Where they are worth it, ``(2, jobs)``; else they count as doubt.
        step: Distance to the nodes that are missing.

    Returns:
        Both ``(2, jobs)``.
    """
    rest, doubt = np.zeros(matter.shape), np.where(terms[0] > 0, 1 / step, 0.0)
    if not matter.any():
        return rest, doubt
    grown, rise = np.cosh(t), np.sinh(t)
    logs = np.log(terms / grown)
    rates = (logs[:-1] - logs[1:]) / (rise[:-1] - rise[1:])
    # A term that is 0, or two alike as in a batch of one node, say nothing.
    usable = matter & np.isfinite(rates).all(0) & (rates < 0).all(0)
    if usable.any():
        away = step * np.arange(1, 1 + math.ceil(3 / step))[:, None]
        missing = t[0, usable] + away
        growth = np.cosh(missing) / grown[0, usable]
        rise = np.sinh(missing) - rise[0, usable]
        one, other = rates[:, usable]
        sums = (growth * np.exp(one * rise)).sum(0)
        # Two estimates of the rate differ by what the integrand is not a power; 5e-5
        # more is for the rounding of the points: on the test problems, at most 4e-5.
        differ = np.abs(sums - (growth * np.exp(other * rise)).sum(0))
        rest[usable], doubt[usable] = sums, differ + 5e-5 * sums
    return rest, doubt
