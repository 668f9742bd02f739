"""Gradients to a tolerance of their own: right where nodes for the value are not."""

import math
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

import torch_mlcalc.quadrature as q
from torch_mlcalc.layers import Integral

GRAD_RTOL = 1e-7


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def step(x: Tensor, place: Tensor, sharpness: float = 1e6) -> Tensor:
    """All of its derivative in place is within a millionth of that place."""
    return torch.sigmoid(sharpness * (x - place))


def log_peak(x: Tensor, place: Tensor) -> Tensor:
    return -(((x - place) / 1e-3) ** 2) / 2 + 300 * x


def _slope(value: Tensor, place: Tensor) -> Tensor:
    return torch.autograd.grad(value.sum(), place)[0]


PLACES = [0.37, 0.53, 0.9]


@pytest.mark.parametrize("through", ["closure", "args", "batched_closure"])
@pytest.mark.parametrize(
    "rule", [None, q.GaussKronrod(15)], ids=["default", "gauss_kronrod"]
)
def test_gradient_is_right_where_the_value_alone_misses_it(
    rule: q.Rule | None, through: str
) -> None:
    place = torch.tensor(0.37 if through == "closure" else PLACES, requires_grad=True)
    kwargs = {"args": (place,)} if through == "args" else {"batch_shape": place.shape}

    def integrand(x: Tensor, *args: Tensor) -> Tensor:
        return step(x, *(args or (place,)))

    def solve(**how: float) -> q.Estimate:
        return q.integrate_with_error(
            integrand, q.Interval(0, 1), rule, rtol=1e-3, **how, **kwargs
        )

    alone, both = solve(), solve(grad_rtol=GRAD_RTOL)
    assert (_slope(alone.value, place) + 1).abs().max() > 0.01
    torch.testing.assert_close(
        _slope(both.value, place), -torch.ones_like(place), rtol=10 * GRAD_RTOL, atol=0
    )
    assert (both.status == q.Status.CONVERGED).all()
    assert both.error.shape == both.value.shape == place.shape
    assert (both.n_evals > alone.n_evals).all()


def test_gradient_of_a_parameter_shared_by_a_batch() -> None:
    place, shift = torch.tensor(PLACES), torch.tensor(0.01, requires_grad=True)
    value = q.integrate(
        lambda x, place: step(x, place + shift),
        q.Interval(0, 1),
        args=(place,),
        rtol=1e-3,
        grad_rtol=GRAD_RTOL,
    )
    assert float(_slope(value, shift)) == pytest.approx(-3, rel=10 * GRAD_RTOL)


@pytest.mark.parametrize("batched", [False, True])
def test_gradient_of_a_log_integral(batched: bool) -> None:
    place = torch.tensor(PLACES if batched else 0.37, requires_grad=True)
    value = q.log_integrate(
        log_peak, q.RealLine(), args=(place,), rtol=1e-2, grad_rtol=GRAD_RTOL
    )
    torch.testing.assert_close(
        _slope(value, place), torch.full_like(place, 300.0), rtol=GRAD_RTOL, atol=0
    )


def test_gradient_on_unbounded_domains() -> None:
    rate = torch.tensor([0.3, 5.0, 40.0], requires_grad=True)
    value = q.integrate(
        lambda x, rate: torch.exp(-x * x) * torch.cos(rate.log() * x),
        q.RealLine(),
        args=(rate,),
        rtol=1e-2,
        grad_rtol=GRAD_RTOL,
    )
    exact = math.sqrt(math.pi) * torch.exp(-(rate.log() ** 2) / 4)
    torch.testing.assert_close(
        _slope(value, rate), _slope(exact, rate), rtol=10 * GRAD_RTOL, atol=0
    )


def test_the_result_can_be_differentiated_again() -> None:
    place = torch.tensor(0.37, requires_grad=True)
    value = q.integrate(
        lambda x: torch.sigmoid(200 * (x - place)) ** 2,
        q.Interval(0, 1),
        rtol=1e-2,
        grad_rtol=1e-10,
    )
    (first,) = torch.autograd.grad(value, place, create_graph=True)
    (second,) = torch.autograd.grad(first, place)
    assert first.item() == pytest.approx(-1, rel=1e-9)
    assert abs(second.item()) < 1e-4


def test_a_plan_for_the_gradient_replays_it_also_in_transforms() -> None:
    place = torch.tensor(0.37, requires_grad=True)
    domain = q.Interval(0, 1)
    plan = q.adapt(lambda x: step(x, place), domain, rtol=1e-3, grad_rtol=GRAD_RTOL)
    slope = torch.func.grad(lambda p: q.integrate(lambda x: step(x, p), domain, plan))
    assert float(slope(place.detach())) == pytest.approx(-1, rel=10 * GRAD_RTOL)


def test_layers_pass_the_tolerance_on() -> None:
    place = torch.tensor(0.37, requires_grad=True)
    layer = Integral(step, q.Interval(0, 1), rtol=1e-3, grad_rtol=GRAD_RTOL)
    assert float(_slope(layer(place), place)) == pytest.approx(-1, rel=10 * GRAD_RTOL)


def test_without_a_gradient_nothing_is_searched_twice() -> None:
    place, calls = torch.tensor(0.37, requires_grad=True), []

    def integrand(x: Tensor) -> Tensor:
        calls.append(len(x))
        return step(x, place)

    counts = []
    for how in ({}, {"grad_rtol": GRAD_RTOL}):
        calls.clear()
        with torch.no_grad():
            q.integrate_with_error(integrand, q.Interval(0, 1), rtol=1e-3, **how)
        counts.append(sum(calls))
    assert counts[0] == counts[1]


def test_the_points_of_every_search_are_counted() -> None:
    place = torch.tensor(0.2, requires_grad=True)

    def solve(**how: float) -> q.Estimate:
        return q.integrate_with_error(
            lambda x: step(x, place, 300.0), q.Interval(0, 1), q.GaussKronrod(), **how
        )

    alone, both = solve(rtol=0.5), solve(rtol=0.5, grad_rtol=GRAD_RTOL)
    # One to find the direction, and two at least until it stands still.
    assert both.n_evals >= alone.n_evals + 2 * both.plan.n
    assert both.plan.n_evals == both.n_evals


def test_no_gradient_is_left_behind() -> None:
    place = torch.tensor(0.37, requires_grad=True)
    q.integrate(
        lambda x: step(x, place), q.Interval(0, 1), rtol=1e-3, grad_rtol=GRAD_RTOL
    )
    assert place.grad is None


def test_a_gradient_of_zero_counts_as_found() -> None:
    place = torch.tensor([0.2, 0.5], requires_grad=True)
    estimate = q.log_integrate_with_error(
        lambda x, place: -(((x - place) / 0.01) ** 2) / 2,
        q.Interval(0, 1),
        args=(place,),
        rtol=1e-2,
        grad_rtol=1e-8,
    )
    assert (estimate.status == q.Status.CONVERGED).all()
    # The peak is far from both ends; each half of the slope is 80 / 2.
    assert _slope(estimate.value, place).abs().max() < 1e-8


def test_a_slope_met_by_a_single_node_is_not_reported_as_converged() -> None:
    # Around the middle the step is odd: its value is exact, and all of its slope lies
    # between the nodes of any symmetric rule but for the one in the middle.
    place = torch.tensor(0.5, requires_grad=True)
    estimate = q.integrate_with_error(
        lambda x: step(x, place, 1e9),
        q.Interval(0, 1),
        rtol=1e-3,
        grad_rtol=GRAD_RTOL,
        on_failure="ignore",
    )
    assert estimate.status == q.Status.TOLERANCE_NOT_REACHED
    assert estimate.plan.status == q.Status.TOLERANCE_NOT_REACHED


@pytest.mark.parametrize("place", [0.5, 0.25001])
def test_a_slope_where_cells_meet_is_found(place: float) -> None:
    at = torch.tensor(place, requires_grad=True)
    estimate = q.integrate_with_error(
        lambda x: step(x, at, 1e7), q.Interval(0, 1), rtol=1e-3, grad_rtol=GRAD_RTOL
    )
    assert _slope(estimate.value, at).item() == pytest.approx(-1, rel=GRAD_RTOL)


def test_a_budget_that_does_not_suffice_is_reported_at_the_call() -> None:
    place = torch.tensor(0.37, requires_grad=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimate = q.integrate_with_error(
            lambda x: step(x, place),
            q.Interval(0, 1),
            rtol=1e-3,
            grad_rtol=GRAD_RTOL,
            max_evals=450,
        )
    assert estimate.status != q.Status.CONVERGED
    (warning,) = caught
    assert warning.category is q.IntegrationWarning
    assert "must converge as well" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda p: q.integrate(step, q.Interval(0, 1), args=(p,), grad_rtol="1"),
            TypeError,
            "grad_rtol is a str; a number is wanted",
        ),
        (
            lambda p: q.integrate(step, q.Interval(0, 1), args=(p,), grad_rtol=-1.0),
            ValueError,
            "grad_rtol is -1.0; a finite number, 0 or more, is wanted",
        ),
        (
            lambda p: q.integrate(
                step, q.Interval(0, 1), q.GaussLegendre(5), args=(p,), grad_rtol=0.1
            ),
            ValueError,
            "grad_rtol have no effect with GaussLegendre",
        ),
        (
            lambda p: q.integrate(
                lambda x: torch.exp(1j * p * x), q.Interval(0, 1), grad_rtol=0.1
            ),
            ValueError,
            "grad_rtol needs a real integrand, this one is complex",
        ),
        (
            torch.func.grad(
                lambda p: q.integrate(step, q.Interval(0, 1), args=(p,), grad_rtol=0.1)
            ),
            ValueError,
            "torch.func, forward mode and torch.compile do not show; make a plan",
        ),
    ],
    ids=["type", "value", "fixed", "complex", "transform"],
)
def test_refusals(
    call: Callable[[Tensor], Tensor], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(torch.tensor(0.3, requires_grad=True))
