"""Adaptive Gauss-Hermite quadrature against closed forms and other rules."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, Poisson

import torch_mlcalc as mlc
from torch_mlcalc.quadrature import mode
from torch_mlcalc.testing import check_gradients

DOUBLE = torch.float64
LINE = mlc.RealLine(torch.tensor(0.0, dtype=DOUBLE))
Rule = mlc.AdaptiveGaussHermite


def log_gamma_density(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Of the log of a gamma variable: integral Gamma(a) / b^a."""
    return a * x - b * torch.exp(x)


def exact(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) - a * b.log()


def laplace(a: Tensor, b: Tensor) -> Tensor:
    """By hand: the mode is log(a / b), the curvature there -a."""
    return a * torch.log(a / b) - a + (2 * math.pi / a).log() / 2


def shapes() -> tuple[Tensor, Tensor]:
    a = torch.tensor([0.7, 3.0, 50.0], dtype=DOUBLE, requires_grad=True)
    b = torch.tensor([2.0, 0.3, 1e3], dtype=DOUBLE, requires_grad=True)
    return a, b


def with_nodes(n: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda a, b: mlc.log_integrate(log_gamma_density, LINE, Rule(n), args=(a, b))


@pytest.mark.parametrize("n", [1, 2, 7, None])
def test_normal_densities_need_one_node(n: int | None) -> None:
    loc = torch.tensor([0.0, 3.0, -1e5], dtype=DOUBLE)
    scale = torch.tensor([1e-3, 1.0, 1e4], dtype=DOUBLE)
    value = mlc.log_integrate(
        lambda x, m, s: 1000 - ((x - m) / s) ** 2 / 2, LINE, Rule(n), args=(loc, scale)
    )
    torch.testing.assert_close(
        value, 1000 + (math.sqrt(2 * math.pi) * scale).log(), rtol=1e-13, atol=0
    )


def test_one_node_is_the_laplace_approximation() -> None:
    a, b = shapes()
    value = with_nodes(1)(a, b)
    torch.testing.assert_close(value, laplace(a, b), rtol=1e-13, atol=1e-13)
    assert ((value - exact(a, b)).abs() > 1e-3).all()


def test_gradient_of_the_laplace_approximation_is_that_of_its_formula() -> None:
    # Not that of the integral, and not that at a mode that stands still: those differ.
    inputs = shapes()
    ours = torch.autograd.grad(with_nodes(1)(*inputs).sum(), inputs)
    theirs = torch.autograd.grad(laplace(*inputs).sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    true = torch.autograd.grad(exact(*inputs).sum(), inputs)
    assert (ours[0] - true[0]).abs().max() > 1e-2


def test_second_derivatives_of_the_laplace_approximation() -> None:
    hessian = torch.autograd.functional.hessian
    ours = hessian(lambda a, b: with_nodes(1)(a, b).sum(), shapes())
    theirs = hessian(lambda a, b: laplace(a, b).sum(), shapes())
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("n", [1, 4, None])
def test_gradients_in_every_mode(n: int | None) -> None:
    a, b = (t.detach()[:2].requires_grad_() for t in shapes())
    check_gradients(with_nodes(n), (a, b), compile=False, max_elements=2)


def test_more_nodes_come_nearer_and_the_default_arrives() -> None:
    a, b = shapes()
    errors = [(with_nodes(n)(a, b) - exact(a, b)).abs() for n in (1, 5, 17, None)]
    assert (errors[0] > 2 * errors[1]).all() and (errors[1] > 2 * errors[2]).all()
    assert errors[2].max() > 1e-4 and errors[3].max() < 1e-9


def test_default_gradient_is_that_of_the_integral() -> None:
    inputs = shapes()
    ours = torch.autograd.grad(with_nodes(None)(*inputs).sum(), inputs)
    theirs = torch.autograd.grad(exact(*inputs).sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_each_element_takes_as_many_nodes_as_it_needs() -> None:
    a, b = shapes()
    estimate = mlc.log_integrate_with_error(
        log_gamma_density, LINE, Rule(), args=(a, b)
    )
    # The first is more skewed than the last, by far.
    assert estimate.n_evals[0] > estimate.n_evals[2] + 100
    assert (estimate.status == 0).all()
    assert (estimate.error < 1.5e-8).all()
    assert ((estimate.value - exact(a, b)).abs() <= estimate.error + 1e-13).all()


def test_error_of_a_number_of_nodes() -> None:
    a, b = shapes()
    estimate = mlc.log_integrate_with_error(
        log_gamma_density, LINE, Rule(3), args=(a, b)
    )
    off = (estimate.value - exact(a, b)).abs()
    assert (off < 2 * estimate.error).all() and (estimate.error < 2 * off).all()
    assert (estimate.status == 0).all()


def test_heavy_tails_are_left_to_the_double_exponential_rule() -> None:
    scale = torch.tensor([0.1, 5.0], dtype=DOUBLE)
    estimate = mlc.log_integrate_with_error(
        lambda x, s: -torch.log1p((x / s) ** 2), LINE, Rule(), args=(scale,)
    )
    assert (estimate.status == 0).all()
    torch.testing.assert_close(estimate.value, (math.pi * scale).log())


def test_two_modes_without_one_between() -> None:
    # The start is a minimum, flat and curved upwards.
    value = mlc.log_integrate(lambda x: -((x**2 - 4) ** 2) * 2, LINE, Rule())
    z = mpmath.quad(lambda x: mpmath.exp(-2 * (x**2 - 4) ** 2), [-4, -2, 0, 2, 4])
    assert value.item() == pytest.approx(float(mpmath.log(z)), abs=1e-7)


def test_the_mode_is_found_from_far_away() -> None:
    centre = torch.tensor([0.0, 1e3, -1e6, 30.0], dtype=DOUBLE)
    width = torch.tensor([1.0, 1e-2, 1.0, 1e3], dtype=DOUBLE)

    def logistic(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
        z = (x - c) / w
        return -2 * torch.nn.functional.softplus(z) + z

    value = mlc.log_integrate(logistic, LINE, Rule(), args=(centre, width))
    torch.testing.assert_close(value, width.log(), rtol=0, atol=1e-7)
    # With a number of nodes nothing takes over where no mode is found.
    value = mlc.log_integrate(
        logistic, LINE, Rule(16), args=(centre, width), on_failure="raise"
    )
    torch.testing.assert_close(value, width.log(), rtol=0, atol=1e-2)


def test_start_and_scale_are_those_of_the_domain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    true = mode.expand
    monkeypatch.setattr(mode, "expand", lambda f, x: seen.append(x) or true(f, x))
    domain = mlc.RealLine(loc=3.0, scale=0.5)
    mlc.log_integrate(lambda x: -((x - 3.0) ** 2), domain, Rule(4))
    assert seen[0].item() == 3.0
    seen.clear()
    mlc.log_integrate(lambda x: -(x**2), domain, Rule(4))
    assert seen[1].item() == 2.5


def test_closures_features_and_no_batch() -> None:
    counts = torch.tensor([0.0, 3.0, 40.0], dtype=DOUBLE)
    prior = Normal(torch.tensor(0.5, dtype=DOUBLE), 0.8)

    def closed(u: Tensor) -> Tensor:
        return Poisson(u.exp()).log_prob(counts) + prior.log_prob(u)

    def features(u: Tensor, y: Tensor) -> Tensor:
        log_likelihood = Poisson(u.exp()[..., None]).log_prob(y).sum(-1)
        return log_likelihood + prior.log_prob(u)

    by_closure = mlc.log_integrate(closed, LINE, Rule(), batch_shape=(3,))
    by_args = mlc.log_integrate(
        features, LINE, Rule(), args=(counts[:, None],), batch_shape=(3,)
    )
    torch.testing.assert_close(by_closure, by_args, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        by_closure, mlc.log_integrate(closed, LINE, batch_shape=(3,))
    )
    alone = mlc.log_integrate(lambda u: closed(u[..., None])[..., 1], LINE, Rule())
    torch.testing.assert_close(alone, by_closure[1])


def test_single_precision() -> None:
    a, b = (t.detach().float() for t in shapes())
    line = mlc.RealLine()
    for n in (1, None):
        value = mlc.log_integrate(log_gamma_density, line, Rule(n), args=(a, b))
        assert value.dtype == torch.float32
        wanted = (exact if n is None else laplace)(a.double(), b.double())
        torch.testing.assert_close(value.double(), wanted, rtol=2e-6, atol=2e-6)


def test_a_plan_can_be_used_again() -> None:
    a, b = shapes()
    plan = mlc.adapt(log_gamma_density, LINE, Rule(), log=True, args=(a, b))
    value = mlc.log_integrate(log_gamma_density, LINE, plan, args=(a, b * 1.001))
    torch.testing.assert_close(value, exact(a, b * 1.001))


def test_layer_of_an_evidence() -> None:
    a, b = shapes()
    layer = mlc.LogNormalizer(log_gamma_density, LINE, Rule(1))
    assert torch.equal(layer(a, b), with_nodes(1)(a, b))
    assert layer.log and "AdaptiveGaussHermite(n=1)" in repr(layer)
    x = torch.tensor([[0.1, 0.2, 0.3]], dtype=DOUBLE)
    wanted = log_gamma_density(x, a, b) - layer(a, b)
    assert torch.equal(layer.log_prob(x, a, b), wanted)
    shared = mlc.LogNormalizer(log_gamma_density, LINE, Rule(), plan_every=2)
    shared(a, b)
    plan = shared.plan
    torch.testing.assert_close(shared(a, b), exact(a, b))
    assert shared.plan is plan


def test_elements_without_a_mode_are_reported() -> None:
    slope = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    with pytest.warns(mlc.IntegrationWarning, match="1 of 2 integrals"):
        value = mlc.log_integrate(
            lambda x, s: s * x - torch.exp(x) * (1 - s) - x * x * (1 - s),
            LINE,
            Rule(3),
            args=(slope,),
        )
    assert value[0].isfinite()


def test_nan_inside_is_reported() -> None:
    with pytest.warns(mlc.IntegrationWarning, match="1 of 1 integrals"):
        mlc.log_integrate(lambda x: x * torch.nan, LINE, Rule(3))
    estimate = mlc.log_integrate_with_error(
        lambda x: x * torch.nan, LINE, Rule(), on_failure="ignore"
    )
    assert estimate.status != mlc.Status.CONVERGED
    status = mlc.log_integrate_with_error(
        lambda x: x * torch.nan, LINE, Rule(3), on_failure="ignore"
    ).status
    assert status == mlc.Status.NON_FINITE


def test_evaluations_can_be_limited() -> None:
    a, b = shapes()
    with pytest.raises(mlc.IntegrationError, match="tolerance not reached"):
        mlc.log_integrate(
            log_gamma_density,
            LINE,
            Rule(),
            args=(a, b),
            max_evals=40,
            on_failure="raise",
        )


def test_a_step_next_to_the_mode_is_seen() -> None:
    value = mlc.log_integrate(
        lambda x: torch.where(x > 0.1, 0.0, -1.0) - x * x / 2, LINE, Rule()
    )
    below = Normal(0.0, 1.0).cdf(torch.tensor(0.1, dtype=DOUBLE))
    want = (1 - below + below / math.e) * math.sqrt(2 * math.pi)
    assert value.exp().item() == pytest.approx(want.item(), rel=1e-7)


def test_looser_tolerance_takes_fewer_nodes() -> None:
    a, b = shapes()
    counts = [
        mlc.log_integrate_with_error(
            log_gamma_density, LINE, Rule(), args=(a, b), rtol=rtol
        ).n_evals.sum()
        for rtol in (1e-2, 1e-8)
    ]
    assert counts[0] < counts[1] - 100


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Rule(0), ValueError, "n is 0"),
        (lambda: Rule(2.0), TypeError, "n is 2.0"),
        (lambda: mlc.integrate(torch.exp, LINE, Rule()), ValueError, "log_integrate"),
        (
            lambda: mlc.log_integrate(torch.exp, mlc.HalfLine(), Rule()),
            ValueError,
            "over the whole line",
        ),
        (
            lambda: mlc.log_integrate(
                torch.exp, mlc.Interval(torch.zeros(1), 2.0), Rule()
            ),
            ValueError,
            "over the whole line",
        ),
        (
            lambda: mlc.log_integrate(torch.exp, LINE, Rule(), breakpoints=[1.0]),
            ValueError,
            "breakpoints has no effect",
        ),
        (
            lambda: mlc.log_integrate(torch.exp, LINE, Rule(3), rtol=0.1),
            ValueError,
            "rtol, atol and grad_rtol have no effect",
        ),
        (
            lambda: mlc.log_integrate(lambda x: torch.stack([x, x], -1), LINE, Rule(3)),
            ValueError,
            "without event dimensions",
        ),
    ],
)
def test_refusals(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()
