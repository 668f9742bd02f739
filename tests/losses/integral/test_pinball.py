"""Quantile functions at all levels: half the ranked probability score."""

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
from scipy import integrate
from torch import Tensor, nn
from torch.distributions import Normal

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

TARGET = (-9.0, -1.0, 0.0, 0.3, 2.0, 6.5)


def normal(tau: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return loc + scale * torch.special.ndtri(tau)


def logistic(tau: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return loc + scale * torch.logit(tau)


class Logistic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.8, dtype=DOUBLE))

    def forward(self, tau: Tensor, loc: Tensor) -> Tensor:
        return logistic(tau, loc, self.scale)


def test_twice_the_loss_is_the_score_of_a_normal() -> None:
    y, loc, scale = t(*TARGET), number(0.5), number(1.5)
    loss = mlc.integrated_quantile_loss(normal, y, "none", args=(loc, scale))
    z, unit = (y - loc) / scale, Normal(number(0.0), 1.0)
    score = z * (2 * unit.cdf(z) - 1) + 2 * unit.log_prob(z).exp() - math.pi**-0.5
    torch.testing.assert_close(2 * loss, scale * score, rtol=1e-8, atol=0)


def test_slope_and_curvature_are_those_of_cdf_and_density() -> None:
    y = t(*TARGET[1:-1])
    loss = mlc.integrated_quantile_loss(
        normal, y, "sum", args=(number(0.0), number(1.0)), rtol=1e-11
    )
    (slope,) = torch.autograd.grad(loss, y, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), y)
    unit = Normal(number(0.0), 1.0)
    torch.testing.assert_close(slope, unit.cdf(y) - 0.5, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(curvature, unit.log_prob(y).exp(), rtol=1e-8, atol=0)


@pytest.mark.parametrize("levels", [(0.0, 1.0), (0.1, 0.9), (0.9, 1.0), (0.0, 0.3)])
def test_levels_may_be_chosen(levels: tuple[float, float]) -> None:
    low, high = levels
    for y in (-2.0, 0.1, 4.0):

        def pinball(tau: float, y: float = y) -> float:
            q = 0.5 + 2 * math.log(tau / (1 - tau))
            return max(tau * (y - q), (1 - tau) * (q - y))

        cross = 1 / (1 + math.exp(-(y - 0.5) / 2))
        ends = [low, *([cross] if low < cross < high else []), high]
        expected = sum(
            integrate.quad(pinball, a, b, epsabs=1e-13, epsrel=1e-12)[0]
            for a, b in zip(ends[:-1], ends[1:], strict=True)
        )
        loss = mlc.integrated_quantile_loss(
            logistic, number(y), lower=low, upper=high,
            args=(number(0.5), number(2.0)),
        )  # fmt: skip
        assert loss.item() == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.5, 0.501)])
def test_quantiles_that_are_not_in_order_cross_several_times(
    low: float, high: float
) -> None:
    rate = 20 / (high - low)

    def wave(tau: Tensor) -> Tensor:
        return torch.cos(rate * (tau - low))

    def pinball(tau: float) -> float:
        q = math.cos(rate * (tau - low))
        return max(tau * (0.2 - q), (1 - tau) * (q - 0.2))

    first = math.acos(0.2)
    turns = [first + 2 * math.pi * k for k in range(4)]
    turns += [2 * math.pi * k - first for k in range(1, 4)]
    ends = [low, *sorted(low + turn / rate for turn in turns if turn < 20), high]
    expected = sum(
        integrate.quad(pinball, a, b)[0]
        for a, b in zip(ends[:-1], ends[1:], strict=True)
    )
    for rule in (None, mlc.GaussLegendre(24)):
        loss = mlc.integrated_quantile_loss(
            wave, number(0.2), lower=low, upper=high, rule=rule
        )
        assert loss.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("rule", [None, mlc.GaussLegendre(20)], ids=str)
def test_gradients(rule: mlc.Rule | None) -> None:
    module = mlc.IntegratedQuantileLoss(
        Logistic(), rule, reduction="none", lower=0.05, upper=0.9
    )
    check_gradients(module, (t(0.7), t(0.2)), compile=False)


def test_reductions() -> None:
    y = t(0.1, 2.0, -1.0)
    assert_reductions(
        lambda reduction, weight: mlc.integrated_quantile_loss(
            logistic, y, reduction, weight, args=(number(0.0), number(1.0))
        ),
        y,
    )


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_targets_that_no_quantile_reaches(dtype: torch.dtype) -> None:
    # In single precision levels above 1 - 6e-8 are 1, where the quantile is infinite.
    for y in (-200.0, -18.0, 18.0, 40.0, 200.0):
        numbers = [torch.tensor(v, dtype=dtype) for v in (y, 0.0, 1.0)]
        target, loc, scale = (v.requires_grad_() for v in numbers)
        loss = mlc.integrated_quantile_loss(logistic, target, args=(loc, scale))
        assert loss.item() == pytest.approx((abs(y) - 1) / 2, rel=1e-6)
        slopes = torch.autograd.grad(loss, (target, loc, scale))
        side = math.copysign(0.5, y)
        found = [slope.item() for slope in slopes]
        assert found == pytest.approx([side, -side, -0.5], rel=1e-5)


def test_empty_and_half() -> None:
    def linear(tau: Tensor) -> Tensor:
        return 2 * tau

    empty = torch.zeros(0)
    assert mlc.integrated_quantile_loss(linear, empty, "sum").item() == 0
    y = torch.tensor([0.5, 1.0], dtype=torch.bfloat16)
    half = mlc.integrated_quantile_loss(linear, y)
    wide = mlc.integrated_quantile_loss(linear, y.float())
    assert (half.dtype, wide.dtype) == (torch.bfloat16, torch.float32)
    assert torch.equal(half, wide.bfloat16())


def test_module() -> None:
    rule = mlc.GaussLegendre(1)
    y, loc, weight = t(0.7, -1.1), t(0.2, -0.1), t(1.0, 2.0)
    module = mlc.IntegratedQuantileLoss(
        Logistic(), rule, reduction="sum", lower=0.1, upper=0.8
    )
    expected = mlc.integrated_quantile_loss(
        module.quantile, y, "sum", weight, args=(loc,), rule=rule, lower=0.1, upper=0.8
    )
    assert_module(module, lambda m: m(y, loc, weight=weight), expected)
    module.rule = None
    assert abs(module(y, loc, weight=weight).item() - expected.item()) > 1e-3
    assert "lower=0.1, upper=0.8" in repr(module)
    assert_settings(lambda rule, **s: mlc.IntegratedQuantileLoss(Logistic(), rule, **s))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"quantile": 1},
            TypeError,
            "quantile must be a function or a module, got int",
        ),
        ({"target": [1.0]}, TypeError, "target must be a torch.Tensor, got list"),
        (
            {"weight": t(1.0)},
            ValueError,
            r"weight must have the shape \(2,\) of target",
        ),
        ({"lower": -0.1}, ValueError, "lower and upper must be levels with"),
        ({"lower": 0.6, "upper": 0.5}, ValueError, "got 0.6 and 0.5"),
        ({"lower": 0.5, "upper": 0.5}, ValueError, "got 0.5 and 0.5"),
        ({"upper": 1.5}, ValueError, "got 0.0 and 1.5"),
        ({"upper": "1"}, TypeError, "upper must be a number, got str"),
        ({"lower": False}, TypeError, "lower must be a number, got bool"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, error: type, message: str) -> None:
    call = {"quantile": lambda tau: 2 * tau, "target": t(0.5, 1.0)}
    mlc.integrated_quantile_loss(**call)
    with pytest.raises(error, match=message):
        mlc.integrated_quantile_loss(**(call | change))
    if not {"target", "weight"} & set(change):
        with pytest.raises(error, match=message):
            mlc.IntegratedQuantileLoss(**({"quantile": call["quantile"]} | change))
