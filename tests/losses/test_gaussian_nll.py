"""Gaussian likelihoods, against mpmath, torch, and the formulas of their authors."""

import math

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from likelihood_case import (
    DTYPES,
    Case,
    assert_conventions,
    assert_exact,
    assert_gradients,
    derivatives,
    grid,
)
from torch import Tensor
from torch.autograd import forward_ad

from torch_mlcalc.losses import (
    BetaNLLLoss,
    GaussianLogVarNLLLoss,
    GaussianNLLLoss,
    beta_nll_loss,
    gaussian_log_var_nll_loss,
    gaussian_nll_loss,
)

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

# A power of two, the same number in both dtypes.
EPS = 2.0**-20


def exact_var(x: mp.mpf, y: mp.mpf, v: mp.mpf) -> mp.mpf:
    return (mp.log(v) + (x - y) ** 2 / v) / 2


def exact_floored(x: mp.mpf, y: mp.mpf, v: mp.mpf) -> mp.mpf:
    if v > EPS:
        return exact_var(x, y, v)
    slope = (1 - (x - y) ** 2 / EPS) / (2 * mp.mpf(EPS))
    return exact_var(x, y, mp.mpf(EPS)) + (v - EPS) * slope


def exact_log_var(x: mp.mpf, y: mp.mpf, s: mp.mpf) -> mp.mpf:
    return (s + (x - y) ** 2 * mp.exp(-s)) / 2


def with_constant(exact: object) -> object:
    return lambda *point: exact(*point) + mp.log(2 * mp.pi) / 2


def var_size(x: float, y: float, v: float) -> mp.mpf:
    """The logarithm and the square, of which the value may be a small difference."""
    return abs(mp.log(abs(v) or 1)) + (mp.mpf(x) - y) ** 2 / max(abs(v), 1e-300)


ORDINARY = grid([-1.3, 0.4, 2.5], [0.7], [0.3, 1.7])
EXTREME = [
    *grid([0.0], [0.0], [1e-37, 1e-8, 1.0, 1e37]),
    *[(2e-10, 0.0, 1e-18), (3e18, 0.0, 1e37), (1.0, 0.0, 1e-8), (1e-20, 0.0, 1e-37)],
    *[(1e25, 0.0, 1e37), (1e-25, 0.0, 1e-20), (-1e10, 1e10, 1e30)],
    # Almost the smallest variance of which float32 holds the inverse.
    *[(0.0, 0.0, 3e-39), (4e-20, 0.0, 3e-39)],
]
CASES = {
    "var": Case(
        gaussian_nll_loss,
        GaussianNLLLoss,
        {"full": False, "eps": 0.0},
        exact_var,
        [*ORDINARY[:2], *EXTREME],
        ORDINARY,
        (0, 1, 2),
        (4, 32, 64),
        var_size,
        [(2e-150, 0.0, 1e-300), (1e170, 0.0, 1e300)],
        digits=320,
    ),
    "var, full": Case(
        gaussian_nll_loss,
        GaussianNLLLoss,
        {"full": True, "eps": 0.0},
        with_constant(exact_var),
        ORDINARY[:2],
        ORDINARY,
        (0, 1, 2),
        (4, 32, 64),
    ),
    "var, eps": Case(
        gaussian_nll_loss,
        GaussianNLLLoss,
        {"full": False, "eps": EPS},
        exact_floored,
        [*ORDINARY, *grid([0.0, 0.5], [0.0], [EPS / 3, 0.0, -1.0, 1.5 * EPS, 1e-37])],
        [*ORDINARY[:2], (0.001, 0.0, -1e-3), (0.002, 0.0, -2e-3)],
        (0, 1, 2),
        (4, 32, 64),
        lambda x, y, v: mp.mpf(14),
        digits=320,
    ),
    "log_var": Case(
        gaussian_log_var_nll_loss,
        GaussianLogVarNLLLoss,
        {"full": False},
        exact_log_var,
        [
            *grid([-1.3, 0.4, 2.5], [0.7], [-1.2, 0.5]),
            *grid([0.0], [0.0], [-1e4, -200.0, 0.0, 1e4]),
            *[(1e-36, 0.0, -170.0), (1e36, 0.0, 170.0), (1.0, 0.0, 200.0)],
        ],
        grid([-1.3, 0.4, 2.5], [0.7], [-1.2, 0.5]),
        (0, 1, 2),
        # exp(-s/2) has an error of s/2 eps, from the rounding of s/2.
        (100, 200, 200),
        lambda x, y, s: abs(mp.mpf(s)) / 50 + 1,
        [(1e-290, 0.0, -1300.0), (1e290, 0.0, 1300.0)],
        digits=320,
    ),
    "log_var, full": Case(
        gaussian_log_var_nll_loss,
        GaussianLogVarNLLLoss,
        {"full": True},
        with_constant(exact_log_var),
        ORDINARY[:2],
        ORDINARY,
        (0, 1, 2),
        (4, 32, 64),
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@cases
@dtypes
def test_value_and_derivatives_are_exact(case: Case, dtype: torch.dtype) -> None:
    assert_exact(case, dtype)


@pytest.mark.parametrize("name", ["var", "var, eps", "log_var"])
def test_gradients_hold_in_every_mode(name: str) -> None:
    assert_gradients(CASES[name])


BETA = Case(
    beta_nll_loss,
    BetaNLLLoss,
    {"beta": 0.25, "full": True, "eps": EPS},
    exact_var,
    ORDINARY,
    ORDINARY,
    (0, 1, 2),
)


@pytest.mark.parametrize("case", [*CASES.values(), BETA], ids=[*CASES, "beta"])
def test_conventions_are_those_of_the_house(case: Case) -> None:
    assert_conventions(case)


# The tangent below eps.


@dtypes
def test_tangent_begins_where_the_likelihood_ends(dtype: torch.dtype) -> None:
    """At eps itself, which some users clamp to, and on both sides of it."""
    for eps in (EPS, 1e-6, 0.1, 1e-3):
        at = torch.tensor(eps, dtype=dtype)
        up, down = (
            torch.nextafter(at, torch.tensor(side, dtype=dtype)) for side in (1.0, 0.0)
        )
        case = CASES["var, eps"]._replace(settings={"full": False, "eps": eps})
        v = torch.stack([down, at, up])
        r = torch.full_like(v, 0.5)
        found = derivatives(case, [r, torch.zeros_like(r), v])
        slope = (1 - 0.25 / v) / (2 * v)
        torch.testing.assert_close(found[(2,)], slope, rtol=1e-5, atol=0)
        curvature = (0.5 / v - 1) / (2 * v * v)
        torch.testing.assert_close(found[(2, 2)][2], curvature[2], rtol=1e-5, atol=0)
        assert found[(2, 2)][0].item() == 0


def test_slope_below_eps_is_that_of_torch_and_above_it_everything() -> None:
    torch.manual_seed(1)
    input, target = torch.randn(2, 200, dtype=torch.float64)
    var = torch.logspace(-9, 1, 200, dtype=torch.float64)
    both = []
    for loss in (F.gaussian_nll_loss, gaussian_nll_loss):
        leaves = [x.clone().requires_grad_() for x in (input, target, var)]
        value = loss(*leaves, eps=1e-6, reduction="none")
        slopes = torch.autograd.grad(value.sum(), leaves)
        both.append(torch.stack([value.detach(), *slopes]))
    theirs, ours = both
    torch.testing.assert_close(ours[3], theirs[3], rtol=1e-12, atol=0)
    above = var >= 1e-6
    torch.testing.assert_close(ours[:, above], theirs[:, above], rtol=1e-12, atol=1e-12)
    assert (ours[0] != theirs[0])[~above].all()


@pytest.mark.parametrize("eps", [1e-6, EPS])
def test_eps_changes_nothing_where_all_variances_are_above(eps: float) -> None:
    """Nor does forward mode, in which they cannot be looked at."""
    leaves = [x.requires_grad_() for x in torch.randn(2, 50, dtype=torch.float64)]
    leaves.append((torch.rand(50, dtype=torch.float64) + EPS).requires_grad_())

    def derivatives(eps: float) -> list[Tensor]:
        loss = gaussian_nll_loss(*leaves, eps=eps, reduction="none")
        slopes = torch.autograd.grad(loss.sum(), leaves, create_graph=True)
        return [loss, *slopes, *torch.autograd.grad(slopes[2].sum(), leaves)]

    found = derivatives(eps)
    with forward_ad.dual_level():
        floored = derivatives(eps)
    for one, other, exact in zip(found, floored, derivatives(0.0), strict=True):
        torch.testing.assert_close(one, exact, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(other, exact, rtol=1e-11, atol=1e-11)


def test_variance_may_be_a_number() -> None:
    input, target = torch.randn(2, 4, 3)
    expected = gaussian_nll_loss(input, target, torch.full((4, 3), 0.7), eps=1e-3)
    assert torch.equal(gaussian_nll_loss(input, target, 0.7, eps=1e-3), expected)
    expected = beta_nll_loss(input, target, torch.full((4, 3), 0.7))
    assert torch.equal(beta_nll_loss(input, target, 0.7), expected)
    half = input.half()
    assert gaussian_nll_loss(half, half, 1e-10).dtype == torch.float16
    assert GaussianNLLLoss()(half, half, 1e-10).item() == pytest.approx(-11.51, 1e-3)


# beta-NLL.


@pytest.mark.parametrize("eps", [0.0, EPS])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_nll_has_the_gradients_of_its_authors(beta: float, eps: float) -> None:
    """Equations (6) and (7) of Seitzer et al."""
    mean = torch.randn(50, dtype=torch.float64, requires_grad=True)
    target = torch.randn(50, dtype=torch.float64)
    var = (torch.rand(50, dtype=torch.float64) * 4 + 0.01).requires_grad_()
    loss = beta_nll_loss(mean, target, var, beta, eps=eps, reduction="sum")
    slopes = torch.autograd.grad(loss, (mean, var))
    r, v = (mean - target).detach(), var.detach()
    expected = (r / v ** (1 - beta), (v - r**2) / (2 * v ** (2 - beta)))
    torch.testing.assert_close(slopes, expected, rtol=1e-13, atol=1e-13)


def test_beta_nll_is_a_weight_on_the_likelihood_in_every_mode() -> None:
    mean, target, var = (torch.rand(3, 6, dtype=torch.float64) + 0.2).unbind()
    frozen = var**0.5

    def held(mean: Tensor, var: Tensor) -> Tensor:
        return (
            frozen * gaussian_nll_loss(mean, target, var, True, reduction="none")
        ).sum()

    def beta(mean: Tensor, var: Tensor) -> Tensor:
        return beta_nll_loss(mean, target, var, 0.5, True, reduction="sum")

    close = torch.testing.assert_close
    close(beta(mean, var), held(mean, var))
    tangent = (torch.randn_like(mean), torch.randn_like(var))
    for which in (
        lambda f: torch.func.grad(f, (0, 1))(mean, var),
        lambda f: torch.func.jvp(f, (mean, var), tangent)[1],
        lambda f: torch.func.jvp(torch.func.grad(f, (0, 1)), (mean, var), tangent)[1],
    ):
        close(which(beta), which(held))


def test_beta_below_eps_weights_with_eps() -> None:
    r, v = torch.tensor([0.5]), torch.tensor([1e-9])
    expected = 0.01**0.5 * gaussian_nll_loss(r, 0 * r, v, eps=0.01)
    actual = beta_nll_loss(r, 0 * r, v, 0.5, eps=0.01)
    torch.testing.assert_close(actual, expected)


# Errors.


def test_settings_are_checked_by_functions_and_modules() -> None:
    x = torch.ones(3)
    refused = {
        "eps must be finite and not negative, got -1": (ValueError, {"eps": -1.0}),
        "eps must be finite and not negative, got inf": (ValueError, {"eps": math.inf}),
        "eps must be a number, got str": (TypeError, {"eps": "small"}),
        "full must be True or False, got int": (TypeError, {"full": 1}),
    }
    for message, (error, settings) in refused.items():
        for call in (
            lambda s: gaussian_nll_loss(x, x, x, **s),
            lambda s: beta_nll_loss(x, x, x, **s),
            lambda s: GaussianNLLLoss(**s),
            lambda s: BetaNLLLoss(**s),
        ):
            with pytest.raises(error, match=message):
                call(settings)
    for call in (
        lambda: gaussian_log_var_nll_loss(x, x, x, full="yes"),
        lambda: GaussianLogVarNLLLoss(full="yes"),
    ):
        with pytest.raises(TypeError, match="full must be True or False, got str"):
            call()
    wrong = {1.5: ValueError, -0.1: ValueError, None: TypeError, True: TypeError}
    for beta, error in wrong.items():
        for call in (lambda b: beta_nll_loss(x, x, x, b), lambda b: BetaNLLLoss(b)):
            with pytest.raises(error, match="beta must be"):
                call(beta)


@pytest.mark.parametrize("var", [0.0, -1.0, math.inf, math.nan])
def test_a_number_as_variance_must_be_positive(var: float) -> None:
    with pytest.raises(ValueError, match="var must be positive and finite"):
        gaussian_nll_loss(torch.ones(2), torch.ones(2), var)
    with pytest.raises(TypeError, match="var must be a number or a tensor, got list"):
        gaussian_nll_loss(torch.ones(2), torch.ones(2), [1.0, 1.0])


def test_values_are_checked_where_asked_for() -> None:
    x, zero = torch.ones(2), torch.tensor([1.0, 0.0])
    for call in (gaussian_nll_loss, beta_nll_loss):
        with pytest.raises(ValueError, match=r"var must be positive .* 0.0 at \[1\]"):
            call(x, x, zero, validate=True)
        call(x, x, zero, eps=0.1, validate=True)
        with pytest.raises(ValueError, match="var must be finite, got inf"):
            call(x, x, zero / 0, eps=0.1, validate=True)
    with pytest.raises(ValueError, match="log_var must be finite"):
        gaussian_log_var_nll_loss(x, x, x / 0, validate=True)
    module = GaussianNLLLoss(validate=True)
    with pytest.raises(ValueError, match="var must be positive"):
        module(x, x, zero)
    with pytest.raises(ValueError, match="var must be positive"):
        BetaNLLLoss(validate=True)(x, x, zero)
    with pytest.raises(ValueError, match="log_var must be finite"):
        GaussianLogVarNLLLoss(validate=True)(x, x, x / 0)


def test_beta_nll_of_no_weight_is_the_likelihood_below_eps_too() -> None:
    x, t, var = torch.tensor([1.0]), torch.tensor([1.5]), torch.tensor([1e-3])
    for eps in (0.0, 0.1):
        found = beta_nll_loss(x, t, var, beta=0.0, eps=eps)
        torch.testing.assert_close(found, gaussian_nll_loss(x, t, var, eps=eps))
