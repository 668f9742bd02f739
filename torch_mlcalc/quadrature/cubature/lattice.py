"""Lattice rules with random shifts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import final

import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.replicates import (
    EqualWeights,
    ReplicatedRule,
    check_tails,
)
from torch_mlcalc.quadrature.cubature.streams import uniform
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, Tails
from torch_mlcalc.quadrature.rules import Array, check_count

#: The built-in vector was constructed for up to 2^20 points; see
#: tools/lattice_vector.py.
MOST_POINTS = 2**20


@lru_cache(maxsize=1)
def built_in_vector() -> tuple[int, ...]:
    """The generating vector that comes with the package."""
    file = resources.files(__package__) / "lattice_vector.json"
    return tuple(json.loads(file.read_text(encoding="ascii")))


@final
@dataclass(frozen=True)
class Lattice(ReplicatedRule):
    r"""Randomly shifted rank-1 lattice, in any dimension, with an error estimate.

    .. math:: Q_r = \frac{1}{n} \sum_{k=0}^{n-1} f\left(\varphi\left(
        \left\{ \frac{k z}{n} + \Delta_r \right\}\right)\right), \qquad
        \varphi(u) = 1 - |2 u - 1|

    with independent uniform shifts :math:`\Delta_r`. The integral is the mean of the
    replicates :math:`Q_r`, its error half the width of their 95 % Student interval.
    The error falls about like :math:`n^{-1}` for integrands with square-integrable
    mixed first derivatives and, thanks to the baker's transformation :math:`\varphi`,
    like :math:`n^{-2}` for smooth ones, in any dimension if only some coordinates, best
    the first ones, matter much.

    With ``rtol`` or ``atol`` the lattice is doubled, keeping its points, until the
    error is met, ``max_evals`` would be exceeded, or n has reached 2^20.

    Args:
        n: Points of each replicate, a power of two up to 2^20; those to begin with if
            a tolerance is given.
        replicates: Number of random shifts, at least 2. Fewer give a wider interval.
        baker: Whether to fold the points by :math:`\varphi`. Without it integrands that
            are periodic in every coordinate converge fastest.
        vector: Generating vector :math:`z` of your own, one odd integer for each
            dimension; by default one for up to 1024 dimensions.
        tails: How infinite axes are stretched; Gaussian tails suit integrands that fall
            like a Gaussian, and are the only ones that work in many such dimensions.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If ``n`` is not a power of two up to 2^20, ``replicates`` is less
            than 2, or ``vector`` is empty or has an even component.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> box = mlc.Box(torch.zeros(100), torch.ones(100))
        >>> estimate = mlc.integrate_with_error(
        ...     lambda x: torch.exp(x.mean(-1)), box, mlc.Lattice(1024)
        ... )
        >>> estimate.value, bool(estimate.error < 1e-4)
        (tensor(1.6494), True)

    References:
        D. Nuyens, R. Cools, "Fast algorithms for component-by-component construction of
        rank-1 lattice rules", Math. Comp. 75 (2006),
        https://doi.org/10.1090/S0025-5718-06-01785-6
        R. Cools, F. Y. Kuo, D. Nuyens, "Constructing embedded lattice rules for
        multivariate integration", SIAM J. Sci. Comput. 28 (2006),
        https://doi.org/10.1137/06065074X
        F. J. Hickernell, "Obtaining O(N^(-2+e)) convergence for lattice quadrature
        rules", MCQMC 2000, https://doi.org/10.1007/978-3-642-56046-0_18
    """

    n: int = 1024
    replicates: int = 16
    baker: bool = True
    vector: Sequence[int] | None = None
    tails: Tails = ALGEBRAIC

    def __post_init__(self) -> None:  # noqa: D105
        check_tails(self.tails)
        check_power_of_two("Lattice", self.n, MOST_POINTS)
        check_count("replicates", self.replicates, 2)
        if not isinstance(self.baker, bool):
            raise TypeError(f"baker is {self.baker!r}; True or False is wanted.")
        if self.vector is None:
            return
        vector = tuple(self.vector)
        if not vector:
            raise ValueError(
                "vector is empty; an odd integer for each dimension is wanted."
            )
        for z in vector:
            check_count("a component of vector", z, 1)
            if z % 2 == 0:
                raise ValueError(
                    f"vector has the even component {z}; odd ones are wanted, which "
                    "keep the points of a power of two apart."
                )
        object.__setattr__(self, "vector", vector)

    @property
    def most(self) -> int:
        """The built-in vector is good up to here, and a sequence begins anew."""
        return MOST_POINTS

    def cube_nodes(
        self, dimension: int, seed: int, first: int, last: int
    ) -> LatticeNodes:
        """Points ``first`` to ``last`` of each replicate."""
        length = len(self.vector or built_in_vector())
        if dimension > length:
            raise ValueError(
                f"{self} has a generating vector for {length} dimensions, the domain "
                f"has {dimension}; pass a longer vector=, or use Sobol or MonteCarlo."
            )
        vector = None if self.vector is None else tuple(self.vector[:dimension])
        return LatticeNodes(
            dimension, first, last, self.replicates, seed, self.baker, vector
        )


@lru_cache(maxsize=8)
def _shifts(seed: int, replicates: int, dimension: int) -> Array:
    """The random shifts, ``(replicates, d)``."""
    return uniform(seed, 0, 0, replicates, dimension)


@final
@dataclass(frozen=True)
class LatticeNodes(EqualWeights):
    """Points ``first`` to ``last`` of each lattice, one lattice after another."""

    dimension: int
    first: int
    last: int
    replicates: int
    seed: int
    baker: bool
    vector: tuple[int, ...] | None

    @property
    def n(self) -> int:  # type: ignore[override]
        """Of all replicates together."""
        return (self.last - self.first) * self.replicates

    def points(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Points ``start`` to ``stop``, folded."""
        number = torch.arange(start, stop, device=device)
        count = self.last - self.first
        replicate, k = number // count, self.first + number % count
        # Point k of the sequence is z times a fraction of 2^20: 0, 1/2, 1/4, 3/4, 1/8,
        # 3/8, ... so that the first 2^m are the lattice of 2^m points for every m.
        level = torch.frexp(k.clamp(min=1).to(torch.float64)).exponent - 1
        power = 1 << level.to(torch.int64)
        odd = 2 * (k - power) + 1
        fraction = torch.where(k > 0, odd * (MOST_POINTS // (2 * power)), 0)
        vector = (self.vector or built_in_vector())[: self.dimension]
        whole = fraction[:, None] * torch.tensor(vector, device="cpu").to(
            device, non_blocking=True
        )
        # The remainder of division by a power of two, which % takes far longer for.
        whole = whole & (MOST_POINTS - 1)
        table = _shifts(self.seed, self.replicates, self.dimension)
        shifts = torch.tensor(table, device="cpu").to(device, non_blocking=True)
        points = (whole.to(torch.float64) / MOST_POINTS + shifts[replicate]).frac()
        return 1 - (2 * points - 1).abs() if self.baker else points


def check_power_of_two(name: str, n: object, most: int) -> None:
    """Refuse numbers of points for which the point set is not balanced."""
    check_count("n", n, 1)
    assert isinstance(n, int)  # noqa: S101
    if n & (n - 1):
        lower = 1 << (n.bit_length() - 1)
        raise ValueError(
            f"{name} got n={n}; a power of two is wanted, for example n={lower} or "
            f"n={2 * lower}."
        )
    if n > most:
        raise ValueError(
            f"{name} got n={n}; at most 2^{most.bit_length() - 1} is wanted."
        )
