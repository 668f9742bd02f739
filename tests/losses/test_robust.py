"""Robust losses of one shape each, against mpmath and at the extremes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp
import pytest
import torch
from scores_checks import (
    DTYPES,
    Case,
    check_empty,
    check_gradient_dtypes,
    check_half_is_rounded_once,
    check_inputs_are_left,
    check_module,
    check_reductions,
    check_refusals,
    check_single,
    check_values_are_not_looked_at,
)
from torch import Tensor, nn

from torch_mlcalc.losses import (
    CauchyLoss,
    CharbonnierLoss,
    GemanMcClureLoss,
    GeneralRobustLoss,
    GeneralRobustNLLLoss,
    TukeyLoss,
    WelschLoss,
    cauchy_loss,
    charbonnier_loss,
    geman_mcclure_loss,
    general_robust_loss,
    general_robust_nll_loss,
    tukey_loss,
    welsch_loss,
)
from torch_mlcalc.testing import check_gradients

INF = math.inf
DOUBLE = torch.float64

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

Real = Callable[[mp.mpf], mp.mpf]


class Shape(NamedTuple):
    """A loss with its value and derivatives in exact arithmetic."""

    loss: Callable[..., Tensor]
    module: type
    value: Real
    slope: Real
    curvature: Real
    far: tuple[float, float]
    """Value and slope at infinity."""


def inside(formula: Real, outside: float) -> Real:
    return lambda x: formula(x) if abs(x) <= 1 else mp.mpf(outside)


SHAPES = {
    "charbonnier": Shape(
        charbonnier_loss,
        CharbonnierLoss,
        lambda x: mp.sqrt(x * x + 1) - 1,
        lambda x: x / mp.sqrt(x * x + 1),
        lambda x: (x * x + 1) ** mp.mpf(-1.5),
        (INF, 1),
    ),
    "cauchy": Shape(
        cauchy_loss,
        CauchyLoss,
        lambda x: mp.log(1 + x * x / 2),
        lambda x: 2 * x / (x * x + 2),
        lambda x: 2 * (2 - x * x) / (x * x + 2) ** 2,
        (INF, 0),
    ),
    "geman_mcclure": Shape(
        geman_mcclure_loss,
        GemanMcClureLoss,
        lambda x: 2 * x * x / (x * x + 4),
        lambda x: 16 * x / (x * x + 4) ** 2,
        lambda x: 16 * (4 - 3 * x * x) / (x * x + 4) ** 3,
        (2, 0),
    ),
    "welsch": Shape(
        welsch_loss,
        WelschLoss,
        lambda x: -mp.expm1(-x * x / 2),
        lambda x: x * mp.exp(-x * x / 2),
        lambda x: (1 - x * x) * mp.exp(-x * x / 2),
        (1, 0),
    ),
    "tukey": Shape(
        tukey_loss,
        TukeyLoss,
        inside(lambda x: (1 - (1 - x * x) ** 3) / 6, 1 / 6),
        inside(lambda x: x * (1 - x * x) ** 2, 0),
        inside(lambda x: (1 - x * x) * (1 - 5 * x * x), 0),
        (1 / 6, 0),
    ),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
MAGNITUDES = (
    *(1e-30, 1e-12, 1e-4, 0.01, 0.1, 0.3, 0.353, 0.354, 0.6, 0.9, 0.999, 1.0, 1.001),
    *(1.3, 1.9, 2.0, 2.1, 3.0, 5.0, 9.0, 12.0, 30.0, 41.0, 1e4, 1e10, 1e25, 3e37),
)


@shapes
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_derivatives_are_exact(shape: Shape, dtype: torch.dtype) -> None:
    x = torch.tensor([*MAGNITUDES, *(-m for m in MAGNITUDES), 0.0], dtype=dtype)
    if shape.loss is tukey_loss:  # whose curvature does not jump, but its slope does
        x = x[x.abs() != 1]
    input = x.clone().requires_grad_()
    value = shape.loss(input, torch.zeros_like(x), "none")
    (slope,) = torch.autograd.grad(value.sum(), input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), input)
    eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    found = (value, slope, curvature)
    formulas = (shape.value, shape.slope, shape.curvature)
    for actual, formula in zip(found, formulas, strict=True):
        with mp.workdps(120):
            exact = [float(formula(mp.mpf(v))) for v in x.tolist()]
        expected = torch.tensor(exact, dtype=DOUBLE).to(dtype)
        # Second derivatives cross 0 where they are a difference of numbers below 1; the
        # worst relative error, of the slope of Welsch's, is that of exp(-x^2 / 2).
        atol = 3 * eps if actual is curvature else tiny
        bound = 20 * eps if shape.loss is not welsch_loss else 200 * eps
        torch.testing.assert_close(actual, expected, rtol=bound, atol=atol)


@shapes
def test_infinite_residuals_give_the_limits(shape: Shape) -> None:
    input = torch.tensor([INF, -INF, math.nan], requires_grad=True)
    value = shape.loss(input, torch.zeros(3), "none")
    (slope,) = torch.autograd.grad(value.sum(), input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), input)
    assert value.tolist()[:2] == pytest.approx([shape.far[0]] * 2)
    assert slope.tolist()[:2] == [shape.far[1], -shape.far[1]]
    assert curvature.tolist()[:2] == [0, 0]
    assert value[2].isnan()


@pytest.mark.parametrize("name", ["charbonnier", "welsch", "tukey"])
def test_gradients_hold_in_every_mode_and_in_the_scale(name: str) -> None:
    input = torch.tensor([0.3, -0.7, 1.7, -4.0], dtype=DOUBLE, requires_grad=True)
    target = torch.zeros(4, dtype=DOUBLE, requires_grad=True)
    scale = torch.tensor([1.2, 0.9, 1.3, 1.1], dtype=DOUBLE, requires_grad=True)
    check_gradients(
        lambda x, y, s: SHAPES[name].loss(x, y, "sum", s), (input, target, scale)
    )


def formula(name: str, scale: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    def truth(x: Tensor, y: Tensor) -> Tensor:
        r = ((x - y) / scale).flatten().tolist()
        with mp.workdps(40):
            exact = [float(SHAPES[name].value(mp.mpf(v))) for v in r]
        return torch.tensor(exact, dtype=DOUBLE).view(x.shape)

    return truth


SIZE = ((9, 7), (9, 7), (9, 7))
SCALE = 1.5
CASES = {
    name: Case(
        shape.module(scale=SCALE), shape.loss, {"scale": SCALE}, SIZE,
        formula(name, SCALE),
    )
    for name, shape in SHAPES.items()
}  # fmt: skip
CASES["general"] = Case(
    GeneralRobustLoss(alpha=0.0, scale=SCALE),
    general_robust_loss,
    {"alpha": 0.0, "scale": SCALE},
    SIZE,
    formula("cauchy", SCALE),
)
CASES["general nll"] = Case(
    GeneralRobustNLLLoss(alpha=0.0, scale=torch.tensor(SCALE)),
    general_robust_nll_loss,
    {"alpha": 0.0, "scale": torch.tensor(SCALE)},
    SIZE,
    lambda x, y: (
        formula("cauchy", SCALE)(x, y) + math.log(math.pi * math.sqrt(2) * SCALE)
    ),
)
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reductions_are_those_of_the_formula(case: Case, dtype: torch.dtype) -> None:
    check_reductions(case, dtype)


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precisions_are_rounded_once(case: Case, dtype: torch.dtype) -> None:
    check_half_is_rounded_once(case, dtype)


@cases
def test_what_all_losses_have_in_common(case: Case) -> None:
    check_gradient_dtypes(case)
    check_module(case)
    check_values_are_not_looked_at(case)
    check_inputs_are_left(case)
    check_single(case)
    check_empty(case)
    check_refusals(case)


@shapes
def test_scale_is_a_number_a_buffer_or_a_parameter(shape: Shape) -> None:
    x, y = torch.randn(2, 3, 4)
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = shape.loss(x / scale, y / scale)
    assert shape.module(scale=2.0).state_dict() == {}
    held = shape.module(scale=scale)
    assert list(held.state_dict()) == ["scale"]
    assert list(held.parameters()) == []
    assert held.double().scale.dtype == DOUBLE
    trained = shape.module(scale=nn.Parameter(scale.clone()))
    torch.testing.assert_close(trained(x, y), expected)
    trained(x, y).backward()
    assert trained.scale.grad.shape == (4,)
    name = shape.module.__name__
    assert repr(trained) == f"{name}(reduction='mean', scale=Parameter(4,))"
    assert repr(shape.module(scale=2.0)) == f"{name}(reduction='mean', scale=2.0)"


@shapes
def test_bad_scales_are_refused(shape: Shape) -> None:
    x, y = torch.randn(2, 3, 4)
    for call in (shape.module, lambda **s: shape.loss(x, y, **s)):
        for scale in (0, -1.0, INF, math.nan):
            with pytest.raises(ValueError, match="scale must be positive and finite"):
                call(scale=scale)
        with pytest.raises(TypeError, match="scale must be a number or a tensor"):
            call(scale="1")
        with pytest.raises(TypeError, match="scale must be floating-point, got"):
            call(scale=torch.tensor(1))
    for scale in (torch.ones(3), torch.ones(2, 3, 4), torch.ones(1, 3, 4)):
        with pytest.raises(ValueError, match=r"must broadcast to .*input, \(3, 4\)"):
            shape.loss(x, y, scale=scale)
