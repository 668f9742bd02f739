"""What every rule is, and the fixed rules on nodes that can be written down."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
from scipy import fft

Array = npt.NDArray[Any]

INTERVAL, HALF_LINE, REAL_LINE = "[-1, 1]", "[0, inf)", "(-inf, inf)"


class Rule(ABC):  # noqa: B024
    """How to integrate; every rule is a small immutable object."""

    #: Whether its nodes do not depend on the integrand.
    fixed: ClassVar[bool] = False
    #: Whether a generator seeds it.
    random: ClassVar[bool] = False
    #: Whether its nodes lie in the cube, of one dimension too, and not on a line.
    cubic: ClassVar[bool] = False


class FixedRule(Rule):
    r"""A rule whose nodes do not depend on the integrand.

    .. math:: \int f \,d\mu \approx \sum_{i=1}^n w_i f(x_i)

    A new rule states ``n``, ``degree`` and :meth:`nodes_and_weights`; one that is not
    against the Lebesgue measure also states ``measure``, ``reference`` and
    :meth:`log_density`.
    """

    fixed = True
    n: int
    #: What the weights integrate against.
    measure: str = "lebesgue"
    #: Where the reference nodes live.
    reference: str = INTERVAL
    #: Where nodes are equally spaced from -1 to 1: how many of them have weights that
    #: repeat, but for those of the ends. 0 for all others.
    period: ClassVar[int] = 0

    @property
    def settings(self) -> tuple[object, ...]:
        """What the rule was made of, in the order of its arguments."""
        names = type(self).__dataclass_fields__  # type: ignore[attr-defined]
        return tuple([getattr(self, name) for name in names])

    @property
    @abstractmethod
    def degree(self) -> int:
        """Highest degree of polynomials that are integrated exactly."""

    @abstractmethod
    def nodes_and_weights(self) -> tuple[Array, Array]:
        """Nodes and weights on the reference domain, ascending, in float64."""

    def slice(self, start: int, stop: int) -> tuple[Array, Array]:
        """Nodes and weights ``start`` to ``stop``, for rules too long for a table."""
        nodes, weights = table(self)
        return nodes[start:stop], weights[start:stop]

    def log_density(self, nodes: Array) -> Array:
        """Log of the density of the measure; 0 for the Lebesgue measure."""
        return np.zeros_like(nodes)

    def log_lebesgue_weights(self) -> Array:
        """Log of weights divided by the density: those of the Lebesgue integral."""
        nodes, weights = table(self)
        return np.log(weights) - self.log_density(nodes)


@lru_cache(maxsize=256)
def table(rule: FixedRule) -> tuple[Array, Array]:
    """The rule's nodes and weights, computed once and write-protected."""
    nodes, weights = rule.nodes_and_weights()
    nodes, weights = np.asarray(nodes, float), np.asarray(weights, float)
    nodes.setflags(write=False)
    weights.setflags(write=False)
    return nodes, weights


@final
@dataclass(frozen=True)
class ClenshawCurtis(FixedRule):
    r"""Clenshaw-Curtis rule: Chebyshev extrema, both ends included, degree ``n - 1``.

    Args:
        n: Number of nodes, at least 2.

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If ``n`` is less than 2.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.integrate(lambda x: x**4, mlc.Interval(0, 1), mlc.ClenshawCurtis(5))
        tensor(0.2000)

    References:
        L. N. Trefethen, "Is Gauss quadrature better than Clenshaw-Curtis?", SIAM Review
        50 (2008), section 2, https://doi.org/10.1137/060659831
    """

    n: int

    def __post_init__(self) -> None:  # noqa: D105
        check_count("n", self.n, 2)

    @property
    def degree(self) -> int:
        """``n - 1``, or ``n`` for odd ``n``: the rule is symmetric."""
        return self.n - 1 + self.n % 2

    def nodes_and_weights(self) -> tuple[Array, Array]:
        """Chebyshev extrema, weighted to integrate each Chebyshev polynomial."""
        last = self.n - 1
        # The integral of the cosine series of the integrand, transposed: the moments
        # of T_k are 2 / (1 - k^2) for even k, and a type-I DCT sums the series.
        moments = np.zeros(self.n)
        moments[::2] = 2.0 / (1.0 - np.arange(0, self.n, 2.0) ** 2)
        weights = fft.dct(moments, type=1) / last
        weights[[0, -1]] *= 0.5
        return -np.cos(np.pi * np.arange(self.n) / last), weights


@final
@dataclass(frozen=True)
class Trapezoid(FixedRule):
    r"""Composite trapezoidal rule on ``n`` equally spaced nodes, both ends included.

    It converges geometrically for smooth periodic integrands and like
    :math:`n^{-2}` for others.

    Args:
        n: Number of nodes, at least 2.

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If ``n`` is less than 2.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.integrate(lambda x: 2 * x, mlc.Interval(0, 1), mlc.Trapezoid(2))
        tensor(1.)

    References:
        NIST Digital Library of Mathematical Functions, equation 3.5.2,
        https://dlmf.nist.gov/3.5
    """

    n: int
    period = 1

    def __post_init__(self) -> None:  # noqa: D105
        check_count("n", self.n, 2)

    @property
    def degree(self) -> int:
        """1."""
        return 1

    def nodes_and_weights(self) -> tuple[Array, Array]:
        """Equally spaced nodes; the two end weights count half."""
        return self.slice(0, self.n)

    def slice(self, start: int, stop: int) -> tuple[Array, Array]:
        """Nodes and weights ``start`` to ``stop``, without the whole table."""
        weights = np.full(stop - start, 2.0 / (self.n - 1))
        _halve_ends(weights, self.n, start, stop)
        return _equally_spaced(self.n, start, stop), weights


@final
@dataclass(frozen=True)
class Simpson(FixedRule):
    r"""Composite Simpson rule on ``n`` equally spaced nodes, both ends included.

    Args:
        n: Number of nodes, odd and at least 3.

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If ``n`` is even or less than 3.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.integrate(lambda x: x**3, mlc.Interval(0, 1), mlc.Simpson(3))
        tensor(0.2500)

    References:
        NIST Digital Library of Mathematical Functions, equation 3.5.7,
        https://dlmf.nist.gov/3.5
    """

    n: int
    period = 2

    def __post_init__(self) -> None:  # noqa: D105
        check_count("n", self.n, 3)
        if self.n % 2 == 0:
            raise ValueError(
                f"Simpson got n={self.n}; an odd number of nodes is wanted, "
                f"for example n={self.n + 1}."
            )

    @property
    def degree(self) -> int:
        """3."""
        return 3

    def nodes_and_weights(self) -> tuple[Array, Array]:
        """Equally spaced nodes with weights 1, 4, 2, 4, ..., 4, 1."""
        return self.slice(0, self.n)

    def slice(self, start: int, stop: int) -> tuple[Array, Array]:
        """Nodes and weights ``start`` to ``stop``, without the whole table."""
        unit = 2.0 / (3.0 * (self.n - 1))
        weights = np.full(stop - start, 2.0 * unit)
        weights[1 - start % 2 :: 2] = 4.0 * unit
        _halve_ends(weights, self.n, start, stop)
        return _equally_spaced(self.n, start, stop), weights


@final
@dataclass(frozen=True, repr=False)
class TabulatedRule(FixedRule):
    r"""Nodes and weights of your own on ``[-1, 1]``, against the Lebesgue measure.

    Args:
        nodes: Nodes within ``[-1, 1]``.
        weights: One weight for each node; they may be negative, except in the log form.
        degree: Highest degree of polynomials that the rule integrates exactly.

    Raises:
        ValueError: If nodes and weights are not two equally long, finite sequences of
            numbers with the nodes within ``[-1, 1]``, or ``degree`` is negative.
        TypeError: If ``degree`` is not an integer.

    Example:
        >>> import torch_mlcalc as mlc
        >>> midpoint = mlc.TabulatedRule([0.0], [2.0], degree=1)
        >>> mlc.integrate(lambda x: 2 * x, mlc.Interval(0, 1), midpoint)
        tensor(1.)
    """

    nodes: tuple[float, ...]
    weights: tuple[float, ...]
    degree: int = 0

    def __init__(
        self, nodes: Sequence[float], weights: Sequence[float], degree: int = 0
    ) -> None:
        """Store plain tuples, so that the rule can be compared, hashed and pickled."""
        check_count("degree", degree, 0)
        node_array, weight_array = np.asarray(nodes, float), np.asarray(weights, float)
        if node_array.ndim != 1 or node_array.shape != weight_array.shape:
            raise ValueError(
                f"TabulatedRule got nodes of shape {node_array.shape} and weights of "
                f"shape {weight_array.shape}; two sequences of one length are wanted."
            )
        if node_array.size == 0:
            raise ValueError("TabulatedRule got no nodes; at least one is wanted.")
        if not (np.abs(node_array) <= 1).all() or not np.isfinite(weight_array).all():
            raise ValueError(
                "TabulatedRule wants finite nodes and weights with the nodes within "
                "[-1, 1]; map them from your interval first."
            )
        object.__setattr__(self, "nodes", tuple(node_array.tolist()))
        object.__setattr__(self, "weights", tuple(weight_array.tolist()))
        object.__setattr__(self, "degree", degree)

    @property
    def n(self) -> int:  # type: ignore[override]
        """Number of nodes."""
        return len(self.nodes)

    def __repr__(self) -> str:
        """The size only: tables can be long."""
        return f"TabulatedRule(n={self.n}, degree={self.degree})"

    def nodes_and_weights(self) -> tuple[Array, Array]:
        """The nodes and weights given."""
        return np.array(self.nodes), np.array(self.weights)


def _equally_spaced(n: int, start: int, stop: int) -> Array:
    # Counted from the nearer end, so that the rule is symmetric to the last bit.
    middle = min(max((n + 1) // 2, start), stop)
    step, nodes = 2.0 / (n - 1), np.arange(start, stop, dtype=float)
    lower, upper = nodes[: middle - start], nodes[middle - start :]
    lower *= step
    lower -= 1.0
    np.subtract(n - 1, upper, out=upper)
    upper *= -step
    upper += 1.0
    return nodes


def _halve_ends(weights: Array, n: int, start: int, stop: int) -> None:
    if start == 0:
        weights[0] *= 0.5
    if stop == n:
        weights[-1] *= 0.5


def check_count(name: str, value: object, least: int) -> None:
    """Refuse a number of nodes that is not an integer or too small."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"{name} is {value!r} ({type(value).__name__}); an integer is wanted."
        )
    if value < least:
        raise ValueError(f"{name} is {value}; at least {least} is wanted.")
