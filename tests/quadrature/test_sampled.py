"""Simpson's rule on samples, against scipy and polynomials."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

COUNTS = [1, 2, 3, 4, 5, 8, 11]


def samples(n: int) -> tuple[Tensor, Tensor]:
    x = torch.linspace(0, 1, n, dtype=torch.float64)
    return torch.randn(2, n, 3, dtype=torch.float64), x + x**2


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("spaced", ["equal", "x", "x like y", "decreasing"])
def test_same_numbers_as_scipy(n: int, spaced: str) -> None:
    y, x = samples(n)
    if spaced == "equal":
        ours = mlc.simpson(y, dx=0.3, dim=1)
        theirs = scipy.integrate.simpson(y.numpy(), dx=0.3, axis=1)
    else:
        x = -x if spaced == "decreasing" else x
        x = x[None, :, None].expand_as(y) if spaced == "x like y" else x
        ours = mlc.simpson(y, x, dim=1)
        theirs = scipy.integrate.simpson(y.numpy(), x=x.numpy(), axis=1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("n", COUNTS[1:])
@pytest.mark.parametrize("spaced", ["equal", "x", "x like y"])
def test_running_integral_as_scipy(n: int, spaced: str) -> None:
    y, x = samples(n)
    x = x[None, :, None].expand_as(y) if spaced == "x like y" else x
    if spaced == "equal":
        ours = mlc.cumulative_simpson(y, dx=0.3, dim=1)
        theirs = scipy.integrate.cumulative_simpson(y.numpy(), dx=0.3, axis=1)
        whole = mlc.simpson(y, dx=0.3, dim=1)
    else:
        ours = mlc.cumulative_simpson(y, x, dim=1)
        theirs = scipy.integrate.cumulative_simpson(y.numpy(), x=x.numpy(), axis=1)
        whole = mlc.simpson(y, x, dim=1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(ours[:, -1], whole)


@pytest.mark.parametrize("function", [mlc.simpson, mlc.cumulative_simpson])
@pytest.mark.parametrize("n", [8, 2001])
def test_half_precision_is_rounded_once(
    function: Callable[..., Tensor], n: int
) -> None:
    y = 1 + torch.rand(3, n).bfloat16()
    x = torch.linspace(0, 1, n).bfloat16().sort().values
    for given in ({"x": x}, {"dx": 0.01}):
        exact = {name: x.double() if name == "x" else x for name, x in given.items()}
        wanted = function(y.double(), **exact)
        found = function(y, **given)
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=0)


def test_autocast_takes_no_digits() -> None:
    y = 1 + torch.rand(3, 101)
    wanted = mlc.simpson(y, dx=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mlc.simpson(y, dx=0.01)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("function", [mlc.simpson, mlc.cumulative_simpson])
def test_compiled_and_mapped(function: Callable[..., Tensor]) -> None:
    y = torch.rand(4, 6, dtype=torch.float64)
    x = torch.tensor([0.0, 0.1, 0.3, 0.8, 0.9, 1.5], dtype=torch.float64)
    for call in (lambda y: function(y, dx=0.1), lambda y: function(y, x)):
        torch.testing.assert_close(torch.func.vmap(call)(y), call(y))
        compiled = torch.compile(call, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(y), call(y))


@pytest.mark.parametrize("n", [5, 8])
def test_exact_for_parabolas_and_not_beyond(n: int) -> None:
    x = samples(n)[1]
    for degree in range(3):
        error = mlc.cumulative_simpson(x**degree, x) - x[1:] ** (degree + 1) / (
            degree + 1
        )
        assert error.abs().max() < 1e-14
    error = mlc.simpson(x**4, x) - x[-1] ** 5 / 5
    assert error.abs() > 1e-5


def test_default_spacing_is_one() -> None:
    y = torch.tensor([0.0, 1.0, 4.0])
    assert mlc.simpson(y).item() == pytest.approx(8 / 3)


def test_complex_values() -> None:
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    value = mlc.simpson(torch.exp(1j * x), x)
    assert value.item() == pytest.approx((np.exp(1j) - 1) / 1j)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("function", [mlc.simpson, mlc.cumulative_simpson])
def test_gradients_in_values_and_positions(function: object) -> None:
    x = torch.tensor([0.0, 0.5, 0.7, 1.5], dtype=torch.float64, requires_grad=True)
    y = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    check_gradients(lambda y: function(y, x), y)
    check_gradients(lambda y: function(y, dx=0.3), y)
    torch.autograd.gradcheck(function, (y, x))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("jumps", [(0.0,), (0.6,), (1.5,), (0.0, 0.6, 0.6, 1.5)])
def test_a_position_that_is_there_twice_is_a_jump(
    jumps: tuple[float, ...], sign: int
) -> None:
    x = sign * torch.tensor(sorted([0.0, 0.6, 1.0, 1.5, *jumps]), dtype=torch.float64)
    x.requires_grad_()
    # Lines between jumps, of which parabolas have no other integral than trapezoids.
    level = x.detach().diff(prepend=x[:1].detach()).eq(0).cumsum(0)
    y = (3 * level + 2 * x.detach()).requires_grad_()
    ours = mlc.cumulative_simpson(y, x)
    torch.testing.assert_close(ours, torch.cumulative_trapezoid(y, x))
    torch.testing.assert_close(mlc.simpson(y, x), torch.trapezoid(y, x))
    for slope in torch.autograd.grad(ours.sum(), (y, x)):
        assert slope.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (([1.0],), {}, TypeError, "y is a list"),
        ((torch.arange(3),), {}, TypeError, "y has dtype torch.int64"),
        ((torch.rand(3), torch.arange(3)), {}, TypeError, "x has dtype"),
        ((torch.tensor(1.0),), {}, ValueError, r"y has shape \(\)"),
        ((torch.rand(2, 0),), {}, ValueError, "at least one sample along dim=-1"),
        ((torch.rand(3), torch.rand(3)), {"dx": 1.0}, ValueError, "both x and dx"),
        ((torch.rand(3), torch.rand(4)), {}, ValueError, "as many along dim"),
        ((torch.rand(2, 3), torch.rand(5, 3)), {}, ValueError, "as many along dim"),
        ((torch.rand(2, 2, 3), torch.rand(2, 3)), {}, ValueError, "one dimension"),
    ],
)
def test_refusals(
    arguments: tuple[object, ...],
    settings: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        mlc.simpson(*arguments, **settings)
