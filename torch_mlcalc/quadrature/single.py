"""The bisection of a single integral of a single number, decided in plain numbers.

It takes the same decisions as :func:`bisect`, and evaluates the same points. An array
of one or two entries costs a hundred times as much as a number, and a level of one
integral has some fifty such operations besides those on its nodes: half of its time.
"""

from __future__ import annotations

import math

import numpy as np

from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.gauss_kronrod import (
    PATIENCE,
    POLE,
    SLOW,
    STUBBORN,
    Cells,
    bisect,
    measure,
    new_cells,
    settle,
)
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount, Ledger
from torch_mlcalc.quadrature.search import Search
from torch_mlcalc.quadrature.variables import Jobs, identity

#: Lower and upper end of a cell, error of the cell it is a part of, times in a row that
#: dividing helped too little: the columns of Cells.
Cell = tuple[float, float, float, float]

#: A cell with its value, error and absolute value.
Measured = tuple[Cell, float, float, float]

_ONE = np.zeros(1, dtype=np.int64)


def bisect_single(search: Search, jobs: Jobs, n: int, *, windows: bool) -> list[Jobs]:
    """Do what :func:`bisect` does, for one finite piece of one integral.

    Args:
        search: The integral, and the ledger that everything is booked in.
        jobs: The piece.
        n: Number of Kronrod nodes.
        windows: Whether a cell at an end that converges slowly is handed back.

    Returns:
        The jobs handed back.
    """
    ledger = search.ledger
    cells = new_cells(_ONE, jobs.low, jobs.high)
    handed: list[Jobs] = []
    kept: list[Measured] = []
    set_aside: list[Measured] = []
    while True:
        own = jobs.take(cells.job)
        amount, broken = measure(search, own, cells, identity, n)
        ledger.count(cells.job, n)
        absolute = amount.absolute
        single = amount.columns.dtype == float and absolute.shape[1] == 1
        if not single or broken.any() or not absolute.any():
            _book(search, jobs, kept, n)
            measured = amount, broken
            return handed + bisect(
                search, jobs, cells, identity, n, windows=windows, measured=measured
            )
        opened = _rows(cells, amount)
        share = _share(ledger, opened, kept, set_aside)
        if share == math.inf:
            kept += opened
            break
        divided: list[Cell] = []
        for row, parts, slow in _decide(ledger, opened, share, n):
            (low, high, _, _), value, error, size = row
            if not parts:
                kept.append(row)
            elif windows and slow >= PATIENCE and (low == 0 or high == 1):
                handed.append(
                    Jobs(jobs.piece, jobs.kind, np.array([low]), np.array([high]))
                )
                set_aside.append(row)
                columns = np.array([value, 0.0, size]).reshape(3, 1, 1)
                ledger.expected.append((_ONE, Amount(columns, None)))
            else:
                edges = [low + i / parts * (high - low) for i in range(parts + 1)]
                pairs = zip(edges[:-1], edges[1:], strict=True)
                divided += [(a, b, error, slow) for a, b in pairs]
        if not divided:
            break
        cells = _cells(divided)
    _book(search, jobs, kept, n)
    return handed


def _rows(cells: Cells, amount: Amount) -> list[Measured]:
    lows, highs, previous, slow = cells.columns.tolist()
    columns = amount.columns[..., 0].tolist()
    return [
        ((a, b, p, s), value, error, size)
        for a, b, p, s, value, error, size in zip(
            lows, highs, previous, slow, *columns, strict=True
        )
    ]


def _share(
    ledger: Ledger,
    opened: list[Measured],
    kept: list[Measured],
    set_aside: list[Measured],
) -> float:
    """Error that each open cell may have; infinity if the integral has converged."""
    rtol, atol, _ = ledger.tolerance
    everything = kept + set_aside + opened
    total = abs(sum(value for _, value, _, _ in everything))
    size = sum(size for _, _, _, size in everything)
    settled = sum(error for _, _, error, _ in kept)
    floor = ROUNDING * ledger.epsilon * size * (1 + 1e-3)
    allowed = max(atol, rtol * total, floor)
    if settled + sum(error for _, _, error, _ in opened) <= allowed:
        return math.inf
    return max(allowed - settled, 0.0) / (2 * len(opened))


def _decide(
    ledger: Ledger, opened: list[Measured], share: float, n: int
) -> list[tuple[Measured, int, float]]:
    """Into how many parts to divide each cell, 0 to keep it, and its history."""
    decisions, failing = [], False
    for row in opened:
        (low, high, previous, slow), _, error, size = row
        fails = error > share and error > ROUNDING * ledger.epsilon * size
        failing |= fails
        late = error > SLOW * previous and previous < math.inf
        slow = slow + 1 if late else 0.0
        narrow = high - low <= 64 * ledger.epsilon * max(abs(low), abs(high))
        if fails and narrow and error > POLE * previous:
            ledger.blame(_ONE, Status.SUSPECTED_DIVERGENT)
        parts = STUBBORN if slow >= PATIENCE else 2
        decisions.append((row, parts if fails and not narrow else 0, slow))
    cost = n * sum(parts for _, parts, _ in decisions)
    if ledger.n_evals[0] + cost > ledger.max_evals:
        if failing:
            ledger.blame(_ONE, Status.TOLERANCE_NOT_REACHED)
        decisions = [(row, 0, slow) for row, _, slow in decisions]
    return decisions


def _cells(cells: list[Cell]) -> Cells:
    columns = np.array(cells).T
    return Cells(np.zeros(columns.shape[1], dtype=np.int64), columns)


def _book(search: Search, jobs: Jobs, kept: list[Measured], n: int) -> None:
    """Add all cells that are kept to the totals."""
    if not kept:
        return
    cells = _cells([cell for cell, _, _, _ in kept])
    columns = np.array([row[1:] for row in kept]).T[..., None]
    own, owner = jobs.take(cells.job), cells.job
    settle(search, own, owner, cells, Amount(columns, None), identity, n)
