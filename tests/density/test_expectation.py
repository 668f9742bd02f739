"""Expectations against closed forms and scipy, for every kind of distribution."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import scipy.integrate
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Chi2,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    Gumbel,
    HalfNormal,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Pareto,
    Poisson,
    StudentT,
    TransformedDistribution,
    Uniform,
    VonMises,
    Weibull,
    transforms,
)

import torch_mlcalc as mlc
from torch_mlcalc.density import nodes
from torch_mlcalc.density.divergence import log_prob_anywhere
from torch_mlcalc.testing import check_gradients

DOUBLE = torch.float64


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE, requires_grad=True)


class Case(NamedTuple):
    """A kind of distribution, its parameters, a function, and its mean."""

    name: str
    make: Callable[..., Distribution]
    parameters: tuple[Tensor, ...]
    f: Callable[[Tensor], Tensor]
    exact: Callable[..., Tensor]
    rtol: float = 1e-8


def square(x: Tensor) -> Tensor:
    return x**2


CASES = [
    Case("normal", Normal, (t(0.0, 2.0), t(1.0, 0.5)), torch.exp,
         lambda m, s: (m + s * s / 2).exp(), 1e-12),
    Case("normal, cosine", Normal, (t(0.3, 2.0), t(1.0, 0.5)), torch.cos,
         lambda m, s: m.cos() * (-s * s / 2).exp(), 1e-12),
    Case("normal, kink", Normal, (t(0.0, 0.5), t(1.0, 2.0)), torch.relu,
         lambda m, s: m * torch.special.ndtr(m / s)
         + s * (-(m / s) ** 2 / 2).exp() / math.sqrt(2 * math.pi)),
    Case("lognormal", LogNormal, (t(0.1, -1.0), t(0.5, 0.2)), square,
         lambda m, s: (2 * m + 2 * s * s).exp()),
    Case("uniform", Uniform, (t(-1.0, 2.0), t(1.5, 2.5)), torch.exp,
         lambda a, b: (b.exp() - a.exp()) / (b - a), 1e-12),
    Case("exponential", Exponential, (t(0.5, 3.0),), lambda x: x**3,
         lambda r: 6 / r**3, 1e-12),
    Case("laplace", Laplace, (t(0.5, -1.0), t(1.0, 2.0)), lambda x: x**4,
         lambda m, s: m**4 + 12 * m * m * s * s + 24 * s**4, 1e-11),
    Case("gamma", Gamma, (t(0.4, 30.0), t(2.0, 0.1)), square,
         lambda a, b: a * (a + 1) / b**2),
    Case("chi2", Chi2, (t(1.0, 7.0),), torch.sqrt,
         lambda k: math.sqrt(2)
         * (torch.lgamma((k + 1) / 2) - torch.lgamma(k / 2)).exp()),
    Case("beta", Beta, (t(0.6, 20.0), t(2.0, 5.0)), torch.log,
         lambda a, b: torch.digamma(a) - torch.digamma(a + b), 1e-7),
    Case("student", StudentT, (t(3.0, 9.0), t(0.2, 1.0), t(0.5, 2.0)), square,
         lambda k, m, s: m * m + s * s * k / (k - 2), 1e-6),
    Case("cauchy, bounded", Cauchy, (t(0.0, 1.0), t(1.0, 0.5)),
         lambda x: 1 / (1 + x * x),
         lambda m, s: (1 + s) / ((1 + s) ** 2 + m * m)),
    Case("von mises", VonMises, (t(0.3, 1.0), t(2.0, 0.5)), torch.cos,
         lambda m, k: m.cos() * torch.special.i1(k) / torch.special.i0(k)),
    Case("gumbel", Gumbel, (t(0.3, 1.0), t(0.5, 1.0)), lambda x: x,
         lambda m, s: m + s * 0.5772156649015329),
    Case("half normal", HalfNormal, (t(0.3, 2.0),), square, lambda s: s * s),
    Case("weibull", Weibull, (t(1.0, 2.0), t(1.5, 3.0)), square,
         lambda s, k: s * s * torch.lgamma(1 + 2 / k).exp()),
    Case("pareto", Pareto, (t(1.0, 2.0), t(3.0, 5.0)), torch.log,
         lambda s, a: s.log() + 1 / a),
    Case("transformed", lambda m: TransformedDistribution(
        Normal(m, 0.4), [transforms.AffineTransform(1.0, 2.0)]), (t(0.2, 1.0),),
         square, lambda m: (1 + 2 * m) ** 2 + 0.64),
    Case("mixture, kink", lambda m, s: MixtureSameFamily(
             Categorical(torch.ones(2, dtype=DOUBLE)), Normal(m, s)),
         (t(0.0, 0.5), t(1.0, 2.0)), torch.relu,
         lambda m, s: torch.mean(
             m * torch.special.ndtr(m / s)
             + s * (-(m / s) ** 2 / 2).exp() / math.sqrt(2 * math.pi))),
    Case("mixture of gammas", lambda p, a: MixtureSameFamily(
             Categorical(p), Gamma(a, t(1.0, 2.0))),
         (t(1.0, 3.0), t(2.0, 0.5)), torch.log,
         lambda p, a: (p / p.sum() * (a.digamma() - t(1.0, 2.0).log())).sum()),
    Case("mixture", lambda p, m: MixtureSameFamily(
        Categorical(torch.stack([p, 1 - p], -1)),
        Normal(torch.stack([m, -m], -1), 0.5)),
         (t(0.3, 0.9), t(1.0, 3.0)), torch.exp,
         lambda p, m: (p * m.exp() + (1 - p) * (-m).exp()) * math.exp(0.125)),
    Case("bernoulli", Bernoulli, (t(0.3, 0.9),), lambda x: 2 + 3 * x,
         lambda p: 2 + 3 * p, 1e-14),
    Case("categorical", lambda p: Categorical(torch.stack([p, 1 - p], -1)),
         (t(0.3, 0.9),), lambda k: torch.tensor([5.0, 7.0], dtype=DOUBLE)[k],
         lambda p: 5 * p + 7 * (1 - p), 1e-14),
    Case("binomial", lambda p: Binomial(torch.tensor([4, 9]), p), (t(0.3, 0.9),),
         square, lambda p: (n := torch.tensor([4, 9])) * p * (1 - p + n * p), 1e-13),
    Case("poisson", Poisson, (t(0.3, 2000.0),), square, lambda r: r + r * r, 1e-11),
    Case("geometric", Geometric, (t(0.3, 0.01),), square,
         lambda p: (1 - p) * (2 - p) / p**2, 1e-11),
    Case("negative binomial", NegativeBinomial, (t(3.0, 40.0), t(0.3, 0.9)), square,
         lambda r, p: r * p / (1 - p) ** 2 + (r * p / (1 - p)) ** 2, 1e-11),
]  # fmt: skip
EVENTS = [
    Case("multivariate normal", lambda m, s: MultivariateNormal(
        m, torch.diag_embed(s) + 0.3), (t(0.2, -0.4, 1.0), t(1.0, 0.5, 0.8)),
         lambda x: x.prod(-1), lambda m, s: m.prod() + 0.3 * m.sum(), 1e-12),
    Case("independent normal", lambda m: Independent(Normal(m, 0.5), 1),
         (t(0.2, -0.4),), lambda x: x.sum(-1).exp(),
         lambda m: (m.sum() + 0.25).exp(), 1e-12),
    Case("independent mixed batch", lambda m: Independent(
        Exponential(m[:, None] * torch.tensor([1.0, 2.0], dtype=DOUBLE)), 1),
         (t(0.5, 2.0),), lambda x: x[..., 0] * x[..., 1] ** 2,
         lambda m: 1 / m * 2 / (2 * m) ** 2, 1e-12),
    Case("independent bernoulli", lambda p: Independent(Bernoulli(p), 1),
         (t(0.2, 0.4, 0.9),), lambda x: 2 ** x.sum(-1), lambda p: (1 + p).prod(),
         1e-13),
    Case("one hot", lambda p: OneHotCategorical(torch.stack([p, 1 - p], -1)),
         (t(0.3, 0.9),), lambda x: x[..., 0] * 4, lambda p: 4 * p, 1e-13),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES + EVENTS, ids=lambda c: c.name)
def test_value_and_gradient(case: Case) -> None:
    distribution = case.make(*case.parameters)
    value = mlc.expectation(case.f, distribution)
    exact = case.exact(*case.parameters)
    assert value.shape == distribution.batch_shape
    torch.testing.assert_close(value, exact, rtol=case.rtol, atol=case.rtol)
    ours = torch.autograd.grad(value.sum(), case.parameters, allow_unused=True)
    theirs = torch.autograd.grad(exact.sum(), case.parameters, allow_unused=True)
    rtol = max(100 * case.rtol, 1e-9)
    for a, b in zip(ours, theirs, strict=True):
        a, b = (torch.zeros(1, dtype=DOUBLE) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b.expand_as(a), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("case", CASES + EVENTS, ids=lambda c: c.name)
def test_gradient_in_the_parameters_of_the_function(case: Case) -> None:
    a, b = t(3.0), t(-2.0)
    value = mlc.expectation(lambda x: a * case.f(x) + b, case.make(*case.parameters))
    exact = case.exact(*case.parameters)
    first = torch.autograd.grad(value.sum(), (a, b), create_graph=True)
    count = torch.full_like(b, exact.numel())
    wanted = (exact.sum().expand(1), count)
    rtol = max(100 * case.rtol, 1e-9)
    torch.testing.assert_close(first, wanted, rtol=rtol, atol=rtol)
    # Mixed: the derivative by a of that by the parameters of the distribution.
    ours = torch.autograd.grad(first[0].sum(), case.parameters, allow_unused=True)
    theirs = torch.autograd.grad(exact.sum(), case.parameters, allow_unused=True)
    for mine, own in zip(ours, theirs, strict=True):
        mine, own = (torch.zeros(1).double() if g is None else g for g in (mine, own))
        torch.testing.assert_close(mine, own.expand_as(mine), rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    "name",
    [
        "normal",
        "gamma",
        "mixture",
        "mixture of gammas",
        "poisson",
        "bernoulli",
        "laplace",
    ],
)
def test_log_form(name: str) -> None:
    case = next(c for c in CASES if c.name == name)
    distribution = case.make(*(p.detach() for p in case.parameters))
    log = mlc.log_expectation(lambda x: 500 + torch.log(1 + x * x), distribution)
    plain = mlc.expectation(lambda x: 1 + x * x, distribution)
    torch.testing.assert_close(log - 500, plain.log(), rtol=1e-8, atol=1e-8)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_gradients_in_every_mode() -> None:
    def mean(loc: Tensor, scale: Tensor) -> Tensor:
        p = Normal(loc, scale, validate_args=False)
        return mlc.expectation(torch.cos, p, mlc.GaussHermite(16))

    check_gradients(mean, (t(0.1, 1.0), t(0.5, 1.5)))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_gradients_of_the_checked_default() -> None:
    def mean(loc: Tensor, scale: Tensor) -> Tensor:
        return mlc.expectation(torch.cos, Normal(loc, scale, validate_args=False))

    check_gradients(mean, (t(0.1, 1.0), t(0.5, 1.5)), compile=False)


def test_functions_with_parameters_and_values_of_several_numbers() -> None:
    net = nn.Linear(1, 3).double()
    p = Normal(torch.zeros(4, dtype=DOUBLE), 1.0)
    value = mlc.expectation(lambda x: net(x[..., None]), p)
    torch.testing.assert_close(value, net.bias.expand(4, 3), rtol=0, atol=1e-12)
    value.sum().backward()
    torch.testing.assert_close(net.bias.grad, torch.full((3,), 4.0, dtype=DOUBLE))


def test_only_elements_that_need_it_get_the_other_rule() -> None:
    p = Normal(torch.tensor([0.0, 30.0], dtype=DOUBLE), 1.0)
    value = mlc.expectation(torch.relu, p)
    torch.testing.assert_close(
        value, torch.tensor([1 / math.sqrt(2 * math.pi), 30.0], dtype=DOUBLE)
    )
    gauss = mlc.expectation(torch.relu, p, mlc.GaussHermite(32))
    assert value[1] == gauss[1] and abs(value[0] - gauss[0]) > 1e-4


def test_rules_are_used_as_they_are() -> None:
    p = Normal(torch.tensor(1.0), 2.0)
    assert mlc.expectation(square, p, mlc.GaussHermite(1)).item() == 1
    assert mlc.expectation(square, p, mlc.GaussHermite(2)).item() == pytest.approx(5)
    for rule in (mlc.DoubleExponential(), mlc.GaussLegendre(200)):
        assert mlc.expectation(square, p, rule).item() == pytest.approx(5, rel=1e-5)
    log_z = mlc.log_expectation(lambda x: -x * x, p, mlc.AdaptiveGaussHermite())
    exact, _ = scipy.integrate.quad(
        lambda x: math.exp(-x * x - (x - 1) ** 2 / 8) / math.sqrt(8 * math.pi), -20, 20
    )
    assert log_z.item() == pytest.approx(math.log(exact), abs=1e-6)


def test_normalised_densities() -> None:
    k = t(1.0, 4.0)
    p = mlc.NormalizedDensity(lambda x, k: -k * x * x / 2, mlc.RealLine(), args=(k,))
    value = mlc.expectation(square, p)
    torch.testing.assert_close(value, 1 / k)
    (slope,) = torch.autograd.grad(value.sum(), k)
    torch.testing.assert_close(slope, -1 / k.detach() ** 2)
    log = mlc.log_expectation(lambda x: x, p)
    torch.testing.assert_close(log, 1 / (2 * k), rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    "concentration", [(1.5, 2.0, 3.5), (2.0, 3.0, 4.0), (0.5, 0.7, 1.2)]
)
def test_dirichlet(concentration: tuple[float, ...]) -> None:
    # With whole numbers the mean is that of a polynomial, and its derivatives are not.
    alpha = t(*concentration)
    p, total = Dirichlet(alpha), alpha.sum()
    value = mlc.expectation(lambda x: x[..., 0] * x[..., 2], p)
    log = mlc.expectation(lambda x: x[..., 1].log(), p)
    for ours, exact in (
        (value, alpha[0] * alpha[2] / (total * (total + 1))),
        (log, torch.digamma(alpha[1]) - torch.digamma(total)),
    ):
        torch.testing.assert_close(ours, exact, rtol=1e-7, atol=0)
        slopes = [torch.autograd.grad(v, alpha, retain_graph=True)[0]
                  for v in (ours, exact)]  # fmt: skip
        torch.testing.assert_close(*slopes, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["Dirichlet", "NormalizedDensity"])
def test_parameters_of_a_function_and_of_a_density_together(name: str) -> None:
    # Both have a mean of x^c in closed form, whose mixed derivative is asked for.
    c, k = t(1.5), t(2.0)
    if name == "Dirichlet":  # x[0] is a Beta variable
        p: Distribution = Dirichlet(torch.cat([k, k.detach(), 1 + k.detach()]))
        value = mlc.expectation(lambda x: x[..., 0] ** c, p)
        log_exact = (torch.lgamma(k + c) - torch.lgamma(k)
                     + torch.lgamma(k + 5) - torch.lgamma(k + 5 + c))  # fmt: skip
    else:
        p = mlc.NormalizedDensity(lambda x: -k * x, mlc.HalfLine(0.0 * k.detach()))
        value = mlc.expectation(lambda x: x**c, p)
        log_exact = torch.lgamma(1 + c) - c * k.log()
    pairs = [
        (v.sum(), *torch.autograd.grad(v, (c, k), create_graph=True))
        for v in (value, log_exact.exp())
    ]
    torch.testing.assert_close(*pairs, rtol=2e-6, atol=0)
    mixed = [torch.autograd.grad(by_c.sum(), k)[0] for _, by_c, _ in pairs]
    torch.testing.assert_close(*mixed, rtol=1e-5, atol=0)


def test_rough_functions_of_several_variables_go_to_the_box() -> None:
    p = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    value = mlc.expectation(lambda x: x.abs().sum(-1), p, rtol=1e-4)
    assert value.item() == pytest.approx(2 * math.sqrt(2 / math.pi), rel=1e-4)


@pytest.mark.parametrize("kind", ["multivariate", "independent"])
@pytest.mark.parametrize("d", [5, 6, 8, 12])
def test_many_dimensions(d: int, kind: str) -> None:
    # The mean of exp(mean of x) is exp(variance of the mean / 2).
    shared = 0.5 if kind == "multivariate" else 0.0
    if kind == "multivariate":
        cov = 0.5 * torch.eye(d, dtype=DOUBLE) + shared
        p: Distribution = MultivariateNormal(torch.zeros(d, dtype=DOUBLE), cov)
    else:
        p = Independent(Normal(torch.zeros(d, dtype=DOUBLE), math.sqrt(0.5)), 1)
    exact = math.exp((0.5 / d + shared) / 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        value = mlc.expectation(lambda x: x.mean(-1).exp(), p).item()
    # Few nodes on each axis: what they do not confirm is reported. More dimensions
    # are left to a lattice, of which no tolerance is asked.
    allowed = {5: 1e-8, 6: 1e-8, 8: 2e-5, 12: 1e-4}[d]
    assert value == pytest.approx(exact, rel=allowed)
    assert [str(w.message) for w in caught if d < 8] == []
    if d == 8 and kind == "multivariate":
        assert "few nodes on each axis" in str(caught[0].message)
        with pytest.raises(mlc.IntegrationError):
            mlc.expectation(lambda x: x.mean(-1).exp(), p, on_failure="raise")


def test_functions_that_are_infinite_where_there_is_no_mass() -> None:
    p = MultivariateNormal(torch.zeros(6, dtype=DOUBLE), torch.eye(6, dtype=DOUBLE))
    rule = mlc.Lattice(2**12)
    value = mlc.expectation(lambda x: (8 * x.mean(-1)).exp(), p, rule).item()
    assert math.isfinite(value)


def test_a_generator_seeds_a_random_rule() -> None:
    p = MultivariateNormal(torch.zeros(3, dtype=DOUBLE), torch.eye(3, dtype=DOUBLE))
    rule = mlc.Sobol(2**10, tails=mlc.Tails.GAUSSIAN)
    seeds = [None, None, 1, 1, 2]
    plain, again, one, same, two = (
        mlc.expectation(
            lambda x: x.square().sum(-1),
            p,
            rule,
            generator=None if s is None else torch.Generator().manual_seed(s),
            on_failure="ignore",
        )
        for s in seeds
    )
    assert plain == again and one == same
    assert len({plain.item(), one.item(), two.item()}) == 3
    assert abs(one - 3) < 0.05
    log = mlc.log_expectation(
        lambda x: x.square().sum(-1).log(),
        p,
        rule,
        generator=torch.Generator().manual_seed(1),
        on_failure="ignore",
    )
    assert log.exp().item() == pytest.approx(one.item(), rel=1e-12)
    for solve in (mlc.expectation, mlc.log_expectation):
        with pytest.raises(ValueError, match="generator has no effect with the rule"):
            solve(torch.cos, Normal(0.0, 1.0), generator=torch.Generator())
    with pytest.raises(TypeError, match="generator is a int"):
        mlc.expectation(torch.cos, p, rule, generator=1)  # type: ignore[arg-type]


def test_single_precision() -> None:
    p = Normal(torch.tensor([0.0, 2.0]), 0.5)
    value = mlc.expectation(torch.exp, p)
    assert value.dtype == torch.float32
    exact = torch.exp(torch.tensor([0.125, 2.125]))
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)


def test_memory_makes_blocks() -> None:
    sizes = []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x * x

    p = Normal(torch.zeros(100), 1.0)
    mlc.expectation(f, p, mlc.GaussHermite(40), memory=8 * 4 * 100 * 10)
    assert max(sizes) == 10 and sum(sizes) == 40


def test_truncated_sums_leave_out_no_more_than_stated() -> None:
    points, log_weights = nodes._poisson(Poisson(t(0.1, 50.0, 1e4)), 0)
    missing = 1 - log_weights.exp().sum(0)
    assert (missing.abs() < 1e-9).all()  # rounding of the log density at 1e4
    assert len(points) < 3000


class Coin(Distribution):
    """-1 or 1; nothing that torch or this package could know."""

    arg_constraints = {}  # noqa: RUF012


def test_unknown_distributions_are_refused_until_registered() -> None:
    with pytest.raises(ValueError, match="nothing is known about Coin"):
        mlc.expectation(square, Coin(validate_args=False))

    @mlc.register_expectation_rule(Coin, exact=True)
    def coin(coin: Coin, n: int) -> tuple[Tensor, Tensor]:
        return torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.5]).log()

    try:
        assert mlc.expectation(square, Coin(validate_args=False)).item() == 1
    finally:
        nodes._registry.pop(Coin)


@pytest.mark.parametrize(
    ("p", "at", "exact"),
    [
        (Normal(t(0.0)[0], 1.0), 0.1, 0.46017216272297101),
        (LogNormal(t(0.0)[0], 1.0), math.exp(0.1), 0.46017216272297101),
        (Independent(Normal(torch.zeros(2, dtype=DOUBLE), 1.0), 1), 0.1,
         0.46017216272297101),
        (MixtureSameFamily(Categorical(torch.ones(2, dtype=DOUBLE)),
                           Normal(t(-1.0, 1.0), 1.0)), 0.1, 0.47580296779981157),
        (MixtureSameFamily(Categorical(torch.ones(2, dtype=DOUBLE)),
                           Uniform(t(0.0, 1.0), t(2.0, 4.0))), 0.7, 0.825),
        (Laplace(t(0.0)[0], 1.0), 0.02, math.exp(-0.02) / 2),
        (Exponential(t(2.0)[0]), 0.01, math.exp(-0.02)),
        (Uniform(t(2.0)[0], 3.0), 2.001, 0.999),
        (Uniform(t(2.0)[0], 3.0), 2.999, 0.001),
    ],
)  # fmt: skip
def test_a_step_between_nodes_of_both_rules_is_seen(
    p: Distribution, at: float, exact: float
) -> None:
    def above(x: Tensor) -> Tensor:
        return ((x[..., 0] if p.event_shape else x) > at).double()

    assert mlc.expectation(above, p).item() == pytest.approx(exact, rel=1e-7)


def test_what_only_a_product_of_rules_can_do_is_reported_where_that_is_not_enough() -> (
    None
):
    p = Independent(Uniform(torch.zeros(2, dtype=DOUBLE), 1.0), 1)
    with pytest.warns(mlc.IntegrationWarning, match="is all there is for this"):
        mlc.expectation(lambda x: (x[..., 0] > 0.51).double(), p)
    with pytest.raises(mlc.IntegrationError):
        mlc.expectation(lambda x: x.amax(-1).sqrt(), p, on_failure="raise")


def test_a_step_at_the_mean_has_the_gradient_of_the_probability() -> None:
    mean = t(0.3)
    value = mlc.expectation(lambda x: (x > 0.3).double(), Normal(mean, 2.0))
    (slope,) = torch.autograd.grad(value, mean)
    assert slope.item() == pytest.approx(1 / math.sqrt(8 * math.pi), rel=1e-7)


def test_a_function_without_a_value_at_the_end_is_not_asked_there() -> None:
    def score(x: Tensor) -> Tensor:
        assert (x > 0).all()
        return torch.where(x > 0, torch.log1p(x), torch.nan)

    for rate in (t(1.0), t(1.0).float()):
        value = mlc.expectation(score, Exponential(rate), on_failure="raise")
        assert value.item() == pytest.approx(0.59634736232319407, rel=3e-4)


def test_registered_nodes_are_checked_by_fewer_and_counted_by_their_rule() -> None:
    class Own(Normal):
        pass

    asked: list[int] = []

    @mlc.register_expectation_rule(Own, rule=mlc.GaussHermite)
    def normal(p: Own, n: int) -> tuple[Tensor, Tensor]:
        asked.append(n)
        return nodes_of_normal(p, n)

    nodes_of_normal = nodes.entry_of(Normal(0.0, 1.0)).make
    p = Own(torch.tensor(0.5, dtype=DOUBLE), 1.0)
    try:
        assert mlc.expectation(square, p).item() == pytest.approx(1.25, rel=1e-13)
        assert asked == [32, 15]
        # What they do not confirm goes to the support; another rule goes there at once.
        exact = 0.5 * torch.special.ndtr(p.loc) + (-(p.loc**2) / 2).exp() / math.sqrt(
            2 * math.pi
        )
        torch.testing.assert_close(mlc.expectation(torch.relu, p), exact)
        asked.clear()
        mlc.expectation(square, p, mlc.GaussHermite(7))
        assert asked == [7]
        for other in (mlc.DoubleExponential(), mlc.GaussLegendre(60)):
            mlc.expectation(square, p, other)
        assert asked == [7]
    finally:
        nodes._registry.pop(Own)


def test_a_distribution_with_support_and_log_prob_is_enough() -> None:
    class Triangle(Distribution):
        arg_constraints = {}  # noqa: RUF012
        support = torch.distributions.constraints.unit_interval

        def log_prob(self, x: Tensor) -> Tensor:
            return (2 * x).log()

    value = mlc.expectation(square, Triangle(validate_args=False))
    assert value.item() == pytest.approx(0.5)


def test_layer() -> None:
    net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    layer = mlc.Expectation(
        lambda x: net(x[:, None]), mlc.GaussHermite(8), memory=10**6
    )
    p = Normal(torch.tensor(0.2), 0.3)
    assert torch.equal(layer(p), mlc.expectation(layer.integrand, p, layer.rule))
    layer = mlc.Expectation(nn.LogSigmoid(), log=True)
    assert layer(p).item() == pytest.approx(
        mlc.expectation(torch.sigmoid, p).log().item(), rel=1e-5
    )
    assert "log=True" in repr(layer) and "LogSigmoid()" in repr(layer)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mlc.expectation(3, Normal(0.0, 1.0)), TypeError, "integrand is a int"),
        (lambda: mlc.expectation(square, 3), TypeError, "distribution is a int"),
        (lambda: mlc.expectation(square, Normal(0.0, 1.0), 32), TypeError, "rule is a"),
        (
            lambda: mlc.expectation(square, Normal(0.0, 1.0), on_failure="no"),
            ValueError,
            "on_failure is 'no'",
        ),
        (
            lambda: mlc.expectation(square, Normal(0.0, 1.0), rtol=-1),
            ValueError,
            "rtol is -1",
        ),
        (
            lambda: mlc.expectation(torch.sum, Normal(torch.zeros(2), 1.0)),
            ValueError,
            "the integrand got points",
        ),
        (
            lambda: mlc.expectation(lambda x: 1.0, Normal(0.0, 1.0)),
            TypeError,
            "the integrand returned float",
        ),
        (
            lambda: mlc.expectation(
                lambda x: x.sum(-1), Independent(Exponential(torch.ones(40)), 1)
            ),
            ValueError,
            "no nodes for",
        ),
        (
            lambda: mlc.expectation(square, Poisson(torch.tensor(1e13))),
            ValueError,
            "too many to sum",
        ),
        (
            lambda: mlc.register_expectation_rule(Normal(0.0, 1.0)),
            TypeError,
            "a class of torch.distributions",
        ),
        (
            lambda: mlc.expectation(
                lambda x: x.floor(), Gamma(t(1.5), t(1.0)), max_evals=60,
                on_failure="raise",
            ),
            mlc.IntegrationError,
            "did not converge",
        ),
    ],
)  # fmt: skip
def test_refusals(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


OUTSIDE = {
    "supports of their own": (
        Uniform(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 11.0])),
        torch.tensor([[0.5, 10.5], [5.0, 5.0], [10.5, 0.5]]),
    ),
    "one element without a point": (
        LogNormal(torch.zeros(2), 1.0),
        torch.tensor([[1.0, -1.0], [-2.0, -2.0], [2.0, -3.0]]),
    ),
    "several coordinates": (
        Dirichlet(torch.ones(3)),
        torch.tensor([[0.2, 0.3, 0.5], [0.2, 0.3, 0.9], [0.1, 0.1, 0.8]]),
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_log_density_outside_of_a_support_is_minus_infinity(name: str) -> None:
    p, x = OUTSIDE[name]
    inside = p.support.check(x)
    values = log_prob_anywhere(p, x)
    assert (values[~inside] == -math.inf).all()
    assert values[inside].isfinite().all()


MAPPED: dict[str, Callable[[Tensor], Distribution]] = {
    "Gamma": lambda a: Gamma(a, 1.0, validate_args=False),
    "Beta": lambda a: Beta(a, 2.0, validate_args=False),
    "Laplace": lambda a: Laplace(a, 1.0, validate_args=False),
    "Poisson": lambda a: Poisson(a, validate_args=False),
    "NegativeBinomial": lambda a: NegativeBinomial(a, 0.4, validate_args=False),
    "Dirichlet": lambda a: Dirichlet(torch.stack([a, a + 1], -1), validate_args=False),
    "smooth Dirichlet": lambda a: Dirichlet(
        torch.stack([a + 1, a + 2], -1), validate_args=False),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPPED)
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_functional_transforms_of_a_mean(name: str) -> None:
    def mean(a: Tensor) -> Tensor:
        p = MAPPED[name](a)
        if p.event_shape:
            return mlc.expectation(lambda x: torch.sin(x[..., 0]), p)
        return mlc.expectation(torch.sin, p)

    a = torch.tensor([0.7, 1.3], dtype=torch.float64)
    leaf = a.clone().requires_grad_()
    expected = mean(leaf)
    (slope,) = torch.autograd.grad(expected.sum(), leaf)
    torch.testing.assert_close(torch.func.vmap(mean)(a), expected.detach())
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(mean))(a), slope)
    _, tangent = torch.func.jvp(mean, (a,), (torch.ones_like(a),))
    torch.testing.assert_close(tangent, slope)


@pytest.mark.parametrize(
    ("f", "exact"),
    [
        (square, lambda a, b: a * (a + 1) / ((a + b) * (a + b + 1))),
        (torch.log, lambda a, b: torch.digamma(a) - torch.digamma(a + b)),
    ],
    ids=["square", "log"],
)
def test_beta_variables_that_crowd_at_the_ends(
    f: Callable[[Tensor], Tensor], exact: Callable[[Tensor, Tensor], Tensor]
) -> None:
    # Of a power of 0.05 a tenth of the mass is nearer to 1 than any other number.
    a = torch.tensor([0.5, 0.1, 0.05, 3.0, 50.0, 1e4, 1.0], dtype=DOUBLE)
    b = torch.tensor([0.5, 0.1, 0.05, 0.1, 80.0, 2e4, 1.0], dtype=DOUBLE)
    a, b = a.requires_grad_(), b.requires_grad_()
    ours, theirs = mlc.expectation(f, Beta(a, b)), exact(a, b)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    slopes = [torch.autograd.grad(e.sum(), (a, b)) for e in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=3e-9, atol=0)
    # In single precision powers of 0.1 leave mass beyond all numbers at 0 as well, and
    # those of 1e4 two digits of a density.
    for i in (0, 3, 4, 6):
        single = mlc.expectation(f, Beta(a[i].float(), b[i].float()))
        torch.testing.assert_close(single, theirs[i].float(), rtol=2e-4, atol=0)


def test_a_function_that_is_infinite_where_a_beta_variable_crowds_is_reported() -> None:
    low = torch.tensor(0.05)
    with pytest.warns(mlc.IntegrationWarning):
        mlc.expectation(torch.log, Beta(low, low))
    for power in (0.15, 0.3, 0.45):
        with pytest.warns(mlc.IntegrationWarning):
            mlc.expectation(lambda x: torch.log1p(-x), Beta(2.0 + 0 * t(power), power))
    half = Beta(*t(2.0, 0.5).detach())
    value = mlc.expectation(lambda x: torch.log1p(-x), half)
    exact = torch.digamma(t(0.5)) - torch.digamma(t(2.5))
    assert value.item() == pytest.approx(exact.item(), rel=3e-8)
    b = torch.tensor([0.05, 2.0], dtype=DOUBLE)
    with pytest.warns(mlc.IntegrationWarning, match="1 of 2"):
        value = mlc.expectation(lambda x: torch.log1p(-x), Beta(b, b))
    exact = torch.digamma(b[1]) - torch.digamma(2 * b[1])
    assert value[1].item() == pytest.approx(exact.item(), rel=1e-9)
