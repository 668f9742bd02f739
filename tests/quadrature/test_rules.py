"""Tests of the fixed rules and of check_rule, which must catch every planted fault."""

import copy
import math
import pickle
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
import torch

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.rules import Array, table
from torch_mlcalc.testing import check_rule

RULES = [
    *(q.GaussLegendre(n) for n in (1, 2, 5, 64, 200)),
    *(q.GaussHermite(n) for n in (1, 2, 7, 100, 300)),
    *(q.GaussLaguerre(n) for n in (1, 2, 9, 100)),
    q.GaussLaguerre(6, -0.5),
    q.GaussLaguerre(20, 2.5),
    *(q.GaussJacobi(n, -0.5, -0.5) for n in (1, 2, 40)),
    q.GaussJacobi(8, 0, 0),
    q.GaussJacobi(12, 1.5, -0.25),
    *(q.ClenshawCurtis(n) for n in (2, 3, 4, 5, 32, 33)),
    *(q.Trapezoid(n) for n in (2, 3, 10, 101)),
    *(q.Simpson(n) for n in (3, 5, 101)),
    q.TabulatedRule([0.0], [2.0], degree=1),
    q.TabulatedRule([-1.0, 0.0, 1.0], [1 / 3, 4 / 3, 1 / 3], degree=3),
    # Open Newton-Cotes with a negative weight.
    q.TabulatedRule([-0.5, 0.0, 0.5], [4 / 3, -2 / 3, 4 / 3], degree=3),
]
ONE_OF_EACH = [
    q.GaussLegendre(5),
    q.GaussHermite(7),
    q.GaussLaguerre(6, 0.5),
    q.GaussJacobi(4, 0.5, -0.5),
    q.ClenshawCurtis(8),
    q.Trapezoid(9),
    q.Simpson(9),
    q.TabulatedRule([-0.5, 0.5], [1.0, 1.0], degree=1),
]


# --- Degree ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_exact_up_to_degree_and_not_beyond(rule: q.FixedRule) -> None:
    check_rule(rule)
    check_rule(rule, rule.degree)


@pytest.mark.parametrize("rule", ONE_OF_EACH, ids=str)
def test_check_rule_catches_a_degree_too_high(rule: q.FixedRule) -> None:
    wrong = rule.degree + 1
    with pytest.raises(AssertionError, match=f"not exact for degree {wrong}, but"):
        check_rule(rule, wrong)


@pytest.mark.parametrize("rule", ONE_OF_EACH, ids=str)
def test_check_rule_catches_a_degree_too_low(rule: q.FixedRule) -> None:
    right = rule.degree
    with pytest.raises(AssertionError, match=f"exact also for degree {right}, but"):
        check_rule(rule, right - 1)


@dataclass(frozen=True)
class Faulty(q.FixedRule):
    """Three-point Gauss-Legendre with a fault planted by ``fault``."""

    fault: str
    n = 3
    degree = 5

    @property
    def measure(self) -> str:  # type: ignore[override]
        return "cauchy" if self.fault == "measure" else "lebesgue"

    def nodes_and_weights(self) -> tuple[Array, Array]:
        nodes, weights = q.GaussLegendre(3).nodes_and_weights()
        if self.fault == "weight":
            weights = weights + np.array([1e-9, -1e-9, 0.0])
        if self.fault == "mass":
            weights = weights * (1 + 1e-9)
        if self.fault == "float32":
            nodes = nodes.astype(np.float32)
        if self.fault == "count":
            nodes = nodes[:2]
        if self.fault == "nan":
            weights = weights * np.array([1.0, np.nan, 1.0])
        if self.fault == "outside":
            nodes = nodes * 2
        return nodes, weights

    def slice(self, start: int, stop: int) -> tuple[Array, Array]:
        nodes, weights = super().slice(start, stop)
        return nodes, weights * (1.0 if self.fault != "slice" else 1 + 1e-15)

    def log_lebesgue_weights(self) -> Array:
        shift = 1e-3 if self.fault == "log" else 0.0
        return super().log_lebesgue_weights() + shift


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("weight", r"not exact for degree 1, but degree 5 was stated: its sum is"),
        (
            "mass",
            r"weights that sum to 2\.000000002\d*; the lebesgue measure has mass 2",
        ),
        ("float32", "nodes of float32; float64 is wanted"),
        ("count", r"nodes of shape \(2,\); \(3,\) is wanted"),
        ("nan", r"weights\[1\] = nan"),
        ("outside", r"nodes\[0\] = -1\.5\d*, outside of \[-1, 1\]"),
        ("slice", "slices that differ from its weights"),
        ("log", r"log_lebesgue_weights off by 0\.001"),
    ],
)
def test_check_rule_catches_a_fault_in_the_table(fault: str, message: str) -> None:
    check_rule(Faulty("none"))
    with pytest.raises(AssertionError, match=message):
        check_rule(Faulty(fault))


def test_check_rule_catches_an_integral_that_ignores_the_centre(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch_mlcalc.testing import rules

    real = rules.integrate

    def shifted(function: object, domain: q.Interval, rule: q.Rule) -> torch.Tensor:
        return real(function, q.Interval(domain.lower, domain.upper * 1.001), rule)

    monkeypatch.setattr(rules, "integrate", shifted)
    with pytest.raises(AssertionError, match=r"degree 0 on the interval from 0.3 to 4"):
        check_rule(q.GaussLegendre(4))


@pytest.mark.parametrize(
    ("rule", "degree", "error", "message"),
    [
        (3, None, TypeError, "rule is a int; a fixed rule is wanted"),
        (q.GaussKronrod(), None, TypeError, "rule is a GaussKronrod; a fixed rule"),
        (q.GaussLegendre(3), 2.0, TypeError, r"degree is 2\.0 \(float\); an integer"),
        (q.GaussLegendre(3), -1, ValueError, "degree is -1; at least 0 is wanted"),
        (
            Faulty("measure"),
            None,
            ValueError,
            "measure 'cauchy', whose moments are not",
        ),
    ],
)
def test_check_rule_refuses_bad_arguments(
    rule: object, degree: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_rule(rule, degree)


# --- Tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_tables_are_ascending_float64_and_write_protected(rule: q.FixedRule) -> None:
    nodes, weights = table(rule)
    assert nodes.dtype == weights.dtype == np.float64
    assert (np.diff(nodes) > 0).all()
    assert not nodes.flags.writeable
    assert not weights.flags.writeable


def test_gauss_nodes_equal_closed_forms() -> None:
    nodes, weights = q.GaussLegendre(3).nodes_and_weights()
    np.testing.assert_allclose(nodes, [-math.sqrt(0.6), 0, math.sqrt(0.6)], atol=1e-15)
    np.testing.assert_allclose(weights, [5 / 9, 8 / 9, 5 / 9])
    nodes, weights = q.GaussHermite(3).nodes_and_weights()
    np.testing.assert_allclose(nodes, [-math.sqrt(3), 0, math.sqrt(3)], atol=1e-15)
    np.testing.assert_allclose(weights, [1 / 6, 2 / 3, 1 / 6])
    nodes, weights = q.GaussLaguerre(2).nodes_and_weights()
    np.testing.assert_allclose(nodes, [2 - math.sqrt(2), 2 + math.sqrt(2)])
    np.testing.assert_allclose(weights, [(2 + 2**0.5) / 4, (2 - 2**0.5) / 4])
    # Gauss-Chebyshev: equal weights.
    nodes, weights = q.GaussJacobi(5, -0.5, -0.5).nodes_and_weights()
    np.testing.assert_allclose(weights, 0.2)
    np.testing.assert_allclose(
        nodes, -np.cos(np.pi * (np.arange(5) + 0.5) / 5), atol=1e-15
    )


@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 16, 65, 300])
def test_clenshaw_curtis_integrates_chebyshev_polynomials(n: int) -> None:
    nodes, weights = q.ClenshawCurtis(n).nodes_and_weights()
    k = np.arange(n)
    found = weights @ np.cos(k * np.arccos(nodes)[:, None])
    wanted = np.where(k % 2, 0.0, 2 / (1 - np.where(k % 2, 0, k) ** 2.0))
    np.testing.assert_allclose(found, wanted, atol=2e-13)
    assert (weights > 0).all()
    assert (nodes[0], nodes[-1]) == (-1, 1)


@pytest.mark.parametrize(
    "rule", [q.Trapezoid(17), q.Simpson(17), q.GaussLegendre(17)], ids=str
)
def test_slices_equal_the_table(rule: q.FixedRule) -> None:
    nodes, weights = table(rule)
    for start, stop in [(0, 1), (0, 17), (1, 2), (3, 12), (8, 9), (16, 17), (5, 5)]:
        part = rule.slice(start, stop)
        np.testing.assert_array_equal(part[0], nodes[start:stop])
        np.testing.assert_array_equal(part[1], weights[start:stop])


def test_equally_spaced_rules_are_textbook() -> None:
    nodes, weights = q.Trapezoid(5).nodes_and_weights()
    np.testing.assert_array_equal(nodes, [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(weights, np.array([1, 2, 2, 2, 1]) / 4)
    nodes, weights = q.Simpson(5).nodes_and_weights()
    np.testing.assert_array_equal(nodes, [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(weights, np.array([1, 4, 2, 4, 1]) / 6)


def test_equally_spaced_nodes_are_symmetric_to_the_last_bit() -> None:
    nodes, _ = q.Trapezoid(1000).nodes_and_weights()
    np.testing.assert_array_equal(nodes, -nodes[::-1])


def test_long_rules_slice_without_their_table() -> None:
    nodes, weights = q.Simpson(10**12 + 1).slice(10**12 - 1, 10**12 + 1)
    np.testing.assert_allclose(nodes, [1 - 2e-12, 1], rtol=1e-15)
    np.testing.assert_allclose(weights, np.array([4, 1]) * 2e-12 / 3, rtol=1e-12)


# --- Weights of the Lebesgue integral -------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        q.GaussHermite(40),
        q.GaussLaguerre(40),
        q.GaussLaguerre(40, 1.5),
        q.GaussJacobi(40, -0.5, 0.75),
        q.GaussLegendre(40),
    ],
    ids=str,
)
def test_lebesgue_weights_are_weights_over_density(rule: q.FixedRule) -> None:
    nodes, weights = table(rule)
    found = rule.log_lebesgue_weights()
    np.testing.assert_allclose(
        found, np.log(weights) - rule.log_density(nodes), atol=1e-9
    )


def test_densities_are_those_of_the_distributions() -> None:
    x = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(x)
    gamma = torch.distributions.Gamma(torch.tensor(2.5, dtype=torch.float64), 1.0)
    beta = torch.distributions.Beta(  # the beta of [0, 1], with alpha at the upper end
        torch.tensor(1.75, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    )
    u = x.numpy()
    np.testing.assert_allclose(q.GaussHermite(3).log_density(u), normal, atol=1e-12)
    np.testing.assert_allclose(
        q.GaussLaguerre(3, 1.5).log_density(u), gamma.log_prob(x), atol=1e-12
    )
    found = q.GaussJacobi(3, -0.5, 0.75).log_density(2 * u - 1)
    np.testing.assert_allclose(found, beta.log_prob(x) - math.log(2), atol=1e-12)
    assert (q.GaussLegendre(3).log_density(u) == 0).all()


@pytest.mark.parametrize("rule", [q.GaussHermite(500), q.GaussLaguerre(250)], ids=str)
def test_lebesgue_weights_do_not_underflow(rule: q.FixedRule) -> None:
    nodes, weights = table(rule)
    assert weights.min() < 1e-300
    logs = rule.log_lebesgue_weights()
    assert np.isfinite(logs).all()
    # Lebesgue weights are the spacing of the nodes, nearly.
    inner = np.exp(logs)[1:-1]
    np.testing.assert_allclose(inner, (nodes[2:] - nodes[:-2]) / 2, rtol=0.1)


def test_hermite_of_500_nodes_integrates_a_wide_gaussian() -> None:
    value = q.integrate(
        lambda x: torch.exp(-((x / 6) ** 2) / 2),
        q.RealLine(torch.tensor(0.0, dtype=torch.float64)),
        q.GaussHermite(500),
    )
    assert value.item() == pytest.approx(6 * math.sqrt(2 * math.pi), rel=1e-8)


# --- Small frozen objects -------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (q.GaussLegendre(5), "GaussLegendre(n=5)"),
        (q.GaussHermite(5), "GaussHermite(n=5)"),
        (q.GaussLaguerre(5), "GaussLaguerre(n=5, alpha=0.0)"),
        (q.GaussJacobi(5, 0.5, -0.5), "GaussJacobi(n=5, alpha=0.5, beta=-0.5)"),
        (q.ClenshawCurtis(5), "ClenshawCurtis(n=5)"),
        (q.Trapezoid(5), "Trapezoid(n=5)"),
        (q.Simpson(5), "Simpson(n=5)"),
        (q.TabulatedRule([0.0], [2.0], 1), "TabulatedRule(n=1, degree=1)"),
    ],
)
def test_repr_says_what_the_rule_is(rule: q.FixedRule, text: str) -> None:
    assert repr(rule) == text


@pytest.mark.parametrize("rule", ONE_OF_EACH, ids=str)
def test_rules_compare_hash_copy_and_pickle_by_value(rule: q.FixedRule) -> None:
    twins = [
        type(rule)(*rule.settings),  # type: ignore[call-arg]
        pickle.loads(pickle.dumps(rule)),
        copy.copy(rule),
        copy.deepcopy(rule),
    ]
    for twin in twins:
        assert twin == rule
        assert hash(twin) == hash(rule)
        assert twin.degree == rule.degree
    others = [other for other in ONE_OF_EACH if other is not rule]
    assert all(rule != other for other in others)
    assert rule not in {"a": 1}
    with pytest.raises(AttributeError):
        rule.n = 3


def test_rules_differ_by_every_argument() -> None:
    rules: list[q.Rule] = [
        q.GaussLegendre(5),
        q.GaussLegendre(6),
        q.GaussLaguerre(5),
        q.GaussLaguerre(5, 1.0),
        q.GaussJacobi(5, 0.5, 0.5),
        q.GaussJacobi(5, 0.5, 1.0),
        q.GaussJacobi(5, 1.0, 0.5),
        q.TabulatedRule([0.0], [2.0], 1),
        q.TabulatedRule([0.0], [2.0], 0),
        q.TabulatedRule([0.0], [1.0], 1),
        q.TabulatedRule([0.1], [2.0], 1),
    ]
    assert len(set(rules)) == len(rules)


def test_tabulated_rule_takes_lists_arrays_and_tensors_and_keeps_no_view() -> None:
    nodes, weights = np.array([-0.5, 0.5]), np.ones(2)
    rule = q.TabulatedRule(nodes, weights, degree=1)
    tensors = q.TabulatedRule(torch.tensor([-0.5, 0.5]), torch.ones(2), degree=1)
    assert rule == tensors == q.TabulatedRule([-0.5, 0.5], (1, 1), degree=1)
    nodes[0] = 7.0
    assert rule.nodes == (-0.5, 0.5)
    assert rule.n == 2
    assert q.TabulatedRule([0.0], [2.0]).degree == 0


# --- Bad input ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "least"),
    [
        (q.GaussLegendre, 1),
        (q.GaussHermite, 1),
        (q.GaussLaguerre, 1),
        (lambda n: q.GaussJacobi(n, 0.0, 0.0), 1),
        (q.ClenshawCurtis, 2),
        (q.Trapezoid, 2),
        (q.Simpson, 3),
    ],
    ids=[
        "legendre",
        "hermite",
        "laguerre",
        "jacobi",
        "clenshaw",
        "trapezoid",
        "simpson",
    ],
)
def test_number_of_nodes_is_checked(make: object, least: int) -> None:
    with pytest.raises(
        ValueError, match=f"n is {least - 1}; at least {least} is wanted"
    ):
        make(least - 1)
    for value, text in [
        (3.0, r"3\.0 \(float\)"),
        (True, r"True \(bool\)"),
        ("3", "str"),
    ]:
        with pytest.raises(TypeError, match=f"n is .*{text}.*an integer is wanted"):
            make(value)
    assert make(least).n == least


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda v: q.GaussLaguerre(3, v), "alpha"),
        (lambda v: q.GaussJacobi(3, v, 0.0), "alpha"),
        (lambda v: q.GaussJacobi(3, 0.0, v), "beta"),
    ],
    ids=["laguerre alpha", "jacobi alpha", "jacobi beta"],
)
def test_exponents_are_checked(make: object, name: str) -> None:
    for value in (-1.0, -2, math.inf, math.nan):
        with pytest.raises(ValueError, match=f"{name} is .*greater than -1 is wanted"):
            make(value)
    for value in ("1", None, True):
        with pytest.raises(TypeError, match=f"{name} is .*; a number is wanted"):
            make(value)
    make(-0.99)


def test_simpson_wants_an_odd_number_of_nodes() -> None:
    with pytest.raises(ValueError, match=r"Simpson got n=4; an odd .* for example n=5"):
        q.Simpson(4)


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        ([0.0, 0.5], [1.0], r"nodes of shape \(2,\) and weights of shape \(1,\); two"),
        ([[0.0]], [[1.0]], r"nodes of shape \(1, 1\) .* one length are wanted"),
        (0.0, 1.0, r"nodes of shape \(\)"),
        ([], [], "no nodes; at least one"),
        ([1.5], [1.0], r"within \[-1, 1\]; map them"),
        ([math.nan], [1.0], "finite nodes and weights"),
        ([0.0], [math.inf], "finite nodes and weights"),
    ],
)
def test_tabulated_rule_refuses_bad_tables(
    nodes: object, weights: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        q.TabulatedRule(nodes, weights)


def test_tabulated_rule_checks_its_degree() -> None:
    with pytest.raises(TypeError, match=r"degree is 1\.0 \(float\); an integer"):
        q.TabulatedRule([0.0], [2.0], degree=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="degree is -1; at least 0"):
        q.TabulatedRule([0.0], [2.0], degree=-1)


@pytest.mark.parametrize("n", [100, 101, 1000])
def test_long_legendre_rules_have_all_digits_also_next_to_the_ends(n: int) -> None:
    nodes, weights = q.GaussLegendre(n).nodes_and_weights()
    np.testing.assert_array_equal(nodes, -nodes[::-1])
    np.testing.assert_array_equal(weights, weights[::-1])
    with mpmath.workdps(30):
        for i in (n // 2 + 1, n - 20, n - 2, n - 1):
            begin = mpmath.mpf(nodes[i])
            root = mpmath.findroot(
                lambda x: mpmath.legendre(n, x), (begin, begin + mpmath.mpf("1e-13"))
            )
            weight = 2 * (1 - root**2) / (n * mpmath.legendre(n - 1, root)) ** 2
            assert nodes[i] == pytest.approx(float(root), rel=1e-15, abs=3e-16)
            # Of the eigenvalue problem 1e-11 and, at n=1000, 2e-8.
            assert weights[i] == pytest.approx(float(weight), rel=1e-14)


def test_twenty_thousand_legendre_nodes() -> None:
    nodes, weights = q.GaussLegendre(20_001).nodes_and_weights()
    assert (np.diff(nodes) > 0).all()
    assert nodes[10_000] == 0
    waves = weights @ np.cos(18_000 * nodes), weights @ np.cos(21_000 * nodes)
    exact = math.sin(18_000) / 9_000, math.sin(21_000) / 10_500
    assert waves == pytest.approx(exact, rel=1e-9)
    assert weights @ np.cos(42_000 * nodes) != pytest.approx(0, abs=1e-2)
