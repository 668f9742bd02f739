"""Plain Monte Carlo."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.nodes import UnitNodes
from torch_mlcalc.quadrature.cubature.replicates import (
    EqualWeights,
    ReplicatedRule,
    check_tails,
)
from torch_mlcalc.quadrature.cubature.sampler import Sampler
from torch_mlcalc.quadrature.cubature.streams import uniform_tensor
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, Tails
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.rules import check_count

#: The error is estimated from the means of so many groups: their Student quantile is
#: 1.998 instead of 1.960, and means of many points are nearer to normal than points.
_GROUPS = 64

#: As many as a 64-bit number of points allows in 2^20 dimensions.
_MOST = 2**42


@final
@dataclass(frozen=True)
class MonteCarlo(ReplicatedRule):
    r"""Plain Monte Carlo: independent uniform points, with an error estimate.

    .. math:: Q = \frac{1}{n} \sum_{i=1}^n f(U_i)

    unbiased, with a standard error of :math:`\sigma(f) / \sqrt n`, in any dimension and
    for any square-integrable integrand. The error is half the width of the 95 % Student
    interval from the means of 64 groups of the points. For all but wild integrands
    :class:`Lattice` and :class:`Sobol` need far fewer points.

    With ``rtol`` or ``atol`` the points are doubled, keeping those there are, until the
    error is met or ``max_evals`` would be exceeded.

    Args:
        n: Number of points, at least 2; those to begin with if a tolerance is given.
        tails: How infinite axes are stretched; Gaussian tails suit integrands that fall
            like a Gaussian, and are the only ones that work in many such dimensions.

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If ``n`` is less than 2.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> box = mlc.Box(torch.zeros(3), torch.ones(3))
        >>> estimate = mlc.integrate_with_error(
        ...     lambda x: x.prod(-1), box, mlc.MonteCarlo(10_000)
        ... )
        >>> bool((estimate.value - 0.125).abs() < 2 * estimate.error)
        True

    References:
        C. P. Robert, G. Casella, "Monte Carlo Statistical Methods", 2nd ed., Springer
        2004, section 3.2.
    """

    n: int = 10_000
    tails: Tails = ALGEBRAIC

    def __post_init__(self) -> None:  # noqa: D105
        check_tails(self.tails)
        check_count("n", self.n, 2)

    @property
    def most(self) -> int:
        """More than anyone can wait for."""
        return _MOST

    def cube_nodes(
        self, dimension: int, seed: int, first: int, last: int
    ) -> UniformNodes:
        """Points ``first`` to ``last``."""
        return UniformNodes(dimension, first, last, seed)

    @property
    def replicates(self) -> int:  # type: ignore[override]
        """Groups of points that pass for replicates."""
        return min(_GROUPS, self.n)

    def sizes(self, n: int) -> list[int]:
        """Equal groups, and what is left over."""
        # Doubling n doubles each of them, so that they join what was there.
        times = n // self.n
        each, left = divmod(self.n, self.replicates)
        return [each * times] * self.replicates + [left * times] * (left > 0)

    def estimates(self, sampler: Sampler, nodes: UnitNodes) -> Values:
        """One estimate from each group, and one from what is left over."""
        assert isinstance(nodes, UniformNodes)  # noqa: S101
        end = nodes.first + sum(self.sizes(nodes.n)[: self.replicates])
        parts = sampler.sums(replace(nodes, last=end), self.replicates)
        if end == nodes.last:
            return parts
        left = sampler.sums(replace(nodes, first=end), 1)
        return np.concatenate([parts, left])


@final
@dataclass(frozen=True)
class UniformNodes(EqualWeights):
    """Points ``first`` to ``last`` of a sequence of independent ones."""

    dimension: int
    first: int
    last: int
    seed: int

    @property
    def n(self) -> int:  # type: ignore[override]
        """How many."""
        return self.last - self.first

    def points(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Points ``start`` to ``stop``."""
        first, last = self.first + start, self.first + stop
        return uniform_tensor(self.seed, 0, first, last, self.dimension, device)
