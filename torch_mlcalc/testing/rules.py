"""Check of a fixed rule: its table, its mass, and its degree from both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.domains import Interval
from torch_mlcalc.quadrature.integrate import integrate
from torch_mlcalc.quadrature.rules import (
    HALF_LINE,
    INTERVAL,
    REAL_LINE,
    Array,
    FixedRule,
    check_count,
)

#: Error allowed, in units of epsilon times the number of terms (nodes or degree) behind
#: a value. Measured over all rules of the package up to n = 300: at most 13, and 45 for
#: GaussJacobi(50, 2, -0.9), whose nodes crowd at an end.
_UNITS = 64

#: An interval around neither 0 nor 1, of length neither 1 nor 2.
_OFF_CENTRE = (0.3, 4.0)

_RANGE = {INTERVAL: (-1, 1), HALF_LINE: (0, math.inf), REAL_LINE: (-math.inf, math.inf)}

_Points = TypeVar("_Points", Array, Tensor)


def check_rule(rule: FixedRule, degree: int | None = None) -> None:
    r"""Check that a rule is exact up to a degree and not beyond.

    With :math:`p_k` the orthonormal polynomials of the rule's measure :math:`\mu`, of
    total mass :math:`M`, the products below are a basis of the polynomials in which
    every moment is 0 or :math:`M`, so that no cancellation hides a fault:

    .. math:: \sum_i w_i\, p_{\lfloor k/2 \rfloor}(x_i)\, p_{\lceil k/2 \rceil}(x_i)
        = \begin{cases} M & k \text{ even} \\ 0 & k \text{ odd} \end{cases}
        \qquad (k \le \text{degree})

    Also checked: nodes and weights are ``n`` finite float64 numbers inside of the
    reference domain, slices agree with the table, the weights sum to the mass, log
    weights agree with weights and density, and ``integrate`` keeps the degree on an
    interval off the centre.

    Args:
        rule: The rule; its measure is ``"lebesgue"``, ``"normal"``, ``"gamma"`` (with
            attribute ``alpha``) or ``"beta"`` (with ``alpha`` and ``beta``).
        degree: Highest degree it must be exact for; by default the one it states. A
            rule so fine that rounding hides the error of the next degree (Simpson's
            from some 1000 nodes on) does not pass: check it with fewer nodes.

    Raises:
        AssertionError: If the rule fails; says what was found and what was wanted.
        TypeError: If ``rule`` is not a fixed rule or ``degree`` not an integer.
        ValueError: If ``degree`` is negative or the measure is none of the above.

    Example:
        >>> import torch_mlcalc as mlc
        >>> from torch_mlcalc.testing import check_rule
        >>> check_rule(mlc.GaussLegendre(5))
        >>> check_rule(mlc.TabulatedRule([0.0], [2.0]), degree=0)
        Traceback (most recent call last):
        AssertionError: TabulatedRule(n=1, degree=0) is exact also for degree 1...

    References:
        NIST Digital Library of Mathematical Functions, sections 3.5(v) and 18.9(i),
        https://dlmf.nist.gov/18.9
    """
    if not isinstance(rule, FixedRule):
        raise TypeError(
            f"rule is a {type(rule).__name__}; a fixed rule is wanted, for example "
            "GaussLegendre(5)."
        )
    degree = rule.degree if degree is None else degree
    check_count("degree", degree, 0)
    recurrence = _recurrence(rule, degree // 2 + 2)
    mass = 2.0 if rule.measure == "lebesgue" else 1.0
    nodes, weights = _check_table(rule)
    tolerance = _UNITS * np.finfo(float).eps * max(rule.n, degree + 1)
    _check_mass(rule, weights, mass, tolerance)
    _check_log_weights(rule, nodes, weights)
    # The weights go in before the recurrence: without them the polynomials overflow.
    first = np.sqrt(np.abs(weights) / mass)
    signs = np.sign(weights)[:, None]
    sums = (signs * _products(nodes, first, recurrence, degree + 1)).sum(0)
    _check_degree(rule, sums, degree, tolerance, "")
    if abs(sums[-1] - _wanted(degree + 1)[-1]) <= tolerance:
        raise AssertionError(
            f"{rule} is exact also for degree {degree + 1}, but degree {degree} was "
            f"stated: its sum is {sums[-1]}, the moment is {_wanted(degree + 1)[-1]}."
        )
    if rule.measure == "lebesgue":
        sums = _off_centre(rule, recurrence, degree)
        where = " on the interval from {} to {}".format(*_OFF_CENTRE)
        _check_degree(rule, sums, degree, 4 * tolerance, where)


def _check_table(rule: FixedRule) -> tuple[Array, Array]:
    nodes, weights = rule.nodes_and_weights()
    for name, column in (("nodes", nodes), ("weights", weights)):
        if getattr(column, "dtype", None) != np.float64:
            kind = getattr(column, "dtype", type(column).__name__)
            raise AssertionError(f"{rule} has {name} of {kind}; float64 is wanted.")
        if column.shape != (rule.n,):
            raise AssertionError(
                f"{rule} has {name} of shape {column.shape}; ({rule.n},) is wanted."
            )
        if not np.isfinite(column).all():
            bad = int(np.flatnonzero(~np.isfinite(column))[0])
            raise AssertionError(f"{rule} has {name}[{bad}] = {column[bad]}.")
    low, high = _RANGE[rule.reference]
    outside = np.flatnonzero((nodes < low) | (nodes > high))
    if outside.size:
        raise AssertionError(
            f"{rule} has nodes[{outside[0]}] = {nodes[outside[0]]}, outside of "
            f"{rule.reference}."
        )
    middle = rule.n // 2
    halves = (rule.slice(0, middle), rule.slice(middle, rule.n))
    for name, column, *parts in zip(
        ("nodes", "weights"), (nodes, weights), *halves, strict=True
    ):
        if not np.array_equal(column, np.concatenate(parts)):
            raise AssertionError(f"{rule} has slices that differ from its {name}.")
    return nodes, weights


def _check_mass(rule: FixedRule, weights: Array, mass: float, tolerance: float) -> None:
    total = float(weights.sum())
    if not abs(total - mass) <= tolerance * mass:
        raise AssertionError(
            f"{rule} has weights that sum to {total}; the {rule.measure} measure has "
            f"mass {mass}."
        )


def _check_log_weights(rule: FixedRule, nodes: Array, weights: Array) -> None:
    # Below, a weight has underflowed; the log weights need not.
    some = weights > np.finfo(float).tiny
    with np.errstate(divide="ignore", invalid="ignore"):
        found = rule.log_lebesgue_weights()[some]
        wanted = (np.log(weights) - rule.log_density(nodes))[some]
    # Tails of scipy's Gauss weights are good to some 1e-9 at n = 300.
    worst = np.abs(found - wanted).max(initial=0.0)
    if not worst <= 1e-6:
        raise AssertionError(
            f"{rule} has log_lebesgue_weights off by {worst} from the log of its "
            "weights divided by its density."
        )


def _check_degree(
    rule: FixedRule, sums: Array, degree: int, tolerance: float, where: str
) -> None:
    wanted = _wanted(degree)
    wrong = np.flatnonzero(~(np.abs(sums[: degree + 1] - wanted) <= tolerance))
    if wrong.size:
        k = int(wrong[0])
        raise AssertionError(
            f"{rule} is not exact for degree {k}{where}, but degree {degree} was "
            f"stated: its sum is {sums[k]}, the moment is {wanted[k]}, the difference "
            f"{abs(sums[k] - wanted[k])} exceeds {tolerance}."
        )


def _off_centre(rule: FixedRule, recurrence: tuple[Array, Array], degree: int) -> Array:
    limits = torch.tensor(_OFF_CENTRE, dtype=torch.float64, device="cpu")
    half, middle = (limits[1] - limits[0]) / 2, (limits[0] + limits[1]) / 2

    def integrand(points: Tensor) -> Tensor:
        reference = (points - middle) / half
        return _products(reference, torch.ones_like(points), recurrence, degree)

    sums = integrate(integrand, Interval(*limits), rule) / (2 * half)
    array: Array = sums.numpy()
    return array


def _wanted(degree: int) -> Array:
    return 1.0 - np.arange(degree + 1, dtype=float) % 2


def _products(
    points: _Points, first: _Points, recurrence: tuple[Array, Array], degree: int
) -> _Points:
    """Products of polynomials of each degree, ``(n, degree + 1)``, from ``first``."""
    diagonal, off_diagonal = recurrence
    rows = [first]
    previous: Any = 0.0
    for k in range(degree // 2 + 1):
        back = off_diagonal[k - 1] * previous if k else 0.0
        following = ((points - diagonal[k]) * rows[-1] - back) / off_diagonal[k]
        previous = rows[-1]
        rows.append(following)
    stack: Callable[..., _Points]
    stack = torch.stack if isinstance(points, Tensor) else np.stack
    return stack([rows[k // 2] * rows[(k + 1) // 2] for k in range(degree + 1)], -1)


def _recurrence(rule: FixedRule, count: int) -> tuple[Array, Array]:
    r"""Coefficients of :math:`b_{k+1} p_{k+1} = (x - a_k) p_k - b_k p_{k-1}`."""
    k = np.arange(count, dtype=float)
    if rule.measure == "normal":
        return np.zeros(count), np.sqrt(k + 1)
    if rule.measure == "gamma":
        alpha = float(rule.alpha)  # type: ignore[attr-defined]
        return 2 * k + alpha + 1, np.sqrt((k + 1) * (k + 1 + alpha))
    if rule.measure == "beta":
        a, b = float(rule.alpha), float(rule.beta)  # type: ignore[attr-defined]
        return _jacobi(k, a, b)
    if rule.measure == "lebesgue":
        return _jacobi(k, 0.0, 0.0)
    raise ValueError(
        f"{rule} has measure {rule.measure!r}, whose moments are not known here; "
        "'lebesgue', 'normal', 'gamma' or 'beta' is wanted."
    )


def _jacobi(k: Array, a: float, b: float) -> tuple[Array, Array]:
    # The first coefficient of each is written out: a factor that may be 0 cancels.
    total = 2 * k[1:] + a + b
    later = (b - a) * (b + a) / (total * (total + 2))
    diagonal = np.concatenate([[(b - a) / (a + b + 2)], later])
    m = k[1:] + 1
    total = 2 * m + a + b
    later = 4 * m * (m + a) * (m + b) * (m + a + b)
    later /= total**2 * (total + 1) * (total - 1)
    first = 4 * (1 + a) * (1 + b) / ((a + b + 2) ** 2 * (a + b + 3))
    return diagonal, np.sqrt(np.concatenate([[first], later]))
