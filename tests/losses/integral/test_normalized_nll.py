"""Likelihoods of unnormalised densities, against the normalised ones."""

import math

import pytest
import torch
from integral_checks import (
    DOUBLE,
    assert_module,
    assert_reductions,
    assert_settings,
    number,
    t,
)
from torch import Tensor, nn
from torch.distributions import Beta, Gamma, MultivariateNormal, Normal, StudentT

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def quadratic(x: Tensor, k: Tensor) -> Tensor:
    return -k * x**2 / 2


class Quartic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bend = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE))

    def forward(self, x: Tensor, slope: Tensor) -> Tensor:
        return slope * x - self.bend * x**4


#: A distribution, its log density up to a constant, where it lives, observations.
CASES = {
    "normal": (
        Normal(t(1.0)[0], t(2.0)[0]),
        lambda x: 1e4 - (x - 1) ** 2 / 8,
        mlc.RealLine(),
        (-3.0, 0.0, 1.0, 40.0),
    ),
    "student": (
        StudentT(t(3.0)[0], t(-1.0)[0], t(0.5)[0]),
        lambda x: -2 * torch.log1p(((x + 1) / 0.5) ** 2 / 3),
        mlc.RealLine(),
        (-1e4, -1.0, 2.0, 1e8),
    ),
    "gamma": (
        Gamma(t(0.4)[0], t(3.0)[0]),
        lambda x: -0.6 * x.log() - 3 * x - 700,
        mlc.HalfLine(),
        (1e-9, 0.5, 30.0),
    ),
    "beta": (
        Beta(t(0.5)[0], t(7.0)[0]),
        lambda x: -0.5 * x.log() + 6 * torch.log1p(-x),
        mlc.Interval(0, 1),
        (1e-7, 0.1, 0.9),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_likelihood_is_that_of_the_normalised_density(case: tuple) -> None:
    p, log_density, domain, points = case
    loss = mlc.normalized_nll_loss(log_density, t(*points), domain, "none", rtol=1e-11)
    torch.testing.assert_close(loss, -p.log_prob(t(*points)), rtol=1e-10, atol=1e-10)


def test_each_observation_may_have_its_own_density() -> None:
    k, y = t(1.0, 4.0, 0.25), torch.randn(5, 3, dtype=DOUBLE)
    loss = mlc.normalized_nll_loss(quadratic, y, mlc.RealLine(), "none", args=(k,))
    expected = -Normal(0.0, k.rsqrt()).log_prob(y)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


def test_features_have_dimensions_behind_the_batch() -> None:
    features, weights = torch.randn(4, 3, dtype=DOUBLE), t(0.5, -1.0, 0.3)

    def log_density(x: Tensor, features: Tensor) -> Tensor:
        return -((x - features @ weights) ** 2) / 2

    y = torch.randn(4, dtype=DOUBLE)
    options = {"args": (features,), "batch_shape": (4,)}
    loss = mlc.normalized_nll_loss(log_density, y, mlc.RealLine(), "none", **options)
    expected = -Normal(features @ weights, 1.0).log_prob(y)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=0)


def test_on_a_box() -> None:
    precision = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=DOUBLE)
    p = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), precision_matrix=precision)

    def log_density(x: Tensor) -> Tensor:
        return -((x @ precision) * x).sum(-1) / 2

    y = torch.randn(3, 2, dtype=DOUBLE)
    whole = mlc.Box(torch.full((2,), -9.0, dtype=DOUBLE), 9.0)
    rule = mlc.Product(mlc.GaussLegendre(48), mlc.GaussLegendre(48))
    loss = mlc.normalized_nll_loss(log_density, y, whole, "none", rule=rule)
    torch.testing.assert_close(loss, -p.log_prob(y), rtol=1e-8, atol=0)
    y = torch.tensor([[10.0, 0.0]], dtype=DOUBLE)
    assert mlc.normalized_nll_loss(log_density, y, whole, rule=rule).item() == math.inf


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (mlc.Interval(0, 2.0), 1.0, -1.0),
        (mlc.Interval(torch.tensor([5.0, 5.0], dtype=DOUBLE), 9.0), 6.0, 3.0),
        (mlc.HalfLine(0.5), 1.0, 0.0),
        (mlc.Interval(-math.inf, -0.5), -1.0, 3.0),
    ],
    ids=lambda d: type(d).__name__ if isinstance(d, mlc.Domain) else None,
)
def test_outside_of_the_domain_nothing_is_asked(
    domain: mlc.Domain, inside: float, outside: float
) -> None:
    scale = number(0.7)

    def only_inside(x: Tensor) -> Tensor:
        # The root is nan, and so is its gradient, halfway to the point outside.
        side = 1 if inside > outside else -1
        return -scale * (side * (x - (inside + outside) / 2)).sqrt() - x.abs()

    y = t(inside, outside)
    rule = mlc.GaussLegendre(8)
    loss = mlc.normalized_nll_loss(only_inside, y, domain, "none", rule=rule)
    assert loss[0].isfinite()
    assert loss[1] == math.inf
    assert torch.autograd.grad(loss[0], scale)[0].isfinite()


def test_gradients_of_a_fixed_rule_in_every_mode() -> None:
    module = mlc.NormalizedNLLLoss(
        Quartic(), mlc.Interval(-3, 3), mlc.GaussLegendre(32), reduction="none"
    )
    check_gradients(module, (t(0.5, -1.0), t(0.2, -0.4)))


def test_gradients_of_the_default() -> None:
    module = mlc.NormalizedNLLLoss(Quartic(), mlc.RealLine(), reduction="none")
    check_gradients(module, (t(0.5, -1.0), t(0.2, -0.4)), compile=False)


def test_gradient_is_that_of_the_docstring() -> None:
    k, y = number(2.0), t(0.7)
    loss = mlc.normalized_nll_loss(quadratic, y, mlc.RealLine(), args=(k,), rtol=1e-12)
    (first,) = torch.autograd.grad(loss, k, create_graph=True)
    (second,) = torch.autograd.grad(first, k)
    # E x^2 = 1 / k and Var x^2 = 2 / k^2.
    assert first.item() == pytest.approx(-0.5 / 2 + 0.7**2 / 2, rel=1e-10)
    assert second.item() == pytest.approx(0.25 * 2 / 4, rel=1e-10)


def test_reductions() -> None:
    y = torch.randn(4, 2, dtype=DOUBLE)
    assert_reductions(
        lambda reduction, weight: mlc.normalized_nll_loss(
            quadratic, y, mlc.RealLine(), reduction, weight, args=(t(1.0, 2.0),)
        ),
        y,
    )


def test_no_observation_and_dtypes() -> None:
    def log_density(x: Tensor) -> Tensor:
        return -(x**2)

    empty = torch.zeros(0)
    assert mlc.normalized_nll_loss(log_density, empty, mlc.RealLine(), "sum") == 0
    assert mlc.normalized_nll_loss(log_density, empty, mlc.RealLine()).isnan()
    half = torch.tensor([0.5, 1.0], dtype=torch.bfloat16)
    loss = mlc.normalized_nll_loss(log_density, half, mlc.RealLine())
    wide = mlc.normalized_nll_loss(log_density, half.float(), mlc.RealLine())
    assert (loss.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(loss, wide.bfloat16())
    weight = torch.ones(2, dtype=DOUBLE)
    loss = mlc.normalized_nll_loss(log_density, half, mlc.RealLine(), weight=weight)
    assert loss.dtype == DOUBLE


@pytest.mark.parametrize("domain", [mlc.Interval(-2, 2), mlc.Box(-2, 2, dimension=2)])
def test_no_density_is_no_observation_either(domain: mlc.Domain) -> None:
    def log_density(y: Tensor, x: Tensor) -> Tensor:
        return -(y.square().sum(-1) if domain.solid else y.square()) * x

    x = torch.zeros(0, requires_grad=True)
    target = torch.zeros(0, 2) if domain.solid else torch.zeros(0)
    loss = mlc.normalized_nll_loss(log_density, target, domain, "sum", args=(x,))
    assert loss == 0
    assert torch.autograd.grad(loss, x)[0].shape == (0,)
    module = mlc.NormalizedNLLLoss(log_density, domain, reduction="none")
    assert module(target, x).shape == (0,)
    assert module(target.expand(5, *target.shape), x).shape == (5, 0)
    module = mlc.NormalizedNLLLoss(log_density, domain)
    assert module(target, x).isnan()


def test_module() -> None:
    rule, domain = mlc.GaussLegendre(20), mlc.Interval(-3, 3)
    module = mlc.NormalizedNLLLoss(Quartic(), domain, rule, reduction="sum")
    y, slope, weight = t(0.5, -1.0), t(0.1, 0.2), t(1.0, 2.0)
    expected = mlc.normalized_nll_loss(
        module.log_normalizer.integrand.function,
        y,
        domain,
        "sum",
        weight,
        args=(slope,),
        rule=rule,
    )
    call = {"weight": weight, "batch_shape": (2,)}
    assert_module(module, lambda m: m(y, slope, **call), expected)
    assert_settings(
        lambda rule, **s: mlc.NormalizedNLLLoss(Quartic(), domain, rule, **s)
    )


def test_training_calls_share_their_nodes() -> None:
    calls = []

    def counted(x: Tensor) -> Tensor:
        calls.append(x.numel())
        return -(x**2)

    module = mlc.NormalizedNLLLoss(counted, mlc.RealLine(), plan_every=3)
    y = t(0.5)
    values, counts = [], []
    for _ in range(4):
        calls.clear()
        values.append(module(y).item())
        counts.append(len(calls))
    assert counts[0] == counts[3] > counts[1] == counts[2] == 2
    assert values == pytest.approx([0.25 + math.log(math.pi) / 2] * 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"log_unnormalized": 1}, TypeError, "log_unnormalized must be a function"),
        ({"target": [1.0]}, TypeError, "target must be a torch.Tensor, got list"),
        ({"domain": (0, 1)}, TypeError, "domain is a tuple; a domain is wanted"),
        ({"args": (t(1.0, 2.0),)}, ValueError, r"target must have .* ends with \(2,\)"),
        (
            {"target": number(0.5), "args": (t(1.0, 2.0),)},
            ValueError,
            r"ends with \(2,\), .* got \(\)",
        ),
        (
            {"weight": t(1.0)},
            ValueError,
            r"weight must have the shape \(3,\) of the ob",
        ),
        (
            {"log_unnormalized": lambda x, k: torch.zeros(*x.shape, 2)},
            ValueError,
            "target must have a shape that ends with",
        ),
        ({"reduction": "all"}, ValueError, "reduction must be"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, error: type, message: str) -> None:
    call = {
        "log_unnormalized": quadratic,
        "target": t(0.5, 1.0, 2.0),
        "domain": mlc.Interval(0, 3),
        "args": (number(1.0),),
    }
    mlc.normalized_nll_loss(**call)
    with pytest.raises(error, match=message):
        mlc.normalized_nll_loss(**(call | change))
