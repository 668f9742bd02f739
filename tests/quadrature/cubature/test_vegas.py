"""VEGAS+: the map, the strata, what is learned and what is kept."""

import copy
import io
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc
import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.cubature import problem as solid
from torch_mlcalc.quadrature.cubature.importance import ImportanceMap
from torch_mlcalc.quadrature.cubature.sampler import Sampler
from torch_mlcalc.quadrature.cubature.streams import uniform
from torch_mlcalc.quadrature.cubature.tally import Iteration
from torch_mlcalc.quadrature.cubature.vegas import VegasNodes, _average

D = torch.float64


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads only cost where tensors are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _peak(x: Tensor, place: float | Tensor = 0.3, width: float = 0.01) -> Tensor:
    if isinstance(place, Tensor):
        place = place[..., None]
    return torch.exp(-0.5 * ((x - place) / width).square().sum(-1))


def _exact(dimension: int, width: float = 0.01) -> float:
    return (width * math.sqrt(2 * math.pi)) ** dimension


def _box(dimension: int) -> q.Box:
    return q.Box(torch.zeros(dimension, dtype=D), torch.ones(dimension, dtype=D))


# --- the map -----------------------------------------------------------------------


def _learned(width: float = 0.01) -> ImportanceMap:
    plan = q.adapt(lambda x: _peak(x, width=width), _box(2), q.Vegas(500, 2, 4))
    nodes = plan.nodes
    edges, counts = nodes.edges[None].numpy(), nodes.counts[None].numpy()
    return ImportanceMap.of(edges, counts, nodes.strata)


def test_map_is_a_change_of_variable() -> None:
    """Its samples integrate what is known, and its Jacobian is its derivative."""
    map_ = _learned(width=0.3)
    u = torch.rand(map_.n, 2, dtype=D).numpy()
    samples = map_.place(u, 0)
    assert samples.nodes.shape == (map_.n, 1, 2)
    step = 1e-7
    moved = map_.place(u + step, 0).nodes
    slope = (moved - samples.nodes) / step * map_.strata
    same = map_.place(u + step, 0).bin == samples.bin
    wanted = samples.jacobian[same.all(-1)]
    got = slope.prod(-1)[same.all(-1)]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.exp(samples.log_jacobian), samples.jacobian)
    total = (samples.weight * samples.jacobian).sum()
    assert float(total) == pytest.approx(1, abs=0.1)


def test_plan_has_the_samples_of_the_search() -> None:
    place = torch.tensor([0.2, 0.6], dtype=D)
    rule = q.Vegas(500, 2, 2)
    plan = q.adapt(_peak, _box(2), rule, args=(place,), on_failure="ignore")
    nodes = plan.nodes
    map_ = ImportanceMap.of(nodes.edges.numpy(), nodes.counts.numpy(), nodes.strata)
    samples = map_.place(uniform(nodes.seed, 2**32 + 1, 7, 400, 2), 7)
    points, weights = nodes.unit(507, 900, D, torch.device("cpu"))
    np.testing.assert_allclose(points, samples.nodes, rtol=1e-14)
    wanted = samples.weight * samples.jacobian / 2
    np.testing.assert_allclose(weights, wanted, rtol=1e-13)


def test_samples_that_rounding_puts_on_an_edge_stay_where_they_are() -> None:
    """The largest uniform number ends in the bin above."""
    map_ = ImportanceMap.uniform(2, 3, 10_000)
    assert (map_.edges.shape[2] - 1) / map_.strata > 60
    samples = map_.place(np.full((10_000, 3), 1 - 2.0**-53), 0)
    assert samples.nodes.max() < 1
    corner = samples.nodes[-1]
    np.testing.assert_allclose(corner, 1, rtol=1e-12)
    np.testing.assert_allclose(samples.slope, 1, rtol=1e-10)


def test_counts_of_equal_shares_go_to_the_first() -> None:
    counts = ImportanceMap.uniform(1, 2, 45).counts
    strata = counts.shape[1]
    more = 45 % strata
    base = 45 // strata
    assert counts.tolist() == [[base + 1] * more + [base] * (strata - more)]


def test_bins_gather_where_the_integrand_is() -> None:
    map_ = _learned()
    for edges in map_.edges[0]:
        assert edges[0] == 0
        assert edges[-1] == 1
        assert (np.diff(edges) >= 0).all()
        near = ((edges > 0.25) & (edges < 0.35)).sum()
        assert near > 0.6 * len(edges)


def test_alpha_0_keeps_the_map_and_beta_0_the_strata() -> None:
    still = q.adapt(_peak, _box(2), q.Vegas(500, 2, 2, alpha=0.0, beta=0.0)).nodes
    width = still.edges.diff()
    torch.testing.assert_close(width, torch.full_like(width, 1 / width.shape[-1]))
    assert int(still.counts.max() - still.counts.min()) <= 1
    only_map = q.adapt(_peak, _box(2), q.Vegas(500, 2, 2, beta=0.0)).nodes
    assert only_map.edges.diff().min() < 0.5 * width.min()
    assert int(only_map.counts.max() - only_map.counts.min()) <= 1
    only_strata = q.adapt(_peak, _box(2), q.Vegas(500, 2, 2, alpha=0.0)).nodes
    torch.testing.assert_close(only_strata.edges, still.edges)
    assert only_strata.counts.max() > 3 * still.counts.max()


@pytest.mark.parametrize("beta", [0.3, 0.75, 1.0])
def test_strata_get_samples_by_their_deviation(beta: float) -> None:
    map_ = ImportanceMap.uniform(1, 1, 40_000)
    deviation = np.linspace(1, 5, map_.counts.shape[1])[None]
    counts = map_.restratified(deviation, beta).counts
    assert int(counts.sum()) == 40_000
    assert int(counts.min()) >= 2
    share = deviation**beta / (deviation**beta).sum()
    wanted = 2 + share * (40_000 - 2 * counts.shape[1])
    assert float(np.abs(counts - wanted).max()) < 1


@pytest.mark.parametrize(("dimension", "n"), [(1, 20), (1, 10_000), (3, 999), (40, 50)])
def test_counts_add_up(dimension: int, n: int) -> None:
    map_ = ImportanceMap.uniform(2, dimension, n)
    assert map_.counts.sum(1).tolist() == [n, n]
    assert int(map_.counts.min()) >= 2
    assert map_.edges.shape[:2] == (2, dimension)
    # No bin reaches into two strata.
    assert (map_.edges.shape[2] - 1) % map_.strata == 0


# --- what it is for ----------------------------------------------------------------


def test_narrow_peak_in_six_dimensions() -> None:
    """A box of which the peak fills 1 part in 4e9."""
    estimate = q.integrate_with_error(_peak, _box(6), q.Vegas(20_000, 6, 20))
    assert float(estimate.value) == pytest.approx(_exact(6), rel=0.01)
    off = abs(float(estimate.value) - _exact(6))
    assert off < 1.5 * float(estimate.error)
    assert float(estimate.error) < 0.03 * _exact(6)


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_map_that_has_not_settled_is_not_trusted(log: bool) -> None:
    """After 5 iterations most of this peak is missing; its error does not say so."""

    def function(x: Tensor, place: Tensor) -> Tensor:
        square = ((x - place[..., None]) / 0.01).square().sum(-1) * (place > 0)
        return 1e4 - 0.5 * square if log else torch.exp(-0.5 * square)

    solve = q.log_integrate_with_error if log else q.integrate_with_error
    # The second integrand is a constant.
    place = torch.tensor([0.3, -1.0], dtype=D)
    with pytest.warns(q.IntegrationWarning, match="A map of Vegas has not settled"):
        early = solve(function, _box(6), q.Vegas(4000, warmup=5), args=(place,))
    wanted = [q.Status.TOLERANCE_NOT_REACHED, q.Status.CONVERGED]
    assert early.status.tolist() == wanted
    late = solve(function, _box(6), q.Vegas(20_000, 4, 20), args=(place,))
    assert late.status.tolist() == [q.Status.CONVERGED] * 2


def test_every_integral_has_a_map_of_its_own() -> None:
    place = torch.tensor([0.1, 0.5, 0.93], dtype=D)
    estimate = q.integrate_with_error(
        _peak, _box(3), q.Vegas(4000, 4, 8), args=(place,)
    )
    torch.testing.assert_close(
        estimate.value, torch.full((3,), _exact(3), dtype=D), rtol=0.02, atol=0
    )
    middle = estimate.plan.nodes.edges.median(-1).values.mean(-1)
    torch.testing.assert_close(middle, place, rtol=0, atol=0.05)


def test_log_form_learns_the_same_map() -> None:
    rule = q.Vegas(2000, 3, 5)
    plain = q.adapt(_peak, _box(2), rule)
    # In blocks of 64, each of which may have a new largest value.
    logs = q.adapt(lambda x: _peak(x).log() + 1e4, _box(2), rule, log=True, memory=8192)
    torch.testing.assert_close(logs.nodes.edges, plain.nodes.edges, rtol=1e-6, atol=0)
    assert torch.equal(logs.nodes.counts, plain.nodes.counts)
    value = q.log_integrate(lambda x: _peak(x).log() + 1e4, _box(2), rule)
    assert float(value) - 1e4 == pytest.approx(math.log(_exact(2)), abs=0.02)


def test_iterations_scatter_as_their_errors_say() -> None:
    chi2 = []
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        estimate = q.integrate_with_error(
            lambda x: torch.exp(-x.square().sum(-1)),
            _box(2),
            q.Vegas(400, 6, 3),
            generator=generator,
        )
        chi2.append(float(estimate.plan.nodes.chi2))
    # The mean of 30 chi2 with 5 degrees of freedom: 5 +- 0.58.
    assert sum(chi2) / 30 == pytest.approx(5, abs=2.5)


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_error_is_widened_where_iterations_disagree(log: bool) -> None:
    """Three iterations of standard deviation 0.1, once far apart and once not."""
    box, rule = _box(1), q.Vegas(20, 2, 1)
    sampler = _sampler_of(box, rule, log=log)
    for apart, widened in ((1.0, True), (0.01, False)):
        done = [
            Iteration(np.array([[10 + k * apart]]), np.array([[0.01]]), np.zeros(1))
            for k in (-1, 0, 1)
        ]
        average = _average(done, sampler)
        chi2 = 2 * apart**2 / 0.01
        assert average.chi2.item() == pytest.approx(chi2)
        # Chi2 has two degrees of freedom here.
        error = 1.96 * 0.1 / math.sqrt(3) * max(1, math.sqrt(chi2 / 2))
        assert (error > 1) == widened
        error = error / 10 if log else error
        assert average.error.item() == pytest.approx(error, rel=1e-4)
    # Iterations that agree in every bit have the error of rounding.
    done = [Iteration(np.array([[10.0]]), np.zeros((1, 1)), np.zeros(1))] * 3
    error = _average(done, sampler).error.item()
    assert error == torch.finfo(sampler.integrand.dtype).eps * (1 if log else 10)


def _sampler_of(box: q.Box, rule: q.Vegas, *, log: bool) -> Sampler:
    integrand = solid.pose(_peak, box, (), None, None)[0]
    chart = box.chart(integrand, rule.tails)
    return Sampler(integrand, chart, log, None, 10**6, None, None)


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_no_volume_is_0_whatever_the_integrand(log: bool) -> None:
    """Of two boxes one has none; both integrands are infinite in a half of them."""
    box = q.Box(torch.zeros(2, 2, dtype=D), torch.tensor([[0.0, 1], [1, 1]], dtype=D))

    def wild(x: Tensor) -> Tensor:
        return torch.where(x[..., 1] > 0.5, torch.inf, 0.0)

    solve = q.log_integrate_with_error if log else q.integrate_with_error
    estimate = solve(wild, box, q.Vegas(100, 2, 1), on_failure="ignore")
    assert float(estimate.value[0]) == (-math.inf if log else 0)
    assert estimate.status.tolist() == [q.Status.CONVERGED, q.Status.NON_FINITE]


def test_bar_has_an_estimate_after_every_iteration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[float] = []

    def show(sampler: Sampler, value: np.ndarray, error: np.ndarray) -> None:
        assert error > 0
        shown.append(float(value[0, 0]))

    monkeypatch.setattr(Sampler, "show", show)
    q.integrate(_peak, _box(2), q.Vegas(100, 5, 2), progress=True, on_failure="ignore")
    # From the second on, as one alone has no error.
    assert len(set(shown)) == 4


# --- what is kept ------------------------------------------------------------------


def test_going_on_from_a_plan_needs_no_warmup() -> None:
    learned = q.adapt(_peak, _box(4), q.Vegas(4000, 2, 10))
    with pytest.warns(q.IntegrationWarning, match="has not settled"):
        fresh = q.integrate_with_error(_peak, _box(4), q.Vegas(4000, 4, 1))
    warm = q.integrate_with_error(_peak, _box(4), q.Vegas(4000, 4, 0, start=learned))
    assert float(warm.error) < 0.2 * float(fresh.error)
    assert warm.n_evals == 4 * 4000
    assert float(warm.value) == pytest.approx(_exact(4), rel=0.01)
    points = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal points
        points += len(x)
        return _peak(x)

    other_n = q.integrate_with_error(
        counted, _box(4), q.Vegas(1000, 4, 0, start=learned)
    )
    assert float(other_n.value) == pytest.approx(_exact(4), rel=0.05)
    assert other_n.n_evals == points == 4 * 1000


def test_another_batch_begins_with_the_mean_map() -> None:
    learned = q.adapt(_peak, _box(3), q.Vegas(2000, 2, 8))
    place = torch.full((5,), 0.3, dtype=D)
    rule = q.Vegas(2000, 4, 0, start=learned)
    value = q.integrate(_peak, _box(3), rule, args=(place,))
    torch.testing.assert_close(
        value, torch.full((5,), _exact(3), dtype=D), rtol=0.03, atol=0
    )
    mapped = torch.vmap(lambda p: q.integrate(_peak, _box(3), rule, args=(p,)))(place)
    torch.testing.assert_close(mapped, value, rtol=0.05, atol=0)


def test_map_carries_no_gradient() -> None:
    width = torch.tensor(0.05, dtype=D, requires_grad=True)
    estimate = q.integrate_with_error(
        lambda x: torch.exp(-0.5 * ((x - 0.3) / width).square().sum(-1)),
        _box(2),
        q.Vegas(4000, 4, 4),
    )
    nodes = estimate.plan.nodes
    assert isinstance(nodes, VegasNodes)
    assert not nodes.edges.requires_grad
    (slope,) = torch.autograd.grad(estimate.value, width)
    # The integral is 2 pi width^2.
    assert float(slope) == pytest.approx(4 * math.pi * 0.05, rel=0.02)


def test_layer_goes_on_learning_and_saves_the_map() -> None:
    def layer() -> mlc.Integral:
        return mlc.Integral(_peak, _box(4), q.Vegas(2000, 4, 2), on_failure="ignore")

    first = layer()
    errors = []
    for _ in range(5):
        first()
        assert first.plan is not None
        errors.append(float(first.plan.error) / _exact(4))
    assert errors[-1] < 0.05 * errors[0]
    edges = first.plan.nodes.edges
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = layer()
    second.load_state_dict(torch.load(buffer, weights_only=False))
    assert torch.equal(second.plan.nodes.edges, edges)
    torch.testing.assert_close(second(), first())
    assert not torch.equal(second.plan.nodes.edges, edges)
    # In eval mode the map is used, and stays as it is.
    kept = second.eval().plan
    assert float(second()) == pytest.approx(_exact(4), rel=0.02)
    assert second.plan is kept
    assert copy.deepcopy(first)() == first()


def test_layer_shares_a_plan_between_steps() -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += len(x)
        return _peak(x)

    layer = mlc.Integral(counted, _box(2), q.Vegas(100, 2, 2), plan_every=3)
    used = []
    for _ in range(4):
        calls = 0
        layer()
        used.append(calls)
    assert used == [600, 200, 200, 600]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n": 10}, ValueError, "n is 10; at least 20"),
        ({"iterations": 1}, ValueError, "iterations is 1; at least 2"),
        ({"warmup": -1}, ValueError, "warmup is -1"),
        ({"warmup": 0}, ValueError, "at least 1 is wanted, or start="),
        ({"alpha": -0.5}, ValueError, "alpha is -0.5; 0 or more"),
        ({"beta": math.nan}, ValueError, "beta is nan"),
        ({"beta": "1"}, TypeError, "beta is '1'"),
        ({"tails": 1}, TypeError, "tails is 1"),
        ({"start": q.Lattice(8)}, ValueError, "the plan of an integral by Vegas"),
    ],
    ids=str,
)
def test_refuses(settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        q.Vegas(**settings)


def test_start_of_other_dimension_or_rule_is_refused() -> None:
    learned = q.adapt(_peak, _box(2), q.Vegas(100, 2, 1))
    with pytest.raises(
        ValueError, match="start was made in 2 dimensions, the domain ha"
    ):
        q.integrate(_peak, _box(3), q.Vegas(100, start=learned))
    with pytest.raises(ValueError, match="start is Plan"):
        q.Vegas(100, start=q.adapt(_peak, _box(2), q.Lattice(8)))


def test_mean_map_is_what_another_batch_begins_with() -> None:
    def adapt(rule: q.Vegas, *place: float) -> q.Plan:
        args = (torch.tensor(place, dtype=D),)
        return q.adapt(_peak, _box(2), rule, args=args, on_failure="ignore")

    learned = adapt(q.Vegas(500, 2, 3), 0.2, 0.8)
    same = adapt(q.Vegas(500, 2, 0, start=learned), 0.2, 0.8)
    assert torch.equal(same.nodes.edges, learned.nodes.edges)
    other = adapt(q.Vegas(500, 2, 0, start=learned), 0.2, 0.8, 0.2, 0.8)
    mean = learned.nodes.edges.mean(0).expand_as(other.nodes.edges)
    torch.testing.assert_close(other.nodes.edges, mean)
