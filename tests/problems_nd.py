"""One table of integrals in several dimensions, with exact values and gradients.

``exact`` is a closed form in torch, so that its derivatives by the parameters are exact
too; ``tests/test_problems_nd.py`` checks every one against products of integrals in one
dimension by scipy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

import torch_mlcalc as mlc

F64 = torch.float64


@dataclass(frozen=True)
class Problem:
    """``integrand(x, *theta)`` over ``domain``; smooth ones have no kink or jump."""

    name: str
    integrand: Callable[..., Tensor]
    domain: mlc.Domain
    exact: Callable[..., Tensor]
    theta: tuple[Tensor, ...]
    smooth: bool = True
    #: Whether the derivative by theta passes through a jump, which no rule sees.
    differentiable: bool = True
    factors: Sequence[Any] = field(default=(), repr=False)

    @property
    def dimension(self) -> int:
        return self.domain.dimension

    def value(self) -> Tensor:
        return self.exact(*self.theta)

    def gradient(self) -> tuple[Tensor, ...]:
        theta = tuple(t.clone().requires_grad_() for t in self.theta)
        return torch.autograd.grad(self.exact(*theta), theta)


# ---- Genz's six families on the unit cube ------------------------------------------


def oscillatory(x: Tensor, a: Tensor, u: Tensor) -> Tensor:
    return torch.cos(2 * math.pi * u[..., 0] + (a * x).sum(-1))


def oscillatory_exact(a: Tensor, u: Tensor) -> Tensor:
    # The mean of exp(i a x) over the cube is a product of sines at half the angles.
    phase = 2 * math.pi * u[..., 0] + (a / 2).sum(-1)
    return torch.cos(phase) * (torch.sin(a / 2) / (a / 2)).prod(-1)


def product_peak(x: Tensor, a: Tensor, u: Tensor) -> Tensor:
    return (1 / (a**-2 + (x - u) ** 2)).prod(-1)


def product_peak_exact(a: Tensor, u: Tensor) -> Tensor:
    return (a * (torch.atan(a * (1 - u)) + torch.atan(a * u))).prod(-1)


def corner_peak(x: Tensor, a: Tensor) -> Tensor:
    return (1 + (a * x).sum(-1)) ** -(x.shape[-1] + 1)


def corner_peak_exact(a: Tensor) -> Tensor:
    d = a.shape[-1]
    total = torch.zeros((), dtype=F64)
    for corner in product((0, 1), repeat=d):
        v = torch.tensor(corner, dtype=F64)
        total = total + (-1) ** sum(corner) / (1 + (a * v).sum(-1))
    return total / (math.factorial(d) * a.prod(-1))


def gaussian(x: Tensor, a: Tensor, u: Tensor) -> Tensor:
    return torch.exp(-((a * (x - u)) ** 2).sum(-1))


def gaussian_exact(a: Tensor, u: Tensor) -> Tensor:
    ends = torch.erf(a * (1 - u)) + torch.erf(a * u)
    return (math.sqrt(math.pi) / (2 * a) * ends).prod(-1)


def continuous(x: Tensor, a: Tensor, u: Tensor) -> Tensor:
    return torch.exp(-(a * (x - u).abs()).sum(-1))


def continuous_exact(a: Tensor, u: Tensor) -> Tensor:
    return ((2 - torch.exp(-a * u) - torch.exp(-a * (1 - u))) / a).prod(-1)


def discontinuous(x: Tensor, a: Tensor, u: Tensor) -> Tensor:
    inside = (x[..., 0] <= u[..., 0]) & (x[..., 1] <= u[..., 1])
    return torch.where(inside, torch.exp((a * x).sum(-1)), 0)


def discontinuous_exact(a: Tensor, u: Tensor) -> Tensor:
    upper = torch.cat([u[..., :2], torch.ones_like(a[..., 2:])], -1)
    return (torch.expm1(a * upper) / a).prod(-1)


#: Integrand, exact value, sum of the ``a`` at difficulty 1 (those of Genz's test
#: package for 10 dimensions), whether it has ``u``.
FAMILIES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], float]] = {
    "oscillatory": (oscillatory, oscillatory_exact, 9.0),
    "product_peak": (product_peak, product_peak_exact, 7.25),
    "corner_peak": (corner_peak, corner_peak_exact, 1.85),
    "gaussian": (gaussian, gaussian_exact, 7.03),
    "continuous": (continuous, continuous_exact, 20.4),
    "discontinuous": (discontinuous, discontinuous_exact, 4.3),
}


def fractions(d: int, step: float) -> Tensor:
    """Numbers in the unit interval that are neither equal nor round."""
    return (torch.arange(1, d + 1, dtype=F64) * step) % 1


def genz(family: str, d: int, difficulty: float) -> Problem:
    """One of the six families; ``a`` sums up to the difficulty times Genz's number."""
    integrand, exact, total = FAMILIES[family]
    a = 1 + fractions(d, math.sqrt(2))
    a = a * (total * difficulty / a.sum())
    u = 0.2 + 0.6 * fractions(d, (math.sqrt(5) - 1) / 2)
    theta = (a,) if family == "corner_peak" else (a, u)
    return Problem(
        f"{family}-{d}d-{difficulty:g}",
        integrand,
        mlc.Box(0.0, 1.0, dimension=d),
        exact,
        theta,
        smooth=family not in ("continuous", "discontinuous"),
        differentiable=family != "discontinuous",
    )


DIFFICULTIES = (0.3, 1.0, 2.0)
GENZ = [
    genz(family, d, difficulty)
    for d in (2, 3, 5, 8)
    for family in FAMILIES
    for difficulty in DIFFICULTIES
]


# ---- others ------------------------------------------------------------------------


def sine_of_sum(x: Tensor, w: Tensor) -> Tensor:
    return torch.sin(w * x.sum(-1))


def sine_of_sum_exact(d: int) -> Callable[[Tensor], Tensor]:
    def exact(w: Tensor) -> Tensor:
        return torch.sin(5 * d * w) * (2 * torch.sin(5 * w) / w) ** d

    return exact


def normal(x: Tensor, scale: Tensor, loc: Tensor) -> Tensor:
    return torch.exp(-(((x - loc) / scale) ** 2).sum(-1) / 2)


def normal_exact(scale: Tensor, loc: Tensor) -> Tensor:
    return (math.sqrt(2 * math.pi) * scale + 0 * loc).prod(-1)


def cauchy(x: Tensor, scale: Tensor) -> Tensor:
    return (1 / (1 + (x / scale) ** 2)).prod(-1)


def cauchy_exact(scale: Tensor) -> Tensor:
    return (math.pi * scale).prod(-1)


def decay(x: Tensor, rate: Tensor) -> Tensor:
    return torch.exp(-(rate * x).sum(-1))


def decay_exact(rate: Tensor) -> Tensor:
    return (1 / rate).prod(-1)


def mixed(x: Tensor, rate: Tensor) -> Tensor:
    """Cosine on a finite axis, decay on a half line, normal on a line."""
    return torch.cos(x[..., 0]) * torch.exp(-rate * x[..., 1] - x[..., 2] ** 2 / 2)


def mixed_exact(rate: Tensor) -> Tensor:
    return math.sin(1) / rate * math.sqrt(2 * math.pi)


def dirichlet(x: Tensor, alpha: Tensor) -> Tensor:
    return (x ** (alpha - 1)).prod(-1)


def dirichlet_exact(alpha: Tensor) -> Tensor:
    return torch.exp(torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1)))


def ball(x: Tensor, power: Tensor) -> Tensor:
    """Power of the distance from the centre of a disc."""
    return x.square().sum(-1) ** (power / 2)


def ball_exact(power: Tensor) -> Tensor:
    return 2 * math.pi / (power + 2)


def root(x: Tensor, power: Tensor) -> Tensor:
    """Singular derivatives at the faces."""
    return (x**power).prod(-1)


def root_exact(power: Tensor) -> Tensor:
    return (1 / (power + 1)).prod(-1)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


INF = math.inf
OTHERS = [
    Problem(
        "sine_of_sum-3d",
        sine_of_sum,
        mlc.Box(0.0, 10.0, dimension=3),
        sine_of_sum_exact(3),
        (torch.tensor(1.0, dtype=F64),),
    ),
    Problem(
        "normal-2d",
        normal,
        mlc.Box(-INF, INF, dimension=2),
        normal_exact,
        (vector(1.0, 0.7), vector(0.3, -0.2)),
    ),
    Problem(
        "normal-3d",
        normal,
        mlc.Box(-INF, INF, dimension=3),
        normal_exact,
        (vector(1.0, 0.8, 1.2), vector(0.0, 0.1, 0.0)),
    ),
    Problem(
        "cauchy-2d",
        cauchy,
        mlc.Box(-INF, INF, dimension=2),
        cauchy_exact,
        (vector(1.0, 0.6),),
    ),
    Problem(
        "decay-3d", decay, mlc.Box(0.0, INF, 3), decay_exact, (vector(1.0, 2.0, 0.7),)
    ),
    Problem(
        "mixed-3d",
        mixed,
        mlc.Box([0.0, 0.0, -INF], [1.0, INF, INF]),
        mixed_exact,
        (torch.tensor(1.5, dtype=F64),),
    ),
    Problem(
        "dirichlet-2d",
        dirichlet,
        mlc.Simplex(2),
        dirichlet_exact,
        (vector(2.0, 3.0, 0.5),),
    ),
    Problem(
        "dirichlet-3d",
        dirichlet,
        mlc.Simplex(3),
        dirichlet_exact,
        (vector(1.0, 1.5, 2.0, 4.0),),
    ),
    Problem(
        "disc",
        ball,
        mlc.Box(
            [-1.0, lambda x: -torch.sqrt(1 - x * x)],
            [1.0, lambda x: torch.sqrt(1 - x * x)],
        ),
        ball_exact,
        (torch.tensor(2.0, dtype=F64),),
    ),
    Problem(
        "root-2d",
        root,
        mlc.Box(0.0, 1.0, dimension=2),
        root_exact,
        (vector(0.5, 1.5),),
        smooth=False,
    ),
    Problem(
        "reversed-2d",
        decay,
        mlc.Box([1.0, 0.0], [0.0, 1.0]),
        lambda rate: -((1 - torch.exp(-rate)) / rate).prod(-1),
        (vector(1.0, 2.0),),
    ),
]
PROBLEMS = GENZ + OTHERS


def genz_sum(d: int) -> tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]:
    """The sum of an oscillatory, a product peak and a corner peak, all a = 1, u = 0.5.

    The kind of sum that torchquad publishes errors for.
    """
    one, half = torch.ones(d, dtype=F64), torch.full((d,), 0.5, dtype=F64)

    def integrand(x: Tensor) -> Tensor:
        return (
            oscillatory(x, one, half) + product_peak(x, one, half) + corner_peak(x, one)
        )

    def exact() -> Tensor:
        return (
            oscillatory_exact(one, half)
            + product_peak_exact(one, half)
            + corner_peak_exact(one)
        )

    return integrand, exact
