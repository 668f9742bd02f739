"""Which nodes a distribution function has by rules of all kinds, and none twice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

import torch_mlcalc as mlc
from tests.density.test_cdf import CIRCLE, HALF, LINE, UNIT, Counted
from torch_mlcalc.density import panels
from torch_mlcalc.density.rule_nodes import columns_of_rule, polynomial
from torch_mlcalc.quadrature.pieces import make_pieces
from torch_mlcalc.quadrature.rules import table

DOUBLE = torch.float64
BELOW = mlc.Interval(-math.inf, torch.tensor(1.0, dtype=DOUBLE))


class Case(NamedTuple):
    """A density, its distribution function, and a rule whose nodes carry both."""

    name: str
    log_density: Callable[[Tensor], Tensor]
    domain: mlc.Domain
    rule: mlc.Rule
    cdf: Callable[[np.ndarray], np.ndarray]


def quadratic(x: Tensor) -> Tensor:
    return 2 * x.log() + torch.log1p(-x)


def shifted(x: Tensor) -> Tensor:
    return -((x - 1) ** 2) / 2


def newton_cotes(n: int) -> mlc.Rule:
    nodes = np.linspace(-1, 1, n)
    moments = [(1 - (-1) ** (k + 1)) / (k + 1) for k in range(n)]
    weights = np.linalg.solve(np.vander(nodes, increasing=True).T, moments)
    return mlc.TabulatedRule(nodes, weights, n - 1)


BETA = scipy.stats.beta(3, 2).cdf
CASES = [
    Case("polynomial", quadratic, UNIT, mlc.GaussLegendre(6), BETA),
    Case("few panels", quadratic, UNIT, mlc.GaussLegendre(23), BETA),
    Case("clenshaw curtis", quadratic, UNIT, mlc.ClenshawCurtis(9), BETA),
    Case("a table", quadratic, UNIT, newton_cotes(7), BETA),
    Case("circle", lambda x: 4 * x.cos(), CIRCLE, mlc.GaussLegendre(64),
         scipy.stats.vonmises(4).cdf),
    Case("circle, curtis", lambda x: 4 * x.cos(), CIRCLE, mlc.ClenshawCurtis(65),
         scipy.stats.vonmises(4).cdf),
    Case("half line", lambda x: x.log() - 2 * x, HALF, mlc.GaussLegendre(150),
         scipy.stats.gamma(2, scale=0.5).cdf),
    Case("downwards", lambda x: (1 - x).log() + 2 * x, BELOW, mlc.GaussLegendre(150),
         lambda x: scipy.stats.gamma(2, scale=0.5).sf(1 - x)),
    Case("line", shifted, LINE, mlc.GaussLegendre(200), scipy.stats.norm(1).cdf),
]  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda c: c.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def test_the_nodes_of_a_rule_carry_its_distribution_function(case: Case) -> None:
    counted = Counted(case.log_density)
    p = mlc.NormalizedDensity(counted, case.domain, case.rule)
    _ = p.log_normalizer
    _ = p._quantiles
    assert len(counted.points) == case.rule.n
    u = torch.linspace(0.001, 0.999, 41, dtype=DOUBLE)
    x = p.icdf(u)
    torch.testing.assert_close(p.cdf(x), u, rtol=0, atol=1e-11)
    exact = torch.from_numpy(case.cdf(x.numpy()))
    torch.testing.assert_close(u, exact, rtol=0, atol=1e-11)
    low, high = (float(t) for t in case.domain.extent[:2])
    assert p.cdf(torch.tensor([low, high], dtype=DOUBLE)).tolist() == [0, 1]
    ends = torch.linspace(-3, 5, 4001, dtype=DOUBLE).clamp(low, high)
    assert p.cdf(ends).diff().min() >= -1e-14


def test_gradients_through_the_polynomial_of_a_rule() -> None:
    rate = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([0.2, 0.7], dtype=DOUBLE, requires_grad=True)
    p = mlc.NormalizedDensity(
        lambda x, rate: -rate * x, UNIT, mlc.GaussLegendre(30), args=(rate,)
    )
    exact = torch.expm1(-rate * x) / torch.expm1(-rate)
    mlc.testing.check_gradients(lambda rate, x: mlc.NormalizedDensity(
        lambda t, k: -k * t, UNIT, mlc.GaussLegendre(30), args=(rate,)
    ).cdf(x), (rate, x), vmap=False, compile=False)  # fmt: skip
    ours = p.cdf(x)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-13)
    for inputs in (rate, x):
        mine, theirs = (
            torch.autograd.grad(v.sum(), inputs, retain_graph=True)[0]
            for v in (ours, exact)
        )
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=0)
    u = exact.detach()
    quantile = -torch.log1p(torch.expm1(-rate) * u) / rate
    (mine,) = torch.autograd.grad(p.icdf(u).sum(), rate)
    (theirs,) = torch.autograd.grad(quantile.sum(), rate)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=0)


def test_a_batch_on_ranges_of_every_kind_and_one_without_mass() -> None:
    lower = torch.tensor([0.0, 0.0, -math.inf, -math.inf, 0.0], dtype=DOUBLE)
    upper = torch.tensor([1.0, math.inf, 0.0, math.inf, 1.0], dtype=DOUBLE)
    none = torch.tensor([0.0, 0.0, 0.0, 0.0, -math.inf], dtype=DOUBLE)

    def log_density(x: Tensor, none: Tensor) -> Tensor:
        return -2 * x.abs() - x * x + none

    p = mlc.NormalizedDensity(
        log_density, mlc.Interval(lower, upper), mlc.GaussLegendre(160),
        args=(none,), on_failure="ignore", validate_args=False,
    )  # fmt: skip
    other = mlc.NormalizedDensity(
        log_density, mlc.Interval(lower, upper), args=(none,), on_failure="ignore",
        validate_args=False,
    )  # fmt: skip
    x = torch.tensor([-1.0, -0.2, 0.1, 0.6], dtype=DOUBLE)[:, None].expand(4, 5)
    # A rule on the whole line does not see the kink at 0 as breakpoints would.
    ours, theirs = p.cdf(x), other.cdf(x)
    torch.testing.assert_close(ours[:, :3], theirs[:, :3], rtol=0, atol=1e-10)
    torch.testing.assert_close(ours[:, 3], theirs[:, 3], rtol=0, atol=1e-3)
    assert p.icdf(torch.full((5,), 0.5, dtype=DOUBLE)).isnan().tolist() == [
        False
    ] * 4 + [True]


RULES: list[tuple[mlc.Rule, Callable[[Tensor], Tensor], mlc.Domain, float]] = [
    # Too few nodes for the polynomial, although the rule is right to 1e-8.
    (mlc.GaussLegendre(16), lambda x: x.cos() + x / 5, CIRCLE, 1e-9),
    (mlc.GaussLegendre(1100), shifted, LINE, 1e-9),
    (mlc.Simpson(101), quadratic, UNIT, 1e-9),
    (mlc.Trapezoid(101), lambda x: 4 * x.cos(), CIRCLE, 1e-9),
    (mlc.GaussHermite(32), shifted, LINE, 1e-9),
    (mlc.GaussLaguerre(16), lambda x: -x, HALF, 1e-9),
    (mlc.GaussJacobi(16, 0.5, 0.5), lambda x: (x * (1 - x)).log() / 2, UNIT, 1e-9),
    (mlc.AdaptiveGaussHermite(), shifted, LINE, 1e-9),
    (mlc.AdaptiveGaussHermite(5), shifted, LINE, 1e-9),
]  # fmt: skip


def evaluate_everything(p: mlc.NormalizedDensity) -> None:
    u = torch.tensor([0.123, 0.5, 0.912], dtype=DOUBLE)
    for _ in range(2):
        x = p.icdf(u)
        p.cdf(x)
        for value in (p.mean, p.variance, p.stddev, p.mode, p.entropy()):
            assert value.isfinite()
        assert p.status == 0
        assert p.log_normalizer.isfinite()


@pytest.mark.parametrize(
    ("rule", "log_density", "domain", "atol"), RULES, ids=[str(r[0]) for r in RULES]
)
def test_panels_of_their_own_are_few(
    rule: mlc.Rule,
    log_density: Callable[[Tensor], Tensor],
    domain: mlc.Domain,
    atol: float,
) -> None:
    counted = Counted(log_density)
    p = mlc.NormalizedDensity(counted, domain, rule)
    _ = p.log_normalizer
    first = len(counted.points)
    _ = p._quantiles
    assert 0 < len(counted.points) - first <= 400
    u = torch.linspace(0.01, 0.99, 21, dtype=DOUBLE)
    x = mlc.NormalizedDensity(log_density, domain).icdf(u)
    torch.testing.assert_close(p.cdf(x), u, rtol=0, atol=atol)


EVERY = [r[:3] for r in RULES if r[0] != mlc.GaussLegendre(1100)] + [
    (rule, log_density, domain)
    for rule in (None, mlc.GaussKronrod(), mlc.GaussLegendre(48))
    for log_density, domain in [(quadratic, UNIT)]
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "log_density", "domain"), EVERY, ids=[str(r[0]) for r in EVERY]
)
def test_nothing_is_evaluated_twice_until_parameters_change(
    rule: mlc.Rule | None, log_density: Callable[[Tensor], Tensor], domain: mlc.Domain
) -> None:
    slope = torch.tensor(0.1, dtype=DOUBLE)
    counted = Counted(lambda x: log_density(x) + slope * x / (1 + x * x))
    p = mlc.NormalizedDensity(counted, domain, rule, on_failure="ignore")
    evaluate_everything(p)
    found = len(counted.points)
    # But for what fills up cells, a look whether there is a gradient, and ends.
    assert sum(k > 1 for k in Counter(counted.points).values()) <= 6
    evaluate_everything(p)
    assert len(counted.points) == found
    p.log_prob(torch.full((3,), 0.5, dtype=DOUBLE))
    assert len(counted.points) == found + 3
    before = p.mean
    with torch.no_grad():
        slope += 0.5
    evaluate_everything(p)
    assert len(counted.points) > found + 3
    assert p.mean != before


def test_a_batch_that_is_not_looked_up_is_not_evaluated_again() -> None:
    rate, calls = torch.tensor([1.0, 2.0, 3.0], dtype=DOUBLE), []

    def log_density(x: Tensor, rate: Tensor) -> Tensor:
        calls.append(x.numel())
        return -rate * x

    p = mlc.NormalizedDensity(log_density, UNIT, args=(rate,))
    for second in (False, True):
        calls.clear()
        values = [p.log_normalizer, p.mean, p.variance, p.mode, p.entropy()]
        assert p.cdf(values[1]).isfinite().all()
        assert (sum(calls) == 0) == second


def test_singular_ends_that_a_fixed_rule_does_not_see() -> None:
    p = mlc.NormalizedDensity(
        lambda x: -(x.log() + torch.log1p(-x)) / 2, UNIT, mlc.GaussLegendre(200),
        on_failure="ignore",
    )  # fmt: skip
    x = torch.tensor([1e-6, 0.1, 0.5, 0.99], dtype=DOUBLE)
    exact = 2 / math.pi * x.sqrt().asin()
    torch.testing.assert_close(p.cdf(x), exact, rtol=0, atol=1e-8)
    with pytest.warns(mlc.IntegrationWarning, match="does not end at 1"):
        mlc.NormalizedDensity(
            p.log_unnormalized, UNIT, mlc.GaussLegendre(200)
        ).cdf(x)  # fmt: skip


def test_a_polynomial_that_is_not_good_enough_is_refined(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(lambda x: x.cos() + x / 5)
    p = mlc.NormalizedDensity(counted, CIRCLE, mlc.GaussLegendre(16))
    _ = p._quantiles
    # Kronrod cells of the two halves, of their four, and a look for a gradient.
    assert len(counted.points) - 16 == 2 * 21 + 4 * 21 + 1
    x = torch.tensor([0.3, 1.0], dtype=DOUBLE)
    exact = mlc.NormalizedDensity(lambda x: x.cos() + x / 5, CIRCLE).cdf(x)
    torch.testing.assert_close(p.cdf(x), exact, rtol=0, atol=1e-11)
    # Without a look at the error it would be what 16 nodes can do.
    monkeypatch.setattr(panels, "_error", lambda block, logs: np.zeros(logs.shape[1]))
    poor = mlc.NormalizedDensity(counted, CIRCLE, mlc.GaussLegendre(16))
    assert 1e-11 < (poor.cdf(x) - exact).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("rule", "carries"),
    [
        (mlc.GaussLegendre(1), True),
        (mlc.GaussLegendre(1025), True),
        (mlc.GaussLegendre(1026), False),
        (mlc.ClenshawCurtis(2), True),
        (mlc.ClenshawCurtis(300), True),
        (mlc.Trapezoid(2), True),
        (mlc.Trapezoid(3), False),
        (mlc.Simpson(5), False),
        (mlc.GaussHermite(8), False),
        (newton_cotes(5), True),
        (mlc.TabulatedRule([-0.5, 0.5], [1.0, 1.0]), True),
        (mlc.TabulatedRule([-0.5, 0.1, 0.5], [0.5, 1.0, 0.5]), False),
    ],
    ids=str,
)
def test_which_rules_integrate_the_polynomial_through_their_nodes(
    rule: mlc.Rule, carries: bool
) -> None:
    found = polynomial(rule)
    assert (found is not None) == carries
    if found is not None:
        values = table(rule)[0] ** min(3, rule.n - 1)
        whole = 2 * (found.matrix @ values)[:, 0].sum()
        exact = {1: 2.0, 2: 0.0, 3: 2 / 3}.get(rule.n, 0.0)
        assert whole == pytest.approx(exact, abs=1e-11)


@pytest.mark.parametrize("upwards", [True, False])
def test_lopsided_nodes_do_not_run_downwards(upwards: bool) -> None:
    rule = mlc.TabulatedRule([-0.5, 0.25], [2 / 3, 4 / 3])
    ends = np.array([[0.0], [np.inf]] if upwards else [[-np.inf], [0.0]])
    pieces = make_pieces(ends, np.zeros(1), np.ones(1))
    x = np.array([[1 / 3], [5 / 3]]) if upwards else np.array([[-1 / 3], [-5 / 3]])
    found = columns_of_rule(rule, pieces, x, 1e-16, np.array([True]))
    assert (found is not None) == upwards


def test_a_normal_series_of_a_posterior_diverges() -> None:
    """Why the nodes of a Hermite rule carry no distribution function."""
    counted = Counted(lambda x: 3 * x - x.exp() - x * x / 2)
    p = mlc.NormalizedDensity(counted, LINE, mlc.AdaptiveGaussHermite())
    at = p.mode
    width = (-1 / torch.func.grad(torch.func.grad(counted.log_density))(at)).sqrt()
    off = []
    for n in (16, 64):
        z, w = (torch.tensor(t) for t in table(mlc.GaussHermite(n)))
        ratio = torch.exp(p.log_prob(at + width * z) + z * z / 2) * width
        ratio = ratio * math.sqrt(2 * math.pi)
        # Normalised Hermite polynomials, and the integrals of these over the density.
        h = [torch.ones_like(z), z]
        t = torch.linspace(-3, 3, 61, dtype=DOUBLE)
        g = [torch.ones_like(t), t]
        for k in range(1, n):
            for rows, own in ((h, z), (g, t)):
                rows.append((own * rows[k] - k**0.5 * rows[k - 1]) / (k + 1) ** 0.5)
        c = [(w * ratio * row).sum() for row in h[:n]]
        phi = torch.exp(-t * t / 2) / math.sqrt(2 * math.pi)
        series = c[0] * torch.special.ndtr(t)
        for k in range(1, n):
            series = series - c[k] * phi * g[k - 1] / k**0.5
        off.append(float((series - p.cdf(at + width * t)).abs().max()))
    assert off[0] > 1e-4
    assert off[1] > 10 * off[0]
