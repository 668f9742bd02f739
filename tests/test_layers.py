"""Integrals as layers: settings, plans shared between steps, state."""

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients


class Gaussian(nn.Module):
    """exp(-rate x^2), with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(1.3, dtype=torch.float64))
        self.calls = 0

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        self.calls += 1
        return torch.exp(-self.rate * (x - shift) ** 2)


SHIFT = torch.tensor([0.0, 0.5], dtype=torch.float64)


def exact(rate: Tensor) -> Tensor:
    return torch.sqrt(math.pi / rate)


def quartic(x: Tensor, k: Tensor) -> Tensor:
    return -k * x**4 - x * x


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize(
    "layer",
    [
        mlc.LogNormalizer(quartic, mlc.RealLine(), mlc.GaussHermite(24)),
        mlc.Antiderivative(lambda t: torch.exp(-t * t), rule=mlc.GaussLegendre(16)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_every_derivative_of_a_layer(layer: nn.Module) -> None:
    at = torch.tensor([0.3, 1.2], dtype=torch.float64, requires_grad=True)
    check_gradients(layer, at)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_every_derivative_of_an_expectation() -> None:
    layer = mlc.Expectation(torch.cos, mlc.GaussHermite(16))

    def mean(loc: Tensor, scale: Tensor) -> Tensor:
        normal = torch.distributions.Normal(loc, scale, validate_args=False)
        value: Tensor = layer(normal)
        return value

    loc = torch.tensor([0.1, 1.0], dtype=torch.float64, requires_grad=True)
    scale = (1 + loc.detach()).requires_grad_()
    check_gradients(mean, (loc, scale), compile=False)


@pytest.mark.parametrize(
    "rule",
    [None, mlc.GaussKronrod(), mlc.DoubleExponential(), mlc.GaussHermite(64)],
    ids=["automatic", "kronrod", "double exponential", "hermite"],
)
def test_value_and_gradient_of_a_module(rule: mlc.Rule | None) -> None:
    layer = mlc.Integral(Gaussian(), mlc.RealLine(), rule)
    value = layer(SHIFT)
    torch.testing.assert_close(value, exact(layer.integrand.rate).expand(2))
    value.sum().backward()
    wanted = -math.sqrt(math.pi) * 1.3**-1.5
    assert layer.integrand.rate.grad.item() == pytest.approx(wanted, rel=1e-6)


def test_log_form() -> None:
    layer = mlc.Integral(lambda x: 1000 - x * x / 2, mlc.RealLine(), log=True)
    assert layer().item() == pytest.approx(1000 + math.log(2 * math.pi) / 2)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_gradients_in_every_mode() -> None:
    layer = mlc.Integral(Gaussian(), mlc.Interval(-1, 2), mlc.GaussLegendre(24))
    check_gradients(layer, SHIFT.clone().requires_grad_())


def test_a_plan_serves_several_training_calls() -> None:
    layer = mlc.Integral(Gaussian(), mlc.RealLine(), plan_every=3)
    plans = []
    for _ in range(7):
        layer(SHIFT)
        plans.append(layer.plan)
    assert plans[0] is plans[1] is plans[2]
    assert plans[3] is plans[4] is plans[5] is not plans[2]
    assert plans[6] is not plans[5]


def test_a_replayed_plan_costs_one_call_and_keeps_the_gradient() -> None:
    layer = mlc.Integral(Gaussian(), mlc.RealLine(), plan_every=100)
    layer(SHIFT)
    before = layer.integrand.calls
    with torch.no_grad():
        layer.integrand.rate.mul_(1.05)
    value = layer(SHIFT)
    assert layer.integrand.calls - before == len(layer.plan.cells)
    torch.testing.assert_close(value, exact(layer.integrand.rate).expand(2))
    (slope,) = torch.autograd.grad(value.sum(), layer.integrand.rate)
    rate = layer.integrand.rate.item()
    assert slope.item() == pytest.approx(-math.sqrt(math.pi) * rate**-1.5, rel=1e-5)


def test_evaluation_looks_anew() -> None:
    layer = mlc.Integral(Gaussian(), mlc.RealLine(), plan_every=100)
    layer(SHIFT)
    with torch.no_grad():
        layer.integrand.rate.fill_(1e6)
    layer.eval()
    torch.testing.assert_close(layer(SHIFT), exact(layer.integrand.rate).expand(2))


def test_state_dict_carries_the_plan() -> None:
    layer = mlc.Integral(Gaussian(), mlc.RealLine(), plan_every=5)
    layer(SHIFT)
    other = mlc.Integral(Gaussian(), mlc.RealLine(), plan_every=5)
    other.load_state_dict(layer.state_dict())
    calls = other.integrand.calls
    assert torch.equal(other(SHIFT), layer(SHIFT))
    assert other.integrand.calls - calls == len(layer.plan.cells)
    fresh = mlc.Integral(Gaussian(), mlc.RealLine(), plan_every=5)
    layer.load_state_dict(fresh.state_dict())
    assert layer.plan is None


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["deepcopy", "pickle"],
)
def test_copies_are_equal_and_independent(duplicate: object) -> None:
    layer = mlc.Integral(Gaussian(), mlc.Interval(0, 1), plan_every=5)
    layer(SHIFT)
    other = duplicate(layer)
    assert torch.equal(other(SHIFT), layer(SHIFT))
    with torch.no_grad():
        other.integrand.rate.mul_(2)
    assert not torch.equal(other(SHIFT), layer(SHIFT))


def test_moving_the_module_keeps_the_nodes_in_double_precision() -> None:
    layer = mlc.Integral(Gaussian(), mlc.RealLine(), plan_every=5)
    layer(SHIFT)
    layer.float()
    assert layer.plan.cells[0].positions.dtype == torch.float64
    assert layer(SHIFT.float()).dtype == torch.float32
    assert layer.to("meta").plan.cells[0].positions.device.type == "meta"


def test_features_with_a_dimension_of_their_own() -> None:
    features = torch.rand(4, 3, dtype=torch.float64)
    layer = mlc.Integral(
        lambda x, f: torch.exp(-x * f.sum(-1)), mlc.HalfLine(), plan_every=2
    )
    for _ in range(2):
        value = layer(features, batch_shape=(4,))
        torch.testing.assert_close(value, 1 / features.sum(-1))


def test_settings_reach_the_search() -> None:
    def steps(x: Tensor) -> Tensor:
        return torch.floor(7 * x)

    layer = mlc.Integral(
        steps, mlc.Interval(0, 0.93), rtol=1e-6, max_evals=100, on_failure="raise"
    )
    with pytest.raises(mlc.IntegrationError, match="tolerance not reached"):
        layer()
    loose = mlc.Integral(steps, mlc.Interval(0, 1), atol=10.0, rtol=0.0)
    assert loose().item() == pytest.approx(3.0, abs=0.5)
    small = mlc.Integral(torch.exp, mlc.Interval(0, 1), mlc.Trapezoid(1001), memory=64)
    assert small().item() == pytest.approx(math.e - 1, rel=1e-5)


@pytest.mark.parametrize(
    "setting",
    [
        {"rtol": 1e-2},
        {"atol": 1e-2},
        {"grad_rtol": 1e-9, "on_failure": "ignore"},
        {"max_evals": 200, "on_failure": "ignore"},
        {"memory": 2**12},
    ],
    ids=lambda setting: next(iter(setting)),
)
@pytest.mark.parametrize("plan_every", [1, 2])
def test_a_setting_of_a_layer_does_what_it_does_in_a_call(
    setting: dict[str, object], plan_every: int
) -> None:
    def kink(x: Tensor, place: Tensor) -> Tensor:
        calls.append(x.numel())
        return (x - place).abs().sqrt()

    calls: list[int] = []
    domain = mlc.Interval(0.0, 1.0)
    place = torch.tensor([0.31, 0.77], dtype=torch.float64, requires_grad=True)

    def spent(integral: Callable[[], object]) -> list[int]:
        calls.clear()
        integral()
        return list(calls)

    def by_hand(**setting: object) -> None:
        if plan_every == 1:
            mlc.integrate(kink, domain, args=(place,), **setting)
            return
        plan = mlc.adapt(kink, domain, args=(place,), **setting)
        memory = setting.get("memory")
        mlc.integrate(kink, domain, plan, args=(place,), memory=memory)

    layer = mlc.Integral(kink, domain, plan_every=plan_every, **setting)
    found = spent(lambda: layer(place))
    assert found == spent(lambda: by_hand(**setting))
    others = dict([*setting.items()][1:])
    assert found != spent(lambda: by_hand(**others))


def test_repr_shows_the_settings() -> None:
    layer = mlc.Integral(nn.Tanh(), mlc.Interval(0, 1), log=True, plan_every=4)
    text = repr(layer)
    assert "Interval(lower=0, upper=1)" in text
    assert "log=True" in text
    assert "plan_every=4" in text
    assert "Tanh()" in text


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"plan_every": 0}, ValueError, "plan_every is 0; at least 1"),
        ({"plan_every": 1.5}, TypeError, "plan_every is a float"),
        (
            {"plan_every": 2, "rule": mlc.Simpson(3)},
            ValueError,
            r"plan_every=2 has no effect with Simpson\(n=3\)",
        ),
        (
            {"rtol": 1e-3, "rule": mlc.Simpson(3)},
            ValueError,
            r"rtol, atol and grad_rtol have no effect with Simpson\(n=3\)",
        ),
        (
            {"grad_rtol": 1e-3, "rule": mlc.Simpson(3)},
            ValueError,
            r"rtol, atol and grad_rtol have no effect with Simpson\(n=3\)",
        ),
        ({"rtol": -1.0}, ValueError, "rtol is -1.0; a finite number, 0 or more"),
        ({"grad_rtol": "1"}, TypeError, "grad_rtol is a str; a number is wanted"),
    ],
    ids=["zero", "float", "fixed rule", "rtol", "grad_rtol", "negative", "text"],
)
def test_refusals(
    settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mlc.Integral(torch.exp, mlc.Interval(0, 1), **settings)


@pytest.mark.parametrize("rule", [None, mlc.Vegas(100)], ids=["adaptive", "VEGAS"])
def test_last_batch_of_an_epoch_may_be_shorter(rule: mlc.Rule | None) -> None:
    calls = []

    def integrand(x: Tensor, rate: Tensor) -> Tensor:
        calls.append(1)
        return torch.exp(-rate * x)

    layer = mlc.Integral(integrand, mlc.Interval(0, 1), rule, plan_every=4)
    fresh = mlc.Integral(integrand, mlc.Interval(0, 1), rule, plan_every=4)
    for size in (3, 3, 2):
        rate = torch.linspace(1, 2, size)
        value = layer(rate)
        torch.testing.assert_close(value, -torch.expm1(-rate) / rate, rtol=0.05, atol=0)
    # The shape goes with the plan into a checkpoint.
    fresh.load_state_dict(layer.state_dict())
    calls.clear()
    fresh(torch.linspace(1, 2, 2))
    replayed = len(calls)
    fresh(torch.linspace(1, 2, 3))
    assert 0 < replayed < len(calls) - replayed


@pytest.mark.parametrize("plan_every", [1, 3])
def test_limits_belong_to_the_layer(plan_every: int) -> None:
    upper = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    lower = torch.tensor(0.5, dtype=torch.float64)
    layer = mlc.Integral(
        torch.exp, mlc.Interval(lower, upper), plan_every=plan_every, rtol=1e-6
    )
    assert dict(layer.named_parameters()) == {"domain_upper": upper}
    assert list(layer.state_dict()) == ["domain_upper", "_extra_state"]
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        value = layer()
        torch.testing.assert_close(value, upper.exp() - lower.exp(), rtol=1e-6, atol=0)
        value.sum().backward()
        torch.testing.assert_close(upper.grad, upper.exp().detach())
        optimizer.step()
    (slope,) = torch.func.grad(
        lambda p: torch.func.functional_call(layer.eval(), p, ()).sum()
    )({"domain_upper": 3 * upper.detach()}).values()
    torch.testing.assert_close(slope, (3 * upper.detach()).exp())
    other = copy.deepcopy(layer).float()
    assert other.domain.lower.dtype == other().dtype == torch.float32
    assert layer.domain.lower.dtype == torch.float64
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other().double(), layer(), rtol=1e-3, atol=0)


class _Slope(nn.Module):
    """A limit that is proportional to the coordinate before it."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.slope * x


def test_limits_in_lists_belong_to_the_layer() -> None:
    width = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    start = torch.tensor(0.5, dtype=torch.float64)
    box = mlc.Box([start, 0.0], (width, _Slope()))
    layer = mlc.Integral(lambda x: x.sum(-1), box)
    names = {"domain_upper_0": width, "domain_upper_1.slope": box.upper[1].slope}
    assert dict(layer.named_parameters()) == names
    assert [name for name, _ in layer.named_buffers()] == ["domain_lower_0"]
    # The integral of x + y over 0 < y < s x: (s + s^2 / 2) (w^3 - 1/8) / 3.
    value = layer()
    torch.testing.assert_close(value.item(), 4 * (1.5**3 - 0.125) / 3)
    value.backward()
    torch.testing.assert_close(width.grad.item(), 4 * 1.5**2)
    slope = box.upper[1].slope.grad.item()
    torch.testing.assert_close(slope, 3 * (1.5**3 - 0.125) / 3)
    moved = torch.func.functional_call(layer, {"domain_upper_0": 2 * width}, ())
    torch.testing.assert_close(moved.item(), 4 * (3.0**3 - 0.125) / 3)
    single = copy.deepcopy(layer).float()
    assert single().dtype == single.domain.lower[0].dtype == torch.float32
    assert layer.domain.lower[0].dtype == torch.float64
    single.load_state_dict(layer.state_dict())
    torch.testing.assert_close(single().double(), value, rtol=1e-3, atol=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_layer_with_limits_of_its_own_compiles() -> None:
    upper = nn.Parameter(torch.tensor([1.0, 2.0]))
    layer = mlc.Integral(torch.exp, mlc.Interval(0.0, upper), mlc.GaussLegendre(8))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    slopes = [torch.autograd.grad(f().sum(), upper)[0] for f in (layer, compiled)]
    torch.testing.assert_close(slopes[0], slopes[1])
