"""The CRPS of any forecast: which way it is computed, weights, and bad input."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
import scoringrules
import torch
from torch import Tensor
from torch import distributions as td

import torch_mlcalc as mlc

DOUBLE = torch.float64
INF = math.inf

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

ONE = torch.ones(3, dtype=DOUBLE)
A = torch.tensor([0.6, 2.0, 30.0], dtype=DOUBLE)
B = torch.tensor([1.5, 0.4, 7.0], dtype=DOUBLE)
LOC = torch.tensor([-1.0, 0.0, 5.0], dtype=DOUBLE)


def logistic(loc: Tensor, scale: Tensor) -> td.Distribution:
    base = td.Uniform(torch.zeros_like(loc), torch.ones_like(loc))
    shift = td.AffineTransform(loc, scale)
    return td.TransformedDistribution(base, [td.SigmoidTransform().inv, shift])


def mixture(loc: Tensor, scale: Tensor) -> td.Distribution:
    part = td.Normal(loc[..., None] + torch.tensor([0.0, 3.0]), scale[..., None])
    return td.MixtureSameFamily(td.Categorical(torch.ones(*loc.shape, 2)), part)


# Each makes a forecast from two tensors of parameters.
FORECASTS: dict[str, tuple[Callable[..., td.Distribution], Tensor, Tensor]] = {
    "normal": (td.Normal, LOC, B),
    "log_normal": (td.LogNormal, LOC, B / 4),
    "student_t": (lambda m, s: td.StudentT(3 * ONE, m, s), LOC, B),
    "cauchy": (td.Cauchy, LOC, B),
    "laplace": (td.Laplace, LOC, B),
    "logistic": (logistic, LOC, B),
    "mixture": (mixture, LOC, B),
    "gamma": (td.Gamma, A, B),
    "beta": (td.Beta, A, B),
    "uniform": (td.Uniform, LOC, LOC + B),
    "chi2": (lambda a, b: td.Chi2(a + b), A, B),
    "poisson": (lambda a, b: td.Poisson(a * b), A, B),
    "negative_binomial": (
        lambda a, b: td.NegativeBinomial(a, logits=b - 2),
        A,
        B.clamp(max=3),
    ),
    "geometric": (lambda a, b: td.Geometric(1 / (1 + a + b)), A, B),
    "negative affine": (
        lambda a, b: td.TransformedDistribution(
            td.Gamma(a, b), td.AffineTransform(2.0, -3.0)
        ),
        A,
        B,
    ),
}


@pytest.mark.parametrize("name", FORECASTS)
def test_closed_form_and_integral_agree(name: str) -> None:
    make, *parameters = FORECASTS[name]
    found = []
    for closed in (True, False):
        a, b = (p.clone().requires_grad_() for p in parameters)
        target = torch.tensor([0.3, -1.2, 55.5], dtype=DOUBLE, requires_grad=True)
        score = mlc.crps_loss(make(a, b), target, "none", closed_form=closed)
        slopes = torch.autograd.grad(score.sum(), (a, b, target))
        found.append((score.detach(), *slopes))
    for closed, integral in zip(*found, strict=True):
        torch.testing.assert_close(integral, closed, rtol=1e-7, atol=1e-7)


def test_logit_of_another_uniform_is_not_logistic() -> None:
    base = td.Uniform(torch.full((2,), 0.1, dtype=DOUBLE), 0.9)
    forecast = td.TransformedDistribution(base, [td.SigmoidTransform().inv])
    target = torch.tensor([0.3, -1.2], dtype=DOUBLE)
    found = mlc.crps_loss(forecast, target, "none")
    integral = mlc.crps_loss(forecast, target, "none", closed_form=False)
    logistic_score = mlc.crps_logistic(0 * target, torch.ones_like(target), target)
    torch.testing.assert_close(found, integral)
    assert (found - logistic_score).abs().min() > 0.1


@pytest.mark.parametrize(
    ("forecast", "mean_error", "mean_distance"),
    [
        (td.Gumbel(ONE, ONE), 0.0, 2 * math.log(2)),
        (td.Weibull(ONE, 2 * ONE), 0.0, math.sqrt(math.pi) * (1 - math.sqrt(0.5))),
        (td.Pareto(ONE, 3 * ONE), 0.0, 2 * 3 / (2 * 5)),
        (td.Binomial(1, 0.3 * ONE), 0.0, 2 * 0.3 * 0.7),
    ],
    ids=["gumbel", "weibull", "pareto", "binomial"],
)
def test_other_forecasts_have_the_score_of_their_moments(
    forecast: td.Distribution, mean_error: float, mean_distance: float
) -> None:
    # Below all mass the score is the mean distance less half the mean difference.
    target = torch.full((3,), -40.0, dtype=DOUBLE)
    expected = forecast.mean - target - mean_distance / 2 + mean_error
    found = mlc.crps_loss(forecast, target, "none")
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_density_without_distribution_function() -> None:
    concentration = torch.tensor([0.5, 4.0], dtype=DOUBLE)
    forecast = td.VonMises(torch.zeros(2, dtype=DOUBLE), concentration)
    density = mlc.NormalizedDensity(
        lambda x, k: k * torch.cos(x),
        mlc.Interval(-math.pi, math.pi),
        args=(concentration,),
    )
    y = torch.tensor([0.3, -2.0], dtype=DOUBLE)
    torch.testing.assert_close(
        mlc.crps_loss(forecast, y, "none"),
        mlc.crps_loss(density, y, "none"),
        rtol=1e-6,
        atol=0,
    )


def test_density_with_a_parameter_that_is_no_constraint() -> None:
    # The log odds of a relaxed coin are logistic; making one without its temperature
    # was a TypeError.
    logits = torch.tensor([0.5], dtype=DOUBLE, requires_grad=True)
    temperature = torch.tensor(0.7, dtype=DOUBLE)
    forecast = td.RelaxedBernoulli(temperature, logits=logits).base_dist
    y = torch.tensor([1.3], dtype=DOUBLE)
    found = mlc.crps_loss(forecast, y)
    exact = mlc.crps_logistic(logits / 0.7, torch.ones_like(y) / 0.7, y)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)
    slopes = [torch.autograd.grad(v, logits)[0] for v in (found, exact)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=0)


def test_truncated_normal_is_a_normalised_density() -> None:
    density = mlc.NormalizedDensity(
        td.Normal(torch.tensor(0.5, dtype=DOUBLE), 1.0).log_prob, mlc.Interval(0.0, 2.0)
    )
    for y in (1.2, -0.5, 2.5):
        found = mlc.crps_loss(density, torch.tensor(y, dtype=DOUBLE))
        expected = scoringrules.crps_tnormal(y, 0.5, 1.0, 0.0, 2.0)
        assert found.item() == pytest.approx(float(expected), rel=2e-7)


def test_distribution_function_with_a_domain() -> None:
    rate = torch.tensor([0.5, 2.0], dtype=DOUBLE, requires_grad=True)
    y = torch.tensor([1.0, -3.0], dtype=DOUBLE, requires_grad=True)
    score = mlc.crps_loss(
        lambda x: -torch.expm1(-rate * x), y, "none", domain=mlc.HalfLine()
    )
    exact = mlc.crps_exponential(rate, y, "none")
    torch.testing.assert_close(score, exact, rtol=1e-8, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(score.sum(), (rate, y)),
        torch.autograd.grad(exact.sum(), (rate, y)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_integral_in_every_mode() -> None:
    loc = torch.tensor([0.2], dtype=DOUBLE, requires_grad=True)
    y = torch.tensor([0.6], dtype=DOUBLE, requires_grad=True)
    mlc.testing.check_gradients(
        lambda loc, y: mlc.crps_loss(
            td.Normal(loc, 0.7, validate_args=False), y, "none", closed_form=False
        ),
        (loc, y),
        compile=False,  # adaptive rules are not compiled
        float32=False,  # whose tolerance is that of its own dtype
    )


# Weights.


def test_interval_of_thresholds_is_the_censored_score() -> None:
    forecast = td.Normal(LOC, B)
    target = torch.tensor([-0.7, 3.0, 4.5], dtype=DOUBLE)
    for limits in ((-1.0, 4.0), (0.5, INF), (-INF, 2.0)):
        found = mlc.crps_loss(forecast, target, "none", threshold_weight=limits)
        inside = target.clamp(*limits)
        expected = mlc.crps_censored_normal(LOC, B, *limits, inside, "none")
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("make", [td.Normal, td.Laplace, td.Cauchy], ids=str)
def test_thresholds_far_in_a_tail(make: type[td.Distribution]) -> None:
    # Of 1 - F there are no digits there, and torch has none of a normal F either. At 5
    # deviations it was right to 1e-10, with a warning, at 8 to 0.1.
    p = make(torch.zeros(2, dtype=DOUBLE), 1.0)
    for far, upper in ((5.0, True), (8.0, True), (5.0, False), (8.0, False)):
        limits = (far, INF) if upper else (-INF, -far)
        found = mlc.crps_loss(p, p.mode, threshold_weight=limits)
        if make is td.Laplace:
            exact = math.exp(-2 * far) / 8
        elif make is td.Cauchy:
            exact = float(mp.quad(lambda x: (mp.atan(1 / x) / mp.pi) ** 2, [far, INF]))
        else:
            ends = [far + step for step in (0, 0.2, 0.5, 1, 2, 4, 9)]
            exact = float(mp.quad(lambda x: mp.ncdf(-x) ** 2, ends))
        assert found.item() == pytest.approx(exact, rel=3e-8, abs=0)


def test_density_of_thresholds_is_a_normal_cdf_in_closed_form() -> None:
    # Forecast with all mass in 0 .. 1 and an observation above: the weights count.
    forecast = td.Uniform(torch.zeros(2, dtype=DOUBLE), 1.0)
    target = torch.tensor([0.5, 3.0], dtype=DOUBLE)
    found = mlc.crps_loss(forecast, target, "none", threshold_weight=lambda x: 2 * x)
    # int_0^y x^2 2x dx + int_y^1 (1 - x)^2 2x dx, and 2x above 1.
    inside = 2 * (0.5**4 / 4) + 2 * (0.5**3 * 0.5 / 3 + 0.5**4 / 12 * 1)
    assert found[0].item() == pytest.approx(inside, rel=1e-8)
    assert found[1].item() == pytest.approx(0.5 + 9 - 1, rel=1e-8)


@pytest.mark.parametrize("make", [td.Uniform, td.Poisson], ids=["uniform", "poisson"])
def test_weights_of_one_change_nothing(make: type[td.Distribution]) -> None:
    rows = torch.tensor([0.5, 2.0], dtype=DOUBLE)
    forecast = make(rows, rows + 3) if make is td.Uniform else make(rows)
    target = torch.tensor([1.3, 8.0], dtype=DOUBLE)
    plain = mlc.crps_loss(forecast, target, "none")
    for weight in (
        {"threshold_weight": torch.ones_like},
        {"threshold_weight": (-INF, INF)},
        {"threshold_weight": (-100.0, 100.0)},
        {"quantile_weight": torch.ones_like},
        {"quantile_weight": (0.0, 1.0)},
    ):
        found = mlc.crps_loss(forecast, target, "none", **weight)
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=0)


def test_levels_are_those_of_the_quantile_loss() -> None:
    forecast = td.Laplace(LOC, B)
    target = torch.tensor([-0.7, 3.0, 4.5], dtype=DOUBLE)

    def score(weight: Callable[[Tensor], Tensor], low: float, high: float) -> Tensor:
        rule = mlc.GaussLegendre(200)

        def levels(tau: Tensor) -> Tensor:
            r = target - forecast.icdf(tau)
            return 2 * weight(tau) * torch.maximum(tau * r, (tau - 1) * r)

        split = forecast.cdf(target)
        ends = mlc.Interval(torch.full_like(target, low), high)
        breaks = torch.stack([split, torch.full_like(split, 0.5)])
        return mlc.integrate(levels, ends, rule, breakpoints=breaks)

    found = mlc.crps_loss(forecast, target, "none", quantile_weight=torch.square)
    torch.testing.assert_close(found, score(torch.square, 0.0, 1.0), rtol=1e-4, atol=0)
    found = mlc.crps_loss(forecast, target, "none", quantile_weight=(0.1, 0.8))
    torch.testing.assert_close(
        found, score(torch.ones_like, 0.1, 0.8), rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("low", [0.9, 0.999999])
def test_levels_of_a_tail_are_those_of_the_definition(low: float) -> None:
    # Where the levels begin the integrand has a kink, and nothing below: in single
    # precision it was off by 1e-3 to 0.1, in double right, each with a warning.
    def truth(mu: mp.mpf, y: float) -> mp.mpf:
        first = mu + mp.sqrt(2) * mp.erfinv(2 * mp.mpf(low) - 1)
        ends = {first, max(first, mp.mpf(y)), max(first, mp.mpf(2)), mp.mpf(12)}
        return mp.quad(
            lambda x: 2 * abs((mp.ncdf(x - mu) - (x > y)) * (y - x)) * mp.npdf(x - mu),
            sorted(ends),
        )

    for at in (0.0, 8.0):
        exact = [float(mp.diff(lambda m, at=at: truth(m, at), 0, n)) for n in range(3)]
        for dtype, error in ((torch.float32, 4e-7), (DOUBLE, 1e-9)):
            mu = torch.tensor(0.0, dtype=dtype, requires_grad=True)
            forecast = td.Normal(mu, torch.ones((), dtype=dtype))
            y = torch.tensor(at, dtype=dtype)
            score = mlc.crps_loss(forecast, y, quantile_weight=(low, 1.0))
            (slope,) = torch.autograd.grad(score, mu, create_graph=True)
            (bend,) = torch.autograd.grad(slope, mu)
            for order, found in enumerate((score, slope, bend)):
                wanted = pytest.approx(exact[order], rel=10**order * error)
                assert found.item() == wanted


def test_steps_with_weights_are_sums() -> None:
    forecast = td.Bernoulli(torch.tensor([0.3], dtype=DOUBLE))
    y = torch.tensor([0.25], dtype=DOUBLE)
    # F is 0.7 between 0 and 1, the observation at 1/4.
    found = mlc.crps_loss(forecast, y, threshold_weight=(0.0, 0.5))
    assert found.item() == pytest.approx(0.25 * 0.7**2 + 0.25 * 0.3**2)
    found = mlc.crps_loss(forecast, y, threshold_weight=lambda x: 2 * x)
    assert found.item() == pytest.approx(0.7**2 / 16 + 0.3**2 * 15 / 16)
    found = mlc.crps_loss(forecast, y, quantile_weight=(0.5, 1.0))
    assert found.item() == pytest.approx(0.25 * (0.7**2 - 0.25) + 0.75 * 0.3**2)
    outside = mlc.crps_loss(forecast, torch.tensor([-2.0], dtype=DOUBLE))
    assert outside.item() == pytest.approx(2 + 0.3**2)


# Registry, settings, bad input.


def test_registered_form_may_decline() -> None:
    class Odd(td.Normal):
        pass

    calls = []

    @mlc.register_crps(Odd)
    def form(p: Odd, y: Tensor) -> None:
        calls.append(p)

    found = mlc.crps_loss(Odd(LOC, B), LOC, "none")
    torch.testing.assert_close(found, mlc.crps_normal(LOC, B, LOC, "none"))
    assert len(calls) == 1
    for wrong in ("Normal", int):
        with pytest.raises(TypeError, match=f"kind is {wrong!r}; a class of"):
            mlc.register_crps(wrong)


def test_subclasses_are_their_parents_unless_registered() -> None:
    class Mine(td.Gamma):
        pass

    found = mlc.crps_loss(Mine(A, B), A, "none")
    assert torch.equal(found, mlc.crps_gamma(A, B, A, "none"))


def test_module_has_the_settings() -> None:
    forecast, target = td.Normal(LOC, B), LOC + 1
    weight = torch.tensor([1.0, 2.0, 0.0], dtype=DOUBLE)
    settings = {"threshold_weight": (0.0, 2.0), "rtol": 1e-6}
    module = mlc.CRPSLoss("sum", **settings)
    expected = mlc.crps_loss(forecast, target, "sum", weight, **settings)
    for copied in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(copied(forecast, target, weight), expected)
    assert repr(mlc.CRPSLoss()) == "CRPSLoss(reduction='mean')"
    assert repr(module) == (
        "CRPSLoss(reduction='sum', threshold_weight=(0.0, 2.0), rtol=1e-06)"
    )
    assert module.state_dict() == {}


def test_integer_targets_and_half_precision() -> None:
    rate = torch.tensor([0.5, 4.0])
    counts = torch.tensor([1, 7])
    found = mlc.crps_loss(td.Poisson(rate), counts)
    torch.testing.assert_close(found, mlc.crps_poisson(rate, counts.float()))
    assert mlc.crps_loss(td.Poisson(rate.half()), counts).dtype == torch.float32
    half = torch.tensor([0.5, 4.0], dtype=torch.bfloat16)
    wide = half.float()
    exact = mlc.crps_normal(wide, wide, wide)
    for closed in (True, False):
        found = mlc.crps_loss(td.Normal(half, half), half, closed_form=closed)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, exact.bfloat16(), rtol=0.01, atol=0)
    found = mlc.crps_loss(torch.sigmoid, half, domain=mlc.RealLine())
    assert found.dtype == torch.bfloat16
    for forecast, y, weight in (
        (td.Normal(wide, wide), half, None),
        (td.Normal(half, half), wide, None),
        (td.Normal(half, half), half, wide),
    ):
        found = mlc.crps_loss(forecast, y, weight=weight)
        assert found.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        found = mlc.crps_loss(td.Normal(half, half), half)
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=0)


def test_dtype_does_not_depend_on_the_way() -> None:
    y = torch.tensor([0.5, 4.0])
    for forecast in (td.Normal(y.double(), 1.0), mixture(y.double(), y.double())):
        for closed in (True, False):
            found = mlc.crps_loss(forecast, y, closed_form=closed)
            assert found.dtype == DOUBLE


#: Of which integrals in single precision were wrong, with a warning or without.
NARROW: dict[str, Callable[..., td.Distribution]] = {
    "normal": lambda a: td.Normal(a, 1.0),
    "gamma": lambda a: td.Gamma(a, a),
    "student_t": lambda a: td.StudentT(a, a, 1.0),
    "beta": lambda a: td.Beta(a, 2 * a),
    "fisher": lambda a: td.FisherSnedecor(a, a),
    "inverse gamma": lambda a: td.InverseGamma(a, a),
    "mixture": lambda a: td.MixtureSameFamily(
        td.Categorical(torch.ones_like(a)[..., None]), td.Gamma(a[..., None], 1.0)
    ),
}


@pytest.mark.parametrize("name", NARROW)
def test_single_precision_is_that_of_its_arguments(name: str) -> None:
    exact = NARROW[name](torch.tensor([2e6], dtype=DOUBLE))
    above = (exact.mean + exact.stddev).float()
    found = []
    for dtype in (torch.float32, DOUBLE):
        a = torch.tensor([2e6], dtype=dtype, requires_grad=True)
        score = mlc.crps_loss(NARROW[name](a), above.to(dtype), closed_form=False)
        found.append((score, torch.autograd.grad(score, a)[0]))
    (single, slope), (double, true_slope) = found
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=0)
    torch.testing.assert_close(slope.double(), true_slope, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("concentration", [1e-2, 1e7, 1e9])
def test_a_narrow_forecast_on_a_half_line_is_found(concentration: float) -> None:
    # With a split at its mean alone the score of the second was 0.79 of what it is.
    p = td.Gamma(torch.tensor(concentration, dtype=DOUBLE), concentration)
    for deviations in (-0.9, 0.0, 1.0, 60.0):
        y = (p.mean + deviations * p.stddev).clamp(min=0)
        found = mlc.crps_loss(p, y, closed_form=False)
        torch.testing.assert_close(found, mlc.crps_loss(p, y), rtol=1e-7, atol=0)


def test_missing_targets_are_nan_or_refused() -> None:
    y = torch.tensor([0.0, math.nan, 1.0], dtype=DOUBLE)
    for closed in (True, False):
        score = mlc.crps_loss(td.Normal(LOC, B), y, "none", closed_form=closed)
        assert score.isnan().tolist() == [False, True, False]
    with pytest.raises(ValueError, match=r"target must not be NaN, got nan at \[1\]"):
        mlc.crps_loss(td.Normal(LOC, B), y, validate=True)


def test_tolerances_and_failure_reach_the_integral() -> None:
    forecast = td.Gumbel(LOC, B)
    with pytest.raises(mlc.IntegrationError, match="did not converge"):
        mlc.crps_loss(forecast, LOC, max_evals=20, rtol=1e-14, on_failure="raise")
    with pytest.warns(mlc.IntegrationWarning):
        mlc.crps_loss(forecast, LOC, max_evals=20, rtol=1e-14)
    mlc.crps_loss(forecast, LOC, max_evals=20, atol=1e-14, on_failure="ignore")


class Sure(td.Distribution):
    """A distribution that says where it lives, and nothing else."""

    arg_constraints = {}
    support = td.constraints.real

    def __init__(self, point: torch.Tensor) -> None:
        super().__init__(point.shape, validate_args=False)


BAD = {
    "no forecast": ((1.0, LOC), {}, TypeError, "input must be a torch.distributions"),
    "no target": ((td.Normal(LOC, B), 1.0), {}, TypeError, "target must be a torch.T"),
    "shapes": ((td.Normal(LOC, B), LOC[:1]), {}, ValueError, "input.expand"),
    "weight": (
        (td.Normal(LOC, B), LOC, "sum", LOC[:1]),
        {},
        ValueError,
        "weight must have the shape of target",
    ),
    "multivariate": (
        (td.Independent(td.Normal(LOC, B), 1), LOC[0]),
        {},
        ValueError,
        "univariate",
    ),
    "no domain": ((torch.sigmoid, LOC), {}, ValueError, "needs domain"),
    "box": (
        (torch.sigmoid, LOC),
        {"domain": mlc.Box(0, 1, dimension=2)},
        TypeError,
        "needs domain",
    ),
    "two domains": (
        (td.Normal(LOC, B), LOC),
        {"domain": mlc.RealLine()},
        ValueError,
        "knows its support",
    ),
    "two weights": (
        (td.Normal(LOC, B), LOC),
        {"threshold_weight": (0.0, 1.0), "quantile_weight": (0.0, 1.0)},
        ValueError,
        "exclude each other",
    ),
    "threshold": (
        (td.Normal(LOC, B), LOC),
        {"threshold_weight": 3.0},
        TypeError,
        "threshold_weight must be a function, or a pair of numbers",
    ),
    "threshold of three": (
        (td.Normal(LOC, B), LOC),
        {"threshold_weight": (0.0, 1.0, 2.0)},
        TypeError,
        r"a pair of numbers \(lower, upper\), got \(0.0, 1.0, 2.0\)",
    ),
    "threshold of words": (
        (td.Normal(LOC, B), LOC),
        {"threshold_weight": ("0", 1.0)},
        TypeError,
        r"a pair of numbers \(lower, upper\), got \('0', 1.0\)",
    ),
    "level": (
        (td.Normal(LOC, B), LOC),
        {"quantile_weight": (0.5, 1.5)},
        ValueError,
        "quantile_weight must have 0.0 <= lower < upper <= 1.0",
    ),
    "one level": (
        (td.Normal(LOC, B), LOC),
        {"quantile_weight": (0.5, 0.5)},
        ValueError,
        r"quantile_weight must have .*, got \(0.5, 0.5\)",
    ),
    "on_failure": (
        (td.Normal(LOC, B), LOC),
        {"on_failure": "stop"},
        ValueError,
        "on_failure is 'stop'",
    ),
    "reduction": ((td.Normal(LOC, B), LOC, "all"), {}, ValueError, "reduction must be"),
    "nothing known": (
        (td.Distribution(torch.Size([3]), validate_args=False), LOC),
        {},
        ValueError,
        "states no support",
    ),
    "neither cdf nor log_prob": (
        (Sure(LOC), LOC),
        {},
        ValueError,
        "Sure has neither cdf nor log_prob",
    ),
    "supports of components": (
        (
            td.MixtureSameFamily(
                td.Categorical(torch.ones(3, 2)),
                td.Uniform(torch.zeros(3, 2), torch.tensor([1.0, 2.0])),
            ),
            LOC,
        ),
        {},
        ValueError,
        "the components of the mixture have supports of their own",
    ),
}


def test_an_absolute_tolerance_and_validate_of_the_module_arrive() -> None:
    sizes: list[int] = []

    def bumpy(x: torch.Tensor) -> torch.Tensor:
        sizes.append(x.numel())
        return torch.sigmoid(x + 0.1 * torch.sin(9 * x))

    spent = []
    for atol in (0.0, 1e3):
        sizes.clear()
        settings = {"domain": mlc.RealLine(), "rtol": 1e-10, "atol": atol}
        mlc.crps_loss(bumpy, torch.zeros(1, dtype=torch.float64), **settings)
        spent.append(sum(sizes))
    assert spent[1] < spent[0]
    missing = torch.tensor([math.nan])
    with pytest.raises(ValueError, match="target must not be NaN"):
        mlc.CRPSLoss(validate=True)(td.Normal(torch.zeros(1), 1.0), missing)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    arguments, settings, kind, message = BAD[name]
    with pytest.raises(kind, match=message):
        mlc.crps_loss(*arguments, **settings)
    if name in {"two weights", "threshold", "level", "on_failure"}:
        with pytest.raises(kind, match=message):
            mlc.CRPSLoss(**settings)


def test_empty_batches() -> None:
    none = torch.ones(0, dtype=DOUBLE)
    for closed in (True, False):
        score = mlc.crps_loss(td.Gamma(none, none), none, "sum", closed_form=closed)
        assert score.item() == 0
    assert np.isnan(mlc.crps_loss(td.Normal(none, none), none).item())
