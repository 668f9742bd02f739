"""The simplex, on which Dirichlet densities live."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.cubature.box import Solid
from torch_mlcalc.quadrature.cubature.chart import Chart, Placed
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, Tails
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.rules import check_count


@final
@dataclass(frozen=True)
class Simplex(Solid):
    r"""The simplex of given dimension, in ``dimension + 1`` coordinates that sum to 1.

    .. math:: \int_{x_1, \dots, x_d \ge 0,\ x_1 + \dots + x_d \le 1}
        f(x_1, \dots, x_d, 1 - x_1 - \dots - x_d)\,dx_1 \cdots dx_d

    The integrand gets points ``(n, *batch, d + 1)``, as those of
    ``torch.distributions.Dirichlet``, whose density is against the same measure, so
    that its ``log_prob`` is an integrand as it is. The last coordinate keeps its
    relative precision where it is small. The volume is :math:`1 / d!`.

    Args:
        dimension: ``d``; 2 is a triangle.

    Raises:
        TypeError: If ``dimension`` is not an integer.
        ValueError: If ``dimension`` is not positive.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> density = torch.distributions.Dirichlet(torch.tensor([2.0, 3.0, 0.5]))
        >>> log_total = mlc.log_integrate(density.log_prob, mlc.Simplex(2))
        >>> bool(log_total.abs() < 1e-3)
        True

    References:
        NIST Digital Library of Mathematical Functions, equation 5.14.1 for the
        integral of a Dirichlet density, https://dlmf.nist.gov/5.14
    """

    dimension: int

    def __post_init__(self) -> None:  # noqa: D105
        check_count("dimension", self.dimension, 1)

    @property
    def coordinates(self) -> int:
        """One more than dimensions."""
        return self.dimension + 1

    def limits(self) -> list[tuple[Tensor, torch.Size]]:
        """None."""
        return []

    def chart(self, integrand: Integrand, tails: Tails = ALGEBRAIC) -> Chart:
        """The map from the unit cube; there are no tails."""
        return SimplexChart(
            self.dimension,
            integrand.batch_shape,
            accumulator(integrand.dtype),
            integrand.device,
        )


@final
@dataclass(frozen=True, eq=False)
class SimplexChart(Chart):
    r"""Stick breaking by angles.

    .. math:: x_j = \sin^2(\tfrac{\pi}{2} u_j)
        \prod_{i < j} \cos^2(\tfrac{\pi}{2} u_i)

    The square turns the inverse square roots at the faces of a Dirichlet density with
    parameters 1/2 into constants, and all half-integer parameters into something
    analytic.
    """

    dimension: int
    batch_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def rows(self, rows: Tensor) -> SimplexChart:
        """The same for some integrals of the flattened batch."""
        return SimplexChart(self.dimension, tuple(rows.shape), self.dtype, self.device)

    def __call__(self, u: Tensor, *, log: bool) -> Placed:
        """Points and density at ``u``: ``(n, d)`` or ``(n, *batch, d)``."""
        u = self.widened(u)
        # The cosine from the nearer end keeps its digits at u = 1.
        sine, cosine = (torch.sin(math.pi / 2 * v) for v in (u, 1 - u))
        rest = cosine.square().cumprod(-1)
        before = torch.cat([torch.ones_like(rest[..., :1]), rest[..., :-1]], -1)
        points = torch.cat([before * sine.square(), rest[..., -1:]], -1)
        slope = math.pi * sine * cosine * before
        density = slope.log().sum(-1) if log else slope.prod(-1)
        shape = (u.shape[0], *self.batch_shape)
        return Placed(points.expand(*shape, self.dimension + 1), density.expand(shape))

    def scale(self, total: Tensor, *, log: bool) -> Tensor:
        """The sum itself: the density holds the volume."""
        return total
