"""Incomplete gamma, beta and Student's t functions, against mpmath and scipy."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import mpmath as mp
import pytest
import torch
from scipy import special as scipy_special
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import torch_mlcalc as mlc
from torch_mlcalc.special.factorial import log_half_step, scaled_log_factorial

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "losses"))
import crps_truth as truth

INF, NAN = math.inf, math.nan
DOUBLE = torch.float64

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Case(NamedTuple):
    """A function, its series in exact arithmetic, and points."""

    function: Callable[..., Tensor]
    exact: truth.Formula
    points: Sequence[tuple[float, ...]]


def upper_beta(a: truth.Number, b: truth.Number, x: truth.Number) -> truth.Number:
    return truth.lower_beta(b, a, 1 - x)


GAMMA = [
    (a, x)
    for a in (1e-8, 1e-3, 0.12, 0.3, 1.6, 40.0, 1e3)
    for x in (1e-4 * a, 0.6 * a, a, a + 4 * a**0.5)
    if x > 0
] + [(1e-6, 0.7), (0.12, 0.99), (0.1, 1e-20)]
BETA = [
    (a, b, x)
    for a, b in ((1e-3, 2.0), (0.4, 0.4), (3.0, 0.01), (7.0, 90.0), (200.0, 30.0))
    for x in (
        1e-3 * a / (a + b),
        0.9 * a / (a + b),
        (a + 0.3 * b) / (a + 1.2 * b),
        1 - 2**-20,
    )
] + [
    (2.0, 1e6, 8e-6),
    (0.5, 1e4, 3e-4),
    # Where the cut starts furthest out, and where the nodes are fewest.
    (192.0, 2785.0, 0.0652),
    (1.0, 352.0, 0.00283),
]
CASES = {
    "gammainc": Case(mlc.special.gammainc, truth.lower_gamma, GAMMA),
    "gammaincc": Case(
        mlc.special.gammaincc, lambda a, x: 1 - truth.lower_gamma(a, x), GAMMA
    ),
    "betainc": Case(mlc.special.betainc, truth.lower_beta, BETA),
    "betaincc": Case(mlc.special.betaincc, upper_beta, BETA),
    "stdtr": Case(
        mlc.special.stdtr,
        truth.student_cdf,
        [(df, t) for df in (0.05, 1.0, 40.0) for t in (1e-9, 0.4, -1.3, 1.5, -6.0)]
        + [(64.0, -1.5), (64.0, -30.0), (300.0, 0.4), (300.0, -6.0), (300.0, -25.0)],
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

#: Below it neither a value nor its derivatives are normal numbers.
SMALLEST = 1e-290


def arguments(case: Case, dtype: torch.dtype = DOUBLE) -> list[Tensor]:
    return [
        torch.tensor(c, dtype=dtype).requires_grad_()
        for c in zip(*case.points, strict=True)
    ]


@cases
def test_values_and_derivatives_are_exact(case: Case) -> None:
    inputs = arguments(case)
    value = case.function(*inputs)
    first = torch.autograd.grad(value.sum(), inputs, create_graph=True)
    second = [
        torch.autograd.grad(f.sum(), x, retain_graph=True)[0]
        for f, x in zip(first, inputs, strict=True)
    ]
    for k, row in enumerate(case.points):
        with mp.workdps(55):
            point = list(map(mp.mpf, row))
            exact = case.exact(*point)
            if exact < SMALLEST:
                assert value[k].item() == pytest.approx(float(exact), abs=SMALLEST)
                continue
            assert value[k].item() == pytest.approx(float(exact), 1e-12, 0), row
            # Both of two tails of mass 1 differ by rounding from it.
            error = 1e-15 if exact > 0.1 else 0.0
            for i, x in enumerate(point):
                step = min(x, 1 - x) if len(row) == 3 and i == 2 else abs(x)
                step *= mp.mpf(10) ** -10
                up, down = (
                    case.exact(*point[:i], x + s, *point[i + 1 :])
                    for s in (step, -step)
                )
                slope, bend = (
                    (up - down) / (2 * step),
                    (up + down - 2 * exact) / step**2,
                )
                close = float(error / abs(x))
                found = first[i][k].item()
                assert found == pytest.approx(float(slope), 3e-12, close), (row, i)
                found = second[i][k].item()
                # The terms that cancel are as large as the square of the slope.
                close = float(error / x**2 + 2e-14 * slope**2 / exact)
                assert found == pytest.approx(float(bend), 1e-10, close), (row, i)


@cases
def test_single_precision_is_that_of_its_arguments(case: Case) -> None:
    narrow = [x.detach() for x in arguments(case, torch.float32)]
    wide = [x.double().requires_grad_() for x in narrow]
    value = case.function(*wide)
    slopes = torch.autograd.grad(value.sum(), wide)
    found = case.function(*narrow)
    assert found.dtype == torch.float32
    # Rounding of the arguments shifts the value by about this much.
    shift = sum((s * x).abs() for s, x in zip(slopes, wide, strict=True))
    error = (found - value).abs()
    some = value > 1e-30
    if "beta" in case.function.__name__:
        # With a small shape the smaller of the two is the difference of the other to 1.
        for shape in narrow[:-1]:
            some &= shape >= 0.4
    assert some.any()
    assert (error <= 2e-6 * (value + shift))[some].all()
    assert (found[value <= 1e-30] <= 1e-29).all()


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_slope_of_student_in_many_degrees_of_freedom_has_its_digits(
    dtype: torch.dtype,
) -> None:
    """Of the size of 1 / df^2; errors of the size of eps / df left nothing of it."""
    for df in (1e6, 1e8, 1e11):
        many = torch.tensor(df, dtype=dtype, requires_grad=True)
        for t in (0.3, -1.0, 1.5, -4.0):
            value = mlc.special.stdtr(many, t)
            (slope,) = torch.autograd.grad(value, many, create_graph=True)
            (bend,) = torch.autograd.grad(slope, many)
            # The first terms of R. A. Fisher, "Expansion of Student's integral" (1925).
            n, t = mp.mpf(many.item()), mp.mpf(t)  # noqa: PLW2901
            first = (t**3 + t) / 4 * mp.npdf(t)
            second = (3 * t**7 - 7 * t**5 - 5 * t**3 - 3 * t) / 96 * mp.npdf(t)
            exact = first / n**2 + 2 * second / n**3
            rel = 1e-5 if dtype == torch.float32 else 1e-7
            assert slope.item() == pytest.approx(float(exact), rel, 0)
            exact = -2 * first / n**3 - 6 * second / n**4
            assert bend.item() == pytest.approx(float(exact), rel, 0)


EDGES = {
    "gammainc": (
        (0.0, 0, 0, 1, 2, 0.5, INF, INF, 1, -1, 1, NAN, 1, 3),
        (0.0, 1, INF, 0, 0, 0, 1, INF, INF, 1, -1, 1, NAN, 1e300),
    ),
    "betainc": (
        (0.0, 0, 0, 1, 2, 0.5, 1, 1, 2, 0.5, INF, 1, INF, -1, 1, 1, NAN),
        (0.0, 1, 1, 0, 3, 3, 0.5, 2, 1, 3, 1, INF, INF, 1, 1, 1, 1),
        (0.5, 1, 0.5, 0.5, 0, 0, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, -0.1, 1.1, 0.5),
    ),
    "stdtr": (
        (1.0, 5, 1e-3, 1e-3, INF, INF, -1, 0, NAN, 1, 1),
        (INF, -INF, INF, -INF, -1, 9, 1, 1, 1, NAN, 0),
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges_are_those_of_scipy(name: str) -> None:
    inputs = [torch.tensor(e, dtype=DOUBLE) for e in EDGES[name]]
    found = getattr(mlc.special, name)(*inputs)
    expected = torch.as_tensor(
        getattr(scipy_special, name)(*(i.numpy() for i in inputs))
    )
    if name == "betainc" and math.isnan(scipy_special.betainc(0.0, 1.0, 0.5)):
        pytest.skip("this SciPy, the last for Python 3.10, has NaN for limits")
    torch.testing.assert_close(found, expected, equal_nan=True)
    if name != "stdtr":
        rest = getattr(mlc.special, name + "c")(*inputs)
        torch.testing.assert_close(rest, 1 - expected, equal_nan=True)


def test_slopes_at_the_edges_are_the_density() -> None:
    a = torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE)
    zero = torch.zeros(3, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(mlc.special.gammainc(a, zero).sum(), zero)
    assert slope.tolist() == [INF, 1.0, 0.0]
    (slope,) = torch.autograd.grad(mlc.special.betainc(a, 3.0, zero).sum(), zero)
    assert slope.tolist() == [INF, 3.0, 0.0]
    one = torch.ones(3, dtype=DOUBLE, requires_grad=True)
    (slope,) = torch.autograd.grad(mlc.special.betainc(3.0, a, one).sum(), one)
    assert slope.tolist() == [INF, 3.0, 0.0]
    far = torch.full((3,), INF, dtype=DOUBLE, requires_grad=True)
    shape = a.clone().requires_grad_()
    value = mlc.special.gammainc(shape, far)
    slopes = torch.autograd.grad(value.sum(), (shape, far))
    assert all(s.tolist() == [0.0, 0.0, 0.0] for s in slopes)


POINTS = {
    "gammainc": ((0.3, 30.0, 0.06), (0.5, 25.0, 0.7)),
    "betainc": ((0.7,), (4.0,), (0.2,)),
    "stdtr": ((1.5, 40.0, 90.0), (-0.3, 2.2, -1.8)),
}


@pytest.mark.parametrize("name", POINTS)
def test_gradients_in_every_mode(name: str) -> None:
    inputs = tuple(torch.tensor(p, dtype=DOUBLE) for p in POINTS[name])
    for tensor in inputs:
        tensor.requires_grad_()
    function = getattr(mlc.special, name)
    mlc.testing.check_gradients(
        lambda *arguments: function(*arguments).sum(),
        inputs,
        compile=False,  # seconds; below
    )


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_student_is_the_same_where_values_cannot_be_read() -> None:
    """Which of two integrals an element needs; else both are taken of all."""
    points = [(0.5, 9.0), (3.0, -2.0), (3.0, 0.1), (70.0, -5.0), (INF, 2.0), (2.0, NAN)]
    df, t = (torch.tensor(c, dtype=DOUBLE) for c in zip(*points, strict=True))
    for rows in (df > 0, df < 3, df > 60):
        pair = df[rows], t[rows]
        every = torch.func.vmap(mlc.special.stdtr)(*pair)
        torch.testing.assert_close(mlc.special.stdtr(*pair), every, equal_nan=True)
        slopes = torch.func.vmap(torch.func.grad(mlc.special.stdtr, (0, 1)))(*pair)
        leaves = [x.clone().requires_grad_() for x in pair]
        found = torch.autograd.grad(mlc.special.stdtr(*leaves).sum(), leaves)
        for ours, theirs in zip(found, slopes, strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)
    trace = torch.jit.trace(mlc.special.stdtr, (df[:2], t[:2]))
    torch.testing.assert_close(
        trace(df[2:4], t[2:4]), mlc.special.stdtr(df[2:4], t[2:4])
    )


def test_compiled_as_one_graph() -> None:
    a, x = (
        torch.tensor(p, dtype=DOUBLE, requires_grad=True) for p in POINTS["gammainc"]
    )
    compiled = torch.compile(mlc.special.gammainc, fullgraph=True, backend="eager")
    found, expected = compiled(a, x), mlc.special.gammainc(a, x)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found.sum(), (a, x)),
        torch.autograd.grad(expected.sum(), (a, x)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_tensors_without_values_have_functions() -> None:
    """Also beside real ones: the nodes of either were those of both."""
    for _ in range(2):
        with FakeTensorMode() as mode:
            a = mode.from_tensor(torch.tensor([0.5, 2.0], dtype=DOUBLE))
            assert isinstance(mlc.special.gammainc(a, 1.0), FakeTensor)
        assert type(mlc.special.gammainc(torch.ones(2, dtype=DOUBLE), 1.0)) is Tensor


def test_arguments_broadcast_and_promote() -> None:
    value = mlc.special.betainc(torch.ones(3, 1), 2, torch.full((4,), 0.5).double())
    assert value.shape == (3, 4)
    assert value.dtype == DOUBLE
    assert mlc.special.gammainc(torch.tensor([1, 2]), 1.0).dtype == torch.float32
    half = torch.tensor([1.0], dtype=torch.bfloat16)
    assert mlc.special.gammainc(half, half).dtype == torch.float32
    assert mlc.special.gammainc(torch.ones(0), 1.0).shape == (0,)


def test_what_is_no_real_number_is_refused() -> None:
    with pytest.raises(TypeError, match="x has dtype torch.complex64; it must be real"):
        mlc.special.gammainc(1.0, torch.ones(1, dtype=torch.complex64))
    for wrong, kind in (("1", "str"), (None, "NoneType"), (True, "bool")):
        with pytest.raises(TypeError, match=f"a is a {kind}; a tensor or a number"):
            mlc.special.betainc(wrong, 1.0, torch.ones(1))


def test_torch_loses_digits_of_a_large_shape() -> None:
    a, x = torch.tensor([1e6, 994e3], dtype=DOUBLE)
    with mp.workdps(30):
        exact = float(truth.lower_gamma(mp.mpf(a.item()), mp.mpf(x.item())))
    assert abs(torch.special.gammainc(a, x).item() / exact - 1) > 1e-7
    assert mlc.special.gammainc(a, x).item() == pytest.approx(exact, rel=2e-12)


@pytest.mark.parametrize("a", [1e-3, 0.4, 3.0, 9.99, 10.0, 200.0])
def test_scaled_gamma_functions_are_exact(a: float) -> None:
    x = torch.tensor(a, dtype=DOUBLE, requires_grad=True)
    with mp.workdps(40):
        formulas = {
            scaled_log_factorial: lambda z: mp.loggamma(1 + z) - z * mp.log(z) + z,
            log_half_step: lambda z: (
                mp.loggamma(z + mp.mpf(1) / 2) - mp.loggamma(z) - mp.log(z) / 2
            ),
        }
        for function, formula in formulas.items():
            value = function(x)
            (first,) = torch.autograd.grad(value, x, create_graph=True)
            (second,) = torch.autograd.grad(first, x)
            for order, found in enumerate((value, first, second)):
                exact = float(mp.diff(formula, mp.mpf(a), order))
                assert found.item() == pytest.approx(exact, 1e-13, 1e-15)
