"""The first look at a single integral in four dimensions and more."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from problems_nd import genz
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.quadrature.cubature.along import Probe
from torch_mlcalc.quadrature.cubature.climbed import Sum, Terms
from torch_mlcalc.quadrature.cubature.genz_malik import DEGREE, Looked
from torch_mlcalc.quadrature.cubature.genz_malik_table import count_nodes
from torch_mlcalc.quadrature.cubature.look import PEAKED, look_first, stands_out
from torch_mlcalc.quadrature.estimate import Tolerance

D = torch.float64
BOX = mlc.Box(0.0, 1.0, 5)

#: Nodes of the rule of Genz and Malik in 5 dimensions, and those on a line.
NODES, LINE = 263, 40


pytestmark = pytest.mark.usefixtures("double")


class Recorded:
    """A product of exponentials, which notes in how many points it is called."""

    def __init__(self, rate: float | Tensor) -> None:
        self.rate, self.sizes = torch.as_tensor(rate), []

    def __call__(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return torch.exp(self.rate * x.sum(-1))

    def exact(self) -> Tensor:
        return (torch.expm1(self.rate) / self.rate) ** 5


@pytest.mark.parametrize(
    ("rtol", "atol", "sizes"),
    [
        (1e-3, None, [NODES + 15 * LINE]),
        (1e-6, None, [NODES + 15 * LINE]),
        (None, 1e-3, [NODES + 15 * LINE]),
        # What is asked for so little is mostly settled by the rule alone.
        (1e-2, None, [NODES]),
        (None, 1e-2, [NODES]),
    ],
)
def test_lines_are_seen_in_the_same_call_where_much_is_asked(
    rtol: float | None, atol: float | None, sizes: list[int]
) -> None:
    f = Recorded(0.7)
    value = mlc.integrate(f, BOX, rtol=rtol, atol=atol)
    assert f.sizes == sizes
    assert abs(value - f.exact()) <= (rtol or 0) * f.exact() + (atol or 0)
    f.sizes.clear()
    estimate = mlc.integrate_with_error(f, BOX, rtol=rtol, atol=atol)
    assert estimate.n_evals == sum(f.sizes[:1]) == sizes[0]
    assert estimate.plan.n == NODES
    assert mlc.integrate(f, BOX, estimate.plan) == pytest.approx(float(value))


@pytest.mark.parametrize(("less", "n"), [(0, NODES + 15 * LINE), (1, NODES)])
def test_a_budget_for_the_rule_alone_is_used_for_it(less: int, n: int) -> None:
    # Points for one more use of the rule are spared.
    budget = 2 * NODES + 15 * LINE - less
    f = Recorded(0.7)
    estimate = mlc.integrate_with_error(
        f, BOX, rtol=1e-3, max_evals=budget, on_failure="ignore"
    )
    assert f.sizes[0] == n
    assert estimate.n_evals <= budget


def test_a_gradient_needs_a_graph_of_the_nodes_alone() -> None:
    for rate in (0.02, 0.7):  # By the rule alone, and by what lines say of it.
        f = Recorded(torch.tensor(rate, requires_grad=True))
        value = mlc.integrate(f, BOX, rtol=1e-3)
        assert f.sizes == [NODES + 15 * LINE, NODES]
        ours, wanted = (torch.autograd.grad(v, f.rate)[0] for v in (value, f.exact()))
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("lower", [-0.5, 2.5])
def test_other_boxes_and_dtypes(lower: float, dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    rate = torch.tensor(0.3, requires_grad=True)
    f = lambda x: torch.exp(rate * x.sum(-1))  # noqa: E731
    value = mlc.integrate(f, mlc.Box(lower, 1.5, 5))
    exact = ((torch.exp(1.5 * rate) - torch.exp(lower * rate)) / rate) ** 5
    assert value.dtype == dtype
    assert torch.sign(value) == (1 if lower < 1.5 else -1)
    torch.testing.assert_close(value, exact)
    for _ in range(2):  # First and second derivative.
        value, exact = (
            torch.autograd.grad(v, rate, create_graph=True)[0] for v in (value, exact)
        )
        torch.testing.assert_close(value, exact, rtol=1e-4, atol=0)


def probe_of(f: object, rtol: float) -> Probe:
    terms = Terms(5, Tolerance.of(rtol, None, D), 2.0**-52)
    return Probe(f, terms, 1.0, 10**6, 10_000)


@pytest.mark.parametrize(("height", "lines"), [(0.2, 3), (50.0, 4)])
def test_lines_go_through_a_peak(height: float, lines: int) -> None:
    # A narrow peak at the centre, which is a node, and nowhere on the other lines.
    def f(x: np.ndarray) -> np.ndarray:
        peak = height * np.exp(-400 * ((x - 0.5) ** 2).sum(1))
        return 1.0 + 0.2 * np.sin(6 * x.sum(1)) + peak

    look = look_first(probe_of(f, 1e-3))
    assert look is not None
    assert not look.settled
    assert look.base.tolist() == [0.5] * 5
    assert look.lines is not None
    assert look.lines.each.shape == (lines, 5, LINE)
    assert (look.lines.unseen.max() > 1e-3) == (lines == 4)


def test_a_peak_that_other_lines_see_needs_no_more() -> None:
    row = genz("corner_peak", 5, 2.0)
    f = lambda x: row.integrand(torch.tensor(x), *row.theta).numpy()  # noqa: E731
    look = look_first(probe_of(f, 1e-3))
    assert look is not None
    assert look.looked.peak > PEAKED
    assert look.lines is not None
    assert len(look.lines.each) == 3


@pytest.mark.parametrize("d", [5, 8])
def test_a_wave_that_is_resolved_needs_no_more(d: int) -> None:
    row, sizes = genz("oscillatory", d, 1.0), []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return row.integrand(x, *row.theta)

    value = mlc.integrate(f, row.domain, rtol=1e-3)
    assert sizes == [count_nodes(DEGREE, d) + 3 * d * LINE]
    torch.testing.assert_close(value, row.value(), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("most", "peak", "first", "wanted"),
    [
        (0.97, 1.7, 5e-4, False),
        (0.9, 1.7, 5e-4, True),  # Lines see less of it,
        (0.97, 2.1, 5e-4, True),  # it is higher than a wave,
        (0.97, 1.7, 5e-3, True),  # or it is not resolved.
        (0.9, 1.4, 5e-3, False),  # No higher than all else,
        (1.0, 9.0, 5e-3, False),  # or as high on lines elsewhere.
    ],
)
def test_what_may_be_a_narrow_peak(
    most: float, peak: float, first: float, wanted: bool
) -> None:
    looked = Looked(Sum(0.5, 0.0, 0.5), first, 0.0, 0, 3.0, peak)
    terms = Terms(5, Tolerance.of(1e-3, None, D), 2.0**-52)
    assert stands_out(looked, 3.0 * most, terms) == wanted


@pytest.mark.parametrize(
    ("family", "regions"), [("product_peak", 32), ("corner_peak", 4)]
)
def test_the_rule_on_halves(family: str, regions: int) -> None:
    row, sizes = genz(family, 8, 2.0 if regions == 32 else 1.0), []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return row.integrand(x, *row.theta)

    value = mlc.integrate(f, row.domain, rtol=1e-3)
    whole = count_nodes(DEGREE, 8)
    assert sizes[0] == whole + 24 * LINE
    assert sum(sizes[1:]) == regions * whole
    torch.testing.assert_close(value, row.value(), rtol=1e-3, atol=0)
    estimate = mlc.integrate_with_error(f, row.domain, rtol=1e-3)
    torch.testing.assert_close(value, estimate.value, rtol=1e-13, atol=0)
    assert abs(value - row.value()) <= estimate.error <= 1e-3 * value
    assert estimate.plan.n == regions * whole
    theta = tuple(t.clone().requires_grad_() for t in row.theta)
    total = mlc.integrate(lambda x: row.integrand(x, *theta), row.domain, estimate.plan)
    for ours, wanted in zip(
        torch.autograd.grad(total, theta), row.gradient(), strict=True
    ):
        size = float(wanted.abs().max() + value)
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-2 * size)


def test_the_rule_between_kinks() -> None:
    row = genz("continuous", 8, 1.0)
    f = lambda x: row.integrand(x, *row.theta)  # noqa: E731
    estimate = mlc.integrate_with_error(f, row.domain, rtol=1e-3)
    assert estimate.plan.n == 256 * count_nodes(DEGREE, 8)
    torch.testing.assert_close(estimate.value, row.value(), rtol=1e-3, atol=0)
    value = mlc.integrate(f, row.domain, rtol=1e-3)
    torch.testing.assert_close(value, estimate.value, rtol=1e-13, atol=0)


def test_halves_are_made_of_what_was_seen() -> None:
    row, sizes = genz("gaussian", 8, 3.0), []

    def f(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return row.integrand(x, *row.theta)

    value = mlc.integrate(f, row.domain, rtol=1e-3)
    whole = count_nodes(DEGREE, 8)
    assert sizes[:2] == [whole + 24 * LINE, 2 * whole]
    estimate = mlc.integrate_with_error(f, row.domain, rtol=1e-3)
    torch.testing.assert_close(value, estimate.value, rtol=1e-13, atol=0)
    assert 2 * estimate.n_evals == sum(sizes)
    torch.testing.assert_close(value, row.value(), rtol=1e-3, atol=0)
    torch.testing.assert_close(
        mlc.integrate(f, row.domain, estimate.plan), value, rtol=1e-12, atol=0
    )


def test_where_nothing_is_seen_nothing_is_said() -> None:
    assert look_first(probe_of(lambda x: np.zeros(len(x)), 1e-3)) is None
    assert look_first(probe_of(lambda x: None, 1e-3)) is None
    corner = lambda x: np.where(x.max(1) > 0.9999, 1.0, 0.0)  # noqa: E731
    assert look_first(probe_of(corner, 1e-3)) is None
    assert math.isclose(float(mlc.integrate(lambda x: 1 + 0 * x[:, 0], BOX)), 1.0)


@pytest.mark.parametrize("size", [1e200, 1e-200])
def test_very_large_and_small_values_are_judged_like_others(size: float) -> None:
    f = Recorded(3.0)
    value = mlc.integrate(lambda x: size * f(x), BOX, rtol=1e-3)
    plain = mlc.integrate(f, BOX, rtol=1e-3)
    torch.testing.assert_close(value / size, plain, rtol=1e-12, atol=0)
    half = len(f.sizes) // 2
    assert f.sizes[:half] == f.sizes[half:]
