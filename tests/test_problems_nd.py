"""The closed forms of the table are right, by products of one-dimensional integrals."""

import cmath
import math
from collections.abc import Callable

import pytest
import torch
from problems_nd import GENZ, OTHERS, PROBLEMS, Problem, genz_sum
from scipy import integrate, special

import torch_mlcalc as mlc


def line(
    f: Callable[[float], float], low: float = 0.0, high: float = 1.0, *at: float
) -> float:
    points = list(at) or None
    return integrate.quad(
        f, low, high, epsabs=0, epsrel=1e-11, limit=500, points=points
    )[0]


def oscillatory(a: list[float], u: list[float]) -> float:
    total = cmath.exp(2j * math.pi * u[0])
    for c in a:
        real = line(lambda x, c=c: math.cos(c * x))
        total *= complex(real, line(lambda x, c=c: math.sin(c * x)))
    return total.real


def product_peak(a: list[float], u: list[float]) -> float:
    return math.prod(
        line(lambda x, c=c, v=v: 1 / (c**-2 + (x - v) ** 2), 0, 1, v)
        for c, v in zip(a, u, strict=True)
    )


def corner_peak(a: list[float]) -> float:
    # (1 + s)^-(d+1) is the Laplace transform of t^d / d!.
    d = len(a)

    def f(t: float) -> float:
        inner = math.prod(-math.expm1(-c * t) / (c * t) for c in a)
        return math.exp(d * math.log(t) - t - special.gammaln(d + 1)) * inner

    return line(f, 0, 400, 1, 5, 20, 60)


def gaussian(a: list[float], u: list[float]) -> float:
    return math.prod(
        line(lambda x, c=c, v=v: math.exp(-((c * (x - v)) ** 2)), 0, 1, v)
        for c, v in zip(a, u, strict=True)
    )


def continuous(a: list[float], u: list[float]) -> float:
    return math.prod(
        line(lambda x, c=c, v=v: math.exp(-c * abs(x - v)), 0, 1, v)
        for c, v in zip(a, u, strict=True)
    )


def discontinuous(a: list[float], u: list[float]) -> float:
    ends = [*u[:2], *[1.0] * (len(a) - 2)]
    return math.prod(
        line(lambda x, c=c: math.exp(c * x), 0, end)
        for c, end in zip(a, ends, strict=True)
    )


ORACLES = {
    "oscillatory": oscillatory,
    "product_peak": product_peak,
    "corner_peak": corner_peak,
    "gaussian": gaussian,
    "continuous": continuous,
    "discontinuous": discontinuous,
}


@pytest.mark.parametrize("row", GENZ, ids=lambda row: row.name)
def test_genz_values_are_products_of_integrals(row: Problem) -> None:
    oracle = ORACLES[row.name.split("-")[0]]
    exact = oracle(*(t.tolist() for t in row.theta))
    # The oscillatory one cancels: quad is right to 1e-11 of the integrand.
    assert float(row.value()) == pytest.approx(exact, rel=1e-8, abs=1e-11)


def two(f: Callable[..., float], *ranges: tuple[float, float]) -> float:
    return integrate.nquad(f, ranges, opts={"epsabs": 1e-10, "epsrel": 1e-10})[0]


INF = math.inf
VALUES = {
    "sine_of_sum-3d": lambda: (
        (
            (
                line(lambda x: math.cos(x), 0, 10)
                + 1j * line(lambda x: math.sin(x), 0, 10)
            )
            ** 3
        ).imag
    ),
    "normal-2d": lambda: math.prod(
        line(lambda x, m=m, s=s: math.exp(-(((x - m) / s) ** 2) / 2), -INF, INF)
        for m, s in ((0.3, 1.0), (-0.2, 0.7))
    ),
    "normal-3d": lambda: math.prod(
        line(lambda x, m=m, s=s: math.exp(-(((x - m) / s) ** 2) / 2), -INF, INF)
        for m, s in ((0.0, 1.0), (0.1, 0.8), (0.0, 1.2))
    ),
    "cauchy-2d": lambda: math.prod(
        line(lambda x, s=s: 1 / (1 + (x / s) ** 2), -INF, INF) for s in (1.0, 0.6)
    ),
    "decay-3d": lambda: math.prod(
        line(lambda x, r=r: math.exp(-r * x), 0, INF) for r in (1.0, 2.0, 0.7)
    ),
    "mixed-3d": lambda: (
        line(math.cos)
        * line(lambda x: math.exp(-1.5 * x), 0, INF)
        * line(lambda x: math.exp(-x * x / 2), -INF, INF)
    ),
    "dirichlet-2d": lambda: special.beta(2, 3.5) * special.beta(3, 0.5),
    "dirichlet-3d": lambda: (
        special.beta(1, 7.5) * special.beta(1.5, 6) * special.beta(2, 4)
    ),
    "disc": lambda: two(
        lambda y, x: x * x + y * y,
        lambda x: (-math.sqrt(1 - x * x), math.sqrt(1 - x * x)),
        (-1, 1),
    ),
    "root-2d": lambda: line(math.sqrt) * line(lambda x: x**1.5),
    "reversed-2d": lambda: (
        -line(lambda x: math.exp(-x)) * line(lambda x: math.exp(-2 * x))
    ),
}


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_other_values_agree_with_scipy(row: Problem) -> None:
    assert float(row.value()) == pytest.approx(VALUES[row.name](), rel=1e-9)


@pytest.mark.parametrize("row", PROBLEMS, ids=lambda row: row.name)
def test_gradients_are_those_of_the_value(row: Problem) -> None:
    for i, (theta, slope) in enumerate(zip(row.theta, row.gradient(), strict=True)):
        way = torch.cos(torch.arange(theta.numel(), dtype=torch.float64) + i)
        way = way.reshape(theta.shape)
        step = 1e-4
        ahead, behind = (
            row.exact(*row.theta[:i], theta + s * step * way, *row.theta[i + 1 :])
            for s in (1, -1)
        )
        expected = float((ahead - behind) / (2 * step))
        size = float(row.value().abs())
        assert float((slope * way).sum()) == pytest.approx(
            expected, rel=1e-5, abs=1e-6 * size
        )


def test_the_integrand_of_the_published_sum_is_the_sum() -> None:
    integrand, exact = genz_sum(2)
    value = integrate.nquad(
        lambda x, y: float(integrand(torch.tensor([[x, y]], dtype=torch.float64))),
        [(0, 1), (0, 1)],
        opts={"epsrel": 1e-6},
    )[0]
    assert float(exact()) == pytest.approx(value, rel=1e-6)


def test_names_are_unique() -> None:
    names = [row.name for row in PROBLEMS]
    assert len(set(names)) == len(names)
    assert all(isinstance(row.domain, mlc.Domain) for row in PROBLEMS)
