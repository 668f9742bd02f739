"""Which adaptive rule looks at which piece, and in which order."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.adaptive_hermite import AdaptiveGaussHermite, book
from torch_mlcalc.quadrature.cells import Cells, divided, new_cells
from torch_mlcalc.quadrature.double_exponential import (
    DoubleExponential,
    Leftover,
    refine,
)
from torch_mlcalc.quadrature.gauss_kronrod import GaussKronrod, bisect
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.pieces import Index, Part
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import Rule
from torch_mlcalc.quadrature.search import Search
from torch_mlcalc.quadrature.single import Single, bisect_single, refine_single
from torch_mlcalc.quadrature.variables import Jobs, double_exponential, identity

# Nodes of a piece without length, on which the integrand is a constant.
_FEW = 5

#: Halvings on which an integrand over an unbounded domain may be 0 at every node: the
#: last has a step of 1/256 and sees a unit Gaussian up to 2000 away.
BLIND_LEVELS = 7

_DEFAULT = GaussKronrod()

#: Numbers that a piece must have for double-exponential nodes, most of which lie near
#: its ends; that of double and of single precision. With a quarter of them the integral
#: of exp on (1, b) is wrong by 3e-6 and by 1e-3, with these by 4e-12 and by 3e-8.
NUMBERS = 2**20, 2**12


def run(search: Search, rule: Rule | None) -> None:
    """Book every piece that is not empty, by one rule or by what suits it."""
    one = Single.of(search)
    if one is not None and not isinstance(rule, AdaptiveGaussHermite):
        run_single(one, rule)
        return
    pieces = search.pieces
    piece = np.flatnonzero(pieces.sign)
    _keep_empty(search)
    if isinstance(rule, AdaptiveGaussHermite):
        piece = book(rule, search)
        if not piece.size:
            return
    finite = pieces.kind[piece] == FINITE
    if isinstance(rule, DoubleExponential):
        short = _is_short(search)[piece]
        refine(search, search.whole(piece[~short]), rule.max_level, patient=True)
        piece, finite = piece[short], finite[short]
    n = _kronrod_nodes(rule)
    jobs = search.whole(piece[finite])
    cells = new_cells(np.arange(jobs.piece.size), jobs.low, jobs.high)
    windows = bisect(search, jobs, cells, identity, n, windows=rule is None)
    if not finite.all():
        windows.append(search.whole(piece[~finite]))
    while windows:
        search.ledger.expected.clear()
        left = refine(search, _joined(windows), BLIND_LEVELS, patient=False)
        windows = _divide(search, left, n)


def _is_short(search: Search) -> npt.NDArray[np.bool_]:
    """Which pieces have too few numbers for double-exponential nodes."""
    pieces, evaluate = search.pieces, search.evaluate
    largest = np.abs(pieces.bounds).max(0)
    least = NUMBERS[evaluate.single] * search.ledger.epsilon * largest
    short: npt.NDArray[np.bool_] = (pieces.kind == FINITE) & (pieces.unit < least)
    return short


def run_single(one: Single, rule: Rule | None) -> None:
    """Book a single piece, in plain numbers as long as there is one job."""
    search, jobs = one.search, one.jobs
    if rule is not None and isinstance(rule, DoubleExponential):
        if not _is_short(search).any():
            refine_single(one, jobs, rule.max_level, patient=True)
            return
    n, windows = _kronrod_nodes(rule), [jobs]
    if one.kind == FINITE:
        windows = bisect_single(one, jobs, n, windows=rule is None)
    while windows:
        search.ledger.expected.clear()
        jobs = _joined(windows)
        if jobs.piece.size == 1 or search.evaluate.is_plain:
            left = refine_single(one, jobs, BLIND_LEVELS, patient=False)
        else:
            left = refine(search, jobs, BLIND_LEVELS, patient=False)
        windows = _divide(search, left, n)


def _kronrod_nodes(rule: Rule | None) -> int:
    # Their class is abstract, and to ask what None is takes ten times as long.
    if rule is not None and isinstance(rule, GaussKronrod):
        return rule.n
    return _DEFAULT.n


def _keep_empty(search: Search) -> None:
    """Give pieces of no length a few nodes, for the derivatives by their limits."""
    pieces = search.pieces
    if pieces.sign.all():
        return
    place = np.isfinite(pieces.anchors[0])
    piece = np.flatnonzero((pieces.sign == 0) & (pieces.kind == FINITE) & place)
    if piece.size:
        search.ledger.nodes.append(partial(_few_nodes, search, piece))


def _few_nodes(search: Search, piece: Index) -> Part:
    nodes, (weights, _) = kronrod_table(_FEW)
    width = (1, piece.size)
    jobs = search.whole(piece)
    positions, _ = identity(jobs, np.tile((1 + nodes[:, None]) / 2, width))
    weights = np.tile(weights[:, None] / 2, width)
    return Part(piece, positions, weights, jobs.low, jobs.high)


def _divide(search: Search, leftovers: list[Leftover], n: int) -> list[Jobs]:
    """Bisection of the jobs that double-exponential levels cannot do.

    What stops them is inside of the range. A window is bisected as it is, so that only
    its outermost cell, if that still converges slowly, comes back as a smaller window;
    an unbounded range is bisected in the double-exponential variable.

    Returns:
        The windows that come back.
    """
    windows: list[Jobs] = []
    for left in leftovers:
        finite = left.jobs.kind == FINITE
        if finite.any():
            own = search.whole(left.jobs.piece[finite])
            cells = new_cells(
                np.arange(own.piece.size), left.jobs.low[finite], left.jobs.high[finite]
            )
            cells = divided(cells, 2)
            windows += bisect(search, own, cells, identity, n, windows=True)
        if not finite.all():
            rest = left.take(~finite)
            bisect(search, rest.jobs, _graded(rest), double_exponential, n)
    return windows


def _graded(left: Leftover) -> Cells:
    """Cells around the largest term, the only one known to be seen, and beyond."""
    edges = np.stack(
        [
            left.low,
            left.peak - 4 * left.step,
            left.peak - left.step,
            left.peak + left.step,
            left.peak + 4 * left.step,
            left.high,
        ]
    )
    edges = np.clip(edges, left.low, left.high)
    job = np.tile(np.arange(left.low.size), len(edges) - 1)
    low, high = edges[:-1].ravel(), edges[1:].ravel()
    some = high > low
    return new_cells(job[some], low[some], high[some])


def _joined(jobs: list[Jobs]) -> Jobs:
    if len(jobs) == 1:
        return jobs[0]
    return Jobs(*(np.concatenate(columns) for columns in zip(*jobs, strict=True)))
