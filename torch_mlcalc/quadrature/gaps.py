r"""A second look between the nodes of wide cells, once something narrow has been found.

An integrand that is smooth all over needs no such look. One that has a narrow peak may
have another, which falls between the nodes of a wide cell: the cell looks finished, and
the sum too. So where a cell inside of a range has to be divided, the wide ones that
need not are looked at in the middle of their gaps, next to the polynomial through their
nodes. That halves the distance of the nodes for 14 points on a cell of 21.

On the test problems it finds the third peak of one that QUADPACK and quadax claim to
have; 36 of 227 take more evaluations, all together 1.4 % more. Of 2000 integrands with
2 to 4 peaks of random places and of widths from 1e-4 to 1e-1, 17 to 37 % of the results
are claimed and wrong instead of 24 to 45 %.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.quadrature.cells import Cells
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.ledger import Amount
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.search import Search, Variable
from torch_mlcalc.quadrature.variables import Jobs

#: A distance from the polynomial that is less than so many times its last coefficients
#: is what a smooth function has.
SMOOTH = 10.0

#: Part of the largest distance from which on others belong to the same peak.
NEAR = 1e-2


class Waiting(NamedTuple):
    """Wide cells that are finished but for a second look.

    Attributes:
        cells: The cells.
        amount: What they hold.
        values: The integrand at their nodes, ``(n, m, events)``.
    """

    cells: Cells
    amount: Amount
    values: Values


class Gaps(NamedTuple):
    """The wide gaps between the nodes of a cell, and what is expected there.

    Attributes:
        middles: Their middles, on ``[-1, 1]``, ``(k,)``.
        expected: From values at the nodes to the polynomial in the middles, and to its
            last two coefficients; ``(k + 2, n)``.
        begin: Where the surroundings of each begin, as fractions of the cell, ``(k,)``.
        end: Where they end.
    """

    middles: Array
    expected: Array
    begin: Array
    end: Array


@lru_cache(maxsize=32)
def gaps(n: int) -> Gaps:
    """Gaps of more than half the widest, so that none is wider than that afterwards."""
    nodes, _ = kronrod_table(n)
    gap = np.diff(nodes)
    (some,) = np.nonzero(gap > gap.max() / 2)
    middles = (nodes[some] + nodes[some + 1]) / 2
    legendre = np.polynomial.legendre.legvander
    series = np.linalg.inv(legendre(nodes, n - 1))
    expected = np.concatenate([legendre(middles, n - 1) @ series, series[-2:]])
    between = np.concatenate([[0.0], (2 + nodes[1:] + nodes[:-1]) / 4, [1.0]])
    found = Gaps(middles, expected, between[some], between[some + 2])
    for array in found:
        array.setflags(write=False)
    return found


def look(
    search: Search, own: Jobs, waiting: Waiting, variable: Variable, n: int
) -> tuple[Amount, Array]:
    """What cells hold, with the error that a look between their nodes adds.

    Args:
        search: The integrals.
        own: The job of each cell.
        waiting: The cells.
        variable: From their variable to canonical positions.
        n: Number of their nodes.

    Returns:
        The amounts, and the range around what is new in each cell, as fractions of it;
        nan where nothing is, ``(2, m)``.
    """
    cells, amount, values = waiting
    low, high, _, _ = cells.columns
    half = (high - low) / 2
    middles = gaps(n).middles[:, None]
    sample = search.sample(own, low + half + half * middles, variable)
    search.ledger.count(search.elements(own), len(middles))
    seen, unit = sample.values, search.unit(own)[:, None]
    length = half[:, None]
    if amount.log_unit is None:
        length = length * np.abs(unit)
    else:
        seen = np.exp(seen + unit - amount.log_unit)
    away = distances(values, seen, n)
    error = away.max(0) * length
    error[error <= search.ledger.rounding(amount)] = 0
    if not error.any():
        return amount, np.full((2, len(error)), np.nan)
    columns = amount.columns.copy()
    columns[1] = np.maximum(amount.error, error)
    around = surroundings(away, n)
    around[:, ~error.any(1)] = np.nan
    return amount._replace(columns=columns), around


def distances(values: Values, seen: Values, n: int) -> Array:
    """How far values in the gaps are from what those at the nodes tell.

    Args:
        values: The integrand at the nodes, ``(n, m, events)``.
        seen: The integrand in the middles, ``(k, m, events)``.
        n: Number of nodes.

    Returns:
        The distances, 0 where a smooth function explains them; ``(k, m, events)``.
    """
    expected = contract(gaps(n).expected, values)
    away: Array = np.abs(seen - expected[:-2])
    away[away <= SMOOTH * np.abs(expected[-2:]).max(0)] = 0
    return away


def surroundings(away: Array, n: int) -> Array:
    """Ranges ``(2, m)`` of the gaps in which distances ``(k, m, events)`` are large."""
    _, _, begin, end = gaps(n)
    sizes = away.sum(-1)
    near = sizes >= NEAR * sizes.max(0)
    low = np.where(near, begin[:, None], 1.0).min(0)
    high = np.where(near, end[:, None], 0.0).max(0)
    return np.stack([low, high])
