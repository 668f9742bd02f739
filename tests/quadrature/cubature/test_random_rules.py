"""Every random rule is unbiased, knows its error, and keeps all gradients."""

import copy
import math
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
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


RULES = {
    "lattice": q.Lattice(32, 8),
    "sobol": q.Sobol(32, 8),
    "monte_carlo": q.MonteCarlo(200),
    "vegas": q.Vegas(60, 4, 2),
}
rules = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def _box(dimension: int = 3) -> q.Box:
    return q.Box(torch.zeros(dimension, dtype=D), torch.ones(dimension, dtype=D))


def _smooth(x: Tensor) -> Tensor:
    return torch.exp(-x.square().sum(-1))


def _kink(x: Tensor) -> Tensor:
    return (x - 0.37).abs().prod(-1)


def _step(x: Tensor) -> Tensor:
    return (x.sum(-1) < 1).to(x.dtype)


SMOOTH = (math.sqrt(math.pi) / 2 * math.erf(1)) ** 3
EXACT = torch.tensor([SMOOTH, ((0.37**2 + 0.63**2) / 2) ** 3, 1 / 6], dtype=D)


# --- what the rules claim about themselves -----------------------------------------


@rules
def test_unbiased_with_intervals_that_cover(rule: q.Rule) -> None:
    """Over 200 seeds; the bounds are those that were asked for, 90 to 99 %."""

    def three(x: Tensor) -> Tensor:
        return torch.stack([_smooth(x), _kink(x), _step(x)], -1)

    off, error = torch.empty(200, 3, dtype=D), torch.empty(200, 3, dtype=D)
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        estimate = q.integrate_with_error(three, _box(), rule, generator=generator)
        off[seed], error[seed] = estimate.value - EXACT, estimate.error
    coverage = (off.abs() <= error).to(D).mean(0)
    assert (coverage >= 0.9).all(), coverage
    assert (coverage <= 0.99).all(), coverage
    # Four standard errors of the mean of 200.
    assert (off.mean(0).abs() < 4 * off.std(0) / math.sqrt(200)).all()


@rules
def test_log_form_agrees_and_covers(rule: q.Rule) -> None:
    exact = math.log(SMOOTH)
    inside = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        estimate = q.log_integrate_with_error(
            lambda x: 1e4 - x.square().sum(-1), _box(), rule, generator=generator
        )
        inside += int((estimate.value - 1e4 - exact).abs() <= estimate.error)
    # 38 are expected; fewer than 34 has a chance of 1 in 300.
    assert inside >= 34


@rules
def test_same_call_gives_same_bits_unless_seeded(rule: q.Rule) -> None:
    one, two = (q.integrate(_smooth, _box(), rule) for _ in range(2))
    assert torch.equal(one, two)
    torch.manual_seed(99)
    assert torch.equal(one, q.integrate(_smooth, _box(), rule))
    generator = torch.Generator().manual_seed(1)
    first, second = (
        q.integrate(_smooth, _box(), rule, generator=generator) for _ in range(2)
    )
    assert len({float(one), float(first), float(second)}) == 3
    generator.manual_seed(1)
    assert torch.equal(first, q.integrate(_smooth, _box(), rule, generator=generator))


@rules
@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_tolerance_is_met_by_more_points(rule: q.Rule, log: bool) -> None:
    solve = q.log_integrate_with_error if log else q.integrate_with_error
    function = (lambda x: -x.square().sum(-1)) if log else _smooth
    once = solve(function, _box(), rule)
    rtol = float(once.error) / 3
    more = solve(function, _box(), rule, rtol=rtol)
    assert more.n_evals > once.n_evals
    assert more.error <= (rtol if log else rtol * more.value)
    assert more.status == q.Status.CONVERGED
    wanted = math.log(SMOOTH) if log else SMOOTH
    assert abs(float(more.value) - wanted) < 2 * more.error
    replay = q.integrate if not log else q.log_integrate
    torch.testing.assert_close(
        replay(function, _box(), more.plan), more.value, rtol=1e-12, atol=1e-15
    )


@rules
def test_budget_ends_the_search_and_is_reported(rule: q.Rule) -> None:
    with pytest.warns(q.IntegrationWarning, match="1 of 1 integrals did not"):
        estimate = q.integrate_with_error(
            _step, _box(), rule, rtol=1e-6, max_evals=1000
        )
    assert estimate.status == q.Status.TOLERANCE_NOT_REACHED
    assert 500 <= estimate.n_evals <= 1000
    assert estimate.error > 1e-4


@rules
def test_budget_below_the_rule_is_refused(rule: q.Rule) -> None:
    with pytest.raises(ValueError, match=r"needs \d+ evaluations, max_evals is 100"):
        q.integrate(_smooth, _box(), rule, max_evals=100)


@rules
def test_number_of_evaluations_is_the_truth(rule: q.Rule) -> None:
    seen = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal seen
        seen += len(x)
        return _smooth(x)

    estimate = q.integrate_with_error(counted, _box(), rule)
    assert seen == int(estimate.n_evals)


# --- what they are given -----------------------------------------------------------


UPPER = torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]], dtype=D)
RATE = torch.tensor([1.0, 2.0, 0.5], dtype=D)


def _decay(x: Tensor, rate: Tensor) -> Tensor:
    return torch.exp(-rate * x.sum(-1))


def _exact(rate: Tensor, upper: Tensor) -> Tensor:
    rate = rate[..., None]
    return ((1 - torch.exp(-rate * upper)) / rate).prod(-1)


@rules
def test_batch_is_as_single_integrals(rule: q.Rule) -> None:
    estimate = q.integrate_with_error(_decay, q.Box(0.0, UPPER), rule, args=(RATE,))
    assert estimate.value.shape == estimate.error.shape == estimate.status.shape == (3,)
    assert ((estimate.value - _exact(RATE, UPPER)).abs() < 2 * estimate.error).all()
    for i in range(3):
        single = q.integrate(_decay, q.Box(0.0, UPPER[i]), rule, args=(RATE[i],))
        torch.testing.assert_close(single, estimate.value[i], rtol=1e-12, atol=0)


@rules
def test_reversed_and_equal_limits(rule: q.Rule) -> None:
    one = torch.ones((), dtype=D)
    back = q.integrate_with_error(_smooth, q.Box([1.0, 0.0 * one], [0.0, 1.0]), rule)
    exact = (math.sqrt(math.pi) / 2 * math.erf(1)) ** 2
    assert (back.value + exact).abs() < 2 * back.error
    estimate = q.integrate_with_error(_smooth, q.Box([0.0, one], [1.0, 1.0]), rule)
    assert estimate.value == 0
    assert estimate.status == q.Status.CONVERGED


@rules
@pytest.mark.parametrize("tails", list(q.Tails), ids=str)
def test_infinite_limits(rule: q.Lattice, tails: q.Tails) -> None:
    rule = replace(rule, n=16 * rule.n, tails=tails)
    box = q.Box([-math.inf, 0.0], [math.inf, torch.tensor(math.inf, dtype=D)])
    estimate = q.integrate_with_error(_smooth, box, rule)
    assert abs(float(estimate.value) - math.pi / 2) < 2 * float(estimate.error) < 0.3


def test_gaussian_tails_make_a_gaussian_constant() -> None:
    box = q.Box(-math.inf, math.inf, dimension=100, scale=torch.tensor(1.0, dtype=D))

    def normal(x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1) - 50 * math.log(2 * math.pi)

    estimate = q.log_integrate_with_error(
        normal, box, q.Lattice(8, 4, tails=q.Tails.GAUSSIAN)
    )
    assert estimate.value.abs() < 1e-10


@rules
def test_events_and_complex_values(rule: q.Rule) -> None:
    value = q.integrate(_smooth, _box(), rule)
    factor = torch.tensor([1.0, -2.0, 0.0], dtype=D)
    events = q.integrate_with_error(
        lambda x: _smooth(x)[:, None] * factor, _box(), rule, on_failure="ignore"
    )
    torch.testing.assert_close(events.value, value * factor)
    assert events.error.shape == (3,)
    whole = q.integrate(lambda x: _smooth(x) * (1 + 2j), _box(), rule)
    torch.testing.assert_close(whole, value * (1 + 2j))


@rules
def test_sign_is_kept(rule: q.Rule) -> None:
    value = q.integrate(_smooth, _box(), rule)
    torch.testing.assert_close(q.integrate(lambda x: -_smooth(x), _box(), rule), -value)
    odd = q.integrate_with_error(
        lambda x: (x - 0.5).sum(-1) * _smooth(x - 0.5), _box(), rule
    )
    assert odd.value.abs() < 2 * odd.error


@rules
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision(rule: q.Rule, dtype: torch.dtype) -> None:
    wide = q.integrate(_smooth, _box(), rule)
    box = q.Box(torch.zeros(3, dtype=dtype), torch.ones(3, dtype=dtype))
    value = q.integrate(_smooth, box, rule)
    assert value.dtype == dtype
    tolerance = 20 * torch.finfo(dtype).eps
    torch.testing.assert_close(value.to(D), wide, rtol=tolerance, atol=0)


@rules
def test_memory_bounds_the_block(rule: q.Rule) -> None:
    largest = 0

    def watched(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, len(x))
        return _smooth(x)

    value = q.integrate(watched, _box(), rule, memory=8 * 3 * 8 * 7)
    assert largest <= 7
    torch.testing.assert_close(value, q.integrate(_smooth, _box(), rule))


@rules
def test_on_a_line(rule: q.Rule) -> None:
    upper = torch.tensor([1.0, 2.0], dtype=D)
    estimate = q.integrate_with_error(
        lambda x, rate: torch.exp(-rate * x),
        q.Interval(0, upper),
        rule,
        args=(torch.tensor([1.0, 3.0], dtype=D),),
    )
    exact = torch.tensor([1 - math.exp(-1), (1 - math.exp(-6)) / 3], dtype=D)
    assert ((estimate.value - exact).abs() < 2 * estimate.error + 1e-12).all()
    line = q.RealLine(torch.tensor(1.0, dtype=D), 2.0)
    estimate = q.integrate_with_error(lambda x: torch.exp(-x * x), line, rule)
    off = (estimate.value - math.sqrt(math.pi)).abs()
    assert off < 2 * estimate.error + 1e-12
    with pytest.raises(ValueError, match="breakpoints have no effect"):
        q.integrate(torch.exp, q.Interval(0, 1), rule, breakpoints=[0.5])


# --- gradients ---------------------------------------------------------------------


SMALL = {
    "lattice": q.Lattice(4, 2),
    "sobol": q.Sobol(4, 2),
    "monte_carlo": q.MonteCarlo(8),
    "vegas": q.Vegas(20, 2, 1),
}


@forward_mode
@pytest.mark.parametrize("rule", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_gradients_of_closures_args_and_limits(rule: q.Rule, log: bool) -> None:
    """Of the plan, which is fixed: a map that is learned anew is no smooth function."""
    parts = [torch.tensor(v, dtype=D) for v in (0.7, [1.0, 2.0], [0.1, 0.2])]
    upper = torch.tensor([[1.0, 2.0], [2.0, 1.5]], dtype=D)
    inputs = [t.requires_grad_() for t in (*parts, upper)]

    def integral(
        power: Tensor, rate: Tensor, lower: Tensor, upper: Tensor, rule: q.Rule
    ) -> Tensor:
        def function(x: Tensor, rate: Tensor) -> Tensor:
            value = power * (1 + x).log().sum(-1) - rate * x.square().sum(-1)
            return value if log else value.exp()

        solve = q.log_integrate if log else q.integrate
        box = q.Box(lower, upper)
        if isinstance(rule, q.Plan):
            return solve(function, box, rule, args=(rate,))
        return q.adapt(function, box, rule, args=(rate,), log=log)

    plan = integral(*inputs, rule)

    def fixed(*inputs: Tensor) -> Tensor:
        return integral(*inputs, plan)

    assert gradcheck(fixed, inputs, check_forward_ad=True)
    assert gradgradcheck(fixed, inputs)


@rules
def test_gradients_agree_with_the_closed_form(rule: q.Lattice) -> None:
    rule = replace(rule, n=16 * rule.n)
    rate, upper = RATE.clone().requires_grad_(), UPPER.clone().requires_grad_()
    wanted = torch.autograd.grad(_exact(rate, upper).sum(), (rate, upper))
    value = q.integrate(_decay, q.Box(0.0, upper), rule, args=(rate,))
    for got, true in zip(
        torch.autograd.grad(value.sum(), (rate, upper)), wanted, strict=True
    ):
        torch.testing.assert_close(got, true, rtol=0.1, atol=0.05)


@forward_mode
@rules
def test_transforms_of_torch_func(rule: q.Rule) -> None:
    def single(rate: Tensor, upper: Tensor) -> Tensor:
        return q.integrate(_decay, q.Box(0.0, upper), rule, args=(rate,))

    rate = RATE.clone().requires_grad_()
    together = q.integrate(_decay, q.Box(0.0, UPPER), rule, args=(rate,))
    (wanted,) = torch.autograd.grad(together.sum(), rate)
    torch.testing.assert_close(torch.vmap(single)(RATE, UPPER), together.detach())
    each = torch.vmap(torch.func.grad(single))(RATE, UPPER)
    torch.testing.assert_close(each, wanted)
    one = torch.ones((), dtype=D)
    _, tangent = torch.func.jvp(lambda r: single(r, UPPER[0]), (RATE[0],), (one,))
    torch.testing.assert_close(tangent, wanted[0])


@rules
def test_generator_below_vmap(rule: q.Rule) -> None:
    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(4)

    generator = seeded()
    mapped = torch.vmap(
        lambda rate: q.integrate(
            _decay, _box(), rule, args=(rate,), generator=generator
        )
    )(RATE)
    wanted = q.integrate(_decay, _box(), rule, args=(RATE,), generator=seeded())
    torch.testing.assert_close(mapped, wanted)


@rules
def test_plan_is_compiled_whole(rule: q.Rule) -> None:
    rate = torch.tensor(1.0, dtype=D, requires_grad=True)
    plan = q.adapt(_decay, _box(), rule, args=(rate,))

    def apply(rate: Tensor) -> Tensor:
        return q.integrate(_decay, _box(), plan, args=(rate,))

    torch.compiler.reset()
    value = torch.compile(apply, fullgraph=True, backend="eager")(rate)
    torch.testing.assert_close(value, apply(rate))
    (slope,) = torch.autograd.grad(value, rate)
    torch.testing.assert_close(slope, torch.autograd.grad(apply(rate), rate)[0])


# --- plans -------------------------------------------------------------------------


@rules
def test_plan_replays_and_survives_saving(rule: q.Rule) -> None:
    estimate = q.integrate_with_error(_decay, q.Box(0.0, UPPER), rule, args=(RATE,))
    plan = estimate.plan
    assert isinstance(plan, q.Plan)
    versions = [
        plan,
        pickle.loads(pickle.dumps(plan)),
        copy.deepcopy(plan),
        q.Plan.from_state(plan.state()),
        plan.to("cpu"),
    ]
    for version in versions:
        again = q.integrate(_decay, q.Box(0.0, UPPER), version, args=(RATE,))
        torch.testing.assert_close(again, estimate.value, rtol=1e-13, atol=0)
    assert torch.equal(plan.error, estimate.error)
    other = q.integrate(
        lambda x, rate: 0 * x[..., 0] + 1, q.Box(0.0, UPPER), plan, args=(RATE,)
    )
    torch.testing.assert_close(other, UPPER.prod(-1), rtol=0.2, atol=0)


@rules
def test_rules_compare_copy_and_show_themselves(rule: q.Rule) -> None:
    assert pickle.loads(pickle.dumps(rule)) == rule == copy.deepcopy(rule)
    assert len({rule, copy.deepcopy(rule)}) == 1
    assert repr(rule).startswith(type(rule).__name__ + "(n=")


# --- faults ------------------------------------------------------------------------


@rules
@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_zero_everywhere_is_not_trusted(rule: q.Rule, log: bool) -> None:
    nothing = -math.inf if log else 0.0
    solve = q.log_integrate_with_error if log else q.integrate_with_error
    with pytest.warns(q.IntegrationWarning, match="exactly 0 at every point"):
        estimate = solve(lambda x: torch.full_like(x[..., 0], nothing), _box(), rule)
    assert estimate.value == nothing
    assert estimate.error == math.inf
    assert estimate.status == q.Status.TOLERANCE_NOT_REACHED


@rules
@pytest.mark.parametrize("bad", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_non_finite_values_are_reported(rule: q.Rule, bad: float, log: bool) -> None:
    solve = q.log_integrate_with_error if log else q.integrate_with_error
    good = torch.tensor([1.0, 0.0], dtype=D)

    def function(x: Tensor, good: Tensor) -> Tensor:
        return torch.where((x[..., 0] < 0.5) & (good == 0), bad, x[..., 0])

    with pytest.warns(q.IntegrationWarning, match="Integral 1 was not finite at some"):
        estimate = solve(function, _box(), rule, args=(good,))
    assert estimate.status.tolist() == [q.Status.CONVERGED, q.Status.NON_FINITE]
    assert estimate.error[1] == math.inf
    assert estimate.error[0] < math.inf
    assert not torch.isfinite(estimate.value[1])


@rules
def test_constant_has_an_error_of_rounding_only(rule: q.Rule) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = q.integrate_with_error(
            lambda x: torch.full_like(x[..., 0], 3.0), _box(), rule
        )
    # The map of Vegas learned from noise, so that it is not flat any more.
    assert (estimate.value - 3).abs() <= estimate.error
    assert 0 < estimate.error < (0.1 if isinstance(rule, q.Vegas) else 1e-12)


@rules
def test_progress_shows_the_running_estimate(
    rule: q.Rule, capsys: pytest.CaptureFixture[str]
) -> None:
    q.integrate(_smooth, _box(), rule, progress=True)
    shown = capsys.readouterr().err
    assert "points" in shown
    assert f"{SMOOTH:.1f}" in shown or "0.39" in shown
    assert "+-" in shown
    q.integrate(
        lambda x: torch.exp(-x * torch.ones(2)),
        q.Interval(0, 1),
        rule,
        batch_shape=(2,),
        progress=True,
    )
    assert "and 1 more" in capsys.readouterr().err
