"""Gauss rules: the nodes are the roots of the polynomials orthogonal in a measure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import special

from torch_mlcalc.quadrature.legendre import long_legendre
from torch_mlcalc.quadrature.rules import (
    HALF_LINE,
    REAL_LINE,
    Array,
    FixedRule,
    check_count,
    table,
)

#: With fewer nodes those of scipy have all digits, and are made in less time.
_LONG = 100


@final
@dataclass(frozen=True)
class GaussLegendre(FixedRule):
    r"""Gauss-Legendre rule: degree ``2 n - 1`` with ``n`` nodes inside the interval.

    Args:
        n: Number of nodes.

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If ``n`` is not positive.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.integrate(lambda x: x**5, mlc.Interval(0, 1), mlc.GaussLegendre(3))
        tensor(0.1667)

    References:
        NIST Digital Library of Mathematical Functions, section 3.5(v),
        https://dlmf.nist.gov/3.5
    """

    n: int

    def __post_init__(self) -> None:  # noqa: D105
        check_count("n", self.n, 1)

    @property
    def degree(self) -> int:
        """``2 n - 1``."""
        return 2 * self.n - 1

    def nodes_and_weights(self) -> tuple[Array, Array]:
        """Roots of the Legendre polynomial and their Christoffel numbers."""
        if self.n >= _LONG:
            return long_legendre(self.n)
        nodes, weights = special.roots_legendre(self.n)
        return nodes, weights


@final
@dataclass(frozen=True)
class GaussHermite(FixedRule):
    r"""Gauss-Hermite rule against the standard normal distribution.

    .. math:: \mathbb{E}_{z \sim N(0, 1)} f(z) \approx \sum_i w_i f(z_i),
        \qquad \sum_i w_i = 1

    On ``RealLine(loc, scale)`` the nodes are ``loc + scale * z``; no factor of
    :math:`\sqrt 2` is hidden anywhere. ``integrate`` divides the weights by the normal
    density, in log form, and so returns the Lebesgue integral.

    Args:
        n: Number of nodes.

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If ``n`` is not positive.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.integrate(
        ...     lambda x: torch.exp(-x * x), mlc.RealLine(), mlc.GaussHermite(32)
        ... )
        tensor(1.7725)

    References:
        NIST Digital Library of Mathematical Functions, section 3.5(v),
        https://dlmf.nist.gov/3.5
    """

    n: int
    measure = "normal"
    reference = REAL_LINE

    def __post_init__(self) -> None:  # noqa: D105
        check_count("n", self.n, 1)

    @property
    def degree(self) -> int:
        """``2 n - 1``."""
        return 2 * self.n - 1

    def nodes_and_weights(self) -> tuple[Array, Array]:
        """Roots of the probabilists' Hermite polynomial; the weights sum to 1."""
        nodes, weights = special.roots_hermitenorm(self.n)
        return nodes, weights / weights.sum()

    def log_density(self, nodes: Array) -> Array:
        """Log of the standard normal density."""
        return -0.5 * nodes**2 - 0.5 * math.log(2 * math.pi)

    def log_lebesgue_weights(self) -> Array:
        """Log of the Lebesgue weights, also where the Gauss weights underflow."""
        k = np.arange(self.n)
        return _log_christoffel(self, np.zeros(self.n), np.sqrt(k + 1.0))


@final
@dataclass(frozen=True)
class GaussLaguerre(FixedRule):
    r"""Gauss-Laguerre rule against the gamma distribution of shape ``alpha + 1``.

    .. math:: \frac{1}{\Gamma(\alpha + 1)} \int_0^\infty z^\alpha e^{-z} f(z) \,dz
        \approx \sum_i w_i f(z_i), \qquad \sum_i w_i = 1

    On ``HalfLine(start, scale)`` the nodes are ``start + scale * z``.

    Args:
        n: Number of nodes.
        alpha: Exponent, greater than -1.

    Raises:
        TypeError: If ``n`` is not an integer or ``alpha`` not a number.
        ValueError: If ``n`` is not positive or ``alpha`` not greater than -1.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.integrate(
        ...     lambda x: x * torch.exp(-2 * x), mlc.HalfLine(), mlc.GaussLaguerre(32)
        ... )
        tensor(0.2500)

    References:
        NIST Digital Library of Mathematical Functions, section 3.5(v),
        https://dlmf.nist.gov/3.5
    """

    n: int
    alpha: float = 0.0
    measure = "gamma"
    reference = HALF_LINE

    def __post_init__(self) -> None:  # noqa: D105
        check_count("n", self.n, 1)
        check_exponent("alpha", self.alpha)

    @property
    def degree(self) -> int:
        """``2 n - 1``."""
        return 2 * self.n - 1

    def nodes_and_weights(self) -> tuple[Array, Array]:
        """Roots of the generalised Laguerre polynomial; the weights sum to 1."""
        nodes, weights = special.roots_genlaguerre(self.n, self.alpha)
        return nodes, weights / weights.sum()

    def log_density(self, nodes: Array) -> Array:
        """Log of the gamma density of shape ``alpha + 1`` and rate 1."""
        return (
            special.xlogy(self.alpha, nodes) - nodes - special.gammaln(self.alpha + 1)
        )

    def log_lebesgue_weights(self) -> Array:
        """Log of the Lebesgue weights, also where the Gauss weights underflow."""
        k = np.arange(self.n)
        diagonal = 2 * k + self.alpha + 1
        return _log_christoffel(self, diagonal, np.sqrt((k + 1) * (k + 1 + self.alpha)))


@final
@dataclass(frozen=True)
class GaussJacobi(FixedRule):
    r"""Gauss-Jacobi rule against the beta distribution on ``[-1, 1]``.

    .. math:: \frac{1}{C} \int_{-1}^1 (1 - u)^\alpha (1 + u)^\beta f(u) \,du
        \approx \sum_i w_i f(u_i), \qquad \sum_i w_i = 1

    Args:
        n: Number of nodes.
        alpha: Exponent at the upper end, greater than -1.
        beta: Exponent at the lower end, greater than -1.

    Raises:
        TypeError: If ``n`` is not an integer or an exponent not a number.
        ValueError: If ``n`` is not positive or an exponent not greater than -1.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> rule = mlc.GaussJacobi(8, -0.5, -0.5)
        >>> mlc.integrate(
        ...     lambda x: 1 / torch.sqrt(x * (1 - x)), mlc.Interval(0, 1), rule
        ... )
        tensor(3.1416)

    References:
        NIST Digital Library of Mathematical Functions, section 3.5(v),
        https://dlmf.nist.gov/3.5
    """

    n: int
    alpha: float
    beta: float
    measure = "beta"

    def __post_init__(self) -> None:  # noqa: D105
        check_count("n", self.n, 1)
        check_exponent("alpha", self.alpha)
        check_exponent("beta", self.beta)

    @property
    def degree(self) -> int:
        """``2 n - 1``."""
        return 2 * self.n - 1

    def nodes_and_weights(self) -> tuple[Array, Array]:
        """Roots of the Jacobi polynomial; the weights sum to 1."""
        nodes, weights = special.roots_jacobi(self.n, self.alpha, self.beta)
        return nodes, weights / weights.sum()

    def log_density(self, nodes: Array) -> Array:
        """Log of the beta density on ``[-1, 1]``."""
        a, b = self.alpha, self.beta
        log_total = (a + b + 1) * math.log(2) + special.betaln(a + 1, b + 1)
        return special.xlog1py(a, -nodes) + special.xlog1py(b, nodes) - log_total


def _log_christoffel(rule: FixedRule, diagonal: Array, off_diagonal: Array) -> Array:
    r"""Log of Gauss weight over density: :math:`-\log \sum_k p_k(x)^2 \rho(x)`.

    The orthonormal polynomials :math:`p_k` follow their three-term recurrence with
    coefficients ``diagonal`` and ``off_diagonal``; a running exponent keeps them in
    range where the weights themselves underflow (Gauss-Hermite: from n = 350 on).

    Returns:
        The logs, ``(n,)``.

    References:
        NIST Digital Library of Mathematical Functions, equation 3.5.28 and section
        18.2(v), https://dlmf.nist.gov/3.5
    """
    nodes, _ = table(rule)
    previous, current = np.zeros_like(nodes), np.ones_like(nodes)
    total, log_unit = np.ones_like(nodes), rule.log_density(nodes)
    for k in range(rule.n - 1):
        back = off_diagonal[k - 1] * previous if k else 0.0
        following = ((nodes - diagonal[k]) * current - back) / off_diagonal[k]
        previous, current = current, following
        total = total + current**2
        unit = np.maximum(np.abs(current), 1.0)
        previous, current = previous / unit, current / unit
        total, log_unit = total / unit**2, log_unit + 2 * np.log(unit)
    return -(np.log(total) + log_unit)


def check_exponent(name: str, value: object) -> None:
    """Refuse an exponent for which the measure has no finite mass."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"{name} is {value!r} ({type(value).__name__}); a number is wanted."
        )
    if not -1 < value < math.inf:
        raise ValueError(
            f"{name} is {value}; a finite number greater than -1 is wanted, "
            "else the weight function has no finite integral."
        )
