"""torchquad's integrators as rules, against torchquad itself and closed forms."""

import copy
import math
import pickle
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torchquad
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import torch_mlcalc.quadrature as q

D = torch.float64


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads only cost where tensors are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The number of points suits every grid in one, two and three dimensions, but for Boole.
GRIDS = {
    "trapezoid": q.Torchquad(torchquad.Trapezoid(), n=4225),
    "simpson": q.Torchquad(torchquad.Simpson(), n=4225),
    "boole": q.Torchquad(torchquad.Boole(), n=4225),
    "gauss_legendre": q.Torchquad(torchquad.GaussLegendre(), n=4225),
}
DRAWN = {
    "monte_carlo": q.Torchquad(torchquad.MonteCarlo(), n=4096),
    "sobol": q.Torchquad(torchquad.MonteCarlo(), n=4096, sampler=torchquad.Sobol),
    "vegas": q.Torchquad(torchquad.VEGAS(), n=5000),
}
RULES = GRIDS | DRAWN
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

UPPER = torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]], dtype=D)
RATE = torch.tensor([1.0, 2.0, 0.5], dtype=D)
#: Relative error of the integrals below.
ACCURACY = {
    "trapezoid": 2e-3,
    "simpson": 1e-6,
    "boole": 1e-8,
    "gauss_legendre": 1e-12,
    "monte_carlo": 0.05,
    "sobol": 1e-3,
    "vegas": 0.02,
}
accuracies = pytest.mark.parametrize(
    ("rule", "rtol"), [(RULES[name], ACCURACY[name]) for name in RULES], ids=RULES
)


def _decay(x: Tensor, rate: Tensor) -> Tensor:
    return torch.exp(-rate * x.sum(-1))


def _exact(rate: Tensor, upper: Tensor) -> Tensor:
    rate = rate[..., None]
    return ((1 - torch.exp(-rate * upper)) / rate).prod(-1)


@accuracies
def test_batches_parameters_and_limits(rule: q.Rule, rtol: float) -> None:
    value = q.integrate(_decay, q.Box(0.0, UPPER), rule, args=(RATE,))
    torch.testing.assert_close(value, _exact(RATE, UPPER), rtol=rtol, atol=0)
    rate = RATE.reshape(3, 1)
    value = q.integrate(_decay, q.Box(0.0, UPPER), rule, args=(rate,))
    assert value.shape == (3, 3)
    torch.testing.assert_close(value, _exact(rate, UPPER), rtol=rtol, atol=0)


@accuracies
def test_gradients_are_right(rule: q.Rule, rtol: float) -> None:
    """Also through exp, of which torchquad's own GaussLegendre has none."""
    rate, upper = RATE.clone().requires_grad_(), UPPER.clone().requires_grad_()
    value = q.integrate(_decay, q.Box(0.0, upper), rule, args=(rate,))
    got = torch.autograd.grad(value.sum(), (rate, upper))
    wanted = torch.autograd.grad(_exact(rate, upper).sum(), (rate, upper))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=5 * rtol, atol=rtol)


@accuracies
def test_log_form(rule: q.Rule, rtol: float) -> None:
    value = q.log_integrate(
        lambda x, rate: 2e4 - rate * x.sum(-1), q.Box(0.0, UPPER), rule, args=(RATE,)
    )
    torch.testing.assert_close(
        value - 2e4, _exact(RATE, UPPER).log(), rtol=0, atol=2 * rtol + 1e-11
    )


@accuracies
def test_on_a_line(rule: q.Rule, rtol: float) -> None:
    upper = torch.tensor([1.0, 2.0], dtype=D)
    rate = torch.tensor([1.0, 3.0], dtype=D)
    if rule is GRIDS["gauss_legendre"]:
        # torchquad diagonalises a matrix of n by n.
        rule = q.Torchquad(torchquad.GaussLegendre(), n=65)
    value = q.integrate(
        lambda x, rate: torch.exp(-rate * x), q.Interval(0, upper), rule, args=(rate,)
    )
    torch.testing.assert_close(
        value, (1 - torch.exp(-rate * upper)) / rate, rtol=rtol, atol=0
    )


@rules
def test_single_precision(rule: q.Rule) -> None:
    wide = q.integrate(_decay, q.Box(0.0, UPPER), rule, args=(RATE,))
    box = q.Box(0.0, UPPER.float())
    value = q.integrate(_decay, box, rule, args=(RATE.float(),))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.to(D), wide, rtol=1e-5, atol=0)


def _small(name: str) -> q.Rule:
    integrator = {
        "trapezoid": torchquad.Trapezoid,
        "simpson": torchquad.Simpson,
        "boole": torchquad.Boole,
        "gauss_legendre": torchquad.GaussLegendre,
        "monte_carlo": torchquad.MonteCarlo,
        "vegas": torchquad.VEGAS,
    }[name]()
    return q.Torchquad(integrator, n=250 if name == "vegas" else 25)


@forward_mode
@pytest.mark.parametrize("name", [n for n in RULES if n != "sobol"])
def test_gradcheck_of_closures_args_and_limits(name: str) -> None:
    rule = _small(name)
    upper = torch.tensor([1.5, 0.8], dtype=D, requires_grad=True)
    rate, power = (torch.tensor(v, dtype=D, requires_grad=True) for v in (0.7, 0.3))

    def function(x: Tensor, rate: Tensor, power: Tensor) -> Tensor:
        return torch.exp(-rate * x.sum(-1)) * (1 + x[..., 0]) ** power

    if name == "vegas":
        box = q.Box(0.0, upper.detach())
        rule = q.adapt(function, box, rule, args=(rate.detach(), power.detach()))

    def integral(rate: Tensor, power: Tensor, upper: Tensor) -> Tensor:
        return q.integrate(
            lambda x, rate: function(x, rate, power),
            q.Box(0.0, upper),
            rule,
            args=(rate,),
        )

    assert gradcheck(integral, (rate, power, upper), check_forward_ad=True)
    assert gradgradcheck(integral, (rate, power, upper))


@forward_mode
@rules
def test_transforms_of_torch_func(rule: q.Rule) -> None:
    def single(rate: Tensor, upper: Tensor) -> Tensor:
        return q.integrate(_decay, q.Box(0.0, upper), rule, args=(rate,))

    fresh = copy.copy(rule)
    rate = RATE.clone().requires_grad_()
    together = q.integrate(_decay, q.Box(0.0, UPPER), rule, args=(rate,))
    (wanted,) = torch.autograd.grad(together.sum(), rate)
    torch.testing.assert_close(torch.vmap(single)(RATE, UPPER), together.detach())
    each = torch.vmap(torch.func.grad(single))(RATE, UPPER)
    torch.testing.assert_close(each, wanted)
    assert fresh == rule


@pytest.mark.parametrize("name", ["simpson", "monte_carlo"])
def test_fixed_ones_are_compiled_whole(name: str) -> None:
    rule = RULES[name]

    def apply(rate: Tensor) -> Tensor:
        return q.integrate(_decay, q.Box(0.0, UPPER), rule, args=(rate,))

    torch.compiler.reset()
    value = torch.compile(apply, fullgraph=True, backend="eager")(RATE)
    torch.testing.assert_close(value, apply(RATE))


@rules
def test_nodes_made_in_inference_mode_can_be_used_later(
    rule: q.Torchquad,
) -> None:
    own = q.Torchquad(type(rule.integrator)(), rule.n, rule.sampler)
    # Of the dtype of the tables, so that no conversion makes ordinary tensors of them.
    box = q.Box(torch.zeros(2, dtype=D), torch.ones(2, dtype=D))
    with torch.inference_mode():
        q.integrate(lambda x: x.sum(-1), box, own)
    scale = torch.ones((), dtype=D, requires_grad=True)
    value = q.integrate(lambda x: scale * x.sum(-1), box, own)
    value.backward()
    torch.testing.assert_close(scale.grad, value.detach())


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("rule", GRIDS.values(), ids=GRIDS)
def test_values_are_torchquads_own(rule: q.Torchquad) -> None:
    domain = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=D)
    theirs = rule.integrator.integrate(
        lambda x: 1 / (1 + x.sum(-1)), dim=2, N=rule.n, integration_domain=domain
    )
    ours = q.integrate(lambda x: 1 / (1 + x.sum(-1)), q.Box(0.0, UPPER[0]), rule)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=0)


def test_vegas_value_is_torchquads_own() -> None:
    """Same seed, same map, same weights."""
    integrator = torchquad.VEGAS()
    sampler = torchquad.RNG("torch", seed=7, torch_save_state=True)
    domain = torch.tensor([[0.0, 1.0]] * 2, dtype=D)
    theirs = integrator.integrate(
        lambda x: torch.exp(-5 * x.sum(-1)), 2, 4000, domain, rng=sampler
    )
    box = q.Box(torch.zeros(2, dtype=D), torch.ones(2, dtype=D))
    rule = q.Torchquad(torchquad.VEGAS(), n=4000, seed=7)
    ours = q.integrate(lambda x: torch.exp(-5 * x.sum(-1)), box, rule)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_vegas_states_an_error_that_covers() -> None:
    box = q.Box(torch.zeros(2, dtype=D), torch.ones(2, dtype=D))
    inside = 0
    for seed in range(20):
        estimate = q.integrate_with_error(
            lambda x: torch.exp(-5 * x.sum(-1)),
            box,
            q.Torchquad(torchquad.VEGAS(), n=2000, seed=seed),
        )
        off = abs(float(estimate.value) - ((1 - math.exp(-5)) / 5) ** 2)
        inside += off <= float(estimate.error)
        assert estimate.status == q.Status.CONVERGED
        assert 500 < int(estimate.n_evals) <= 2500
    # 19 are expected; 15 or fewer have a chance of 1 in 400.
    assert inside > 15
    missed = q.integrate_with_error(
        lambda x: torch.exp(-5 * x.sum(-1)),
        box,
        q.Torchquad(torchquad.VEGAS(), n=2000),
        rtol=1e-9,
        on_failure="ignore",
    )
    assert missed.status == q.Status.TOLERANCE_NOT_REACHED


def test_vegas_stops_early_at_the_tolerance() -> None:
    box = q.Box(torch.zeros(2, dtype=D), torch.ones(2, dtype=D))
    rule = q.Torchquad(torchquad.VEGAS(), n=50_000)

    def used(**tolerance: float) -> int:
        function = lambda x: torch.exp(-x.sum(-1))  # noqa: E731
        return int(q.integrate_with_error(function, box, rule, **tolerance).n_evals)

    assert used(rtol=0.01) < 0.5 * used()
    assert used(atol=0.01) < 0.5 * used()


def test_vegas_states_the_error_of_the_log() -> None:
    box = q.Box(torch.zeros(2, dtype=D), torch.ones(2, dtype=D))
    rule = q.Torchquad(torchquad.VEGAS(), n=2000)
    plain = q.integrate_with_error(lambda x: torch.exp(-9 * x.sum(-1)), box, rule)
    log = q.log_integrate_with_error(lambda x: -9 * x.sum(-1), box, rule)
    assert log.value.item() == pytest.approx(plain.value.log().item(), rel=1e-3)
    relative = plain.error / plain.value
    assert relative > 0
    torch.testing.assert_close(log.error, relative, rtol=0.01, atol=0)


def test_a_plan_of_vegas_has_no_weight_beyond_the_points_of_each_integral() -> None:
    box = q.Box(torch.zeros(2, dtype=D), torch.ones(2, dtype=D))
    rule = q.Torchquad(torchquad.VEGAS(), n=5000)
    rate = torch.tensor([0.1, 9.0], dtype=D)
    points = 0

    def counted(x: Tensor, rate: Tensor) -> Tensor:
        nonlocal points
        points += len(x)
        return _decay(x, rate)

    plan = q.adapt(counted, box, rule, args=(rate,), rtol=0.02)
    # All are evaluated at the points of each.
    assert plan.n_evals.tolist() == [points, points]
    few, many = (plan.nodes.weights != 0).sum(0).tolist()
    assert few < many == plan.n
    value = q.integrate(_decay, box, plan, args=(rate,))
    torch.testing.assert_close(
        value, _exact(rate, torch.ones(2, dtype=D)), rtol=0.05, atol=0
    )


def test_seed_and_generator() -> None:
    box = q.Box(torch.zeros(2, dtype=D), torch.ones(2, dtype=D))

    def run(rule: q.Rule, generator: torch.Generator | None = None) -> float:
        return float(q.integrate(lambda x: x.prod(-1), box, rule, generator=generator))

    for integrator in (torchquad.MonteCarlo(), torchquad.VEGAS()):
        one, again = (q.Torchquad(integrator, n=500) for _ in range(2))
        assert run(one) == run(again)
        assert run(one) != run(q.Torchquad(integrator, n=500, seed=1))
    vegas = q.Torchquad(torchquad.VEGAS(), n=500)
    assert run(vegas) != run(vegas, torch.Generator().manual_seed(1))


@rules
def test_nothing_of_the_callers_is_touched(
    rule: q.Torchquad, capfd: pytest.CaptureFixture[str]
) -> None:
    own = q.Torchquad(type(rule.integrator)(), rule.n, rule.sampler)
    before, dtype = torch.get_rng_state(), torch.get_default_dtype()
    numpy = np.random.get_state()[1].copy()
    values: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        values.append(torch.exp(-x.sum(-1)))
        return values[-1]

    q.integrate(function, q.Box(0.0, UPPER[0]), own)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy, np.random.get_state()[1])
    assert torch.get_default_dtype() == dtype
    assert capfd.readouterr() == ("", "")
    for value in values:
        assert 0 < value.min() <= value.max() <= 1


def test_infinite_limits_need_an_open_rule() -> None:
    box = q.Box([0.0, 0.0], [1.0, torch.tensor(math.inf, dtype=D)])
    value = q.integrate(
        lambda x: torch.exp(-x.square().sum(-1)), box, GRIDS["gauss_legendre"]
    )
    wanted = math.pi / 4 * math.erf(1)
    assert float(value) == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(
        ValueError, match=r"Torchquad\(Simpson.* has nodes on the faces"
    ):
        q.integrate(lambda x: torch.exp(-x.sum(-1)), box, GRIDS["simpson"])


@rules
def test_rules_copy_and_show_themselves(rule: q.Rule) -> None:
    shown = repr(rule)
    assert shown.startswith("Torchquad(")
    assert "n=" in shown
    copied = pickle.loads(pickle.dumps(rule))
    assert repr(copied) == shown
    assert type(copied) is type(rule)
    assert copy.copy(rule) == rule
    assert len({rule, copy.copy(rule)}) == 1


def test_fixed_ones_state_no_error() -> None:
    with pytest.raises(ValueError, match="has no error estimate"):
        q.integrate_with_error(
            lambda x: x.sum(-1), q.Box(0.0, 1.0, dimension=2), DRAWN["monte_carlo"]
        )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torchquad.Simpson, 10), TypeError, "an integrator of torchquad is wanted"),
        ((math.sin, 10), TypeError, "integrator is a builtin_function_or_method"),
        ((torchquad.Simpson(), 1), ValueError, "n is 1; at least 2"),
        ((torchquad.Simpson(), 9.0), TypeError, "n is 9.0"),
        ((torchquad.MonteCarlo(), 9, None, -1), ValueError, "seed is -1"),
        (
            (torchquad.Simpson(), 9, torchquad.Sobol),
            ValueError,
            "sampler and seed have no effect with Simpson",
        ),
        ((torchquad.Boole(), 9, None, 1), ValueError, "no effect with Boole"),
        (
            (torchquad.MonteCarlo(), 9, torchquad.Sobol("torch")),
            TypeError,
            "sampler is a Sobol; a class is wanted",
        ),
    ],
)
def test_refuses(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        q.Torchquad(*arguments)


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (lambda x: x, {}, "takes integrands with one real value; got 2 values"),
        (lambda x: x[..., 0] * 1j, {}, "takes integrands with one real value"),
        (
            lambda x: x[..., 0],
            {"max_evals": 99},
            "needs 500 evaluations, max_evals is 9",
        ),
    ],
    ids=["events", "complex", "budget"],
)
def test_vegas_refuses(function: Callable, settings: dict, message: str) -> None:
    rule = q.Torchquad(torchquad.VEGAS(), n=500)
    with pytest.raises(ValueError, match=message):
        q.integrate(function, q.Box(0.0, 1.0, dimension=2), rule, **settings)


def test_vegas_refuses_too_few_points() -> None:
    rule = q.Torchquad(torchquad.VEGAS(), n=100)
    with pytest.raises(ValueError, match="VEGAS needs at least 125"):
        q.integrate(lambda x: x.sum(-1), q.Box(0.0, 1.0, dimension=2), rule)


def test_too_few_points_for_a_grid_is_torchquads_word() -> None:
    rule = q.Torchquad(torchquad.Trapezoid(), n=3)
    with pytest.raises(ValueError):
        q.integrate(lambda x: x.sum(-1), q.Box(0.0, 1.0, dimension=2), rule)


def test_integrator_keeps_nothing() -> None:
    integrator = torchquad.VEGAS()
    before = dict(vars(integrator))
    rule = q.Torchquad(integrator, n=500)
    q.integrate(lambda x: x.sum(-1), q.Box(0.0, 1.0, dimension=2), rule)
    assert vars(integrator) == before


def test_without_torchquad_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchquad", None)
    with pytest.raises(ImportError, match=r"pip install 'torch_mlcalc\[torchquad\]'"):
        q.Torchquad(torchquad.Simpson(), 9)


class Seeding:
    """A sampler that draws from the global generator, as torchquad's RNG may."""

    def __init__(self, backend: str, seed: int) -> None:
        torch.manual_seed(seed)

    def uniform(self, size: list[int], dtype: torch.dtype) -> Tensor:
        return torch.rand(size, dtype=dtype)


@pytest.mark.parametrize("integrator", [torchquad.MonteCarlo(), torchquad.VEGAS()])
def test_global_generator_survives_samplers_that_seed_it(
    integrator: torchquad.BaseIntegrator,
) -> None:
    before = torch.get_rng_state()
    rule = q.Torchquad(integrator, n=500, sampler=Seeding)
    q.integrate(lambda x: x.sum(-1), q.Box(0.0, 1.0, dimension=2), rule)
    assert torch.equal(before, torch.get_rng_state())
