"""Losses of a residual, against mpmath, against torch, and at the extremes."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import NamedTuple

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_mlcalc.losses import (
    HuberLoss,
    L1Loss,
    LogCoshLoss,
    MSELoss,
    QuantileLoss,
    SmoothL1Loss,
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    quantile_loss,
    smooth_l1_loss,
)
from torch_mlcalc.losses.reduction import Loss
from torch_mlcalc.testing import check_gradients

INF = math.inf
REDUCTIONS = ("none", "mean", "sum")
DTYPES = (torch.float32, torch.float64)

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

Real = Callable[[mp.mpf], mp.mpf]


class Case(NamedTuple):
    """A loss with settings, and its value and derivatives in exact arithmetic."""

    module: Loss
    function: Callable[..., Tensor]
    settings: dict[str, float]
    value: Real
    slope: Real
    curvature: Real
    kinks: tuple[float, ...] = ()
    # Value, slope and curvature at r = +inf and at r = -inf.
    limits: tuple[tuple[float, float, float], tuple[float, float, float]] = (
        (INF, 1, 0),
        (INF, -1, 0),
    )

    def __call__(
        self,
        input: Tensor,
        target: Tensor,
        reduction: str = "mean",
        weight: Tensor | None = None,
    ) -> Tensor:
        return self.function(input, target, reduction, weight=weight, **self.settings)


def sign(r: mp.mpf) -> mp.mpf:
    return mp.mpf((r > 0) - (r < 0))


def huber(delta: float) -> Case:
    d = mp.mpf(delta)
    return Case(
        HuberLoss(delta=delta),
        huber_loss,
        {"delta": delta},
        lambda r: r * r / 2 if abs(r) <= d else d * (abs(r) - d / 2),
        lambda r: max(-d, min(r, d)),
        lambda r: mp.mpf(abs(r) < d),
        (-delta, delta),
        ((INF, delta, 0), (INF, -delta, 0)),
    )


def smooth_l1(beta: float) -> Case:
    b = mp.mpf(beta)
    return Case(
        SmoothL1Loss(beta=beta),
        smooth_l1_loss,
        {"beta": beta},
        lambda r: r * r / (2 * b) if abs(r) < b else abs(r) - b / 2,
        lambda r: r / b if abs(r) < b else sign(r),
        lambda r: 1 / b if abs(r) < b else mp.mpf(0),
        (-beta, beta),
    )


def quantile(level: float) -> Case:
    q = mp.mpf(level)
    return Case(
        QuantileLoss(quantile=level),
        quantile_loss,
        {"quantile": level},
        lambda r: (1 - q) * r if r > 0 else -q * r,
        lambda r: 1 - q if r > 0 else (-q if r < 0 else mp.mpf(0)),
        lambda r: mp.mpf(0),
        (0.0,),
        ((INF, 1 - level, 0), (INF, -level, 0)),
    )


# Settings that are not powers of two are numbers of float32, so that both dtypes and
# mpmath compute with the same.
CASES = {
    "mse": Case(
        MSELoss(),
        mse_loss,
        {},
        lambda r: r * r,
        lambda r: 2 * r,
        lambda r: mp.mpf(2),
        limits=((INF, INF, 2), (INF, -INF, 2)),
    ),
    "l1": Case(L1Loss(), l1_loss, {}, abs, sign, lambda r: mp.mpf(0), (0.0,)),
    "log_cosh": Case(
        LogCoshLoss(),
        log_cosh_loss,
        {},
        lambda r: mp.log(mp.cosh(r)),
        mp.tanh,
        lambda r: mp.sech(r) ** 2,
    ),
    "huber": huber(1.0),
    "huber(0.1)": huber(0.10000000149011612),
    "huber(1.35)": huber(1.350000023841858),
    "huber(1e8)": huber(1e8),
    "huber(1e25)": huber(9.999999562023526e24),
    "huber(1e-30)": huber(1.0000000031710769e-30),
    "smooth_l1": smooth_l1(1.0),
    "smooth_l1(0.1)": smooth_l1(0.10000000149011612),
    "smooth_l1(1.35)": smooth_l1(1.350000023841858),
    "smooth_l1(1e25)": smooth_l1(9.999999562023526e24),
    "smooth_l1(1e-30)": smooth_l1(1.0000000031710769e-30),
    "smooth_l1(0)": Case(
        SmoothL1Loss(beta=0),
        smooth_l1_loss,
        {"beta": 0},
        abs,
        sign,
        lambda r: mp.mpf(0),
        (0.0,),
    ),
    "quantile": quantile(0.5),
    "quantile(0.1)": quantile(0.10000000149011612),
    "quantile(1-1e-6)": quantile(0.9999989867210388),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
reductions = pytest.mark.parametrize("reduction", REDUCTIONS)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)

MAGNITUDES = (
    *(1e-300, 1e-155, 1e-150, 1e-45, 1e-38, 1e-31, 1e-30, 1e-22, 1e-20, 1e-10, 1e-4),
    *(0.01, 0.05, 0.2, 0.3, 0.7, 0.9, 1.0, 1.1, 1.3, 1.5, 2.0, 4.0, 8.0, 9.5, 10.0),
    *(20.0, 40.0, 43.0, 50.0, 80.0, 90.0, 300.0, 360.0, 700.0, 720.0, 1e4, 1e10),
    *(1e18, 1e19, 2e19, 5e19, 1e24, 1e26, 1e30, 3e38, 1e150, 1e155, 1e300),
)


def residuals(dtype: torch.dtype) -> Tensor:
    """Return residuals of either sign: normal numbers of the dtype, and 0."""
    r = torch.tensor(MAGNITUDES, dtype=torch.float64)
    near_one = torch.nextafter(
        torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype)
    )
    r = torch.cat([r, near_one[None], torch.rand(40, dtype=torch.float64) * 4]).to(
        dtype
    )
    r = r[r.isfinite() & (r >= torch.finfo(dtype).tiny)]
    return torch.cat([r, -r, torch.zeros(1, dtype=dtype)])


def exact(formula: Real, r: Tensor) -> list[float]:
    """Evaluate a formula to 700 digits: log(cosh) of 1e-300 cancels 600 of them."""
    with mp.workdps(700):
        return [float(formula(mp.mpf(x))) for x in r.tolist()]


def derivatives(case: Case, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    input = r.clone().requires_grad_()
    value = case(input, torch.zeros_like(input), "none")
    (slope,) = torch.autograd.grad(value.sum(), input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), input)
    return value.detach(), slope.detach(), curvature.clone()


def forward_derivatives(case: Case, r: Tensor) -> tuple[Tensor, Tensor]:
    def value(input: Tensor) -> Tensor:
        return case(input, torch.zeros_like(input), "none")

    def slope(input: Tensor) -> Tensor:
        return torch.func.grad(lambda x: value(x).sum())(input)

    one = torch.ones_like(r)
    return torch.func.jvp(value, (r,), (one,))[1], torch.func.jvp(slope, (r,), (one,))[
        1
    ]


def assert_exact(actual: Tensor, expected: list[float], eps: float = 3) -> None:
    """Compare to a few eps, and below the smallest normal number absolutely.

    The worst measured is 2.3 eps, the curvature of log_cosh beside |r| = 1.
    """
    finfo = torch.finfo(actual.dtype)
    torch.testing.assert_close(
        actual,
        torch.tensor(expected, dtype=torch.float64).to(actual.dtype),
        rtol=eps * finfo.eps,
        atol=finfo.tiny,
    )


def smooth(case: Case, r: Tensor) -> Tensor:
    """Leave out the kinks."""
    return r[~torch.isin(r, torch.tensor(case.kinks, dtype=r.dtype))]


def finite_slope(case: Case, r: Tensor) -> Tensor:
    """Leave out infinite slopes: forward mode multiplies them by the 0 of target."""
    return r[derivatives(case, r)[1].isfinite()]


@cases
@dtypes
def test_value_and_derivatives_are_exact(case: Case, dtype: torch.dtype) -> None:
    r = smooth(case, residuals(dtype))
    value, slope, curvature = derivatives(case, r)
    assert_exact(value, exact(case.value, r))
    assert_exact(slope, exact(case.slope, r))
    assert_exact(curvature, exact(case.curvature, r))


@cases
@dtypes
def test_forward_mode_is_exact(case: Case, dtype: torch.dtype) -> None:
    r = finite_slope(case, smooth(case, residuals(dtype)))
    slope, curvature = forward_derivatives(case, r)
    assert_exact(slope, exact(case.slope, r))
    assert_exact(curvature, exact(case.curvature, r))


@cases
def test_value_and_slope_are_exact_at_the_kinks(case: Case) -> None:
    r = torch.tensor(case.kinks, dtype=torch.float64)
    value, slope, curvature = derivatives(case, r)
    assert_exact(value, exact(case.value, r))
    assert_exact(slope, exact(case.slope, r))
    sides = [exact(case.curvature, r * side) for side in (1 - 1e-9, 1 + 1e-9)]
    for curved, inside, outside in zip(curvature.tolist(), *sides, strict=True):
        assert curved in (pytest.approx(inside, rel=1e-15), outside)


@cases
@dtypes
def test_derivatives_in_target_have_the_other_sign(
    case: Case, dtype: torch.dtype
) -> None:
    r = residuals(dtype)
    target = (-r).requires_grad_()
    value = case(torch.zeros_like(r), target, "none")
    (slope,) = torch.autograd.grad(value.sum(), target, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), target)
    expected = derivatives(case, r)
    assert torch.equal(value, expected[0])
    assert torch.equal(slope, -expected[1])
    assert torch.equal(curvature, expected[2])


@cases
@dtypes
def test_infinite_residual_gives_the_limits(case: Case, dtype: torch.dtype) -> None:
    r = torch.tensor([INF, -INF], dtype=dtype)
    limits = torch.tensor(case.limits, dtype=dtype).T
    for actual, expected in zip(derivatives(case, r), limits, strict=True):
        torch.testing.assert_close(actual, expected)
    if finite_slope(case, r).numel():
        for actual, limit in zip(forward_derivatives(case, r), limits[1:], strict=True):
            torch.testing.assert_close(actual, limit)


@cases
def test_infinite_element_leaves_the_gradients_of_the_others(case: Case) -> None:
    r = torch.tensor([0.5, INF, 2.0, 1e30, -INF], requires_grad=True)
    case(r, torch.zeros(5), "sum").backward()
    alone = derivatives(case, r.detach()[[0, 2, 3]])[1]
    assert r.grad is not None
    assert torch.equal(r.grad[[0, 2, 3]], alone)


@cases
@reductions
def test_nan_and_equal_infinities_give_nan(case: Case, reduction: str) -> None:
    for input, target in ((math.nan, 0.0), (INF, INF)):
        loss = case(torch.tensor([input]), torch.tensor([target]), reduction)
        assert loss.isnan().all()


@cases
@dtypes
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_reductions_are_those_of_the_exact_elements(
    case: Case, dtype: torch.dtype, weighted: bool
) -> None:
    input, target = torch.randn(2, 5, 7, dtype=dtype) * 2
    weight = torch.rand(5, 7, dtype=dtype) if weighted else None
    exact_values = exact(case.value, (input - target).flatten())
    elements = torch.tensor(exact_values, dtype=torch.float64).view(5, 7)
    weights = torch.ones(5, 7) if weight is None else weight
    elements = elements * weights.double()
    expected = {
        "none": elements,
        "sum": elements.sum(),
        "mean": elements.sum() / weights.double().sum(),
    }
    for reduction in REDUCTIONS:
        actual = case(input, target, reduction, weight=weight)
        assert actual.dtype == dtype
        torch.testing.assert_close(
            actual,
            expected[reduction].to(dtype),
            rtol=10 * torch.finfo(dtype).eps,
            atol=0,
        )


# One of each function, and one for each branch that is not torch's kernel.
GRADIENTS = ("mse", "l1", "log_cosh", "huber(1.35)", "smooth_l1(0.1)", "quantile(0.1)")
EXTREMES = ("huber(1e25)", "huber(1e-30)", "smooth_l1(1e25)", "smooth_l1(1e-30)")


def points(case: Case) -> tuple[Tensor, Tensor]:
    """Draw a residual in each branch of the loss, away from its kinks."""
    kink = max((abs(kink) for kink in case.kinks), default=0)
    scale = kink if 0.1 < kink < 10 else 1
    r = torch.tensor([[-1.7, -0.6, 0.3], [0.8, 1.4, 3.0]], dtype=torch.float64) * scale
    target = torch.randn(2, 3, dtype=torch.float64) * scale
    return (target + r).requires_grad_(), target.requires_grad_()


@pytest.mark.parametrize("name", GRADIENTS)
@reductions
def test_gradients_hold_in_every_mode(name: str, reduction: str) -> None:
    case = CASES[name]
    check_gradients(lambda x, y: case(x, y, reduction), points(case))


@pytest.mark.parametrize("name", GRADIENTS + EXTREMES)
def test_weighted_gradients_hold_in_every_mode(name: str) -> None:
    case = CASES[name]
    input, target = points(case)
    weight = (torch.rand_like(input) + 0.5).requires_grad_()
    check_gradients(lambda x, y, w: case(x, y, "mean", w), (input, target, weight))


@cases
@reductions
def test_values_are_never_looked_at(case: Case, reduction: str) -> None:
    """Tensors without data pass, so nothing waits for a device."""
    input, target, weight = (torch.ones(4, 3, device="meta") for _ in range(3))
    loss = case(input.requires_grad_(), target, reduction, weight=weight)
    assert loss.shape == ((4, 3) if reduction == "none" else ())
    loss.sum().backward()


@cases
def test_no_batch_and_empty_inputs_work(case: Case) -> None:
    scalar = torch.tensor(0.7)
    assert case(scalar, -scalar).shape == ()
    empty = torch.empty(0, 3)
    assert case(empty, empty, "none").shape == (0, 3)
    assert case(empty, empty, "sum").item() == 0
    assert case(empty, empty, "mean").isnan()


@cases
def test_inputs_are_left_as_they_were(case: Case) -> None:
    tensors = [torch.randn(3, requires_grad=True) for _ in range(3)]
    before = [(tensor.detach().clone(), tensor._version) for tensor in tensors]
    input, target, weight = tensors
    case(input, target, "sum", weight=weight)
    for tensor, (data, version) in zip(tensors, before, strict=True):
        assert torch.equal(tensor, data)
        assert tensor._version == version
        assert tensor.grad is None


# Against torch's own.

TWINS: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "mse": (F.mse_loss, {}),
    "l1": (F.l1_loss, {}),
    "huber": (F.huber_loss, {}),
    "huber(0.5)": (F.huber_loss, {"delta": 0.5}),
    "smooth_l1": (F.smooth_l1_loss, {}),
    "smooth_l1(0.1)": (F.smooth_l1_loss, {"beta": 0.1}),
    "smooth_l1(3)": (F.smooth_l1_loss, {"beta": 3}),
    "smooth_l1(0)": (F.smooth_l1_loss, {"beta": 0}),
}
OURS = {
    F.mse_loss: mse_loss,
    F.l1_loss: l1_loss,
    F.huber_loss: huber_loss,
    F.smooth_l1_loss: smooth_l1_loss,
}
twins = pytest.mark.parametrize("name", TWINS)


def value_and_gradients(
    loss: Callable[..., Tensor], input: Tensor, target: Tensor, **settings: object
) -> tuple[Tensor, Tensor, Tensor]:
    input, target = (x.detach().clone().requires_grad_() for x in (input, target))
    value = loss(input, target, **settings)
    return value, *torch.autograd.grad(value.sum(), (input, target))


@twins
@reductions
@dtypes
def test_numbers_are_those_of_torch(
    name: str, reduction: str, dtype: torch.dtype
) -> None:
    torch_loss, settings = TWINS[name]
    input, target = torch.randn(2, 1000, 7, dtype=dtype) * 3
    both = [
        value_and_gradients(loss, input, target, reduction=reduction, **settings)
        for loss in (torch_loss, OURS[torch_loss])
    ]
    for expected, actual in zip(*both, strict=True):
        assert torch.equal(actual, expected)


@reductions
@dtypes
@pytest.mark.parametrize("delta", [0.1, 1.35, 3.0])
def test_huber_of_any_delta_is_that_of_torch_to_the_last_bits(
    delta: float, reduction: str, dtype: torch.dtype
) -> None:
    input, target = torch.randn(2, 1000, 7, dtype=dtype) * 3
    both = [
        value_and_gradients(loss, input, target, reduction=reduction, delta=delta)
        for loss in (F.huber_loss, huber_loss)
    ]
    for expected, actual in zip(*both, strict=True):
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(actual, expected, rtol=2 * eps, atol=0)


@pytest.mark.parametrize("name", ["mse", "l1"])
@reductions
def test_weighted_numbers_are_those_of_torch(name: str, reduction: str) -> None:
    torch_loss, _ = TWINS[name]
    input, target = torch.randn(2, 1000, 7)
    settings = {"reduction": reduction, "weight": torch.rand(1000, 7)}
    expected = value_and_gradients(torch_loss, input, target, **settings)
    actual = value_and_gradients(OURS[torch_loss], input, target, **settings)
    assert torch.equal(actual[0], expected[0])
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


@twins
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_half_precisions_are_no_less_accurate_than_torch(
    name: str, dtype: torch.dtype, reduction: str
) -> None:
    torch_loss, settings = TWINS[name]
    settings = {**settings, "reduction": reduction}
    input, target = (torch.randn(2, 1000) * 3).to(dtype)
    exact = value_and_gradients(torch_loss, input.double(), target.double(), **settings)
    torchs = value_and_gradients(torch_loss, input, target, **settings)
    ours = value_and_gradients(OURS[torch_loss], input, target, **settings)
    for truth, theirs, mine in zip(exact, torchs, ours, strict=True):
        assert mine.dtype == dtype
        error = (mine - truth).abs()
        assert error.max() <= (theirs - truth).abs().max()
        assert (error <= 0.51 * torch.finfo(dtype).eps * truth.abs() + 3e-8).all()


@pytest.mark.parametrize("name", ["log_cosh", "quantile(0.1)", "huber(1.35)"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precisions_are_rounded_once(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    input, target = (torch.randn(2, 1000) * 3).to(dtype)
    exact = value_and_gradients(case, input.double(), target.double(), reduction="none")
    actual = value_and_gradients(case, input, target, reduction="none")
    for truth, mine in zip(exact, actual, strict=True):
        assert mine.dtype == dtype
        error = (mine - truth).abs()
        assert (error <= 0.51 * torch.finfo(dtype).eps * truth.abs() + 3e-8).all()


def test_half_precision_mean_does_not_overflow() -> None:
    input = torch.full((70_000,), 3.0, dtype=torch.float16)
    weight = torch.ones_like(input)
    assert mse_loss(input, -input, weight=weight).item() == 36.0
    input[0] = 300.0
    assert mse_loss(input, torch.zeros_like(input)).item() == pytest.approx(10.29, 1e-3)


@cases
def test_autocast_returns_float32_as_torch_does(case: Case) -> None:
    half = torch.randn(4).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.huber_loss(half, half + 1).dtype == torch.float32
        loss = case(half, half + 1)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, case(half.float(), (half + 1).float()))


@cases
def test_mixed_dtypes_promote_and_gradients_keep_theirs(case: Case) -> None:
    input = torch.randn(4, requires_grad=True)
    target = torch.tensor([0, 1, -2, 3])
    assert case(input, target).dtype == torch.float32
    loss = case(input, target.double())
    assert loss.dtype == torch.float64
    loss.backward()
    assert input.grad is not None
    assert input.grad.dtype == torch.float32


def test_complex_absolute_error_is_the_modulus() -> None:
    input = torch.tensor([3 + 4j, 0, 3e30 + 4e30j], dtype=torch.complex64)
    target = torch.zeros(3)
    assert l1_loss(input, target, "none").tolist() == [5.0, 0.0, pytest.approx(5e30)]
    both = [
        value_and_gradients(loss, input, input * 1j) for loss in (F.l1_loss, l1_loss)
    ]
    for expected, actual in zip(*both, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)
    numbers = torch.randn(2, 4, dtype=torch.complex128).requires_grad_()
    check_gradients(lambda z: l1_loss(z[0], z[1]), numbers)


@cases
def test_complex_is_refused_by_all_but_l1(case: Case) -> None:
    numbers = torch.ones(2, dtype=torch.complex64)
    if case.function is not l1_loss:
        with pytest.raises(TypeError, match="must be real"):
            case(numbers, numbers)


# Where torch is wrong, or different, and this package is not.


def test_torch_broadcasts_where_this_refuses() -> None:
    input, target = torch.randn(8, 1), torch.randn(8)
    with pytest.warns(UserWarning, match="broadcasting"):
        assert F.mse_loss(input, target, reduction="none").shape == (8, 8)
    for case in CASES.values():
        with pytest.raises(ValueError, match="losses do not broadcast"):
            case(input, target)


def test_torch_weighted_huber_mean_divides_by_the_count() -> None:
    input, target, weight = torch.randn(3, 10).abs()
    elements = F.huber_loss(input, target, reduction="none") * weight
    theirs = F.huber_loss(input, target, weight=weight)
    torch.testing.assert_close(theirs, elements.sum() / 10)
    ours = huber_loss(input, target, weight=weight)
    torch.testing.assert_close(ours, elements.sum() / weight.sum())


def hessian_vector_product(loss: Callable[..., Tensor], input: Tensor) -> Tensor:
    gradient = torch.func.grad(lambda x: loss(x, torch.zeros_like(x)))
    return torch.func.jvp(gradient, (input,), (torch.ones_like(input),))[1]


def test_torch_mean_squared_error_has_no_forward_over_reverse() -> None:
    input = torch.randn(4)
    with pytest.raises(RuntimeError, match="ZeroTensors are immutable"):
        hessian_vector_product(F.mse_loss, input)
    assert torch.equal(hessian_vector_product(mse_loss, input), torch.full((4,), 0.5))


def test_torch_huber_has_no_forward_over_reverse() -> None:
    input = torch.tensor([0.5, 2.0])
    with pytest.raises(NotImplementedError, match="huber_loss_backward"):
        hessian_vector_product(F.huber_loss, input)
    assert hessian_vector_product(huber_loss, input).tolist() == [0.5, 0.0]


def test_torch_huber_does_not_promote() -> None:
    input = torch.tensor([1.5], requires_grad=True)
    target = torch.tensor([1 / 3], dtype=torch.float64)
    loss = F.huber_loss(input, target)
    assert loss.dtype == torch.float32
    with pytest.raises(RuntimeError, match="Found dtype Double but expected Float"):
        loss.backward()
    assert huber_loss(input, target).dtype == torch.float64


SMOOTH_L1_FAULTS = {
    # dtype, beta, residual: torch's loss
    "overflow of the square": (torch.float32, 1e30, 5e19, INF),
    "underflow of the square": (torch.float32, 1e-20, 1e-25, 0.0),
    "overflow in half": (torch.float16, 500.0, 400.0, INF),
}


@pytest.mark.parametrize("fault", SMOOTH_L1_FAULTS)
def test_torch_smooth_l1_is_wrong_for_extreme_beta(fault: str) -> None:
    dtype, beta, residual, theirs = SMOOTH_L1_FAULTS[fault]
    input, target = torch.tensor([residual], dtype=dtype), torch.zeros(1, dtype=dtype)
    assert F.smooth_l1_loss(input, target, beta=beta).item() == theirs
    ours = smooth_l1_loss(input, target, beta=beta).item()
    assert ours == pytest.approx(residual**2 / (2 * beta), rel=1e-6)


def test_torch_smooth_l1_has_a_slope_at_zero_for_tiny_beta() -> None:
    slopes = []
    for loss in (F.smooth_l1_loss, smooth_l1_loss):
        input = torch.zeros(64, requires_grad=True)
        loss(input, torch.zeros(64), beta=1e-50, reduction="sum").backward()
        assert input.grad is not None
        slopes.append(input.grad[0].item())
    assert slopes == [-1.0, 0.0]


def test_textbook_log_cosh_overflows_and_cancels() -> None:
    r = torch.tensor([100.0, 1e-4])
    assert r.cosh().log().tolist() == [INF, 0.0]
    assert log_cosh_loss(r, torch.zeros(2), "none").tolist() == pytest.approx(
        [99.3068528, 5e-9]
    )
    # The tails of sech^2 as autograd takes them from tanh are 0.
    input = torch.tensor([10.0], requires_grad=True)
    (tail,) = torch.autograd.grad(input.tanh(), input)
    assert tail.item() == 0.0
    curvature = derivatives(CASES["log_cosh"], torch.tensor([10.0]))[2]
    assert curvature.item() == pytest.approx(8.2446145e-9)


# What the losses are for.


def test_huber_of_infinite_delta_is_half_the_squared_error() -> None:
    input, target = torch.randn(2, 100) * 10
    actual = value_and_gradients(huber_loss, input, target, delta=INF)
    half = value_and_gradients(lambda x, y: mse_loss(x, y) / 2, input, target)
    torch.testing.assert_close(actual, half)
    assert huber_loss(torch.tensor(INF), torch.tensor(0.0), delta=INF).item() == INF


def test_huber_is_beta_times_smooth_l1() -> None:
    input, target = torch.randn(2, 100, dtype=torch.float64) * 10
    for beta in (1e-200, 0.3, 7.0, 1e200):
        torch.testing.assert_close(
            huber_loss(input, target, "none", beta),
            beta * smooth_l1_loss(input, target, "none", beta),
        )


@pytest.mark.parametrize("level", [0.05, 0.5, 0.9])
def test_quantile_loss_is_smallest_at_the_sample_quantile(level: float) -> None:
    sample = torch.randn(101, dtype=torch.float64)
    candidates = sample[:, None].expand(101, 101)
    losses = quantile_loss(candidates, sample.expand(101, 101), "none", level).mean(1)
    best = sample[losses.argmin()]
    expected = torch.quantile(sample, level, interpolation="higher")
    assert best == expected


def test_quantile_loss_punishes_the_rarer_side_more() -> None:
    low, high = torch.tensor([1.0]), torch.tensor([3.0])
    assert quantile_loss(low, high, quantile=0.9).item() == pytest.approx(1.8)
    assert quantile_loss(high, low, quantile=0.9).item() == pytest.approx(0.2)


# Modules and settings.


@cases
def test_module_is_the_function_with_its_settings(case: Case) -> None:
    input, target, weight = torch.randn(3, 4, 5).abs()
    assert torch.equal(case.module(input, target), case(input, target))
    assert torch.equal(
        case.module(input, target, weight), case(input, target, weight=weight)
    )
    for reduction in REDUCTIONS:
        module = type(case.module)(reduction, **case.settings)
        expected = case(input, target, reduction, weight=weight)
        assert torch.equal(module(input, target, weight), expected)


@cases
def test_module_is_copied_pickled_and_moved(case: Case) -> None:
    input, target = torch.randn(2, 4, dtype=torch.float64)
    expected = case(input, target)
    for module in (
        copy.deepcopy(case.module),
        pickle.loads(pickle.dumps(case.module)),
        case.module.to(torch.float64),
        nn.Sequential(case.module)[0],
    ):
        assert torch.equal(module(input, target), expected)
    assert case.module.state_dict() == {}
    assert list(case.module.parameters()) == []


def test_repr_shows_the_settings() -> None:
    assert repr(MSELoss()) == "MSELoss(reduction='mean')"
    assert repr(L1Loss("sum")) == "L1Loss(reduction='sum')"
    assert repr(LogCoshLoss("none")) == "LogCoshLoss(reduction='none')"
    assert repr(HuberLoss(delta=2.5)) == "HuberLoss(reduction='mean', delta=2.5)"
    assert repr(SmoothL1Loss("sum", 0)) == "SmoothL1Loss(reduction='sum', beta=0)"
    assert repr(QuantileLoss(quantile=0.9)) == (
        "QuantileLoss(reduction='mean', quantile=0.9)"
    )


def test_settings_of_a_module_can_be_changed() -> None:
    module = HuberLoss()
    module.delta, module.reduction = 2.0, "sum"
    input, target = torch.tensor([5.0, 1.0]), torch.zeros(2)
    assert module(input, target).item() == 8.5
    module.delta = -1.0
    with pytest.raises(ValueError, match="delta must be positive, got -1.0"):
        module(input, target)


SETTINGS = {
    "delta": (huber_loss, HuberLoss, "delta must be positive", (0, -1.0, math.nan)),
    "beta": (
        smooth_l1_loss,
        SmoothL1Loss,
        "beta must be finite and not negative",
        (-1e-9, INF, math.nan),
    ),
    "quantile": (
        quantile_loss,
        QuantileLoss,
        "quantile must be strictly between 0 and 1",
        (0, 1, -0.1, 90, math.nan),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_out_of_range_are_refused(name: str) -> None:
    function, module, message, values = SETTINGS[name]
    for value in values:
        for call in (module, lambda **s: function(torch.ones(1), torch.ones(1), **s)):  # noqa: B023
            with pytest.raises(ValueError, match=f"{message}, got {value}"):
                call(**{name: value})


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_are_no_numbers_are_refused(name: str) -> None:
    function, module, _, _ = SETTINGS[name]
    for value, got in ((torch.tensor(0.5), "Tensor"), ("0.5", "str"), (None, "None")):
        with pytest.raises(TypeError, match=f"{name} must be a number, got {got}"):
            module(**{name: value})
        with pytest.raises(TypeError, match=f"{name} must be a number, got {got}"):
            function(torch.ones(1), torch.ones(1), **{name: value})


def test_beta_beyond_the_dtype_is_refused() -> None:
    input = torch.ones(1)
    message = r"beta must be at most 3\.4e\+38, the largest torch\.float32, got 1e\+50"
    with pytest.raises(ValueError, match=message):
        smooth_l1_loss(input, input, beta=1e50)
    smooth_l1_loss(input.double(), input, beta=1e50)


def test_settings_may_change_between_compiled_calls() -> None:
    compiled = torch.compile(huber_loss, fullgraph=True, backend="aot_eager")
    input, target = torch.randn(2, 6)
    for delta in (1.0, 0.5, 2.5, 1e20):
        torch.testing.assert_close(
            compiled(input, target, delta=delta), huber_loss(input, target, delta=delta)
        )
