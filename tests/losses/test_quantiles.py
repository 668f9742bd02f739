"""Losses of intervals, quantiles and expectiles, against mpmath and each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath as mp
import numpy as np
import pytest
import scoringrules
import torch
from torch import Tensor

from torch_mlcalc.losses import (
    ExpectileLoss,
    IntervalScoreLoss,
    MultiQuantileLoss,
    SmoothQuantileLoss,
    ensemble_crps_loss,
    expectile_loss,
    interval_score_loss,
    mse_loss,
    multi_quantile_loss,
    quantile_loss,
    smooth_quantile_loss,
)
from torch_mlcalc.testing import check_gradients

DOUBLE = torch.float64
INF = math.inf
# Numbers of float32, so that both dtypes and mpmath compute with the same.
SMOOTH = (0.810011001761581421, 0.25)
EXPECTILE = 0.30000001192092896

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def pinball(x: Tensor, y: Tensor, level: float) -> Tensor:
    return (1 - level) * (x - y).relu() + level * (y - x).relu()


def smooth(r: mp.mpf) -> tuple[mp.mpf, mp.mpf, mp.mpf]:
    q, beta = map(mp.mpf, SMOOTH)
    share = 1 / (1 + mp.exp(-r / beta))
    other = 1 / (1 + mp.exp(r / beta))
    value = beta * mp.log(1 + mp.exp(r / beta)) - q * r
    return value, share - q, share * other / beta


def expectile(r: mp.mpf) -> tuple[mp.mpf, mp.mpf, mp.mpf]:
    c = 1 - mp.mpf(EXPECTILE) if r > 0 else mp.mpf(EXPECTILE)
    return c * r * r, 2 * c * r, 2 * c


EXACT: dict[str, tuple[Callable[..., Tensor], dict[str, float], Callable]] = {
    "smooth": (
        smooth_quantile_loss,
        {"quantile": SMOOTH[0], "beta": SMOOTH[1]},
        smooth,
    ),
    "expectile": (expectile_loss, {"expectile": EXPECTILE}, expectile),
}
MAGNITUDES = (1e-30, 1e-10, 1e-3, 0.2, 0.55, 1.0, 3.0, 8.0, 20.0, 100.0, 1e10, 1e18)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_value_and_derivatives_are_exact(name: str, dtype: torch.dtype) -> None:
    loss, settings, truth = EXACT[name]
    r = torch.tensor([*MAGNITUDES, *(-m for m in MAGNITUDES), 0.0], dtype=dtype)
    input = r.clone().requires_grad_()
    value = loss(input, torch.zeros_like(r), "none", **settings)
    (slope,) = torch.autograd.grad(value.sum(), input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), input)
    with mp.workdps(60):
        exact = torch.tensor(
            [[float(v) for v in truth(mp.mpf(x))] for x in r.tolist()], dtype=DOUBLE
        ).to(dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(value, exact[:, 0], rtol=5 * eps, atol=1e-300)
    # The slope of the smooth one crosses 0 away from r = 0.
    torch.testing.assert_close(slope, exact[:, 1], rtol=5 * eps, atol=eps)
    # 1 - sigmoid(x) has no digits for large x, in torch: absolute, of 1 / (4 beta).
    torch.testing.assert_close(curvature, exact[:, 2], rtol=5 * eps, atol=eps)


@pytest.mark.parametrize("name", EXACT)
def test_infinite_residuals_give_the_limits(name: str) -> None:
    loss, settings, _ = EXACT[name]
    input = torch.tensor([INF, -INF], requires_grad=True)
    value = loss(input, torch.zeros(2), "none", **settings)
    assert value.tolist() == [INF, INF]
    (slope,) = torch.autograd.grad(value.sum(), input)
    limits = {"smooth": [1 - SMOOTH[0], -SMOOTH[0]], "expectile": [INF, -INF]}
    assert slope.tolist() == pytest.approx(limits[name])
    nan = torch.tensor([math.nan])
    assert loss(nan, torch.zeros(1), **settings).isnan()


def test_smooth_quantile_tends_to_the_quantile_loss() -> None:
    x, y = torch.randn(2, 100, dtype=DOUBLE)
    sharp = quantile_loss(x, y, "none", 0.3)
    for beta in (1e-3, 1e-30):
        rounded = smooth_quantile_loss(x, y, "none", 0.3, beta)
        assert (rounded >= sharp).all()
        assert (rounded <= sharp + beta * math.log(2)).all()


def test_expectile_of_one_half_is_half_the_squared_error() -> None:
    x, y = torch.randn(2, 100, dtype=DOUBLE)
    torch.testing.assert_close(expectile_loss(x, y), mse_loss(x, y) / 2)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8])
def test_expectile_loss_is_smallest_where_the_distances_balance(level: float) -> None:
    sample = torch.randn(1000, dtype=DOUBLE)
    guess = torch.zeros((), dtype=DOUBLE, requires_grad=True)
    optimizer = torch.optim.LBFGS([guess], max_iter=50, tolerance_grad=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = expectile_loss(guess.expand(1000), sample, expectile=level)
        loss.backward()
        return loss

    optimizer.step(closure)
    below = (guess - sample).relu().sum()
    above = (sample - guess).relu().sum()
    assert (below / (below + above)).item() == pytest.approx(level, abs=1e-6)


def test_numbers_are_those_of_scoringrules() -> None:
    x, y = torch.randn(50, 2, dtype=DOUBLE).sort(-1).values, torch.randn(50).double()
    lower, upper = x.numpy().T
    expected = scoringrules.interval_score(y.numpy(), lower, upper, 0.2)
    actual = interval_score_loss(x, y, "none", 0.2)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)
    levels = [0.1, 0.3, 0.9]
    q = torch.randn(50, 3, dtype=DOUBLE)
    expected = scoringrules.crps_quantile(y.numpy(), q.numpy(), np.array(levels))
    actual = 2 * multi_quantile_loss(q, y, levels, "none")
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_levels_in_the_middle_of_steps_give_the_crps() -> None:
    x, y = torch.randn(20, 8, dtype=DOUBLE).sort(-1).values, torch.randn(20).double()
    levels = (torch.arange(8, dtype=DOUBLE) + 0.5) / 8
    expected = ensemble_crps_loss(x, y)
    torch.testing.assert_close(2 * multi_quantile_loss(x, y, levels), expected)


def test_rearranged_quantiles_are_sorted_and_never_worse() -> None:
    x, y = torch.randn(500, 4, dtype=DOUBLE), torch.randn(500, dtype=DOUBLE)
    levels = [0.1, 0.4, 0.5, 0.9]
    plain = multi_quantile_loss(x, y, levels, "none")
    sorted_ = multi_quantile_loss(x, y, levels, "none", rearrange=True)
    assert (sorted_ <= plain + 1e-15).all()
    assert (sorted_ < plain).any()
    expected = multi_quantile_loss(x.sort(-1).values, y, levels, "none")
    assert torch.equal(sorted_, expected)
    one_order = x.sort(-1).values
    assert torch.equal(
        multi_quantile_loss(one_order, y, levels, rearrange=True),
        multi_quantile_loss(one_order, y, levels),
    )


def test_several_levels_find_several_quantiles() -> None:
    sample = torch.randn(1001, dtype=DOUBLE)
    levels = torch.tensor([0.1, 0.5, 0.9], dtype=DOUBLE)
    candidates = sample[:, None, None].expand(-1, 1001, 1)
    targets = sample.expand(1001, 1001)
    losses = [
        multi_quantile_loss(candidates, targets, [q], "none") for q in levels.tolist()
    ]
    best = [sample[loss.mean(1).argmin()] for loss in losses]
    expected = torch.quantile(sample, levels, interpolation="higher")
    torch.testing.assert_close(torch.stack(best), expected)


def test_gradients_hold_in_every_mode() -> None:
    y = torch.tensor([0.3, -0.4], dtype=DOUBLE, requires_grad=True)
    ends = torch.tensor([[-1.0, 0.1], [-0.1, 1.0]], dtype=DOUBLE, requires_grad=True)
    check_gradients(lambda x, y: interval_score_loss(x, y), (ends, y))
    q = torch.tensor([[1.0, 0.1, -2.0], [0.5, -1.0, 3.0]], dtype=DOUBLE)
    levels = torch.tensor([0.1, 0.5, 0.8], dtype=DOUBLE)
    check_gradients(
        lambda x, y: multi_quantile_loss(x, y, levels, rearrange=True),
        (q.requires_grad_(), y),
    )
    check_gradients(
        lambda x, y: multi_quantile_loss(x, y, [0.1, 0.5, 0.8]), (q, y), compile=False
    )
    x = torch.tensor([0.8, 0.1], dtype=DOUBLE, requires_grad=True)
    check_gradients(lambda x, y: smooth_quantile_loss(x, y, quantile=0.2), (x, y))
    check_gradients(lambda x, y: expectile_loss(x, y, expectile=0.2), (x, y))


def test_a_module_sorts_predictions_where_it_says_so() -> None:
    crossing, y = torch.tensor([[4.0, 1.0]]), torch.tensor([3.0])
    for rearrange, expected in ((False, 1.125), (True, 0.375)):
        module = MultiQuantileLoss([0.25, 0.75], rearrange=rearrange)
        assert module(crossing, y).item() == expected


def test_levels_are_a_buffer() -> None:
    module = MultiQuantileLoss([0.1, 0.9], "sum", rearrange=True)
    assert module.state_dict().keys() == {"quantiles"}
    assert module.quantiles.dtype == DOUBLE
    assert module.to(torch.float32).quantiles.dtype == torch.float32
    levels = torch.tensor([0.1, 0.9])
    module = MultiQuantileLoss(levels)
    levels[0] = 0.5
    assert module.quantiles[0].item() == pytest.approx(0.1)
    assert repr(MultiQuantileLoss([0.1, 0.9], "sum", rearrange=True)) == (
        "MultiQuantileLoss(quantiles=[0.1, 0.9], reduction='sum', rearrange=True)"
    )


def test_bad_levels_are_refused() -> None:
    x, y = torch.randn(4, 2), torch.randn(4)

    def function(quantiles: object, **settings: bool) -> Tensor:
        return multi_quantile_loss(x, y, quantiles, validate=True, **settings)

    for call in (MultiQuantileLoss, function):
        with pytest.raises(ValueError, match="each of quantiles must be strictly"):
            call([0.1, 1.0])
        with pytest.raises(TypeError, match="each of quantiles must be a number"):
            call([0.1, "a"])
        with pytest.raises(TypeError, match="a sequence of numbers, got float"):
            call(0.5)
        with pytest.raises(TypeError, match="a sequence of numbers, got str"):
            call("0.5")
        with pytest.raises(ValueError, match=r"between 0 and 1, got 2.0 at \[1"):
            call(torch.tensor([0.5, 2.0]))
        with pytest.raises(TypeError, match="quantiles must be floating-point"):
            call(torch.tensor([1, 2]))
        with pytest.raises(ValueError, match=r"the shape \(k,\).*got \(1, 2\)"):
            call(torch.tensor([[0.5, 0.6]]))
        for none in ([], torch.zeros(0)):
            with pytest.raises(ValueError, match=r"k of 1 at least, got \(0,\)"):
                call(none)
        with pytest.raises(ValueError, match="quantiles must increase"):
            call([0.9, 0.1], rearrange=True)
        with pytest.raises(ValueError, match="of neighbours in quantiles must be pos"):
            call(torch.tensor([0.5, 0.5]), rearrange=True)
        with pytest.raises(TypeError, match="rearrange must be a bool, got int"):
            call([0.5], rearrange=1)
    multi_quantile_loss(x, y, torch.tensor([0.5, 2.0]))  # not looked at
    with pytest.raises(ValueError, match="input must have the 3 quantiles in its last"):
        multi_quantile_loss(x, y, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"1 quantiles in its last axis, got .* \(\)"):
        multi_quantile_loss(torch.tensor(0.5), y, [0.1])


SETTINGS = {
    "alpha": (IntervalScoreLoss, interval_score_loss, (0, 1, -0.1, math.nan)),
    "quantile": (SmoothQuantileLoss, smooth_quantile_loss, (0, 1, 90, math.nan)),
    "beta": (SmoothQuantileLoss, smooth_quantile_loss, (0, -1.0, INF, math.nan)),
    "expectile": (ExpectileLoss, expectile_loss, (0, 1, -0.1, math.nan)),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_settings_are_refused(name: str) -> None:
    module, function, values = SETTINGS[name]
    y = torch.ones(3)
    x = torch.ones(3, 2) if name == "alpha" else y
    for call in (module, lambda **s: function(x, y, **s)):
        for value in values:
            with pytest.raises(ValueError, match=f"{name} must be .*, got {value}"):
                call(**{name: value})
        with pytest.raises(TypeError, match=f"{name} must be a number, got str"):
            call(**{name: "1"})


def test_crossed_intervals_are_refused_if_asked_for() -> None:
    x, y = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(2)
    message = r"upper end minus the lower one must not be negative, got -1.0 at \[1\]"
    with pytest.raises(ValueError, match=message):
        IntervalScoreLoss(validate=True)(x, y)
    assert interval_score_loss(x, y).isfinite()
    with pytest.raises(TypeError, match="validate must be True, False or None"):
        IntervalScoreLoss(validate=0)


def test_repr_shows_the_settings() -> None:
    assert repr(IntervalScoreLoss()) == "IntervalScoreLoss(reduction='mean', alpha=0.1)"
    assert repr(SmoothQuantileLoss("sum", 0.2)) == (
        "SmoothQuantileLoss(reduction='sum', quantile=0.2, beta=1.0)"
    )
    assert repr(ExpectileLoss(expectile=0.2)) == (
        "ExpectileLoss(reduction='mean', expectile=0.2)"
    )
