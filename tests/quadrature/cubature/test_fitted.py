"""Tensor rules that are fitted to what lines along the axes show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems_nd import FAMILIES, genz
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.quadrature.cubature.along import Lines, Probe, look_along
from torch_mlcalc.quadrature.cubature.climbed import Sum, Terms
from torch_mlcalc.quadrature.cubature.fitted import _measured as measured
from torch_mlcalc.quadrature.cubature.fitted import _sizes as sizes_for
from torch_mlcalc.quadrature.cubature.genz_malik import DEGREE, look_at_one
from torch_mlcalc.quadrature.cubature.genz_malik_table import symmetric_table
from torch_mlcalc.quadrature.cubature.grid import (
    absolute_of,
    marginals,
    means_of,
    nodes_of,
    values_on,
)
from torch_mlcalc.quadrature.cubature.parts import between as regions_of
from torch_mlcalc.quadrature.cubature.symmetric import Predicted, judge, on_all
from torch_mlcalc.quadrature.estimate import Tolerance

D = torch.float64


pytestmark = pytest.mark.usefixtures("double")


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
    ("product_peak", 5, 2.0, 1e-3, 30_000),
    ("product_peak", 5, 2.0, 1e-6, 600_000),
    ("gaussian", 5, 1.0, 1e-6, 8_000),
    ("oscillatory", 8, 2.0, 1e-3, 25_000),
    ("corner_peak", 5, 2.0, 1e-3, 1_700),
    ("corner_peak", 8, 2.0, 1e-3, 30_000),
    ("continuous", 5, 1.0, 1e-6, 120_000),
    ("discontinuous", 5, 1.0, 1e-3, 8_000),
    ("continuous", 8, 0.3, 1e-3, 100_000),
    # What lines show of the rule of 263 or 1089 nodes.
    ("oscillatory", 5, 1.0, 1e-3, 1_100),
    ("product_peak", 5, 0.3, 1e-6, 1_100),
    ("gaussian", 8, 1.0, 1e-3, 2_400),
    # Lines beside the rule of 15 nodes, and no second look.
    ("product_peak", 2, 2.0, 1e-3, 1_700),
    ("continuous", 2, 0.3, 1e-3, 2_000),
    # Lines beside the rule of 13 nodes, or of 8 where that may do.
    ("product_peak", 3, 2.0, 1e-3, 7_500),
    ("gaussian", 3, 1.0, 1e-3, 900),
    # The first tensor rules on the parts, and no lines on these.
    ("continuous", 3, 0.3, 1e-3, 2_100),
    # Two looks more at jumps, on the plane one.
    ("discontinuous", 3, 1.0, 1e-3, 5_300),
    ("discontinuous", 2, 0.3, 1e-3, 3_100),
]


@pytest.mark.parametrize(
    ("family", "d", "difficulty", "rtol", "most"),
    ROWS,
    ids=[f"{row[0]}-{row[1]}d-{row[2]:g}-{row[3]:g}" for row in ROWS],
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


def along_both(x: Tensor) -> Tensor:
    return 2 + torch.sin(12 * (x[..., 0] - 0.5) * (x[..., 1] - 0.5))


def between(x: Tensor) -> Tensor:
    return 1 + torch.cos(6 * (x[..., 0] - x[..., 1]))


@pytest.mark.parametrize("f", [*OTHERS.values(), along_both, between])
@pytest.mark.parametrize("rtol", [1e-1, 1e-3])
def test_nor_is_it_in_many_dimensions(f: object, rtol: float) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(600)
    t, w = torch.tensor((1 + nodes) / 2), torch.tensor(weights / 2)
    exact = w @ f(torch.cartesian_prod(t, t)).reshape(600, 600) @ w
    estimate = mlc.integrate_with_error(
        lambda x: f(x[..., :2]),
        mlc.Box(0.0, 1.0, 5),
        rtol=rtol,
        on_failure="ignore",
        max_evals=200_000,
    )
    if estimate.status == mlc.Status.CONVERGED:
        assert abs(estimate.value - exact) <= (rtol + 1e-6) * abs(exact)


@pytest.mark.parametrize("d", [4, 5, 8])
@pytest.mark.parametrize("rate", [0.5, 1.0, 2.0])
def test_lines_bound_the_error_of_the_symmetric_rule(d: int, rate: float) -> None:
    # Of a product the lines tell all.
    f = lambda x: np.exp(rate * x).prod(1)  # noqa: E731
    exact = (math.expm1(rate) / rate) ** d
    table = symmetric_table(DEGREE, d)
    looked = look_at_one(table, f(table.nodes), 1.0, 2.0**-52)
    assert looked is not None
    missed = abs(looked.total.value / exact - 1)
    parts = [[0.0, 1.0]] * d
    lines = look_along(probe_of(f, d), np.full((1, d), 0.4), parts, looked.total)
    assert missed <= judge(looked, lines)[0] <= max(1e-13, 2e3 * missed)
    # The more the rules of lower degree differ from it, the less is it believed.
    doubtful = looked._replace(first=1e3 * looked.first, second=1e3 * looked.second)
    assert judge(doubtful, lines)[0] > 1e3 * judge(looked, lines)[0]
    # Where they agree by accident, not all of it is believed.
    agreed = looked._replace(first=0.0, second=0.0)
    assert judge(agreed, lines)[0] > 0


def test_sizes_on_parts_are_not_those_of_the_integrals() -> None:
    table, parts = symmetric_table(DEGREE, 4), [[0.0, 0.5, 1.0], *[[0.0, 1.0]] * 3]
    weighted = np.sign(table.weights)
    known = Predicted(0.0, 1.0, 1.0)
    for f, values, size in (
        (lambda x: x[:, 0] - 0.25, (0.0, 0.25), (0.0625, 0.25)),
        # Weights are of either sign: their sum is less than the integral.
        (lambda x: np.tile(weighted, 2), [np.abs(table.weights).sum() / 2] * 2, None),
    ):
        found = on_all(probe_of(f, 4), parts, known)
        np.testing.assert_allclose(found.columns[0], values, atol=1e-15)
        wanted = np.abs(values) if size is None else size
        np.testing.assert_allclose(found.columns[2], wanted, rtol=0.3)


def test_large_errors_of_axes_are_multiplied() -> None:
    errors = np.array([[9.0, 0.2, 0.01], [9.0, 0.2, 0.01]])
    assert sizes_for(errors, 0.45) == (2, 2)
    # Their sum is 0.4, and the error of a product 1.2 ** 2 - 1.
    assert sizes_for(errors, 0.42) == (3, 2)
    assert sizes_for(errors, 0.001) is None


def test_a_rule_corrects_what_lines_predict() -> None:
    f = lambda x: np.exp(x @ np.array([1.0, -2.0, 0.5]))  # noqa: E731
    exact = math.prod(math.expm1(r) / r for r in (1.0, -2.0, 0.5))
    seen = Sum(exact, 0.0, exact)
    lines = look_along(probe_of(f, 3), np.full((1, 3), 0.4), [[0.0, 1.0]] * 3, seen)
    errors = []
    for factor in (1.0, 0.01, 5.0):
        own = Lines(factor * lines.each, factor * lines.missing, lines.line)
        cube = [[0.0, 1.0]] * 3
        total, _, _ = measured(probe_of(f, 3), cube, (3, 4, 3), own)
        missed = abs(total.value - exact)
        assert missed <= total.tail
        errors.append(total.tail)
    # What lines show too little of is doubted more than it is too little; of what they
    # show too much of, a part is seen.
    assert errors[1] > 10 * errors[0]
    assert errors[2] < 1.1 * errors[0]


def test_a_grid_is_the_same_in_blocks() -> None:
    f = lambda x: np.exp(x @ np.array([1.0, -2.0, 0.5]))  # noqa: E731
    for ends in ([[0.0, 0.2, 1.0], [0.0, 1.0], [0.0, 0.5, 1.0]], [[0.0, 1.0]] * 3):
        whole, blocks = probe_of(f, 3), probe_of(f, 3)
        blocks.block, regions = 7, regions_of(ends)
        one = values_on(whole, ends, (5, 4, 3), (4, 3, 2))
        other = values_on(blocks, ends, (5, 4, 3), (4, 3, 2))
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-15)
        exact = np.ones(len(regions.owner))
        for axis, rate in enumerate((1.0, -2.0, 0.5)):
            ends = np.exp(rate * regions.high) - np.exp(rate * regions.low)
            width = regions.high - regions.low
            exact *= (ends / (rate * width))[:, axis]
        means, tails = marginals(one[1], (5, 4, 3))
        np.testing.assert_allclose(means, exact, rtol=1e-4)
        np.testing.assert_allclose(means_of(one[1], (5, 4, 3)), means, rtol=1e-14)
        signed = one[1] - 1
        size = means_of(np.abs(signed), (5, 4, 3))
        known = absolute_of(signed, (5, 4, 3), means - 1)
        np.testing.assert_allclose(known, size, rtol=1e-13)
        assert (absolute_of(-one[1], (5, 4, 3), -means) > 0).all()
        # Fewer nodes resolve less, but the coefficient of degree 1 is always there.
        fewer = marginals(one[0], (4, 3, 2)).tails
        assert (tails[:2] < fewer[:2]).all()
        np.testing.assert_allclose(tails[2], fewer[2], rtol=1e-2)


def test_sums_over_a_large_grid_are_those_over_a_small_one() -> None:
    sizes = (12, 13, 11, 7)
    nodes = nodes_of(sizes).reshape(4, *sizes)
    values = np.stack([np.exp(nodes[0] - nodes[1]) * nodes[2], nodes[2] * nodes[3]])
    values = values.reshape(2, -1)
    each = [marginals(own[None], sizes) for own in values]
    found = marginals(values, sizes)
    np.testing.assert_allclose(found.means, [np.cosh(1) - 1, 0.25], rtol=1e-13)
    np.testing.assert_allclose(means_of(values, sizes), found.means, rtol=1e-13)
    tails = np.concatenate([own.tails for own in each], 1)
    np.testing.assert_allclose(found.tails, tails, atol=1e-15)
    assert found.tails.max() < 1e-9
    # On three nodes the slope of the first axis; that of the other is 0.
    few = np.exp(nodes_of((3, 2))[0])[None]
    u, w = np.polynomial.legendre.leggauss(3)
    slope = 1.5 * (w * u) @ np.exp((1 + u) / 2)
    np.testing.assert_allclose(marginals(few, (3, 2)).tails, [[slope], [0]], atol=1e-15)


def test_the_lines_of_parts_are_those_of_the_whole() -> None:
    # A smooth function, so that a cut changes nothing but by rounding.
    f = lambda x: np.exp(x @ np.array([1.0, -2.0, 0.5]))  # noqa: E731
    base, seen = np.full((2, 3), 0.4), Sum(1.0, 0.0, 1.0)
    parts = [[0.0, 0.3, 1.0], [0.0, 1.0], [0.0, 0.5, 1.0]]
    cut = look_along(probe_of(f, 3), base, parts, seen)
    for axis, rate in enumerate((1.0, -2.0, 0.5)):
        # The largest Legendre coefficient is the mean of each part.
        mean = math.expm1(rate) / rate
        others = f(np.array([[0.4, 0.4, 0.4]]))[0] / math.exp(0.4 * rate)
        size = max(mean * others, 1.0)
        np.testing.assert_allclose(cut.sizes[axis, 0], mean * others / size, rtol=1e-12)


@pytest.mark.parametrize("family", ["gaussian", "continuous"])
def test_single_precision(family: str) -> None:
    torch.set_default_dtype(torch.float32)
    row = FAMILIES[family]
    a, u = torch.tensor([6.0, 3.0, 4.0]), torch.tensor([0.3, 0.6, 0.4])
    value = mlc.integrate(lambda x: row[0](x, a, u), mlc.Box(0, 1, 3), rtol=1e-3)
    assert value.dtype == torch.float32
    assert abs(float(value / row[1](a, u)) - 1) < 1e-3


@pytest.mark.parametrize(
    ("family", "d", "difficulty"), [("gaussian", 5, 1.0), ("continuous", 3, 0.3)]
)
def test_the_gradient_is_that_of_the_fitted_rule(
    family: str, d: int, difficulty: float
) -> None:
    row = genz(family, d, difficulty)
    theta = tuple(t.clone().requires_grad_() for t in row.theta)
    f = lambda x: row.integrand(x, *theta)  # noqa: E731
    at_once = mlc.integrate(f, row.domain, rtol=1e-3)
    estimate = mlc.integrate_with_error(f, row.domain, rtol=1e-3)
    replayed = mlc.integrate(f, row.domain, estimate.plan)
    for value in (at_once, estimate.value, replayed):
        torch.testing.assert_close(value, at_once, rtol=1e-12, atol=0)
        found = torch.autograd.grad(value, theta)
        for slope, wanted in zip(found, row.gradient(), strict=True):
            size = wanted.abs().max() + row.value().abs()
            assert (slope - wanted).abs().max() <= 1e-2 * size
