"""Gauss-Kronrod tables: a Gauss rule and the nodes that extend it, with its error."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import linalg

from torch_mlcalc.quadrature.rules import Array


@lru_cache(maxsize=32)
def kronrod_table(n: int) -> tuple[Array, Array]:
    """Nodes, and two rows of weights: Kronrod's, and Kronrod's less Gauss's.

    Args:
        n: Number of Kronrod nodes, odd.

    Returns:
        Arrays ``(n,)`` and ``(2, n)``.

    References:
        D. P. Laurie, "Calculation of Gauss-Kronrod quadrature rules", Mathematics of
        Computation 66 (1997), section 5 (the mixed moments and the Jacobi-Kronrod
        matrix), https://doi.org/10.1090/S0025-5718-97-00861-2
    """
    gauss = n // 2
    diagonal, off_squared = _jacobi_kronrod(gauss)
    nodes, vectors = linalg.eigh_tridiagonal(diagonal, np.sqrt(off_squared[1:]))
    weights = 2 * vectors[0] ** 2
    # The rule is symmetric; averaging removes the last bits in which it is not.
    nodes, weights = (nodes - nodes[::-1]) / 2, (weights + weights[::-1]) / 2
    inner, inner_weights = np.polynomial.legendre.leggauss(gauss)
    nodes[1::2] = inner
    both = np.stack([weights, weights])
    both[1, 1::2] -= inner_weights
    for array in (nodes, both):
        array.setflags(write=False)
    return nodes, both


@lru_cache(maxsize=32)
def cell_table(n: int) -> Array:
    """From values at the nodes to what they say of a cell.

    Args:
        n: Number of nodes.

    Returns:
        Matrix ``(6, n)``: the two rows of weights; then the polynomial through all
        nodes at the lower and at the upper end, where no node is, and its last two
        coefficients, the first of them of an odd power.
    """
    nodes, both = kronrod_table(n)
    legendre = np.polynomial.legendre.legvander
    series = np.linalg.inv(legendre(nodes, n - 1))
    ends = legendre(np.array([-1.0, 1.0]), n - 1) @ series
    table = np.concatenate([both, ends, series[-2:]])
    table.setflags(write=False)
    return table


@lru_cache(maxsize=32)
def margin(n: int) -> tuple[float, float]:
    """Of half the length 1, distances of the end to the first node, and to the next."""
    nodes, _ = kronrod_table(n)
    return 1.0 + nodes.item(0), nodes.item(1) - nodes.item(0)


def _jacobi_kronrod(n: int) -> tuple[Array, Array]:
    """Recurrence coefficients of the Jacobi-Kronrod matrix of order ``2 n + 1``."""
    size = 2 * n + 1
    k = np.arange(1, (3 * n + 1) // 2 + 1)
    a, b = np.zeros(size), np.zeros(size)
    b[0] = 2.0
    b[1 : k.size + 1] = k**2 / (4.0 * k**2 - 1)
    s, t = np.zeros(n // 2 + 2), np.zeros(n // 2 + 2)
    t[1] = b[n + 1]
    for m in range(n - 1):
        i = np.arange((m + 1) // 2, -1, -1)
        j = m - i
        s[i + 1] = np.cumsum(
            (a[i + n + 1] - a[j]) * t[i + 1] + b[i + n + 1] * s[i] - b[j] * s[i + 1]
        )
        s, t = t, s
    s[1:] = s[:-1].copy()
    for m in range(n - 1, 2 * n - 2):
        i = np.arange(m + 1 - n, (m - 1) // 2 + 1)
        j = n - 1 - (m - i)
        s[j + 1] = np.cumsum(
            -(a[i + n + 1] - a[m - i]) * t[j + 1]
            - b[i + n + 1] * s[j + 1]
            + b[m - i] * s[j + 2]
        )
        last, k_new = int(j[-1]), (m + 1) // 2
        if m % 2 == 0:
            a[k_new + n + 1] = (
                a[k_new] + (s[last + 1] - b[k_new + n + 1] * s[last + 2]) / t[last + 2]
            )
        else:
            b[k_new + n + 1] = s[last + 1] / s[last + 2]
        s, t = t, s
    a[2 * n] = a[n - 1] - b[2 * n] * s[1] / t[1]
    return a, b
