"""Energy and variogram score, against all pairs at once and against scoringrules."""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import signature

import numpy as np
import pytest
import scoringrules
import torch
from test_ensemble_crps import derivatives
from torch import Tensor

from torch_mlcalc.losses import (
    EnergyScoreLoss,
    VariogramScoreLoss,
    blocks,
    energy_score_loss,
    ensemble_crps_loss,
    variogram_score_loss,
)
from torch_mlcalc.testing import check_gradients

DOUBLE = torch.float64

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def shares(x: Tensor, w: Tensor | None) -> Tensor:
    w = torch.ones_like(x[..., 0]) if w is None else w
    return w / w.sum(-1, keepdim=True)


def all_pairs(
    x: Tensor,
    y: Tensor,
    beta: float = 1.0,
    fairness: float = 0.0,
    w: Tensor | None = None,
) -> Tensor:
    """Energy score, every pair of members at once."""
    w = shares(x, w)
    apart = ~torch.eye(x.shape[-2], dtype=torch.bool)
    pairs = (x[..., :, None, :] - x[..., None, :, :])[..., apart, :].norm(
        dim=-1
    ) ** beta
    products = (w[..., :, None] * w[..., None, :])[..., apart]
    factor = 1 - fairness + fairness / (1 - w.square().sum(-1))
    error = (w * (x - y[..., None, :]).norm(dim=-1) ** beta).sum(-1)
    return error - factor * (products * pairs).sum(-1) / 2


def all_parts(
    x: Tensor,
    y: Tensor,
    p: float = 0.5,
    fairness: float = 0.0,
    h: Tensor | None = None,
    w: Tensor | None = None,
) -> Tensor:
    """Variogram score, every pair of parts at once."""
    w, d = shares(x, w), x.shape[-1]
    h = torch.ones(d, d) if h is None else h
    apart = ~torch.eye(d, dtype=torch.bool)
    h = h.to(x.dtype)[apart]

    def variogram(z: Tensor) -> Tensor:
        return (z[..., :, None] - z[..., None, :])[..., apart].abs() ** p

    members = variogram(x)
    mean = (w[..., None] * members).sum(-2)
    squares = w.square().sum(-1)[..., None]
    variance = (w[..., None] * (members - mean[..., None, :]) ** 2).sum(-2)
    bias = fairness * squares / (1 - squares) * variance
    return (h * ((variogram(y) - mean) ** 2 - bias)).sum(-1)


Truth = Callable[..., Tensor]
SCORES: dict[str, tuple[Truth, Truth]] = {
    "energy": (
        lambda x, y, w: energy_score_loss(x, y, "none", member_weight=w),
        lambda x, y, w: all_pairs(x, y, w=w),
    ),
    "energy(0.7)": (
        lambda x, y, w: energy_score_loss(x, y, "none", 0.7, 0.9, member_weight=w),
        lambda x, y, w: all_pairs(x, y, 0.7, 0.9, w),
    ),
    "variogram": (
        lambda x, y, w: variogram_score_loss(x, y, "none", member_weight=w),
        lambda x, y, w: all_parts(x, y, w=w),
    ),
    "variogram(2)": (
        lambda x, y, w: variogram_score_loss(x, y, "none", 2, 0.9, member_weight=w),
        lambda x, y, w: all_parts(x, y, 2, 0.9, w=w),
    ),
}
scores = pytest.mark.parametrize(("score", "truth"), SCORES.values(), ids=SCORES)
#: Elements in a block: one block for all, several of them, and an index for each.
block_sizes = pytest.mark.parametrize("size", [1 << 20, 500, 1])


@pytest.fixture
def small(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", size)


def draw() -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(6, 7, 5, dtype=DOUBLE)
    return x, torch.randn(6, 5, dtype=DOUBLE), torch.rand(6, 7, dtype=DOUBLE) + 0.1


@scores
@block_sizes
@pytest.mark.usefixtures("small")
def test_value_and_derivatives_are_those_of_all_pairs(
    score: Truth, truth: Truth
) -> None:
    for actual, expected in zip(
        derivatives(score, draw()), derivatives(truth, draw_again()), strict=True
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def draw_again() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(torch.initial_seed())
    return draw()


@pytest.mark.parametrize("name", ["energy(0.7)", "variogram(2)"])
@pytest.mark.parametrize("size", [1 << 20, 1], ids=["one block", "many blocks"])
@pytest.mark.usefixtures("small")
def test_gradients_hold_in_every_mode(name: str) -> None:
    x, y, w = draw()
    inputs = (x[:1, :3, :2], y[:1, :2], w[:1, :3])
    # Compilation alone takes all blocks into one graph.
    check_gradients(SCORES[name][0], tuple(t.clone().requires_grad_() for t in inputs))


@pytest.mark.parametrize("estimator", ["nrg", "fair"])
def test_numbers_are_those_of_scoringrules(estimator: str) -> None:
    x, y, _ = draw()
    fairness = float(estimator == "fair")
    options = {"estimator": estimator, "backend": "numpy"}
    expected = scoringrules.es_ensemble(y.numpy(), x.numpy(), **options)
    actual = energy_score_loss(x, y, "none", fairness=fairness)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)
    h = torch.rand(5, 5, dtype=DOUBLE)
    weights = {"w": h.numpy()}
    if "w" not in signature(scoringrules.vs_ensemble).parameters:
        # Before 0.10, the last for Python 3.10.
        h, weights = torch.ones(5, 5, dtype=DOUBLE), {}
    expected = scoringrules.vs_ensemble(
        y.numpy(), x.numpy(), p=0.7, **weights, **options
    )
    actual = variogram_score_loss(x, y, "none", 0.7, fairness, pair_weight=h)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-11)


@block_sizes
@pytest.mark.usefixtures("small")
def test_pairs_in_both_orders_may_have_different_weights() -> None:
    x, y, w = draw()
    h = torch.rand(5, 5, dtype=DOUBLE)
    inputs = (x, y, h, w)
    for actual, expected in zip(
        derivatives(
            lambda x, y, h, w: variogram_score_loss(
                x, y, "none", 0.7, 0.5, pair_weight=h, member_weight=w
            ),
            inputs,
        ),
        derivatives(lambda x, y, h, w: all_parts(x, y, 0.7, 0.5, h, w), inputs),
        strict=True,
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


def test_energy_score_of_one_part_is_the_crps() -> None:
    x, y, w = draw()
    expected = ensemble_crps_loss(x[..., 0], y[..., 0], "none", 0.9, member_weight=w)
    actual = energy_score_loss(
        x[..., :1], y[..., :1], "none", fairness=0.9, member_weight=w
    )
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("loss", [energy_score_loss, variogram_score_loss])
def test_members_that_are_equal_have_finite_derivatives(loss: Truth) -> None:
    x = torch.ones(4, 3, dtype=DOUBLE)
    x[3, 1] = 2
    y = torch.ones(3, dtype=DOUBLE)
    for numbers in derivatives(loss, (x, y)):
        assert numbers.isfinite().all()
    gradient = derivatives(loss, (x, y))[1]
    assert torch.equal(gradient[0], gradient[2])
    collapsed = derivatives(loss, (torch.ones_like(x), y))
    assert all((numbers == 0).all() for numbers in collapsed)


def test_second_derivative_of_squares_is_right_at_zero() -> None:
    x, y = torch.zeros(3, 2, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    hessian = torch.autograd.functional.hessian(
        lambda x: variogram_score_loss(x, y, p=2.0), x
    )
    # Of 2 (1 - (x_1 - x_2)^2 / 3)^2 at 0: -8/3 in x_1 of one member.
    assert hessian[0, 0, 0, 0].item() == pytest.approx(-8 / 3)


@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_squares_neither_overflow_nor_vanish(unit: float) -> None:
    x, y, _ = (t.float() for t in draw())
    expected = derivatives(energy_score_loss, (x, y))[:3]
    actual = derivatives(energy_score_loss, (x * unit, y * unit))[:3]
    for ours, truth, power in zip(actual, expected, (1, 0, 0), strict=True):
        torch.testing.assert_close(ours / unit**power, truth, rtol=1e-5, atol=1e-6)


def test_infinite_target_has_an_infinite_energy_score() -> None:
    x, y, _ = draw()
    y[0, 1] = math.inf
    loss = energy_score_loss(x, y, "none")
    assert loss.isinf().tolist() == [True, *[False] * 5]
    x[1, 2, 3] = math.inf
    assert energy_score_loss(x, y, "none").isnan().tolist()[:2] == [False, True]


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_infinite_target_has_an_infinite_variogram_score(p: float) -> None:
    x, y, _ = draw()
    y[0, 1], y[1, 0] = math.inf, math.nan
    x.requires_grad_()
    loss = variogram_score_loss(x, y, "none", p)
    assert loss[0] == math.inf
    assert loss.isnan().tolist() == [False, True, *[False] * (len(y) - 2)]
    (slopes,) = torch.autograd.grad(loss[0], x)
    # The score falls as members move away from the part that is infinite.
    assert torch.equal(slopes[0, :, 0], (x[0, :, 1] - x[0, :, 0]).sign() * math.inf)


@pytest.mark.parametrize(
    "module", [EnergyScoreLoss("none"), VariogramScoreLoss("none")], ids=repr
)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_members_may_be_on_any_axis(
    module: EnergyScoreLoss | VariogramScoreLoss, dim: int
) -> None:
    x, y, w = draw()
    expected = module(x, y, member_weight=w)
    moved = type(module)("none", dim=dim)
    # The weights have no axis of parts, which is the last but for the members.
    weights = w.movedim(-1, 0) if dim == 0 else w
    actual = moved(x.movedim(-2, dim), y, member_weight=weights)
    torch.testing.assert_close(actual, expected)


def test_memory_is_that_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs would need 400 MB; the largest tensor that is saved is the input."""
    x = torch.randn(500, 200, requires_grad=True)
    largest = 0

    def saved(tensor: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(saved, lambda t: t):
        loss = energy_score_loss(x, torch.zeros(200))
    loss.backward()
    assert largest <= x.numel()
    monkeypatch.setattr(blocks, "BLOCK", 1 << 40)
    with torch.autograd.graph.saved_tensors_hooks(saved, lambda t: t):
        energy_score_loss(x, torch.zeros(200))
    assert largest >= 500 * x.numel()


def test_pair_weight_is_a_buffer() -> None:
    module = VariogramScoreLoss(pair_weight=torch.eye(3))
    assert module.state_dict().keys() == {"pair_weight"}
    assert module.to(DOUBLE).pair_weight.dtype == DOUBLE
    assert VariogramScoreLoss().state_dict() == {}


def test_bad_settings_are_refused() -> None:
    x, y = torch.randn(4, 3), torch.randn(3)
    for beta in (0, 2, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"less than 2, got {beta}"):
            energy_score_loss(x, y, beta=beta)
        with pytest.raises(ValueError, match="beta must be more than 0"):
            EnergyScoreLoss(beta=beta)
    for p in (0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="p must be positive and finite"):
            variogram_score_loss(x, y, p=p)
        with pytest.raises(ValueError, match="p must be positive and finite"):
            VariogramScoreLoss(p=p)
    with pytest.raises(TypeError, match="beta must be a number, got str"):
        EnergyScoreLoss(beta="1")
    with pytest.raises(TypeError, match="p must be a number, got str"):
        VariogramScoreLoss(p="1")
    for module in (EnergyScoreLoss, VariogramScoreLoss):
        with pytest.raises(ValueError, match="fairness must be between 0 and 1"):
            module(fairness=-0.1)
        with pytest.raises(TypeError, match="dim must be an integer, got bool"):
            module(dim=True)
        with pytest.raises(TypeError, match="validate must be True, False or None"):
            module(validate="yes")
        with pytest.raises(ValueError, match="at least 2 members for fairness=1.0"):
            module(fairness=1.0)(x[:1], y)
        with pytest.raises(ValueError, match="at least one part of each vector"):
            module()(x[:, :0], y[:0])
        with pytest.raises(ValueError, match="input must have 2 axes at least"):
            module()(x[0], y[0])
        with pytest.raises(ValueError, match=r"not negative, got -1.0 at \[0\]"):
            module(validate=True)(x, y, member_weight=-torch.ones(4))


def test_bad_pair_weights_are_refused() -> None:
    x, y = torch.randn(4, 3), torch.randn(3)
    with pytest.raises(ValueError, match=r"of the shape \(3, 3\), got the shape"):
        variogram_score_loss(x, y, pair_weight=torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"must be square, got the shape \(2, 3\)"):
        VariogramScoreLoss(pair_weight=torch.ones(2, 3))
    with pytest.raises(TypeError, match="pair_weight must be a torch.Tensor, got list"):
        variogram_score_loss(x, y, pair_weight=[[1.0]])


def test_repr_shows_the_settings() -> None:
    assert repr(EnergyScoreLoss("sum", 1.5, 1.0)) == (
        "EnergyScoreLoss(reduction='sum', beta=1.5, fairness=1.0, dim=-2)"
    )
    assert repr(VariogramScoreLoss(pair_weight=torch.eye(2))) == (
        "VariogramScoreLoss(reduction='mean', p=0.5, fairness=0.0, dim=-2, "
        "pair_weight=(2, 2))"
    )
