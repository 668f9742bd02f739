"""Bayes risks against closed forms and mpmath, and their derivatives at kinks."""

import math
from collections.abc import Callable

import mpmath as mp
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
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    Distribution,
    Exponential,
    Gamma,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    Uniform,
)

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

#: Losses with kinks, and their value in mpmath.
LOSSES: dict[str, tuple[Callable[..., Tensor], Callable]] = {
    "l1": (mlc.L1Loss("none"), lambda r: abs(r)),
    "quantile": (
        mlc.QuantileLoss("none", quantile=0.9),
        lambda r: mp.mpf("0.1") * r if r > 0 else mp.mpf("-0.9") * r,
    ),
    "huber": (
        mlc.HuberLoss("none", delta=0.5),
        lambda r: r * r / 2 if abs(r) < 0.5 else (abs(r) - 0.25) / 2,
    ),
    "smooth_l1": (
        mlc.SmoothL1Loss("none", beta=0.5),
        lambda r: r * r if abs(r) < 0.5 else abs(r) - 0.25,
    ),
    "torch": (torch.nn.L1Loss(reduction="none"), lambda r: abs(r)),
}
KINKS = (-0.5, 0.0, 0.5)

#: Distributions with a batch of (), their density in mpmath, limits and actions.
DISTRIBUTIONS: dict[str, tuple] = {
    "normal": (
        Normal(number(1.0), number(2.0)),
        lambda y: mp.npdf(y, 1, 2),
        (-mp.inf, mp.inf),
        (-7.0, 1.0, 20.0),
    ),
    "student": (
        StudentT(number(3.0), number(0.0), number(1.0)),
        lambda y: 2 / (mp.pi * mp.sqrt(3) * (1 + y * y / 3) ** 2),
        (-mp.inf, mp.inf),
        (-30.0, 0.4),
    ),
    "gamma": (
        Gamma(number(0.5), number(1.0)),
        lambda y: mp.exp(-y) / mp.sqrt(mp.pi * y),
        (0, mp.inf),
        (-2.0, 0.25, 30.0),
    ),
    "exponential": (
        Exponential(number(2.0)),
        lambda y: 2 * mp.exp(-2 * y),
        (0, mp.inf),
        (0.0, 0.75),
    ),
    "beta": (
        Beta(number(2.0), number(3.0)),
        lambda y: 12 * y * (1 - y) ** 2,
        (0, 1),
        (-3.0, 0.25, 0.6),
    ),
}


def exact(case: tuple, formula: Callable, action: float) -> float:
    _, density, (low, high), _ = case
    breaks = sorted(
        {low, high, *(action + k for k in KINKS if low < action + k < high), mp.mpf(1)}
    )
    with mp.workdps(25):
        return float(mp.quad(lambda y: formula(action - y) * density(y), breaks))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
def test_risk_is_that_of_the_integral(case: tuple, loss: str) -> None:
    distribution, _, _, actions = case
    function, formula = LOSSES[loss]
    for action in actions:
        risk = mlc.expected_loss(function, number(action), distribution, rtol=1e-11)
        expected = exact(case, formula, action)
        assert risk.item() == pytest.approx(expected, rel=1e-10)


def test_default_tolerance_and_batches() -> None:
    loc, scale = t(0.0, 1.0, -2.0), t(1.0, 0.1, 30.0)
    action = t(0.5, 1.0, 40.0)
    risk = mlc.expected_loss(
        mlc.L1Loss("none"), action, Normal(loc, scale), reduction="none"
    )
    z = (action - loc) / scale
    unit = Normal(t(0.0)[0], 1.0)
    expected = scale * (z * (2 * unit.cdf(z) - 1) + 2 * unit.log_prob(z).exp())
    torch.testing.assert_close(risk, expected, rtol=1e-8, atol=0)


def derivatives(loss: Callable, distribution: Distribution, at: float) -> list[float]:
    action = number(at)
    risk = mlc.expected_loss(loss, action, distribution, rtol=1e-12)
    (slope,) = torch.autograd.grad(risk, action, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, action)
    return [slope.item(), curvature.item()]


@pytest.mark.parametrize("at", [-3.0, 0.0, 0.7, 6.0])
def test_slope_and_curvature_are_those_of_cdf_and_density(at: float) -> None:
    p = Normal(number(0.0), number(1.0))
    below, density = (f(number(at)).item() for f in (p.cdf, lambda y: p.log_prob(y)))
    density = math.exp(density)
    found = derivatives(mlc.L1Loss("none"), p, at)
    assert found == pytest.approx([2 * below - 1, 2 * density], rel=1e-9, abs=1e-11)
    found = derivatives(mlc.QuantileLoss("none", quantile=0.9), p, at)
    assert found == pytest.approx([below - 0.9, density], rel=1e-9, abs=1e-11)
    found = derivatives(mlc.HuberLoss("none", delta=0.5), p, at)
    near = (p.cdf(number(at + 0.5)) - p.cdf(number(at - 0.5))).item()
    assert found[1] == pytest.approx(near, rel=1e-9)
    found = derivatives(mlc.SmoothL1Loss("none", beta=0.5), p, at)
    assert found[1] == pytest.approx(2 * near, rel=1e-9)
    if at == 0.7:
        found = derivatives(torch.nn.L1Loss(reduction="none"), p, at)
        assert found[1] == pytest.approx(2 * density, rel=1e-9)


def test_kinks_of_other_losses_are_passed() -> None:
    p = Normal(number(0.0), number(1.0))

    def tube(action: Tensor, y: Tensor) -> Tensor:
        return ((action - y).abs() - 0.3).relu()

    action = number(0.2)
    risk = mlc.expected_loss(tube, action, p, kinks=(-0.3, 0.3))
    (slope,) = torch.autograd.grad(risk, action, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, action)
    at = [p.log_prob(number(x)).exp().item() for x in (-0.1, 0.5)]
    assert curvature.item() == pytest.approx(sum(at), rel=1e-8)
    smooth = mlc.expected_loss(
        mlc.L1Loss("none"), action, p, kinks=(), rule=mlc.GaussHermite(9)
    )
    split = mlc.expected_loss(mlc.L1Loss("none"), action, p)
    assert abs(smooth.item() - split.item()) > 1e-3


def test_actions_of_least_risk() -> None:
    p = Gamma(number(3.0), number(2.0))
    zero = derivatives(mlc.MSELoss("none"), p, 1.5)[0]
    assert zero == pytest.approx(0, abs=1e-9)
    median = 1.3370301568617794  # mpmath: findroot of gammainc(3, 0, 2 x) / 2 - 1 / 2
    assert derivatives(mlc.L1Loss("none"), p, median)[0] == pytest.approx(0, abs=1e-9)


def test_mixtures_are_split_in_each_component() -> None:
    shares = t(0.3, 0.7)
    parts = Normal(t(-2.0, 3.0), t(0.1, 2.0))
    p = MixtureSameFamily(Categorical(shares), parts)
    for loss in (mlc.L1Loss("none"), mlc.LogCoshLoss("none")):
        risk = mlc.expected_loss(loss, number(0.5), p)
        each = mlc.expected_loss(loss, t(0.5, 0.5), parts, "none")
        assert risk.item() == pytest.approx((shares * each).sum().item(), rel=1e-8)


@pytest.mark.parametrize("loss", [mlc.L1Loss("none"), mlc.MSELoss("none")], ids=str)
def test_discrete_values_are_summed(loss: Callable) -> None:
    p = Poisson(t(2.5, 0.5))
    action = t(2.0, 0.7)
    risk = mlc.expected_loss(loss, action, p, "none")
    k = torch.arange(60, dtype=DOUBLE)[:, None]
    expected = (loss(action.expand(60, 2), k.expand(60, 2)) * p.log_prob(k).exp()).sum(
        0
    )
    torch.testing.assert_close(risk, expected, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="kinks have no effect"):
        mlc.expected_loss(loss, action, p, kinks=(0.0,))


def test_several_dimensions() -> None:
    p = MultivariateNormal(torch.zeros(3, 2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    action = torch.randn(3, 2, dtype=DOUBLE)
    risk = mlc.expected_loss(lambda a, y: (a - y).square().sum(-1), action, p, "none")
    torch.testing.assert_close(risk, 2 + action.square().sum(-1))
    with pytest.raises(ValueError, match="kinks have no effect"):
        mlc.expected_loss(mlc.MSELoss("none"), action, p, kinks=(0.0,))
    with pytest.raises(ValueError, match="loss must return one number for each"):
        mlc.expected_loss(mlc.L1Loss("none"), action, p)


def test_gradients_in_action_and_distribution() -> None:
    def risk(action: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        p = Normal(loc, scale, validate_args=False)
        return mlc.expected_loss(mlc.L1Loss("none"), action, p, "none")

    check_gradients(risk, (t(0.3, -1.0), t(0.1, 0.2), t(1.0, 2.0)), compile=False)


def test_gradients_in_a_network_that_is_the_loss() -> None:
    net = torch.nn.Linear(2, 1)
    module = mlc.ExpectedLoss(
        lambda a, y: net(torch.stack([a, y], -1))[..., 0].exp(), mlc.GaussHermite(16)
    )

    def risk(action: Tensor) -> Tensor:
        zero = torch.zeros_like(action)
        return module(action, Normal(zero, zero + 1, validate_args=False))

    check_gradients(
        risk, t(0.3, -1.0), params=net.parameters(), max_elements=3, compile=False
    )


@pytest.mark.parametrize(
    "p",
    [LogNormal(t(0.0, 1.0), 1.0), Laplace(t(0.0, 1.0), 1.0), Uniform(t(0.0, 1.0), 3.0)],
    ids=lambda p: type(p).__name__,
)
def test_other_distributions(p: Distribution) -> None:
    action = t(0.75, 1.5)
    risk = mlc.expected_loss(mlc.L1Loss("none"), action, p, "none")
    (slope,) = torch.autograd.grad(risk.sum(), action)
    torch.testing.assert_close(slope, 2 * p.cdf(action) - 1, rtol=1e-6, atol=1e-8)


def test_densities_of_functions() -> None:
    domain = mlc.Interval(t(-40.0)[0], 40.0)
    bell = mlc.NormalizedDensity(lambda y: -(y**2) / 2, domain)
    risk = mlc.expected_loss(mlc.L1Loss("none"), number(0.0), bell)
    assert risk.item() == pytest.approx(math.sqrt(2 / math.pi), rel=1e-8)
    tent = mlc.NormalizedDensity(lambda y: -(y - 0.3).abs(), domain, breakpoints=[0.3])
    # Its kink is a breakpoint, without which these nodes have an error of 1e-3.
    action, rule = number(1.3), mlc.GaussLegendre(40)
    risk = mlc.expected_loss(mlc.L1Loss("none"), action, tent, rule=rule)
    (slope,) = torch.autograd.grad(risk, action)
    assert slope.item() == pytest.approx(1 - math.exp(-1), rel=1e-8)


def test_an_infinite_loss_of_what_cannot_happen_does_not_count() -> None:
    rate = number(2.0)
    domain = mlc.Interval(t(-1.0)[0], 40.0)
    positive = mlc.NormalizedDensity(
        lambda y: torch.where(y > 0, -rate * y, -torch.inf), domain, breakpoints=[0.0]
    )

    def loss(action: Tensor, y: Tensor) -> Tensor:
        return torch.where(y > 0, (action - y).abs(), torch.inf)

    risk = mlc.expected_loss(loss, number(0.5), positive, kinks=[0.0])
    slope = torch.autograd.grad(risk, rate)[0].item()
    # 0.5 - 1 / r + 2 exp(-r / 2) / r
    assert risk.item() == pytest.approx(math.exp(-1), rel=1e-8)
    assert slope == pytest.approx(0.25 - math.exp(-1), rel=1e-7)


def test_actions_beyond_all_of_a_density() -> None:
    """A kink there hid the density: the risk was 0, with a warning."""
    p = Normal(number(0.0), number(1.0))
    risk = mlc.expected_loss(mlc.L1Loss("none"), number(1e6), p)
    assert risk.item() == pytest.approx(1e6, rel=1e-9)


def test_a_risk_that_does_not_exist_is_reported() -> None:
    with pytest.raises(mlc.IntegrationError):
        mlc.expected_loss(
            mlc.L1Loss("none"), t(0.0), Cauchy(t(0.0), 1.0), on_failure="raise"
        )


def test_reductions() -> None:
    action, p = t(0.5, 1.0, -1.0), Normal(t(0.0, 0.0, 0.0), 1.0)
    assert_reductions(
        lambda reduction, weight: mlc.expected_loss(
            mlc.HuberLoss("none"), action, p, reduction, weight
        ),
        action,
    )


def test_dtypes() -> None:
    p = Normal(torch.zeros(2), 1.0)
    action = torch.tensor([0.5, 1.0], dtype=torch.float16)
    loss = mlc.L1Loss("none")
    half, wide = (mlc.expected_loss(loss, a, p) for a in (action, action.float()))
    assert (half.dtype, wide.dtype) == (torch.float16, torch.float32)
    assert torch.equal(half, wide.half())


@pytest.mark.parametrize(
    "make",
    [
        lambda a: Normal(a, 1.0),
        lambda a: Gamma(a, a),
        lambda a: StudentT(a, 0.0 * a, 1.0),
        lambda a: Beta(a, a),
    ],
    ids=["normal", "gamma", "student", "beta"],
)
def test_single_precision_is_that_of_its_arguments(make: Callable) -> None:
    # Of Gamma(1e7, 1e7) the risk was 16 instead of 4e-4, with a warning; of a Student
    # variable with 1e6 degrees of freedom 8 % too small, without.
    exact = make(torch.tensor(2e6, dtype=DOUBLE))
    above = (exact.mean + exact.stddev).float()
    for loss, rtol in ((mlc.L1Loss("none"), 1e-6), (lambda a, y: abs(a - y), 5e-4)):
        found = []
        for dtype in (torch.float32, DOUBLE):
            a = torch.tensor(2e6, dtype=dtype, requires_grad=True)
            risk = mlc.expected_loss(loss, above.to(dtype), make(a), kinks=[0])
            found.append((risk, torch.autograd.grad(risk, a)[0]))
        (single, slope), (double, true_slope) = found
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(double.item(), rel=rtol)
        assert slope.item() == pytest.approx(true_slope.item(), rel=rtol, abs=1e-11)


def test_module() -> None:
    action, weight = t(0.5, -1.0), t(1.0, 2.0)
    p = Normal(torch.zeros(2, dtype=DOUBLE), 1.0)
    # Of few nodes and a loss with other kinks than its own, so that both are seen.
    loss, settings = mlc.L1Loss("none"), {"rule": mlc.GaussLegendre(3), "kinks": [0.3]}
    module = mlc.ExpectedLoss(loss, reduction="sum", **settings)
    expected = mlc.expected_loss(loss, action, p, "sum", weight, **settings)
    assert_module(module, lambda m: m(action, p, weight), expected)
    for name in settings:
        other = mlc.expected_loss(
            loss, action, p, "sum", weight, **(settings | {name: None})
        )
        assert abs(other.item() - expected.item()) > 1e-3
    assert "kinks=(0.3,)" in repr(module)
    with pytest.raises(TypeError, match="loss must be a function or a module"):
        mlc.ExpectedLoss(1)
    assert_settings(lambda rule, **s: mlc.ExpectedLoss(mlc.L1Loss("none"), rule, **s))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"loss": 1}, TypeError, "loss must be a function or a module, got int"),
        ({"loss": mlc.L1Loss()}, ValueError, "make it with reduction='none'"),
        ({"loss": lambda a, y: 1.0}, ValueError, "loss must return one number for"),
        ({"action": 1.0}, TypeError, "action must be a torch.Tensor, got float"),
        (
            {"action": t(1.0)},
            ValueError,
            r"action must have the shape of a sample, \(2",
        ),
        (
            {"distribution": "normal"},
            TypeError,
            "distribution must be one of torch.dis",
        ),
        (
            {"weight": t(1.0)},
            ValueError,
            r"weight must have the shape \(2,\) of the dec",
        ),
        ({"weight": [1.0, 2.0]}, TypeError, "weight must be a torch.Tensor, got list"),
        ({"weight": t(1.0, 2.0) * 1j}, TypeError, "weight must be real, got torch.c"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, error: type, message: str) -> None:
    call = {
        "loss": mlc.L1Loss("none"),
        "action": t(0.5, 1.0),
        "distribution": Normal(t(0.0, 0.0), 1.0),
    }
    mlc.expected_loss(**call)
    with pytest.raises(error, match=message):
        mlc.expected_loss(**(call | change))


def test_kinks_do_not_matter_for_coins() -> None:
    risk = mlc.expected_loss(mlc.L1Loss("none"), t(0.25), Bernoulli(t(0.5)))
    assert risk.item() == pytest.approx(0.5)
