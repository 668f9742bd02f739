"""Scrambled Sobol' points against torch's own engine."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.quasirandom import SobolEngine

import torch_mlcalc.quadrature as q

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads only cost where tensors are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _nodes(n: int, dimension: int, first: int = 0, replicates: int = 2) -> torch.Tensor:
    nodes = q.Sobol(n, replicates).cube_nodes(dimension, 5, first, first + n)
    return nodes.points(0, nodes.n, CPU).reshape(replicates, n, dimension)


@pytest.mark.parametrize("dimension", [1, 3, 40])
@pytest.mark.parametrize("n", [1, 2, 64])
def test_points_are_those_of_the_engine(n: int, dimension: int) -> None:
    for replicate, points in enumerate(_nodes(n, dimension)):
        own = np.random.SeedSequence([5, replicate]).generate_state(1)[0]
        engine = SobolEngine(dimension, scramble=True, seed=int(own))
        drawn = engine.draw(n, dtype=torch.float64)
        # The engine orders them otherwise, and rounds its first one to float32.
        torch.testing.assert_close(points[0], drawn[0], rtol=1e-7, atol=1e-8)
        got = {tuple(row) for row in (points[1:] * 2**30).floor().tolist()}
        assert got == {tuple(row) for row in (drawn[1:] * 2**30).tolist()}


def test_every_elementary_interval_has_its_point() -> None:
    """In each coordinate the first 2^m points fall one into each of 2^m cells."""
    for points in _nodes(256, 12):
        cells = (points * 256).floor().to(torch.int64)
        for column in cells.T:
            assert Counter(column.tolist()) == Counter(range(256))


def test_points_are_in_the_middle_of_their_cells() -> None:
    """Where their digits are all 0, too, which would be a face of the cube."""
    points = _nodes(256, 12)
    assert ((points * 2**30) % 1 == 0.5).all()


def test_any_block_is_a_slice_of_the_whole() -> None:
    nodes = q.Sobol(64, 3).cube_nodes(4, 1, 64, 128)
    whole = nodes.points(0, nodes.n, CPU)
    for start, stop in [(0, 1), (5, 64), (63, 65), (10, 150), (191, 192)]:
        assert torch.equal(nodes.points(start, stop, CPU), whole[start:stop])


def test_doubling_continues_the_sequence() -> None:
    both = torch.cat([_nodes(32, 3), _nodes(32, 3, first=32)], 1)
    assert torch.equal(both, _nodes(64, 3))


@pytest.mark.parametrize("rule", [q.Sobol(2**12, 8), q.Lattice(2**12, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_node_is_on_a_face(rule: q.Sobol | q.Lattice, dtype: torch.dtype) -> None:
    nodes = rule.cube_nodes(60, 0, 0, rule.n)
    points, weights = nodes.unit(0, nodes.n, dtype, CPU)
    assert points.dtype == weights.dtype == dtype
    assert (points > 0).all()
    assert (points < 1).all()
    assert float(weights.sum()) == pytest.approx(1)


def test_rounding_to_single_precision_is_guarded() -> None:
    """The engine itself returns 1 for digits within 2^-25 of it."""
    from torch_mlcalc.quadrature.cubature.replicates import inside

    edge = torch.tensor([0.0, 1 - 2.0**-30], dtype=torch.float64)
    assert edge.to(torch.float32).tolist() == [0.0, 1.0]
    low, high = inside(edge, torch.float32).tolist()
    assert 0 < low < 1e-10
    assert high == 1 - 2.0**-24


def test_global_random_state_is_untouched() -> None:
    before = torch.get_rng_state()
    numpy = np.random.get_state()[1].copy()
    for rule in (q.Sobol(8), q.Lattice(8), q.MonteCarlo(8), q.Vegas(20, 2, 1)):
        q.integrate(lambda x: x.sum(-1), q.Box(0.0, 1.0, dimension=7), rule)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy, np.random.get_state()[1])


def test_tables_made_in_inference_mode_can_be_used_later() -> None:
    def run(dimension: int) -> torch.Tensor:
        return q.integrate(
            lambda x: x.sum(-1), q.Box(0.0, 1.0, dimension=17), q.Sobol(8)
        )

    with torch.inference_mode():
        run(17)
    scale = torch.ones((), requires_grad=True)
    value = q.integrate(
        lambda x: scale * x.sum(-1), q.Box(0.0, 1.0, dimension=17), q.Sobol(8)
    )
    value.backward()
    torch.testing.assert_close(scale.grad, value.detach())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n": 1000}, ValueError, "for example n=512 or n=1024"),
        ({"n": 2**31}, ValueError, r"at most 2\^30"),
        ({"replicates": 1}, ValueError, "replicates is 1"),
        ({"tails": None}, TypeError, "tails is None"),
    ],
    ids=str,
)
def test_refuses(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        q.Sobol(**settings)


def test_too_many_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 21201 dimensions"):
        q.Sobol(8).cube_nodes(21202, 0, 0, 8)
