"""The bisection of a single integral of a single number, decided in plain numbers."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.gauss_kronrod import (
    AROUND,
    PATIENCE,
    POLE,
    SLOW,
    STUBBORN,
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
        ledger.n_evals += n * len(cells)
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
        for row, parts, slow in _decide(ledger, opened, share, n):
            (low, high, _, _), value, error, size, peak = row
            at_end = not peak and (low == 0 or high == 1)
            if not parts:
                kept.append(row)
            elif windows and slow >= PATIENCE and at_end:
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
    nodes, both = kronrod_table(n)
    points = _points(one, cells, nodes)
    lower, upper = one.range()
    # Cells and nodes ascend.
    safe = lower < points[0, 0] and points[-1, -1] < upper
    if not safe or (count > 1 and len(search.evaluate.blocks(count, n)) > 1):
        own = jobs.take(np.zeros(count, dtype=np.int64))
        return measure(search, own, _cells(cells), identity, n)
    flat = one.values(points.reshape(-1))
    rows = None
    if flat.ndim == 1 and flat.dtype == float:
        rows = _sums(one, cells, flat.reshape(n, count), both)
    if rows is None:
        own = jobs.take(np.zeros(count, dtype=np.int64))
        half = np.array([(high - low) / 2 for low, high, _, _ in cells])
        return amount_of(search, own, half, one.sample(points, None, None, flat), n)
    return rows


def _points(one: Single, cells: list[Cell], nodes: Array) -> Array:
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
    return one.rounded(np.array(middles) + np.array(halves) * nodes[:, None])


def _sums(
    one: Single, cells: list[Cell], values: Array, both: Array
) -> list[Row] | None:
    """What the cells hold; None if that is nothing, or not finite."""
    pair = both.dot(values)
    absolute = both[0].dot(np.abs(values)).tolist()
    if not 0 < sum(absolute) < math.inf:
        return None
    spread = both[0].dot(np.abs(values - pair[0] / 2)).tolist()
    value, error = pair.tolist()
    floor = ROUNDING * one.search.ledger.epsilon
    rows = []
    for i, cell in enumerate(cells):
        factor = (cell[1] - cell[0]) / 2 * one.unit
        size = absolute[i] * factor
        sharp = _sharpened(abs(error[i]), spread[i])
        peak = _peak(values[:, i], sharp, absolute[i])
        sharp = max(sharp * factor, floor * size)
        rows.append((cell, value[i] * factor * one.sign, sharp, size, peak))
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
    everything = kept + set_aside + opened
    total = sum(value for _, value, _, _, _ in everything)
    size = sum(size for _, _, _, size, _ in everything)
    settled = sum(error for _, _, error, _, _ in kept)
    allowed = ledger.allowed_plain(total, size)
    if settled + sum(error for _, _, error, _, _ in opened) <= allowed:
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
        parts = AROUND if peak else STUBBORN if slow >= PATIENCE else 2
        decisions.append((row, parts if fails and not narrow else 0, slow))
    cost = n * sum(parts for _, parts, _ in decisions)
    if ledger.n_evals[0] + cost > ledger.max_evals:
        if failing:
            ledger.blame(ONE, Status.TOLERANCE_NOT_REACHED)
        decisions = [(row, 0, slow) for row, _, slow in decisions]
    return decisions


def _cells(cells: list[Cell]) -> Cells:
    return Cells(np.zeros(len(cells), dtype=np.int64), np.array(cells).T)


def _book(one: Single, jobs: Jobs, kept: list[Row], n: int) -> None:
    """Add all cells that are kept to the totals."""
    if not kept:
        return
    ledger = one.search.ledger
    cells, *columns, _ = zip(*kept, strict=True)
    sums = np.array([math.fsum(column) for column in columns])
    ledger.add(ONE, Amount(sums.reshape(3, 1, 1), None))
    ledger.nodes.append(partial(_nodes, one, jobs, list(cells), n))


def _nodes(one: Single, jobs: Jobs, kept: list[Cell], n: int) -> Part:
    cells = _cells(kept)
    return nodes_of(one.search, jobs.take(cells.job), cells, identity, n)
