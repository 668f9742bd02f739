"""One search for a plan: the integrals, how to sample them, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torch_mlcalc.quadrature.evaluator import Evaluator, Values
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.ledger import Ledger
from torch_mlcalc.quadrature.pieces import Index, Pieces
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.variables import Jobs

Variable = Callable[[Jobs, Array], tuple[Array, Array | None]]
Mask = npt.NDArray[Any]


class Sample(NamedTuple):
    """The integrand in the variable of a rule, at ``k`` nodes of ``m`` columns.

    Attributes:
        values: Integrand times derivative of the variable, or the sum of their logs, in
            units of the job; 0 (or minus infinity) where they could not be used.
            ``(k, m, events)``.
        inside: False where rounding puts the point on an end of the piece, ``(k, m)``;
            None if that happens nowhere.
        finite: Whether the integrand was finite, ``(k, m)``, True outside; None if it
            was everywhere.
    """

    values: Values
    inside: Mask | None
    finite: Mask | None


@dataclass
class Search:
    """Pieces of integrals, the integrand to sample, and the ledger to book in."""

    pieces: Pieces
    evaluate: Evaluator
    ledger: Ledger

    def whole(self, piece: Index) -> Jobs:
        """Whole pieces as jobs."""
        kind = self.pieces.kind[piece]
        return Jobs(piece, kind, np.zeros(piece.size), np.ones(piece.size))

    def elements(self, jobs: Jobs) -> Index:
        """The integral that each job belongs to."""
        return jobs.piece % self.pieces.elements

    def sample(
        self, jobs: Jobs, t: Array, variable: Variable, guard: float = 0.0
    ) -> Sample:
        """Evaluate at values ``t`` ``(k, m)`` of the variable of ``m`` jobs.

        Args:
            jobs: What the columns are ranges of.
            t: Where, in the variable, ascending; ``(k, 1)`` for all columns alike.
            variable: From there to canonical positions.
            guard: Units in the last place to keep from a finite end.

        Returns:
            The integrand in the variable.
        """
        positions, slope = variable(jobs, t)
        return self.at(jobs, self.pieces.points(jobs.piece, positions), slope, guard)

    def at(
        self, jobs: Jobs, points: Array, slope: Array | None = None, guard: float = 0.0
    ) -> Sample:
        """The same at points ``(k, m)``, from the derivative of the variable there."""
        element, points = self.elements(jobs), self.rounded(points)
        if points.shape[1] != element.size:
            points = np.broadcast_to(points, (len(points), element.size))
        inside = self._inside(jobs, points, guard)
        if inside is not None and slope is None:
            points, inside = self._moved_in(jobs, points)
        if inside is not None:
            points = np.where(inside, points, self.evaluate.home[element])
        return self.weigh(
            element, points, slope, inside, self.evaluate(element, points)
        )

    def weigh(
        self,
        element: Index,
        points: Array,
        slope: Array | None,
        inside: Mask | None,
        values: Values,
    ) -> Sample:
        """The integrand in the variable, from its values ``(k, m, events)``.

        Args:
            element: The integral of each column.
            points: Where it was evaluated.
            slope: Derivative of the variable, None where it is 1.
            inside: Which points are not on an end; None if all are.
            values: The integrand there.

        Returns:
            The sample.
        """
        if slope is not None:
            slope = (np.log(slope) if self.ledger.log else slope)[..., None]
            values = values + slope if self.ledger.log else values * slope
        finite = self._finite(values)
        if finite is not None:
            if inside is not None:
                finite |= ~inside
            self._note_fault(element, points, finite)
        usable = _both(inside, finite)
        if usable is not None:
            nothing = -np.inf if self.ledger.log else 0.0
            values = np.where(usable[..., None], values, nothing)
        return Sample(values, inside, finite)

    def unit(self, jobs: Jobs) -> Array:
        """Signed length (or its log) of the unit of the values of each job."""
        pieces = self.pieces
        unit = pieces.of(pieces.unit, jobs.piece)
        if self.ledger.log:
            return np.log(unit)
        return unit * pieces.of(pieces.sign, jobs.piece)

    def inside(
        self, jobs: Jobs, positions: Array, *, moves: bool
    ) -> tuple[Array, Mask | None]:
        """Positions ``(k, m)``, and which rounding does not put on an end.

        Args:
            jobs: What the columns are ranges of.
            positions: Canonical positions.
            moves: Whether those on an end have been moved inside.

        Returns:
            Both; no mask if no position is on an end.
        """
        points = self.rounded(self.pieces.points(jobs.piece, positions))
        inside = self._inside(jobs, points)
        if inside is None or not moves:
            return positions, inside
        moved, inside = self._moved_in(jobs, points)
        anchors = self.pieces.of(self.pieces.anchors, jobs.piece)
        unit = self.pieces.of(self.pieces.unit, jobs.piece)
        there = (moved - np.where(positions >= 0, *anchors)) / unit
        return np.where(moved == points, positions, there), inside

    def _moved_in(self, jobs: Jobs, points: Array) -> tuple[Array, Mask | None]:
        """Points with those on an end moved to the next number inside of the piece.

        Without them a rule would lose a part of a piece that is a few hundred numbers
        long. A piece without a number inside counts for nothing, unless an integral has
        no other: then it is evaluated at its ends.

        Returns:
            The points, and which of them may be used; no mask if all may.
        """
        low, high = bounds = self.rounded(self.pieces.bounds)
        first, last = self._next(low, high), self._next(high, low)
        full = first < high
        inner = self.pieces.of(np.where(full, [first, last], bounds), jobs.piece)
        each = full.reshape(-1, self.pieces.elements)
        usable = self.pieces.of((each | ~each.any(0)).ravel(), jobs.piece)
        moved = np.clip(points, *inner)
        return moved, None if usable.all() else np.broadcast_to(usable, moved.shape)

    def _finite(self, values: Values) -> Mask | None:
        """Which values are finite, in the log form also minus infinity: a density of 0.

        Returns:
            The mask ``(k, m)``; None if all of them are.
        """
        # One number tells in one pass; where it does not, they are looked at.
        if self.ledger.log:
            if values.max(initial=-np.inf) < np.inf:
                return None
            return np.logical_and.reduce(values < np.inf, -1)
        if np.isfinite(np.add.reduce(values, None)):
            return None
        finite: Mask = np.logical_and.reduce(np.isfinite(values), -1)
        return None if finite.all() else finite

    def rounded(self, points: Array) -> Array:
        """Points as the integrand's dtype can represent them."""
        if self.evaluate.single:
            return read(
                torch.tensor(points, device="cpu").to(self.evaluate.integrand.dtype)
            )
        return points

    def _next(self, points: Array, other: Array) -> Array:
        """The numbers next to points, as the integrand's dtype has them."""
        if not self.evaluate.single:
            return np.nextafter(points, other)
        dtype = self.evaluate.integrand.dtype
        pair = (torch.tensor(p, device="cpu").to(dtype) for p in (points, other))
        return read(torch.nextafter(*pair))

    def _inside(self, jobs: Jobs, points: Array, guard: float = 0.0) -> Mask | None:
        low, high = self.rounded(self.pieces.of(self.pieces.bounds, jobs.piece))
        if guard:
            gap = guard * self.ledger.epsilon
            # At most so much of a very short piece.
            most = 1e-9 * self.pieces.of(self.pieces.unit, jobs.piece)
            low = low + np.minimum(gap * np.abs(low), most)
            high = high - np.minimum(gap * np.abs(high), most)
        # Points of a column are monotone: if the outermost are inside, all are.
        ends = points[[0, -1]]
        if ((ends > low) & (ends < high)).all():
            return None
        return (points > low) & (points < high)

    def _note_fault(self, element: Index, points: Array, finite: Mask) -> None:
        if self.ledger.bad_point is None and not finite.all():
            node, column = np.argwhere(~finite)[0]
            self.ledger.bad_point = int(element[column]), float(points[node, column])


def _both(one: Mask | None, other: Mask | None) -> Mask | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other
