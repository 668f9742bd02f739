"""One search for a plan: the integrals, how to sample them, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from torch_mlcalc.quadrature.evaluator import Evaluator, Values
from torch_mlcalc.quadrature.ledger import Ledger
from torch_mlcalc.quadrature.pieces import Index, Pieces
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.variables import Jobs

Variable = Callable[[Jobs, Array], tuple[Array, Array]]


class Sample(NamedTuple):
    """The integrand in the variable of a rule, at ``k`` nodes of ``m`` columns.

    Attributes:
        values: Integrand times derivative of the variable, or the sum of their logs;
            0 (or minus infinity) where they could not be used. ``(k, m, events)``.
        inside: False where rounding puts the point on an end of the piece, ``(k, m)``.
        finite: Whether the integrand was finite, ``(k, m)``; True outside.
    """

    values: Values
    inside: npt.NDArray[Any]
    finite: npt.NDArray[Any]


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
            t: Where, in the variable.
            variable: From there to canonical positions.
            guard: Units in the last place to keep from a finite end.

        Returns:
            The integrand in the variable.
        """
        element = self.elements(jobs)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            positions, slope = variable(jobs, t)
            points = self._rounded(self.pieces.points(jobs.piece, positions))
            inside = self._inside(jobs, points, guard)
            points = np.where(inside, points, self.evaluate.home[element])
            raw = self.evaluate(element, points)
            factor = slope * self.pieces.unit[jobs.piece]
            if self.ledger.log:
                values = raw + np.log(factor)[..., None]
                # Minus infinity is a density of 0; nan and infinity are faults.
                finite = (values < np.inf).all(-1)
                nothing = -np.inf
            else:
                values = raw * (factor * self.pieces.sign[jobs.piece])[..., None]
                finite = np.isfinite(values).all(-1)
                nothing = 0.0
        self._note_fault(element, points, inside & ~finite)
        values = np.where((inside & finite)[..., None], values, nothing)
        np.add.at(self.ledger.n_evals, element, t.shape[0])
        return Sample(values, inside, finite | ~inside)

    def inside(self, jobs: Jobs, positions: Array) -> npt.NDArray[np.bool_]:
        """Which positions ``(k, m)`` rounding does not put on an end of the piece."""
        with np.errstate(over="ignore", invalid="ignore"):
            points = self._rounded(self.pieces.points(jobs.piece, positions))
        return self._inside(jobs, points)

    def _rounded(self, points: Array) -> Array:
        """Points as the integrand's dtype can represent them."""
        if self.evaluate.single:
            tensor = torch.as_tensor(points).to(self.evaluate.integrand.dtype)
            rounded: Array = tensor.to(torch.float64).numpy()
            return rounded
        return points

    def _inside(
        self, jobs: Jobs, points: Array, guard: float = 0.0
    ) -> npt.NDArray[Any]:
        low = self._rounded(self.pieces.anchors[0, jobs.piece])
        high = self._rounded(self.pieces.anchors[1, jobs.piece])
        gap = guard * self.ledger.epsilon
        most = 1e-9 * self.pieces.unit[jobs.piece]  # of a very short piece
        above = points - low > np.minimum(gap * np.abs(low), most)
        below = high - points > np.minimum(gap * np.abs(high), most)
        return np.isfinite(points) & ((jobs.kind != FINITE) | (above & below))

    def _note_fault(
        self, element: Index, points: Array, fault: npt.NDArray[Any]
    ) -> None:
        if self.ledger.bad_point is None and fault.any():
            node, column = np.argwhere(fault)[0]
            self.ledger.bad_point = int(element[column]), float(points[node, column])
