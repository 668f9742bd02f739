"""CRPS of an ensemble, against the double sum, the integral, and published numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import signature

import mpmath as mp
import numpy as np
import pytest
import scoringrules
import torch
from torch import Tensor
from torchmetrics.functional.regression import continuous_ranked_probability_score

from torch_mlcalc.losses import EnsembleCRPSLoss, ensemble_crps_loss
from torch_mlcalc.testing import check_gradients

DOUBLE = torch.float64

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def double_sum(
    x: Tensor, y: Tensor, fairness: float = 0.0, w: Tensor | None = None
) -> Tensor:
    """Sum over all pairs of members, members last."""
    w = torch.ones_like(x) if w is None else w
    w = w / w.sum(-1, keepdim=True)
    pairs = (x[..., :, None] - x[..., None, :]).abs()
    pairs = w[..., :, None] * w[..., None, :] * pairs
    factor = 1 - fairness + fairness / (1 - w.square().sum(-1)) if fairness else 1.0
    return (w * (x - y[..., None]).abs()).sum(-1) - factor * pairs.sum((-2, -1)) / 2


def derivatives(
    score: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """Return value, gradients, and the Hessian times a fixed vector."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    value = score(*inputs)
    first = torch.autograd.grad(value.sum(), inputs, create_graph=True)
    along = sum((g * torch.linspace(-1, 2, g.numel()).view_as(g)).sum() for g in first)
    if not along.requires_grad:  # the score is linear but for its kinks
        return value, *first, *map(torch.zeros_like, first)
    second = torch.autograd.grad(
        along, inputs, allow_unused=True, materialize_grads=True
    )
    return value, *first, *second


def on_a_grid(shape: tuple[int, ...]) -> Tensor:
    """Numbers of which many are equal."""
    return torch.randint(-2, 3, shape).to(DOUBLE)


@pytest.mark.parametrize("fairness", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("draw", [torch.randn, on_a_grid], ids=["distinct", "equal"])
@pytest.mark.parametrize("members", [2, 3, 6])
def test_value_and_derivatives_are_those_of_the_double_sum(
    fairness: float, draw: Callable[..., Tensor], members: int
) -> None:
    x, y = draw((200, members)).to(DOUBLE), draw((200,)).to(DOUBLE)
    w = torch.rand(200, members, dtype=DOUBLE) + 0.1
    weighted = (
        lambda x, y, w: ensemble_crps_loss(x, y, "none", fairness, member_weight=w),
        lambda x, y, w: double_sum(x, y, fairness, w),
    )
    plain = (
        lambda x, y: ensemble_crps_loss(x, y, "none", fairness),
        lambda x, y: double_sum(x, y, fairness),
    )
    for (ours, truth), inputs in ((plain, (x, y)), (weighted, (x, y, w))):
        for actual, expected in zip(
            derivatives(ours, inputs), derivatives(truth, inputs), strict=True
        ):
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_ensembles_of_equal_members_move_together() -> None:
    x = torch.zeros(3, 5, requires_grad=True)
    y = torch.tensor([-1.0, 0.0, 1.0])
    ensemble_crps_loss(x, y, "sum", fairness=0.95).backward()
    expected = torch.tensor([0.2, 0.0, -0.2])[:, None].expand(3, 5)
    torch.testing.assert_close(x.grad, expected)


def test_value_is_the_integral_over_the_step_function() -> None:
    x = [mp.mpf(v) for v in (-0.7, 0.1, 0.15, 2.0, 5.5)]
    for y in (-3.0, 0.125, 1.0, 9.0):
        points = sorted([*x, mp.mpf(y)])
        expected = mp.fsum(
            (high - low) * (mp.fsum(v <= low for v in x) / len(x) - (y <= low)) ** 2
            for low, high in zip(points[:-1], points[1:], strict=True)
        )
        members = torch.tensor([float(v) for v in x], dtype=DOUBLE)
        actual = ensemble_crps_loss(members, torch.tensor(y, dtype=DOUBLE))
        assert actual.item() == pytest.approx(float(expected), rel=1e-15)


@pytest.mark.parametrize(
    ("estimator", "fairness"), [("nrg", 0.0), ("qd", 0.0), ("fair", 1.0)]
)
def test_numbers_are_those_of_scoringrules(estimator: str, fairness: float) -> None:
    x, y = torch.randn(20, 30, dtype=DOUBLE), torch.randn(20, dtype=DOUBLE)
    expected = scoringrules.crps_ensemble(
        y.numpy(), x.numpy(), estimator=estimator, backend="numpy"
    )
    actual = ensemble_crps_loss(x, y, "none", fairness)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


@pytest.mark.skipif(
    "ens_w" not in signature(scoringrules.crps_ensemble).parameters,
    reason="scoringrules before 0.10, the last for Python 3.10, knows no weights",
)
def test_weighted_numbers_are_those_of_scoringrules() -> None:
    x, y = torch.randn(20, 30, dtype=DOUBLE), torch.randn(20, dtype=DOUBLE)
    w = torch.rand(20, 30, dtype=DOUBLE)
    expected = scoringrules.crps_ensemble(
        y.numpy(), x.numpy(), ens_w=w.numpy(), estimator="nrg", backend="numpy"
    )
    actual = ensemble_crps_loss(x, y, "none", member_weight=w)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


def test_numbers_are_those_of_torchmetrics() -> None:
    x, y = torch.randn(20, 30, dtype=DOUBLE), torch.randn(20, dtype=DOUBLE)
    expected = continuous_ranked_probability_score(x, y)
    torch.testing.assert_close(ensemble_crps_loss(x, y), expected)


def test_almost_fair_is_between_fair_and_not() -> None:
    x, y = torch.randn(8, 5, dtype=DOUBLE), torch.randn(8, dtype=DOUBLE)
    plain, almost, fair = (
        ensemble_crps_loss(x, y, "none", f) for f in (0.0, 0.95, 1.0)
    )
    torch.testing.assert_close(almost, 0.05 * plain + 0.95 * fair)


def test_fair_score_does_not_depend_on_the_size_of_the_ensemble() -> None:
    """Its mean is the CRPS of a standard normal; without fairness it is larger."""
    x, y = torch.randn(200_000, 3, dtype=DOUBLE), torch.zeros(200_000, dtype=DOUBLE)
    exact = (math.sqrt(2) - 1) / math.sqrt(math.pi)
    assert ensemble_crps_loss(x, y, fairness=1.0).item() == pytest.approx(
        exact, abs=4e-3
    )
    spread = 2 / math.sqrt(math.pi)
    assert ensemble_crps_loss(x, y).item() == pytest.approx(
        exact + spread / 6, abs=4e-3
    )


def test_single_member_has_the_absolute_error() -> None:
    x, y = torch.tensor([[3.0]], requires_grad=True), torch.tensor([1.0])
    loss = ensemble_crps_loss(x, y)
    loss.backward()
    assert loss.item() == 2.0
    assert x.grad is not None
    assert x.grad.item() == 1.0


@pytest.mark.parametrize("place", [0.0, 300.0])
def test_small_scores_keep_their_digits(place: float) -> None:
    """One member of 1000 is off by 1: the mean error is 1e-3, the score 1e-6."""
    x, y = torch.full((1000,), place), torch.tensor(place)
    x[7] += 1
    assert ensemble_crps_loss(x, y).item() == pytest.approx(1e-6, rel=2e-7, abs=0)
    assert abs(double_sum(x, y).item() / 1e-6 - 1) > 2e-6


def test_members_of_weight_zero_do_not_count() -> None:
    x, y = torch.randn(4, 6, dtype=DOUBLE), torch.randn(4, dtype=DOUBLE)
    w = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 1.0], dtype=DOUBLE)
    twice = x[:, [0, 2, 2, 3, 5]]
    torch.testing.assert_close(
        ensemble_crps_loss(x, y, "none", member_weight=w),
        ensemble_crps_loss(twice, y, "none"),
    )


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_members_and_their_weights_may_be_on_any_axis(dim: int) -> None:
    x, y = torch.randn(2, 3, 5), torch.randn(2, 3)
    w = torch.rand(2, 3, 5)
    expected = ensemble_crps_loss(x, y, "none", 0.5, member_weight=w)
    moved, weights = x.movedim(-1, dim), w.movedim(-1, dim)
    actual = ensemble_crps_loss(moved, y, "none", 0.5, dim, weights)
    assert torch.equal(actual, expected)
    module = EnsembleCRPSLoss("none", 0.5, dim)
    assert torch.equal(module(moved, y, member_weight=weights), expected)


def test_infinite_members_and_targets_have_an_infinite_score() -> None:
    inf = math.inf
    x = torch.tensor([[0.0, inf, 1.0], [-inf, 0.0, inf], [0.0, 1.0, 2.0]])
    y = torch.tensor([0.5, 0.0, inf])
    x.requires_grad_()
    loss = ensemble_crps_loss(x, y, "none")
    assert loss.tolist() == [inf] * 3
    loss.sum().backward()
    near = x.detach().clamp(-1e6, 1e6).requires_grad_()
    ensemble_crps_loss(near, y.clamp(-1e6, 1e6), "sum").backward()
    torch.testing.assert_close(x.grad, near.grad)


@pytest.mark.parametrize("fairness", [0.5, 1.0])
def test_fair_scores_of_infinite_targets_are_infinite(fairness: float) -> None:
    # Of the fair score it was NaN: its slope in the member farthest off is 0.
    x = torch.tensor([[0.0, 1.0, 4.0]] * 2).requires_grad_()
    y = torch.tensor([math.inf, -math.inf]).requires_grad_()
    loss = ensemble_crps_loss(x, y, "none", fairness)
    assert loss.tolist() == [math.inf] * 2
    slopes = torch.autograd.grad(loss.sum(), (x, y))
    near = y.detach().clamp(-1e6, 1e6).requires_grad_()
    wanted = torch.autograd.grad(
        ensemble_crps_loss(x, near, "sum", fairness), (x, near)
    )
    torch.testing.assert_close(slopes, wanted)
    missing = torch.tensor([math.nan, 0.0])
    assert ensemble_crps_loss(x, missing, "none", fairness).isnan().tolist() == [1, 0]


def test_nan_gives_nan() -> None:
    x, y = torch.randn(3, 4), torch.randn(3)
    x[0, 2], y[1] = math.nan, math.nan
    loss = ensemble_crps_loss(x, y, "none")
    assert loss.isnan().tolist() == [True, True, False]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_gradients_hold_in_every_mode(weighted: bool) -> None:
    x = torch.randn(2, 4, dtype=DOUBLE).requires_grad_()
    y = torch.randn(2, dtype=DOUBLE).requires_grad_()
    w = (torch.rand(2, 4, dtype=DOUBLE) + 0.5).requires_grad_()
    if weighted:
        check_gradients(
            lambda x, y, w: ensemble_crps_loss(x, y, fairness=0.9, member_weight=w),
            (x, y, w),
        )
    else:
        check_gradients(ensemble_crps_loss, (x, y))


def test_bad_settings_are_refused() -> None:
    x, y = torch.randn(3, 4), torch.randn(3)
    for call in (EnsembleCRPSLoss, lambda **s: ensemble_crps_loss(x, y, **s)):
        with pytest.raises(ValueError, match="fairness must be between 0 and 1, got 2"):
            call(fairness=2)
        with pytest.raises(TypeError, match="fairness must be a number, got str"):
            call(fairness="fair")
        with pytest.raises(TypeError, match="dim must be an integer, got float"):
            call(dim=1.0)
        with pytest.raises(TypeError, match="validate must be True, False or None"):
            call(validate=1)
    with pytest.raises(ValueError, match="dim must be an axis of input, which has 2"):
        ensemble_crps_loss(x, y, dim=2)
    with pytest.raises(ValueError, match=r"without its axis 0.*\(4,\), got \(3,\)"):
        ensemble_crps_loss(x, y, dim=0)
    with pytest.raises(ValueError, match="at least one member along dim"):
        ensemble_crps_loss(torch.randn(3, 0), y)
    with pytest.raises(ValueError, match="at least 2 members for fairness=0.95, got 1"):
        ensemble_crps_loss(torch.randn(3, 1), y, fairness=0.95)
    with pytest.raises(ValueError, match="input must have 1 axes at least"):
        ensemble_crps_loss(torch.tensor(1.0), torch.tensor(1.0))


def test_bad_member_weights_are_refused() -> None:
    x, y = torch.randn(3, 4), torch.randn(3)
    bad = torch.tensor([1.0, -1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match=r"member_weight must have the shape \(4,\)"):
        ensemble_crps_loss(x, y, member_weight=torch.ones(3))
    with pytest.raises(TypeError, match="member_weight must be a torch.Tensor"):
        ensemble_crps_loss(x, y, member_weight=[1.0] * 4)
    with pytest.raises(TypeError, match="member_weight must be real"):
        ensemble_crps_loss(x, y, member_weight=bad + 0j)
    with pytest.raises(ValueError, match=r"not negative, got -1.0 at \[1\]"):
        ensemble_crps_loss(x, y, member_weight=bad, validate=True)
    with pytest.raises(ValueError, match="over the members must be positive, got 0.0"):
        EnsembleCRPSLoss(validate=True)(x, y, member_weight=torch.zeros(4))
    assert ensemble_crps_loss(x, y, member_weight=bad).isfinite()


def test_repr_shows_the_settings() -> None:
    assert repr(EnsembleCRPSLoss("sum", 0.95, 1)) == (
        "EnsembleCRPSLoss(reduction='sum', fairness=0.95, dim=1)"
    )
