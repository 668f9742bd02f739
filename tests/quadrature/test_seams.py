"""Jumps that no node meets after a cut, and cells that look odd: neither is claimed."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.kronrod import cell_table, kronrod_table, margin

D = torch.float64
RTOL = 1e-10

#: Distance of the outermost nodes of a quarter of the unit interval from its ends.
GAP = margin(21)[0] / 8


@pytest.mark.parametrize("n", [5, 21])
def test_the_table_of_a_cell_knows_its_ends_and_its_last_coefficients(n: int) -> None:
    nodes, both = kronrod_table(n)
    series = np.random.default_rng(0).normal(size=n)
    values = np.polynomial.legendre.legval(nodes, series)
    told = cell_table(n) @ values
    low, high = np.polynomial.legendre.legval([-1.0, 1.0], series)
    expected = [*(both @ values), low, high, *series[-2:]]
    np.testing.assert_allclose(told, expected, rtol=1e-11)
    assert margin(n) == pytest.approx((1 - nodes[-1], nodes[-1] - nodes[-2]))


def _solve(
    f: Callable[..., Tensor],
    *places: float,
    batch: bool,
    log: bool = False,
    span: float = 1.0,
    rtol: float = RTOL,
) -> q.Estimate:
    """The integral over (0, span) of a function of x / span, and of places."""
    args = tuple(torch.full((2,), p, dtype=D) for p in places) if batch else ()

    def integrand(x: Tensor, *args: Tensor) -> Tensor:
        value = f(x / span, *(args or places))
        return value.log() if log else value

    solve = q.log_integrate_with_error if log else q.integrate_with_error
    domain = q.Interval(torch.zeros((), dtype=D), span)
    found = solve(integrand, domain, args=args, rtol=rtol)
    assert (found.status == q.Status.CONVERGED).all()
    return found._replace(value=found.value.exp()) if log else found


batches = pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])


@batches
@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
@pytest.mark.parametrize(
    "place", [0.25 - 0.6 * GAP, 0.25 + 0.6 * GAP, 0.3125 + 0.6 * GAP / 4]
)
@pytest.mark.parametrize("height", [1.0, 2.0**-10])
def test_a_jump_beside_a_cut_is_found(
    height: float, place: float, log: bool, batch: bool
) -> None:
    span = 1.0 if log else -8e6

    def step(x: Tensor, place: Tensor | float) -> Tensor:
        return torch.exp(x) * (1 + height * (x > place))

    found = _solve(step, place, batch=batch, log=log, span=span)
    exact = (math.e - 1 + height * (math.e - math.exp(place))) * span
    wanted = torch.full_like(found.value, exact)
    torch.testing.assert_close(found.value, wanted, rtol=RTOL, atol=0)


@batches
@pytest.mark.parametrize("first", [True, False])
def test_a_jump_beside_a_cut_is_found_next_to_a_cell_that_has_another(
    first: bool, batch: bool
) -> None:
    # That has failed, and says of its end what its outermost two nodes do.
    places = (0.1, 0.25 + 0.6 * GAP) if first else (0.25 - 0.6 * GAP, 0.4)

    def steps(x: Tensor, one: Tensor | float, other: Tensor | float) -> Tensor:
        return 1 + x + 1.0 * (x > one) + (x > other)

    found = _solve(steps, *places, batch=batch)
    wanted = torch.full_like(found.value, 3.5 - sum(places))
    torch.testing.assert_close(found.value, wanted, rtol=RTOL, atol=0)


@batches
def test_a_jump_of_one_event_is_found(batch: bool) -> None:
    place = 0.25 + 0.6 * GAP

    def pair(x: Tensor, place: Tensor | float) -> Tensor:
        return torch.stack([1 + 1j * (x > place), torch.exp(1j * x)], -1)

    found = _solve(pair, place, batch=batch)
    other = complex(math.sin(1), 1 - math.cos(1))
    wanted = torch.tensor([1 + 1j * (1 - place), other], dtype=found.value.dtype)
    wanted = wanted.expand_as(found.value)
    torch.testing.assert_close(found.value, wanted, rtol=10 * RTOL, atol=0)


@batches
def test_a_jump_at_a_cut_costs_a_few_cells(batch: bool) -> None:
    found = _solve(lambda x, c: 1 + 1.0 * (x > c), 0.25, batch=batch)
    wanted = torch.full_like(found.value, 1.75)
    torch.testing.assert_close(found.value, wanted, rtol=1e-14, atol=0)
    assert found.n_evals.max() <= 105 + 5 * 84


@batches
def test_nothing_is_cut_at_seams_that_are_none(batch: bool) -> None:
    smooth = _solve(lambda x, c: 1 / (1e-3 + (x - c) ** 2), 0.3, batch=batch, rtol=1e-9)
    assert smooth.n_evals.max() <= 385

    def jumps(x: Tensor, c: Tensor | float) -> Tensor:
        return torch.exp(3 * x) * (1 + (x > c)) + 5.0 * (x > c + 0.55)

    # Their cells are neighbours of none of the others of their level.
    found = _solve(jumps, 0.3, batch=batch, rtol=1e-9)
    assert found.n_evals.max() <= 2317


@batches
def test_steps_that_nodes_see_as_an_odd_function_are_found(batch: bool) -> None:
    # Six in each quarter, and no node tells that they are not symmetric about it.
    shift = 0.5403821537533932

    def stairs(x: Tensor, shift: Tensor | float) -> Tensor:
        return torch.floor(24 * x + shift)

    found = _solve(stairs, shift, batch=batch)
    exact = (sum(range(24)) + 24 * shift) / 24
    wanted = torch.full_like(found.value, exact)
    torch.testing.assert_close(found.value, wanted, rtol=RTOL, atol=0)


@batches
def test_an_odd_function_is_still_known_at_once(batch: bool) -> None:
    domain = q.Interval(torch.full((2,) if batch else (), -1.0, dtype=D), 1.0)
    for odd in (torch.sign, lambda x: torch.sign(x) * x.abs().sqrt()):
        found = q.integrate_with_error(odd, domain, rtol=RTOL)
        assert (found.status == q.Status.CONVERGED).all()
        assert (found.n_evals == (21 if batch else 105)).all()


def test_jumps_on_a_half_line_are_claimed_where_they_are_right() -> None:
    place = torch.linspace(0.05, 3.0, 60, dtype=D)

    def tail(x: Tensor, place: Tensor) -> Tensor:
        return torch.exp(-x) * (x > place)

    start = torch.zeros((), dtype=D)
    found = q.integrate_with_error(tail, q.HalfLine(start), args=(place,), rtol=1e-8)
    assert (found.status == q.Status.CONVERGED).all()
    torch.testing.assert_close(found.value, torch.exp(-place), rtol=1e-8, atol=0)
