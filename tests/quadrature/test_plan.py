"""Plans: frozen nodes, replayed on moved limits, other parameters, other integrands."""

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import torch_mlcalc.quadrature as q

pytestmark = pytest.mark.usefixtures("double")


RULES = {
    "default": None,
    "gauss_kronrod": q.GaussKronrod(15),
    "double_exponential": q.DoubleExponential(),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())


def _peak(x: Tensor, place: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-0.5 * ((x - place) / width) ** 2)


PLACE, WIDTH = (0.1, 0.5, -0.3), (0.3, 0.05, 1.0)


def _params() -> tuple[Tensor, Tensor]:
    return torch.tensor(PLACE), torch.tensor(WIDTH)


@rules
@pytest.mark.parametrize("upper", [2.0, math.inf])
def test_replay_gives_what_the_search_gave(rule: q.Rule | None, upper: float) -> None:
    domain, args = q.Interval(-2, upper), _params()
    estimate = q.integrate_with_error(_peak, domain, rule, args=args)
    replayed = q.integrate(_peak, domain, estimate.plan, args=args)
    torch.testing.assert_close(replayed, estimate.value, rtol=1e-14, atol=0)
    adapted = q.adapt(_peak, domain, rule, args=args)
    again = q.integrate(_peak, domain, adapted, args=args)
    assert torch.equal(again, replayed)


@rules
def test_replay_evaluates_its_nodes_once_and_searches_nothing(
    rule: q.Rule | None,
) -> None:
    calls: list[int] = []

    def root(x: Tensor) -> Tensor:
        calls.append(x.numel())
        return x.sqrt()

    plan = q.adapt(root, q.Interval(0, 1), rule)
    calls.clear()
    q.integrate(root, q.Interval(0, 1), plan)
    assert sum(calls) == plan.n


@rules
def test_replay_on_moved_limits(rule: q.Rule | None) -> None:
    plan = q.adapt(torch.exp, q.Interval(0, torch.tensor([1.0, 2.0])), rule)
    lower, upper = torch.tensor([-0.1, 0.2]), torch.tensor([1.3, 1.7])
    moved = q.integrate(torch.exp, q.Interval(lower, upper), plan)
    torch.testing.assert_close(moved, upper.exp() - lower.exp())
    flipped = q.integrate(torch.exp, q.Interval(upper, lower), plan)
    torch.testing.assert_close(flipped, lower.exp() - upper.exp())


def test_replay_on_moved_half_line_and_real_line() -> None:
    half = q.adapt(lambda x: torch.exp(-x), q.HalfLine(0))
    moved = q.integrate(lambda x: torch.exp(-x), q.HalfLine(0.5), half)
    torch.testing.assert_close(moved, torch.tensor(-0.5).exp())
    line = q.adapt(lambda x: torch.exp(-x * x), q.RealLine())
    shifted = q.integrate(lambda x: torch.exp(-((x - 3) ** 2)), q.RealLine(3), line)
    torch.testing.assert_close(shifted, torch.tensor(math.sqrt(math.pi)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("lower", "upper"),
    [(-1.0, 2), (2, -1.0), (1.0, 1.0), (0.5, math.inf), (-math.inf, 0.5)]
    + [(-math.inf, math.inf), (math.inf, -math.inf), (math.inf, math.inf)],
)
def test_numbers_and_tensors_as_limits_replay_alike(
    lower: float, upper: float, dtype: torch.dtype
) -> None:
    torch.set_default_dtype(dtype)
    numbers = q.Interval(lower, upper)
    tensors = q.Interval(torch.tensor(float(lower)), torch.tensor(float(upper)))
    for args in ((), (torch.tensor([0.5, 1.0, 2.0]),)):
        plan = q.adapt(_bell, numbers, args=args)
        one, other = (
            q.integrate(_bell, d, plan, args=args) for d in (numbers, tensors)
        )
        assert one.dtype == other.dtype == dtype
        torch.testing.assert_close(one, other)
        if lower <= upper:
            log = q.log_integrate(_log_bell, numbers, plan, args=args)
            torch.testing.assert_close(log, one.log())


def _log_bell(x: Tensor, rate: Tensor | float = 1.0) -> Tensor:
    return -rate * x * x


def _bell(x: Tensor, rate: Tensor | float = 1.0) -> Tensor:
    return _log_bell(x, rate).exp()


@pytest.mark.parametrize("log", [False, True])
def test_a_plan_between_equal_limits_gives_nothing(log: bool) -> None:
    solve = q.log_integrate if log else q.integrate
    nothing = -math.inf if log else 0.0

    def singular(x: Tensor) -> Tensor:  # infinite at 0, where all nodes come to lie
        return -x.log() / 2 if log else x.rsqrt()

    def decay(x: Tensor) -> Tensor:
        return -x if log else torch.exp(-x)

    upper = torch.tensor([1.0, 1.0])
    plan = q.adapt(singular, q.Interval(0.0, upper), log=log)
    value = solve(singular, q.Interval(0.0, upper * torch.tensor([4.0, 0.0])), plan)
    exact = [math.log(4) if log else 4.0, nothing]
    torch.testing.assert_close(value, torch.tensor(exact))
    lower = torch.zeros(2)
    plan = q.adapt(decay, q.Interval(lower, math.inf), log=log)
    lower = torch.tensor([0.0, math.inf])
    value = solve(decay, q.Interval(lower, math.inf), plan)
    exact = [0.0 if log else 1.0, nothing]
    torch.testing.assert_close(value, torch.tensor(exact))


def test_a_plan_of_a_half_line_is_refused_between_equal_limits() -> None:
    plan = q.adapt(lambda x: torch.exp(-x), q.HalfLine(1))
    with pytest.raises(ValueError, match="other infinite ends"):
        q.integrate(lambda x: torch.exp(-x), q.Interval(1, 1), plan)
    nothing = q.integrate(lambda x: x, q.Interval(math.inf, math.inf), plan)
    assert nothing == 0


@rules
def test_replay_on_changed_parameters_with_gradient(rule: q.Rule | None) -> None:
    plan = q.adapt(_peak, q.Interval(-2, 2), rule, args=_params(), rtol=1e-10)
    place = torch.tensor(PLACE).add(0.01).requires_grad_()
    width = torch.tensor(WIDTH)
    value = q.integrate(_peak, q.Interval(-2, 2), plan, args=(place, width))

    def phi(limit: float) -> Tensor:
        return torch.erf((limit - place) / (width * math.sqrt(2)))

    exact = width * math.sqrt(math.pi / 2) * (phi(2) - phi(-2))
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)
    slopes = [torch.autograd.grad(v.sum(), place)[0] for v in (value, exact)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-7)


@rules
def test_replay_on_another_integrand(rule: q.Rule | None) -> None:
    plan = q.adapt(torch.sqrt, q.Interval(0, 1), rule, rtol=1e-10)
    value = q.integrate(lambda x: x * x.sqrt(), q.Interval(0, 1), plan)
    assert value.item() == pytest.approx(0.4, rel=1e-8)
    events = q.integrate(
        lambda x: torch.stack([x.sqrt(), x], -1), q.Interval(0, 1), plan
    )
    torch.testing.assert_close(events, torch.tensor([2 / 3, 0.5]))


def test_plan_of_the_log_form_serves_both_forms() -> None:
    plan = q.adapt(lambda x: 2000 - x * x / 2, q.RealLine(), log=True)
    log_value = q.log_integrate(lambda x: 2000 - x * x / 2, q.RealLine(), plan)
    half_log = math.log(2 * math.pi) / 2
    assert log_value.item() == pytest.approx(2000 + half_log, abs=1e-8)
    value = q.integrate(lambda x: torch.exp(-x * x / 2), q.RealLine(), plan)
    assert value.item() == pytest.approx(math.exp(half_log), rel=1e-8)


@rules
def test_gradients_of_a_replay(rule: q.Rule | None) -> None:
    width = torch.tensor(WIDTH)
    plan = q.adapt(_peak, q.Interval(-2, 2), rule, args=_params())

    def replay(place: Tensor, upper: Tensor) -> Tensor:
        return q.integrate(_peak, q.Interval(-2, upper), plan, args=(place, width))

    inputs = (
        torch.tensor(PLACE, requires_grad=True),
        torch.tensor([2.0, 1.9, 2.2], requires_grad=True),
    )
    assert gradcheck(replay, inputs)
    assert gradgradcheck(replay, inputs)


def test_replay_inside_vmap_and_grad() -> None:
    plan = q.adapt(torch.exp, q.Interval(0, 1))
    rates = torch.tensor([0.5, 1.0, 2.0])

    def replay(rate: Tensor) -> Tensor:
        return q.integrate(lambda x: torch.exp(rate * x), q.Interval(0, 1), plan)

    slope = torch.func.vmap(torch.func.grad(replay))(rates)
    exact = (rates.exp() * (rates - 1) + 1) / rates**2
    torch.testing.assert_close(slope, exact)


def test_replay_in_single_precision() -> None:
    plan = q.adapt(torch.exp, q.Interval(0, 1))
    upper = torch.tensor(1.0, dtype=torch.float32)
    value = q.integrate(torch.exp, q.Interval(0, upper), plan)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, upper.expm1())


def test_blocks_of_a_replay_change_nothing() -> None:
    plan = q.adapt(_peak, q.Interval(-2, 2), args=_params(), rtol=1e-12)
    values = [
        q.integrate(_peak, q.Interval(-2, 2), plan, args=_params(), memory=memory)
        for memory in (None, 1000)
    ]
    torch.testing.assert_close(values[0], values[1], rtol=1e-14, atol=0)


def test_a_replay_of_a_single_integral_keeps_to_its_memory() -> None:
    def kinks(x: Tensor) -> Tensor:
        calls.append(x.numel())
        return torch.sin(9 * x).abs()

    calls: list[int] = []
    domain = q.Interval(0.0, 1.0)
    plan = q.adapt(kinks, domain, rtol=1e-6)
    with torch.no_grad():
        calls.clear()
        whole = q.integrate(kinks, domain, plan)
        assert len(calls) == 1
        calls.clear()
        torch.testing.assert_close(q.integrate(kinks, domain, plan, memory=4096), whole)
    assert len(calls) > 1
    assert max(calls) * 4 <= 4096 / 8


@rules
def test_what_a_plan_says_of_its_search(rule: q.Rule | None) -> None:
    def integrand(x: Tensor, place: Tensor, width: Tensor) -> Tensor:
        return torch.stack([_peak(x, place, width), x * x], -1)

    estimate = q.integrate_with_error(
        integrand, q.Interval(-2, 2), rule, args=_params()
    )
    plan = estimate.plan
    assert isinstance(plan, q.Plan)
    assert plan.batch_shape == (3,)
    assert plan.breakpoints == 0
    assert plan.error.shape == (3, 2)
    assert plan.status.tolist() == [q.Status.CONVERGED] * 3
    assert plan.status.dtype == plan.n_evals.dtype == torch.int64
    assert (plan.error >= 0).all()
    assert not plan.error.requires_grad
    assert 0 < plan.n <= int(plan.n_evals.max())
    for mine, reported in zip(
        (plan.error, plan.status, plan.n_evals), estimate[1:4], strict=True
    ):
        assert torch.equal(mine, reported)
    assert repr(plan) == f"Plan(n={plan.n}, batch_shape=(3,), breakpoints=0)"


def test_a_single_smooth_cell_has_the_nodes_of_its_rule() -> None:
    plan = q.adapt(torch.exp, q.Interval(0, 1), q.GaussKronrod(15))
    assert plan.n == 15
    # It was compared to four parts.
    assert int(plan.n_evals) == 5 * 15


def test_a_plan_keeps_its_breakpoints_movable() -> None:
    def jump(x: Tensor, cut: Tensor) -> Tensor:
        return (x < cut).to(x.dtype)

    cut = torch.tensor([0.3])
    plan = q.adapt(lambda x: jump(x, cut), q.Interval(0, 1), breakpoints=cut)
    assert plan.breakpoints == 1
    moved = torch.tensor([0.6], requires_grad=True)
    value = q.integrate(
        lambda x: jump(x, moved), q.Interval(0, 1), plan, breakpoints=moved
    )
    assert value.item() == pytest.approx(0.6)
    assert torch.autograd.grad(value, moved)[0].item() == pytest.approx(1)


def test_another_number_of_breakpoints_is_refused() -> None:
    plan = q.adapt(torch.exp, q.Interval(0, 1), breakpoints=[0.5])
    with pytest.raises(ValueError, match="made with 1 breakpoints, got 0; pass"):
        q.integrate(torch.exp, q.Interval(0, 1), plan)
    with pytest.raises(ValueError, match="made with 1 breakpoints, got 2; pass"):
        q.integrate(torch.exp, q.Interval(0, 1), plan, breakpoints=[0.2, 0.5])


def test_another_batch_is_refused() -> None:
    plan = q.adapt(torch.exp, q.Interval(0, torch.tensor([1.0, 2.0])))
    with pytest.raises(
        ValueError, match=r"shape \(2,\), the limits and args now have shape \(\)"
    ):
        q.integrate(torch.exp, q.Interval(0, 1), plan)


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_tolerances_have_no_place_beside_a_plan(name: str) -> None:
    plan = q.adapt(torch.exp, q.Interval(0, 1))
    with pytest.raises(ValueError, match="grad_rtol have no effect with Plan"):
        q.integrate(torch.exp, q.Interval(0, 1), plan, **{name: 1e-3})


@pytest.mark.parametrize(
    "function", [q.integrate_with_error, q.log_integrate_with_error, q.adapt]
)
def test_a_plan_is_refused_where_a_search_is_asked_for(function) -> None:  # noqa: ANN001
    plan = q.adapt(torch.exp, q.Interval(0, 1))
    with pytest.raises(ValueError, match="has no error estimate, as its nodes are"):
        function(torch.exp, q.Interval(0, 1), plan)


@rules
@pytest.mark.parametrize("through", ["pickle", "deepcopy", "torch_save"])
def test_copies_of_a_plan_replay_alike(
    rule: q.Rule | None,
    through: str,
    tmp_path,  # noqa: ANN001
) -> None:
    plan = q.adapt(_peak, q.Interval(-2, 2), rule, args=_params())
    if through == "pickle":
        copied = pickle.loads(pickle.dumps(plan))
    elif through == "deepcopy":
        copied = copy.deepcopy(plan)
    else:
        torch.save(plan, tmp_path / "plan.pt")
        copied = torch.load(tmp_path / "plan.pt", weights_only=False)
    assert repr(copied) == repr(plan)
    values = [
        q.integrate(_peak, q.Interval(-2, 2), p, args=_params()) for p in (plan, copied)
    ]
    assert torch.equal(values[0], values[1])


@rules
def test_a_plan_made_in_inference_mode_trains_afterwards(rule: q.Rule | None) -> None:
    with torch.inference_mode():
        plan = q.adapt(torch.exp, q.Interval(0, 1), rule)
    rate = torch.tensor(0.5, requires_grad=True)
    value = q.integrate(lambda x: torch.exp(rate * x), q.Interval(0, 1), plan)
    (slope,) = torch.autograd.grad(value, rate)
    exact = math.exp(0.5) / 0.5 - math.expm1(0.5) / 0.25
    assert slope.item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("through", ["closure", "args"])
def test_applying_a_plan_compiles_without_graph_breaks(through: str) -> None:
    place, width = torch.tensor([0.1, 0.5]), torch.tensor([0.3, 0.2])
    domain = q.Interval(-2, 2)

    def value(place: Tensor, upper: Tensor, plan: q.Plan) -> Tensor:
        domain = q.Interval(-2, upper)
        if through == "args":
            return q.integrate(_peak, domain, plan, args=(place, width))
        return q.integrate(
            lambda x: _peak(x, place, width), domain, plan, batch_shape=(2,)
        )

    if through == "args":
        plan = q.adapt(_peak, domain, args=(place, width))
    else:
        plan = q.adapt(lambda x: _peak(x, place, width), domain, batch_shape=(2,))
    compiled = torch.compile(value, fullgraph=True, backend="aot_eager")
    inputs = place.requires_grad_(), torch.tensor([2.0, 1.8], requires_grad=True)
    results = []
    for function in (value, compiled):
        out = function(*inputs, plan)
        results.append((out, *torch.autograd.grad(out.sum(), inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("count", [0, 4])
def test_nodes_that_were_placed_before_give_what_placing_them_gives(
    count: int,
) -> None:
    args = (torch.linspace(0.5, 3.0, count),) if count else ()

    def integrand(x: Tensor, rate: float | Tensor = 1.0) -> Tensor:
        return torch.exp(-rate * x) * theta

    theta = torch.tensor(2.0, requires_grad=True)
    plan = q.adapt(integrand, q.Interval(0, 1), args=args, rtol=1e-8)
    limits = (0.0, 1.0), (0.0, 2.0), (1.0, 3.0), (0.0, 1.0), (2.0, 0.0)
    for lower, upper in limits:
        # Limits that are tensors are placed anew in every call.
        tensors = q.Interval(torch.tensor(lower), torch.tensor(upper))
        numbers = q.Interval(lower, upper)
        anew, before = (
            q.integrate(integrand, domain, plan, args=args)
            for domain in (tensors, numbers)
        )
        torch.testing.assert_close(before, anew, rtol=1e-13, atol=0)
        slopes = [torch.autograd.grad(v.sum(), theta)[0] for v in (anew, before)]
        torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-13, atol=0)


def test_an_integrand_that_writes_to_its_points_does_not_move_a_plan() -> None:
    plan = q.adapt(torch.exp, q.Interval(0, 1))
    first, second = (
        q.integrate(lambda x: x.exp_(), q.Interval(0, 1), plan) for _ in range(2)
    )
    assert first == second


def test_a_plan_that_was_used_in_inference_mode_trains_afterwards() -> None:
    plan = q.adapt(torch.exp, q.Interval(0, 1))
    rate = torch.tensor(1.0, requires_grad=True)
    for mode in (True, False):
        with torch.inference_mode(mode):
            value = q.integrate(lambda x: (rate * x).exp(), q.Interval(0, 1), plan)
    (slope,) = torch.autograd.grad(value, rate)
    torch.testing.assert_close(slope, torch.tensor(1.0))


PLANS = [
    (q.Interval(0.0, 1.0), None),
    (q.Box(0.0, 1.0, dimension=2), q.GenzMalik()),
    (q.Box(0.0, 1.0, dimension=2), q.Lattice(64)),
    (q.Box(-torch.inf, torch.inf, dimension=2), q.AdaptiveGaussHermite(5)),
]


@pytest.mark.parametrize(("domain", "rule"), PLANS, ids=str)
def test_a_plan_keeps_max_evals_or_is_refused(
    domain: q.Domain, rule: q.Rule | None
) -> None:
    calls: list[int] = []

    def log_density(x: Tensor) -> Tensor:
        points = x if isinstance(domain, q.Interval) else x.sum(-1)
        calls.append(points.numel())
        return -(x * x).reshape(len(points), -1).sum(-1) / 2

    plan = q.adapt(log_density, domain, rule, log=True, on_failure="ignore")
    calls.clear()
    value = q.log_integrate(log_density, domain, plan, max_evals=plan.n)
    assert sum(calls) == plan.n
    assert value == q.log_integrate(log_density, domain, plan)
    calls.clear()
    for function in (q.integrate, q.log_integrate):
        with pytest.raises(ValueError, match=f"needs {plan.n} evaluations, max_evals"):
            function(log_density, domain, plan, max_evals=plan.n - 1)
    assert not calls


@pytest.mark.parametrize("audit", [False, True])
def test_a_search_that_ends_beyond_max_evals_has_its_plan(audit: bool) -> None:
    domain, rate = q.Interval(0.0, 1.0), torch.tensor(50.0, requires_grad=True)
    settings = {"max_evals": 20, "grad_rtol": None if audit else 1e-3, "audit": audit}
    plan = q.adapt(
        lambda x: torch.exp(-rate * x), domain, on_failure="ignore", **settings
    )
    assert plan.n > 20


def test_rows_of_a_plan_never_pass_for_the_whole_batch() -> None:
    # A closure over the batch would fit a block of as many cells as integrals,
    # and those are not one of each. So such a block has a row that does not count.
    place, shapes = torch.tensor([0.3, 0.55, 0.8]), []

    def kink(x: Tensor, c: Tensor) -> Tensor:
        shapes.append(x.shape[1:])
        return (x - c).abs()

    domain = q.Interval(0, 1)
    plan = q.adapt(kink, domain, args=(place,), rtol=1e-6)
    shapes.clear()
    value = q.integrate(kink, domain, plan, args=(place,), memory=4096)
    assert (4,) in shapes
    assert (3,) not in shapes
    exact = (place**2 + (1 - place) ** 2) / 2
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)
