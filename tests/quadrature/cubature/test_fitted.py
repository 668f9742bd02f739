"""Tensor rules that are fitted to what lines along the axes show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems_nd import FAMILIES, genz
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.quadrature.cubature.along import Probe, look_along
from torch_mlcalc.quadrature.cubature.climbed import Sum, Terms
from torch_mlcalc.quadrature.estimate import Tolerance

D = torch.float64


@pytest.fixture(autouse=True)
def _double() -> object:
    before = torch.get_default_dtype()
    torch.set_default_dtype(D)
    yield
    torch.set_default_dtype(before)


def probe_of(f: object, d: int, budget: int = 10**6) -> Probe:
    terms = Terms(d, Tolerance.of(1e-6, None, D), 2.0**-52)
    return Probe(f, terms, 1.0, budget, 10_000)


def test_the_errors_of_rules_are_bounded() -> None:
    # exp(3 x) on the first axis, which a rule of n nodes misses by a known amount; a
    # polynomial of degree 5 on the second, which needs 3 nodes.
    f = lambda x: np.exp(3 * x[:, 0]) * (1 + x[:, 1] ** 5)  # noqa: E731
    size = math.expm1(3) / 3 * 7 / 6
    parts = [[0.0, 1.0], [0.0, 1.0]]
    bases = np.array([[0.9, 0.9], [0.2, 0.3]])
    lines = look_along(probe_of(f, 2), bases, parts, Sum(size, 0.0, size))
    for n in range(1, 6):
        nodes, weights = np.polynomial.legendre.leggauss(n)
        found = (weights / 2) @ np.exp(1.5 * (1 + nodes))
        missed = abs(found / (math.expm1(3) / 3) - 1)
        assert missed <= lines.errors[0, n - 1] <= 2 * missed + 1e-10
    assert lines.errors[1, 1] > 1e-4
    assert lines.errors[1, 2:].max() < 1e-10
    assert lines.unseen.max() < 1e-10


def test_what_is_not_smooth_is_not_resolved() -> None:
    f = lambda x: np.abs(x[:, 0] - 0.3) + x[:, 1]  # noqa: E731
    base = np.array([[0.9, 0.9]])
    seen = Sum(1.0, 0.0, 1.0)
    whole = look_along(probe_of(f, 2), base, [[0.0, 1.0], [0.0, 1.0]], seen)
    assert whole.unseen[0] > 1e-3
    assert whole.unseen[1] < 1e-10
    cut = look_along(probe_of(f, 2), base, [[0.0, 0.3, 1.0], [0.0, 1.0]], seen)
    assert cut.unseen.max() < 1e-10


def test_no_more_than_the_budget() -> None:
    probe = probe_of(lambda x: x[:, 0], 2, budget=100)
    assert probe(np.zeros((60, 2))) is not None
    assert probe(np.zeros((60, 2))) is None
    assert probe.spent == 60


def test_an_axis_has_the_nodes_that_it_needs() -> None:
    f = lambda x: 1 / (0.1 + (x[..., 0] - 0.4) ** 2) * (1 + x[..., 1:].sum(-1))  # noqa: E731
    estimate = mlc.integrate_with_error(f, mlc.Box(0.0, 1.0, 5), rtol=1e-6)
    root = math.sqrt(0.1)
    exact = (math.atan(0.6 / root) + math.atan(0.4 / root)) / root * 3
    assert abs(float(estimate.value) / exact - 1) < 1e-6
    # Two nodes on each of four axes.
    assert estimate.plan.n % 16 == 0
    assert estimate.plan.n < 1_000


ROWS = [
    ("product_peak", 5, 2.0, 1e-3, 80_000),
    ("gaussian", 5, 1.0, 1e-6, 30_000),
    ("oscillatory", 8, 2.0, 1e-3, 150_000),
    ("corner_peak", 8, 2.0, 1e-3, 150_000),
    ("continuous", 5, 1.0, 1e-6, 400_000),
    ("discontinuous", 5, 1.0, 1e-3, 20_000),
    ("continuous", 8, 0.3, 1e-3, 150_000),
]


@pytest.mark.parametrize(
    ("family", "d", "difficulty", "rtol", "most"),
    ROWS,
    ids=[f"{row[0]}-{row[1]}d-{row[2]:g}" for row in ROWS],
)
def test_few_points_are_enough(
    family: str, d: int, difficulty: float, rtol: float, most: int
) -> None:
    row = genz(family, d, difficulty)
    f = lambda x: row.integrand(x, *row.theta)  # noqa: E731
    estimate = mlc.integrate_with_error(f, row.domain, rtol=rtol)
    exact = row.value()
    assert abs(estimate.value - exact) <= rtol * abs(exact)
    assert estimate.n_evals < most
    value = mlc.integrate(f, row.domain, rtol=rtol)
    torch.testing.assert_close(value, estimate.value, rtol=1e-12, atol=0)


def askew(x: Tensor) -> Tensor:
    return (x[..., 0] + 0.7 * x[..., 1] - 0.8).abs()


def waves(x: Tensor) -> Tensor:
    return torch.sin(40 * x[..., 0] * x[..., 1])


def ring(x: Tensor) -> Tensor:
    return torch.exp(-200 * ((x - 0.5).square().sum(-1) - 0.1).square())


#: What no line along an axis shows as it is.
OTHERS = {"kink": askew, "waves": waves, "ring": ring}


@pytest.mark.parametrize("f", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_what_lines_do_not_show_is_not_claimed(f: object, rtol: float) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(600)
    t, w = torch.tensor((1 + nodes) / 2), torch.tensor(weights / 2)
    exact = w @ f(torch.cartesian_prod(t, t)).reshape(600, 600) @ w
    estimate = mlc.integrate_with_error(
        f, mlc.Box(0.0, 1.0, 2), rtol=rtol, on_failure="ignore"
    )
    assert estimate.status == mlc.Status.CONVERGED
    assert abs(estimate.value - exact) <= (rtol + 1e-6) * abs(exact)


def test_single_precision() -> None:
    torch.set_default_dtype(torch.float32)
    row = FAMILIES["gaussian"]
    a, u = torch.tensor([6.0, 3.0, 4.0]), torch.tensor([0.3, 0.6, 0.4])
    value = mlc.integrate(lambda x: row[0](x, a, u), mlc.Box(0, 1, 3), rtol=1e-3)
    assert value.dtype == torch.float32
    assert abs(float(value / row[1](a, u)) - 1) < 1e-3


def test_the_gradient_is_that_of_the_fitted_rule() -> None:
    row = genz("gaussian", 5, 1.0)
    theta = tuple(t.clone().requires_grad_() for t in row.theta)
    f = lambda x: row.integrand(x, *theta)  # noqa: E731
    at_once = mlc.integrate(f, row.domain, rtol=1e-3)
    searched = mlc.integrate_with_error(f, row.domain, rtol=1e-3).value
    for value in (at_once, searched):
        found = torch.autograd.grad(value, theta)
        for slope, wanted in zip(found, row.gradient(), strict=True):
            size = wanted.abs().max() + row.value().abs()
            assert (slope - wanted).abs().max() <= 1e-2 * size
