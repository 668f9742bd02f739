"""How often a density is evaluated: what is known is not asked for again."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import torch_mlcalc as mlc
from torch_mlcalc.density import known

DOUBLE = torch.float64


class Counter:
    """A log density that writes down where it was evaluated."""

    def __init__(self, log_density: Callable[..., Tensor]) -> None:
        self.log_density = log_density
        self.parameters = torch.zeros(known.LEAST)  # as many as a network
        self.pairs: list[tuple[float, float]] = []

    def __call__(self, x: Tensor, name: Tensor, *args: Tensor) -> Tensor:
        both = torch.broadcast_tensors(name, x.detach())
        self.pairs += zip(*(t.flatten().tolist() for t in both), strict=True)
        return self.log_density(x, *args)

    def spent(self) -> int:
        """Evaluations since the last call."""
        count = len(self.pairs)
        self.pairs = []
        return count


class Case(NamedTuple):
    """A density with parameters of its own for each element."""

    name: str
    log_density: Callable[..., Tensor]
    domain: mlc.Domain
    parameters: tuple[float, ...]


CASES = [
    Case("normal", lambda x, k: -k * x * x / 2, mlc.RealLine(), (1.0, 4.0, 0.2)),
    Case("logistic", lambda x, k: k * x - 2 * nn.functional.softplus(k * x),
         mlc.RealLine(), (1.0, 2.0)),
    Case("gamma", lambda x, k: k * x.log() - x, mlc.HalfLine(), (1.5, 3.0)),
    Case("waves", lambda x, k: 2 * torch.sin(k * x), mlc.Interval(-3, 3), (1.0, 5.0)),
]  # fmt: skip


@pytest.fixture(params=CASES, ids=lambda c: c.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def counted(case: Case) -> tuple[mlc.NormalizedDensity, Counter]:
    k = torch.tensor(case.parameters, dtype=DOUBLE)
    counter = Counter(case.log_density)
    name = torch.arange(len(k), dtype=DOUBLE)
    return mlc.NormalizedDensity(counter, case.domain, args=(name, k)), counter


def test_no_node_is_evaluated_twice(case: Case) -> None:
    p, counter = counted(case)
    u = torch.full((1, len(case.parameters)), 0.4, dtype=DOUBLE)
    _ = p.log_normalizer, p.mean, p.variance, p.entropy(), p.expectation(torch.sin)
    _ = p.cdf(u), p.cdf(u / 2), p.status
    assert len(set(counter.pairs)) == len(counter.pairs)


def test_means_after_the_normaliser_cost_few_evaluations(case: Case) -> None:
    p, counter = counted(case)
    _ = p.log_normalizer
    first = counter.spent()
    assert p.log_normalizer.isfinite().all() and counter.spent() == 0
    for name in ("mean", "variance", "entropy", "mean", "variance"):
        found = getattr(p, name)
        assert (found() if callable(found) else found).isfinite().all()
        assert counter.spent() <= (0.6 if name == "mean" else 0.5) * first, name
    again = p.expectation(lambda x: x), p.entropy()
    assert counter.spent() <= first / 2
    torch.testing.assert_close(again[0], p.mean, rtol=1e-7, atol=1e-8)


def test_what_is_known_has_the_values_of_a_fresh_density(case: Case) -> None:
    p, _ = counted(case)
    u = torch.full((1, len(case.parameters)), 0.4, dtype=DOUBLE)

    def everything(p: Callable[[], mlc.NormalizedDensity]) -> list[Tensor]:
        return [
            p().entropy(), p().variance, p().mean, p().log_normalizer,
            p().expectation(torch.sin), p().cdf(u), p().mode,
        ]  # fmt: skip

    ours, fresh = everything(lambda: p), everything(lambda: counted(case)[0])
    torch.testing.assert_close(ours, fresh, rtol=1e-12, atol=1e-13)


def test_all_is_evaluated_again_after_a_step_of_an_optimiser() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    features = torch.randn(4, dtype=DOUBLE)
    counter = Counter(lambda x, f: net(torch.stack([x, f.expand_as(x)], -1))[..., 0])
    name = torch.arange(4, dtype=DOUBLE)

    def make() -> mlc.NormalizedDensity:
        return mlc.NormalizedDensity(
            counter, mlc.Interval(-2, 2), args=(name, features)
        )

    p, optimizer = make(), torch.optim.SGD(net.parameters(), lr=0.5)
    with torch.no_grad():
        before = p.mean, p.entropy()
    counter.spent()
    with torch.no_grad():
        _ = p.log_normalizer, p.mean
    assert counter.spent() == 0
    (-p.log_prob(torch.ones(4, dtype=DOUBLE)).mean()).backward()
    optimizer.step()
    counter.spent()
    with torch.no_grad():
        after, cost = (p.mean, p.entropy()), counter.spent()
        fresh = make()
        wanted = fresh.mean, fresh.entropy()
    assert cost == counter.spent() > 0
    torch.testing.assert_close(after, wanted, rtol=1e-12, atol=1e-13)
    assert (after[0] - before[0]).abs().min() > 1e-4


def test_a_gradient_is_there_whatever_is_known() -> None:
    k = torch.tensor([1.0, 4.0], dtype=DOUBLE)
    p = mlc.NormalizedDensity(lambda x, k: -k * x * x / 2, mlc.RealLine(), args=(k,))
    assert not p.variance.requires_grad  # and all nodes are known without a gradient
    k.requires_grad_()
    (slope,) = torch.autograd.grad(p.variance.sum(), k, create_graph=True)
    torch.testing.assert_close(slope, -1 / k**2, rtol=1e-7, atol=0)
    (second,) = torch.autograd.grad(slope.sum(), k)
    torch.testing.assert_close(second, 2 / k.detach() ** 3, rtol=1e-6, atol=0)
    (slope,) = torch.autograd.grad(p.log_normalizer.sum(), k)
    torch.testing.assert_close(slope, -1 / (2 * k.detach()), rtol=1e-7, atol=0)


def test_a_function_with_parameters_needs_no_evaluation_of_the_density() -> None:
    p, counter = counted(CASES[0])
    _ = p.mean, p.variance
    counter.spent()
    a = torch.tensor(2.0, dtype=DOUBLE, requires_grad=True)
    value = p.expectation(lambda x: a * x * x)
    (slope,) = torch.autograd.grad(value.sum(), a)
    assert counter.spent() == 0
    assert slope.item() == pytest.approx((1 / torch.tensor(CASES[0].parameters)).sum())


def test_densities_that_close_over_a_batch() -> None:
    # Their rows cannot be asked for one by one.
    k = torch.tensor([1.0, 4.0, 0.2], dtype=DOUBLE)
    shapes: list[torch.Size] = []

    def log_density(x: Tensor) -> Tensor:
        shapes.append(x.shape[1:])
        return -k * x * x / 2

    line = mlc.RealLine(torch.tensor(0.0, dtype=DOUBLE))
    p = mlc.NormalizedDensity(log_density, line, batch_shape=(3,))
    twin, x = Normal(torch.zeros_like(k), k.rsqrt()), torch.tensor([[0.3]] * 2) * k
    for name in ("mean", "variance", "entropy", "cdf"):
        ours, theirs = getattr(p, name), getattr(twin, name)
        if callable(ours):
            ours, theirs = (f(x) if name == "cdf" else f() for f in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)
    assert set(shapes) == {k.shape}


@pytest.mark.parametrize("most", [0, 100])
def test_more_points_than_are_kept(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(known, "MOST", most)
    p, counter = counted(CASES[0])
    torch.testing.assert_close(
        p.variance, 1 / torch.tensor(CASES[0].parameters, dtype=DOUBLE)
    )
    assert len(set(counter.pairs)) < len(counter.pairs)


def test_single_precision_and_a_single_density() -> None:
    calls = 0

    def log_density(x: Tensor) -> Tensor:
        nonlocal calls
        calls += x.numel()
        return -x * x / 2

    p = mlc.NormalizedDensity(log_density, mlc.RealLine())
    assert p.log_normalizer.item() == pytest.approx(math.log(2 * math.pi) / 2, abs=1e-6)
    first, calls = calls, 0
    assert p.mean.dtype == torch.float32 and p.mean.abs() < 1e-5
    # Its search looks elsewhere first, where nobody has asked yet.
    assert calls <= 1.5 * first
    calls = 0
    assert p.entropy().item() == pytest.approx(math.log(2 * math.pi * math.e) / 2)
    assert calls == 0


@pytest.mark.parametrize("rule", [None, mlc.GaussLegendre(40)])
def test_limits_that_are_numbers_do_not_cost_digits(rule: mlc.Rule | None) -> None:
    k = torch.tensor([1.0, 2.0], dtype=DOUBLE)
    p = mlc.NormalizedDensity(lambda x, k: k * x, mlc.Interval(0, 1), rule, args=(k,))
    mean = k.exp() / k.expm1() - 1 / k
    second = (k.exp() * (k**2 - 2 * k + 2) - 2) / k**2 / k.expm1()
    torch.testing.assert_close(p.mean, mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(p.variance, second - mean**2, rtol=1e-12, atol=0)
    log = mlc.log_expectation(lambda x: -x, p)
    exact = ((k - 1).expm1() / (k - 1)).nan_to_num(1.0) * k / k.expm1()
    torch.testing.assert_close(log, exact.log(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", [None, mlc.GaussLegendre(8)])
def test_points_at_infinity_are_looked_up_without_a_warning(
    rule: mlc.Rule | None,
) -> None:
    # A density that cannot be normalised has such nodes.
    p = mlc.NormalizedDensity(
        lambda x: 0 * x, mlc.RealLine(), rule, on_failure="ignore"
    )
    assert p.icdf(torch.tensor(0.3)).shape == ()
    at = torch.tensor([-math.inf, 0.0, math.inf])
    for _ in range(2):
        assert p._known.at(at)[1] == 0
        assert p._known.at(at)[::2].isnan().all()
