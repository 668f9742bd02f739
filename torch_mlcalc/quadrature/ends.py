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
        moved = _displacement(search, jobs, t)
        rest = beyond(search, jobs, t, largest, index, matter, step, moved)
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
    moved: Array,
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
        moved: By how much rounding moves the nodes, ``(n, jobs)``: see
            :func:`displacement`.

    Returns:
        What lies beyond.
    """
    three, second = _inner_nodes(t, outermost)
    column = np.arange(matter.shape[1])
    terms, shift = sizes[three, column], moved[three, column]
    outer, unit = np.abs(t[three]), np.where(jobs.kind == FINITE, math.pi, math.pi / 2)
    depth, inner = unit * np.sinh(outer) - shift, unit * np.sinh(np.abs(t[second]))
    logs = np.log(terms / np.cosh(outer)) + shift
    rates = (logs[:-1] - logs[1:]) / (depth[:-1] - depth[1:])
    # A term that is 0, or two alike as in a batch of one node, say nothing.
    falls = np.logical_and.reduce((rates < 0) & (rates > -np.inf))
    usable = np.flatnonzero(matter & falls & (depth[2] > 1))
    # Sum, what is nearer to the second node, doubt and power of each end.
    found = np.zeros((4, matter.size))
    found[2] = np.where(terms[0] > 0, 1 / step, 0.0).ravel()
    if usable.size:
        (outer, _, _), depth, (shift, _, _), rates, (inner,) = (
            c.reshape(-1, matter.size).take(usable, 1)
            for c in (outer, depth, shift, rates, inner)
        )
        unit = unit.take(usable % unit.size)
        least = max(LEAST, ROUNDING * search.ledger.epsilon)
        missing = outer + step * np.arange(1, 1 + math.ceil(3 / step))[:, None]
        ahead = unit * np.sinh(missing) - depth[0]
        growth = np.cosh(missing) * (np.exp(shift) / np.cosh(outer))
        found[:, usable] = _continued(depth, rates, inner, ahead, growth, least)
    rest, further, doubt, power = found.reshape(4, *matter.shape)
    # The weight of the second node is 1 without this, and stays positive.
    ratio = np.where(further > 0, terms[0] / sizes[second, column], 1)
    nearer = np.minimum(further * ratio, MOST)
    lean = np.stack([rest + nearer / ratio, -nearer])
    factor = np.exp(np.where(t[:, None] < 0, *power) * moved)
    return Beyond(rest, lean, second, doubt, factor)


def _continued(
    depth: Array, rates: Array, inner: Array, ahead: Array, growth: Array, least: float
) -> Array:
    """Sum of the terms beyond ``k`` ends, what of it is nearer, its doubt, the power.

    Args:
        depth: Logs of the distances of the three outermost nodes, ``(3, k)``.
        rates: Power of the distance between each two, ``(2, k)``.
        inner: Log of the distance of the second node, ``(k,)``.
        ahead: How much deeper the missing nodes are than the outermost, ``(n, k)``.
        growth: Factor of their terms besides that power.
        least: Part of the sum that is in doubt at least.

    Returns:
        The four, in units of the outermost term, ``(4, k)``.
    """
    one, other = rates
    plain = growth * np.exp(one * ahead)
    # Slopes of log(depth) between the same nodes: what a power of a logarithm adds.
    near, far = np.log(depth[:-1] / depth[1:]) / (depth[:-1] - depth[1:])
    log_power = (one - other) / (near - far)
    curved = plain * np.exp(log_power * (np.log1p(ahead / depth[0]) - near * ahead))
    bend, whole = np.abs(np.add.reduce(curved - plain)), np.add.reduce(curved)
    small = bend < SMALL_BEND * whole
    parts = np.where(small, curved, plain)
    rest = np.add.reduce(parts)
    further = np.add.reduce(parts * ahead) / (depth[0] - inner)
    doubt = np.where(small, LEFT, 1) * bend + least * rest
    return np.stack([rest, further, doubt, 1 + one])


def _inner_nodes(t: Array, outermost: Index) -> tuple[Index, Index]:
    """The three outermost nodes ``(3, 2, jobs)``, and one further in, ``(2, jobs)``."""
    three = outermost + _INWARD
    goal = np.arcsinh(INNER * np.sinh(t[outermost]))
    second = np.searchsorted(t, goal) - _FIRST_AND_LAST
    # np.clip takes three times as long.
    last = t.size - 1
    return (
        np.minimum(np.maximum(three, 0), last),
        np.minimum(np.maximum(second, 0), last),
    )


#: From both ends to the nodes further in, ``(3, 2, 1)``, and the numbers of the ends.
_INWARD = np.arange(3)[:, None, None] * np.array([1, -1])[:, None]
_FIRST_AND_LAST = np.array([[0], [1]])


def displacement(
    points: Array, origin: Array | float, unit: Array | float, positions: Array
) -> Array:
    r"""By how much rounding moves points near a finite end.

    Args:
        points: Rounded points.
        origin: The ends that they count from.
        unit: Length of the piece.
        positions: Positions of the points, as they should be.

    Returns:
        :math:`\log(d' / d)` of the distances from the end, as they are and as they
        should be; 0 where there is none.
    """
    ratio = (points - origin) / (unit * positions)
    usable = (ratio > 0) & (ratio < np.inf)
    return np.log(np.where(usable, ratio, 1))


def _displacement(search: Search, jobs: Jobs, t: Array) -> Array:
    """That of the nodes of some jobs, ``(n, jobs)``; 0 on the whole line."""
    pieces, piece = search.pieces, jobs.piece
    positions, _ = double_exponential(jobs, t[:, None])
    points = search.rounded(pieces.points(piece, positions))
    positive, negative = pieces.of(pieces.anchors, piece)
    origin = np.where(positions >= 0, positive, negative)
    unit = pieces.of(pieces.unit, piece)
    moved = displacement(points, origin, unit, positions)
    return np.where(jobs.kind == WHOLE, 0.0, moved)
