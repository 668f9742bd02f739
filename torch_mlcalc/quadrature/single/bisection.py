"""The bisection of a single integral of a single number, decided in plain numbers."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cells import (
    Cells,
    Measured,
    amount_of,
    measure,
    nodes_of,
    wide,
)
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.gaps import (
    SMOOTH,
    Waiting,
    distances,
    gaps,
    surroundings,
)
from torch_mlcalc.quadrature.gauss_kronrod import (
    AROUND,
    EAGER,
    FINEST,
    PARTS,
    PATIENCE,
    POLE,
    SLOW,
    bisect,
)
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount, Ledger
from torch_mlcalc.quadrature.pieces import Part
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.rows import (
    CUTS,
    FEW,
    WHOLE,
    Cell,
    Row,
    Sums,
    first_points,
    parts_of,
    points_of,
    products,
    rows_of,
    sums_of,
)
from torch_mlcalc.quadrature.single.sampling import ONE, Single, window
from torch_mlcalc.quadrature.variables import Jobs, identity


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
    ledger = one.search.ledger
    handed: list[Jobs] = []
    kept: list[Row] = []
    set_aside: list[Row] = []
    waiting: Waits | None = None
    cells: list[Cell] = [WHOLE]
    begun = _begin(one, n)
    opened, ahead, allowed = begun.opened, begun.ahead, 0.0
    while True:
        if not opened:
            least = allowed / (2 * len(cells))
            found, fine = _look(one, jobs, cells, waiting, begun.values, n, least)
            if not isinstance(found, list):
                _book(one, jobs, kept, n)
                for _, value, _, size, _, _ in set_aside:
                    columns = np.array([value, 0.0, size]).reshape(3, 1, 1)
                    ledger.expected.append((ONE, Amount(columns, None)))
                return handed + bisect(
                    one.search,
                    jobs,
                    _cells(cells),
                    identity,
                    n,
                    windows=windows,
                    measured=found,
                    waiting=None if waiting is None else _handed(waiting),
                )
            opened, kept = found, kept + fine
        share, allowed = _share(ledger, opened, kept, set_aside)
        if share == math.inf:
            kept += opened
            break
        finished, failing = _decide(one, opened, share, n)
        waiting, patience = None, EAGER
        # Not all of them are at an end.
        if not all([at_end for _, _, at_end in failing]):
            finished, waiting = _wait(ledger, finished, failing, n)
            patience = PATIENCE
        kept += finished
        divided: list[Cell] = []
        for row, slow, at_end in failing:
            if windows and at_end and slow >= patience:
                low, high, _, _ = row[0]
                handed.append(window(one.kind, low, high))
                set_aside.append(row)
            else:
                divided += parts_of(row, slow)
        if not divided:
            break
        # Cut around a peak they are others.
        opened, ahead = ahead if len(divided) == PARTS else [], []
        cells, begun = divided, NOTHING
    _book(one, jobs, kept, n)
    return handed


class Begun(NamedTuple):
    """What the first call says.

    Attributes:
        opened: The cells to be judged: the whole piece, or its parts; nothing if it is
            special.
        ahead: The cells of the next level, the parts of the whole.
        values: Where it is special, the integrand at the nodes of the whole.
    """

    opened: list[Row]
    ahead: list[Row]
    values: Values | None


NOTHING = Begun([], [], None)


def _begin(one: Single, n: int) -> Begun:
    """Look at the whole piece and at its parts in one call.

    Of the 105 test problems on finite intervals 16 could do without the parts, to which
    the whole is compared there; all others save a call and its decisions.

    Returns:
        What is found; nothing where the budget or a block is too small for the parts,
        or nodes of theirs fall on an end.
    """
    ledger, count = one.search.ledger, 1 + PARTS
    few = n * (count + PARTS) <= ledger.max_evals
    if not (few and one.search.evaluate.in_one_block(count, n)):
        return NOTHING
    points = first_points(one.place, n)
    if points is None:
        return NOTHING
    flat = one.values(points)
    ledger.n_evals[0] += n * count
    values = flat.reshape(n, count, *flat.shape[1:])
    found = sums_of(values, n) if flat.ndim == 1 and flat.dtype == float else None
    if found is None:
        return Begun([], [], values[:, 0].copy())
    # Only of the whole, and of the parts if they are needed.
    cell, value, error, size, peak, column = rows_of(one, [WHOLE], found, values, 0.0)[
        0
    ]
    news = abs(value - sum(found.value[1:]) * one.unit / (2 * PARTS) * one.sign)
    error = max(error, news)
    whole = (cell, value, error, size, peak, column)
    allowed = ledger.allowed_plain(value, size)
    if error <= allowed:
        return Begun([whole], [], None)
    rounding = ROUNDING * ledger.epsilon * size
    cut = peak is None and error > rounding and _finest(one, 0.0, 1.0) < 1
    parts = [(low, high, error, 0.0) for low, high in pairwise([0.0, *CUTS])]
    rest, least = Sums(*[column[1:] for column in found]), allowed / (2 * PARTS)
    rows = rows_of(one, parts, rest, values[:, 1:], least)
    # Nearly always it is clear that the whole has to be cut into them.
    return Begun(rows, [], None) if cut else Begun([whole], rows, None)


def _look(
    one: Single,
    jobs: Jobs,
    cells: list[Cell],
    waiting: Waits | None,
    known: Values | None,
    n: int,
    least: float,
) -> tuple[list[Row] | Measured, list[Row]]:
    """What cells hold, among them those that wait no longer; and what is finished."""
    found, seen = _measure(one, jobs, cells, waiting, known, n, least)
    if known is None:
        one.search.ledger.n_evals[0] += n * len(cells)
    if waiting is None or not isinstance(found, list):
        return found, []
    fine, odd = _looked(one, waiting, seen, n)
    return sorted(found + odd, key=_low), fine


def _measure(
    one: Single,
    jobs: Jobs,
    cells: list[Cell],
    waiting: Waits | None,
    known: Values | None,
    n: int,
    least: float,
) -> tuple[list[Row] | Measured, Values]:
    """Every cell with what it holds; what the batch says of cells that are special.

    ``known`` are the values at the nodes, if these were evaluated before.

    Returns:
        That, and the integrand between the nodes of those that wait, ``(k, m)``.
    """
    search, count = one.search, len(cells)
    points = points_of(one, cells, products(n).place)
    lower, upper = one.place.range()
    # Cells and nodes ascend.
    safe = lower < points.item(0) and points.item(-1) < upper
    columns = count if waiting is None else count + len(waiting.rows)
    if not safe or count > FEW or not search.evaluate.in_one_block(columns, n):
        own = jobs.take(np.zeros(count, dtype=np.int64))
        return measure(search, own, _cells(cells), identity, n), points
    if known is not None:
        flat, seen = known, points[:0]
    elif waiting is None:
        flat, seen = one.values(points.reshape(-1)), points[:0]
    else:
        # In the same call, of which a single integral has few.
        more = points_of(one, [row[0] for row in waiting.rows], products(n).middle)
        flat = one.values(np.concatenate([points.reshape(-1), more.reshape(-1)]))
        flat, seen = flat[: n * count], flat[n * count :].reshape(more.shape)
    rows = None
    if flat.ndim == 1 and flat.dtype == float:
        values = flat.reshape(n, count)
        sums = sums_of(values, n)
        if sums is not None:
            rows = rows_of(one, cells, sums, values, least)
    if rows is None or (waiting is not None and not np.isfinite(seen).all()):
        own = jobs.take(np.zeros(count, dtype=np.int64))
        batch = _cells(cells)
        low, high, previous, _ = batch.columns
        sample, keep = one.sample(points, None, None, flat), bool(wide(batch).any())
        half = (high - low) / 2
        return amount_of(search, own, half, previous, sample, n, keep=keep), seen
    return rows, seen


#: What a failing cell is, how often it has been slow, and whether that may be an end of
#: the piece.
Failing = tuple[Row, float, bool]


def _share(
    ledger: Ledger,
    opened: list[Row],
    kept: list[Row],
    set_aside: list[Row],
) -> tuple[float, float]:
    """Error that each open cell may have, and that the integral may have.

    Returns:
        Both, the first infinity if the integral has converged.
    """
    total = size = error = settled = 0.0
    for _, value, own, absolute, _, _ in kept:
        total, settled, size = total + value, settled + own, size + absolute
    for _, value, own, absolute, _, _ in opened:
        total, error, size = total + value, error + own, size + absolute
    for _, value, _, absolute, _, _ in set_aside:
        total, size = total + value, size + absolute
    allowed = ledger.allowed_plain(total, size)
    if settled + error <= allowed:
        return math.inf, allowed
    return max(allowed - settled, 0.0) / (2 * len(opened)), allowed


def _decide(
    one: Single, opened: list[Row], share: float, n: int
) -> tuple[list[Row], list[Failing]]:
    """Which cells to keep, and which to divide."""
    ledger = one.search.ledger
    epsilon = ledger.epsilon
    finished: list[Row] = []
    failing: list[Failing] = []
    # No cell so long is too narrow, wherever it is.
    most, rounding = max(64 * epsilon, _finest(one, 0.0, 1.0)), ROUNDING * epsilon
    total = narrow = 0
    for row in opened:
        (low, high, previous, slow), _, error, size, peak, _ = row
        if not (error > share and error > rounding * size):
            finished.append(row)
            continue
        length = high - low
        if not (length > most or length > _narrowest(one, low, high)):
            if error > POLE * previous:
                ledger.blame(ONE, Status.SUSPECTED_DIVERGENT)
            finished.append(row)
            narrow += 1
            continue
        total += AROUND if peak else PARTS
        slow = slow + 1 if SLOW * previous < error and previous < math.inf else 0.0
        # Whether what is difficult in it may be an end of the piece.
        failing.append((row, slow, not peak and (low == 0 or high == 1)))
    if ledger.n_evals.item(0) + n * total > ledger.max_evals:
        if failing or narrow:
            ledger.blame(ONE, Status.TOLERANCE_NOT_REACHED)
        return opened, []
    return finished, failing


def _narrowest(one: Single, low: float, high: float) -> float:
    """Length from which on a cell can be cut."""
    few = 64 * one.search.ledger.epsilon * max(abs(low), abs(high))
    return max(few, _finest(one, low, high))


def _finest(one: Single, low: float, high: float) -> float:
    """Length from which on a cell is worth cutting, as a fraction of the piece."""
    at, unit = one.place, one.unit
    first = at.negative + unit * (low - 1) if low > 0.5 else at.positive + unit * low
    last = at.negative + unit * (high - 1) if high > 0.5 else at.positive + unit * high
    return FINEST * one.search.ledger.epsilon * max(abs(first), abs(last)) / unit


class Waits(NamedTuple):
    """Wide cells that are finished but for a second look; see Waiting."""

    rows: list[Row]
    values: Array


def _wait(
    ledger: Ledger, finished: list[Row], failing: list[Failing], n: int
) -> tuple[list[Row], Waits | None]:
    """The finished cells without those that wait, and these."""
    rows = [row for row in finished if row[5] is not None]
    if not rows:
        return finished, None
    cost = n * sum(AROUND if row[4] else PARTS for row, _, _ in failing)
    cost += len(gaps(n).middles) * len(rows)
    if ledger.n_evals.item(0) + cost > ledger.max_evals:
        return finished, None
    # A copy, as the next values may be written where these are.
    columns = [row[5] for row in rows if row[5] is not None]
    values = np.stack([values[:, i] for values, i in columns], 1)
    rest = [row for row in finished if row[5] is None]
    return rest, Waits([_again(row) for row in rows], values)


def _again(row: Row) -> Row:
    """As if nothing had been cut off, so that it is not looked at once more."""
    (low, high, _, _), value, error, size, peak, _ = row
    return (low, high, math.inf, 0.0), value, error, size, peak, None


def _looked(
    one: Single, waiting: Waits, seen: Array, n: int
) -> tuple[list[Row], list[Row]]:
    """The cells between whose nodes nothing is new, and the others."""
    ledger = one.search.ledger
    ledger.n_evals[0] += seen.size
    expected = gaps(n).expected.dot(waiting.values)
    away = np.abs(seen - expected[:-2]).max(0).tolist()
    rest = np.abs(expected[-2:]).max(0).tolist()
    fine: list[Row] = []
    odd: list[Row] = []
    for i, row in enumerate(waiting.rows):
        (low, high, _, _), value, error, size, *_ = row
        news = away[i] * (high - low) / 2 * one.unit
        if away[i] <= SMOOTH * rest[i] or news <= ROUNDING * ledger.epsilon * size:
            fine.append(row)
            continue
        column = waiting.values[:, i].reshape(-1, 1, 1), seen[:, i].reshape(-1, 1, 1)
        begin, end = surroundings(distances(*column, n), n)[:, 0].tolist()
        odd.append((row[0], value, max(error, news), size, (begin, end), None))
    return fine, odd


def _low(row: Row) -> float:
    return row[0][0]


def _handed(waiting: Waits) -> Waiting:
    """What waits as a batch."""
    _, value, error, size, _, _ = zip(*waiting.rows, strict=True)
    columns = np.array([value, error, size])[..., None]
    cells = _cells([row[0] for row in waiting.rows])
    return Waiting(cells, Amount(columns, None), waiting.values[..., None])


def _cells(cells: list[Cell]) -> Cells:
    return Cells(np.zeros(len(cells), dtype=np.int64), np.array(cells).T)


def _book(one: Single, jobs: Jobs, kept: list[Row], n: int) -> None:
    """Add all cells that are kept to the totals."""
    if not kept:
        return
    ledger = one.search.ledger
    _, value, error, size, _, _ = zip(*kept, strict=True)
    ledger.add_plain(math.fsum(value), math.fsum(error), math.fsum(size))
    ledger.nodes.append(partial(_nodes, one, jobs, kept, n))


def _nodes(one: Single, jobs: Jobs, kept: list[Row], n: int) -> Part:
    cells = _cells([cell for cell, *_ in kept])
    return nodes_of(one.search, jobs.take(cells.job), cells, identity, n)
