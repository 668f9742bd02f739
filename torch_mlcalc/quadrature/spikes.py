r"""Peaks so narrow that one node of a cell meets them: closing in on that node.

Halving finds a peak too, and needs four cells to go where three do: the range between
the neighbours of the node, a fifth of the cell or less, and what lies on either side.
To cells whose error does not fall because of a singularity this does not apply.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.rules import Array

#: Error over integral of the absolute value from which on a cell may hold such a peak.
#: Of a bell it is 1.5 where the cell is 20 standard deviations long, 1.7 at 40 and 2 in
#: the limit; of x^-0.9 from 0 on it is 1.4, of weaker singularities less.
SPIKE = 1.5

#: Part of the sum that the nodes farther away may have, or there is more than one peak.
FAINT = 1e-4


def spikes(values: Values, error: Array, absolute: Array) -> Array:
    """The range around the peak of each cell.

    Args:
        values: The integrand at the Kronrod nodes, ``(n, m, events)``.
        error: Error of each cell, ``(m, events)``.
        absolute: Integral of the absolute value, in the same units.

    Returns:
        Lower and upper end as fractions of the cell, nan without a peak; ``(2, m)``.
    """
    ends = np.full((2, values.shape[1]), np.nan)
    spiky = (error >= SPIKE * absolute) & (absolute > 0)
    some = np.flatnonzero(np.logical_and.reduce(spiky, 1))
    if some.size:
        n, count = len(values), some.size
        sizes = np.abs(values.take(some, 1))
        # A sum over a single event takes 20 times as long as this.
        sizes = sizes[..., 0] if sizes.shape[2] == 1 else sizes.sum(-1)
        top = sizes.argmax(0)
        near = top + np.array([[-1], [0], [1]])
        weights, borders = _table(n)
        at = np.clip(near, 0, n - 1) * count + np.arange(count)
        terms = weights[near + 1] * sizes.reshape(-1).take(at)
        total = absolute[some].sum(1)
        alone = total - terms.sum(0) <= FAINT * total
        pair = borders[np.maximum(top - 1, 0)], borders[np.minimum(top + 2, n)]
        ends[:, some] = np.where(alone, pair, np.nan)
    return ends


def spike(values: Values, absolute: float) -> tuple[float, float] | None:
    """The same of a single cell of a large error, in a tenth of the time.

    Args:
        values: The integrand at the Kronrod nodes, ``(n,)``.
        absolute: Integral of the absolute value, if the half length were 1.

    Returns:
        Lower and upper end as fractions of the cell; None without a peak.
    """
    sizes = np.abs(values).tolist()
    weights, borders = _table(len(sizes))
    top = sizes.index(max(sizes))
    first, last = max(top - 1, 0), min(top + 2, len(sizes))
    near = sum(weights.item(i + 1) * sizes[i] for i in range(first, last))
    if not absolute - near <= FAINT * absolute:
        return None
    return borders.item(first), borders.item(last)


@lru_cache(maxsize=32)
def _table(n: int) -> tuple[Array, Array]:
    """Kronrod weights between zeros, and fractions of the cell between the nodes."""
    nodes, (weights, _) = kronrod_table(n)
    between = (2 + nodes[1:] + nodes[:-1]) / 4
    weights = np.concatenate([[0.0], weights, [0.0]])
    return weights, np.concatenate([[0.0], between, [1.0]])
