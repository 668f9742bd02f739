"""Random numbers as a function of their place, and the groups of Monte Carlo."""

import numpy as np
import pytest
import torch
from torch import Tensor

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.cubature.streams import uniform


@pytest.mark.parametrize("width", [1, 3, 4, 7])
def test_any_rows_are_those_of_the_whole_table(width: int) -> None:
    whole = uniform(5, 1, 0, 50, width)
    for first, last in [(0, 1), (1, 2), (7, 33), (49, 50)]:
        np.testing.assert_array_equal(
            uniform(5, 1, first, last, width), whole[first:last]
        )


def test_numbers_are_uniform_and_independent_between_streams() -> None:
    tables = [uniform(s, t, 0, 10_000, 1)[:, 0] for s in (0, 1) for t in (0, 1)]
    for table in tables:
        assert 0 < table.min() < table.max() < 1
        # Six standard deviations.
        assert abs(table.mean() - 0.5) < 6 * np.sqrt(1 / 12 / 10_000)
        assert abs(table.var() - 1 / 12) < 0.005
    correlation = np.corrcoef(tables) - np.eye(4)
    assert np.abs(correlation).max() < 0.06


@pytest.mark.parametrize("n", [2, 63, 64, 100, 128, 1000])
def test_value_is_the_plain_mean_for_any_n(n: int) -> None:
    box = q.Box(0.0, torch.ones(2, dtype=torch.float64))
    estimate = q.integrate_with_error(lambda x: x.prod(-1), box, q.MonteCarlo(n))
    points = uniform(0, 0, 0, n, 2)
    assert float(estimate.value) == pytest.approx(points.prod(1).mean(), rel=1e-13)
    assert estimate.n_evals == n


@pytest.mark.parametrize("n", [3, 50])
def test_error_of_few_points_is_the_textbook_one(n: int) -> None:
    from scipy import stats

    box = q.Box(0.0, torch.ones(2, dtype=torch.float64))
    estimate = q.integrate_with_error(lambda x: x.prod(-1), box, q.MonteCarlo(n))
    values = uniform(0, 0, 0, n, 2).prod(1)
    wanted = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    assert float(estimate.error) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("n", [96, 100])
def test_doubling_keeps_points_and_groups(n: int) -> None:
    box = q.Box(0.0, torch.ones(2, dtype=torch.float64))
    seen: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        seen.append(x)
        return x.prod(-1)

    estimate = q.integrate_with_error(watched, box, q.MonteCarlo(n), rtol=0.1)
    total = int(estimate.n_evals)
    assert total > n
    assert total % n == 0
    points = uniform(0, 0, 0, total, 2)
    np.testing.assert_allclose(torch.cat(seen).numpy(), points)
    assert float(estimate.value) == pytest.approx(points.prod(1).mean(), rel=1e-13)


@pytest.mark.parametrize(
    ("n", "error", "message"),
    [
        (1, ValueError, "n is 1; at least 2"),
        (1e4, TypeError, "n is 10000.0"),
    ],
)
def test_refuses(n: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        q.MonteCarlo(n)
