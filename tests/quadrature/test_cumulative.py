"""Integrals up to many limits at once, their inverse, and the layer of both."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

import torch_mlcalc as mlc
from torch_mlcalc.quadrature import panels
from torch_mlcalc.testing import check_gradients

DOUBLE = torch.float64
SETTINGS = {"compile": False}  # a search is not compiled; fixed rules are, below


class Case(NamedTuple):
    """An integrand, where it is integrated from, its antiderivative, limits."""

    name: str
    integrand: Callable[[Tensor], Tensor]
    lower: float
    exact: Callable[[Tensor], Tensor]
    upper: list[float]
    rtol: float = 1e-9


def phi(x: Tensor) -> Tensor:
    return torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


CASES = [
    Case("exp", torch.exp, 0.5, lambda x: x.exp() - math.exp(0.5), [-1, 0.5, 0.6, 3]),
    Case("oscillating", lambda x: torch.cos(50 * x), 0.0, lambda x: (50 * x).sin() / 50,
         [0.01, 1, -2]),
    Case("singular at the start", torch.rsqrt, 0.0, lambda x: 2 * x.sqrt(),
         [0, 1e-30, 1e-6, 1], 3e-8),
    Case("singular derivative", torch.sqrt, 0.0, lambda x: x**1.5 / 1.5, [0.1, 2]),
    Case("log", torch.log, 0.0, lambda x: x * x.log() - x, [1e-9, 0.3, 2], 2e-8),
    Case("jump", lambda x: (x > 0.3).to(x.dtype), 0.0, lambda x: (x - 0.3).relu(),
         [0.2, 0.3, 0.31, 1], 1e-8),
    Case("kink", lambda x: (x - 0.3).abs(), 0.3,
         lambda x: (x - 0.3) * (x - 0.3).abs() / 2, [0.0, 0.3, 1], 1e-8),
    Case("normal from minus infinity", phi, -math.inf, torch.special.ndtr,
         [-math.inf, -9, -1, 0, 2, math.inf]),
    Case("cauchy from minus infinity", lambda x: 1 / (math.pi * (1 + x * x)),
         -math.inf, lambda x: 0.5 + x.atan() / math.pi, [-1e6, -1, 0, 1e3, math.inf]),
    Case("exponential to infinity", lambda x: torch.exp(-x), 1.0,
         lambda x: math.exp(-1) - torch.exp(-x), [1, 2, 40, math.inf]),
    Case("downwards to minus infinity", lambda x: torch.exp(3 * x), 0.0,
         lambda x: (torch.exp(3 * x) - 1) / 3, [0, -2, -math.inf]),
    Case("heavy tail", lambda x: x**-2.5, 1.0,
         lambda x: (1 - x**-1.5) / 1.5, [1, 1e8, math.inf]),
]  # fmt: skip
BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_value_at_many_limits(case: Case) -> None:
    upper = torch.tensor(case.upper, dtype=DOUBLE)
    value = mlc.cumulative_integrate(case.integrand, case.lower, upper)
    exact = torch.where(upper == case.lower, 0.0, case.exact(upper))
    size = exact.abs().max().item()
    torch.testing.assert_close(value, exact, rtol=0, atol=case.rtol * size)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_derivative_by_the_limit_is_the_integrand(case: Case) -> None:
    inner = [x for x in case.upper if math.isfinite(x) and x != case.lower]
    upper = torch.tensor(inner, dtype=DOUBLE, requires_grad=True)
    value = mlc.cumulative_integrate(case.integrand, case.lower, upper)
    (slope,) = torch.autograd.grad(value.sum(), upper)
    assert torch.equal(slope, case.integrand(upper.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_reduced_precision(dtype: torch.dtype) -> None:
    x = torch.tensor([0.5, 2.0], dtype=dtype)
    value = mlc.cumulative_integrate(torch.exp, torch.zeros((), dtype=dtype), x)
    assert value.dtype == dtype
    exact = torch.expm1(x.double())
    torch.testing.assert_close(
        value.double(), exact, rtol=4 * torch.finfo(dtype).eps, atol=0
    )


def test_a_thousand_limits_cost_as_many_evaluations_as_two() -> None:
    points = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal points
        points += x.numel()
        return torch.exp(-x * x)

    counts = []
    for m in (2, 1000):
        points = 0
        mlc.cumulative_integrate(counted, 0.0, torch.linspace(0, 3, m, dtype=DOUBLE))
        counts.append(points)
    assert counts[0] == counts[1] < 1000


def test_batch_and_events() -> None:
    rate = torch.tensor([1.0, 2.0, 300.0], dtype=DOUBLE)
    x = torch.rand(4, 5, 3, dtype=DOUBLE)
    value = mlc.cumulative_integrate(
        lambda t, r: torch.stack([torch.exp(-r * t), t * r], -1), 0.0, x, args=(rate,)
    )
    exact = torch.stack([(1 - torch.exp(-rate * x)) / rate, rate * x**2 / 2], -1)
    torch.testing.assert_close(value, exact)
    column = mlc.cumulative_integrate(
        lambda t, r: torch.exp(-r * t), 0.0, x[:, 0, :1], args=(rate,)
    )
    torch.testing.assert_close(column, (1 - torch.exp(-rate * x[:, 0, :1])) / rate)


def test_features_with_a_dimension_of_their_own() -> None:
    features = torch.rand(3, 2, dtype=DOUBLE)
    x = torch.rand(7, 3, dtype=DOUBLE)
    value = mlc.cumulative_integrate(
        lambda t, f: t * f.sum(-1), 0.0, x, args=(features,), batch_shape=(3,)
    )
    torch.testing.assert_close(value, x**2 / 2 * features.sum(-1))


def test_numbers_and_equal_limits() -> None:
    value = mlc.cumulative_integrate(torch.exp, 1.0, 2.0)
    assert value.shape == () and value.item() == pytest.approx(math.e**2 - math.e)
    assert mlc.cumulative_integrate(torch.exp, 1.0, 1.0).item() == 0
    empty = mlc.cumulative_integrate(torch.exp, torch.zeros(2), torch.zeros(0, 2))
    assert empty.shape == (0, 2)


def rate_problem(rule: mlc.Rule | None) -> Callable[..., Tensor]:
    return lambda x, a, r: mlc.cumulative_integrate(
        lambda t, r: torch.exp(-r * t) * torch.sin(t), a, x, rule, args=(r,)
    )


def inputs() -> tuple[Tensor, ...]:
    x = torch.tensor([[0.3, 1.0], [2.0, -0.4]], dtype=DOUBLE, requires_grad=True)
    lower = torch.tensor(0.1, dtype=DOUBLE, requires_grad=True)
    rate = torch.tensor([0.5, 3.0], dtype=DOUBLE, requires_grad=True)
    return x, lower, rate


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_gradients_of_panels_in_every_mode() -> None:
    check_gradients(rate_problem(None), inputs(), **SETTINGS)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_gradients_of_a_fixed_rule_in_every_mode() -> None:
    check_gradients(rate_problem(mlc.GaussLegendre(24)), inputs())


def test_breakpoints_show_a_peak_that_no_node_has_seen() -> None:
    def peak(x: Tensor) -> Tensor:
        return (1 - 300 * (x - 0.31).abs()).relu()

    x = torch.ones(1, dtype=DOUBLE)
    assert mlc.cumulative_integrate(peak, 0.0, x).item() == 0
    seen = mlc.cumulative_integrate(peak, 0.0, x, breakpoints=[0.31])
    assert seen.item() == pytest.approx(1 / 300, rel=1e-7)
    # One for each element of the batch, in any order, and one that is outside.
    lower, places = torch.zeros(2).double(), torch.tensor([[5.0, 0.4], [0.31, 0.31]])
    seen = mlc.cumulative_integrate(peak, lower, x, breakpoints=places.double())
    torch.testing.assert_close(seen, torch.full_like(seen, 1 / 300))


def test_tolerance_and_effort_have_an_effect() -> None:
    def count(**settings: float) -> int:
        points = 0

        def counted(x: Tensor) -> Tensor:
            nonlocal points
            points += x.numel()
            return x.sqrt()

        mlc.cumulative_integrate(counted, 0.0, torch.ones(1, dtype=DOUBLE), **settings)
        return points

    assert count(rtol=1e-3) < count() < count(rtol=1e-13)
    assert count(atol=1e-3) < count()
    with pytest.raises(mlc.IntegrationError, match="tolerance not reached"):
        count(max_evals=100, on_failure="raise")


def test_the_number_of_panel_nodes_does_not_decide_the_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.tensor([0.2, 1.0], dtype=DOUBLE)
    one = mlc.cumulative_integrate(lambda t: torch.cos(30 * t), 0.0, x)
    monkeypatch.setattr(panels, "FIRST", 7)
    other = mlc.cumulative_integrate(lambda t: torch.cos(30 * t), 0.0, x)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("integrand", "upper", "message"),
    [
        (lambda x: 1 / x, 1.0, "suspected divergent"),
        (lambda x: torch.ones_like(x), math.inf, "suspected divergent"),
        # 1e-4 of it is where a variable in [0, 1] cannot be told from 1.
        (lambda x: (1 + x) ** -1.25, math.inf, "suspected divergent"),
        (lambda x: torch.where((x - 0.3).abs() < 0.1, torch.nan, x), 1.0, "non finite"),
    ],
    ids=["pole", "no decay", "too heavy a tail", "nan inside"],
)
def test_faults_are_reported(
    integrand: Callable[[Tensor], Tensor], upper: float, message: str
) -> None:
    x = torch.tensor([upper], dtype=DOUBLE)
    with pytest.warns(mlc.IntegrationWarning, match=message):
        mlc.cumulative_integrate(integrand, 0.0, x)
    with warnings.catch_warnings():
        mlc.cumulative_integrate(integrand, 0.0, x, on_failure="ignore")


def test_a_fault_of_one_element_leaves_the_rest_right() -> None:
    power = torch.tensor([-2.0, 2.0], dtype=DOUBLE)
    with pytest.warns(mlc.IntegrationWarning, match="1 of 2 integrals"):
        value = mlc.cumulative_integrate(
            lambda x, p: x**p, 0.0, torch.ones(2, dtype=DOUBLE), args=(power,)
        )
    assert value[1].item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        ((torch.exp, "0", 1.0), {}, TypeError, "lower is a str"),
        ((torch.exp, 0.0, [1.0]), {}, TypeError, "upper is a list"),
        ((torch.exp, 0.0, math.nan), {}, ValueError, "upper is nan"),
        ((torch.exp, 0.0, 1.0, mlc.GaussKronrod()), {}, TypeError, "a fixed rule"),
        ((torch.exp, 0.0, 1.0, "gauss"), {}, TypeError, "rule is a str"),
        ((torch.exp, torch.zeros(3), torch.zeros(5)), {}, ValueError,
         r"upper has shape \(5,\).*\(sample, \*batch\)|\(5,\)"),
        ((torch.exp, torch.zeros(3).double(), torch.zeros(3)), {}, TypeError,
         "convert one"),
        ((torch.exp, 0.0, 1.0, mlc.Simpson(3)), {"rtol": 1e-3}, ValueError,
         r"rtol has no effect with Simpson"),
        ((torch.exp, 0.0, 1.0, mlc.Simpson(3)), {"breakpoints": [0.1]}, ValueError,
         "breakpoints has no effect"),
        ((torch.exp, 0.0, 1.0), {"breakpoints": 0.5}, TypeError, "breakpoints is a f"),
        ((torch.exp, 0.0, 1.0), {"breakpoints": []}, ValueError, "at least one"),
        ((torch.exp, 0.0, 1.0),
         {"breakpoints": torch.ones(1, requires_grad=True)}, ValueError,
         "breakpoints requires grad"),
        ((torch.exp, 0.0, 1.0), {"max_evals": 0}, ValueError, "max_evals is 0"),
        ((torch.exp, 0.0, 1.0), {"max_evals": 1.5}, TypeError, "max_evals is a float"),
        ((torch.exp, 0.0, 1.0), {"on_failure": "no"}, ValueError, "on_failure is 'no'"),
        ((torch.exp, 0.0, 1.0), {"rtol": -1.0}, ValueError, "rtol is -1"),
        ((torch.sum, 0.0, 1.0), {}, ValueError, "the integrand got points"),
        ((3, 0.0, 1.0), {}, TypeError, "integrand is a int"),
    ],
)  # fmt: skip
def test_refusals(
    arguments: tuple[object, ...],
    settings: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        mlc.cumulative_integrate(*arguments, **settings)


class Rate(nn.Module):
    """A positive network of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, t: Tensor) -> Tensor:
        return nn.functional.softplus(self.net(t[..., None])[..., 0])


def test_layer_and_inverse_undo_each_other() -> None:
    layer = mlc.Antiderivative(Rate(), lower=-1.0, rtol=1e-12)
    x = torch.tensor([-30.0, -1.0, -0.99, 0.0, 2.0, 100], dtype=DOUBLE)
    torch.testing.assert_close(layer.inverse(layer(x)), x, rtol=1e-9, atol=1e-9)
    y = torch.tensor([-5.0, 0.0, 0.3, 40.0], dtype=DOUBLE)
    torch.testing.assert_close(layer(layer.inverse(y)), y, rtol=1e-9, atol=1e-9)


def test_layer_learns() -> None:
    layer = mlc.Antiderivative(Rate())
    layer(torch.tensor([1.0, 2.0], dtype=DOUBLE)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in layer.parameters())


def test_gradients_of_the_inverse() -> None:
    # F(x) = (exp(r x) - exp(r a)) / r, so x = log(exp(r a) + r y) / r.
    def solve(y: Tensor, rate: Tensor, lower: Tensor) -> Tensor:
        layer = mlc.Antiderivative(lambda t, r: torch.exp(r * t), lower)
        layer.lower = lower
        return layer.inverse(y, rate)

    y = torch.tensor([[0.5, 2.0], [-0.1, 0.7]], dtype=DOUBLE, requires_grad=True)
    rate = torch.tensor([0.7, 1.5], dtype=DOUBLE, requires_grad=True)
    lower = torch.tensor(0.2, dtype=DOUBLE, requires_grad=True)
    exact = torch.log(torch.exp(rate * lower) + rate * y) / rate
    torch.testing.assert_close(solve(y, rate, lower), exact)
    ours = torch.autograd.grad(solve(y, rate, lower).sum(), (y, rate, lower))
    theirs = torch.autograd.grad(exact.sum(), (y, rate, lower))
    torch.testing.assert_close(ours, theirs)
    assert torch.autograd.gradgradcheck(solve, (y, rate, lower))


def test_inverse_without_a_solution_is_nan() -> None:
    layer = mlc.Antiderivative(lambda t: torch.exp(-t.abs()))
    y = torch.tensor([0.5, 1.5, -2.0, math.nan], dtype=DOUBLE)
    with pytest.warns(mlc.IntegrationWarning, match="No limit was found"):
        x = layer.inverse(y)
    assert x[0].item() == pytest.approx(math.log(2))
    assert x[1:].isnan().all()


def test_inverse_of_a_negative_integrand_is_refused() -> None:
    with pytest.raises(ValueError, match="negative somewhere"):
        mlc.Antiderivative(torch.sin).inverse(torch.tensor([0.5, 2.5]))


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
    ids=["deepcopy", "pickle"],
)
def test_layer_is_an_ordinary_module(
    duplicate: Callable[[nn.Module], nn.Module],
) -> None:
    layer = mlc.Antiderivative(Rate(), torch.tensor(0.5, dtype=DOUBLE))
    assert "lower" in layer.state_dict()
    x = torch.tensor([1.0], dtype=DOUBLE)
    assert torch.equal(duplicate(layer)(x), layer(x))
    other = mlc.Antiderivative(Rate(), torch.tensor(0.0, dtype=DOUBLE))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert layer.float()(x.float()).dtype == torch.float32
    assert "lower=0.5" in repr(layer) and "rule=None" in repr(layer)


def test_layer_settings_reach_the_search() -> None:
    layer = mlc.Antiderivative(torch.sqrt, max_evals=80, on_failure="raise")
    with pytest.raises(mlc.IntegrationError):
        layer(torch.ones(1, dtype=DOUBLE))
    fixed = mlc.Antiderivative(torch.exp, rule=mlc.Trapezoid(2))
    assert fixed(torch.ones(1)).item() == pytest.approx((1 + math.e) / 2)
