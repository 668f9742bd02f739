"""One search for the regions that integrals over the unit cube need."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.contract import TEMPORARIES, block_bytes
from torch_mlcalc.quadrature.cubature.climbed import Climbed
from torch_mlcalc.quadrature.cubature.regions import Regions, Table
from torch_mlcalc.quadrature.evaluator import Evaluator, Values
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.ledger import Amount, Ledger, factor_between, unlogged
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array

Mask = npt.NDArray[Any]


class Kept(NamedTuple):
    """Regions that the integrals were added up from, with the rule used on them."""

    table: Table
    regions: Regions


class Measured(NamedTuple):
    """Sums over the nodes of each region.

    Attributes:
        sums: One row for each set of weights, ``(rows, m, events)``.
        log_unit: The log by which values were divided, ``(m, events)``, or None.
        broken: Whether a value was not finite, ``(m)``.
        lost: Whether none was, ``(m)``.
    """

    sums: Values
    log_unit: Array | None
    broken: Mask
    lost: Mask


@dataclass(eq=False)
class CubeSearch:
    """Integrals over the cube, how to sample them, and what was found.

    Attributes:
        evaluate: The integrand on the cube.
        ledger: Where contributions are booked.
        volume: Signed volume of each domain (its log in the log form), ``(elements)``.
        knots: Ends of the pieces in the cube, one array ``(elements, k + 1)`` for each
            axis.
        unbounded: Whether there may be infinite limits.
        begun: Where the tensor rules on a single cube stand.
        kept: What the totals were made of.
    """

    evaluate: Evaluator
    ledger: Ledger
    volume: Array
    knots: tuple[Array, ...]
    unbounded: bool = False
    begun: Climbed | None = None
    kept: list[Kept] = field(default_factory=list)

    @property
    def dimension(self) -> int:
        """Dimension of the cube."""
        return len(self.knots)

    @property
    def elements(self) -> int:
        """Number of integrals."""
        return self.ledger.elements

    @cached_property
    def pieces(self) -> tuple[int, ...]:
        """How many pieces there are on each axis."""
        return tuple(k.shape[1] - 1 for k in self.knots)

    @cached_property
    def undivided(self) -> bool:
        """Whether there are no breakpoints."""
        return max(self.pieces) == 1

    def corners(self, regions: Regions) -> tuple[Array, Array]:
        """Lower corners and widths of regions in the cube, ``(m, d)``."""
        if self.undivided:
            return regions.low, regions.high - regions.low
        begin, length = np.empty_like(regions.low), np.empty_like(regions.low)
        for axis, knots in enumerate(self.knots):
            piece = regions.piece[:, axis]
            begin[:, axis] = knots[regions.owner, piece]
            length[:, axis] = knots[regions.owner, piece + 1] - begin[:, axis]
        return begin + length * regions.low, length * (regions.high - regions.low)

    def measure(self, regions: Regions, table: Table, weights: Array) -> Measured:
        """Evaluate all nodes of a rule in each region, block by block.

        Args:
            regions: Where.
            table: The nodes.
            weights: Rows of weights, ``(rows, k)``; no rows for those of the table.

        Returns:
            Sums of values with each row, then of absolute values with the weights of
            the table.
        """
        low, width = self.corners(regions)
        whole = not low.any() and bool((width == 1).all())
        k, m = table.count(self.dimension), regions.owner.size
        device, memory = self.evaluate.integrand.device, self.evaluate.memory
        budget = block_bytes(None, device) if memory is None else memory
        budget = max(budget // (TEMPORARIES * self.dimension), 1)
        # Host arrays are cheap to make; a few blocks of the integrand at a time, or one
        # of a single integral, which is then evaluated on a shorter way.
        single = self.evaluate.is_alone and memory is None
        most = max(budget * (1 if single else 8) // max(k, 1), 1)
        parts = [
            self._measure(
                regions.owner[i : i + most],
                low[i : i + most],
                width[i : i + most],
                table,
                weights,
                whole=whole,
            )
            for i in range(0, m, most)
        ]
        self.ledger.count(regions.owner, k)
        if len(parts) == 1:
            return parts[0]
        units = [p.log_unit for p in parts if p.log_unit is not None]
        return Measured(
            np.concatenate([p.sums for p in parts], 1),
            np.concatenate(units) if units else None,
            np.concatenate([p.broken for p in parts]),
            np.concatenate([p.lost for p in parts]),
        )

    def _measure(
        self,
        owner: Index,
        low: Array,
        width: Array,
        table: Table,
        rows: Array,
        *,
        whole: bool,
    ) -> Measured:
        count, total = table.count(self.dimension), None
        device, memory = self.evaluate.integrand.device, self.evaluate.memory
        budget = block_bytes(memory, device)
        step = max(budget // max(low.size, 1), 1)
        for start in range(0, count, step):
            stop = min(start + step, count)
            nodes, weights = table.block(start, stop, self.dimension)
            own = rows[:, start:stop] if rows.size else weights[None]
            values = self._values(owner, low, width, nodes, whole=whole)
            part = self._sum(owner, low, width, nodes, values, own, weights)
            total = part if total is None else _add(total, part)
        assert total is not None  # noqa: S101
        return total

    def _values(
        self, owner: Index, low: Array, width: Array, nodes: Array, *, whole: bool
    ) -> Values:
        """Values ``(k, m, *event)`` at nodes ``(k, d)`` in ``m`` regions."""
        evaluate, k, (m, d) = self.evaluate, len(nodes), low.shape
        few = k * low.size * 8 <= block_bytes(None, evaluate.integrand.device)
        if few and evaluate.memory is None and evaluate.is_alone:
            # A third of the time of a few points, which is more than they take. Their
            # coordinates one after another; see grid.py.
            points = width.T[..., None] * nodes.T[:, None]
            points += low.T[..., None]
            values = evaluate.row(points.reshape(d, -1).T)
            return values.reshape(m, k, -1).swapaxes(0, 1)
        points = np.broadcast_to(nodes[:, None], (k, m, d))
        return evaluate(owner, points if whole else low + width * points)

    def summed(
        self, regions: Regions, table: Table, rows: Array, values: Values
    ) -> Measured:
        """What :meth:`measure` says of values ``(k, m, *event)`` of one integral."""
        low, width = self.corners(regions)
        values = values.reshape(len(values), regions.owner.size, -1)
        nodes, weights = table
        return self._sum(regions.owner, low, width, nodes, values, rows, weights)

    def _sum(
        self,
        owner: Index,
        low: Array,
        width: Array,
        nodes: Array,
        values: Values,
        rows: Array,
        weights: Array,
    ) -> Measured:
        log = self.ledger.log
        # Minus infinity is a density of 0; nan and infinity are faults.
        finite = values < np.inf if log else np.isfinite(values)
        broken: Mask = np.zeros(owner.size, dtype=bool)
        lost = broken
        if not finite.all():
            fine = finite.all(-1)
            broken = np.logical_not(np.logical_and.reduce(fine, 0))
            lost = np.logical_not(np.logical_or.reduce(fine, 0))
            if self.ledger.bad_point is None:
                node, column = np.argwhere(~fine)[0]
                u = low[column] + width[column] * nodes[node]
                self.ledger.bad_point = int(owner[column]), tuple(u.tolist())
            values = np.where(finite, values, -np.inf if log else 0.0)
        relative, unit = unlogged(values, log=log)
        size = relative if log else np.abs(relative)
        sums = np.concatenate([contract(rows, relative), contract(weights[None], size)])
        return Measured(sums, unit, broken, lost)

    def amount(
        self, regions: Regions, measured: Measured, error: Array, value: Values
    ) -> Amount:
        """Contributions of regions from means of the integrand over each.

        Args:
            regions: Where.
            measured: Whose last row is the mean of the absolute value.
            error: Error of the mean, ``(m, events)``.
            value: The mean.

        Returns:
            The same times the volumes.
        """
        _, width = self.corners(regions)
        absolute = measured.sums[-1].real
        # A broken region claims nothing: its error is all that it could hold.
        error = np.where(measured.broken[:, None], np.maximum(error, absolute), error)
        columns = np.stack([value, error, absolute])
        volume, own = width.prod(1), self.volume[regions.owner]
        if measured.log_unit is not None:
            with np.errstate(divide="ignore"):
                unit = measured.log_unit + (np.log(volume) + own)[:, None]
            return self._floored(Amount(columns, unit))
        columns = columns * (volume * np.abs(own))[:, None]
        columns[0] *= np.sign(own)[:, None]
        return self._floored(Amount(columns, None))

    def _floored(self, amount: Amount) -> Amount:
        rounding = self.ledger.rounding(amount)
        amount.columns[1] = np.maximum(amount.error, rounding)
        return amount

    def keep(self, table: Table, regions: Regions, amount: Amount) -> None:
        """Book contributions for good, and the regions for the plan."""
        if regions.owner.size:
            self.ledger.add(regions.owner, amount)
            self.kept.append(Kept(table, regions))


def _add(one: Measured, other: Measured) -> Measured:
    faults = one.broken | other.broken, one.lost & other.lost
    if one.log_unit is None or other.log_unit is None:
        return Measured(one.sums + other.sums, None, *faults)
    unit = np.maximum(one.log_unit, other.log_unit)
    sums = one.sums * factor_between(one.log_unit, unit)
    sums = sums + other.sums * factor_between(other.log_unit, unit)
    return Measured(sums, unit, *faults)
