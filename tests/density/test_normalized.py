"""Normalised densities against torch's own distributions and closed forms."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor, nn
from torch.distributions import (
    Beta,
    Cauchy,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    HalfNormal,
    Laplace,
    Normal,
    StudentT,
    Uniform,
    VonMises,
    kl_divergence,
)

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

DOUBLE = torch.float64


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


class Case(NamedTuple):
    """An unnormalised density, its domain, the log of its integral, torch's twin."""

    name: str
    log_density: Callable[[Tensor], Tensor]
    domain: mlc.Domain
    log_z: float
    twin: Distribution | None
    rtol: float = 1e-8


LINE = mlc.RealLine(torch.tensor(0.0, dtype=DOUBLE))
HALF = mlc.HalfLine(torch.tensor(0.0, dtype=DOUBLE))
UNIT = mlc.Interval(torch.tensor(0.0, dtype=DOUBLE), 1.0)


def barron(alpha: float) -> Callable[[Tensor], Tensor]:
    """Barron's general loss, negative: a density for alpha >= 0."""
    if alpha == 0:
        return lambda x: -torch.log1p(x * x / 2)
    if alpha == 2:
        return lambda x: -x * x / 2
    size = abs(alpha - 2)
    return lambda x: -size / alpha * ((x * x / size + 1) ** (alpha / 2) - 1)


def barron_log_z(alpha: float) -> float:
    value, _ = scipy.integrate.quad(
        lambda x: math.exp(barron(alpha)(t(x)).item()), 0, math.inf, epsabs=0,
        epsrel=1e-12, limit=500,
    )  # fmt: skip
    return math.log(2 * value)


CASES = [
    Case("normal", lambda x: -((x - 1) ** 2) / 8, LINE,
         math.log(2 * math.sqrt(2 * math.pi)), Normal(t(1.0)[0], t(2.0)[0])),
    Case("narrow and far", lambda x: -((x - 1e4) ** 2) * 5e3 + 700, LINE,
         700 + math.log(math.sqrt(2 * math.pi) / 100), Normal(t(1e4)[0], t(0.01)[0])),
    Case("student 3", lambda x: -2 * torch.log1p(x * x / 3), LINE,
         math.log(math.sqrt(3) * math.pi / 2), StudentT(t(3.0)[0])),
    Case("cauchy", lambda x: -torch.log1p(x * x), LINE, math.log(math.pi),
         Cauchy(t(0.0)[0], t(1.0)[0])),
    Case("laplace", lambda x: -x.abs(), LINE, math.log(2),
         Laplace(t(0.0)[0], t(1.0)[0])),
    Case("logistic", lambda x: -x - 2 * nn.functional.softplus(-x), LINE, 0.0, None),
    Case("gumbel", lambda x: -x - torch.exp(-x), LINE, 0.0,
         Gumbel(t(0.0)[0], t(1.0)[0])),
    Case("gamma", lambda x: 1.5 * x.log() - 2 * x, HALF,
         math.lgamma(2.5) - 2.5 * math.log(2), Gamma(t(2.5)[0], t(2.0)[0])),
    Case("exponential", lambda x: -3 * x, HALF, -math.log(3), Exponential(t(3.0)[0])),
    Case("half normal", lambda x: -x * x / 2, HALF, math.log(math.pi / 2) / 2,
         HalfNormal(t(1.0)[0])),
    Case("beta 1/2", lambda x: -(x.log() + torch.log1p(-x)) / 2, UNIT,
         math.log(math.pi), Beta(t(0.5)[0], t(0.5)[0])),
    Case("beta", lambda x: 2 * x.log() + torch.log1p(-x), UNIT,
         math.lgamma(3) + math.lgamma(2) - math.lgamma(5), Beta(t(3.0)[0], t(2.0)[0])),
    Case("uniform", lambda x: 0 * x + 5, UNIT, 5.0, Uniform(t(0.0)[0], t(1.0)[0])),
    Case("von mises", lambda x: 4 * x.cos(),
         mlc.Interval(torch.tensor(-math.pi, dtype=DOUBLE), math.pi),
         math.log(2 * math.pi * torch.special.i0(t(4.0))[0].item()),
         VonMises(t(0.0)[0], t(4.0)[0])),
    Case("mixture", lambda x: torch.logaddexp(-((x + 2) ** 2), -((x - 3) ** 2) * 8),
         LINE, math.log(math.sqrt(math.pi) * (1 + 1 / math.sqrt(8))), None),
    *(Case(f"barron {a}", barron(a), LINE, barron_log_z(a), None)
      for a in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
]  # fmt: skip
WITH_TWIN = [c for c in CASES if c.twin is not None]


def density(case: Case) -> mlc.NormalizedDensity:
    return mlc.NormalizedDensity(case.log_density, case.domain)


def points(case: Case) -> Tensor:
    torch.manual_seed(1)
    return density(case).sample((7,))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_log_normalizer(case: Case) -> None:
    found = density(case)
    assert found.log_normalizer.item() == pytest.approx(case.log_z, abs=1e-8)
    assert found.status == mlc.Status.CONVERGED


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_log_normalizer_in_single_precision(case: Case) -> None:
    if case.name == "narrow and far":
        pytest.skip("1e4 +- 0.01 has no room in float32")
    domain = type(case.domain)(
        *(v.float() if isinstance(v, Tensor) else v for v in vars(case.domain).values())
    )
    found = mlc.NormalizedDensity(case.log_density, domain).log_normalizer
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(case.log_z, abs=1e-5)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_round_trips_and_mass_by_an_independent_rule(case: Case) -> None:
    found = density(case)
    u = t(1e-6, 0.01, 0.3, 0.5, 0.99, 1 - 1e-6)
    x = found.icdf(u)
    assert (x.diff() > 0).all()
    torch.testing.assert_close(found.cdf(x), u, rtol=0, atol=2e-8)
    mass, _ = scipy.integrate.quad(
        lambda x: found.log_prob(t(x)).exp().item(),
        x[1].item(), x[4].item(), limit=200, points=x[2:4].tolist(),
    )  # fmt: skip
    assert mass == pytest.approx(0.98, abs=1e-7)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_samples_follow_the_cdf(case: Case) -> None:
    found = density(case)
    torch.manual_seed(0)
    uniform = found.cdf(found.sample((2000,)))
    assert scipy.stats.kstest(uniform.numpy(), "uniform").pvalue > 0.01
    assert not found.sample().requires_grad


@pytest.mark.parametrize("case", WITH_TWIN, ids=lambda c: c.name)
def test_agreement_with_torch(case: Case) -> None:
    found, twin, x = density(case), case.twin, points(case)
    torch.testing.assert_close(found.log_prob(x), twin.log_prob(x), rtol=0, atol=2e-8)
    for name in ("cdf", "entropy", "mean", "variance", "stddev", "mode"):
        if (name == "cdf" and isinstance(twin, (VonMises, StudentT, Gamma, Beta))) or (
            name in ("entropy", "variance", "stddev") and isinstance(twin, VonMises)
        ):
            continue  # torch has none, or calls something else the variance
        if name == "mode" and case.name in ("uniform", "beta 1/2"):
            continue  # not a single point
        ours, theirs = getattr(found, name), getattr(twin, name)
        if callable(ours):
            ours, theirs = (f(x) if name == "cdf" else f() for f in (ours, theirs))
        torch.testing.assert_close(
            ours,
            theirs,
            rtol=2e-7,
            atol=2e-7,
            equal_nan=True,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize(
    "other",
    [Normal(t(0.5)[0], t(1.5)[0]), StudentT(t(4.0)[0], t(0.1)[0])],
    ids=["normal", "student"],
)
def test_divergences_through_the_registry(other: Distribution) -> None:
    found, twin = density(CASES[0]), CASES[0].twin
    p_normal = isinstance(other, Normal)
    forward = kl_divergence(found, other)
    backward = kl_divergence(other, found)
    if p_normal:
        torch.testing.assert_close(forward, kl_divergence(twin, other))
        torch.testing.assert_close(backward, kl_divergence(other, twin))
    x = twin.sample((200_000,))
    monte_carlo = (twin.log_prob(x) - other.log_prob(x)).mean()
    assert forward.item() == pytest.approx(monte_carlo.item(), abs=0.01)
    assert abs(kl_divergence(found, found).item()) < 1e-12


def test_divergence_is_infinite_outside_of_the_support() -> None:
    assert kl_divergence(density(CASES[0]), Exponential(t(1.0)[0])).isinf()
    inside = kl_divergence(Uniform(t(0.0)[0], t(1.0)[0]), density(CASES[0]))
    exact = CASES[0].log_z + ((1**3 - 0) / 3) / 8
    assert inside.item() == pytest.approx(exact, abs=1e-7)
    with pytest.raises(ValueError, match="event_shape"):
        kl_divergence(
            density(CASES[0]),
            torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)),
        )


def stiffness() -> Tensor:
    return torch.tensor([1.0, 4.0, 0.25], dtype=DOUBLE, requires_grad=True)


def springs(k: Tensor, **settings: object) -> mlc.NormalizedDensity:
    return mlc.NormalizedDensity(
        lambda x, k: -k * x**2 / 2, LINE, args=(k,), **settings
    )


class Score(NamedTuple):
    """A family of densities, its log normaliser, and parameters of members."""

    name: str
    log_density: Callable[..., Tensor]
    domain: mlc.Domain
    log_z: Callable[..., Tensor]
    members: tuple[tuple[float, ...], ...]


def log_mixture(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.logaddexp(-((x + 2) ** 2) * a, -((x - 3) ** 2) * b)


SCORES = [
    Score("normal", lambda x, m, s: -(((x - m) / s) ** 2) / 2, LINE,
          lambda m, s: s.log() + 0 * m, ((1.0, 2.0), (0.0, 100.0), (1e4, 0.01))),
    Score("student", lambda x, k, s: -(k + 1) / 2 * torch.log1p((x / s) ** 2 / k), LINE,
          lambda k, s: k.log() / 2 + torch.lgamma(k / 2) - torch.lgamma((k + 1) / 2)
          + s.log(), ((1.0, 1.0), (1.0, 100.0), (3.0, 0.1))),
    Score("laplace", lambda x, s: -x.abs() / s, LINE, torch.log,
          ((1.0,), (100.0,), (1e-4,))),
    Score("logistic", lambda x, m, s: -(x - m) / s
          - 2 * nn.functional.softplus(-(x - m) / s), LINE,
          lambda m, s: s.log() + 0 * m, ((0.0, 1.0), (3.0, 0.2))),
    Score("gumbel", lambda x, m, s: -(x - m) / s - torch.exp(-(x - m) / s), LINE,
          lambda m, s: s.log() + 0 * m, ((0.0, 1.0), (3.0, 0.2))),
    Score("mixture", log_mixture, LINE,
          lambda a, b: (a.rsqrt() + b.rsqrt()).log(), ((1.0, 8.0), (0.1, 40.0))),
    Score("gamma", lambda x, a, b: (a - 1) * x.log() - b * x, HALF,
          lambda a, b: torch.lgamma(a) - a * b.log(), ((2.5, 2.0), (0.4, 1.0))),
    Score("beta", lambda x, a, b: (a - 1) * x.log() + (b - 1) * torch.log1p(-x), UNIT,
          lambda a, b: torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b),
          ((0.5, 0.5), (0.6, 20.0), (0.9, 0.4), (1.0, 1.0), (2.0, 2.0), (3.0, 2.0))),
    Score("von mises", lambda x, m, k: k * (x - m).cos(),
          mlc.Interval(torch.tensor(-math.pi, dtype=DOUBLE), math.pi),
          lambda m, k: torch.special.i0e(k).log() + k + 0 * m,
          ((0.0, 4.0), (1.0, 0.5), (0.3, 50.0))),
    *(Score(f"barron {a}", lambda x, s, a=a: barron(a)(x / s), LINE, torch.log,
            ((1.0,), (0.1,))) for a in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)),
]  # fmt: skip


@pytest.mark.parametrize("family", SCORES, ids=lambda s: s.name)
def test_gradient_of_the_log_normaliser_is_the_mean_score(family: Score) -> None:
    for member in family.members:
        theta = torch.tensor(member, dtype=DOUBLE, requires_grad=True)
        p = mlc.NormalizedDensity(
            family.log_density, family.domain, args=theta.unbind(0)
        )
        (score,) = torch.autograd.grad(p.log_normalizer, theta)
        (exact,) = torch.autograd.grad(family.log_z(*theta.unbind(0)), theta)
        assert ((score - exact).norm() / exact.norm()).item() < 1e-8


def test_gradients_that_nodes_for_the_value_miss() -> None:
    # A polynomial is integrated at once; its derivative by the power has a log in it.
    def gradient(around: float, **settings: float) -> Tensor:
        a = torch.tensor([3.0, 1.0], dtype=DOUBLE, requires_grad=True)
        p = mlc.NormalizedDensity(
            lambda x, a: (a - 1) * (x - around).abs().log(), UNIT, args=(a,), **settings
        )
        return torch.autograd.grad(p.log_normalizer.sum(), a)[0]

    exact = torch.tensor([-1 / 3, -1.0], dtype=DOUBLE)
    for settings in ({}, {"grad_rtol": 1e-8}):
        torch.testing.assert_close(gradient(0.0, **settings), exact, rtol=1e-8, atol=0)
        torch.testing.assert_close(gradient(1.0, **settings), exact, rtol=1e-8, atol=0)
    # By default only the ends are looked at. Integrals of log |u| u^2 and log |u|:
    u, v = 0.6, 0.4
    square = sum(t**3 * (math.log(t) / 3 - 1 / 9) for t in (u, v))
    first = square / ((u**3 + v**3) / 3)
    inside = torch.tensor([first, u * math.log(u) + v * math.log(v) - 1], dtype=DOUBLE)
    assert (gradient(0.4) - inside).abs().max() > 1e-6
    torch.testing.assert_close(gradient(0.4, grad_rtol=1e-8), inside, rtol=1e-7, atol=0)
    a = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    layer = mlc.LogNormalizer(lambda x, a: (a - 1) * x.log(), UNIT, grad_rtol=1e-8)
    (slope,) = torch.autograd.grad(layer(a), a)
    assert slope.item() == pytest.approx(-1, rel=1e-8)


def test_without_a_gradient_none_is_looked_at() -> None:
    sizes: list[int] = []
    k = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)

    def log_density(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return -k * x * x

    counts = []
    for settings in ({}, {"grad_rtol": 1e-8}):
        sizes.clear()
        with torch.no_grad():
            _ = mlc.NormalizedDensity(log_density, LINE, **settings).log_normalizer
        counts.append(sum(sizes))
    assert counts[0] == counts[1]
    p = mlc.NormalizedDensity(log_density, LINE, grad_rtol=1e-8)
    assert p.log_normalizer.requires_grad and p.status == 0
    assert p.expand((2,)).log_normalizer.shape == (2,)
    # Where the graph cannot be seen, nobody looks.
    slope = torch.func.grad(
        lambda k: (
            mlc.NormalizedDensity(
                lambda x, k: -k * x * x, LINE, args=(k,), grad_rtol=1e-8
            ).log_normalizer
        )
    )
    assert slope(k.detach()).item() == pytest.approx(-0.25)


@pytest.mark.parametrize(
    "name", ["mean", "variance", "mode", "entropy", "icdf", "cdf", "rsample"]
)
def test_gradients_against_closed_forms(name: str) -> None:
    k, shift = stiffness(), t(0.3).requires_grad_()
    found = mlc.NormalizedDensity(
        lambda x, k: -k * (x - shift) ** 2 / 2, LINE, args=(k,)
    )
    twin = Normal(shift.expand(3), k.rsqrt())
    if name in ("icdf", "cdf"):
        at = t(0.2, 0.5, 0.9).requires_grad_()
        ours, theirs, wrt = (
            getattr(found, name)(at),
            getattr(twin, name)(at),
            (k, shift, at),
        )
    elif name == "rsample":
        torch.manual_seed(3)
        ours = found.rsample((4,))
        z = ((ours - shift) * k.sqrt()).detach()
        theirs, wrt = shift + z * k.rsqrt(), (k, shift)
    elif name == "entropy":
        ours, theirs, wrt = found.entropy(), twin.entropy(), (k,)
    else:
        ours, theirs, wrt = getattr(found, name), getattr(twin, name), (k, shift)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    mine = torch.autograd.grad(ours.sum(), wrt, create_graph=True, allow_unused=True)
    wanted = torch.autograd.grad(
        theirs.sum(), wrt, create_graph=True, allow_unused=True
    )
    for a, b in zip(mine, wanted, strict=True):
        a, b = (torch.zeros(1) if g is None else g for g in (a, b))
        torch.testing.assert_close(
            a.double(), b.double().expand_as(a), rtol=1e-6, atol=1e-7
        )
    # Second order: d/dk of the gradient in k.
    if mine[0] is not None and wanted[0] is not None:
        second = [
            torch.autograd.grad(g[0].sum(), k, allow_unused=True)[0]
            for g in (mine, wanted)
        ]
        torch.testing.assert_close(*second, rtol=1e-6, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_log_prob_in_every_mode() -> None:
    x = t(0.1, -0.5, 2.0)

    def log_prob(k: Tensor) -> Tensor:
        return springs(k, validate_args=False).log_prob(x[: k.shape[-1]])

    check_gradients(log_prob, stiffness(), compile=False)


def test_conditional_density_of_a_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    features = torch.randn(5, 2, dtype=DOUBLE)

    def energy(y: Tensor, features: Tensor) -> Tensor:
        both = torch.cat([y[..., None], features.expand(*y.shape, 2)], -1)
        return net(both)[..., 0]

    p = mlc.NormalizedDensity(
        energy, mlc.Interval(-3, 3), args=(features,), batch_shape=(5,)
    )
    assert p.batch_shape == (5,) and p.event_shape == ()
    y = torch.linspace(-3, 3, 2001, dtype=DOUBLE)[:, None].expand(-1, 5)
    mass = mlc.simpson(p.log_prob(y).exp(), y, dim=0)
    torch.testing.assert_close(mass, torch.ones_like(mass), rtol=1e-8, atol=0)
    loss = -p.log_prob(torch.zeros(5, dtype=DOUBLE)).mean()
    loss.backward()
    ours = [q.grad.clone() for q in net.parameters()]
    net.zero_grad()
    dense = torch.trapezoid(energy(y, features).exp(), y, dim=0).log()
    (dense - energy(torch.zeros(1, 5, dtype=DOUBLE), features)[0]).mean().backward()
    for a, b in zip(ours, net.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-5, atol=1e-7)


def test_nothing_is_computed_twice_until_a_parameter_changes() -> None:
    calls = 0
    k = torch.tensor(2.0, dtype=DOUBLE)

    def log_density(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -k * x * x

    p = mlc.NormalizedDensity(log_density, LINE)
    first = p.log_normalizer
    assert (p.cdf(t(0.3)), p.mean, p.variance) is not None
    calls = 0
    assert p.log_normalizer is first
    with torch.no_grad():
        assert p.log_normalizer is first
    p.log_prob(t(0.1))
    assert calls == 1
    assert (p.mean, p.variance) is not None
    assert calls == 1
    k.mul_(4)
    assert p.log_normalizer.item() == pytest.approx(math.log(math.pi / 8) / 2)
    assert calls > 1
    assert p.variance.item() == pytest.approx(1 / 16)


def test_a_plan_serves_all_calls_while_gradients_get_graphs_of_their_own() -> None:
    k = stiffness()
    p = springs(k)
    for _ in range(2):
        (g,) = torch.autograd.grad(p.log_prob(torch.zeros(3, dtype=DOUBLE)).sum(), k)
        torch.testing.assert_close(g, 1 / (2 * k.detach()))
    assert p._plan is p._plan


def test_gradient_and_no_gradient_alternate() -> None:
    k = stiffness()
    p = springs(k)
    with torch.no_grad():
        assert not p.log_normalizer.requires_grad
    assert p.log_normalizer.requires_grad
    with torch.no_grad():
        assert not p.mean.requires_grad
    assert p.variance.requires_grad


def test_expand_and_shapes() -> None:
    k = stiffness().detach()
    wide = springs(k).expand((2, 3))
    assert wide.batch_shape == (2, 3)
    x = torch.randn(4, 2, 3, dtype=DOUBLE)
    torch.testing.assert_close(wide.log_prob(x), Normal(0.0, k.rsqrt()).log_prob(x))
    assert wide.sample((5,)).shape == (5, 2, 3)
    assert wide.mean.shape == (2, 3)
    features = torch.rand(1, 2, dtype=DOUBLE)
    p = mlc.NormalizedDensity(
        lambda x, f: -f.sum(-1) * x, HALF, args=(features,), batch_shape=(1,)
    ).expand((4,))
    torch.testing.assert_close(p.mean, (1 / features.sum(-1)).expand(4))
    single = mlc.NormalizedDensity(lambda x: -x * x, LINE)
    assert single.sample().shape == () and single.log_prob(t(1.0, 2.0)).shape == (2,)

    class Own(mlc.NormalizedDensity):
        pass

    with pytest.raises(NotImplementedError, match="Own must define an expand"):
        Own(lambda x: -x * x, LINE).expand((2,))


def test_expanded_densities_keep_their_settings() -> None:
    sizes: list[int] = []

    def step(x: Tensor, k: Tensor) -> Tensor:
        sizes.append(len(x))
        return k * torch.floor(5 * x)

    def log_z(**settings: object) -> Tensor:
        p = mlc.NormalizedDensity(
            step, UNIT, args=(torch.ones(2, dtype=DOUBLE),), **settings
        )
        assert p.has_rsample
        return p.expand((3, 2)).log_normalizer

    exact = math.log(sum(math.exp(k) for k in range(5)) / 5)
    jumps = [0.2, 0.4, 0.6, 0.8]
    value = log_z(breakpoints=jumps, on_failure="raise", max_evals=1000)
    torch.testing.assert_close(value, torch.full_like(value, exact))
    with pytest.raises(mlc.IntegrationError):
        log_z(max_evals=50, on_failure="raise")
    sizes.clear()
    coarse = log_z(rule=mlc.Trapezoid(5), memory=6 * 8)
    nodes = sum(math.exp(k) for k in (0, 1, 1, 2, 2, 3, 3, 5)) / 8
    assert coarse[0, 0].item() == pytest.approx(math.log(nodes))
    assert sizes == [1] * 5
    for validate in (True, False):
        p = mlc.NormalizedDensity(lambda x: -x, HALF, validate_args=validate)
        assert p.expand((2,))._validate_args is validate
    power = torch.ones(2, dtype=DOUBLE, requires_grad=True)
    p = mlc.NormalizedDensity(
        lambda x, a: (a - 1) * (x - 0.4).abs().log(), UNIT, args=(power,),
        grad_rtol=1e-8,
    )  # fmt: skip
    (slope,) = torch.autograd.grad(p.expand((1, 2)).log_normalizer.sum(), power)
    inside = 0.6 * math.log(0.6) + 0.4 * math.log(0.4) - 1
    torch.testing.assert_close(slope, torch.full_like(slope, inside), rtol=1e-7, atol=0)


def test_values_outside_of_the_support() -> None:
    # The compiler turns torch's default validation off, for the whole process.
    p = mlc.NormalizedDensity(lambda x: -x, HALF, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        p.log_prob(t(-1.0))
    with pytest.raises(ValueError, match="support"):
        p.cdf(t(-1.0))
    quiet = mlc.NormalizedDensity(lambda x: x.log() - x, HALF, validate_args=False)
    assert quiet.log_prob(t(-1.0, 1.0))[0] == -math.inf
    assert quiet.log_prob(t(-1.0, 1.0))[1].item() == pytest.approx(-1.0)
    assert quiet.cdf(t(-1.0))[0] == 0
    x = t(-1.0, 1.0).requires_grad_()
    (slope,) = torch.autograd.grad(quiet.log_prob(x).sum(), x)
    assert slope.tolist() == [0.0, 0.0]
    # Nothing is evaluated out there: the derivative of x^k by k is nan.
    k = t(1.0).requires_grad_()
    power = mlc.NormalizedDensity(
        lambda x: k * x.log() - x, HALF, validate_args=False
    )  # fmt: skip
    (slope,) = torch.autograd.grad(power.log_prob(x)[1], k)
    assert slope.item() == pytest.approx(-torch.digamma(t(2.0)).item(), rel=1e-8)


def test_quantiles_at_and_beyond_the_ends() -> None:
    # The compiler turns torch's default validation off, for the whole process.
    p = mlc.NormalizedDensity(lambda x: -x, HALF, validate_args=True)
    assert p.icdf(t(0.0, 1.0)).tolist() == [0.0, math.inf]
    with pytest.raises(ValueError, match=r"icdf got probabilities from -0.1"):
        p.icdf(t(-0.1))
    with pytest.raises(ValueError, match=r"probabilities from 0.5 to 1.1"):
        p.icdf(t(0.5, 1.1))
    quiet = mlc.NormalizedDensity(lambda x: -x, HALF, validate_args=False)
    assert quiet.icdf(t(-0.1, 1.1, math.nan)).isnan().all()


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (LINE, 5.0, math.nan),
        (HALF, 0.0, -0.1),
        (UNIT, 1.0, 1.1),
        (mlc.Interval(-math.inf, 2.0), 2.0, 2.1),
        (mlc.Interval(-math.inf, math.inf), 2.0, math.nan),
    ],
)
def test_support(domain: mlc.Domain, inside: float, outside: float) -> None:
    support = mlc.NormalizedDensity(lambda x: -x * x, domain).support
    assert support.check(torch.tensor(inside)) and not support.check(
        torch.tensor(outside)
    )


def test_faults_of_single_elements() -> None:
    level = t(0.0, -math.inf)
    p = mlc.NormalizedDensity(lambda x, c: c - x * x, LINE, args=(level,))
    with pytest.warns(mlc.IntegrationWarning, match="1 of 2 integrals"):
        log_z = p.log_normalizer
    assert log_z[0].item() == pytest.approx(math.log(math.pi) / 2)
    assert p.status.tolist() == [0, 1]
    # What is asked of the other one is nan, and the rest is right.
    twin, u = Normal(t(0.0)[0], t(0.5)[0].sqrt()), t(0.3, 0.3)
    for name in ("mean", "variance", "mode"):
        ours = getattr(p, name)
        torch.testing.assert_close(ours[0], getattr(twin, name), rtol=1e-8, atol=1e-8)
        assert ours[1].isnan()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlc.IntegrationWarning)
        pairs = [(p.entropy(), twin.entropy()), (p.expectation(torch.square), t(0.5))]
        pairs += [(p.cdf(u), twin.cdf(u)), (p.icdf(u), twin.icdf(u))]
        assert p.rsample((3,))[:, 1].isnan().all()
    for ours, theirs in pairs:
        torch.testing.assert_close(ours[0], theirs.ravel()[0], rtol=1e-7, atol=1e-8)
        assert ours[1].isnan()


@pytest.mark.parametrize("fault", [math.nan, math.inf], ids=["nan", "heavy tail"])
def test_a_fault_of_one_element_is_its_own(fault: float) -> None:
    def log_density(x: Tensor, k: Tensor) -> Tensor:
        if math.isinf(fault):
            return -k * torch.log1p(x * x)
        return torch.where((k < 1) & (x > 1) & (x < 2), fault, -k * torch.log1p(x * x))

    power = t(1.0, 0.4, 2.0)
    p = mlc.NormalizedDensity(log_density, LINE, args=(power,))
    with pytest.warns(mlc.IntegrationWarning, match="1 of 3 integrals"):
        log_z = p.log_normalizer
    assert (p.status != 0).tolist() == [False, True, False]
    exact = t(math.log(math.pi), math.log(math.pi / 2))
    torch.testing.assert_close(log_z[[0, 2]], exact, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("log_density", "domain"),
    [
        (lambda x: -x.abs().log1p() / 2, LINE),
        (lambda x: torch.full_like(x, -math.inf), UNIT),
        (lambda x: torch.where((x - 0.3).abs() < 0.1, torch.nan, x), UNIT),
    ],
    ids=["heavy tail", "no mass", "nan inside"],
)
def test_what_cannot_be_normalised_is_reported(
    log_density: Callable[[Tensor], Tensor], domain: mlc.Domain
) -> None:
    with pytest.raises(mlc.IntegrationError):
        _ = mlc.NormalizedDensity(
            log_density, domain, on_failure="raise"
        ).log_normalizer
    with pytest.warns(mlc.IntegrationWarning):
        _ = mlc.NormalizedDensity(log_density, domain).log_normalizer
    _ = mlc.NormalizedDensity(log_density, domain, on_failure="ignore").log_normalizer


def test_moments_that_do_not_exist() -> None:
    cauchy = mlc.NormalizedDensity(lambda x: -torch.log1p(x * x), LINE)
    assert cauchy.mean.isnan() and cauchy.variance.isinf()
    student = mlc.NormalizedDensity(lambda x: -1.3 * torch.log1p(x * x / 1.6), LINE)
    assert student.mean.item() == pytest.approx(0, abs=1e-9)
    assert student.variance.isinf()


def test_far_peaks_need_breakpoints_and_then_all_is_right() -> None:
    def log_density(x: Tensor) -> Tensor:
        return torch.logaddexp(-((x - 1e3) ** 2) / 2, -((x + 1e3) ** 2) / 2 + 1)

    p = mlc.NormalizedDensity(log_density, LINE, breakpoints=[-1e3, 1e3])
    exact = math.log(math.sqrt(2 * math.pi) * (1 + math.e))
    assert p.log_normalizer.item() == pytest.approx(exact, abs=1e-8)
    share = math.e / (1 + math.e)
    torch.testing.assert_close(
        p.cdf(t(-1e3, 0.0, 1e3)),
        t(share / 2, share, (1 + share) / 2),
        rtol=0,
        atol=1e-8,
    )
    assert p.mode.item() == pytest.approx(-1e3)


def test_settings_have_an_effect() -> None:
    fixed = mlc.NormalizedDensity(lambda x: -x * x / 2, LINE, mlc.GaussHermite(1))
    assert fixed.log_normalizer.item() == pytest.approx(math.log(2 * math.pi) / 2)
    assert fixed.variance.item() == 0  # one node
    assert fixed.status == 0
    with pytest.raises(mlc.IntegrationError):
        _ = mlc.NormalizedDensity(
            lambda x: torch.floor(5 * x), UNIT, max_evals=50, on_failure="raise"
        ).log_normalizer
    hermite = mlc.NormalizedDensity(
        lambda x: -x * x / 2, LINE, mlc.AdaptiveGaussHermite()
    )
    assert hermite.variance.item() == pytest.approx(1)


def test_memory_makes_blocks_and_changes_nothing() -> None:
    k = torch.linspace(0.5, 2, 200, dtype=DOUBLE, requires_grad=True)
    found = []
    for memory in (None, 8 * 4 * 200 * 6):
        sizes: list[int] = []

        def log_density(x: Tensor, k: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return -k * x * x / 2

        p = mlc.NormalizedDensity(
            log_density, LINE, mlc.GaussHermite(48), args=(k,), memory=memory
        )
        (slope,) = torch.autograd.grad(p.log_normalizer.sum(), k)
        found.append((max(sizes), p.log_normalizer, slope))
    (whole, *ours), (block, *theirs) = found
    # All at once but the first node, whose graph turns out to be small.
    assert block * 4 <= whole == 47 * 200
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)
    torch.testing.assert_close(theirs[1], -1 / (2 * k.detach()), rtol=1e-8, atol=0)


def test_copies() -> None:
    p = mlc.NormalizedDensity(barron(2.0), LINE, args=())
    _ = p.log_normalizer
    assert copy.deepcopy(p).log_normalizer == p.log_normalizer
    plain = mlc.NormalizedDensity(torch.cos, mlc.Interval(-1, 1))
    _ = plain.mean
    again = pickle.loads(pickle.dumps(plain))
    assert again.log_normalizer == plain.log_normalizer
    assert "Interval(lower=-1, upper=1)" in repr(again)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((torch.cos, (0, 1)), {}, TypeError, "domain is a tuple"),
        ((3, UNIT), {}, TypeError, "integrand is a int"),
        ((torch.cos, UNIT), {"on_failure": "no"}, ValueError, "on_failure is 'no'"),
        ((torch.cos, UNIT), {"args": 3}, TypeError, "args is a int"),
        ((torch.cos, UNIT, 32), {}, TypeError, "rule is a int"),
        ((torch.cos, UNIT), {"rtol": -1.0}, ValueError, "rtol is -1.0"),
        ((torch.cos, UNIT), {"grad_rtol": "1"}, TypeError, "grad_rtol is a str"),
        ((torch.cos, UNIT), {"max_evals": 0}, ValueError, "max_evals"),
        ((torch.cos, UNIT), {"memory": 1.5}, TypeError, "memory"),
        (
            (torch.cos, UNIT, mlc.GaussLegendre(5)),
            {"rtol": 1e-3},
            ValueError,
            "no effect with GaussLegendre",
        ),
        (
            (lambda x: x.sum(-1), mlc.Box(0.0, 1.0, dimension=2), mlc.Vegas()),
            {"grad_rtol": 1e-3},
            ValueError,
            "grad_rtol has no effect with Vegas",
        ),
        ((torch.cos, UNIT), {"breakpoints": 3}, TypeError, "breakpoints is a int"),
        (
            (lambda x, k: x, UNIT),
            {"args": (torch.zeros(3, 2),), "batch_shape": (2,)},
            ValueError,
            "does not begin with",
        ),
    ],
)
def test_refusals(
    arguments: tuple[object, ...],
    settings: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        mlc.NormalizedDensity(*arguments, **settings)


def test_wrong_shapes_are_refused() -> None:
    p = springs(stiffness(), validate_args=True)
    with pytest.raises(ValueError, match=r"value has shape \(2,\)"):
        mlc.NormalizedDensity.log_prob(
            springs(stiffness(), validate_args=False), t(1, 2)
        )
    with pytest.raises(ValueError):
        p.log_prob(t(1.0, 2.0))
    events = mlc.NormalizedDensity(lambda x: torch.stack([x, x], -1), UNIT)
    with pytest.raises(ValueError, match="event dimensions"):
        _ = events.log_normalizer


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_moments_that_a_tail_does_not_have(dtype: torch.dtype) -> None:
    # Of a Student density with df degrees of freedom those of an order below df.
    df = torch.tensor([0.9, 1.6, 2.0, 2.5, 9.0], dtype=dtype, requires_grad=True)
    p = mlc.NormalizedDensity(
        lambda x, df: -(df + 1) / 2 * torch.log1p(x * x / df),
        mlc.RealLine(),
        args=(df,),
    )
    exact = StudentT(df)
    assert p.mean.isnan().tolist() == [True, False, False, False, False]
    assert p.variance.isinf().tolist() == [True, True, True, False, False]
    torch.testing.assert_close(p.mean[1:], torch.zeros_like(df[1:]), rtol=0, atol=1e-4)
    torch.testing.assert_close(p.variance[3:], exact.variance[3:], rtol=1e-3, atol=0)
    # On a half line as well, where the other end is finite.
    pareto = mlc.NormalizedDensity(
        lambda x, a: -(a + 1) * torch.log(x), mlc.HalfLine(1.0), args=(df.detach(),)
    )
    assert pareto.mean.isnan().tolist() == [True, False, False, False, False]
    assert pareto.variance.isinf().tolist() == [True, True, True, False, False]


@pytest.mark.parametrize("name", ["log_prob", "cdf", "icdf"])
def test_a_value_is_a_tensor(name: str) -> None:
    p = mlc.NormalizedDensity(lambda x: -x, mlc.Interval(0, 1))
    with pytest.raises(TypeError, match="value is a float; a tensor is wanted"):
        getattr(p, name)(0.5)


def test_the_function_of_a_mean_is_checked() -> None:
    p = mlc.NormalizedDensity(lambda x: -x, mlc.Interval(0, 1))
    with pytest.raises(TypeError, match="a function of the points is wanted"):
        p.expectation(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"returned shape \(\); .*one value for each"):
        p.expectation(lambda x: x.sum())
    assert p.expectation(lambda x: x >= 0).item() == pytest.approx(1)
