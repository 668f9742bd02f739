"""The short way of a single integral over a box of numbers, and where it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from problems_nd import GENZ, Problem
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc import testing
from torch_mlcalc.quadrature.cubature.at_once import attempt_at_once

D = torch.float64
SQUARE = mlc.Box(0.0, 1.0, dimension=2)


pytestmark = pytest.mark.usefixtures("double")


ROWS = [row for row in GENZ if row.dimension <= 3]
MORE = [row for row in GENZ if row.dimension > 3 and row.name.endswith("-0.3")]


@pytest.mark.parametrize("row", ROWS + MORE, ids=lambda row: row.name)
def test_the_value_is_that_of_the_search(row: Problem) -> None:
    call = lambda x: row.integrand(x, *row.theta)  # noqa: E731
    estimate = mlc.integrate_with_error(call, row.domain, rtol=1e-4)
    value = mlc.integrate(call, row.domain, rtol=1e-4)
    torch.testing.assert_close(value, estimate.value, rtol=1e-13, atol=0)
    # The short way ends where the search does, or hands over: nothing is done twice.
    attempt = attempt_at_once(call, row.domain, 1e-4, None)
    if attempt is None:
        # Genz and Malik's rule on the whole was not enough, and makes another start.
        assert row.dimension == 8
    elif attempt.value is None:
        assert attempt.begun.left or attempt.begun.step > 1
        assert attempt.spent < estimate.n_evals
    else:
        assert attempt.spent == estimate.n_evals


def test_kinks_on_the_plane_are_found_at_once() -> None:
    row = next(row for row in ROWS if row.name == "continuous-2d-1")
    theta = tuple(t.clone().requires_grad_() for t in row.theta)
    for own in (row.theta, theta):
        call = lambda x, own=own: row.integrand(x, *own)  # noqa: E731
        attempt = attempt_at_once(call, row.domain, 1e-6, None)
        assert attempt.value is not None
        torch.testing.assert_close(attempt.value, row.value(), rtol=1e-6, atol=0)
    for slope, wanted in zip(
        torch.autograd.grad(attempt.value, theta), row.gradient(), strict=True
    ):
        torch.testing.assert_close(slope, wanted, rtol=1e-5, atol=1e-6)


def test_a_kink_that_falls_by_accident_is_not_believed() -> None:
    # The coefficients of 28 nodes are 0.16 times those of 15, after two that fell less.
    a, u = (
        torch.tensor([1.632637179227646, 4.487362820772354]),
        torch.tensor([0.5764153716064826, 0.1937429831018882]),
    )
    f = lambda x: torch.exp(-(a * (x - u).abs()).sum(-1))  # noqa: E731
    exact = ((2 - torch.exp(-a * u) - torch.exp(-a * (1 - u))) / a).prod()
    torch.testing.assert_close(
        mlc.integrate(f, SQUARE, rtol=1e-3), exact, rtol=1e-3, atol=0
    )
    batch = mlc.integrate(
        lambda x, a: torch.exp(-(a * (x - u).abs()).sum(-1)),
        SQUARE,
        args=(a.expand(2, 2),),
        batch_shape=(2,),
        rtol=1e-3,
    )
    torch.testing.assert_close(batch, exact.expand(2), rtol=1e-3, atol=0)


def test_no_point_is_evaluated_twice() -> None:
    row = next(row for row in ROWS if row.name == "continuous-2d-1")
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return row.integrand(x, *row.theta)

    mlc.integrate(f, row.domain, rtol=1e-6)
    points = torch.cat(seen)
    seen.clear()
    estimate = mlc.integrate_with_error(f, row.domain, rtol=1e-6)
    assert len(points) == estimate.n_evals == len(torch.cat(seen))


BOXES = {
    "numbers": (mlc.Box(-1.0, 2.0, dimension=2), 1),
    "lists": (mlc.Box([0, -0.5], [1.5, 2]), 1),
    "reversed": (mlc.Box([1.5, -0.5], [0, 2]), -1),
    "cube": (mlc.Box(0, 1, dimension=3), 1),
}


@pytest.mark.parametrize(("box", "sign"), BOXES.values(), ids=BOXES.keys())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_boxes_and_dtypes(box: mlc.Box, sign: int, dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    value = mlc.integrate(lambda x: torch.exp(x.sum(-1)), box)
    lower, upper = box.corners or ((), ())
    pairs = zip(lower, upper, strict=True)
    exact = math.prod(math.exp(b) - math.exp(a) for a, b in pairs)
    assert value.dtype == dtype
    assert math.copysign(1, exact) == sign
    assert math.isclose(float(value), exact, rel_tol=1e-6)
    assert attempt_at_once(lambda x: x[..., 0], box, None, None) is not None


OTHERS: dict[str, Callable[[], mlc.Box]] = {
    "tensor limits": lambda: mlc.Box(torch.zeros(2), torch.ones(2)),
    "tensors in a list": lambda: mlc.Box([torch.tensor(0.0), 0.0], [1.0, 1.0]),
    "infinite": lambda: mlc.Box(0.0, math.inf, dimension=2),
    "no width": lambda: mlc.Box([0.0, 1.0], [1.0, 1.0]),
    "bent": lambda: mlc.Box([0, 0], [1, lambda x: 1 - x]),
    "one axis": lambda: mlc.Box(0.0, 1.0, dimension=1),
    "nine axes": lambda: mlc.Box(0.0, 1.0, dimension=9),
}


@pytest.mark.parametrize("box", OTHERS.values(), ids=OTHERS.keys())
def test_what_is_more_than_that_goes_the_long_way(box: Callable[[], mlc.Box]) -> None:
    def untouched(x: Tensor) -> Tensor:
        raise AssertionError("nothing is to be evaluated")

    assert attempt_at_once(untouched, box(), None, None) is None


def test_limits_in_a_list_may_change() -> None:
    upper = [1.0, 1.0]
    box = mlc.Box([0.0, 0.0], upper)
    one = lambda x: torch.ones_like(x[..., 0])  # noqa: E731
    assert float(mlc.integrate(one, box)) == pytest.approx(1)
    upper[1] = 3.0
    assert float(mlc.integrate(one, box)) == pytest.approx(3)


def test_gradients_of_closures() -> None:
    theta = torch.tensor([0.7, 1.3], requires_grad=True)

    def call(theta: Tensor) -> Tensor:
        return mlc.integrate(lambda x: torch.exp(-(theta * x).sum(-1)), SQUARE)

    assert attempt_at_once(
        lambda x: torch.exp(-(theta * x).sum(-1)), SQUARE, None, None
    ).value.requires_grad
    exact = lambda t: (-torch.expm1(-t) / t).prod()  # noqa: E731
    wanted = torch.autograd.functional.hessian(exact, theta.detach())
    found = torch.autograd.functional.hessian(call, theta.detach())
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
    testing.check_gradients(call, (theta,), compile=False, float32=False)


@pytest.mark.parametrize("size", [1e-200, 1e200, 1e300])
@pytest.mark.parametrize("d", [2, 3])
def test_values_whose_squares_are_no_numbers(size: float, d: int) -> None:
    rate = torch.full((d,), 3.0)
    for f in (
        lambda x: torch.exp(-(rate * x).sum(-1)),
        lambda x: torch.exp(-(rate * (x - 0.4).abs()).sum(-1)),
    ):
        box = mlc.Box(0.0, 1.0, d)
        wanted = mlc.integrate(f, box, rtol=1e-6) * size
        sized = lambda x, f=f: size * f(x)  # noqa: E731
        for value in (
            mlc.integrate(sized, box, rtol=1e-6),
            mlc.integrate_with_error(sized, box, rtol=1e-6).value,
        ):
            torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
        sizes = torch.tensor([size, size])
        batch = mlc.integrate(
            lambda x, size, f=f: size * f(x), box, args=(sizes,), rtol=1e-6
        )
        torch.testing.assert_close(batch, wanted.expand(2), rtol=1e-6, atol=0)


def test_no_gradient_where_none_is_wanted() -> None:
    theta = torch.tensor(0.7, requires_grad=True)
    with torch.no_grad():
        value = mlc.integrate(lambda x: torch.exp(-theta * x.sum(-1)), SQUARE)
    assert not value.requires_grad
    with torch.inference_mode():
        assert mlc.integrate(lambda x: x.sum(-1), SQUARE).is_inference()
    assert not mlc.integrate(lambda x: x.sum(-1), SQUARE).is_inference()


def test_transforms_and_forward_mode() -> None:
    theta = torch.tensor([0.7, 1.3])
    f = lambda t: mlc.integrate(  # noqa: E731
        lambda x: torch.exp(-t * x.sum(-1)), SQUARE
    )
    wanted = torch.stack([f(t) for t in theta])
    torch.testing.assert_close(torch.func.vmap(f)(theta), wanted)
    _, slope = torch.func.jvp(f, (theta[0],), (torch.ones(()),))
    torch.testing.assert_close(slope, torch.func.grad(f)(theta[0]), rtol=1e-8, atol=0)


def test_an_integrand_may_write_to_its_points() -> None:
    def f(x: Tensor) -> Tensor:
        return x.mul_(2).sum(-1)

    assert [float(mlc.integrate(f, SQUARE)) for _ in range(2)] == pytest.approx([2, 2])


VALUES: dict[str, tuple[Callable[[Tensor], Tensor], complex | list[float]]] = {
    "complex": (lambda x: torch.exp(1j * x[..., 0]), 0.8414709848 + 0.4596976941j),
    "events": (lambda x: torch.stack([x[..., 0], x[..., 1] ** 2], -1), [1 / 2, 1 / 3]),
    "integers": (lambda x: (x[..., 0] > 2).long() + 3, 3.0),
    "half": (lambda x: torch.full_like(x[..., 0], 2.0).half(), 2.0),
    "zeros": (lambda x: torch.zeros_like(x[..., 0]), 0.0),
}


@pytest.mark.parametrize(("f", "wanted"), VALUES.values(), ids=VALUES.keys())
def test_values_of_all_kinds(
    f: Callable[[Tensor], Tensor], wanted: complex | list[float]
) -> None:
    found = mlc.integrate(f, SQUARE)
    torch.testing.assert_close(
        found, torch.tensor(wanted, dtype=found.dtype), rtol=1e-7, atol=1e-12
    )


def test_a_number_that_is_not_finite_is_reported() -> None:
    with pytest.raises(mlc.IntegrationError, match="non finite"):
        mlc.integrate(
            lambda x: torch.where(x[..., 0] > 0.4, math.nan, 1.0),
            SQUARE,
            max_evals=5_000,
            on_failure="raise",
        )
    with pytest.warns(mlc.IntegrationWarning, match="non finite") as record:
        mlc.integrate(lambda x: 1 / (x[..., 0] - x[..., 0]), SQUARE)
    assert record[0].filename == __file__


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rtol": -1.0}, "rtol"), ({"on_failure": "shout"}, "on_failure")],
    ids=["rtol", "on_failure"],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlc.integrate(lambda x: x.sum(-1), SQUARE, **settings)


#: Whose error was above the tolerance it was said to meet: a kink of which 15 nodes see
#: little by accident, waves that 8 nodes do not resolve, a jump before the first node.
CLAIMS = {
    "kink": ("continuous", (4.5208, 1.5992), (0.8988, 0.2578), 1e-3),
    "waves": ("oscillatory", (29.928, 6.072), (0.6749, 0.9351), 0.1),
    "jump": ("discontinuous", (3.8735, 7.5922, 5.7343), (0.0159, 0.9152, 0.9173), 1e-6),
}


@pytest.mark.parametrize(
    ("family", "a", "u", "rtol"), CLAIMS.values(), ids=CLAIMS.keys()
)
def test_accidents_are_not_believed(
    family: str, a: tuple[float, ...], u: tuple[float, ...], rtol: float
) -> None:
    from problems_nd import FAMILIES

    f, exact, _ = FAMILIES[family]
    theta = torch.tensor(a), torch.tensor(u)
    wanted = exact(*theta)
    box = mlc.Box(0.0, 1.0, dimension=len(a))
    both = tuple(torch.stack([t, t]) for t in theta)
    for value in (
        mlc.integrate(lambda x: f(x, *theta), box, rtol=rtol),
        *mlc.integrate(f, box, args=both, batch_shape=(2,), rtol=rtol),
    ):
        assert abs(value - wanted) <= rtol * abs(wanted)
