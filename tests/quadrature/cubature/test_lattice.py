"""The lattice: its vector is as good as it says, its points are what they must be."""

import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.cubature import lattice

TOOL = Path(__file__).parents[3] / "tools/lattice_vector.py"


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads only cost where tensors are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lattice_vector", TOOL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VECTOR = lattice.built_in_vector()


def test_vector_has_distinct_odd_components_for_1024_dimensions() -> None:
    assert len(VECTOR) == len(set(VECTOR)) == 1024
    assert all(z % 2 == 1 and 0 < z < 2**19 for z in VECTOR)


def test_builder_reproduces_the_beginning_of_the_vector(tool: ModuleType) -> None:
    vector, ratios = tool.build(dimensions=4)
    assert vector == list(VECTOR[:4])
    assert ratios.shape == (15,)
    assert ratios.max() < 1.33


def test_builder_writes_what_the_package_reads(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "vector.json"
    line = ["lattice_vector.py", "--dimensions", "2", "--target", str(target)]
    monkeypatch.setattr("sys.argv", line)
    tool.main()
    assert json.loads(target.read_text()) == list(VECTOR[:2])


@pytest.mark.parametrize("log2_n", [5, 8, 11])
def test_fast_errors_are_those_of_the_definition(tool: ModuleType, log2_n: int) -> None:
    vector, errors = tool.construct(log2_n, 7, {log2_n: np.ones(7)})
    for m in (log2_n - 2, log2_n):
        direct = [tool.squared_error(vector[: d + 1], 2**m) for d in range(7)]
        np.testing.assert_allclose(errors[:, m], direct, rtol=1e-6)


@pytest.mark.parametrize("dimension", [2, 10, 100, 1024])
def test_error_falls_nearly_like_one_over_n(tool: ModuleType, dimension: int) -> None:
    """For a random-shifted lattice -1 is the best exponent there can be."""
    vector = VECTOR[:dimension]
    low, high = (math.sqrt(tool.squared_error(vector, 2**m)) for m in (8, 13))
    assert -1.02 < math.log2(high / low) / 5 < -0.84


def test_vector_beats_random_ones_at_every_n(tool: ModuleType) -> None:
    random = np.random.default_rng(0)
    for m in (6, 10, 14):
        best = tool.squared_error(VECTOR[:20], 2**m)
        for _ in range(20):
            other = 2 * random.integers(0, 2 ** (m - 1), 20) + 1
            assert best < tool.squared_error(other, 2**m)


# --- points ------------------------------------------------------------------------


def _points(n: int, dimension: int = 4, *, baker: bool = False) -> torch.Tensor:
    rule = q.Lattice(n, 2, baker=baker)
    nodes = rule.cube_nodes(dimension, 3, 0, n)
    return nodes.points(0, 2 * n, torch.device("cpu")).reshape(2, n, dimension)


@pytest.mark.parametrize("n", [1, 2, 32, 1024])
def test_points_are_the_shifted_lattice(n: int) -> None:
    for points in _points(n):
        k = np.arange(n)[:, None] * np.array(VECTOR[:4]) % n / n
        # The first point is the shift alone.
        wanted = (k + points[0].numpy()) % 1
        got = np.sort((points.numpy() * 2**40).round() % 2**40, axis=0)
        np.testing.assert_allclose(
            got, np.sort((wanted * 2**40).round() % 2**40, axis=0), atol=1
        )
        rows = {
            tuple(row) for row in (points - points[0]).frac().mul(n).round().tolist()
        }
        assert len(rows) == n


def test_doubling_keeps_the_points() -> None:
    half, whole = _points(64), _points(128)
    assert torch.equal(half, whole[:, :64])


def test_replicates_have_shifts_of_their_own() -> None:
    one, other = _points(64)
    assert not torch.isclose(one[0], other[0]).any()


def test_baker_folds_the_points() -> None:
    plain, folded = _points(64), _points(64, baker=True)
    torch.testing.assert_close(folded, 1 - (2 * plain - 1).abs())


def test_baker_raises_the_order_for_smooth_integrands() -> None:
    """From 1 to nearly 2, up to logarithms, where they are not periodic."""
    box = q.Box(torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64))

    def spread(n: int, *, baker: bool) -> float:
        rule = q.Lattice(n, 32, baker=baker)
        estimate = q.integrate_with_error(lambda x: torch.exp(x.sum(-1)), box, rule)
        return float(estimate.error)

    assert spread(2**14, baker=True) < spread(2**4, baker=True) / 2**15
    assert spread(2**14, baker=False) > spread(2**4, baker=False) / 2**11


def test_periodic_integrand_without_baker_is_exact() -> None:
    box = q.Box(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    value = q.integrate(
        lambda x: 1 + torch.cos(2 * math.pi * x).prod(-1),
        box,
        q.Lattice(64, 2, baker=False),
    )
    assert float(value) == pytest.approx(1, abs=1e-14)


def test_own_vector_is_used() -> None:
    box = q.Box(torch.zeros(2), torch.ones(2))

    def diagonal(x: torch.Tensor) -> torch.Tensor:
        return torch.cos(2 * math.pi * (x[..., 0] - x[..., 1]))

    # With z = (1, 1) every point of the lattice has the same difference of coordinates.
    rule = q.Lattice(64, 4, baker=False, vector=[1, 1])
    estimate = q.integrate_with_error(diagonal, box, rule)
    assert estimate.error > 0.1
    estimate = q.integrate_with_error(diagonal, box, q.Lattice(64, 4, baker=False))
    assert estimate.error < 1e-5


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n": 100}, ValueError, "power of two is wanted, for example n=64 or n=128"),
        ({"n": 2**21}, ValueError, r"at most 2\^20"),
        ({"n": 0}, ValueError, "n is 0; at least 1"),
        ({"n": 64.0}, TypeError, "n is 64.0"),
        ({"replicates": 1}, ValueError, "replicates is 1; at least 2"),
        ({"replicates": True}, TypeError, "replicates is True"),
        ({"baker": 1}, TypeError, "baker is 1; True or False"),
        ({"vector": []}, ValueError, "vector is empty"),
        ({"vector": [1, 2]}, ValueError, "even component 2"),
        ({"vector": [1, 3.0]}, TypeError, "a component of vector is 3.0"),
        ({"tails": "gaussian"}, TypeError, "tails is 'gaussian'; Tails.ALGEBRAIC or"),
    ],
    ids=str,
)
def test_refuses(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        q.Lattice(**settings)


@pytest.mark.parametrize("vector", [None, [1, 3, 5]], ids=["built_in", "own"])
def test_too_many_dimensions_are_refused(vector: list[int] | None) -> None:
    rule = q.Lattice(64, vector=vector)
    with pytest.raises(ValueError, match="pass a longer vector=, or use Sobol"):
        q.integrate(lambda x: x.sum(-1), q.Box(0.0, 1.0, dimension=1025), rule)
