r"""The nodes of a fixed rule as one cell, and the polynomial through values there.

The sum of a Gauss or Clenshaw-Curtis rule is the integral of that polynomial, in the
reference variable of the rule. On panels of a few nodes each it is a Legendre series.

Rules whose sum is no such integral, such as Simpson's, have none. Those of another
measure have one that is no use: over the normal density a density with heavier or much
lighter tails is no polynomial, and the series diverges. The distribution function of a
Poisson posterior (three counts, normal prior) that 16 Hermite nodes at its mode give is
4e-4 off, that of 64 nodes 6e-2; a logistic density begins with 1e-2 at 8 nodes.

References:
    L. N. Trefethen, "Approximation Theory and Approximation Practice", SIAM 2013,
    chapters 5 and 19.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special

from torch_mlcalc.density import ranges
from torch_mlcalc.density.plan_nodes import LONGEST, Columns, Mask
from torch_mlcalc.density.ranges import Range
from torch_mlcalc.quadrature import placement
from torch_mlcalc.quadrature.gauss import GaussLegendre
from torch_mlcalc.quadrature.panels import series
from torch_mlcalc.quadrature.pieces import Pieces
from torch_mlcalc.quadrature.rules import INTERVAL, Array, FixedRule, table

#: Terms of the series on a panel, and its nodes, as for runs: those have two to a wave.
TERMS, NODES = 21, 4

#: By how much the weights of a rule and of its polynomial may differ, in units of the
#: largest: 4e-11 for 1000 Gauss nodes, 1 for Simpson's rule on 5.
ALIKE = 1e-9

#: How rules on an interval stretch over others; see ``unfold`` in ``placement.py``.
_KINDS = {
    placement.FINITE: ranges.PLAIN,
    placement.ABOVE: ranges.RISING,
    placement.BELOW: ranges.FALLING,
    placement.WHOLE: ranges.BOTH,
}


class Polynomial(NamedTuple):
    """What makes series on panels of the values at the nodes of a rule.

    Attributes:
        edges: Edges of the panels in [-1, 1], ``(panels + 1,)``.
        matrix: From values to series, times half the length of each panel, ``(panels,
            terms, n)``.
        tail: From values to the last two Legendre coefficients, ``(2, n)``.
    """

    edges: Array
    matrix: Array
    tail: Array


def columns_of_rule(
    rule: FixedRule, pieces: Pieces, x: Array, epsilon: float, wanted: Mask
) -> list[Columns] | None:
    """The nodes of a rule as one cell of each density.

    Args:
        rule: The rule.
        pieces: The ranges of the densities.
        x: Its nodes, ``(n, elements)``.
        epsilon: Relative rounding of the nodes.
        wanted: Which densities there are, ``(elements,)``.

    Returns:
        The cells; None if the sum of the rule is not the integral of the polynomial.
    """
    ordered = bool((np.diff(table(rule)[0]) > 0).all())
    mirrored = np.array_equal(table(rule)[0], -table(rule)[0][::-1])
    falls = (pieces.kind[wanted] == placement.BELOW).any()
    if not ordered or (falls and not mirrored) or polynomial(rule) is None:
        return None
    (element,) = np.nonzero(wanted)
    kind = np.vectorize(_KINDS.get, otypes=[int])(pieces.kind)
    finite = kind == ranges.PLAIN
    begin, end = np.where(finite, pieces.bounds, pieces.anchors[0])
    span = Range(kind, begin, end, pieces.unit).take(element)
    low = np.zeros(element.size)
    x = np.sort(x[:, element], axis=0)
    return [Columns(element, span, low, low + 1, x, 0.0, epsilon, rule)]


@lru_cache(maxsize=8)
def polynomial(rule: FixedRule) -> Polynomial | None:
    """The polynomial through values at the nodes, if the rule integrates it."""
    lebesgue = rule.measure == "lebesgue" and rule.reference == INTERVAL
    if not lebesgue or rule.n > LONGEST or rule.period and rule.n > 3:
        return None
    nodes, weights = table(rule)
    cuts = np.arange(NODES, rule.n, NODES) if rule.n > TERMS else np.arange(0)
    edges = np.concatenate([[-1.0], (nodes[cuts - 1] + nodes[cuts]) / 2, [1.0]])
    half = np.diff(edges)[:, None] / 2
    own, transform = series(min(rule.n, TERMS))
    values = _lagrange(nodes, edges[:-1, None] + half * (1 + own))
    matrix = half[..., None] * (transform @ values)
    # Compared, as nothing else tells of a user's own table what it integrates.
    off = np.abs(2 * matrix[:, 0].sum(0) - weights).max()
    if not off <= ALIKE * np.abs(weights).max():
        return None
    own, gauss = table(GaussLegendre(rule.n))
    degree = np.arange(max(rule.n - 2, 0), rule.n)[:, None]
    project = (2 * degree + 1) / 2 * gauss * special.eval_legendre(degree, own)
    return Polynomial(edges, matrix, project @ _lagrange(nodes, own))


def _lagrange(nodes: Array, at: Array) -> Array:
    """Lagrange's polynomials at points ``(*)``, by the barycentric formula."""
    gap = nodes[:, None] - nodes
    np.fill_diagonal(gap, 1)
    logs = -np.log(np.abs(gap)).sum(1)
    away = at[..., None] - nodes
    hit = away == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.prod(np.sign(gap), 1) * np.exp(logs - logs.max()) / away
        values = terms / terms.sum(-1, keepdims=True)
    basis: Array = np.where(hit.any(-1, keepdims=True), hit, values)
    return basis
