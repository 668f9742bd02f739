"""A second look between the nodes of wide cells: what it finds, and who pays for it."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.gaps import distances, gaps, surroundings
from torch_mlcalc.quadrature.kronrod import kronrod_table

N = 21
NODES = kronrod_table(N)[0]
D = torch.float64
RTOL = 1e-8


def _away(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Distances of a function on [-1, 1] in the gaps of a single cell."""
    values, seen = (function(x)[:, None, None] for x in (NODES, gaps(N).middles))
    return distances(values, seen, N)


@pytest.mark.parametrize("n", [5, 15, 21, 61])
def test_looks_leave_no_gap_wider_than_half_the_widest(n: int) -> None:
    nodes = kronrod_table(n)[0]
    every = np.sort(np.concatenate([nodes, gaps(n).middles]))
    assert np.diff(every).max() <= np.diff(nodes).max() / 2 * (1 + 1e-12)
    assert len(gaps(n).middles) < n


@pytest.mark.parametrize(
    "function",
    [np.ones_like, np.exp, lambda x: x**19, lambda x: np.cos(9 * x), np.zeros_like],
    ids=["one", "exp", "power", "cosine", "zero"],
)
def test_a_smooth_function_has_nothing_new(function: Callable) -> None:
    # Rounding is left, below what the ledger takes for it.
    assert _away(function).max() < 1e-14


@pytest.mark.parametrize("gap", [0, 6, 13])
def test_a_peak_in_a_gap_is_new_and_surrounded(gap: int) -> None:
    centre = gaps(N).middles[gap]

    def function(x: np.ndarray) -> np.ndarray:
        return np.exp(x) + 1e-3 * np.exp(-0.5 * ((x - centre) / 5e-3) ** 2)

    away = _away(function)
    assert away.max() == pytest.approx(1e-3, rel=1e-6)
    ((begin,), (end,)) = surroundings(away, N)
    position = (1 + centre) / 2
    assert begin < position - 0.01 < position + 0.01 < end
    assert end - begin < 0.25


def test_peaks_in_different_gaps_and_events_are_surrounded_together() -> None:
    away = np.zeros((14, 1, 2))
    away[2, 0, 0], away[9, 0, 1] = 1.0, 0.5
    ((begin,), (end,)) = surroundings(away, N)
    low, high = (1 + gaps(N).middles[[2, 9]]) / 2
    assert begin < low < high < end


# --- integrals ---------------------------------------------------------------------


def _bell(x: Tensor, centre: Tensor | float, width: float) -> Tensor:
    return torch.exp(-0.5 * ((x - centre) / width) ** 2)


#: A peak that is found in the first quarters, and a place in a gap of the third.
FOUND, MISSED = (0.3, 0.03), 0.5 + (1 + gaps(N).middles[8]) / 8

#: A node of the third quarter, in the middle between two of the whole range.
BETWEEN = 0.5 + (1 + NODES[5]) / 8


def _two(x: Tensor, centre: Tensor) -> Tensor:
    return _bell(x, *FOUND) + _bell(x, centre, 1e-3)


def _exact(*widths: float) -> float:
    return math.sqrt(2 * math.pi) * sum(widths)


@pytest.mark.parametrize("count", [1, 3], ids=["single", "batch"])
@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
@pytest.mark.parametrize("span", [1.0, -8.0])
def test_the_second_of_two_peaks_is_found(count: int, log: bool, span: float) -> None:
    if log and span < 0:
        return  # refused
    centre = torch.full((count,), MISSED, dtype=D) if count > 1 else MISSED

    def integrand(x: Tensor, *args: Tensor) -> Tensor:
        value = _two(x / span, *(args or (centre,)))
        return value.log() if log else value

    solve = q.log_integrate_with_error if log else q.integrate_with_error
    domain = q.Interval(torch.tensor(0.0, dtype=D), span)
    args = (centre,) if count > 1 else ()
    found = solve(integrand, domain, args=args, rtol=RTOL)
    assert (found.status == q.Status.CONVERGED).all()
    value = found.value.exp() if log else found.value
    exact = torch.full_like(value, span * _exact(0.03, 1e-3))
    torch.testing.assert_close(value, exact, rtol=10 * RTOL, atol=0)


def test_a_peak_of_one_event_is_found_beside_another() -> None:
    def integrand(x: Tensor) -> Tensor:
        return torch.stack([_bell(x, *FOUND), _two(x, torch.tensor(MISSED))], -1)

    domain = q.Interval(torch.tensor(0.0, dtype=D), 1)
    exact = torch.tensor([_exact(0.03), _exact(0.03, 1e-3)], dtype=D)
    found = q.integrate(integrand, domain, rtol=RTOL)
    torch.testing.assert_close(found, exact, rtol=10 * RTOL, atol=0)


def test_a_plan_holds_the_second_peak_too() -> None:
    domain = q.Interval(torch.tensor(0.0, dtype=D), 1)
    plan = q.adapt(lambda x: _two(x, torch.tensor(MISSED)), domain, rtol=RTOL)
    value = q.integrate(lambda x: _bell(x, MISSED, 1e-3), domain, plan)
    assert float(value) == pytest.approx(_exact(1e-3), rel=10 * RTOL)


def _points_beside_the_nodes(integrand: Callable[[Tensor], Tensor]) -> int:
    found = q.integrate_with_error(
        integrand, q.Interval(torch.tensor(0.0, dtype=D), 1), rtol=RTOL
    )
    assert found.status == q.Status.CONVERGED
    # All cells have 21 nodes.
    return int(found.n_evals) % N


@pytest.mark.parametrize(
    "integrand",
    [torch.exp, lambda x: torch.cos(60 * x), lambda x: _bell(x, 0.4, 0.1)],
    ids=["exp", "oscillation", "wide peak"],
)
def test_smooth_integrands_are_not_looked_at_again(integrand: Callable) -> None:
    assert _points_beside_the_nodes(integrand) == 0


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single", "batch"])
@pytest.mark.parametrize("power", [0.5, -0.3])
def test_singular_ends_are_no_reason_to_look_again(power: float, batch: tuple) -> None:
    looked: list[int] = []

    def integrand(x: Tensor) -> Tensor:
        looked.append(int(((x > 0.25) & (x < 1)).sum()))
        return x**power

    domain = q.Interval(torch.tensor(0.0, dtype=D), 1)
    q.integrate(integrand, domain, q.GaussKronrod(), rtol=1e-6, batch_shape=batch)
    # The first cell, its four parts, and nothing between their nodes.
    assert sum(looked) == (14 + 3 * N) * math.prod(batch)


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single", "batch"])
def test_a_look_counts_and_is_not_taken_without_the_budget(batch: tuple) -> None:
    def integrand(x: Tensor) -> Tensor:
        return _bell(x, 0.41, 0.02)

    domain, look = q.Interval(torch.tensor(0.0, dtype=D), 1), len(gaps(N).middles)
    settings = {"rtol": RTOL, "batch_shape": batch}
    # A single integral has the parts of the range, which it does not use, besides.
    needed = 12 * N + look + (0 if batch else 4 * N)
    points = [
        q.integrate_with_error(integrand, domain, max_evals=most, **settings).n_evals
        for most in (needed, needed - 1)
    ]
    assert (points[0] == needed).all()
    assert (points[1] == needed - look).all()


def test_a_single_integral_is_compared_to_its_parts_in_the_same_call() -> None:
    calls: list[int] = []

    def integrand(x: Tensor) -> Tensor:
        calls.append(x.numel())
        return torch.exp(x) + _bell(x, BETWEEN, 2e-3)

    def found(lower: float, most: int | None = None) -> q.Estimate:
        domain = q.Interval(torch.tensor(lower, dtype=D), 1)
        return q.integrate_with_error(integrand, domain, rtol=RTOL, max_evals=most)

    exact = math.e - 1 + 2e-3 * math.sqrt(2 * math.pi)
    assert float(found(0.0).value) == pytest.approx(exact, rel=RTOL)
    # The nodes of the whole range do not see the peak, those of a part do.
    calls.clear()
    whole = found(0.0, most=N)
    assert calls == [N]
    assert float(whole.value) == pytest.approx(math.e - 1, rel=RTOL)
    calls.clear()
    assert found(0.6).n_evals == 5 * N
    assert calls == [5 * N]


@pytest.mark.parametrize("batch", [(), (2,)], ids=["single", "batch"])
@pytest.mark.parametrize("memory", [None, 2 * N * 8 * 8], ids=["one", "blocks"])
def test_an_integrand_may_reuse_its_output(batch: tuple, memory: int | None) -> None:
    place, centre = torch.empty(10_000, dtype=D), torch.full(batch, MISSED, dtype=D)

    def plain(x: Tensor, centre: Tensor) -> Tensor:
        return torch.exp(x) + _two(x, centre)

    def reusing(x: Tensor, centre: Tensor) -> Tensor:
        output = place[: x.numel()].reshape(x.shape)
        output[:] = plain(x, centre)
        return output

    domain = q.Interval(torch.tensor(0.0, dtype=D), 1)
    fresh, reused = (
        q.integrate_with_error(f, domain, args=(centre,), rtol=RTOL, memory=memory)
        for f in (plain, reusing)
    )
    assert (reused.n_evals == fresh.n_evals).all()
    assert (reused.value == fresh.value).all()


def test_fewer_of_many_random_peaks_are_missed() -> None:
    generator = torch.Generator().manual_seed(1)
    centre = torch.rand(2, 2000, generator=generator, dtype=D) * 0.9 + 0.05
    width = 10 ** (-1 - 3 * torch.rand(2, 2000, generator=generator, dtype=D))

    def integrand(x: Tensor, a: Tensor, b: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return 1 / torch.cosh((x - a) / s) ** 2 + 1 / torch.cosh((x - b) / t) ** 2

    found = q.integrate_with_error(
        integrand, q.Interval(0, 1), args=(*centre, *width), rtol=RTOL
    )
    high, low = torch.tanh((1 - centre) / width), torch.tanh(-centre / width)
    exact = (width * (high - low)).sum(0)
    wrong = (found.value - exact).abs() > 10 * RTOL * exact
    assert (found.status == q.Status.CONVERGED).all()
    # 24 % without the second look, 28 % of scipy.integrate.quad.
    assert wrong.double().mean() < 0.20
