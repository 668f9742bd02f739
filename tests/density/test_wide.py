"""Means in float32 where the log density of torch has no digits left in it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Binomial,
    Categorical,
    Cauchy,
    Chi2,
    Dirichlet,
    Distribution,
    FisherSnedecor,
    Gamma,
    Geometric,
    Independent,
    InverseGamma,
    MixtureSameFamily,
    NegativeBinomial,
    Poisson,
    StudentT,
    VonMises,
)

import torch_mlcalc as mlc
from torch_mlcalc.density.wide import widened

#: Distributions of a parameter with a large mean, and that mean.
COUNTS: dict[str, tuple[Callable[[Tensor], Distribution], float, float]] = {
    "poisson 1e4": (Poisson, 1e4, 1e4),
    "poisson 1e6": (Poisson, 1e6, 1e6),
    "poisson 1e8": (Poisson, 1e8, 1e8),
    "binomial 1e3": (lambda p: Binomial(1000, p), 0.25, 250.0),
    "binomial 1e6": (lambda p: Binomial(10**6, p), 0.25, 2.5e5),
    "binomial, logits": (lambda z: Binomial(10**5, logits=z), 0.0, 5e4),
    "geometric": (Geometric, 2.0**-16, 2.0**16 - 1),
    "geometric, logits": (lambda z: Geometric(logits=z), -11.0, 59874.14171519782),
    "negative binomial": (lambda p: NegativeBinomial(5, p), 1 - 2.0**-14, 81915.0),
    "negative binomial, logits": (
        lambda z: NegativeBinomial(5, logits=z), 10.0, 110132.32897403359),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_weights_of_large_counts_add_up_to_one(name: str) -> None:
    make, value, mean = COUNTS[name]
    distribution = make(torch.tensor(value))
    total = mlc.expectation(torch.ones_like, distribution)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, torch.tensor(1.0), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        mlc.expectation(lambda n: n, distribution),
        torch.tensor(mean),
        rtol=1e-6,
        atol=0,
    )
    log_mean = mlc.log_expectation(torch.log, distribution)
    torch.testing.assert_close(log_mean, torch.tensor(mean).log(), rtol=1e-6, atol=0)


def test_gradients_of_means_of_large_counts() -> None:
    rate = torch.tensor([1e4, 1e6], requires_grad=True)
    mean = mlc.expectation(lambda n: (n / rate.detach() - 1).square(), Poisson(rate))
    # E (n / c - 1)^2 = r / c^2 + (r / c - 1)^2, whose derivative at r = c is 1 / c^2.
    torch.testing.assert_close(mean, 1 / rate.detach(), rtol=1e-4, atol=0)
    (slope,) = torch.autograd.grad(mean.sum(), rate)
    torch.testing.assert_close(slope, rate.detach() ** -2, rtol=1e-3, atol=0)


def test_sums_in_parts_of_other_distributions() -> None:
    rates = torch.tensor([1e5, 2e5])
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Poisson(rates))
    mean = mlc.expectation(lambda n: n, mixture)
    torch.testing.assert_close(mean, torch.tensor(1.5e5), rtol=1e-6, atol=0)
    pair = Independent(Binomial(300, torch.tensor([0.25, 0.5])), 1)
    product = mlc.expectation(lambda n: n.prod(-1), pair)
    torch.testing.assert_close(product, torch.tensor(75.0 * 150), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_means_keep_the_dtype_of_the_parameters(dtype: torch.dtype) -> None:
    seen = []

    def f(n: Tensor) -> Tensor:
        seen.append(n.dtype)
        return n

    mean = mlc.expectation(f, Poisson(torch.tensor(256.0, dtype=dtype)))
    assert mean.dtype == dtype
    assert set(seen) == {dtype}
    assert abs(float(mean) - 256) <= max(512 * torch.finfo(dtype).eps, 1e-10)
    double = mlc.expectation(lambda n: n.double(), Poisson(torch.tensor(2.0)))
    assert double.dtype == torch.float64


KINDS: dict[str, Callable[[Tensor], Distribution]] = {
    "poisson": Poisson,
    "binomial": lambda p: Binomial(3, p),
    "geometric": Geometric,
    "negative binomial": lambda p: NegativeBinomial(3, p),
}


@pytest.mark.parametrize("name", KINDS)
def test_an_empty_batch_of_counts(name: str) -> None:
    p = torch.full((0, 2), 0.5, requires_grad=True)
    mean = mlc.expectation(lambda n: n * 1.0, KINDS[name](p))
    assert mean.shape == (0, 2)
    assert mlc.log_expectation(torch.log, KINDS[name](p)).shape == (0, 2)
    (slope,) = torch.autograd.grad(mean.sum(), p)
    assert slope.shape == (0, 2)
    scores = mlc.crps_loss(KINDS[name](p), torch.ones(0, 2), "none", closed_form=False)
    assert scores.shape == (0, 2)


def test_only_what_is_known_is_widened_and_nothing_of_the_caller_is_touched() -> None:
    class Doubled(Poisson):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value / 2)

    class Named(Poisson):
        pass

    own = Doubled(torch.tensor(3.0))
    assert widened(own) is own
    assert widened(Named(torch.tensor(3.0))).rate.dtype == torch.float64
    given = Binomial(9, torch.tensor(0.3))
    rounded = given.logits  # derived, and kept
    before = dict(vars(given))
    exact = torch.logit(torch.tensor(0.3).double())
    torch.testing.assert_close(widened(given).logits, exact, rtol=1e-14, atol=0)
    assert vars(given) == before
    assert given.logits is rounded
    assert widened(Binomial(9, logits=torch.tensor(0.3))).logits.dtype == torch.float64


@pytest.mark.parametrize("trials", [10**4, 10**6])
def test_crps_of_many_trials_by_summation(trials: int) -> None:
    p = torch.tensor(0.25, requires_grad=True)
    exact = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    at = 26 * trials // 100
    loss = mlc.crps_loss(Binomial(trials, p), torch.tensor(float(at)))
    share = scipy.stats.binom(trials, 0.25).cdf(np.arange(trials))
    truth = (share[:at] ** 2).sum() + ((1 - share[at:]) ** 2).sum()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(truth, rel=1e-6)
    (slope,) = torch.autograd.grad(loss, p)
    double = mlc.crps_loss(Binomial(trials, exact), torch.tensor(at).double())
    assert double.item() == pytest.approx(truth, rel=1e-8)
    (true_slope,) = torch.autograd.grad(double, exact)
    torch.testing.assert_close(slope.double(), true_slope, rtol=1e-4, atol=0)


#: Distributions whose log density cancels, with a function and its mean.
DENSITIES: dict[str, tuple[Callable[[], Distribution], float]] = {
    "student": (lambda: StudentT(number(1e6)), 0.0),
    "student, far": (lambda: StudentT(number(1e6), 1e6), 1e6),
    "cauchy, far": (lambda: Cauchy(number(1e6), 1.0), math.nan),
    "gamma": (lambda: Gamma(number(1e6), 1.0), 1e6),
    "chi2": (lambda: Chi2(number(1e6)), 1e6),
    "inverse gamma": (lambda: InverseGamma(number(1e6), 2e6), 2.000002),
    "fisher": (lambda: FisherSnedecor(number(1e6), 1e6), 1.000002),
    "beta": (lambda: Beta(number(1e6), 3e6), 0.25),
    "beta at 1": (lambda: Beta(number(1e6), 2.0), 0.999998),
    "student, far up": (lambda: StudentT(number(1e9)), 0.0),
    "gamma, 1e7": (lambda: Gamma(number(1e7), 1.0), 1e7),
    "gamma, 1e12": (lambda: Gamma(number(1e12), 4.0), 2.5e11),
    "chi2, 1e8": (lambda: Chi2(number(1e8)), 1e8),
    "inverse gamma, 1e9": (lambda: InverseGamma(number(1e9), 2e9), 2.0),
    "fisher, 1e9": (lambda: FisherSnedecor(number(1e9), 1e8), 1.0),
    "beta, 1e12": (lambda: Beta(number(1e12), 3e12), 0.25),
    "von mises": (lambda: VonMises(number(3.0), 1e6), 3.0),
}


def number(value: float) -> Tensor:
    return torch.tensor(value)


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_have_the_mass_of_one(name: str) -> None:
    make, mean = DENSITIES[name]
    total = mlc.expectation(torch.ones_like, make())
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, number(1.0), rtol=0, atol=1e-5)
    log_total = mlc.log_expectation(torch.zeros_like, make())
    torch.testing.assert_close(log_total, number(0.0), rtol=0, atol=1e-5)
    if not math.isnan(mean):
        value = mlc.expectation(lambda x: 1 + x, make())
        assert value.item() == pytest.approx(1 + mean, rel=1e-5)


def test_gradients_where_the_density_cancels() -> None:
    loc = number(1e4).requires_grad_()
    scale = number(4.0).requires_grad_()
    # A step: the gradient comes from the density alone.
    share = mlc.expectation(lambda x: (x > 1e4 + 4).float(), StudentT(1e6, loc, scale))
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(share, 1 - normal.cdf(number(1.0)), rtol=1e-3, atol=0)
    slopes = torch.autograd.grad(share, (loc, scale))
    expected = normal.log_prob(number(1.0)).exp() / 4
    torch.testing.assert_close(slopes, (expected, expected), rtol=1e-2, atol=0)
    a = number(1e6).requires_grad_()
    mean = mlc.expectation(lambda x: x / 1e6, Gamma(a, 1.0))
    (slope,) = torch.autograd.grad(mean, a)
    torch.testing.assert_close(slope, number(1e-6), rtol=1e-2, atol=0)


#: Parameters of a narrow peak, of one that float32 does not resolve, and of poles.
SIMPLICES = [[1e3, 2e3, 1e3], [1e6, 2e6, 1e6], [0.3, 0.5, 0.7]]


@pytest.mark.parametrize("alpha", SIMPLICES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dirichlet_variables_in_a_corner_of_the_cube(
    alpha: list[float], dtype: torch.dtype
) -> None:
    a = torch.tensor(alpha, dtype=dtype, requires_grad=True)
    mean = mlc.expectation(lambda x: x[..., 1], Dirichlet(a))
    assert mean.dtype == dtype
    exact = a[1] / a.sum()
    rtol = 1e-5 if dtype == torch.float32 else 1e-8
    torch.testing.assert_close(mean, exact, rtol=rtol, atol=0)
    (slope,) = torch.autograd.grad(mean, a)
    (expected,) = torch.autograd.grad(exact, a)
    torch.testing.assert_close(slope, expected, rtol=1e-2, atol=0)


def test_smooth_dirichlet_densities_need_few_points() -> None:
    counts = []

    def f(x: Tensor) -> Tensor:
        counts.append(x[..., 0].numel())
        return x[..., 1]

    a = torch.tensor([2.0, 3.0, 4.0, 5.0], dtype=torch.float64)
    mean = mlc.expectation(f, Dirichlet(a))
    assert mean.item() == pytest.approx(3 / 14, rel=1e-10)
    assert sum(counts) < 40_000


def test_a_rule_for_a_dirichlet_variable_is_used_on_the_cube() -> None:
    p = Dirichlet(torch.tensor([2.0, 3.0, 4.0]))
    mean = mlc.expectation(lambda x: x[..., 1], p, mlc.Product(mlc.GaussLegendre(8)))
    torch.testing.assert_close(mean, torch.tensor(1 / 3), rtol=1e-6, atol=0)
