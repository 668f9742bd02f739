"""Negative binomial likelihood, against mpmath, scipy and its Poisson limit."""

import math

import mpmath as mp
import pytest
import scipy.stats
import torch
from likelihood_case import (
    DTYPES,
    Case,
    assert_conventions,
    assert_exact,
    assert_gradients,
    grid,
)
from torch.distributions import NegativeBinomial

from torch_mlcalc.losses import (
    NegativeBinomialNLLLoss,
    negative_binomial_nll_loss,
    poisson_nll_loss,
)

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def exact(mean: mp.mpf, n: mp.mpf, alpha: mp.mpf) -> mp.mpf:
    r = 1 / alpha
    gammas = mp.loggamma(n + 1) + mp.loggamma(r) - mp.loggamma(n + r)
    return gammas + r * mp.log1p(alpha * mean) - n * mp.log(mean / (r + mean))


def size(mean: float, n: float, alpha: float) -> mp.mpf:
    return 2 + abs(mp.log(n or 1)) + abs(mp.log(alpha)) / 4


MEANS = [
    *grid([0.3, 2.2, 30.0], [0.0, 1.0, 26.0], [1e-8, 1e-3, 0.3, 4.0]),
    # On both sides of where the second-order form ends.
    *[(10.0, 14.9, 1e-4), (10.0, 15.1, 1e-4), (10.0, 200.0, 1.0), (100.0, 20.0, 0.3)],
    *[(1e6, 1001000.0, 1e-6), (1e6, 1.5e6, 1.0), (1e6, 0.0, 1e-3), (1e6, 3.0, 1e-2)],
    *[(5.0, 3.0, 1e4), (1e-6, 2.0, 0.5)],
]
ORDINARY = [(0.7, 0.0, 0.3), (2.0, 3.0, 0.2), (1.5, 9.0, 2.5)]
CASES = {
    "mean": Case(
        negative_binomial_nll_loss,
        NegativeBinomialNLLLoss,
        {"log_input": False},
        exact,
        MEANS,
        ORDINARY,
        (0, 2),
        (64, 400, 3000),
        size,
    ),
    "log_mean": Case(
        negative_binomial_nll_loss,
        NegativeBinomialNLLLoss,
        {"log_input": True},
        lambda x, n, alpha: exact(mp.exp(x), n, alpha),
        [
            *grid([-1.2, 0.7, 3.4], [0.0, 1.0, 25.0], [1e-8, 0.3]),
            *[(-60.0, 0.0, 0.5), (5.0, 4.0, 2.0), (-60.0, 2.0, 0.5)],
        ],
        ORDINARY,
        (0, 2),
        (64, 400, 3000),
        size,
        far=[(60.0, 4.0, 2.0)],
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_derivatives_are_exact(case: Case, dtype: torch.dtype) -> None:
    assert_exact(case, dtype)


@cases
def test_gradients_hold_in_every_mode(case: Case) -> None:
    assert_gradients(case._replace(ordinary=case.ordinary[1:2]))


@cases
def test_conventions_are_those_of_the_house(case: Case) -> None:
    assert_conventions(case)


def test_derivatives_in_the_count_hold() -> None:
    points = grid([0.4, 3.0], [0.6, 3.0, 30.0], [0.2])
    case = CASES["mean"]._replace(points=points, smooth=(0, 1, 2))
    assert_exact(case, torch.float64)


def test_values_are_those_of_scipy_and_torch() -> None:
    mean = torch.rand(200, dtype=torch.float64) * 20 + 0.01
    alpha = torch.rand(200, dtype=torch.float64) * 3 + 0.01
    count = torch.poisson(mean)
    actual = negative_binomial_nll_loss(
        mean, count, alpha, log_input=False, reduction="none"
    )
    r = 1 / alpha
    expected = torch.from_numpy(-scipy.stats.nbinom.logpmf(count, r, r / (r + mean)))
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    theirs = -NegativeBinomial(r, logits=(alpha * mean).log()).log_prob(count)
    torch.testing.assert_close(actual, theirs, rtol=1e-10, atol=1e-10)


def test_parameters_of_torch_are_taken_as_documented() -> None:
    leaves = [torch.rand(20, dtype=torch.float64) + 0.3 for _ in range(2)]
    total_count, logits = (x.requires_grad_() for x in leaves)
    count = torch.arange(20)
    ours = negative_binomial_nll_loss(
        logits + total_count.log(), count, 1 / total_count, reduction="sum"
    )
    theirs = -NegativeBinomial(total_count, logits=logits).log_prob(count).sum()
    torch.testing.assert_close(ours, theirs)
    slopes = [torch.autograd.grad(loss, leaves) for loss in (ours, theirs)]
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_dispersion_is_the_poisson_with_its_derivatives(dtype: torch.dtype) -> None:
    count = torch.tensor([0.0, 1.0, 3.0, 40.0, 2e4], dtype=dtype)
    log_mean = torch.tensor([-0.3, 0.4, 1.7, 3.5, 9.9], dtype=dtype, requires_grad=True)
    alpha = torch.zeros(5, dtype=dtype, requires_grad=True)
    loss = negative_binomial_nll_loss(log_mean, count, alpha, reduction="none")
    expected = poisson_nll_loss(log_mean, count, full=True, reduction="none")
    rtol = 400 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss, expected, rtol=rtol, atol=rtol)
    slopes = torch.autograd.grad(loss.sum(), (log_mean, alpha))
    mean = log_mean.detach().double().exp()
    exact_slopes = (mean - count, (count - (count - mean) ** 2) / 2)
    for slope, right in zip(slopes, exact_slopes, strict=True):
        torch.testing.assert_close(slope, right.to(dtype), rtol=rtol, atol=rtol)


def test_a_number_is_the_dispersion_of_all_elements() -> None:
    x, count = torch.randn(5), torch.arange(5)
    expected = negative_binomial_nll_loss(x, count, torch.full((5,), 0.3))
    assert torch.equal(negative_binomial_nll_loss(x, count, 0.3), expected)
    assert torch.equal(NegativeBinomialNLLLoss()(x, count, 0.3), expected)
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="dispersion must be positive and finite"):
            negative_binomial_nll_loss(x, count, value)


def test_settings_and_values_are_checked() -> None:
    x, bad = torch.ones(2), torch.tensor([1.0, -1.0])
    loss = negative_binomial_nll_loss
    for call in (
        lambda: loss(x, x, x, log_input=1),
        lambda: NegativeBinomialNLLLoss(log_input=1),
    ):
        with pytest.raises(TypeError, match="log_input must be True or False"):
            call()
    with pytest.raises(ValueError, match=r"target must be .* got -1.0 at \[1\]"):
        loss(x, bad, x, validate=True)
    with pytest.raises(ValueError, match=r"dispersion must be .* got -1.0 at \[1\]"):
        loss(x, x, bad, validate=True)
    with pytest.raises(ValueError, match="input must be positive and finite, got -1.0"):
        NegativeBinomialNLLLoss(log_input=False, validate=True)(bad, x, x)
    with pytest.raises(ValueError, match="input must be finite, got inf"):
        loss(x / 0, x, x, validate=True)
    loss(bad, x, 0 * x, validate=True)
