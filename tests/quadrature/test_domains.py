"""Tests of the domains: what they refuse, what domain_of knows, and their gradients."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor, distributions
from torch.distributions import constraints

import torch_mlcalc.quadrature as q

T = torch.tensor


def as_float(limit: float | Tensor) -> float:
    return float(limit)


# --- Bad input ------------------------------------------------------------------------

LIMITS = {
    "Interval lower": ("lower", lambda v: q.Interval(v, 1.0)),
    "Interval upper": ("upper", lambda v: q.Interval(0.0, v)),
    "RealLine loc": ("loc", lambda v: q.RealLine(v)),
    "RealLine scale": ("scale", lambda v: q.RealLine(0.0, v)),
    "HalfLine start": ("start", lambda v: q.HalfLine(v)),
    "HalfLine scale": ("scale", lambda v: q.HalfLine(0.0, v)),
}


@pytest.mark.parametrize("case", LIMITS)
def test_limits_are_numbers_or_real_tensors(case: str) -> None:
    name, make = LIMITS[case]
    for value in ("1", None, [1.0], True, 1j):
        kind = type(value).__name__
        with pytest.raises(
            TypeError, match=f"{name} is a {kind}; a number or a tensor"
        ):
            make(value)
    for value in (T(1j), T(True)):
        with pytest.raises(TypeError, match=f"{name} has dtype .*; a real tensor is"):
            make(value)
    with pytest.raises(ValueError, match=f"{name} is nan; a .*number .*is wanted"):
        make(math.nan)


@pytest.mark.parametrize("case", LIMITS)
def test_limits_are_not_integers_beyond_all_floats(case: str) -> None:
    name, make = LIMITS[case]
    with pytest.raises(ValueError, match=f"{name} is an integer beyond .* math.inf"):
        make(10**400)


@pytest.mark.parametrize("case", [c for c in LIMITS if "Interval" not in c])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_placement_of_unbounded_domains_is_finite(case: str, value: float) -> None:
    name, make = LIMITS[case]
    with pytest.raises(
        ValueError, match=f"{name} is {value}; a finite number is wanted"
    ):
        make(value)


@pytest.mark.parametrize("domain", [q.RealLine, q.HalfLine])
@pytest.mark.parametrize("scale", [0, -1.0])
def test_scale_is_positive(domain: type[q.Domain], scale: float) -> None:
    with pytest.raises(ValueError, match=f"scale is {scale}; it must be positive"):
        domain(0.0, scale)


def test_limits_agree_in_dtype_device_and_shape() -> None:
    with pytest.raises(
        TypeError, match=r"lower is torch.float32, upper is torch.float64"
    ):
        q.Interval(T(0.0), T(1.0, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"lower is on cpu, upper on meta; move one"):
        q.Interval(T(0.0), torch.empty((), device="meta"))
    with pytest.raises(ValueError, match=r"lower has shape \(2,\), upper has \(3,\)"):
        q.Interval(torch.zeros(2), torch.ones(3))
    # An integer limit takes the dtype of the other.
    q.Interval(T(0), T(1.0, dtype=torch.float64))
    q.Interval(torch.zeros(2, 1), torch.ones(3))


# --- What a domain is -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("domain", "text"),
    [
        (q.Interval(0, 2.0), "Interval(lower=0, upper=2.0)"),
        (q.Interval(-math.inf, T(1.0)), "Interval(lower=-inf, upper=tensor(1.))"),
        (q.RealLine(), "RealLine(loc=0.0, scale=1.0)"),
        (q.HalfLine(2, scale=3.0), "HalfLine(start=2, scale=3.0)"),
    ],
)
def test_domains_say_what_they_are_and_travel(domain: q.Domain, text: str) -> None:
    assert repr(domain) == text
    assert repr(copy.deepcopy(domain)) == text
    assert repr(pickle.loads(pickle.dumps(domain))) == text


def test_domains_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        q.Interval(0, 1).lower = 3  # type: ignore[misc]
    with pytest.raises(AttributeError):
        q.RealLine().loc = 3  # type: ignore[misc]


def test_extents_hold_limits_and_placement() -> None:
    assert q.Interval(1, 2).extent == (1, 2, 0.0, 1.0)
    assert q.RealLine(3.0, 2.0).extent == (-math.inf, math.inf, 3.0, 2.0)
    assert q.HalfLine(3.0, 2.0).extent == (3.0, math.inf, 0.0, 2.0)


def test_limits_keep_identity_and_gradient() -> None:
    lower = T(0.0, requires_grad=True)
    assert q.Interval(lower, 1).extent.lower is lower
    assert q.HalfLine(lower).extent.lower is lower


@pytest.mark.parametrize(
    ("make", "n", "wanted"),
    [
        # d/da int_a^1 x^2 = -a^2 and so on, at a = 0.5.
        (lambda a: q.Interval(a, 1.0), 3, -0.25),
        (lambda a: q.Interval(-1.0, a), 3, 0.25),
        (lambda a: q.Interval(2 * a, -a), 3, -0.25 - 2 * 1.0),
    ],
    ids=["lower", "upper", "both"],
)
def test_gradient_of_limits_is_the_boundary_value(
    make: object, n: int, wanted: float
) -> None:
    a = T(0.5, dtype=torch.float64, requires_grad=True)
    value = q.integrate(lambda x: x**2, make(a), q.GaussLegendre(n))
    (found,) = torch.autograd.grad(value, a)
    assert found.item() == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("batched", [False, True])
def test_gradient_of_the_start_of_a_half_line(batched: bool) -> None:
    start = T([0.5, 2.0] if batched else 0.5, dtype=torch.float64, requires_grad=True)
    value = q.integrate(lambda x: torch.exp(-x), q.HalfLine(start), q.GaussLaguerre(20))
    (found,) = torch.autograd.grad(value.sum(), start)
    torch.testing.assert_close(found, -torch.exp(-start.detach()))


def test_gradient_of_placement_is_that_of_the_formula_and_vanishes() -> None:
    loc = T(0.3, dtype=torch.float64, requires_grad=True)
    scale = T(1.4, dtype=torch.float64, requires_grad=True)
    value = q.integrate(
        lambda x: torch.exp(-x * x), q.RealLine(loc, scale), q.GaussHermite(100)
    )
    assert value.item() == pytest.approx(math.sqrt(math.pi), rel=1e-12)
    for found in torch.autograd.grad(value, (loc, scale)):
        assert abs(found.item()) < 1e-10


# --- domain_of ------------------------------------------------------------------------

D = distributions
SUPPORTS = {
    "Normal": (D.Normal(1.0, 2.0), q.RealLine, (-math.inf, math.inf, 1.0, 2.0)),
    "Laplace": (D.Laplace(1.0, 2.0), q.RealLine, (-math.inf, math.inf, 1.0, 8**0.5)),
    "Gumbel": (
        D.Gumbel(1.0, 2.0),
        q.RealLine,
        (-math.inf, math.inf, 1 + 2 * 0.5772156649, math.pi * 2 / 6**0.5),
    ),
    "StudentT": (D.StudentT(3.0), q.RealLine, (-math.inf, math.inf, 0, 3**0.5)),
    "Cauchy": (D.Cauchy(1.0, 2.0), q.RealLine, (-math.inf, math.inf, 0, 1)),
    "LogNormal": (
        D.LogNormal(0.0, 1.0),
        q.HalfLine,
        (0, math.inf, 0, math.sqrt((math.e - 1) * math.e)),
    ),
    "Exponential": (D.Exponential(2.0), q.HalfLine, (0, math.inf, 0, 0.5)),
    "Gamma": (D.Gamma(4.0, 2.0), q.HalfLine, (0, math.inf, 0, 1.0)),
    "HalfNormal": (
        D.HalfNormal(1.0),
        q.HalfLine,
        (0, math.inf, 0, math.sqrt(1 - 2 / math.pi)),
    ),
    "HalfCauchy": (D.HalfCauchy(1.0), q.HalfLine, (0, math.inf, 0, 1)),
    "Chi2": (D.Chi2(2.0), q.HalfLine, (0, math.inf, 0, 2.0)),
    "Pareto": (D.Pareto(1.5, 3.0), q.HalfLine, (1.5, math.inf, 0, 1.5 * 0.75**0.5)),
    "heavy Pareto": (D.Pareto(1.5, 1.0), q.HalfLine, (1.5, math.inf, 0, 1)),
    "Beta": (D.Beta(2.0, 3.0), q.Interval, (0, 1, 0, 1)),
    "Uniform": (D.Uniform(-1.0, 3.0), q.Interval, (-1, 3, 0, 1)),
    "Kumaraswamy": (D.Kumaraswamy(2.0, 3.0), q.Interval, (0, 1, 0, 1)),
    "mixture": (
        D.MixtureSameFamily(D.Categorical(T([1.0, 1.0])), D.Normal(T([-1.0, 1.0]), 1)),
        q.RealLine,
        (-math.inf, math.inf, 0, 2**0.5),
    ),
    "mixture on a half line": (
        D.MixtureSameFamily(D.Categorical(T([1.0, 1.0])), D.Exponential(T([1.0, 1.0]))),
        q.HalfLine,
        (0, math.inf, 0, 1),
    ),
    "mixture on an interval": (
        D.MixtureSameFamily(D.Categorical(T([1.0, 1.0])), D.Beta(T([1.0, 2.0]), 1.0)),
        q.Interval,
        (0, 1, 0, 1),
    ),
    "real": (constraints.real, q.RealLine, (-math.inf, math.inf, 0, 1)),
    "positive": (constraints.positive, q.HalfLine, (0, math.inf, 0, 1)),
    "nonnegative": (constraints.nonnegative, q.HalfLine, (0, math.inf, 0, 1)),
    "unit_interval": (constraints.unit_interval, q.Interval, (0, 1, 0, 1)),
    "interval": (constraints.interval(-2, 5.0), q.Interval, (-2, 5, 0, 1)),
    "half_open": (constraints.half_open_interval(-2, 5.0), q.Interval, (-2, 5, 0, 1)),
    "greater_than": (constraints.greater_than(3.0), q.HalfLine, (3, math.inf, 0, 1)),
    "less_than": (constraints.less_than(3.0), q.Interval, (-math.inf, 3, 0, 1)),
}


@pytest.mark.parametrize("case", SUPPORTS)
def test_domain_of_knows_the_support(case: str) -> None:
    source, kind, extent = SUPPORTS[case]
    domain = q.domain_of(source)
    assert type(domain) is kind
    if extent is not None:
        found = [as_float(limit) for limit in domain.extent]
        assert found == pytest.approx(extent, rel=1e-5)


def test_domain_of_keeps_batch_and_the_gradient_of_the_support() -> None:
    low = torch.zeros(3, requires_grad=True)
    domain = q.domain_of(distributions.Uniform(low, T([1.0, 2.0, 3.0])))
    value = q.integrate(lambda x: torch.exp(x), domain, q.GaussLegendre(20))
    assert value.shape == (3,)
    (found,) = torch.autograd.grad(value.sum(), low)
    torch.testing.assert_close(found, -torch.ones(3))


def test_domain_of_places_without_a_gradient() -> None:
    loc = T(2.0, requires_grad=True)
    domain = q.domain_of(distributions.Normal(loc, 1.0))
    assert isinstance(domain, q.RealLine)
    assert not domain.loc.requires_grad
    # The density's own gradient is not lost.
    normal = distributions.Normal(loc, 1.0)
    mean = q.integrate(
        lambda x: x * normal.log_prob(x).exp(), domain, q.GaussHermite(20)
    )
    (found,) = torch.autograd.grad(mean, loc)
    assert found.item() == pytest.approx(1.0, rel=1e-4)


def test_domain_of_a_mixed_batch_places_each_element() -> None:
    domain = q.domain_of(distributions.StudentT(T([1.0, 3.0]), T([5.0, 6.0])))
    assert isinstance(domain, q.RealLine)
    torch.testing.assert_close(domain.loc, T([0.0, 6.0]))
    torch.testing.assert_close(domain.scale, T([1.0, 3**0.5]))


class Silent(distributions.Distribution):
    """A distribution that states no support."""

    arg_constraints = {}  # noqa: RUF012


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3.0, TypeError, r"domain_of got float; pass a torch.distributions Dist"),
        (q.Interval(0, 1), TypeError, "domain_of got Interval; pass"),
        (
            D.MixtureSameFamily(D.Categorical(T([1.0, 1.0])), D.Uniform(T([0, 1]), 2)),
            ValueError,
            "components of the mixture have supports of their own; write the domain",
        ),
        (Silent(), ValueError, "Silent states no support; write the domain yourself"),
        (
            distributions.Poisson(1.0),
            ValueError,
            r"univariate .*\(discrete\)",
        ),
        (distributions.Bernoulli(0.5), ValueError, r"\(discrete\)"),
        (distributions.Dirichlet(torch.ones(3)), ValueError, r"\(multivariate\)"),
        (
            distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)),
            ValueError,
            r"\(multivariate\); a sum or a Box is wanted there",
        ),
        (constraints.simplex, ValueError, r"Simplex\(\) \(multivariate\)"),
        (constraints.integer_interval(0, 3), ValueError, r"\(discrete\)"),
        (constraints.boolean, ValueError, r"\(discrete\)"),
    ],
    ids=str,
)
def test_domain_of_refuses_what_is_no_interval(
    source: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        q.domain_of(source)


class _Circle(constraints.Constraint):
    """Continuous and univariate, without bounds that can be read."""


def test_domain_of_refuses_an_unknown_constraint() -> None:
    with pytest.raises(ValueError, match="is not an interval that domain_of knows"):
        q.domain_of(_Circle())


def test_the_density_of_von_mises_integrates_to_one_over_a_period() -> None:
    loc = torch.tensor([0.5, 3.0], dtype=torch.float64)
    density = torch.distributions.VonMises(loc, torch.full_like(loc, 4.0))
    total = q.integrate(lambda x: density.log_prob(x).exp(), q.domain_of(density))
    torch.testing.assert_close(total, torch.ones_like(loc), rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", [None, q.GaussLegendre(4)], ids=str)
def test_a_limit_that_is_nan_gives_nan_and_leaves_the_others(rule: q.Rule) -> None:
    limits = torch.tensor([math.nan, 1.0])
    for domain in (q.Interval(0, limits), q.Interval(-limits, 0.0)):
        value = q.integrate(torch.ones_like, domain, rule, on_failure="ignore")
        torch.testing.assert_close(value, limits, equal_nan=True)


def _limits(end: float, dtype: torch.dtype, kind: str) -> q.Interval:
    if kind == "numbers":
        return q.Interval(-end, end)
    upper = torch.tensor([end, 0.0] if kind == "batch" else end, dtype=dtype)
    return q.Interval(torch.tensor(-end, dtype=dtype, requires_grad=True), upper)


LONG = [(1.7e308, torch.float64), (3e38, torch.float32)]


@pytest.mark.parametrize("kind", ["numbers", "tensors", "batch"])
@pytest.mark.parametrize(("end", "dtype"), LONG, ids=str)
def test_intervals_longer_than_the_largest_number(
    end: float, dtype: torch.dtype, kind: str
) -> None:
    domain, width = _limits(end, dtype, kind), torch.tensor(end / 3, dtype=dtype)

    def bell(x: Tensor, width: Tensor) -> Tensor:
        return torch.exp(-(x / width).square())

    exact = end / 3 * math.sqrt(math.pi) * math.erf(3)
    wanted = torch.tensor([exact, exact / 2] if kind == "batch" else exact, dtype=dtype)
    for rule, cut in ((q.GaussLegendre(50), None), (None, [0.0])):
        value = q.integrate(bell, domain, rule, args=(width,), breakpoints=cut)
        torch.testing.assert_close(value, wanted, rtol=2e-6, atol=0)
        if kind == "tensors":
            (slope,) = torch.autograd.grad(value, domain.lower)
            end_value = bell(domain.lower, width)
            torch.testing.assert_close(slope, -end_value, rtol=1e-3, atol=0)
    for rule in (None, q.GaussKronrod(), q.DoubleExponential()):
        with pytest.raises(ValueError, match="is longer than the largest number"):
            q.integrate(bell, domain, rule, args=(width,))


def test_a_box_longer_than_the_largest_number_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the largest number on axis 1"):
        q.Box([0, -1.7e308, -math.inf], 1.7e308)
