"""A larger rule and lines in one call, and what is concluded from them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems_nd import continuous, continuous_exact, genz
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.quadrature.cubature.along import Lines, Probe, look_along
from torch_mlcalc.quadrature.cubature.climbed import Sum, Terms
from torch_mlcalc.quadrature.cubature.grid import nodes_of
from torch_mlcalc.quadrature.cubature.grown import OnGrid, grow
from torch_mlcalc.quadrature.cubature.grown import _judged as judged
from torch_mlcalc.quadrature.cubature.kinks import eased
from torch_mlcalc.quadrature.cubature.ladder import stage_of
from torch_mlcalc.quadrature.cubature.meeting import meeting
from torch_mlcalc.quadrature.cubature.regions import resolved
from torch_mlcalc.quadrature.estimate import Tolerance

Function = Callable[[np.ndarray], np.ndarray]

pytestmark = pytest.mark.usefixtures("double")

CALLS = [
    # The first two rules, the next with lines, and those between kinks.
    ("continuous", 2, 1.0, 1e-3, 3),
    ("continuous", 3, 0.3, 1e-3, 3),
    # A jump is looked at again.
    ("discontinuous", 2, 0.3, 1e-3, 4),
    # The rule of 13 nodes is enough, or tells the one that is.
    ("gaussian", 3, 1.0, 1e-6, 2),
    ("gaussian", 3, 2.0, 1e-3, 2),
    ("product_peak", 3, 1.0, 1e-6, 2),
    ("product_peak", 3, 2.0, 1e-3, 3),
    ("product_peak", 3, 2.0, 1e-6, 3),
]


@pytest.mark.parametrize(
    ("family", "d", "difficulty", "rtol", "calls"),
    CALLS,
    ids=[f"{row[0]}-{row[1]}d-{row[2]:g}-{row[3]:g}" for row in CALLS],
)
def test_few_calls_are_enough(
    family: str, d: int, difficulty: float, rtol: float, calls: int
) -> None:
    row, sizes = genz(family, d, difficulty), []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return row.integrand(x, *row.theta)

    value, exact = mlc.integrate(f, row.domain, rtol=rtol), row.value()
    assert abs(value - exact) <= rtol * abs(exact)
    assert len(sizes) == calls
    theta = tuple(t.clone().requires_grad_() for t in row.theta)
    value = mlc.integrate(lambda x: row.integrand(x, *theta), row.domain, rtol=rtol)
    if row.differentiable:
        for found, wanted in zip(
            torch.autograd.grad(value, theta), row.gradient(), strict=True
        ):
            size = wanted.abs().max() + exact.abs()
            assert (found - wanted).abs().max() <= 10 * rtol * size


def test_a_slope_is_that_of_the_rule_where_lines_were_looked_at_again() -> None:
    rate, sizes = torch.tensor(5.0, requires_grad=True), []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        bump = torch.exp(-((rate * (x - 0.4)) ** 2)).prod(-1)
        # For a kink on a first line, which has no part in the integral.
        return bump + 0.01 * torch.tanh(100 * (x[:, 0] - 0.5))

    value = mlc.integrate(f, mlc.Box(0.0, 1.0, dimension=2), rtol=1e-2)
    assert sizes == [80, 739, 513, 225]
    own = (torch.erf(0.4 * rate) + torch.erf(0.6 * rate)) * math.sqrt(math.pi) / 2
    (wanted,) = torch.autograd.grad((own / rate) ** 2, rate)
    (slope,) = torch.autograd.grad(value, rate)
    torch.testing.assert_close(slope, wanted, rtol=1e-2, atol=0)


def test_beside_jumps_small_rules_come_first() -> None:
    row, sizes = genz("discontinuous", 2, 0.3), []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return row.integrand(x, *row.theta)

    mlc.integrate(f, row.domain, rtol=1e-3)
    # 4 and 8 nodes on each axis in 4 parts. The last coefficients on the whole say 15.
    assert sizes[-1] == 4 * (4**2 + 8**2)


def test_rounding_is_no_kink() -> None:
    sizes = []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        one = torch.cos(20 * x[:, 1]).square() + torch.sin(20 * x[:, 1]).square()
        return torch.where(x[:, 0] > 0.3, torch.exp(x[:, 0]), 0.0) * one

    # Reversed, of which the sign of a sum over parts tells.
    value = mlc.integrate(f, mlc.Box([1.0, 0.0], [0.0, 1.0]), rtol=1e-6)
    assert float(value) == pytest.approx(math.exp(0.3) - math.e, rel=1e-6)
    assert sizes[-1] == 2 * (4**2 + 8**2)


def test_lines_are_heard_where_coefficients_fall_by_accident() -> None:
    # Rules of 8, 15 and 28 nodes agree; they are off by 12 times the tolerance.
    a, u = torch.tensor([1.9, 3.1]), torch.tensor([0.001, 0.762])
    value = mlc.integrate(
        lambda x: continuous(x, a, u), mlc.Box(0.0, 1.0, dimension=2), rtol=1e-4
    )
    torch.testing.assert_close(value, continuous_exact(a, u), rtol=1e-4, atol=0)


@pytest.mark.parametrize("d", [2, 3, 4])
def test_sums_axis_by_axis_are_those_of_all_nodes(d: int) -> None:
    stage = stage_of(2, d, first=False)
    values = np.random.default_rng(0).standard_normal(stage.n)
    mean, *last = stage.rows @ values
    found = resolved(values, stage.axes)
    np.testing.assert_allclose(found[0], mean, rtol=1e-12)
    # There both coefficients along an axis one after another, here first one of all.
    wanted = np.reshape(last, (2, d)).T.ravel()
    np.testing.assert_allclose(found[1:], wanted, rtol=1e-12)


AT = eased((0.5 + np.arange(257)) / 257)


def met(f: Function, enough: float = 1e-6) -> float | None:
    values = f(AT)
    second = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
    return meeting(AT, values, second, int(second.argmax()), enough)


@pytest.mark.parametrize("off", [0.0, 5e-6, -5e-6, 2e-5, -2e-5, 1e-4, 1e-3])
def test_a_kink_is_found_near_any_point(off: float) -> None:
    place = float(AT[100]) + off
    found = met(lambda t: np.exp(-3 * np.abs(t - place)))
    assert found == pytest.approx(place, abs=2e-9)
    # Between steps of 6e-3 that is a millionth of one.
    bent = met(lambda t: np.abs(t - place) * np.exp(t))
    assert bent == pytest.approx(place, abs=2e-9)


@pytest.mark.parametrize(
    "f",
    [
        lambda t: np.where(t < 0.3, 1.0, 2 + t),
        lambda t: np.where(t < 0.3, 0.0, np.exp(t)),
        lambda t: np.exp(3 * t),
        lambda t: 1 / (1e-6 + (t - 0.3) ** 2),
        lambda t: np.sqrt(np.abs(t - 0.3)),
        lambda t: np.abs(t - 1e-4),
    ],
    ids=["jump", "edge", "smooth", "needle", "root", "end"],
)
def test_what_is_no_kink_does_not_meet(f: Function) -> None:
    assert met(f) is None


def test_no_less_is_believed_than_is_asked_for() -> None:
    kink = lambda t: np.exp(-30 * np.abs(t - 0.3))  # noqa: E731
    assert met(kink, 1e-3) == pytest.approx(0.3, abs=1e-4)
    assert met(kink, 1e-9) is None


def probe_of(f: Function, rtol: float) -> Probe:
    terms = Terms(3, Tolerance.of(rtol, None, torch.float64), 2.0**-52)
    return Probe(f, terms, 1.0, 10**6, 30_000)


def grown(f: Function, rtol: float, n: int = 13) -> tuple[float, float] | None:
    """Value and error by a grid of so many nodes on each axis."""
    probe = probe_of(f, rtol)
    nodes = nodes_of((n,) * 3).T
    values = f(nodes)
    mean = float(np.abs(values).mean())

    def lines() -> Lines:
        base, whole = nodes[None, values.argmax()], [[0.0, 1.0]] * 3
        found = look_along(probe, base, whole, Sum(mean, 0.0, mean))
        assert found is not None
        return found

    found = grow(probe, OnGrid.of(values, (n,) * 3), lines)
    return found and (float(found.columns[0, 0]), float(found.columns[1, 0]))


def peak(a: list[float], u: list[float]) -> tuple[Function, float]:
    scale, centre = np.array(a), np.array(u)
    f = lambda x: (1 / (scale**-2 + (x - centre) ** 2)).prod(-1)  # noqa: E731
    both = np.arctan(scale * (1 - centre)) + np.arctan(scale * centre)
    return f, float((scale * both).prod())


@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-6])
def test_a_grid_grows_as_far_as_it_has_to(rtol: float) -> None:
    f, exact = peak([4.0, 5.0, 3.0], [0.7, 0.4, 0.6])
    found = grown(f, rtol)
    assert found is not None
    assert abs(found[0] - exact) <= found[1] <= rtol * exact


def test_a_peak_between_the_nodes_is_seen_on_lines() -> None:
    # By the fall of coefficients the error is 0.6 of 1e-2; it is 2.9 times that.
    f, _ = peak([3.0, 18.0, 6.0], [0.44, 0.13, 0.85])
    assert grown(f, 1e-2) is None


def test_a_kink_is_not_smooth() -> None:
    assert grown(lambda x: np.exp(-2 * np.abs(x - 0.55).sum(-1)), 1e-2) is None


def test_a_weak_kink_falls_too_slowly() -> None:
    f = lambda x: np.exp(-0.2 * np.abs(x - 0.55).sum(-1))  # noqa: E731
    grid = OnGrid.of(f(nodes_of((13,) * 3).T), (13,) * 3)
    found = judged(probe_of(f, 1e-2), grid)
    assert found.total.tail < 1e-3 * found.total.value
    assert not found.enough


def test_a_larger_grid_has_to_change_what_it_should() -> None:
    f, _ = peak([5.0, 6.0, 4.0], [0.7, 0.4, 0.6])
    calls = []

    def other(x: np.ndarray) -> np.ndarray:
        calls.append(len(x))
        # The grid itself, lines, and then another function on the larger grid.
        return f(x) * (1.01 if len(calls) == 3 else 1.0)

    assert grown(f, 1e-5) is not None
    assert grown(other, 1e-5) is None
    assert len(calls) == 3
