"""Poisson likelihood, against mpmath, scipy and torch."""

import math

import mpmath as mp
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from likelihood_case import (
    DTYPES,
    Case,
    assert_conventions,
    assert_exact,
    assert_gradients,
    grid,
)
from torch import Tensor
from torch.autograd import forward_ad

from torch_mlcalc.losses import PoissonNLLLoss, poisson_nll_loss

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

EPS = 2.0**-10


def log_floored(rate: mp.mpf, eps: float) -> mp.mpf:
    return mp.log(rate) if rate > eps else mp.log(eps) + (rate - eps) / mp.mpf(eps)


def exact(log_input: bool, full: bool, eps: float = 0.0) -> object:
    def value(x: mp.mpf, n: mp.mpf) -> mp.mpf:
        rate = mp.exp(x) if log_input else x
        logarithm = x if log_input else log_floored(x, eps) if n else mp.mpf(0)
        return rate - n * logarithm + (mp.loggamma(n + 1) if full else 0)

    return value


def case(
    log_input: bool, full: bool, floor: float, points: list, **more: object
) -> Case:
    return Case(
        poisson_nll_loss,
        PoissonNLLLoss,
        {"log_input": log_input, "full": full, "eps": floor},
        exact(log_input, full, floor),
        points,
        # One of them below the floor, where there is one.
        [*points[:5], points[-2] if floor else points[5]],
        (0,),
        **more,
    )


def terms(x: float, n: float) -> mp.mpf:
    """The two terms of the plain loss, which may cancel."""
    return mp.exp(x) + abs(n * mp.mpf(x))


def rounding(x: float, n: float) -> mp.mpf:
    """What the rounding of log n - x, of the size of x, does to the deviance."""
    return 1 + n * abs(x * (mp.log(n or 1) - x))


LOGS = [
    *[(-1.3, 0.0), (0.4, 3.0), (2.5, 12.0), (0.1, 1.0), (-2.0, 2.0), (1.2, 0.5)],
    *[(-80.0, 0.0), (80.0, 1.0), (-80.0, 5.0), (13.0, 440000.0), (10.0, 1e4)],
]
RATES = [
    *[(0.3, 0.0), (1.5, 3.0), (12.0, 11.0), (1.1, 1.0), (0.1, 2.0), (3.0, 0.5)],
    *[(0.0, 0.0), (1e-30, 0.0), (1e-30, 2.0), (1e6, 0.0), (1e6, 1001000.0)],
]
FLOORED = [*RATES[:6], (0.0, 3.0), (EPS / 3, 2.0), (-1.0, 2.0), (EPS / 2, 0.0)]
CASES = {
    "log": case(True, False, 0.0, LOGS, size=terms, eps=(8, 100, 100)),
    "log, full": case(True, True, 0.0, LOGS, size=rounding, eps=(64, 2000, 100)),
    "rate": case(
        False, False, 0.0, RATES, size=lambda x, n: x + abs(n * 70), eps=(8, 1000, 64)
    ),
    "rate, full": case(False, True, 0.0, RATES, eps=(200, 3000, 64)),
    "rate, eps": case(False, False, EPS, FLOORED, size=lambda x, n: n * 8),
    "rate, full, eps": case(False, True, EPS, FLOORED, eps=(64, 64, 64)),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_derivatives_are_exact(case: Case, dtype: torch.dtype) -> None:
    assert_exact(case, dtype)


@pytest.mark.parametrize("name", ["log", "rate", "log, full", "rate, full, eps"])
def test_gradients_hold_in_every_mode(name: str) -> None:
    case = CASES[name]
    assert_gradients(case._replace(ordinary=case.ordinary[:3]))


@cases
def test_conventions_are_those_of_the_house(case: Case) -> None:
    assert_conventions(case)


def test_derivatives_in_the_count_hold() -> None:
    points = grid([0.4, 1.3], [0.6, 3.0, 30.0])
    for name in ("log", "log, full", "rate", "rate, full"):
        both = CASES[name]._replace(points=points, smooth=(0, 1), eps=(64, 512, 512))
        assert_exact(both, torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_full_is_exact_for_counts_of_any_size(dtype: torch.dtype) -> None:
    count = torch.tensor([0.0, 1, 2, 3, 10, 1e3, 1e6, 1e8, 1e12], dtype=dtype)
    rate = count * 1.0001 + 0.5
    expected = -scipy.stats.poisson.logpmf(count.double(), rate.double())
    actual = poisson_nll_loss(rate, count, False, True, reduction="none")
    # n log(n / rate) - n + rate is n u^2 / 2, and u is known to eps.
    bound = torch.finfo(dtype).eps * (30 + count.double() * 2e-4)
    if dtype == torch.float32:
        assert ((actual - torch.from_numpy(expected)).abs() <= bound).all()
    else:
        # scipy's own terms cancel.
        close = torch.testing.assert_close
        close(actual[:7], torch.from_numpy(expected)[:7], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("log_input", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_counts_of_positive_rates_are_exact(
    dtype: torch.dtype, log_input: bool, full: bool
) -> None:
    """Alone they take fewer operations, but not in forward mode."""
    count = torch.arange(25.0, dtype=dtype).repeat(3)
    rate = (count + 0.5) * torch.tensor([0.5, 1, 2], dtype=dtype).repeat_interleave(25)
    x = (rate.log() if log_input else rate).requires_grad_()

    def derivatives() -> list[Tensor]:
        loss = poisson_nll_loss(x, count, log_input, full, reduction="none")
        (slope,) = torch.autograd.grad(loss.sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        return [loss, slope, curvature]

    found = derivatives()
    with forward_ad.dual_level():
        others = derivatives()
    eps = torch.finfo(dtype).eps
    for one, other in zip(found, others, strict=True):
        torch.testing.assert_close(one, other, rtol=60 * eps, atol=60 * eps)
    if full:
        rates = x.detach().double().exp() if log_input else x.detach().double()
        expected = torch.from_numpy(-scipy.stats.poisson.logpmf(count, rates)).to(dtype)
        torch.testing.assert_close(found[0], expected, rtol=30 * eps, atol=0)


@pytest.mark.parametrize("log_input", [True, False])
def test_numbers_are_those_of_torch(log_input: bool) -> None:
    input = torch.rand(200, dtype=torch.float64) + 0.1
    count = torch.poisson(torch.full_like(input, 3.0))
    for reduction in ("none", "mean", "sum"):
        settings = {"log_input": log_input, "reduction": reduction}
        theirs = F.poisson_nll_loss(input, count, eps=0, **settings)
        ours = poisson_nll_loss(input, count, **settings)
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)


def test_whole_counts_of_any_dtype_are_targets() -> None:
    input, count = torch.randn(5), torch.tensor([0, 1, 2, 3, 100])
    for full in (False, True):
        expected = poisson_nll_loss(input, count.float(), full=full)
        assert torch.equal(poisson_nll_loss(input, count, full=full), expected)


def test_rate_of_zero_costs_nothing_unless_something_happens() -> None:
    for full in (False, True):
        for count, value, slope in ((0.0, 0.0, 1.0), (1.0, math.inf, -math.inf)):
            rate = torch.zeros(1, requires_grad=True)
            loss = poisson_nll_loss(rate, torch.tensor([count]), False, full)
            assert loss.item() == value
            assert torch.autograd.grad(loss, rate)[0].item() == slope


def test_settings_and_values_are_checked() -> None:
    x, bad = torch.ones(2), torch.tensor([1.0, -1.0])
    for name in ("log_input", "full"):
        for call in (
            lambda s: poisson_nll_loss(x, x, **s),
            lambda s: PoissonNLLLoss(**s),
        ):
            with pytest.raises(TypeError, match=f"{name} must be True or False"):
                call({name: "mean"})
            with pytest.raises(ValueError, match="eps must be finite and not negative"):
                call({"eps": -1e-8})
    with pytest.raises(ValueError, match=r"target must be .* got -1.0 at \[1\]"):
        poisson_nll_loss(x, bad, validate=True)
    with pytest.raises(ValueError, match=r"input must be .* not negative, got -1.0"):
        PoissonNLLLoss(False, validate=True)(bad, x)
    with pytest.raises(ValueError, match="input must be finite, got inf"):
        poisson_nll_loss(x / 0, x, validate=True)
    poisson_nll_loss(bad, x, False, eps=0.1, validate=True)
