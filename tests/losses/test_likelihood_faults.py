"""Faults of torch's likelihoods, one test each, and the right answer beside it.

Right is what mpmath says to 50 digits. What torch does is shown as well; the day it
does better a warning says so, and the test of the right answer goes on. At the end,
torch's own test inputs for the two losses with a twin.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import NegativeBinomial, StudentT
from torch.testing._internal.common_modules import (
    module_inputs_torch_nn_GaussianNLLLoss,
    module_inputs_torch_nn_PoissonNLLLoss,
)
from torch.testing._internal.common_nn import poissonnllloss_no_reduce_test

import torch_mlcalc as mlc

pytestmark = [
    pytest.mark.filterwarnings("default:torch .* is right now"),
    # torch writes its forward-mode rules in TorchScript, which it has deprecated.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


def torch_does(fault: str, shown: bool) -> None:
    """Say so if torch no longer has a fault; nothing here depends on it."""
    if not shown:
        warnings.warn(f"torch {torch.__version__} is right now: {fault}", stacklevel=2)


def slope(loss: Callable[[Tensor], Tensor], at: float, dtype: torch.dtype) -> float:
    x = torch.tensor([at], dtype=dtype, requires_grad=True)
    return torch.autograd.grad(loss(x).sum(), x)[0].item()


def close(actual: float, exact: mp.mpf, rel: float) -> bool:
    return bool(abs(mp.mpf(actual) - exact) <= rel * abs(exact))


def gaussian(r: float, v: mp.mpf) -> mp.mpf:
    return (mp.log(v) + mp.mpf(r) ** 2 / v) / 2


def poisson(rate: mp.mpf, n: mp.mpf) -> mp.mpf:
    return rate - n * mp.log(rate) + mp.loggamma(n + 1)


@pytest.fixture(autouse=True)
def _digits() -> object:
    with mp.workdps(50):
        yield


# Gaussian.


@pytest.mark.parametrize("r", [0.0, 1e-4, 1.0])
def test_gaussian_below_eps_is_the_likelihood(r: float) -> None:
    """A standard deviation of 1e-4: millimetres in a model that counts in metres."""
    zero, v = torch.zeros(1, dtype=torch.float64), 1e-8
    residual = torch.full_like(zero, r)

    def theirs(var: Tensor) -> Tensor:
        return F.gaussian_nll_loss(residual, zero, var)

    def ours(var: Tensor) -> Tensor:
        return mlc.gaussian_nll_loss(residual, zero, var)

    exact = gaussian(r, mp.mpf(v))
    exact_slope = mp.diff(lambda x: gaussian(r, x), mp.mpf(v))
    var = torch.tensor([v], dtype=torch.float64)
    wrong = not close(theirs(var).item(), exact, 0.01)
    torch_does("value below eps", wrong)
    wrong = not close(slope(theirs, v, torch.float64), exact_slope, 0.5)
    torch_does("gradient below eps", wrong)
    assert close(ours(var).item(), exact, 1e-14)
    assert abs(slope(ours, v, torch.float64) - exact_slope) <= 1e-8 / v * abs(
        1 + mp.mpf(r) ** 2 / v
    )


def test_gaussian_gradient_below_eps_is_that_of_the_value() -> None:
    """torch has one derivative in reverse mode, and another one, 0, in forward mode."""
    zero, eps = torch.zeros(1, dtype=torch.float64), 1e-6
    var, one = torch.full_like(zero, 1e-8), torch.ones_like(zero)

    def three(loss: Callable[..., Tensor]) -> list[float]:
        def of(v: Tensor) -> Tensor:
            return loss(zero, zero, v, eps=eps)

        h = 1e-9
        difference = (of(var + h) - of(var - h)) / (2 * h)
        forward = torch.func.jvp(of, (var,), (one,))[1]
        return [slope(of, 1e-8, torch.float64), forward.item(), difference.item()]

    def unchecked(input: Tensor, target: Tensor, var: Tensor, eps: float) -> Tensor:
        return F.gaussian_nll_loss(input, target, var, eps=eps)

    reverse, forward, difference = three(unchecked)
    shown = reverse == pytest.approx(5e5) and forward == difference == 0
    torch_does("gradient of the value below eps", shown)
    assert three(mlc.gaussian_nll_loss) == pytest.approx([5e5] * 3, rel=1e-6)


def test_gaussian_of_large_residual_and_variance_is_finite() -> None:
    r, v = torch.tensor([1e25]), torch.tensor([1e37])
    theirs = F.gaussian_nll_loss(r, torch.zeros(1), v).item()
    torch_does("square of a large residual", theirs == math.inf)
    exact = gaussian(r.item(), mp.mpf(v.item()))
    assert close(mlc.gaussian_nll_loss(r, torch.zeros(1), v).item(), exact, 1e-6)


def test_gaussian_refuses_what_it_would_broadcast() -> None:
    input, target, var = torch.zeros(3, 2), torch.zeros(3, 1), torch.ones(3, 2)
    shape = F.gaussian_nll_loss(input, target, var, reduction="none").shape
    torch_does("target of another shape", shape == (3, 2))
    with pytest.raises(ValueError, match="target must have the shape of input"):
        mlc.gaussian_nll_loss(input, target, var)


def test_gaussian_is_mapped_and_compiled_and_looks_at_nothing() -> None:
    zero, vars = torch.zeros(2), torch.rand(3, 2) + 0.5

    def attempts(loss: Callable[..., Tensor]) -> list[Callable[[], object]]:
        compiled = torch.compile(
            lambda v: loss(zero, zero, v), fullgraph=True, backend="eager"
        )
        meta = zero.to("meta")
        return [
            lambda: torch.func.vmap(lambda v: loss(zero, zero, v))(vars),
            lambda: compiled(vars[0]),
            lambda: loss(meta, meta, meta),
        ]

    for attempt in attempts(F.gaussian_nll_loss):
        try:
            attempt()
        except Exception:
            continue
        torch_does("no look at the variances", False)
    mapped, compiled, meta = (x() for x in attempts(mlc.gaussian_nll_loss))
    expected = torch.stack([mlc.gaussian_nll_loss(zero, zero, v) for v in vars])
    torch.testing.assert_close(mapped, expected)
    torch.testing.assert_close(compiled, expected[0])
    assert meta.shape == ()


# Poisson.


@pytest.mark.parametrize("n", [0.5, 1.5, 2.0, 3.0, 5.0])
def test_poisson_constant_is_the_logarithm_of_the_factorial(n: float) -> None:
    log_rate = torch.zeros(1, dtype=torch.float64)
    count = torch.full_like(log_rate, n)
    exact = poisson(mp.mpf(1), mp.mpf(n))
    theirs = F.poisson_nll_loss(log_rate, count, full=True).item()
    torch_does("Stirling's approximation", not close(theirs, exact, 1e-3))
    ours = mlc.poisson_nll_loss(log_rate, count, full=True).item()
    assert close(ours, exact, 1e-15)


def test_poisson_constant_has_no_jump() -> None:
    """torch's is 0 up to 1 and begins with -0.08 above, so its slope is none."""
    counts = torch.tensor([1.0, 1 + 1e-6], dtype=torch.float64)
    zero = torch.zeros_like(counts)
    theirs = F.poisson_nll_loss(zero, counts, full=True, reduction="none").diff()
    torch_does("jump at a count of 1", abs(theirs.item()) > 0.05)
    ours = mlc.poisson_nll_loss(zero, counts, full=True, reduction="none").diff()
    assert ours.item() == pytest.approx(1e-6 * float(mp.digamma(2)), rel=1e-5)


def test_poisson_of_a_million_keeps_its_digits() -> None:
    log_rate, count = torch.tensor([13.8155]), torch.tensor([1e6])
    exact = poisson(mp.exp(mp.mpf(log_rate.item())), mp.mpf(10**6))
    theirs = F.poisson_nll_loss(log_rate, count, full=True).item()
    torch_does("large counts", not close(theirs, exact, 1e-2))
    ours = mlc.poisson_nll_loss(log_rate, count, full=True).item()
    assert close(ours, exact, 1e-5)


@pytest.mark.parametrize("rate", [1e-9, 1e-8, 1e-6])
def test_poisson_of_small_rates_is_exact(rate: float) -> None:
    """torch's derivative at 1e-9 is a tenth of the right one."""
    one = torch.ones(1, dtype=torch.float64)

    def theirs(rate: Tensor) -> Tensor:
        return F.poisson_nll_loss(rate, one, log_input=False)

    def ours(rate: Tensor) -> Tensor:
        return mlc.poisson_nll_loss(rate, one, log_input=False)

    exact = 1 - 1 / mp.mpf(rate)
    wrong = not close(slope(theirs, rate, torch.float64), exact, 5e-3)
    torch_does("small rates", wrong)
    assert close(slope(ours, rate, torch.float64), exact, 1e-15)


def test_poisson_derivative_in_the_count_is_no_nan() -> None:
    count = torch.tensor([0.0, 2.0], requires_grad=True)
    zero = torch.zeros(2)
    theirs = F.poisson_nll_loss(zero, count, full=True, reduction="sum")
    (slopes,) = torch.autograd.grad(theirs, count)
    torch_does("a count of 0 is a constant", bool(slopes[0].isnan()))
    ours = mlc.poisson_nll_loss(zero, count, full=True, reduction="sum")
    (slopes,) = torch.autograd.grad(ours, count)
    assert slopes[0].isfinite()
    assert slopes[1].item() == pytest.approx(float(mp.digamma(3)), rel=1e-6)


def test_poisson_refuses_what_it_would_broadcast() -> None:
    input, count = torch.zeros(3), torch.zeros(3, 1)
    shape = F.poisson_nll_loss(input, count, reduction="none").shape
    torch_does("counts of another shape", shape == (3, 3))
    with pytest.raises(ValueError, match="target must have the shape of input"):
        mlc.poisson_nll_loss(input, count)


# Likelihoods that are distributions in torch.


def test_student_t_of_many_degrees_keeps_its_digits() -> None:
    def exact(df: mp.mpf) -> mp.mpf:
        gammas = mp.loggamma(df / 2) - mp.loggamma((df + 1) / 2)
        return gammas + mp.log(df * mp.pi) / 2 + (df + 1) / 2 * mp.log1p(4 / df)

    two = torch.tensor([2.0])

    def theirs(df: Tensor) -> Tensor:
        return -StudentT(df, 0.0, 1.0, validate_args=False).log_prob(two)

    def ours(df: Tensor) -> Tensor:
        return mlc.student_t_nll_loss(two, 0 * two, 1.0, df, reduction="sum")

    df = torch.tensor([1e8])
    value, derivative = exact(mp.mpf(10**8)), mp.diff(exact, mp.mpf(10**8))
    wrong = not close(theirs(df).item(), value, 0.1)
    torch_does("value at 1e8 degrees of freedom", wrong)
    wrong = not close(slope(theirs, 1e8, torch.float32), derivative, 100)
    torch_does("derivative at 1e8 degrees of freedom", wrong)
    assert close(ours(df).item(), value, 1e-6)
    assert close(slope(ours, 1e8, torch.float32), derivative, 1e-5)


def test_negative_binomial_of_small_dispersion_keeps_its_digits() -> None:
    mean, n, alpha = 2.25, 3.0, 2.0**-26

    def exact(a: mp.mpf) -> mp.mpf:
        r = 1 / a
        gammas = mp.loggamma(n + 1) + mp.loggamma(r) - mp.loggamma(n + r)
        return gammas + r * mp.log1p(a * mean) - n * mp.log(mean / (r + mean))

    count = torch.tensor([n])

    def theirs(a: Tensor) -> Tensor:
        law = NegativeBinomial(1 / a, logits=(a * mean).log(), validate_args=False)
        return -law.log_prob(count)

    def ours(a: Tensor) -> Tensor:
        means = torch.tensor([mean])
        return mlc.negative_binomial_nll_loss(means, count, a, log_input=False)

    value, derivative = exact(mp.mpf(alpha)), mp.diff(exact, mp.mpf(alpha))
    at = torch.tensor([alpha])
    torch_does("value at dispersion 1e-8", not close(theirs(at).item(), value, 0.1))
    wrong = not close(slope(theirs, alpha, torch.float32), derivative, 10)
    torch_does("derivative at dispersion 1e-8", wrong)
    assert close(ours(at).item(), value, 1e-6)
    assert close(slope(ours, alpha, torch.float32), derivative, 1e-5)


def test_second_derivative_of_log_gamma_is_right_to_the_last_digits() -> None:
    """Why the constants of counts are not torch's lgamma."""
    count = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    exact = [float(mp.psi(1, n + 1)) for n in (1, 3)]

    def curvature(value: Tensor) -> list[float]:
        (first,) = torch.autograd.grad(value.sum(), count, create_graph=True)
        return torch.autograd.grad(first.sum(), count)[0].tolist()

    theirs = curvature((count + 1).lgamma())
    shown = theirs != pytest.approx(exact, rel=1e-12)
    torch_does("trigamma in float64", shown)
    zero = torch.zeros_like(count)
    ours = curvature(mlc.poisson_nll_loss(zero, count, full=True, reduction="none"))
    assert ours == pytest.approx(exact, rel=1e-13)


# torch's own test inputs.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_torchs_inputs_of_gaussian_nll(dtype: torch.dtype) -> None:
    cases = module_inputs_torch_nn_GaussianNLLLoss(None, "cpu", dtype, True, False)
    assert len(cases) == 5
    for case in cases:
        input, target, var = case.forward_input.args
        settings = case.constructor_input.kwargs
        with pytest.raises(ValueError, match="var must have the shape of input"):
            mlc.GaussianNLLLoss(**settings)(input, target, var)
        var = var.expand_as(input).detach().requires_grad_()
        both = []
        for module in (torch.nn.GaussianNLLLoss, mlc.GaussianNLLLoss):
            value = module(**settings)(input, target, var)
            slopes = torch.autograd.grad(value.sum(), (input, var))
            both.append((value, *slopes))
        for theirs, ours in zip(*both, strict=True):
            torch.testing.assert_close(ours, theirs)
        # Without a batch, as torch's reference function checks it.
        rows = [
            mlc.gaussian_nll_loss(*row) for row in zip(input, target, var, strict=True)
        ]
        whole = mlc.gaussian_nll_loss(input, target, var)
        torch.testing.assert_close(torch.stack(rows).mean(), whole)


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.float32, torch.float64], ids=str
)
def test_torchs_inputs_of_poisson_nll(dtype: torch.dtype) -> None:
    cases = module_inputs_torch_nn_PoissonNLLLoss(None, "cpu", dtype, True, False)
    assert len(cases) == 7
    for case in cases:
        input, count = case.forward_input.args
        settings = case.constructor_input.kwargs
        ours = mlc.PoissonNLLLoss(**settings)(input, count)
        exact = {**settings, "eps": 0.0, "full": False}
        wide = [each.detach().double().requires_grad_() for each in (input, count)]
        expected = torch.nn.PoissonNLLLoss(**exact)(*wide)
        if settings.get("full"):
            expected = expected + (wide[1] + 1).lgamma().mean()
        torch.testing.assert_close(ours, expected.to(dtype))
        slopes = [
            torch.autograd.grad(value.sum(), x)[0]
            for value, x in ((ours, input), (expected, wide[0]))
        ]
        torch.testing.assert_close(slopes[0], slopes[1].to(dtype))


def test_torchs_old_style_input_of_poisson_nll() -> None:
    case = poissonnllloss_no_reduce_test()
    input, count = case["input_fn"](), case["cpp_var_map"]["t"]
    ours = mlc.poisson_nll_loss(input, count, reduction="none")
    torch.testing.assert_close(ours, case["reference_fn"](input))
