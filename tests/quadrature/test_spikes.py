"""Peaks that one node of a cell meets: seen as such, closed in on, and not lost."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.spikes import SPIKE, spike, spikes

N = 21
NODES, (WEIGHTS, DIFFERENCES) = kronrod_table(N)
U = (1 + NODES) / 2  # as fractions of the cell


def _bell(centre: float, width: float) -> np.ndarray:
    return np.exp(-0.5 * ((U - centre) / width) ** 2)


def _range_around_peak(*columns: np.ndarray) -> np.ndarray:
    """What is said of a cell with these events."""
    values = np.stack(columns, -1)[:, None]
    absolute = np.tensordot(WEIGHTS, np.abs(values), 1)
    spread = np.tensordot(
        WEIGHTS, np.abs(values - np.tensordot(WEIGHTS, values, 1) / 2), 1
    )
    found = spikes(values, spread, absolute)[:, 0]
    if len(columns) == 1 and spread.item() >= SPIKE * absolute.item() > 0:
        alone = spike(columns[0], absolute.item()) or (math.nan, math.nan)
        np.testing.assert_array_equal(alone, found)
    return found


@pytest.mark.parametrize("node", [1, 5, 10, 19])
def test_range_reaches_beyond_the_neighbours_of_the_node(node: int) -> None:
    begin, end = _range_around_peak(_bell(U[node], 1e-3))
    assert max(U[node - 2], 0) < begin < U[node - 1] if node > 1 else begin == 0
    assert U[node + 1] < end < U[node + 2] if node < N - 2 else end == 1
    assert end - begin < 0.25


def test_range_at_an_end_begins_there() -> None:
    begin, end = _range_around_peak(np.exp(-U / 1e-3))
    assert begin == 0
    assert U[1] < end < U[2]


def test_a_peak_of_one_event_is_a_peak_of_all_that_have_one() -> None:
    one = _range_around_peak(_bell(0.5, 1e-3))
    assert (_range_around_peak(_bell(0.5, 1e-3), 3 * _bell(0.5, 2e-3)) == one).all()
    assert np.isnan(_range_around_peak(_bell(0.5, 1e-3), np.ones(N))).all()


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(N),
        np.ones(N),
        _bell(0.5, 0.1),
        _bell(U[5], 1e-3) + 1e-3 * _bell(U[12], 1e-3),
        U**-0.9,
        np.log(U),
        1e-3 / (1e-6 + (U - 0.5) ** 2),
    ],
    ids=["zero", "one", "wide", "two peaks", "power", "logarithm", "heavy tails"],
)
def test_nothing_else_has_such_a_range(values: np.ndarray) -> None:
    assert np.isnan(_range_around_peak(values)).all()


def _peak(x: Tensor, centre: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-0.5 * ((x - centre) / width) ** 2)


def test_narrow_peaks_are_not_lost_and_cost_few_points() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(4000, generator=generator, dtype=torch.float64) * 0.6 + 0.2
    width = torch.logspace(-3.5, -2, 4000, dtype=torch.float64)
    found = q.integrate_with_error(
        _peak, q.Interval(0, 1), args=(centre, width), rtol=1e-6
    )
    exact = math.sqrt(2 * math.pi) * width
    torch.testing.assert_close(found.value, exact, rtol=1e-6, atol=0)
    # Halving took 406 on average, and lost 17 of them; of these points, 18 are for a
    # look at whether there is another peak.
    assert found.n_evals.double().mean() < 358


def test_a_peak_near_an_end_is_not_a_singularity() -> None:
    width = torch.tensor(1e-4, dtype=torch.float64)
    near, far = (
        q.integrate_with_error(_peak, q.Interval(0, 1), args=(at, width), rtol=1e-8)
        for at in (width * 10, torch.tensor(0.37, dtype=torch.float64))
    )
    for found in (near, far):
        assert float(found.value) == pytest.approx(math.sqrt(2 * math.pi) * 1e-4)
        # Of these, 84 at the parts of the whole, which are not used.
        assert int(found.n_evals) < 600


@pytest.mark.parametrize("n", [15, 21, 31])
def test_a_needle_of_which_one_node_saw_a_trace_is_found_in_a_batch_too(n: int) -> None:
    # 1e-186 at a single node, and 0 at all others, also of the cells around it.
    width = torch.tensor([1e-4, 1e-4], dtype=torch.float64)
    value = q.integrate(
        lambda x, w: torch.exp(-0.5 * ((x - 0.3) / w) ** 2),
        q.Interval(0, 1),
        q.GaussKronrod(n),
        args=(width,),
    )
    exact = width * (2 * torch.pi) ** 0.5
    torch.testing.assert_close(value, exact, rtol=1e-7, atol=0)
