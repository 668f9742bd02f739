"""Tables of the deterministic rules: exact up to their degree, and not beyond."""

import itertools
import math

import numpy as np
import pytest
import torch

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.cubature.genz_malik_table import (
    count_nodes,
    symmetric_table,
)

F64 = torch.float64
NONE = torch.ones(0)


def monomials(degree: int, dimension: int) -> list[tuple[int, ...]]:
    every = itertools.product(range(degree + 1), repeat=dimension)
    return [m for m in every if sum(m) == degree]


def moment(exponents: tuple[int, ...]) -> float:
    """Integral of a monomial over [-1, 1]^d, divided by the volume."""
    return math.prod(0.0 if k % 2 else 1 / (k + 1) for k in exponents)


@pytest.mark.parametrize("degree", [7, 9])
@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5])
def test_genz_malik_is_exact_up_to_its_degree(degree: int, dimension: int) -> None:
    table = symmetric_table(degree, dimension)
    nodes = 2 * table.nodes - 1
    for total in range(degree + 2):
        worst = max(
            abs(table.weights @ np.prod(nodes ** np.array(m), 1) - moment(m))
            for m in monomials(total, dimension)
        )
        if total <= degree:
            assert worst < 1e-13
        else:
            assert worst > 1e-5


@pytest.mark.parametrize("degree", [7, 9])
@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
def test_embedded_rules_differ_from_their_degree_on(
    degree: int, dimension: int
) -> None:
    table = symmetric_table(degree, dimension)
    nodes = 2 * table.nodes - 1
    for row, exact in zip(table.differences, (degree - 2, degree - 4), strict=True):
        for total in range(exact + 2):
            worst = max(
                abs(row @ np.prod(nodes ** np.array(m), 1))
                for m in monomials(total, dimension)
            )
            assert worst < 1e-12 if total <= exact else worst > 1e-4


@pytest.mark.parametrize("degree", [7, 9])
@pytest.mark.parametrize("dimension", [1, 2, 3, 5, 8])
def test_genz_malik_counts_its_nodes(degree: int, dimension: int) -> None:
    nodes = symmetric_table(degree, dimension).nodes
    assert len(nodes) == count_nodes(degree, dimension)
    assert ((nodes > 0) & (nodes < 1)).all()
    assert len(np.unique(nodes.round(12), axis=0)) == len(nodes)


@pytest.mark.parametrize("degree", [7, 9])
def test_fourth_differences_see_only_their_axis(degree: int) -> None:
    table = symmetric_table(degree, 3)
    nodes = 2 * table.nodes - 1
    for axis in range(3):
        powers = table.fourth[axis] @ nodes[:, [axis]] ** np.arange(6)
        assert np.abs(powers[:4]).max() < 1e-14
        assert abs(powers[4]) > 0.01
        other = (axis + 1) % 3
        assert abs(table.fourth[axis] @ nodes[:, other] ** 4) < 1e-14


def box(dimension: int) -> q.Box:
    return q.Box(-torch.ones(dimension, dtype=F64), torch.ones(dimension, dtype=F64))


def error_of(rule: q.Rule, exponents: tuple[int, ...]) -> float:
    powers = torch.tensor(exponents)
    value = q.integrate(lambda x: (x**powers).prod(-1), box(len(exponents)), rule)
    return abs(float(value) / 2 ** len(exponents) - moment(exponents))


@pytest.mark.parametrize("level", [0, 1, 2, 3])
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_sparse_grids_are_exact_up_to_their_degree(level: int, dimension: int) -> None:
    degree = 2 * level + 1
    rule = q.SparseGrid(level)
    for total in range(degree + 1):
        for m in monomials(total, dimension):
            assert error_of(rule, m) < 1e-13
    beyond = [error_of(rule, m) for m in monomials(degree + 1, dimension)]
    # On one axis a Clenshaw-Curtis rule of 5 or 9 nodes does more.
    assert max(beyond) > 1e-3 or dimension == 1


@pytest.mark.parametrize("weights", [None, (1, 2, 3), (1.5, 1, 1)])
@pytest.mark.parametrize("level", [0, 1, 4])
def test_sparse_grids_count_their_nodes(
    level: int, weights: tuple[float, ...] | None
) -> None:
    rule, points = q.SparseGrid(level, weights), []

    def f(x: torch.Tensor) -> torch.Tensor:
        points.append(x)
        return torch.ones_like(x[..., 0])

    assert float(q.integrate(f, box(3), rule)) == pytest.approx(8)
    every = torch.cat(points)
    assert len(every) == rule.count(3)
    assert len(torch.unique(every.round(decimals=12), dim=0)) == len(every)


def test_weights_of_a_sparse_grid_favour_an_axis() -> None:
    plain, favoured = q.SparseGrid(4), q.SparseGrid(4, (1, 4))
    assert favoured.count(2) < plain.count(2)
    assert error_of(favoured, (8, 0)) < 1e-13
    assert error_of(favoured, (0, 4)) > 1e-3


def test_a_product_is_exact_on_every_axis_up_to_its_rule() -> None:
    rule = q.Product(q.GaussLegendre(2), q.Simpson(5), q.ClenshawCurtis(7))
    assert rule.count(3) == 70
    for exponents in [(3, 3, 7), (2, 2, 6), (0, 0, 0)]:
        assert error_of(rule, exponents) < 1e-13
    for exponents in [(4, 0, 0), (0, 4, 0), (0, 0, 8)]:
        assert error_of(rule, exponents) > 1e-4


def test_a_product_carries_the_measures_of_its_axes() -> None:
    domain = q.Box([0.0, -math.inf, 1.0], [1.0, math.inf, math.inf])
    rule = q.Product(q.GaussJacobi(6, -0.5, 0.0), q.GaussHermite(9), q.GaussLaguerre(7))

    def f(x: torch.Tensor) -> torch.Tensor:
        u, v, w = x.double().unbind(-1)
        return u**2 / torch.sqrt(1 - u) * v**4 * torch.exp(-v * v / 2 - w) * w**3

    exact = 16 / 15 * 3 * math.sqrt(2 * math.pi) * 16 * math.exp(-1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        assert float(q.integrate(f, domain, rule)) == pytest.approx(exact, rel=1e-11)
    finally:
        torch.set_default_dtype(before)


def test_a_grid_larger_than_a_block_is_never_held() -> None:
    most = total = 0

    def f(x: torch.Tensor) -> torch.Tensor:
        nonlocal most, total
        most, total = max(most, len(x)), total + len(x)
        return torch.exp(x.sum(-1))

    value = q.integrate(f, box(4), q.Product(q.GaussLegendre(30)))
    assert total == 30**4
    assert most * 4 * 8 <= 2**19
    assert float(value) == pytest.approx((math.e - 1 / math.e) ** 4, rel=1e-12)


@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_the_simplex_has_its_volume_and_coordinates(dimension: int) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] == dimension + 1
        assert torch.allclose(x.sum(-1), torch.ones_like(x[..., 0]))
        assert (x >= 0).all()
        return torch.ones_like(x[..., 0])

    rule = q.Product(q.GaussLegendre(12))
    value = q.integrate(f, q.Simplex(dimension), rule)
    assert float(value) == pytest.approx(1 / math.factorial(dimension), rel=1e-5)


@pytest.mark.parametrize("rule", [None, q.Product(q.GaussLegendre(3))], ids=str)
def test_none_of_a_simplex_has_all_its_coordinates(rule: q.Rule | None) -> None:
    value = q.integrate(lambda x, a: a * x[..., 2], q.Simplex(2), rule, args=(NONE,))
    assert value.shape == (0,)


def test_a_simplex_in_half_precision_is_only_rounded() -> None:
    points = []

    def f(x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        points.append(x)
        return c * x.sum(-1)

    for dtype in (torch.float16, F64):
        c = torch.ones((), dtype=dtype)
        q.integrate(f, q.Simplex(3), q.Lattice(64, 4), args=(c,))
    half, double = points
    assert half.dtype == torch.float16
    # Half a unit in the last place, or in that of the smallest number there is.
    torch.testing.assert_close(half.double(), double, rtol=2**-11, atol=2**-25)


def test_a_dirichlet_density_normalises_as_it_is() -> None:
    alpha = torch.tensor([[2.0, 3.0, 0.5], [1.0, 1.5, 4.0]], dtype=F64)
    density = torch.distributions.Dirichlet(alpha)
    value = q.log_integrate(
        density.log_prob, q.Simplex(2), args=(), batch_shape=(2,), rtol=1e-6
    )
    assert value.abs().max() < 1e-6
