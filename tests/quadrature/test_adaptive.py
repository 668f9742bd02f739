"""Adaptive integration: right on a table of problems, in batches and in gradients."""

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from problems import DIVERGENT, LOG_PROBLEMS, PROBLEMS, Divergent, LogProblem, Problem
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck

import torch_mlcalc.quadrature as q

RTOL = 1e-8

#: The derivative of these is not the integral of the derivative that autograd sees.
MOVING = frozenset({"moving_kink", "moving_step", "oscillatory_tail"})

ADAPTIVE = {
    "default": None,
    "gauss_kronrod_15": q.GaussKronrod(15),
    "double_exponential": q.DoubleExponential(),
}
rules = pytest.mark.parametrize("rule", ADAPTIVE.values(), ids=ADAPTIVE.keys())
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


pytestmark = pytest.mark.usefixtures("double")


def _named(rows: tuple) -> Callable:
    return pytest.mark.parametrize("row", rows, ids=[r.name for r in rows])


def _right(value: float, exact: float, attainable: float) -> bool:
    return abs(value - exact) <= max(10 * RTOL, 2 * attainable) * abs(exact)


# --- the table of problems ---------------------------------------------------------


def _solve(row: Problem, theta: Tensor) -> q.Estimate:
    return q.integrate_with_error(
        lambda x: row.integrand(x, theta),
        q.Interval(row.lower, row.upper),
        rtol=RTOL,
        on_failure="ignore",
    )


@_named(PROBLEMS)
def test_what_is_reported_as_converged_is_right(row: Problem) -> None:
    estimate = _solve(row, torch.tensor(row.theta))
    if estimate.status != q.Status.CONVERGED:
        return
    assert _right(float(estimate.value), row.value, row.attainable)


def test_most_problems_converge_and_are_right() -> None:
    good = 0
    for row in PROBLEMS:
        estimate = _solve(row, torch.tensor(row.theta))
        right = _right(float(estimate.value), row.value, row.attainable)
        good += bool(estimate.status == q.Status.CONVERGED) and right
    assert good >= 0.85 * len(PROBLEMS)


@_named(PROBLEMS)
def test_parameter_gradient_of_a_converged_problem(row: Problem) -> None:
    if row.tags & MOVING or row.attainable > 1e-8:
        return
    theta = torch.tensor(row.theta, requires_grad=True)
    estimate = _solve(row, theta)
    if estimate.status != q.Status.CONVERGED:
        return
    (gradient,) = torch.autograd.grad(estimate.value, theta)
    assert float(gradient) == pytest.approx(row.gradient, rel=1e-4)


@_named(LOG_PROBLEMS)
def test_log_integral_is_right_with_its_gradient(row: LogProblem) -> None:
    theta = torch.tensor(row.theta, requires_grad=True)
    estimate = q.log_integrate_with_error(
        lambda x: row.log_integrand(x, theta),
        q.Interval(row.lower, row.upper),
        rtol=RTOL,
        on_failure="ignore",
    )
    (gradient,) = torch.autograd.grad(estimate.value, theta)
    if estimate.status == q.Status.CONVERGED:
        tolerance = max(10 * RTOL, 2 * row.attainable)
        assert estimate.value.item() == pytest.approx(row.log_value, abs=tolerance)
        assert float(gradient) == pytest.approx(row.log_gradient, rel=1e-4, abs=1e-6)


def test_most_log_problems_converge() -> None:
    good = 0
    for row in LOG_PROBLEMS:
        estimate = q.log_integrate_with_error(
            lambda x, row=row: row.log_integrand(x, torch.tensor(row.theta)),
            q.Interval(row.lower, row.upper),
            rtol=RTOL,
            on_failure="ignore",
        )
        good += bool(estimate.status == q.Status.CONVERGED)
    assert good >= 0.85 * len(LOG_PROBLEMS)


@_named(DIVERGENT)
def test_divergent_integral_is_never_reported_as_converged(row: Divergent) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimate = q.integrate_with_error(
            row.integrand, q.Interval(row.lower, row.upper), on_failure="ignore"
        )
    assert estimate.status != q.Status.CONVERGED


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("log_integrand", "lower", "status"),
    [
        (lambda x: x, 0.0, q.Status.SUSPECTED_DIVERGENT),
        (lambda x: x * x, -math.inf, q.Status.SUSPECTED_DIVERGENT),
        (lambda x: 0 * x, -math.inf, q.Status.SUSPECTED_DIVERGENT),
        (lambda x: -torch.log1p(x), 0.0, q.Status.SUSPECTED_DIVERGENT),
        (lambda x: math.nan * x, -math.inf, q.Status.NON_FINITE),
        (lambda x: math.nan * x, 0.0, q.Status.NON_FINITE),
    ],
    ids=["exp", "exp_square", "constant", "reciprocal", "nan_line", "nan_half_line"],
)
def test_log_of_a_divergent_integral_is_never_reported_as_converged(
    log_integrand: Callable[[Tensor], Tensor],
    lower: float,
    status: q.Status,
    dtype: torch.dtype,
) -> None:
    estimate = q.log_integrate_with_error(
        log_integrand,
        q.Interval(torch.tensor(lower, dtype=dtype), math.inf),
        on_failure="ignore",
    )
    assert estimate.status == status


# --- batches -----------------------------------------------------------------------


def _peak(x: Tensor, place: Tensor, width: Tensor) -> Tensor:
    return torch.exp(-0.5 * ((x - place) / width) ** 2) / width


def _places_and_widths(count: int) -> tuple[Tensor, Tensor, Tensor]:
    place = torch.linspace(-3, 3, count)
    width = torch.logspace(-2.5, 1, count)[torch.randperm(count)]
    scaled = [(limit - place) / (width * math.sqrt(2)) for limit in (-4, 4)]
    exact = math.sqrt(math.pi / 2) * (torch.erf(scaled[1]) - torch.erf(scaled[0]))
    return place, width, exact


class Counted:
    """Counts the points at which a function is evaluated."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        self.points = 0

    def __call__(self, x: Tensor, *args: Tensor) -> Tensor:
        self.points += x.numel()
        return self.function(x, *args)


def test_many_different_peaks_in_one_call_and_only_open_rows_evaluated() -> None:
    place, width, exact = _places_and_widths(500)
    through_args = Counted(_peak)
    closed_over = Counted(lambda x: _peak(x, place, width))
    domain = q.Interval(-4, 4)
    one = q.integrate_with_error(through_args, domain, args=(place, width), rtol=RTOL)
    two = q.integrate_with_error(closed_over, domain, batch_shape=(500,), rtol=RTOL)
    for estimate in (one, two):
        assert (estimate.status == q.Status.CONVERGED).all()
        torch.testing.assert_close(estimate.value, exact, rtol=10 * RTOL, atol=0)
        bounded = (estimate.value - exact).abs() <= estimate.error + 1e-13
        assert bounded.double().mean() >= 0.99
    assert through_args.points < 0.7 * closed_over.points
    # What is reported is what was evaluated, up to one spare row in a block.
    assert int(one.n_evals.sum()) <= through_args.points
    assert through_args.points < 1.1 * int(one.n_evals.sum())


#: Points of a first look, which no budget forbids: those of a pair, or three levels.
FIRST_LOOK = {"default": 21, "gauss_kronrod_15": 15, "double_exponential": 97}

#: And of a last step: five cells, or three levels of a window.
LAST_STEP = 105


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("max_evals", [1, 97, 300, 1000])
def test_a_budget_is_kept_and_points_are_counted(name: str, max_evals: int) -> None:
    for row in (*PROBLEMS[::9], *(p for p in PROBLEMS if "needle" in p.tags)):
        integrand = Counted(row.integrand)
        theta = torch.tensor(row.theta)
        estimate = q.integrate_with_error(
            integrand,
            q.Interval(row.lower, row.upper),
            ADAPTIVE[name],
            args=(theta,),
            rtol=RTOL,
            max_evals=max_evals,
            on_failure="ignore",
        )
        assert int(estimate.n_evals) == integrand.points
        finite = math.isfinite(row.upper - row.lower)
        first = FIRST_LOOK[name if finite else "double_exponential"]
        assert integrand.points <= max(max_evals + LAST_STEP * (max_evals > 1), first)


@rules
def test_batch_gives_what_its_elements_give_alone(rule: q.Rule | None) -> None:
    place, width = torch.tensor([0.0, 0.3, -2.0]), torch.tensor([0.1, 1.0, 3.0])
    domain = q.Interval(-4, 4)
    batched = q.integrate(_peak, domain, rule, args=(place, width), rtol=RTOL)
    alone = [
        q.integrate(_peak, domain, rule, args=(p, w), rtol=RTOL)
        for p, w in zip(place, width, strict=True)
    ]
    torch.testing.assert_close(batched, torch.stack(alone), rtol=1e-13, atol=0)


@pytest.mark.parametrize(
    ("domain", "breakpoints"),
    [
        (q.Interval(3, 0), None),
        (q.Interval(-1, math.inf), [0.5, 2.0]),
        (q.RealLine(), None),
    ],
    ids=["reversed", "breakpoints", "line"],
)
@pytest.mark.parametrize("memory", [None, 512])
def test_without_a_plan_value_and_gradients_are_those_of_the_plan(
    domain: q.Domain, breakpoints: list[float] | None, memory: int | None
) -> None:
    rate = torch.tensor(0.7, requires_grad=True)

    def integrand(x: Tensor) -> Tensor:
        value = torch.exp(-rate * x.square())
        return torch.stack([value, value * (x - 0.2).abs().sqrt()], -1)

    options = {"breakpoints": breakpoints, "rtol": 1e-6, "memory": memory}
    value = q.integrate(integrand, domain, **options)
    planned = q.integrate_with_error(integrand, domain, **options).value
    for _ in range(3):
        torch.testing.assert_close(value, planned, rtol=1e-12, atol=1e-14)
        value, planned = (
            torch.autograd.grad(v.sum(), rate, create_graph=True)[0]
            for v in (value, planned)
        )


def _weighted(plan: q.Plan) -> int:
    """Number of nodes of a plan that have a weight."""
    return sum(int(torch.count_nonzero(cells[1])) for cells in plan.state()["cells"])


@_named(PROBLEMS)
def test_a_single_integral_takes_the_steps_of_a_batch(row: Problem) -> None:
    theta, single = torch.tensor(row.theta), torch.tensor([row.theta] * 2)
    domain = q.Interval(row.lower, row.upper)
    alone, both = (
        q.integrate_with_error(
            row.integrand, domain, args=(t,), rtol=RTOL, on_failure="ignore"
        )
        for t in (theta, single)
    )
    # Of double-exponential levels it evaluates the first four together, 193 nodes; of
    # a bisection the first two, 105.
    ahead = alone.n_evals - both.n_evals
    assert ((ahead >= 0) & (ahead <= 168)).all()
    # Two windows of the batch share their nodes, and those without a weight count.
    assert alone.plan.n <= both.plan.n
    assert 2 * _weighted(alone.plan) == _weighted(both.plan)
    assert (both.status == alone.status).all()
    expected = alone.value.expand(2)
    torch.testing.assert_close(both.value, expected, rtol=1e-12, atol=1e-15)
    # Changes between levels are differences of nearly equal sums, and of a single
    # integral have what is out of its range in them, each node less than 1e-12.
    noise = 1e-11 * float(alone.value.abs())
    torch.testing.assert_close(
        both.error, alone.error.expand(2), rtol=0.01, atol=noise, equal_nan=True
    )


@rules
def test_limits_of_every_kind_in_one_batch(rule: q.Rule | None) -> None:
    inf = math.inf
    lower = torch.tensor([-1.0, 0.0, -inf, -inf, 2.0, inf, 1.0, 0.0, inf])
    upper = torch.tensor([1.0, inf, 0.5, inf, 0.0, -inf, 1.0, -inf, 1.0])
    value = q.integrate(
        lambda x: torch.exp(-(x.clamp(-1e3, 1e3) ** 2)),
        q.Interval(lower, upper),
        rule,
        rtol=RTOL,
    )
    exact = math.sqrt(math.pi) / 2 * (torch.erf(upper) - torch.erf(lower))
    torch.testing.assert_close(value, exact, rtol=1e-8, atol=1e-15)
    assert value[6] == 0


@rules
def test_batches_of_several_dimensions_broadcast(rule: q.Rule | None) -> None:
    rate, upper = torch.linspace(1, 2, 3)[:, None], torch.linspace(0.5, 2, 4)
    value = q.integrate(
        lambda x, r: torch.exp(-r * x), q.Interval(0, upper), rule, args=(rate,)
    )
    assert value.shape == (3, 4)
    torch.testing.assert_close(value, -torch.expm1(-rate * upper) / rate)


@rules
def test_events_follow_the_batch(rule: q.Rule | None) -> None:
    power = torch.arange(6.0).reshape(2, 3)
    upper = torch.tensor([1.0, 2.0, 0.5, 3.0])
    estimate = q.integrate_with_error(
        lambda x: x[..., None, None] ** power, q.Interval(0, upper), rule
    )
    exact = upper[:, None, None] ** (power + 1) / (power + 1)
    assert estimate.value.shape == estimate.error.shape == (4, 2, 3)
    assert estimate.status.shape == estimate.n_evals.shape == (4,)
    torch.testing.assert_close(estimate.value, exact)


def test_every_component_of_an_event_reaches_its_tolerance() -> None:
    width = torch.tensor([1.0, 1e-2, 1e-4])
    estimate = q.integrate_with_error(
        lambda x: 1 / (x[..., None] ** 2 + width**2), q.Interval(-1, 2), rtol=RTOL
    )
    exact = ((2 / width).atan() + (1 / width).atan()) / width
    torch.testing.assert_close(estimate.value, exact, rtol=10 * RTOL, atol=0)


def test_args_with_dimensions_of_their_own() -> None:
    weights = torch.rand(5, 3)
    value = q.integrate(
        lambda x, w: (x[..., None] * w).sum(-1).cos(),
        q.Interval(0, 1),
        args=(weights,),
        batch_shape=(5,),
    )
    total = weights.sum(-1)
    torch.testing.assert_close(value, total.sin() / total)


@rules
def test_complex_integrand(rule: q.Rule | None) -> None:
    k = torch.tensor([1.0, 5.0])
    value = q.integrate(
        lambda x, k: torch.exp(1j * k * x), q.Interval(0, 1), rule, args=(k,)
    )
    assert value.dtype == torch.complex128
    torch.testing.assert_close(value, (torch.exp(1j * k) - 1) / (1j * k))


@pytest.mark.parametrize("max_evals", [100, 190, 300])
def test_levels_evaluated_ahead_stay_within_the_budget(max_evals: int) -> None:
    found = q.integrate_with_error(
        lambda x: torch.exp(-x.abs()),
        q.RealLine(),
        rtol=1e-12,
        max_evals=max_evals,
        on_failure="ignore",
    )
    assert found.n_evals <= max_evals


@pytest.mark.parametrize("rule", [None, q.DoubleExponential()], ids=str)
@pytest.mark.parametrize("shape", [(), (2,)], ids=["single", "batch"])
def test_rounding_of_single_precision_is_no_failure(
    rule: q.Rule | None, shape: tuple[int, ...]
) -> None:
    # The integral is 0 and that of the absolute value 4: no digit can be asked for.
    upper = torch.full(shape, 2 * math.pi, dtype=torch.float32)
    found = q.integrate_with_error(torch.sin, q.Interval(0, upper), rule)
    assert (found.status == q.Status.CONVERGED).all()
    rounding = 4 * 50 * torch.finfo(torch.float32).eps
    assert ((found.error > 0.9 * rounding) & (found.error < 10 * rounding)).all()
    assert (found.value.abs() < rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@rules
def test_reduced_precision(rule: q.Rule | None, dtype: torch.dtype) -> None:
    upper = torch.tensor([1.0, 2.0], dtype=dtype)
    value = q.integrate(torch.exp, q.Interval(0, upper), rule)
    assert value.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps if dtype != torch.float32 else 1e-3
    torch.testing.assert_close(
        value.double(), upper.double().expm1(), rtol=tolerance, atol=0
    )


def test_empty_batch_gives_an_empty_integral() -> None:
    estimate = q.integrate_with_error(torch.exp, q.Interval(0, torch.zeros(0)))
    assert estimate.value.shape == estimate.status.shape == (0,)


# --- breakpoints -------------------------------------------------------------------


@pytest.mark.parametrize(
    "breakpoints",
    [
        [0.3, 0.7],
        (0.7, 0.3),
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        [-5.0, 0.3, 0.7, 9.0],
    ],
    ids=["list", "unsorted", "tensor", "outside_limits"],
)
@rules
def test_breakpoints_split_the_range(
    rule: q.Rule | None, breakpoints: Tensor | list
) -> None:
    estimate = q.integrate_with_error(
        lambda x: (x - 0.3).abs() + (x > 0.7),
        q.Interval(0, 1),
        rule,
        breakpoints=breakpoints,
        rtol=1e-12,
    )
    exact = 0.3**2 / 2 + 0.7**2 / 2 + 0.3
    assert float(estimate.value) == pytest.approx(exact, rel=1e-12)


def test_breakpoint_makes_a_kink_cheap() -> None:
    def kink(x: Tensor) -> Tensor:
        return (x - 1 / 3).abs()

    split = q.integrate_with_error(kink, q.Interval(0, 1), breakpoints=[1 / 3])
    whole = q.integrate_with_error(kink, q.Interval(0, 1))
    assert split.n_evals < whole.n_evals


@rules
def test_breakpoint_of_each_batch_element_gives_its_jump_term(
    rule: q.Rule | None,
) -> None:
    cut = torch.tensor([[0.25, 0.5, 0.9]], requires_grad=True)
    value = q.integrate(
        lambda x: (x < cut[0]).to(x.dtype), q.Interval(0, 1), rule, breakpoints=cut
    )
    torch.testing.assert_close(value, cut[0])
    (slope,) = torch.autograd.grad(value.sum(), cut)
    torch.testing.assert_close(slope, torch.ones_like(cut))


@pytest.mark.parametrize("rule", [None, q.GaussLegendre(5)], ids=["none", "fixed"])
def test_breakpoints_in_a_list_keep_their_gradient(rule: q.Rule | None) -> None:
    cut = torch.tensor([0.3, 0.6], dtype=torch.float32, requires_grad=True)
    value = q.integrate(
        lambda x: (x < cut).to(x.dtype), q.Interval(0, 1), rule, breakpoints=[0.9, cut]
    )
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, cut)
    (jump,) = torch.autograd.grad(value.sum(), cut)
    torch.testing.assert_close(jump, torch.ones(2, dtype=torch.float32))


def test_reversed_limits_with_breakpoints_flip_sign_and_jump() -> None:
    cut = torch.tensor([0.25], requires_grad=True)
    value = q.integrate(
        lambda x: 3.0 * (x < cut[0]) + 1, q.Interval(1, 0), breakpoints=cut
    )
    (slope,) = torch.autograd.grad(value, cut)
    assert value.item() == pytest.approx(-1.75)
    assert float(slope) == pytest.approx(-3)


# --- gradients ---------------------------------------------------------------------


def _damped(x: Tensor, rate: Tensor) -> Tensor:
    return torch.exp(-rate * x) * (1 + rate * x)


def _over_closure(rule: q.Rule | None) -> Callable[..., Tensor]:
    return lambda rate: q.integrate(
        lambda x: _damped(x, rate), q.Interval(0.5, 2), rule, batch_shape=rate.shape
    )


def _over_args(rule: q.Rule | None) -> Callable[..., Tensor]:
    return lambda rate: q.integrate(_damped, q.Interval(0.5, 2), rule, args=(rate,))


def _over_limits(rule: q.Rule | None) -> Callable[..., Tensor]:
    return lambda low: q.integrate(
        lambda x: _damped(x, torch.tensor(1.5)), q.Interval(low, 2 * low), rule
    )


def _over_half_line(rule: q.Rule | None) -> Callable[..., Tensor]:
    return lambda low: q.integrate(
        _damped, q.Interval(low, math.inf), rule, args=(1 + low,)
    )


def _over_breakpoint(rule: q.Rule | None) -> Callable[..., Tensor]:
    return lambda cut: q.integrate(
        lambda x: torch.where(x < cut, x * x, torch.exp(x)),
        q.Interval(0, 3),
        rule,
        breakpoints=cut[None],
    )


def _log_over_everything(rule: q.Rule | None) -> Callable[..., Tensor]:
    return lambda low: q.log_integrate(
        lambda x, r: -r * x + torch.log1p(x), q.Interval(low, 3), rule, args=(low,)
    )


PATHS = {
    "closure": _over_closure,
    "args": _over_args,
    "limits": _over_limits,
    "half_line": _over_half_line,
    "breakpoint": _over_breakpoint,
    "log": _log_over_everything,
}
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())


@forward_mode
@paths
@rules
@pytest.mark.parametrize("shape", [(), (2,)], ids=["single", "batch"])
def test_first_and_second_derivatives_in_both_modes(
    rule: q.Rule | None, path: Callable, shape: tuple[int, ...]
) -> None:
    start = torch.linspace(0.7, 1.3, math.prod(shape) or 1).reshape(shape)
    start.requires_grad_()
    function = path(rule)
    assert gradcheck(function, (start,), check_forward_ad=True)
    assert gradgradcheck(function, (start,))


@rules
def test_derivative_by_a_limit_is_the_integrand_there(rule: q.Rule | None) -> None:
    upper = torch.tensor([2.5, 3.9, -1.7], requires_grad=True)
    lower = torch.tensor([0.2, 0.6, 0.4], requires_grad=True)
    value = q.integrate(
        torch.floor, q.Interval(lower, upper), rule, rtol=1e-4, on_failure="ignore"
    )
    slopes = torch.autograd.grad(value.sum(), (lower, upper))
    if isinstance(rule, q.DoubleExponential):
        return
    torch.testing.assert_close(slopes[0], -lower.detach().floor())
    torch.testing.assert_close(slopes[1], upper.detach().floor())


def test_derivatives_by_equal_limits_are_the_integrand_there() -> None:
    lower = torch.tensor([0.5, 1.0], requires_grad=True)
    upper = torch.tensor([0.5, 1.0], requires_grad=True)
    value = q.integrate(torch.exp, q.Interval(lower, upper))
    torch.testing.assert_close(value, torch.zeros(2))
    slopes = torch.autograd.grad(value.sum(), (lower, upper))
    torch.testing.assert_close(slopes[0], -lower.detach().exp())
    torch.testing.assert_close(slopes[1], upper.detach().exp())


def test_parameter_that_moves_a_kink() -> None:
    place = torch.tensor([0.31, 0.77], requires_grad=True)
    value = q.integrate(
        lambda x, c: (x - c).abs(), q.Interval(0, 1), args=(place,), rtol=RTOL
    )
    (slope,) = torch.autograd.grad(value.sum(), place)
    torch.testing.assert_close(slope, 2 * place.detach() - 1, rtol=1e-3, atol=0)


def test_module_parameters_receive_gradients() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh()).double()
    q.integrate(lambda x: net(x[..., None]).sum(-1), q.Interval(-1, 1)).backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())


def _erf_like(rate: Tensor, upper: Tensor) -> Tensor:
    return q.integrate(lambda x: torch.exp(-rate * x), q.Interval(0, upper))


def _exact(rate: Tensor, upper: Tensor) -> Tensor:
    return -torch.expm1(-rate * upper) / rate


TRANSFORMS = {
    "grad": lambda f: torch.func.grad(f, argnums=(0, 1)),
    "jacrev": lambda f: torch.func.jacrev(f, argnums=(0, 1)),
    "jacfwd": lambda f: torch.func.jacfwd(f, argnums=(0, 1)),
    "hessian": lambda f: torch.func.hessian(f, argnums=(0, 1)),
    "grad_of_grad": lambda f: torch.func.grad(torch.func.grad(f, argnums=1)),
}


@forward_mode
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_functional_transform(transform: Callable) -> None:
    at = torch.tensor(1.3), torch.tensor(0.8)
    torch.testing.assert_close(transform(_erf_like)(*at), transform(_exact)(*at))


@forward_mode
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS.keys())
def test_functional_transform_inside_vmap(transform: Callable) -> None:
    at = torch.tensor([0.5, 1.3, 2.0]), torch.tensor([0.8, 3.0, -0.5])
    mapped = torch.func.vmap(transform(_erf_like))(*at)
    torch.testing.assert_close(mapped, torch.func.vmap(transform(_exact))(*at))


@pytest.mark.parametrize("in_dims", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_closure_and_limits(in_dims: tuple) -> None:
    rate, upper = torch.tensor([0.5, 1.3, 40.0]), torch.tensor([0.8, -0.3, 2.0])
    at = tuple(
        t if d == 0 else t[1] for t, d in zip((rate, upper), in_dims, strict=True)
    )
    mapped = torch.func.vmap(_erf_like, in_dims=in_dims)(*at)
    torch.testing.assert_close(mapped, _exact(*at))


def test_nested_vmap_around_a_batch() -> None:
    rate, upper = torch.tensor([0.5, 1.3, 4.0]), torch.tensor([0.8, 3.0])
    batch = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def inner(rate: Tensor, upper: Tensor) -> Tensor:
        return q.integrate(
            lambda x, b: torch.exp(-rate * b * x), q.Interval(0, upper), args=(batch,)
        )

    outer = torch.func.vmap(inner, in_dims=(0, None))
    mapped = torch.func.vmap(outer, in_dims=(None, 0))(rate, upper)
    exact = _exact(rate[:, None] * batch, upper[:, None, None])
    torch.testing.assert_close(mapped, exact)


def test_vmap_sees_the_batch_element_that_is_hard() -> None:
    width = torch.tensor([1.0, 1e-2, 1e-5])
    mapped = torch.func.vmap(
        lambda w: q.integrate(lambda x: w / (x * x + w * w), q.Interval(-1, 2))
    )(width)
    torch.testing.assert_close(mapped, (2 / width).atan() + (1 / width).atan())


@forward_mode
def test_forward_mode_directional_derivative() -> None:
    with forward_ad.dual_level():
        rate = forward_ad.make_dual(torch.tensor(1.3), torch.tensor(2.0))
        tangent = forward_ad.unpack_dual(_erf_like(rate, torch.tensor(0.8))).tangent
    slope = torch.func.grad(_exact)(torch.tensor(1.3), torch.tensor(0.8))
    torch.testing.assert_close(tangent, 2 * slope)


@forward_mode
def test_forward_mode_through_a_closure_between_numbers() -> None:
    with forward_ad.dual_level():
        rate = forward_ad.make_dual(torch.tensor(1.3), torch.tensor(2.0))
        value = q.integrate(lambda x: torch.exp(-rate * x), q.Interval(0, 1))
        tangent = forward_ad.unpack_dual(value).tangent
    slope = torch.func.grad(lambda r: -torch.expm1(-r) / r)(torch.tensor(1.3))
    torch.testing.assert_close(tangent, 2 * slope)


def test_inference_mode_first_and_training_after() -> None:
    rate = torch.tensor(1.7, requires_grad=True)
    for rule in (None, q.GaussKronrod(33), q.DoubleExponential(7)):
        with torch.inference_mode():
            q.integrate(lambda x: torch.exp(-rate * x), q.Interval(0, 1), rule)
        value = q.integrate(lambda x: torch.exp(-rate * x), q.Interval(0, 1), rule)
        (slope,) = torch.autograd.grad(value, rate)
        torch.testing.assert_close(
            slope, torch.func.grad(_exact)(rate.detach(), torch.tensor(1.0))
        )


def test_value_is_the_same_with_and_without_gradient() -> None:
    rate = torch.tensor(1.7, requires_grad=True)
    with torch.no_grad():
        without = _erf_like(rate, torch.tensor(1.0))
    torch.testing.assert_close(
        _erf_like(rate, torch.tensor(1.0)).detach(), without, rtol=1e-15, atol=0
    )


def test_blocks_change_neither_value_nor_gradient() -> None:
    place, width, _ = _places_and_widths(20)
    place.requires_grad_()
    results = []
    for memory in (None, 2000):
        value = q.integrate(
            _peak, q.Interval(-4, 4), args=(place, width), memory=memory, rtol=RTOL
        )
        results.append((value, *torch.autograd.grad(value.sum(), place)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_memory_bounds_the_points_of_a_call() -> None:
    largest = 0

    def watched(x: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, x.numel())
        return (x - 0.3).abs().sqrt()

    q.integrate(watched, q.Interval(0, 1), rtol=1e-10, memory=21 * 8 * 4)
    assert largest <= 21 * 4


def test_a_batch_of_one_keeps_its_dimension() -> None:
    place = torch.zeros(1)
    shapes = set()

    def integrand(x: Tensor) -> Tensor:
        shapes.add(x.shape[1:])
        return torch.exp(-((x - place) ** 2))

    lower = torch.full((1,), -1.0)
    value = q.integrate(integrand, q.Interval(lower, 1.0))
    assert value.shape == (1,)
    assert shapes == {(1,)}
    box = q.Box(lower[:, None].expand(1, 2), torch.ones(1, 2))
    assert q.integrate(lambda x: integrand(x[..., 0]), box).shape == (1,)
    assert shapes == {(1,)}
