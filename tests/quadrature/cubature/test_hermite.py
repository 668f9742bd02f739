"""Adaptive Gauss-Hermite quadrature in several dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.quadrature.cubature import modes
from torch_mlcalc.testing import check_gradients

DOUBLE = torch.float64
Rule = mlc.AdaptiveGaussHermite


def space(d: int, dtype: torch.dtype = DOUBLE) -> mlc.Box:
    return mlc.Box(torch.full((d,), -math.inf, dtype=dtype), math.inf)


PLANE = space(2)

#: The axes of the densities below are not those of space.
TURN = torch.tensor([[1.0, 0.5], [-2.0, 3.0]], dtype=DOUBLE)


def log_gamma(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Two logs of gamma variables, mixed by a matrix."""
    y = x @ TURN.to(x).mT
    return (a * y - b * torch.exp(y)).sum(-1)


def exact(a: Tensor, b: Tensor) -> Tensor:
    return (torch.lgamma(a) - a * b.log()).sum(-1) - math.log(4.0)


def laplace(a: Tensor, b: Tensor) -> Tensor:
    """By hand: modes at log(a / b), curvatures -a there."""
    own = a * torch.log(a / b) - a + (2 * math.pi / a).log() / 2
    return own.sum(-1) - math.log(4.0)


def shapes() -> tuple[Tensor, Tensor]:
    a = [[2.5, 30.0], [3.0, 3.0], [50.0, 4.0]]
    b = [[2.0, 0.3], [0.3, 1.0], [1e3, 5.0]]
    made = (torch.tensor(t, dtype=DOUBLE, requires_grad=True) for t in (a, b))
    return tuple(made)  # type: ignore[return-value]


def with_nodes(
    n: int | None, domain: mlc.Box = PLANE
) -> Callable[[Tensor, Tensor], Tensor]:
    def evidence(a: Tensor, b: Tensor) -> Tensor:
        return mlc.log_integrate(
            log_gamma, domain, Rule(n), args=(a, b), batch_shape=a.shape[:-1]
        )

    return evidence


@pytest.mark.parametrize("n", [1, 2, 5, None])
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_normal_densities_need_one_node(d: int, n: int | None) -> None:
    torch.manual_seed(d)
    scale = torch.tensor([1e-3, 1.0, 1e4], dtype=DOUBLE)[:, None, None]
    factor = torch.randn(3, d, d, dtype=DOUBLE) / scale
    centre = torch.tensor([0.0, 3.0, -1e5], dtype=DOUBLE)[:, None].expand(3, d)

    def log_density(x: Tensor, factor: Tensor, centre: Tensor) -> Tensor:
        y = (factor @ (x - centre)[..., None])[..., 0]
        return 1000 - y.square().sum(-1) / 2

    estimate = mlc.log_integrate_with_error(
        log_density, space(d), Rule(n), args=(factor, centre), batch_shape=(3,)
    )
    wanted = 1000 + d / 2 * math.log(2 * math.pi) - torch.linalg.slogdet(factor)[1]
    torch.testing.assert_close(estimate.value, wanted, rtol=1e-12, atol=0)
    assert (estimate.status == 0).all()
    if n is None:
        assert (estimate.n_evals < 4000).all()


def test_one_node_is_the_laplace_approximation() -> None:
    a, b = shapes()
    value = with_nodes(1)(a, b)
    torch.testing.assert_close(value, laplace(a, b), rtol=1e-12, atol=1e-12)
    assert ((value - exact(a, b)).abs() > 1e-2).all()


def test_gradient_of_the_laplace_approximation_is_that_of_its_formula() -> None:
    inputs = shapes()
    ours = torch.autograd.grad(with_nodes(1)(*inputs).sum(), inputs)
    theirs = torch.autograd.grad(laplace(*inputs).sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    true = torch.autograd.grad(exact(*inputs).sum(), inputs)
    assert (ours[0] - true[0]).abs().max() > 1e-2


def test_second_derivatives_of_the_laplace_approximation() -> None:
    hessian = torch.autograd.functional.hessian
    ours = hessian(lambda a, b: with_nodes(1)(a, b).sum(), shapes())
    theirs = hessian(lambda a, b: laplace(a, b).sum(), shapes())
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("n", [1, 3, None])
def test_gradients_in_every_mode(n: int | None) -> None:
    a, b = (t.detach()[1:].requires_grad_() for t in shapes())
    anywhere = mlc.Box(-math.inf, math.inf, 2)
    check_gradients(with_nodes(n, anywhere), (a, b), compile=False, max_elements=2)


def test_more_nodes_come_nearer_and_the_default_arrives() -> None:
    a, b = shapes()
    errors = [(with_nodes(n)(a, b) - exact(a, b)).abs() for n in (1, 5, 17, None)]
    assert (errors[0] > 2 * errors[1]).all() and (errors[1] > 2 * errors[2]).all()
    assert errors[3].max() < 1e-8


def test_default_gradient_is_that_of_the_integral() -> None:
    inputs = shapes()
    ours = torch.autograd.grad(with_nodes(None)(*inputs).sum(), inputs)
    theirs = torch.autograd.grad(exact(*inputs).sum(), inputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_error_of_a_number_of_nodes() -> None:
    a, b = shapes()
    for n in (1, 3):
        estimate = mlc.log_integrate_with_error(
            log_gamma, PLANE, Rule(n), args=(a, b), batch_shape=(3,)
        )
        off = (estimate.value - exact(a, b)).abs()
        assert (off < 2 * estimate.error).all() and (estimate.error < 2 * off).all()
        assert (estimate.status == 0).all()


def random_effects() -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """Log odds with an intercept and a slope of each group: five groups of six."""
    generator = torch.Generator().manual_seed(3)
    time = torch.linspace(-1, 2, 6, dtype=DOUBLE)
    own = torch.randn(5, 2, generator=generator, dtype=DOUBLE) * 1.5
    odds = own[:, :1] + own[:, 1:] * time
    draws = torch.rand(5, 6, generator=generator, dtype=DOUBLE)
    y = (draws < odds.sigmoid()).to(DOUBLE)

    def log_joint(u: Tensor, y: Tensor, fixed: Tensor, factor: Tensor) -> Tensor:
        effect = fixed + (factor @ u[..., None])[..., 0]
        odds = effect[..., :1] + effect[..., 1:] * time
        log_likelihood = y * odds - torch.nn.functional.softplus(odds)
        prior = -u.square().sum(-1) / 2 - math.log(2 * math.pi)
        return log_likelihood.sum(-1) + prior

    fixed = torch.tensor([0.3, -0.2], dtype=DOUBLE).expand(5, 2)
    factor = torch.tensor([[1.6, 0.0], [-0.9, 1.1]], dtype=DOUBLE).expand(5, 2, 2)
    return log_joint, (y, fixed, factor)


def test_random_intercepts_and_slopes_against_brute_force() -> None:
    log_joint, (y, fixed, factor) = random_effects()
    fixed, factor = fixed.clone().requires_grad_(), factor.clone().requires_grad_()
    args = {"args": (y, fixed, factor), "batch_shape": (5,)}
    ours = mlc.log_integrate_with_error(log_joint, PLANE, Rule(), **args)
    square = mlc.Box(torch.full((2,), -11.0, dtype=DOUBLE), 11.0)
    brute = mlc.Product(mlc.GaussLegendre(160))
    true = mlc.log_integrate(log_joint, square, brute, **args)
    torch.testing.assert_close(ours.value, true, rtol=0, atol=1e-8)
    assert (ours.status == 0).all() and (ours.n_evals < 6000).all()
    assert ((ours.value - true).abs() <= ours.error + 1e-12).all()
    got, wanted = (
        torch.autograd.grad(v.sum(), (fixed, factor)) for v in (ours.value, true)
    )
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-7)
    # The Laplace approximation is a different number.
    rough = mlc.log_integrate(log_joint, PLANE, Rule(1), **args)
    assert ((rough - true).abs() > 1e-2).any()


def student(x: Tensor, df: Tensor) -> Tensor:
    return -(df + 2) / 2 * torch.log1p(x.square().sum(-1) / df)


def banana(x: Tensor) -> Tensor:
    return -(x[..., 0] ** 2) / 2 - 2 * (x[..., 1] - x[..., 0] ** 2) ** 2


def test_what_has_no_shape_of_a_normal_density_is_left_to_others() -> None:
    value = mlc.log_integrate_with_error(banana, PLANE, Rule())
    assert value.value.item() == pytest.approx(math.log(math.pi), abs=1e-7)
    assert value.status == 0
    # Of a batch, only those that need it: the other two are normal.
    df = torch.tensor([1e9, 4.0, 1e9], dtype=DOUBLE)
    estimate = mlc.log_integrate_with_error(student, PLANE, Rule(), args=(df,))
    wanted = torch.full((3,), math.log(2 * math.pi), dtype=DOUBLE)
    torch.testing.assert_close(estimate.value, wanted, rtol=0, atol=1e-7)
    assert (estimate.status == 0).all()
    assert estimate.n_evals[0] < 200 and estimate.n_evals[1] > 1000


def two_hills(x: Tensor) -> Tensor:
    """A minimum in the middle, flat but curved upwards, where the search begins."""
    return -2 * (x[..., 0] ** 2 - 4) ** 2 - x[..., 1] ** 2 / 2


def test_two_modes_without_one_between() -> None:
    value = mlc.log_integrate(two_hills, PLANE, Rule())
    line = mlc.log_integrate(
        lambda x: -2 * (x**2 - 4) ** 2, mlc.RealLine(torch.tensor(0.0, dtype=DOUBLE))
    )
    wanted = line.item() + math.log(2 * math.pi) / 2
    assert value.item() == pytest.approx(wanted, abs=1e-7)


def test_newton_steps_that_find_no_mode_are_reported() -> None:
    estimate = mlc.log_integrate_with_error(
        two_hills, PLANE, Rule(3), on_failure="ignore"
    )
    assert estimate.status == mlc.Status.TOLERANCE_NOT_REACHED
    assert estimate.error == math.inf and estimate.value.isfinite()
    slope = torch.tensor([0.0, 1.0], dtype=DOUBLE)

    def partly_flat(x: Tensor, s: Tensor) -> Tensor:
        return (1 - s) * -x.square().sum(-1) / 2 + s * x.sum(-1)

    with pytest.warns(mlc.IntegrationWarning, match="1 of 2 integrals"):
        value = mlc.log_integrate(partly_flat, PLANE, Rule(3), args=(slope,))
    assert value[0].item() == pytest.approx(math.log(2 * math.pi), abs=1e-12)


def test_the_mode_is_found_from_far_away() -> None:
    centre = torch.tensor([[0.0, 1e3], [-1e6, 30.0]], dtype=DOUBLE)
    width = torch.tensor([[1.0, 1e-2], [1.0, 1e3]], dtype=DOUBLE)

    def logistic(x: Tensor, c: Tensor, w: Tensor) -> Tensor:
        z = (x - c) / w
        return (z - 2 * torch.nn.functional.softplus(z)).sum(-1)

    value = mlc.log_integrate(
        logistic, PLANE, Rule(), args=(centre, width), batch_shape=(2,)
    )
    torch.testing.assert_close(value, width.log().sum(-1), rtol=0, atol=1e-7)


def test_start_and_scale_are_those_of_the_domain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    true = modes.expand
    monkeypatch.setattr(modes, "expand", lambda f, x: seen.append(x) or true(f, x))
    box = mlc.Box(-math.inf, math.inf, 2, loc=torch.tensor([3.0, -1.0]), scale=0.5)
    mlc.log_integrate(lambda x: -(x**2).sum(-1), box, Rule(2))
    assert seen[0].tolist() == [[3.0, -1.0]]
    # The first step has length 1 in units of the scale.
    assert (seen[1] - seen[0]).norm().item() == pytest.approx(0.5)


def test_bounds_hold_coordinates() -> None:
    low, high = torch.tensor([[1.0, -2.0]], dtype=DOUBLE), torch.tensor([[3.0, 2.0]])

    class Bowl:
        def __call__(self, x: Tensor) -> Tensor:
            return -(x[..., 0] ** 2) - (x[..., 1] - 0.5 * x[..., 0]) ** 2

    start = torch.tensor([[2.0, 0.0]], dtype=DOUBLE)
    found = modes.find_modes(
        Bowl(), start, torch.ones_like(start), None, (low, high.to(DOUBLE))
    )
    torch.testing.assert_close(found.at, torch.tensor([[1.0, 0.5]], dtype=DOUBLE))


def test_closures_and_a_plan_that_is_used_again() -> None:
    a, b = (t.detach() for t in shapes())
    args = {"args": (a, b), "batch_shape": (3,)}
    by_args = mlc.log_integrate(log_gamma, PLANE, Rule(), **args)
    closed = mlc.log_integrate_with_error(
        lambda x: log_gamma(x, a, b), PLANE, Rule(), batch_shape=(3,)
    )
    torch.testing.assert_close(closed.value, by_args, rtol=1e-9, atol=1e-9)
    plan = mlc.adapt(log_gamma, PLANE, Rule(), log=True, **args)
    for again in (
        plan,
        closed.plan,
        plan.to("cpu"),
        type(plan).from_state(plan.state()),
    ):
        value = mlc.log_integrate(
            log_gamma, PLANE, again, args=(a, b * 1.001), batch_shape=(3,)
        )
        torch.testing.assert_close(value, exact(a, b * 1.001))
        mass = mlc.integrate(
            lambda x, a, b: log_gamma(x, a, b).exp(), PLANE, again, **args
        )
        torch.testing.assert_close(mass.log(), exact(a, b))
    assert "batch_shape=(3,)" in repr(plan) and plan.n > 100
    with pytest.raises(ValueError, match="all of space"):
        mlc.log_integrate(log_gamma, mlc.Box(0.0, 1.0, 2), plan, **args)
    moved = mlc.Box(PLANE.lower, math.inf, loc=torch.tensor([1.0, 0.0], dtype=DOUBLE))
    value = mlc.log_integrate(
        lambda x, a, b: log_gamma(x - moved.loc, a, b), moved, plan, **args
    )
    torch.testing.assert_close(value, by_args, rtol=0, atol=1e-12)


def test_layer_of_an_evidence() -> None:
    a, b = shapes()
    layer = mlc.LogNormalizer(log_gamma, PLANE, Rule(1))
    assert torch.equal(layer(a, b, batch_shape=(3,)), with_nodes(1)(a, b))
    shared = mlc.LogNormalizer(log_gamma, PLANE, Rule(), plan_every=2)
    shared(a, b, batch_shape=(3,))
    plan = shared.plan
    torch.testing.assert_close(shared(a, b, batch_shape=(3,)), exact(a, b))
    assert shared.plan is plan
    other = mlc.LogNormalizer(log_gamma, PLANE, Rule(), plan_every=2)
    other.load_state_dict(shared.state_dict())
    assert other.plan is not None and other.plan.n == plan.n


def test_mapped_integrals_are_those_of_a_batch() -> None:
    a, b = (t.detach() for t in shapes())
    for n in (1, None):
        mapped = torch.func.vmap(
            lambda a, b, n=n: mlc.log_integrate(
                log_gamma, PLANE, Rule(n), args=(a, b), batch_shape=()
            )
        )(a, b)
        torch.testing.assert_close(mapped, with_nodes(n)(a, b), rtol=1e-10, atol=1e-10)


def test_single_precision() -> None:
    a, b = (t.detach().float() for t in shapes())
    for n in (1, None):
        value = mlc.log_integrate(
            log_gamma, space(2, torch.float32), Rule(n), args=(a, b), batch_shape=(3,)
        )
        assert value.dtype == torch.float32
        wanted = (exact if n is None else laplace)(a.double(), b.double())
        torch.testing.assert_close(value.double(), wanted, rtol=2e-5, atol=2e-5)


def test_memory_bounds_a_block_and_changes_nothing() -> None:
    a, b = shapes()
    largest = [0]

    def counted(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        largest[0] = max(largest[0], x.numel())
        return log_gamma(x, a, b)

    values = []
    for memory in (2**13, None):
        largest[0] = 0
        value = mlc.log_integrate(
            counted, PLANE, Rule(40), args=(a, b), batch_shape=(3,), memory=memory
        )
        values.append((value, *torch.autograd.grad(value.sum(), (a, b)), largest[0]))
    assert values[0][-1] < values[1][-1] / 4
    torch.testing.assert_close(values[0][:3], values[1][:3], rtol=1e-10, atol=1e-10)


def test_faults_inside_are_reported() -> None:
    for n in (3, None):
        estimate = mlc.log_integrate_with_error(
            lambda x: x.sum(-1) * torch.nan,
            PLANE,
            Rule(n),
            on_failure="ignore",
            max_evals=10_000,
        )
        assert estimate.status == mlc.Status.NON_FINITE


def test_evaluations_can_be_limited() -> None:
    a, b = shapes()
    with pytest.raises(mlc.IntegrationError, match="tolerance not reached"):
        mlc.log_integrate(
            log_gamma,
            PLANE,
            Rule(),
            args=(a, b),
            batch_shape=(3,),
            max_evals=300,
            on_failure="raise",
        )


def test_looser_tolerance_takes_fewer_nodes() -> None:
    a, b = shapes()
    counts = [
        mlc.log_integrate_with_error(
            log_gamma, PLANE, Rule(), args=(a, b), batch_shape=(3,), rtol=rtol
        ).n_evals
        for rtol in (1e-2, 1e-8)
    ]
    assert (counts[0] < counts[1]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlc.integrate(torch.sum, PLANE, Rule()), "log_integrate"),
        (
            lambda: mlc.log_integrate(banana, mlc.Box(0.0, math.inf, 2), Rule()),
            "all of space",
        ),
        (
            lambda: mlc.log_integrate(
                banana, mlc.Box([0, 0], [1, lambda x: x]), Rule()
            ),
            "all of space",
        ),
        (
            lambda: mlc.log_integrate(banana, mlc.Simplex(3), Rule()),
            "all of space",
        ),
        (
            lambda: mlc.log_integrate(
                banana, PLANE, Rule(), breakpoints=[[torch.tensor([0.0])], None]
            ),
            "breakpoints",
        ),
        (
            lambda: mlc.log_integrate(banana, PLANE, Rule(), breakpoints=[[0.5], None]),
            "breakpoints has no effect",
        ),
        (
            lambda: mlc.log_integrate(banana, PLANE, Rule(3), rtol=0.1),
            "rtol, atol and grad_rtol have no effect",
        ),
        (
            lambda: mlc.log_integrate(lambda x: x, PLANE, Rule(3)),
            "without event dimensions",
        ),
        (
            lambda: mlc.log_integrate(lambda x: -(x**2).sum(-1), space(9), Rule()),
            "in 9 dimensions",
        ),
        (
            lambda: mlc.log_integrate(lambda x: -(x**2).sum(-1), space(9), Rule(5)),
            "at most 5000000",
        ),
    ],
)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_laplace_in_many_dimensions() -> None:
    estimate = mlc.log_integrate(lambda x: -(x**2).sum(-1) / 2, space(9), Rule(1))
    assert estimate.item() == pytest.approx(4.5 * math.log(2 * math.pi), abs=1e-12)


def test_applying_a_plan_compiles() -> None:
    a, b = (t.detach() for t in shapes())
    args = {"args": (a, b), "batch_shape": (3,)}
    plan = mlc.adapt(log_gamma, PLANE, Rule(), log=True, **args)
    apply = torch.compile(
        lambda a, b: mlc.log_integrate(
            log_gamma, PLANE, plan, args=(a, b), batch_shape=(3,)
        ),
        backend="aot_eager",
        fullgraph=True,
    )
    torch.testing.assert_close(apply(a, b), exact(a, b))


@pytest.mark.parametrize("d", [2, 3])
def test_a_step_next_to_the_mode_is_seen(d: int) -> None:
    def log_density(x: Tensor) -> Tensor:
        return -x.square().sum(-1) / 2 - (x[..., 0] > 0.05).double()

    value = mlc.log_integrate(log_density, space(d), Rule()).exp()
    below = torch.special.ndtr(torch.tensor(0.05, dtype=DOUBLE))
    want = (below + (1 - below) / math.e) * (2 * math.pi) ** (d / 2)
    assert value.item() == pytest.approx(want.item(), rel=1e-5)
