"""The bisection of a single integral of a single number, decided in plain numbers."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.gauss_kronrod import (
    AROUND,
    EAGER,
    PARTS,
    PATIENCE,
    POLE,
    SLOW,
    Cells,
    Measured,
    amount_of,
    bisect,
    measure,
    nodes_of,
)
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount, Ledger
from torch_mlcalc.quadrature.pieces import Part
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.sampling import ONE, Single
from torch_mlcalc.quadrature.spikes import SPIKE, spikes
from torch_mlcalc.quadrature.variables import Jobs, identity

#: Lower and upper end of a cell, error of the cell it is a part of, times in a row that
#: dividing helped too little: the columns of Cells.
Cell = tuple[float, float, float, float]

#: A cell with its value, error and absolute value, and the range around its peak.
Row = tuple[Cell, float, float, float, tuple[float, float] | None]


def bisect_single(one: Single, jobs: Jobs, n: int, *, windows: bool) -> list[Jobs]:
    """Do what :func:`bisect` does, for one finite piece of one integral.

    Args:
        one: The piece, with its search.
        jobs: The piece.
        n: Number of Kronrod nodes.
        windows: Whether a cell at an end that converges slowly is handed back.

    Returns:
        The jobs handed back.
    """
    search = one.search
    ledger = search.ledger
    handed: list[Jobs] = []
    kept: list[Row] = []
    set_aside: list[Row] = []
    cells: list[Cell] = [(0.0, 1.0, math.inf, 0.0)]
    while True:
        opened = _measure(one, jobs, cells, n)
        ledger.n_evals[0] += n * len(cells)
        if not isinstance(opened, list):
            _book(one, jobs, kept, n)
            return handed + bisect(
                search,
                jobs,
                _cells(cells),
                identity,
                n,
                windows=windows,
                measured=opened,
            )
        share = _share(ledger, opened, kept, set_aside)
        if share == math.inf:
            kept += opened
            break
        divided: list[Cell] = []
        decisions = _decide(ledger, opened, share, n)
        patience = EAGER if _only_ends(decisions) else PATIENCE
        for row, parts, slow in decisions:
            (low, high, _, _), value, error, size, peak = row
            if not parts:
                kept.append(row)
            elif windows and slow >= patience and _at_end(row):
                handed.append(
                    Jobs(jobs.piece, jobs.kind, np.array([low]), np.array([high]))
                )
                set_aside.append(row)
                columns = np.array([value, 0.0, size]).reshape(3, 1, 1)
                ledger.expected.append((ONE, Amount(columns, None)))
            else:
                cuts = _cuts(low, high, parts, peak)
                divided += [(a, b, error, slow) for a, b in cuts if a < b]
        if not divided:
            break
        cells = divided
    _book(one, jobs, kept, n)
    return handed


def _measure(
    one: Single, jobs: Jobs, cells: list[Cell], n: int
) -> list[Row] | Measured:
    """Every cell with what it holds; what the batch says of cells that are special."""
    search, count = one.search, len(cells)
    points = _points(one, cells, n)
    lower, upper = one.range()
    # Cells and nodes ascend.
    safe = lower < points[0, 0] and points[-1, -1] < upper
    alone = count == 1 or len(search.evaluate.blocks(count, n)) == 1
    if not safe or count > FEW or not alone:
        own = jobs.take(np.zeros(count, dtype=np.int64))
        return measure(search, own, _cells(cells), identity, n)
    flat = one.values(points.reshape(-1))
    rows = None
    if flat.ndim == 1 and flat.dtype == float:
        rows = _sums(one, cells, flat.reshape(n, count), n)
    if rows is None:
        own = jobs.take(np.zeros(count, dtype=np.int64))
        half = np.array([(high - low) / 2 for low, high, _, _ in cells])
        return amount_of(search, own, half, one.sample(points, None, None, flat), n)
    return rows


class Products(NamedTuple):
    """The rule as matrices, so that few products do what a level needs.

    Attributes:
        place: From middle and half length of a cell to its nodes, ``(n, 2)``.
        apply: From values to the integral, its error, the values and their distances
            from the mean; ``(2 n + 2, n)``.
        add: From the absolute values of the last two to their integrals, ``(2, 2 n)``.
    """

    place: Array
    apply: Array
    add: Array


@lru_cache(maxsize=32)
def _products(n: int) -> Products:
    nodes, both = kronrod_table(n)
    centre = np.eye(n) - both[0] / 2
    return Products(
        np.stack([np.ones(n), nodes], 1),
        np.concatenate([both, np.eye(n), centre]),
        np.kron(np.eye(2), both[0]),
    )


#: Cells of one level up to which products with matrices are faster than arithmetic on
#: all values, and are done on one thread (see :func:`host.contract`).
FEW = 64


def _points(one: Single, cells: list[Cell], n: int) -> Array:
    """Nodes of the cells, ``(n, count)``."""
    middles, halves, unit = [], [], one.unit
    for low, high, _, _ in cells:
        half = (high - low) / 2
        middle = low + half
        # Counted from the nearer end, as the batch does.
        if middle > 0.5:
            middles.append(one.negative + unit * (middle - 1))
        else:
            middles.append(one.positive + unit * middle)
        halves.append(unit * half)
    return one.rounded(_products(n).place.dot(np.array([middles, halves])))


def _sums(one: Single, cells: list[Cell], values: Array, n: int) -> list[Row] | None:
    """What the cells hold; None if that is nothing, or not finite."""
    _, apply, add = _products(n)
    product = apply.dot(values)
    absolute, spread = add.dot(np.abs(product[2:])).tolist()
    if not 0 < sum(absolute) < math.inf:
        return None
    value, error = product[:2].tolist()
    floor, sign = ROUNDING * one.search.ledger.epsilon, one.sign
    rows = []
    for i, cell in enumerate(cells):
        factor = (cell[1] - cell[0]) / 2 * one.unit
        size = absolute[i] * factor
        sharp = _sharpened(abs(error[i]), spread[i])
        peak = _peak(values[:, i], sharp, absolute[i])
        sharp = max(sharp * factor, floor * size)
        rows.append((cell, value[i] * factor * sign, sharp, size, peak))
    return rows


def _sharpened(error: float, spread: float) -> float:
    """QUADPACK's estimate from the difference of the two rules."""
    if not spread > 0:
        return error
    ratio = 200 * error / spread
    return spread * min(1.0, ratio * math.sqrt(ratio))


def _peak(values: Values, error: float, absolute: float) -> tuple[float, float] | None:
    """What :func:`spikes` says of one cell."""
    if not error >= SPIKE * absolute:
        return None
    ends = spikes(values.reshape(-1, 1, 1), np.array([[error]]), np.array([[absolute]]))
    return None if np.isnan(ends[0, 0]) else (float(ends[0, 0]), float(ends[1, 0]))


def _cuts(
    low: float, high: float, parts: int, peak: tuple[float, float] | None
) -> list[tuple[float, float]]:
    """Equal parts of a cell, or those around a peak, of which some may be empty."""
    width = high - low
    if peak:
        begin, end = (low + p * width for p in peak)
        edges = [low, begin, end if peak[1] < 1 else high, high]
    else:
        edges = [low + i / parts * width for i in range(parts + 1)]
    return list(zip(edges[:-1], edges[1:], strict=True))


def _share(
    ledger: Ledger,
    opened: list[Row],
    kept: list[Row],
    set_aside: list[Row],
) -> float:
    """Error that each open cell may have; infinity if the integral has converged."""
    total = size = error = settled = 0.0
    for _, value, own, absolute, _ in kept:
        total, settled, size = total + value, settled + own, size + absolute
    for _, value, own, absolute, _ in opened:
        total, error, size = total + value, error + own, size + absolute
    for _, value, _, absolute, _ in set_aside:
        total, size = total + value, size + absolute
    allowed = ledger.allowed_plain(total, size)
    if settled + error <= allowed:
        return math.inf
    return max(allowed - settled, 0.0) / (2 * len(opened))


def _decide(
    ledger: Ledger, opened: list[Row], share: float, n: int
) -> list[tuple[Row, int, float]]:
    """Into how many parts to divide each cell, 0 to keep it, and its history."""
    decisions, failing = [], False
    for row in opened:
        (low, high, previous, slow), _, error, size, peak = row
        fails = error > share and error > ROUNDING * ledger.epsilon * size
        failing |= fails
        late = error > SLOW * previous and previous < math.inf
        slow = slow + 1 if late else 0.0
        narrow = high - low <= 64 * ledger.epsilon * max(abs(low), abs(high))
        if fails and narrow and error > POLE * previous:
            ledger.blame(ONE, Status.SUSPECTED_DIVERGENT)
        parts = AROUND if peak else PARTS
        decisions.append((row, parts if fails and not narrow else 0, slow))
    cost = n * sum(parts for _, parts, _ in decisions)
    if ledger.n_evals[0] + cost > ledger.max_evals:
        if failing:
            ledger.blame(ONE, Status.TOLERANCE_NOT_REACHED)
        decisions = [(row, 0, slow) for row, _, slow in decisions]
    return decisions


def _at_end(row: Row) -> bool:
    """Whether what is difficult in a cell may be an end of the piece."""
    (low, high, _, _), *_, peak = row
    return not peak and (low == 0 or high == 1)


def _only_ends(decisions: list[tuple[Row, int, float]]) -> bool:
    """Whether that is so in all cells to be divided."""
    return all(_at_end(row) for row, parts, _ in decisions if parts)


def _cells(cells: list[Cell]) -> Cells:
    return Cells(np.zeros(len(cells), dtype=np.int64), np.array(cells).T)


def _book(one: Single, jobs: Jobs, kept: list[Row], n: int) -> None:
    """Add all cells that are kept to the totals."""
    if not kept:
        return
    ledger = one.search.ledger
    _, *columns, _ = zip(*kept, strict=True)
    sums = np.array([math.fsum(column) for column in columns])
    ledger.add(ONE, Amount(sums.reshape(3, 1, 1), None))
    ledger.nodes.append(partial(_nodes, one, jobs, kept, n))


def _nodes(one: Single, jobs: Jobs, kept: list[Row], n: int) -> Part:
    cells = _cells([cell for cell, *_ in kept])
    return nodes_of(one.search, jobs.take(cells.job), cells, identity, n)
