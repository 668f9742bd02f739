"""Where other libraries lose digits or gradients, and that ours are right there.

Each test has two halves: the fault as the peer of the pinned version shows it, and our
answer to the same question. When a peer mends its fault the first half fails, and goes.
"""

import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from scipy import integrate as scipy_integrate
from torch import Tensor

import torch_mlcalc.quadrature as q

RATE = 1.5
#: The integral of exp(rate x) over (0, 1), and its derivative in the rate.
AREA = math.expm1(RATE) / RATE
SLOPE = (math.exp(RATE) - AREA) / RATE


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def _import(name: str) -> object:
    """A peer, whose own deprecations are none of our business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def _growth(rate: Tensor) -> Callable[[Tensor], Tensor]:
    """An integrand that ends in exp and closes over its parameter."""
    return lambda x: torch.exp(rate * x)


def _assert_ours_is_right(rule: q.Rule | None) -> None:
    rate = torch.tensor(RATE, requires_grad=True)
    value = q.integrate(_growth(rate), q.Interval(0.0, 1.0), rule)
    (slope,) = torch.autograd.grad(value, rate)
    assert value.item() == pytest.approx(AREA, rel=1e-13)
    assert slope.item() == pytest.approx(SLOPE, rel=1e-13)


# Its own copy of a tensor.
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
def test_torchquad_cannot_differentiate_an_integrand_that_ends_in_exp() -> None:
    torchquad = _import("torchquad")
    rate = torch.tensor(RATE, requires_grad=True)
    value = torchquad.GaussLegendre().integrate(
        lambda x: _growth(rate)(x[:, 0]),
        dim=1,
        N=16,
        integration_domain=[[0.0, 1.0]],
        backend="torch",
    )
    assert value.item() == pytest.approx(AREA, rel=1e-6)
    # It multiplies the integrand's output by the weights in place.
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value, rate)
    _assert_ours_is_right(q.GaussLegendre(16))


def test_torchquad_changes_the_default_dtype_of_the_process() -> None:
    _import("torchquad")
    # In a process of its own, which may be spoiled.
    program = """
import torch, torch_mlcalc, torchquad
print(torch_mlcalc.integrate(torch.exp, torch_mlcalc.Interval(0, 1)).dtype)
print(torch.get_default_dtype())
torchquad.set_up_backend("torch", data_type="float64")
print(torch.get_default_dtype())
"""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.split()[-3:] == ["torch.float32", "torch.float32", "torch.float64"]


def test_xitorch_loses_the_gradient_of_a_closure() -> None:
    xitorch = _import("xitorch.integrate")
    rate = torch.tensor(RATE, requires_grad=True)
    value = xitorch.quad(_growth(rate), torch.tensor(0.0), torch.tensor(1.0))
    assert value.item() == pytest.approx(AREA, rel=1e-6)
    assert not value.requires_grad
    _assert_ours_is_right(None)


def test_zuko_loses_the_gradient_of_a_closure() -> None:
    zuko = _import("zuko.utils")
    rate = torch.tensor(RATE, requires_grad=True)
    lower = torch.tensor(0.0, requires_grad=True)
    value = zuko.gauss_legendre(_growth(rate), lower, torch.tensor(1.0), 16)
    assert value.item() == pytest.approx(AREA, rel=1e-12)
    # The limit has its gradient, so nothing seems to be amiss.
    slopes = torch.autograd.grad(value, (rate, lower), allow_unused=True)
    assert slopes[0] is None
    assert slopes[1].item() == pytest.approx(-1)
    _assert_ours_is_right(q.GaussLegendre(16))


def test_gpytorch_keeps_float32_nodes_in_double() -> None:
    quadrature = _import("gpytorch.utils.quadrature")
    normal = torch.distributions.Normal(torch.tensor(0.0), torch.tensor(1.0))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        theirs = quadrature.GaussHermiteQuadrature1D(20)
    finally:
        torch.set_default_dtype(before)
    moment = theirs.double()(torch.square, normal)
    assert moment.dtype == torch.float64
    assert 1e-8 < abs(moment.item() - 1) < 1e-6

    ours = q.integrate(
        lambda x: x**2 * normal.log_prob(x).exp(), q.RealLine(), q.GaussHermite(20)
    )
    assert ours.item() == pytest.approx(1, abs=1e-14)


def test_scipy_quad_claims_success_where_it_saw_nothing() -> None:
    def gaussian(x: Tensor) -> Tensor:
        return torch.exp(-0.5 * (x - 1000) ** 2)

    value, error, _, *message = scipy_integrate.quad(
        lambda x: float(gaussian(torch.tensor(x))),
        -math.inf,
        math.inf,
        full_output=True,
    )
    assert abs(value) < 1e-100
    assert error < 1e-100
    assert not message

    ours = q.integrate_with_error(gaussian, q.RealLine(), rtol=1e-8)
    assert ours.status == q.Status.CONVERGED
    assert ours.value.item() == pytest.approx(math.sqrt(2 * math.pi), rel=1e-8)


def test_scipy_tanhsinh_claims_success_on_a_kink() -> None:
    def kink(x: Tensor) -> Tensor:
        return (x - 0.62).relu()

    exact = 0.38**2 / 2
    theirs = scipy_integrate.tanhsinh(
        lambda x: kink(torch.as_tensor(x)).numpy(), 0.0, 1.0, rtol=1e-8, atol=0.0
    )
    assert theirs.success
    assert abs(theirs.integral / exact - 1) > 1e-6

    ours = q.integrate_with_error(kink, q.Interval(0.0, 1.0), rtol=1e-8)
    assert ours.status == q.Status.CONVERGED
    assert ours.value.item() == pytest.approx(exact, rel=1e-7)
