"""What is known of a single piece, in numbers, and its integrand at many points."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from torch_mlcalc.quadrature.ends import displacement
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.pieces import Numbers, numbers_of
from torch_mlcalc.quadrature.placement import WHOLE
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Sample, Search
from torch_mlcalc.quadrature.variables import Jobs

#: The one element, and the one piece.
ONE = np.zeros(1, dtype=np.int64)
ONE.setflags(write=False)
_START, _STOP = np.zeros(1), np.ones(1)
_START.setflags(write=False)
_STOP.setflags(write=False)


@lru_cache(maxsize=256)
def window(kind: int, low: float, high: float) -> Jobs:
    """A part of a single piece; to make its arrays takes ten times as long."""
    jobs = Jobs(ONE, np.array([kind]), np.array([low]), np.array([high]))
    for array in jobs:
        array.setflags(write=False)
    return jobs


class Place(NamedTuple):
    """A single piece in plain numbers, by which tables of its points are remembered.

    Attributes:
        lower: Lower end, which may be infinite.
        upper: Upper end.
        positive: What non-negative positions count from.
        negative: What negative ones do.
        unit: Length of a finite piece, scale of an infinite one.
        sign: -1 where the limits were reversed.
        kind: Which ends are infinite.
        dtype: That of the points, in double or single precision.
        home: A point inside.
    """

    lower: float
    upper: float
    positive: float
    negative: float
    unit: float
    sign: float
    kind: int
    dtype: torch.dtype
    home: float

    def points(self, positions: Array) -> Array:
        """Points of canonical positions, as the integrand's dtype represents them."""
        # Seen from one end: two thirds of the time of a short column.
        if self.positive == self.negative or positions[0] >= 0 <= positions[-1]:
            points: Array = self.positive + self.unit * positions
        elif positions[0] < 0 > positions[-1]:
            points = self.negative + self.unit * positions
        else:
            anchor = np.where(positions >= 0, self.positive, self.negative)
            points = anchor + self.unit * positions
        return self.rounded(points)

    def displacement(self, positions: Array) -> Array:
        """By how much rounding moves points near a finite end."""
        if self.kind == WHOLE:
            return np.zeros(positions.size)
        origin = np.where(positions >= 0, self.positive, self.negative)
        return displacement(self.points(positions), origin, self.unit, positions)

    def rounded(self, points: Array) -> Array:
        """Points as the integrand's dtype represents them."""
        if self.dtype == torch.float32:
            return points.astype(np.float32).astype(float)
        return points

    def range(self, guard: float = 0.0) -> tuple[float, float]:
        """Between what points must lie, with a distance of ``guard`` units."""
        lower, upper = self.lower, self.upper
        if self.dtype == torch.float32:
            lower, upper = float(np.float32(lower)), float(np.float32(upper))
        if guard:
            # At most so much of a very short piece; see Search.
            gap, most = guard * torch.finfo(self.dtype).eps, 1e-9 * self.unit
            lower += min(gap * abs(lower), most) if lower > -math.inf else 0.0
            upper -= min(gap * abs(upper), most) if upper < math.inf else 0.0
        return lower, upper


class Single(NamedTuple):
    """The only piece of the only integral of a search.

    Attributes:
        search: The search.
        jobs: The piece as a job.
        place: The piece in numbers.
        unit: Some of these, as for :class:`Place`.
        sign: Likewise.
        kind: Likewise.
    """

    search: Search
    jobs: Jobs
    place: Place
    unit: float
    sign: float
    kind: int

    @classmethod
    def of(cls, search: Search) -> Single | None:
        """The piece of a search, or None where there are several or it is empty."""
        pieces, ledger, evaluate = search.pieces, search.ledger, search.evaluate
        slopes = ledger.tolerance.grad_rtol is not None
        if pieces.sign.size != 1 or ledger.log or slopes:
            return None
        known = evaluate.integrand.dtype in (torch.float64, torch.float32)
        alone = evaluate.mark is None and evaluate.integrand.ranks is None
        if not (known and alone):
            return None
        one = cls.between(search, pieces.numbers or numbers_of(pieces))
        return one if one.sign else None

    @classmethod
    def between(cls, search: Search, numbers: Numbers) -> Single:
        """The piece of a search that is known to have no other."""
        jobs = Jobs(ONE, search.pieces.kind, _START, _STOP)
        evaluate = search.evaluate
        place = Place(*numbers, evaluate.integrand.dtype, evaluate.home.item())
        return cls(search, jobs, place, place.unit, place.sign, place.kind)

    def values(self, points: Array) -> Values:
        """The integrand, ``(n, *event)``, at points ``(n,)``."""
        return self.search.evaluate.row(points)

    def sample(
        self, points: Array, slope: Array | None, inside: Array | None, values: Values
    ) -> Sample:
        """What the batch would know of values ``(n, *event)`` at ``m`` columns."""
        m = points.shape[1]
        values = values.reshape(*points.shape, -1)
        element = np.zeros(m, dtype=np.int64)
        return self.search.weigh(element, points, slope, inside, values)


def is_ordinary(values: Values) -> bool:
    """Whether values are single real numbers, all of them finite."""
    if values.ndim != 1 or values.dtype != float:
        return False
    return math.isfinite(np.add.reduce(values))
