"""Cells: ranges of the variable of a job, what they hold and how they are divided."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.kronrod import cell_table, kronrod_table
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount, join, unlogged
from torch_mlcalc.quadrature.pieces import Index, Part, chosen
from torch_mlcalc.quadrature.placement import BELOW
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Mask, Sample, Search, Variable
from torch_mlcalc.quadrature.spikes import spikes
from torch_mlcalc.quadrature.variables import Jobs, identity


class Cells(NamedTuple):
    """Ranges of the variable of a job each, with their history.

    Attributes:
        job: Which job, ``(m,)``.
        columns: Lower and upper end, the error of the cell that this is a part of, and
            how many times in a row dividing helped too little; ``(4, m)``.
    """

    job: Index
    columns: Array

    def take(self, index: Mask | slice) -> Cells:
        """Some of the cells."""
        return Cells(chosen(self.job, index), chosen(self.columns, index))


#: Width from which on a cell is wide, as a fraction of its range: those of a first cut.
#: On the random peaks of tests/quadrature/test_gaps.py half of this finds a fortieth
#: more of what is missed, for a fifth more points.
WIDE = 0.2


def wide(cells: Cells) -> Mask:
    """Which cells are wide, but for those that nothing has been cut off."""
    low, high, error, _ = cells.columns
    mask: Mask = (high - low > WIDE) & (error < np.inf)
    return mask


def new_cells(job: Index, low: Array, high: Array) -> Cells:
    """Cells without a history."""
    return cells_of(job, low, high, np.inf, 0.0)


def cells_of(
    job: Index, low: Array, high: Array, error: Array | float, slow: Array | float
) -> Cells:
    """Cells from their columns."""
    columns = np.empty((4, job.size))
    columns[0], columns[1], columns[2], columns[3] = low, high, error, slow
    return Cells(job, columns)


def divided(cells: Cells, parts: int) -> Cells:
    """Every cell cut into equal parts, which inherit its history."""
    low, high, error, slow = cells.columns
    edges = low + np.arange(parts + 1)[:, None] / parts * (high - low)
    return _between(cells.job, edges, error, slow)


def _between(job: Index, edges: Array, error: Array, slow: Array) -> Cells:
    parts = len(edges) - 1
    # The parts of a cell one after another, so that those of cells that ascend do too.
    return cells_of(
        np.repeat(job, parts),
        edges[:-1].T.ravel(),
        edges[1:].T.ravel(),
        np.repeat(error, parts),
        np.repeat(slow, parts),
    )


def joined(*cells: Cells) -> Cells:
    """Cells one after another."""
    return Cells(
        np.concatenate([c.job for c in cells]),
        np.concatenate([c.columns for c in cells], 1),
    )


def parts_around(cells: Cells, peak: Array) -> Cells:
    """What is below a range within each cell, the range, and what is above."""
    low, high, error, slow = cells.columns
    begin, end = low + peak * (high - low)
    edges = np.stack([low, begin, np.where(peak[1] < 1, end, high), high])
    three = _between(cells.job, edges, error, slow)
    return three.take(three.columns[0] < three.columns[1])


class Measured(NamedTuple):
    """What cells hold.

    Attributes:
        amount: Integral and error.
        broken: Whether the integrand was not finite somewhere.
        peak: What :func:`spikes` says.
        values: The integrand at the nodes, blocks of ``(n, m, events)``, if some of the
            cells are wide; else none.
        edges: What :func:`cell_table` says of the ends, and the integrand at the first
            two and the last two nodes, ``(8, m, events)``.
    """

    amount: Amount
    broken: Mask
    peak: Array
    values: tuple[Values, ...]
    edges: Values

    def values_of(self, index: Index) -> Values:
        """The integrand at the nodes of some cells, numbered upwards."""
        ends = np.cumsum([block.shape[1] for block in self.values])
        parts = np.split(index, np.searchsorted(index, ends[:-1]))
        begins = [0, *ends[:-1]]
        return np.concatenate(
            [
                block.take(part - begin, 1)
                for block, part, begin in zip(self.values, parts, begins, strict=True)
            ],
            axis=1,
        )


def measure(
    search: Search, own: Jobs, cells: Cells, variable: Variable, n: int
) -> Measured:
    """What each cell holds."""
    blocks = search.evaluate.blocks(cells.job.size, n)
    keep = variable is identity and bool(wide(cells).any())
    if len(blocks) == 1:
        return _measure_block(search, own, cells, variable, n, keep=keep)
    # Block by block also what is done with the values: they are still in the cache.
    amounts, broken, peaks, values, edges = zip(
        *[
            _measure_block(search, own.take(i), cells.take(i), variable, n, keep=keep)
            for i in blocks
        ],
        strict=True,
    )
    return Measured(
        join(amounts),
        np.concatenate(broken),
        np.concatenate(peaks, 1),
        tuple(block for one in values for block in one),
        np.concatenate(edges, 1),
    )


def _measure_block(
    search: Search, own: Jobs, cells: Cells, variable: Variable, n: int, *, keep: bool
) -> Measured:
    nodes, _ = kronrod_table(n)
    low, high, previous, _ = cells.columns
    half = (high - low) / 2
    if variable is identity:
        sample = search.at(own, search.pieces.within(own.piece, low, half, nodes))
    else:
        sample = search.sample(own, low + half + half * nodes[:, None], variable)
    return amount_of(search, own, half, previous, sample, n, keep=keep)


def amount_of(
    search: Search,
    own: Jobs,
    half: Array,
    previous: Array,
    sample: Sample,
    n: int,
    *,
    keep: bool,
) -> Measured:
    """The same from a sample of cells of half a length and of a former error each."""
    _, both = kronrod_table(n)
    values, log_unit = unlogged(sample.values, log=search.ledger.log)
    shape = values.shape[1:]
    values = values.reshape(n, -1)
    columns = np.empty((3, values.shape[1]), values.dtype)
    told = contract(cell_table(n), values)
    columns[:2] = told[:2]
    edges = np.concatenate([told[2:], values[:2], values[-2:]])
    value, error = columns[0], np.abs(columns[1])
    size = np.abs(values)
    columns[2] = contract(both[:1], size)
    # Of what is odd about the middle of a cell both rules say the same, however little
    # they know; of a whole piece that is often what it is.
    odd = error <= ROUNDING * search.ledger.epsilon * columns[2].real
    odd &= (previous < np.inf).repeat(odd.size // previous.size)
    if odd.any():
        error[odd] = np.abs(edges[2, odd])
    real = size if values.dtype == size.dtype else None
    np.abs(np.subtract(values, value / 2, out=real), out=size)
    (spread,) = contract(both[:1], size)
    ratio = 200 * error / spread
    sharp = spread * np.minimum(1, ratio * np.sqrt(ratio))
    columns[1] = np.where(spread > 0, sharp, error)
    columns, edges = columns.reshape(3, *shape), edges.reshape(-1, *shape)
    values = values.reshape(n, *shape)
    peak = spikes(values, *columns[1:].real)
    # A copy, as the values of the next block may be written where these are.
    kept = (values.copy(),) if keep else ()
    unit = search.unit(own)
    if log_unit is None:
        columns *= (half * unit)[:, None]
        columns[1:] = np.abs(columns[1:])
    else:
        columns *= half[:, None]
        log_unit = log_unit + unit[:, None]
    amount = Amount(columns, log_unit)
    np.maximum(amount.error, search.ledger.rounding(amount), out=amount.error)
    if sample.finite is None:
        return Measured(amount, np.zeros(half.size, bool), peak, kept, edges)
    broken: Mask = ~np.logical_and.reduce(sample.finite)
    # A broken cell claims nothing: its error is all that it could hold.
    amount.error[broken] = np.maximum(amount.error, amount.absolute)[broken]
    return Measured(amount, broken, peak, kept, edges)


def nodes_of(
    search: Search, own: Jobs, cells: Cells, variable: Variable, n: int
) -> Part:
    """Nodes of settled cells, for the plan."""
    nodes, both = kronrod_table(n)
    low, high, _, _ = cells.columns
    half = (high - low) / 2
    positions, slope = variable(own, (low + half) + half * nodes[:, None])
    weights = both[0][:, None] * half
    if slope is not None:
        weights = weights * slope
    # As the search did not evaluate on an end, the plan must not.
    positions, inside = search.inside(own, positions, moves=slope is None)
    if inside is not None:
        spare = np.where(own.kind == BELOW, -1.0, 0.5)
        positions = np.where(inside, positions, spare)
        weights = np.where(inside, weights, 0.0)
    if variable is not identity:
        low, high = own.low, own.high
    part = Part(own.piece, positions, weights, low, high)
    if inside is None or inside.any(0).all():
        return part
    # Where no node is inside, the spare one is on an end too.
    some = np.flatnonzero(inside.any(0))
    return Part(*(chosen(column, some) for column in part))
