"""What lies beyond the outermost nodes of a double-exponential rule."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.placement import FINITE, WHOLE
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Mask, Search
from torch_mlcalc.quadrature.variables import Jobs, double_exponential

#: Last term over largest term at which the sum shows no sign of ending: 1/x has 1.
FLAT = 0.1

#: Part of what lies beyond that a power of the log may account for, if it is to be one:
#: of an entropy in float32 it is 0.04.
SMALL_BEND = 0.3

#: Part of that in doubt: of d^-1/2 (1 + 5 d^0.05) 0.1 is wrong, of d^-1/2 (4 - log d)
#: less than that.
LEFT = 0.125

#: Part of what lies beyond that is in doubt at least, and in epsilons for the rounding
#: of the values: of d^-0.8 in float32 it is 40.
LEAST, ROUNDING = 1e-6, 256

#: Log of the distance at the second node over that at the outermost, and the part of
#: its weight that may be taken away; of d^-0.9 all would be.
INNER, MOST = 2 / 3, 0.9


class Beyond(NamedTuple):
    """What lies beyond the outermost nodes.

    Attributes:
        rest: Its sum, in units of the outermost term, ``(2, jobs)``.
        lean: What of that is put on the outermost node and on the second one, ``(2, 2,
            jobs)``, so that it is right as well if the integrand is multiplied by the
            log of the distance, as in the derivative by a power of it.
        second: Which node that is, ``(2, jobs)``.
        doubt: Uncertainty of the sum, ``(2, jobs)``.
        factor: Of each term, ``(n, jobs)``: makes good that rounding moves its node.
    """

    rest: Array
    lean: Array
    second: Index
    doubt: Array
    factor: Array

    def take(self, job: Mask) -> Beyond:
        """That of some jobs."""
        return Beyond(*(column[..., job] for column in self))


class Ends(NamedTuple):
    """What is known of the sums at their ends.

    Attributes:
        used: Which nodes are in the sum, ``(n, jobs)``.
        outermost: The first and last of them, ``(2, jobs)``.
        beyond: What lies beyond these; None where it does not matter.
        doubt: Error from there, ``(jobs, events)``, in the unit of the amounts.
        endless: Whether the terms show no sign of ending, ``(jobs,)``.
    """

    used: Mask
    outermost: Index
    beyond: Beyond | None
    doubt: Array
    endless: Mask

    def take(self, job: Mask) -> Ends:
        """Those of some jobs."""
        return Ends(
            self.used[:, job],
            self.outermost[:, job],
            None if self.beyond is None else self.beyond.take(job),
            self.doubt[job],
            self.endless[job],
        )

    def sum(self, terms: npt.NDArray[Any], step: float) -> npt.NDArray[Any]:
        """Sums of terms ``(n, jobs, events)`` with what lies beyond."""
        if self.beyond is None:
            return step * terms.sum(0)
        outermost = terms[self.outermost, np.arange(terms.shape[1])]
        terms = terms * self.beyond.factor[..., None]
        return step * (terms.sum(0) + (self.beyond.rest[..., None] * outermost).sum(0))


def ends_of(
    search: Search,
    jobs: Jobs,
    t: Array,
    used: Mask,
    size: Array,
    step: float,
    cut: float,
) -> Ends:
    """What lies beyond the outermost nodes.

    Where rounding or the range of the dtype cuts the sum off, the outermost node also
    stands for the nodes beyond, as if the integrand were nearly a power of the distance
    there.

    Args:
        search: The integrals.
        jobs: The jobs.
        t: Nodes, ascending, ``(n,)``.
        used: Which are in the sum, ``(n, jobs)``.
        size: Absolute terms, ``(n, jobs, events)``.
        step: Distance of the nodes.
        cut: Part of the sum at which a term is negligible.

    Returns:
        The ends of the sums.
    """
    count, columns = used.shape
    column = np.arange(columns)
    first = used.argmax(0)
    last = count - 1 - used[::-1].argmax(0)
    index = np.stack([first, last])
    largest = size.max(-1) if size.shape[-1] != 1 else size[..., 0]
    terms = largest[index, column]
    matter = terms > cut * largest.sum(0)
    rest, doubt = None, np.sign(terms) / step
    if matter.any():
        rest = beyond(search, jobs, t, largest, index, matter, step)
        doubt = rest.doubt
    outermost = size[index, column]
    endless = ((outermost > FLAT * size.max(0)) & (outermost > 0)).any((0, 2))
    doubt = step * (doubt[..., None] * outermost).sum(0)
    return Ends(used, index, rest, doubt, endless)


def beyond(
    search: Search,
    jobs: Jobs,
    t: Array,
    sizes: Array,
    outermost: Index,
    matter: Mask,
    step: float,
) -> Beyond:
    r"""What the terms beyond the outermost add up to.

    The integrand is taken for a power of the distance d from the end, times a power of
    its log, with both powers from the three outermost nodes:

    .. math:: f(x) = c\,d^a \lvert \log d \rvert^b

    Args:
        search: The integrals.
        jobs: The jobs.
        t: All nodes, ``(n,)``.
        sizes: Absolute terms, ``(n, jobs)``.
        outermost: First and last node in the sum, ``(2, jobs)``.
        matter: Where they are worth it, ``(2, jobs)``; else they count as doubt.
        step: Distance to the nodes that are missing.

    Returns:
        What lies beyond.
    """
    column = np.arange(matter.shape[1])
    three, second = _inner_nodes(t, outermost)
    terms = sizes[three, column]
    rest, doubt = np.zeros(matter.shape), np.where(terms[0] > 0, 1 / step, 0.0)
    power, further = np.zeros((2, *matter.shape))
    moved = displacement(search, jobs, t)
    shift = moved[three, column]
    unit = np.where(jobs.kind == FINITE, math.pi, math.pi / 2)
    outer = np.abs(t[three])
    grown, depth = np.cosh(outer), unit * np.sinh(outer) - shift
    logs = np.log(terms / grown) + shift
    rates = (logs[:-1] - logs[1:]) / (depth[:-1] - depth[1:])
    # A term that is 0, or two alike as in a batch of one node, say nothing.
    usable = matter & np.isfinite(rates).all(0) & (rates < 0).all(0)
    usable &= depth[2] > 1
    if usable.any():
        away = step * np.arange(1, 1 + math.ceil(3 / step))[:, None]
        missing, depth = outer[0, usable] + away, depth[:, usable]
        unit = np.broadcast_to(unit, matter.shape)[usable]
        growth = np.cosh(missing) / grown[0, usable] * np.exp(shift[0, usable])
        one, other = rates[:, usable]
        ahead = unit * np.sinh(missing) - depth[0]
        plain = growth * np.exp(one * ahead)
        # Slopes of log(depth) between the same nodes: what a power of a logarithm adds.
        near, far = np.log(depth[:-1] / depth[1:]) / (depth[:-1] - depth[1:])
        log_power = (one - other) / (near - far)
        curved = plain * np.exp(-log_power * near * ahead)
        curved = curved * (1 + ahead / depth[0]) ** log_power
        bend = np.abs((curved - plain).sum(0))
        small = bend < SMALL_BEND * curved.sum(0)
        parts = np.where(small, curved, plain)
        rest[usable] = parts.sum(0)
        inner = unit * np.sinh(np.abs(t[second[usable]]))
        further[usable] = (parts * ahead).sum(0) / (depth[0] - inner)
        least = max(LEAST, ROUNDING * search.ledger.epsilon)
        doubt[usable] = np.where(small, LEFT, 1) * bend + least * rest[usable]
        power[usable] = 1 + one
    # The weight of the second node is 1 without this, and stays positive.
    ratio = np.where(further > 0, terms[0] / sizes[second, column], 1)
    nearer = np.minimum(further * ratio, MOST)
    lean = np.stack([rest + nearer / ratio, -nearer])
    factor = np.exp(np.where(t[:, None] < 0, *power) * moved)
    return Beyond(rest, lean, second, doubt, factor)


def _inner_nodes(t: Array, outermost: Index) -> tuple[Index, Index]:
    """The three outermost nodes ``(3, 2, jobs)``, and one further in, ``(2, jobs)``."""
    inward = np.array([1, -1])[:, None]
    three = outermost + np.arange(3)[:, None, None] * inward
    goal = np.arcsinh(INNER * np.sinh(t[outermost]))
    second = np.searchsorted(t, goal) - np.array([0, 1])[:, None]
    last = t.size - 1
    return np.clip(three, 0, last), np.clip(second, 0, last)


def displacement(search: Search, jobs: Jobs, t: Array) -> Array:
    r"""By how much rounding moves nodes near a finite end.

    Args:
        search: The integrals.
        jobs: The jobs.
        t: Nodes, ``(n,)``.

    Returns:
        :math:`\log(d' / d)` of the distances from the end that the nodes count from, as
        they are and as they should be, ``(n, jobs)``; 0 on the whole line.
    """
    pieces, piece = search.pieces, jobs.piece
    positions, _ = double_exponential(jobs, t[:, None])
    points = search.rounded(pieces.points(piece, positions))
    positive, negative = pieces.of(pieces.anchors, piece)
    distance = points - np.where(positions >= 0, positive, negative)
    ratio = distance / (pieces.of(pieces.unit, piece) * positions)
    usable = (ratio > 0) & np.isfinite(ratio) & (jobs.kind != WHOLE)
    moved = np.log(np.where(usable, ratio, 1))
    return np.broadcast_to(moved, (t.size, piece.size))
