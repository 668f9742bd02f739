"""Double-exponential jobs whose first call says that they have converged.

Nearly all do. Of those the sums of all levels are one product of their terms with a
matrix, and neither the range that matters nor what lies beyond it is asked for: that
took as long as the integrand and all else.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial

import numpy as np
import torch

from torch_mlcalc.quadrature.double_exponential import (
    FIRST_STEP,
    LINEAR,
    negligible,
    nodes_of,
    reach,
)
from torch_mlcalc.quadrature.ends import Ends
from torch_mlcalc.quadrature.ledger import ROUNDING
from torch_mlcalc.quadrature.pieces import Part
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.runs import Terms
from torch_mlcalc.quadrature.single.sampling import Single
from torch_mlcalc.quadrature.spectrum import level_of, probe
from torch_mlcalc.quadrature.variables import Jobs


def settled_at_once(one: Single, seen: list[tuple[Jobs, Terms]], finest: int) -> bool:
    """Settle all jobs, or none of them; see :func:`refine_single`.

    Args:
        one: The piece, with its search.
        seen: The jobs and their terms.
        finest: The level of these.

    Returns:
        Whether they are settled.
    """
    if finest < 2:
        return False
    ledger, unit = one.search.ledger, one.unit
    value, settled, size = ledger.plain or (0.0, 0.0, 0.0)
    ended: list[tuple[Jobs, Terms, int, float, float, float]] = []
    for job, terms in seen:
        found = _ended(one, terms, finest, len(seen))
        if found is None:
            return False
        level, own, error, absolute = found
        value, settled = value + own * unit * one.sign, settled + error * unit
        size += absolute * unit
        ended.append((job, terms, level, own, error, absolute))
    if not settled <= ledger.allowed_plain(value, size):
        return False
    for job, terms, level, own, error, absolute in ended:
        ledger.add_plain(own * unit * one.sign, error * unit, absolute * unit)
        ledger.nodes.append(partial(_nodes, one, job, terms, finest, level))
    return True


def _ended(
    one: Single, terms: Terms, finest: int, jobs: int
) -> tuple[int, float, float, float] | None:
    """Level, value, error and absolute value of a job that has nothing beyond its ends.

    Returns:
        That, in units of the job; None where it is not so, or the error is too large
        for one of so many jobs.
    """
    values, inside, finite = terms
    if finite is not None:
        return None
    ledger, matrix = one.search.ledger, _sums(one.place.dtype, finest)
    sizes = np.abs(values)
    *sums, cosine, sine = matrix.dot(values).tolist()
    absolute = float(matrix[finest].dot(sizes))
    if not 0 < absolute < math.inf:
        return None
    cut = negligible(ledger) * absolute / FIRST_STEP
    first, last = 0, -1
    if inside is not None:
        first, last = int(inside.argmax()), -1 - int(inside[::-1].argmax())
    if sizes.item(first) > cut or sizes.item(last) > cut:
        return None
    rounding = ROUNDING * ledger.epsilon * absolute
    most = ledger.allowed_plain(sums[2] * one.unit, absolute * one.unit)
    before, change = abs(sums[2] - sums[1]), abs(sums[finest] - sums[2])
    # What is only seen by the level behind has not converged.
    error = max(before, change, rounding)
    if error * one.unit * jobs <= most:
        return 2, sums[2], error, absolute
    if finest < 3:
        return None
    least = ledger.epsilon * absolute
    first = abs(sums[1] - sums[0])
    if before > max(LINEAR * first, least) or change > max(LINEAR * before, least):
        error = change
    else:
        error = error_of(change, before, absolute, 2 * math.hypot(cosine, sine))
    error = max(error, rounding)
    return (3, sums[3], error, absolute) if error * one.unit * jobs <= most else None


def error_of(change: float, before: float, absolute: float, wave: float) -> float:
    """Error of a level that is analytic if its Fourier transform says so."""
    if wave < level_of(change, before):
        return change
    relative, earlier = change / absolute, min(before / absolute, 1.0)
    return min(absolute * max(relative**1.5, earlier**3), change)


@lru_cache(maxsize=16)
def _sums(dtype: torch.dtype, finest: int) -> Array:
    """From terms to the sums of levels 0 to the finest, and to its :func:`probe`."""
    step = FIRST_STEP / 2**finest
    last = round(reach(dtype) / step)
    rows = []
    for level in range(finest + 1):
        row, stride = np.zeros(2 * last + 1), 2 ** (finest - level)
        row[::stride] = step * stride
        rows.append(row)
    return np.stack([*rows, *step * probe(np.arange(-last, last + 1) * step, step)])


def _nodes(one: Single, job: Jobs, terms: Terms, finest: int, level: int) -> Part:
    """The nodes of the range that the batch would take, or of more if more is seen."""
    step, stride = FIRST_STEP / 2**level, 2**level
    terms = terms.at(slice(None, None, 2 ** (finest - level)))
    sizes = np.abs(terms.values)
    cut = negligible(one.search.ledger) * np.add.reduce(sizes[::stride])
    there = np.flatnonzero(sizes > cut)
    # From the node of level 0 before the first to that behind the last.
    first = max(-(-there.item(0) // stride) - 1, 0) * stride
    last = min((there.item(-1) // stride + 1) * stride, sizes.size - 1)
    t = step * np.arange(first, last + 1) - reach(one.place.dtype)
    outermost, nothing = np.array([[0], [t.size - 1]]), np.zeros((1, 1))
    used = np.ones((t.size, 1), bool)
    if terms.inside is not None:
        used[:, 0] = terms.inside[first : last + 1]
    ends = Ends(used, outermost, None, nothing, np.zeros(1, bool))
    return nodes_of(job, t, ends, step)
