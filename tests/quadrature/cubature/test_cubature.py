"""Deterministic rules in several dimensions: right, honest, with all gradients."""

import copy
import math
import pickle
import warnings
from collections.abc import Callable

import pytest
import torch
from problems_nd import GENZ, OTHERS, Problem, genz, genz_sum
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import torch_mlcalc.quadrature as q
from torch_mlcalc import Integral, NormalizedDensity
from torch_mlcalc.quadrature import checks
from torch_mlcalc.quadrature.integrand import bind_alone

F64 = torch.float64
INF = math.inf


pytestmark = pytest.mark.usefixtures("double")


ADAPTIVE = {"default": None, "degree_7": q.GenzMalik(7), "degree_9": q.GenzMalik(9)}
adaptive = pytest.mark.parametrize("rule", ADAPTIVE.values(), ids=ADAPTIVE.keys())


def solve(
    row: Problem, rule: q.Rule | None, rtol: float, grad_rtol: float | None = None
) -> tuple[q.Estimate, tuple[Tensor | None, ...]]:
    theta = tuple(t.clone().requires_grad_() for t in row.theta)
    estimate = q.integrate_with_error(
        lambda x: row.integrand(x, *theta),
        row.domain,
        rule,
        rtol=rtol,
        grad_rtol=grad_rtol,
        on_failure="ignore",
    )
    return estimate, torch.autograd.grad(estimate.value, theta, allow_unused=True)


#: Nodes that are right for the value are not for the slope, which is logarithmic: at
#: the faces for a Dirichlet parameter of 1/2, in the middle of a disc for the power.
LOGARITHMIC = {"dirichlet-2d", "disc"}


def check(
    row: Problem, rule: q.Rule | None, rtol: float, *, slope: bool = True
) -> None:
    grad_rtol = rtol if row.name in LOGARITHMIC else None
    estimate, slopes = solve(row, rule, rtol, grad_rtol)
    assert estimate.status == q.Status.CONVERGED
    exact = row.value()
    assert (estimate.value - exact).abs() <= rtol * exact.abs()
    assert estimate.error <= rtol * estimate.value.abs()
    if not (row.differentiable and slope):
        return
    for found, expected in zip(slopes, row.gradient(), strict=True):
        assert found is not None
        size = expected.abs().max() + exact.abs()
        assert (found - expected).abs().max() <= 10 * rtol * size


EASY = [row for row in GENZ if row.dimension <= 3] + OTHERS


@pytest.mark.parametrize("row", EASY, ids=lambda row: row.name)
def test_values_and_gradients_by_default(row: Problem) -> None:
    slow = row.name in ("sine_of_sum-3d", "continuous-3d-2", "decay-3d", "dirichlet-3d")
    check(row, None, 1e-4 if slow else 1e-6)


@pytest.mark.parametrize(
    "row",
    [row for row in GENZ if row.dimension == 5 and "-2" not in row.name[-2:]],
    ids=lambda row: row.name,
)
def test_values_and_gradients_in_five_dimensions(row: Problem) -> None:
    check(row, None, 1e-3)


@pytest.mark.parametrize(
    "row",
    [row for row in GENZ if row.dimension == 8 and row.name.endswith("0.3")],
    ids=lambda row: row.name,
)
def test_values_and_gradients_in_eight_dimensions(row: Problem) -> None:
    check(row, None, 1e-3)


@pytest.mark.parametrize("rule", [q.GenzMalik(7), q.GenzMalik(9)], ids=str)
@pytest.mark.parametrize(
    "row",
    [row for row in EASY if "-3d-2" not in row.name],
    ids=lambda row: row.name,
)
def test_genz_malik_is_right(row: Problem, rule: q.Rule) -> None:
    # Kinks inside of regions cost the slope more than the value.
    check(row, rule, 1e-3, slope=row.smooth)


@adaptive
def test_converged_means_right_whatever_the_budget(rule: q.Rule | None) -> None:
    # The honest status: 144 integrals cut short at four budgets and two tolerances.
    wrong, converged = [], 0
    for row in GENZ:
        if row.dimension > 3:
            continue
        for budget in (100, 1_000, 5_000):
            for rtol in (1e-2, 1e-5):
                estimate = q.integrate_with_error(
                    lambda x, row=row: row.integrand(x, *row.theta),
                    row.domain,
                    rule,
                    rtol=rtol,
                    max_evals=budget,
                    on_failure="ignore",
                )
                # One use of the rule is always made.
                assert estimate.n_evals <= max(budget, 200)
                if estimate.status == q.Status.CONVERGED:
                    converged += 1
                    exact = row.value()
                    if (estimate.value - exact).abs() > rtol * exact.abs():
                        wrong.append((row.name, budget, rtol))
    assert converged > 60
    assert not wrong


def test_the_published_sum_in_three_dimensions() -> None:
    integrand, exact = genz_sum(3)
    estimate = q.integrate_with_error(integrand, q.Box(0.0, 1.0, 3), rtol=1e-12)
    assert (estimate.value - exact()).abs() < 8.3e-12
    assert estimate.n_evals < 1_000_000


# ---- kinks ---------------------------------------------------------------------------


#: Where a kink or a jump is on each axis: also so near to an end that none of the first
#: nodes is behind it, and so that the first rule sees nothing but zeros.
PLACES = {
    "inside": (0.3, 0.62),
    "near_the_end": (0.7580, 0.0027),
    "beyond_the_last_node": (0.336, 0.9937),
    "before_the_first_node": (0.0538, 0.09),
    "on_one_axis": (0.4142, 1.5),
}


def bent(x: Tensor, a: Tensor, u: Tensor) -> Tensor:
    return torch.exp(-(a * (x - u).abs()).sum(-1))


def cut_off(x: Tensor, a: Tensor, u: Tensor) -> Tensor:
    return torch.where((x <= u).all(-1), torch.exp((a * x).sum(-1)), 0)


def bent_exact(a: Tensor, u: Tensor) -> Tensor:
    below = u.clamp(max=1)
    first = torch.exp(-a * (u - below)) - torch.exp(-a * u)
    return ((first - torch.expm1(-a * (1 - below))) / a).prod(-1)


def cut_off_exact(a: Tensor, u: Tensor) -> Tensor:
    return (torch.expm1(a * u.clamp(max=1)) / a).prod(-1)


@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-6, 1e-8])
@pytest.mark.parametrize("log", [False, True], ids=["plain", "log"])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize(
    ("f", "exact"), [(bent, bent_exact), (cut_off, cut_off_exact)], ids=["kink", "jump"]
)
def test_kinks_across_axes_are_found(
    f: Callable[..., Tensor],
    exact: Callable[..., Tensor],
    places: tuple[float, float],
    log: bool,
    rtol: float,
) -> None:
    # A negative integrand, and two of them at once, with kinks of their own.
    u = torch.tensor([places, [0.4, 0.55]])
    a = torch.tensor([[5.4, 4.1], [2.0, 1.0]])
    wanted = exact(a, u)
    if log:
        estimate = q.log_integrate_with_error(
            lambda x, a, u: f(x, a, u).log() - 900,
            BOX,
            args=(a, u),
            batch_shape=(2,),
            rtol=rtol,
        )
        value = torch.exp(estimate.value + 900)
    else:
        for own_a, own_u, own in zip(a, u, wanted, strict=True):
            one = q.integrate(lambda x, a=own_a, u=own_u: -f(x, a, u), BOX, rtol=rtol)
            assert float(one) == pytest.approx(-float(own), rel=rtol)
        estimate = q.integrate_with_error(
            f, BOX, args=(a, u), batch_shape=(2,), rtol=rtol
        )
        value = estimate.value
    assert ((value - wanted).abs() <= rtol * wanted).all()
    # Tensor rules that see less than all kinks, then regions between these.
    assert (estimate.n_evals < 13_000).all()


@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_the_place_of_a_kink_is_good_enough_for_gradients(rtol: float) -> None:
    a, u = torch.tensor([5.4, 4.1]), torch.tensor([0.758, 0.0127])
    theta = a.requires_grad_(), u.requires_grad_()
    value = q.integrate(lambda x: bent(x, a, u), BOX, rtol=rtol)
    exact = bent_exact(a, u)
    pairs = zip(
        torch.autograd.grad(value, theta),
        torch.autograd.grad(exact, theta),
        strict=True,
    )
    for found, wanted in pairs:
        assert ((found - wanted).abs() <= 10 * rtol * wanted.abs().max()).all()


def test_what_is_smooth_but_not_resolved_is_not_taken_for_a_kink() -> None:
    # A peak that the first rules find rough, and its tensor rule in the end.
    def peak(x: Tensor) -> Tensor:
        return 1 / (0.15**2 + (x - 0.44).square()).prod(-1)

    estimate = q.integrate_with_error(peak, BOX, rtol=1e-6)
    side = (math.atan(0.56 / 0.15) + math.atan(0.44 / 0.15)) / 0.15
    assert float(estimate.value) == pytest.approx(side**2, rel=1e-6)
    assert len(estimate.plan.groups) == 1
    assert estimate.plan.groups[0].low.shape[0] == 1


#: Integrands on which two rules agree by accident, far from the value: a kink whose
#: coefficients fall once, and jumps that lie beyond most nodes of a symmetric rule.
ACCIDENTS = {
    "kink": (bent, bent_exact, (7.8546, 3.1128), (0.45058, 0.53929)),
    "kink_near_the_end": (bent, bent_exact, (5.4, 4.1), (0.336, 0.9937)),
    "jumps_in_5_dimensions": (
        cut_off,
        cut_off_exact,
        (0.43985, 0.32421, 0.51149, 0.38892, 0.24148),
        (0.83803, 0.88265, 1.5, 1.5, 1.5),
    ),
    "jumps_before_the_first_node": (
        cut_off,
        cut_off_exact,
        (0.60156, 0.54945, 0.38731),
        (0.23261, 0.09628, 1.5),
    ),
}


@pytest.mark.parametrize("rtol", [1e-2, 1e-3])
@pytest.mark.parametrize("case", ACCIDENTS.values(), ids=ACCIDENTS.keys())
def test_rules_that_agree_by_accident_are_not_believed(
    case: tuple, rtol: float
) -> None:
    f, exact, a, u = *case[:2], torch.tensor(case[2]), torch.tensor(case[3])
    value = q.integrate(lambda x: f(x, a, u), q.Box(0.0, 1.0, len(a)), rtol=rtol)
    wanted = exact(a, u)
    assert (value - wanted).abs() <= rtol * wanted


#: Kinks that move across the first axis but slowly, ``relu(w x - c)`` of a normal
#: ``x``. Lines find one there, and of both parts one is 0 at all first nodes.
OBLIQUE = (
    [[2.2924, 0.4162], [1.6188, -0.1329], [0.2974, 1.2871]],
    [0.14785113935, -0.8886, 1.03777],
)


def mean_of_oblique(weight: Tensor, bias: Tensor, rtol: float) -> q.Estimate:
    def f(x: Tensor, w: Tensor, c: Tensor) -> Tensor:
        density = torch.exp(-x.square().sum(-1) / 2) / (2 * math.pi)
        return torch.relu((x * w).sum(-1) - c) * density

    plane, batch = q.Box(-INF, INF, 2), bias.shape
    args = weight, bias
    return q.integrate_with_error(f, plane, args=args, batch_shape=batch, rtol=rtol)


@pytest.mark.parametrize(
    ("rows", "rtol"), [([0, 1], 1e-6), ([slice(None)], 1e-5)], ids=["single", "batch"]
)
def test_a_part_where_nothing_was_seen_is_looked_at_again(
    rows: list[int | slice], rtol: float
) -> None:
    weight, bias = map(torch.tensor, OBLIQUE)
    size, normal = weight.norm(dim=-1), torch.distributions.Normal(0.0, 1.0)
    z = bias / size
    exact = size * (normal.log_prob(z).exp() - z * normal.cdf(-z))
    for row in rows:
        found = mean_of_oblique(weight[row], bias[row], rtol)
        assert (found.status == q.Status.CONVERGED).all()
        assert ((found.value - exact[row]).abs() <= rtol * exact[row]).all()


def test_the_sine_of_a_sum_in_six_dimensions_by_default() -> None:
    estimate = q.integrate_with_error(
        lambda x: torch.sin(x.sum(-1)), q.Box(0.0, 10.0, 6), rtol=1e-9
    )
    assert float(estimate.value) == pytest.approx(-49.165073816, rel=1e-9)
    assert estimate.n_evals < 3_000_000


# ---- batches and shapes --------------------------------------------------------------


def peaks(x: Tensor, a: Tensor) -> Tensor:
    return torch.exp(-a * (x - 0.3).square().sum(-1))


@adaptive
def test_a_batch_is_its_integrals_one_by_one(rule: q.Rule | None) -> None:
    a = torch.tensor([[1.0, 300.0, 5.0], [0.0, 20.0, 1e3]])
    box = q.Box(0.0, 1.0, dimension=2)
    batch = q.integrate_with_error(peaks, box, rule, args=(a,), rtol=1e-6)
    assert batch.value.shape == batch.error.shape == batch.status.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            alone = q.integrate_with_error(peaks, box, rule, args=(a[i, j],), rtol=1e-6)
            assert torch.allclose(batch.value[i, j], alone.value, rtol=2e-6, atol=0)
    # Rows that have converged cost nothing more.
    assert batch.n_evals[0, 0] < batch.n_evals[1, 2]


@pytest.mark.parametrize("row", EASY, ids=lambda row: row.name)
def test_a_single_integral_takes_the_steps_of_a_batch(row: Problem) -> None:
    both = tuple(torch.stack([t, t]) for t in row.theta)
    one, two = (
        q.integrate_with_error(
            row.integrand, row.domain, args=args, batch_shape=batch, on_failure="ignore"
        )
        for args, batch in ((row.theta, ()), (both, (2,)))
    )
    assert (two.status == one.status).all()
    if two.n_evals[0] != one.n_evals:
        # One goes on with a rule that is fitted to it, which has fewer nodes, or looks
        # for kinks at more points: their places differ by what is allowed. On the plane
        # it begins there with a rule of 15 nodes, not of 8, and in 3 dimensions a rule
        # grows with a margin.
        assert one.plan.n <= two.plan.n * (4 if row.dimension < 4 else 1)
        torch.testing.assert_close(two.value, one.value.expand(2), rtol=3e-8, atol=0.0)
        return
    assert two.plan.n == one.plan.n
    noise = 1e-12 * float(one.value.abs())
    torch.testing.assert_close(two.value, one.value.expand(2), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(two.error, one.error.expand(2), rtol=0.01, atol=noise)


@adaptive
def test_a_closed_over_batch_has_the_same_values(rule: q.Rule | None) -> None:
    a = torch.tensor([1.0, 300.0, 5.0])
    box = q.Box(0.0, 1.0, dimension=2)
    inside = q.integrate(lambda x: peaks(x, a), box, rule, batch_shape=(3,), rtol=1e-6)
    passed = q.integrate(peaks, box, rule, args=(a,), rtol=1e-6)
    assert torch.allclose(inside, passed, rtol=2e-6, atol=0)


@adaptive
def test_events_come_last(rule: q.Rule | None) -> None:
    a = torch.tensor([1.0, 2.0])

    def f(x: Tensor, a: Tensor) -> Tensor:
        return torch.stack(
            [x.prod(-1) * a, a * x.sum(-1), torch.ones_like(a * x[..., 0])], -1
        )

    value = q.integrate(f, q.Box(0.0, 1.0, 2), rule, args=(a,))
    assert torch.allclose(value, torch.tensor([[0.25, 1.0, 1.0], [0.5, 2.0, 1.0]]))


@adaptive
def test_complex_integrands(rule: q.Rule | None) -> None:
    value = q.integrate(
        lambda x: torch.exp(1j * x.sum(-1)), q.Box(0.0, 1.0, 2), rule, rtol=1e-8
    )
    exact = ((torch.exp(torch.tensor(1j)) - 1) / 1j) ** 2
    assert torch.allclose(value, exact.to(value.dtype), rtol=1e-7)


@adaptive
def test_single_precision(rule: q.Rule | None) -> None:
    upper = torch.ones(2, dtype=torch.float32)
    value = q.integrate(lambda x: torch.exp(x.sum(-1)), q.Box(0.0, upper), rule)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx((math.e - 1) ** 2, rel=1e-4)


@adaptive
def test_limits_flip_the_sign_axis_by_axis(rule: q.Rule | None) -> None:
    lower = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    upper = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [1.0, 1.0]])
    value = q.integrate(lambda x: x.prod(-1), q.Box(lower, upper), rule)
    assert torch.allclose(value, torch.tensor([0.25, -0.25, 0.25, 0.0]))
    assert value[3] == 0


@adaptive
def test_mixed_infinite_limits_in_one_batch(rule: q.Rule | None) -> None:
    lower = torch.tensor(
        [[0.0, 0.1], [-INF, 0.2], [-INF, -INF], [-INF, 0.3], [INF, 0.0]],
        requires_grad=True,
    )
    upper = torch.tensor(
        [[1.0, INF], [INF, INF], [INF, 0.4], [0.5, 1.0], [0.6, -INF]],
        requires_grad=True,
    )
    box = q.Box(lower, upper)
    value = q.integrate(lambda x: torch.exp(-x.square().sum(-1)), box, rule, rtol=1e-5)
    # The last has reversed limits on both axes.
    box = q.Box(lower[:4], upper[:4])
    log_value = q.log_integrate(lambda x: -x.square().sum(-1), box, rule, rtol=1e-4)
    exact = (math.sqrt(math.pi) / 2 * (torch.erf(upper) - torch.erf(lower))).prod(-1)
    torch.testing.assert_close(value, exact, rtol=2e-5, atol=0)
    torch.testing.assert_close(log_value, exact[:4].log(), rtol=0, atol=2e-4)
    for found, wanted in ((value, exact), (log_value, exact[:4].log())):
        slopes = torch.autograd.grad(found.sum(), (lower, upper))
        exact_slopes = torch.autograd.grad(
            wanted.sum(), (lower, upper), retain_graph=True
        )
        torch.testing.assert_close(slopes, exact_slopes, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_a_limit_opposite_to_infinity_has_its_derivatives() -> None:
    def peak(x: Tensor) -> Tensor:
        return torch.exp(-x.square().sum(-1))

    def exact(lower: Tensor) -> Tensor:
        return (math.sqrt(math.pi) / 2 * torch.erfc(lower)).prod()

    lower = torch.tensor([0.1, -0.2])
    plan = q.adapt(peak, q.Box(lower, INF), q.GenzMalik(), rtol=1e-4)

    def value(lower: Tensor) -> Tensor:
        return q.integrate(peak, q.Box(lower, INF), plan)

    # Forward mode over reverse mode.
    second = torch.func.hessian(value)(lower)
    torch.testing.assert_close(
        second, torch.func.hessian(exact)(lower), rtol=1e-3, atol=1e-3
    )


@adaptive
def test_log_form(rule: q.Rule | None) -> None:
    estimate = q.log_integrate_with_error(
        lambda x: 5000 - x.square().sum(-1) / 2, q.Box(-INF, INF, 2), rule, rtol=1e-6
    )
    assert float(estimate.value) == pytest.approx(
        5000 + math.log(2 * math.pi), rel=1e-9
    )
    assert estimate.error < 1e-6


def test_log_of_nothing_is_minus_infinity() -> None:
    box = q.Box([0.0, 1.0], [1.0, 1.0])
    assert q.log_integrate(lambda x: x.sum(-1), box) == -INF


@adaptive
def test_limits_that_are_functions(rule: q.Rule | None) -> None:
    triangle = q.Box([0.0, 0.0], [1.0, lambda x: 1 - x])
    value = q.integrate(lambda x: x.prod(-1), triangle, rule, rtol=1e-8)
    assert float(value) == pytest.approx(1 / 24, rel=1e-7)
    ordered = q.Box([0.0, lambda x: x, lambda x, y: y], [1.0, 1.0, 1.0])
    value = q.integrate(lambda x: torch.ones_like(x[..., 0]), ordered, rule)
    assert float(value) == pytest.approx(1 / 6, rel=1e-7)


BENT = {
    **ADAPTIVE,
    "lattice": q.Lattice(4096, 8),
    "product": q.Product(q.GaussLegendre(40)),
}
bent_by = pytest.mark.parametrize("rule", BENT.values(), ids=BENT)


def half_plane(x: Tensor) -> Tensor:
    return torch.exp(-x.square().sum(-1))


@bent_by
def test_opposite_to_a_function_there_may_be_infinity(rule: q.Rule | None) -> None:
    def line(x: Tensor) -> Tensor:
        return slope * x

    slope = torch.tensor(0.7, requires_grad=True)
    quarter = math.pi / 4
    below = quarter + math.atan(0.7) / 2  # for x > 0 and y < slope x
    low, high = [0.0, -INF], [INF, line]
    cases = (
        (q.Box([-INF, line], [INF, INF]), math.pi / 2),
        (q.Box(low, high), below),
        (q.Box(high, low), below),  # reversed on both axes
        (q.Box([0.0, INF], [INF, line]), below - 2 * quarter),
        (q.Box([0.0, line], [INF, -INF]), -below),
    )
    for box, exact in cases:
        value = q.integrate(half_plane, box, rule)
        assert value.item() == pytest.approx(exact, rel=1e-3)
    box = q.Box(low, high)
    value = q.integrate(half_plane, box, rule)
    (found,) = torch.autograd.grad(value, slope)
    assert found.item() == pytest.approx(0.5 / (1 + 0.7**2), rel=1e-3)
    if not isinstance(rule, q.Product):
        plan = q.adapt(half_plane, box, rule)
        torch.testing.assert_close(q.integrate(half_plane, box, plan), value)
    log = q.log_integrate(lambda x: -x.square().sum(-1), box, rule)
    assert log.item() == pytest.approx(math.log(below), rel=1e-3)


def test_ordered_regions_of_all_of_space() -> None:
    ordered = q.Box([-INF, lambda x: x, lambda x, y: y], [INF, INF, INF])
    value = q.integrate(half_plane, ordered, rtol=1e-5)
    assert value.item() == pytest.approx(math.pi**1.5 / 6, rel=1e-5)


@bent_by
def test_each_integral_may_have_another_limit_opposite_to_a_function(
    rule: q.Rule | None,
) -> None:
    upper = torch.tensor([INF, 0.0, -INF])
    box = q.Box([0.0, lambda x: -0.7 * x], [INF, upper])
    value = q.integrate(half_plane, box, rule)
    far, near = (math.pi / 2 + math.atan(0.7)) / 2, math.atan(0.7) / 2
    exact = torch.tensor([far, near, far - math.pi / 2])
    torch.testing.assert_close(value, exact, rtol=1e-3, atol=0)


@bent_by
def test_functions_may_cross_the_other_limit(rule: q.Rule | None) -> None:
    box = q.Box([0.0, lambda x: x], [1.0, 0.5])
    value = q.integrate(lambda x: 1 + x[..., 1], box, rule)
    assert value.item() == pytest.approx(0.5 * 1 - 0.5 + 0.125 - 1 / 6, rel=1e-6)
    if isinstance(rule, q.Product):
        return
    with pytest.warns(q.IntegrationWarning, match="1 non finite"):
        q.log_integrate(lambda x: x[..., 1], box, rule)
    endless = q.Box([0.0, 0.0], [1.0, lambda x: torch.full_like(x, INF)])
    with pytest.warns(q.IntegrationWarning, match="1 non finite"):
        q.integrate(half_plane, endless, rule)


@adaptive
def test_bent_limits_keep_their_gradients(rule: q.Rule | None) -> None:
    slope = torch.tensor(2.0, requires_grad=True)
    wedge = q.Box([0.0, 0.0], [1.0, lambda x: slope * x])
    value = q.integrate(lambda x: x[..., 1], wedge, rule, rtol=1e-8)
    (found,) = torch.autograd.grad(value, slope)
    assert value.item() == pytest.approx(4 / 6)
    assert found.item() == pytest.approx(4 / 6)


@adaptive
def test_breakpoints_split_the_axes(rule: q.Rule | None) -> None:
    def f(x: Tensor) -> Tensor:
        return (x[..., 0] - 0.3).abs() * (x[..., 1] > 0.7)

    box = q.Box(0.0, 1.0, dimension=2)
    with_them = q.integrate_with_error(
        f, box, rule, breakpoints=[[0.3], [0.7]], rtol=1e-10
    )
    assert float(with_them.value) == pytest.approx((0.045 + 0.245) * 0.3, rel=1e-9)
    assert with_them.n_evals < 500


@bent_by
def test_a_lower_limit_that_is_a_function_has_its_gradient(rule: q.Rule | None) -> None:
    slope = torch.tensor(0.5, requires_grad=True)
    box = q.Box([0.0, lambda x: slope * x], [1.0, 1.0])
    value = q.integrate(lambda x: torch.ones_like(x[..., 0]), box, rule)
    assert value.item() == pytest.approx(0.75, rel=1e-5)
    (found,) = torch.autograd.grad(value, slope)
    assert float(found) == pytest.approx(-0.5, rel=1e-5)


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize(
    "rule", [*ADAPTIVE.values(), q.Product(q.GaussLegendre(4))], ids=str
)
def test_breakpoints_carry_gradients(rule: q.Rule | None, listed: bool) -> None:
    place = torch.tensor([0.3, 0.6], requires_grad=True)

    def f(x: Tensor, edge: Tensor) -> Tensor:
        return torch.where(x[..., 0] < edge, x.prod(-1), 2 * x[..., 1])

    breakpoints = [[place, 0.5] if listed else place[None], None]
    value = q.integrate(
        f,
        q.Box(0.0, 1.0, dimension=2),
        rule,
        args=(place,),
        breakpoints=breakpoints,
        **({} if isinstance(rule, q.Product) else {"rtol": 1e-8}),
    )
    torch.testing.assert_close(value, 1 - place + place.square() / 4)
    slope = torch.autograd.grad(value.sum(), place, create_graph=True)[0]
    torch.testing.assert_close(slope, place / 2 - 1)
    second = torch.autograd.grad(slope.sum(), place)[0]
    torch.testing.assert_close(second, torch.full((2,), 0.5))


@pytest.mark.parametrize("far", [INF, -INF, 1e17, -1e13])
@pytest.mark.parametrize(
    "rule", [None, q.GenzMalik(), q.Product(q.GaussLegendre(30))], ids=str
)
def test_breakpoints_at_infinity_change_nothing(
    rule: q.Rule | None, far: float
) -> None:
    # Between them and infinity all nodes were at infinity.
    lower = torch.tensor([0.1, -INF, 0.0], requires_grad=True)
    upper = torch.tensor([INF, INF, 0.7], requires_grad=True)
    value = q.integrate(
        lambda x: torch.exp(-x.square().sum(-1)),
        q.Box(lower, upper),
        rule,
        breakpoints=[[far], [far], [far]],
        **({} if isinstance(rule, q.Product) else {"rtol": 1e-4}),
    )
    exact = (math.sqrt(math.pi) / 2 * (torch.erf(upper) - torch.erf(lower))).prod()
    torch.testing.assert_close(value, exact, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(value, (lower, upper)),
        torch.autograd.grad(exact, (lower, upper)),
        rtol=1e-3,
        atol=1e-3,
    )


# ---- gradients -----------------------------------------------------------------------


FIXED = {
    "product": q.Product(q.GaussLegendre(4), q.ClenshawCurtis(5)),
    "sparse_grid": q.SparseGrid(2),
}


def plan_for(rule: q.Rule | None) -> q.Rule:
    """A plan with several regions, so that edges inside matter."""
    return q.adapt(
        lambda x: torch.exp(-30 * (x - 0.4).square().sum(-1)),
        q.Box(torch.zeros(2, 2), 1.0),
        rule,
        rtol=1e-4,
        batch_shape=(2,),
    )


every = pytest.mark.parametrize("name", [*ADAPTIVE, *FIXED])


forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


@every
@forward_mode
def test_gradients_of_closures_args_and_limits(name: str) -> None:
    rule = FIXED.get(name) or plan_for(ADAPTIVE[name])
    lower = torch.tensor([[0.1, -0.2], [0.0, 0.3]], requires_grad=True)
    upper = torch.tensor([[1.1, 0.9], [1.0, 0.2]], requires_grad=True)
    arg = torch.tensor([0.7, 1.3], requires_grad=True)
    closure = torch.tensor(0.5, requires_grad=True)

    def value(lower: Tensor, upper: Tensor, arg: Tensor, closure: Tensor) -> Tensor:
        return q.integrate(
            lambda x, a: torch.sin(a * x[..., 0] + closure * x[..., 1]),
            q.Box(lower, upper),
            rule,
            args=(arg,),
        )

    inputs = (lower, upper, arg, closure)
    assert gradcheck(value, inputs, check_forward_ad=True)
    assert gradgradcheck(value, inputs)


@every
def test_gradients_where_limits_are_equal(name: str) -> None:
    rule = FIXED.get(name) or ADAPTIVE[name]
    lower = torch.tensor([0.4, 0.0], requires_grad=True)
    value = q.integrate(
        lambda x: torch.exp(x.sum(-1)), q.Box(lower, torch.tensor([0.4, 1.0])), rule
    )
    (slope,) = torch.autograd.grad(value, lower)
    assert value == 0
    assert torch.allclose(
        slope, torch.tensor([-math.exp(0.4) * (math.e - 1), 0.0]), rtol=1e-2
    )


@every
def test_limits_move_by_the_values_at_the_faces(name: str) -> None:
    # A jump inside does not enter the derivative by a limit.
    if name in FIXED:
        pytest.skip("nodes of a fixed rule move with the limits, across the jump")
    upper = torch.tensor([1.0, 1.0], requires_grad=True)
    value = q.integrate(
        lambda x: (x[..., 0] > 0.3) * torch.exp(x[..., 1]),
        q.Box(0.0, upper),
        ADAPTIVE[name],
        rtol=1e-6,
    )
    (slope,) = torch.autograd.grad(value, upper)
    exact = torch.tensor([math.e - 1, 0.7 * math.e])
    assert torch.allclose(slope, exact, rtol=1e-4)


@every
@forward_mode
def test_vmap_and_forward_mode(name: str) -> None:
    rule = FIXED.get(name, ADAPTIVE.get(name))
    upper = torch.tensor([[1.0, 0.5], [2.0, 1.0]])
    a = torch.tensor([1.0, 0.3])

    def value(upper: Tensor, a: Tensor) -> Tensor:
        return q.integrate(lambda x: torch.exp(-a * x.sum(-1)), q.Box(0.0, upper), rule)

    exact = (-torch.expm1(-a[:, None] * upper) / a[:, None]).prod(-1)
    assert torch.allclose(torch.vmap(value)(upper, a), exact, rtol=1e-2)
    _, forward = torch.func.jvp(
        lambda a: value(upper[0], a), (a[0],), (torch.tensor(1.0),)
    )
    reverse = torch.func.grad(lambda a: value(upper[0], a))(a[0])
    assert torch.allclose(forward, reverse)


@pytest.mark.parametrize("name", ["degree_7", *FIXED])
def test_application_compiles(name: str) -> None:
    rule = FIXED.get(name) or q.adapt(
        lambda x: torch.exp(-x.sum(-1)), q.Box(0.0, 1.0, 2), ADAPTIVE[name]
    )

    def value(upper: Tensor) -> Tensor:
        return q.integrate(lambda x: torch.exp(-x.sum(-1)), q.Box(0.0, upper), rule)

    upper = torch.tensor([1.0, 2.0], requires_grad=True)
    fast = torch.compile(value, fullgraph=True, backend="aot_eager")(upper)
    assert torch.allclose(fast, value(upper))
    assert torch.allclose(
        torch.autograd.grad(fast, upper)[0], torch.autograd.grad(value(upper), upper)[0]
    )


# ---- plans ---------------------------------------------------------------------------


@adaptive
def test_plans_replay_move_and_save(rule: q.Rule | None) -> None:
    row = genz("gaussian", 2, 2.0)
    plan = q.adapt(lambda x: row.integrand(x, *row.theta), row.domain, rule, rtol=1e-8)

    def again(plan: q.Rule) -> Tensor:
        return q.integrate(lambda x: row.integrand(x, *row.theta), row.domain, plan)

    value = again(plan)
    assert (value - row.value()).abs() <= 1e-8 * row.value()
    copies = [
        q.Plan.from_state(plan.state()),
        pickle.loads(pickle.dumps(plan)),
        copy.deepcopy(plan),
        plan.to("cpu"),
    ]
    for other in copies:
        assert torch.equal(again(other), value)
        assert other.n == plan.n
        assert torch.equal(other.error, plan.error)
    assert repr(plan) == f"Plan(n={plan.n}, batch_shape=())"


@pytest.mark.parametrize(
    "rule",
    [None, q.GenzMalik(), *(q.Lattice(64, 4, tails=tails) for tails in q.Tails)],
    ids=str,
)
@pytest.mark.parametrize("breakpoints", [None, [None, [0.3]]], ids=["", "split"])
def test_saved_plans_keep_their_tails_and_breakpoints(
    rule: q.Rule | None, breakpoints: list | None
) -> None:
    if breakpoints and isinstance(rule, q.Lattice):
        pytest.skip("breakpoints are refused")
    box = q.Box(0.0, INF, 2)
    kwargs = {"breakpoints": breakpoints}
    plan = q.adapt(_log_bell, box, rule, log=True, rtol=0.01, **kwargs)
    saved = q.Plan.from_state(plan.state())
    assert saved.tails == plan.tails
    value, again = (
        q.log_integrate(_log_bell, box, which, **kwargs) for which in (plan, saved)
    )
    assert torch.equal(again, value)
    assert float(value) == pytest.approx(math.log(math.pi / 4), abs=0.02)


def _log_bell(x: Tensor) -> Tensor:
    return -x.square().sum(-1)


@adaptive
def test_a_plan_evaluates_its_nodes_once(rule: q.Rule | None) -> None:
    points = 0

    def f(x: Tensor) -> Tensor:
        nonlocal points
        points += x[..., 0].numel()
        return torch.exp(-20 * x.square().sum(-1))

    box = q.Box(0.0, 1.0, dimension=2)
    plan = q.adapt(f, box, rule, rtol=1e-6)
    searched, points = points, 0
    q.integrate(f, box, plan)
    assert points == plan.n <= searched


def test_a_plan_in_blocks_is_the_same_with_little_memory() -> None:
    box, weight = q.Box(0.0, 1.0, 3), torch.tensor(2.0, requires_grad=True)
    plan = q.adapt(lambda x: peaks(x, 50.0), box, q.GenzMalik(), rtol=1e-4)
    most = 0

    def f(x: Tensor) -> Tensor:
        nonlocal most
        most = max(most, len(x))
        return weight * peaks(x, 50.0)

    whole = q.integrate(f, box, plan)
    (slope,) = torch.autograd.grad(whole, weight)
    most = 0
    small = q.integrate(f, box, plan, memory=100_000)
    (again,) = torch.autograd.grad(small, weight)
    assert most * 3 * 8 <= 100_000
    assert torch.allclose(small, whole, rtol=1e-12)
    assert torch.allclose(again, slope, rtol=1e-12)


def test_plans_are_refused_where_they_do_not_fit() -> None:
    f = lambda x: torch.exp(x.sum(-1))  # noqa: E731
    plan = q.adapt(f, q.Box(torch.zeros(3, 2), 1.0))
    with pytest.raises(ValueError, match="made for integrals of shape"):
        q.integrate(f, q.Box(0.0, 1.0, 2), plan)
    with pytest.raises(ValueError, match=r"breakpoints on the axes"):
        q.integrate(f, q.Box(torch.zeros(3, 2), 1.0), plan, breakpoints=[[0.5], None])


def test_an_audit_finds_what_the_search_missed() -> None:
    def f(x: Tensor) -> Tensor:
        return torch.exp(x.mean(-1)) + 1e3 * torch.exp(
            -((x - 0.9) / 0.01).square().sum(-1)
        )

    box = q.Box(0.0, 1.0, dimension=2)
    blind = q.adapt(f, box, rtol=1e-4)
    assert blind.status == q.Status.CONVERGED
    with pytest.warns(q.IntegrationWarning, match="audit by a lattice disagrees"):
        plan = q.adapt(f, box, rtol=1e-4, audit=True)
    assert plan.status == q.Status.TOLERANCE_NOT_REACHED
    assert plan.error > 0.1
    with pytest.raises(q.IntegrationError, match="audit"):
        q.adapt(f, box, rtol=1e-4, audit=True, on_failure="raise")


def test_an_audit_does_not_blame_an_error_that_the_plan_admits() -> None:
    def step(x: Tensor) -> Tensor:
        return (x > 0.3).double()

    unit = q.Interval(torch.zeros((), dtype=F64), 1.0)
    plan = q.adapt(step, unit, q.GaussKronrod(), atol=0.1, audit=True)
    assert plan.status == q.Status.CONVERGED
    value = q.integrate(step, unit, plan).item()
    assert 1e-3 < abs(value - 0.7) < plan.error  # the lattice is right to 1e-4


@pytest.mark.parametrize("events", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_an_audit_blames_the_integral_that_it_is_about(log: bool, events: bool) -> None:
    def f(x: Tensor, height: Tensor) -> Tensor:
        needle = torch.exp(-((x - 0.9) / 0.005).square().sum(-1))
        value = torch.exp(x.mean(-1)) + height * needle
        value = torch.stack([value, 1 + 0 * value], -1) if events else value
        return value.log() if log else value

    height, box = torch.tensor([0.0, 4e3, 0.0]), q.Box(0.0, 1.0, dimension=2)
    with pytest.warns(q.IntegrationWarning, match="1 of 3 .* audit by a lattice"):
        plan = q.adapt(f, box, args=(height,), rtol=1e-4, audit=True, log=log)
    assert plan.status.tolist() == [0, q.Status.TOLERANCE_NOT_REACHED, 0]
    apart = torch.zeros(3, 2, dtype=torch.bool) if events else torch.zeros(3) > 0
    apart[(1, 0) if events else 1] = True
    assert torch.equal(plan.error > 0.1, apart)


@pytest.mark.parametrize("log", [False, True])
def test_an_audit_lets_right_plans_pass(log: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for domain in (q.Box(0.0, 1.0, 3), q.Interval(0.0, 1.0)):
            plan = q.adapt(
                lambda x: -x.sum(-1) if x.shape[-1:] == (3,) else -x,
                domain,
                audit=True,
                log=log,
            )
            assert plan.status == q.Status.CONVERGED


def test_a_layer_integrates_over_a_box_and_keeps_its_plan() -> None:
    layer = Integral(peaks, q.Box(0.0, 1.0, 2), plan_every=2, rtol=1e-6)
    a = torch.tensor([1.0, 30.0], requires_grad=True)
    first = layer(a)
    first.sum().backward()
    other = Integral(peaks, q.Box(0.0, 1.0, 2), plan_every=2, rtol=1e-6)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(a), layer(a))
    exact = q.integrate(peaks, q.Box(0.0, 1.0, 2), args=(a,), rtol=1e-8)
    assert torch.allclose(first, exact, rtol=1e-6)
    assert torch.allclose(a.grad, torch.autograd.grad(exact.sum(), a)[0], rtol=1e-5)


# ---- bad input and faults ------------------------------------------------------------


def ones(x: Tensor) -> Tensor:
    return torch.ones_like(x[..., 0])


REFUSED = {
    "dimension unknown": (lambda: q.Box(0.0, 1.0), ValueError, "pass dimension="),
    "dimensions differ": (
        lambda: q.Box([0.0, 0.0], [1.0, 1.0, 1.0]),
        ValueError,
        "disagree in its dimension",
    ),
    "no axes": (lambda: q.Box([], 1.0), ValueError, "is empty"),
    "nan": (lambda: q.Box([0.0, math.nan], 1.0), ValueError, r"lower\[1\] is nan"),
    "text": (lambda: q.Box("ab", 1.0), TypeError, "lower is a str"),
    "scalar tensor": (
        lambda: q.Box(torch.tensor(0.0), 1.0, 2),
        ValueError,
        "without dimensions",
    ),
    "first is bent": (
        lambda: q.Box([lambda: 0.0, 0.0], 1.0),
        ValueError,
        "order the axes",
    ),
    "dtypes": (
        lambda: q.Box(torch.zeros(2), torch.ones(2, dtype=torch.float32)),
        TypeError,
        "convert one",
    ),
    "scale": (lambda: q.Box(0.0, INF, 2, scale=0.0), ValueError, "must be positive"),
    "loc": (lambda: q.Box(0.0, INF, 2, loc=INF), ValueError, "loc is inf"),
    "simplex": (lambda: q.Simplex(0), ValueError, "at least 1"),
    "degree": (lambda: q.GenzMalik(8), ValueError, "7 or 9"),
    "no rules": (lambda: q.Product(), ValueError, "got no rules"),
    "adaptive in a product": (
        lambda: q.Product(q.GaussKronrod()),
        TypeError,
        "rule 0 of the product",
    ),
    "level": (lambda: q.SparseGrid(-1), ValueError, "at least 0"),
    "weight": (lambda: q.SparseGrid(2, [0.5, 1]), ValueError, "at least 1"),
    "weight type": (lambda: q.SparseGrid(2, ["a", 1]), TypeError, "numbers are"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_bad_domains_and_rules_are_refused(case: tuple) -> None:
    make, error, message = case
    with pytest.raises(error, match=message):
        make()


BOX = q.Box(0.0, 1.0, dimension=2)
CALLS = {
    "rule of one dimension": (dict(rule=q.GaussLegendre(4)), "use it on every axis"),
    "adaptive rule of one dimension": (dict(rule=q.GaussKronrod()), "leave out"),
    "product of another dimension": (
        dict(rule=q.Product(*[q.GaussLegendre(3)] * 3)),
        "3 rules, the domain 2 axes",
    ),
    "grid too large": (
        dict(rule=q.Product(q.GaussLegendre(100)), max_evals=5000),
        "needs 10000 evaluations",
    ),
    "grid too large between breakpoints": (
        dict(
            rule=q.Product(q.GaussLegendre(10)),
            breakpoints=[[0.3, 0.6], [0.5]],
            max_evals=599,
        ),
        "needs 600 evaluations",
    ),
    "sparse grid of another dimension": (
        dict(rule=q.SparseGrid(2, [1, 1, 1])),
        "3 weights, the domain 2 axes",
    ),
    "rule does not fit": (dict(rule=q.Product(q.GaussHermite(4))), "lives on"),
    "tolerance of a fixed rule": (dict(rule=q.SparseGrid(2), rtol=1e-3), "no effect"),
    "generator": (dict(generator=torch.Generator()), "is not random"),
    "breakpoints": (dict(breakpoints=[0.5]), "1 entries, the domain 2 axes"),
    "breakpoint": (dict(breakpoints=[0.5, None]), r"breakpoints\[0\] is a float"),
    "breakpoint nan": (
        dict(breakpoints=[None, [0.5, math.nan]]),
        r"breakpoints\[1\]\[1\] is nan; a number",
    ),
    "breakpoint complex": (
        dict(breakpoints=[None, torch.tensor([1j])]),
        r"breakpoints\[1\] has dtype torch.complex64; a real tensor",
    ),
    "no breakpoints": (dict(breakpoints=[[], None]), "Put None"),
    "breakpoints of a sparse grid": (
        dict(breakpoints=[[0.5], None], rule=q.SparseGrid(2)),
        "breakpoints have no effect",
    ),
    "breakpoints of a measure": (
        dict(
            breakpoints=[[0.5], None],
            rule=q.Product(q.GaussJacobi(3, 0.5, 0.5)),
        ),
        "does not fit between breakpoints",
    ),
}


@pytest.mark.parametrize("log", [False, True])
def test_a_grid_without_end_is_refused_before_any_work(log: bool) -> None:
    domain, rule = q.Box(0.0, 1.0, dimension=20), q.Product(q.GaussLegendre(20))
    apply = q.log_integrate if log else q.integrate
    message = rf"needs {20**20} evaluations .* pass max_evals={20**20}\."
    with pytest.raises(ValueError, match=message):
        apply(_never, domain, rule)
    with pytest.raises(ValueError, match=message):
        NormalizedDensity(_never, domain, rule).log_prob(torch.zeros(20))


@pytest.mark.parametrize("allowed", [False, True])
def test_a_grid_without_end_can_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    monkeypatch.setattr(checks, "MOST_NODES", 99)
    rule = q.Product(q.GaussLegendre(10))
    ones = torch.ones(3)
    if allowed:
        density = NormalizedDensity(_flat, BOX, rule, max_evals=100, args=(ones,))
        assert q.integrate(_flat, BOX, rule, max_evals=100, args=(ones,)).sum() == 0
        torch.testing.assert_close(density.mean, torch.full((3, 2), 0.5))
        assert density.sample().shape == (3, 2)
        return
    with pytest.raises(ValueError, match=r"more than 99 nodes .* pass max_evals=100"):
        q.integrate(_flat, BOX, rule, args=(ones,))
    # One fewer than that.
    rule = q.Product(q.GaussLegendre(9), q.GaussLegendre(11))
    assert q.integrate(_flat, BOX, rule, args=(ones,)).sum() == 0


def _never(x: Tensor) -> Tensor:
    raise AssertionError(x.shape)


def _flat(x: Tensor, one: Tensor) -> Tensor:
    return 0 * x.sum(-1) * one


@pytest.mark.parametrize("case", CALLS.values(), ids=CALLS.keys())
def test_bad_calls_are_refused(case: tuple) -> None:
    options, message = case
    with pytest.raises((TypeError, ValueError), match=message):
        q.integrate(ones, BOX, **options)


def test_other_bad_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="negative weights"):
        q.log_integrate(ones, BOX, q.SparseGrid(2))
    rule = q.Product(q.TabulatedRule([-1.0, 0.0, 1.0], [-1.0, 4.0, -1.0]))
    with pytest.raises(ValueError, match="negative weights"):
        q.log_integrate(ones, BOX, rule)
    with pytest.raises(ValueError, match="ends of the axes, which are infinite"):
        q.integrate(ones, q.Box(0.0, INF, 2), q.SparseGrid(2))
    with pytest.raises(ValueError, match="no meaning on Simplex"):
        q.integrate(ones, q.Simplex(2), breakpoints=[[0.5], None])
    bent = q.Box([0.0, 0.0], [1.0, lambda x: x])
    with pytest.raises(ValueError, match="no meaning on"):
        q.integrate(ones, bent, breakpoints=[[0.5], None])
    with pytest.raises(TypeError, match="list with an entry for each axis"):
        q.integrate(ones, BOX, breakpoints=0.5)
    with pytest.raises(ValueError, match="no error estimate"):
        q.integrate_with_error(ones, BOX, q.SparseGrid(2))
    with pytest.raises(ValueError, match="one value for each point"):
        q.integrate(lambda x: torch.tensor(1.0), BOX)
    with pytest.raises(
        TypeError, match=r"function upper\[1\] of the box returned float"
    ):
        q.integrate(ones, q.Box([0.0, 0.0], [1.0, lambda x: 1.0]))
    with pytest.raises(ValueError, match=r"function upper\[1\] of the box got"):
        q.integrate(ones, q.Box([0.0, 0.0], [1.0, lambda x: x.sum()]))


@pytest.mark.parametrize(
    "box",
    [
        q.Box([1.0, 0.0], [0.0, 1.0]),
        q.Box(1.0, 0.0, dimension=2),  # on both axes
        q.Box([torch.tensor(1.0), 0.0], [0.0, 1.0]),
        q.Box(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 0.5])),
    ],
    ids=["numbers", "number", "list of tensors", "batch"],
)
@pytest.mark.parametrize(
    "rule", [None, q.Product(q.GaussLegendre(3)), q.Lattice(8)], ids=str
)
def test_a_log_between_reversed_limits_is_refused(
    box: q.Box, rule: q.Rule | None
) -> None:
    with pytest.raises(
        ValueError, match=r"lower <= upper on every axis, got (.|\n)*swap them"
    ):
        q.log_integrate(_never, box, rule)


@adaptive
def test_faults_are_told(rule: q.Rule | None) -> None:
    def bad(x: Tensor) -> Tensor:
        return torch.where(x[..., 0] > 0.5, torch.nan, 1.0)

    with pytest.warns(q.IntegrationWarning, match=r"not finite at x = \(0\."):
        estimate = q.integrate_with_error(bad, BOX, rule, max_evals=20_000)
    assert estimate.status == q.Status.NON_FINITE
    with pytest.warns(q.IntegrationWarning, match="tolerance not reached"):
        estimate = q.integrate_with_error(
            lambda x: (x.sum(-1) > 0.7).double(), BOX, rule, max_evals=3_000
        )
    assert estimate.status == q.Status.TOLERANCE_NOT_REACHED
    assert (estimate.value - (1 - 0.245)).abs() <= estimate.error


@adaptive
def test_where_nothing_is_finite_nobody_looks_closer(rule: q.Rule | None) -> None:
    scale = torch.tensor([1.0, math.nan])
    with pytest.warns(q.IntegrationWarning, match="1 of 2 .* 1 non finite"):
        found = q.integrate_with_error(
            lambda x, a: a * torch.exp(x.sum(-1)), BOX, rule, args=(scale,)
        )
    assert found.status.tolist() == [0, q.Status.NON_FINITE]
    assert found.value[0].item() == pytest.approx((math.e - 1) ** 2, rel=1e-7)
    assert found.n_evals[1] <= 3_000


NANS = {
    "lower": (torch.tensor([[0.0, 0.0], [math.nan, 0.0]]), torch.ones(2, 2)),
    "upper": (torch.zeros(2, 2), torch.tensor([[1.0, 1.0], [1.0, math.nan]])),
    "infinite": (
        torch.tensor([[0.0, 0.0], [0.0, math.nan]]),
        torch.tensor([[1.0, INF], [1.0, INF]]),
    ),
}


@pytest.mark.parametrize("rule", [*ADAPTIVE.values(), q.Lattice(256), q.Vegas()])
@pytest.mark.parametrize("limits", NANS.values(), ids=NANS)
def test_of_a_batch_the_box_with_a_nan_is_not_finite(
    rule: q.Rule | None, limits: tuple[Tensor, Tensor]
) -> None:
    def decaying(x: Tensor) -> Tensor:
        return torch.exp(-x.sum(-1))

    with pytest.warns(q.IntegrationWarning, match="1 of 2 .* 1 non finite"):
        found = q.integrate_with_error(decaying, q.Box(*limits), rule, rtol=1e-2)
    assert found.status.tolist() == [0, q.Status.NON_FINITE]
    assert found.value.isnan().tolist() == [False, True]
    height = 1 if limits[1].isinf().any() else 1 - 1 / math.e
    exact = (1 - 1 / math.e) * height
    assert found.value[0].item() == pytest.approx(exact, rel=1e-2)
    if rule is None or isinstance(rule, q.GenzMalik):
        with pytest.raises(ValueError, match="^a limit is nan; a number"):
            q.integrate(decaying, q.Box(*(x[1] for x in limits)), rule)


@adaptive
def test_a_zero_integrand_is_zero(rule: q.Rule | None) -> None:
    estimate = q.integrate_with_error(lambda x: 0 * x[..., 0], BOX, rule)
    assert estimate.value == estimate.error == 0
    assert estimate.status == q.Status.CONVERGED


@adaptive
def test_a_support_that_the_first_nodes_miss_is_found(rule: q.Rule | None) -> None:
    def f(x: Tensor) -> Tensor:
        inside = ((x - 0.83).abs() < 0.08).all(-1)
        return torch.where(inside, torch.exp(x.sum(-1)), 0)

    value = q.integrate(f, BOX, rule, rtol=1e-3)
    exact = (math.exp(0.91) - math.exp(0.75)) ** 2
    assert float(value) == pytest.approx(exact, rel=1e-3)


# As many breakpoints as integrals, and not as many.
@pytest.mark.parametrize("places", [[0.3, 0.5], [0.3, 0.5, 0.7]], ids=len)
@pytest.mark.parametrize(
    "rule", [None, q.GenzMalik(), q.Product(q.GaussLegendre(4))], ids=repr
)
def test_shared_breakpoints_do_not_pair_up_with_the_batch(
    rule: q.Rule | None, places: list[float]
) -> None:
    upper = torch.tensor([[1.0, 1.0], [2.0, 1.0], [0.5, 1.0]])

    def steps(x: Tensor) -> Tensor:
        return (x[..., 0] > 0.3).to(x.dtype) + (x[..., 0] > 0.5)

    value = q.integrate(steps, q.Box(0.0, upper), rule, breakpoints=[places, None])
    exact = (upper[:, 0] - 0.3).clamp(min=0) + (upper[:, 0] - 0.5).clamp(min=0)
    torch.testing.assert_close(value, exact, rtol=1e-12, atol=1e-12)


def test_shared_breakpoints_with_infinite_limits_in_the_batch() -> None:
    inf = math.inf
    upper = torch.tensor([[1.0, inf], [inf, 1.0]])
    rule = q.Product(q.GaussLegendre(40))
    value = q.integrate(
        lambda x: torch.exp(-x.sum(-1)) * (x[..., 0] > 0.5),
        q.Box(0.0, upper),
        rule,
        breakpoints=[[0.5], None],
    )
    half, one = math.exp(-0.5), math.exp(-1.0)
    exact = torch.tensor([half - one, half * (1 - one)])
    torch.testing.assert_close(value, exact, rtol=1e-9, atol=0)


def _reshaped(x: Tensor, rate: Tensor) -> Tensor:
    flat = x.reshape(-1).reshape(-1, x.shape[-1])
    return torch.exp(-rate * flat.square().sum(-1).reshape(x.shape[:-1]))


def _written(x: Tensor, rate: Tensor) -> Tensor:
    y = x.clone()
    y *= y
    return torch.exp(-rate * y.sum(-1))


# Of kinks and peaks too, for which there are more paths.
RATES = {"one": 1.0, "peak": 300.0, "batch": [1.0, 300.0, 2.0]}


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES)
@pytest.mark.parametrize("f", [_reshaped, _written])
@pytest.mark.parametrize(
    "rule",
    [*ADAPTIVE.values(), *FIXED.values(), q.Lattice(64), q.MonteCarlo(99), q.Vegas(50)],
    ids=str,
)
def test_points_may_be_reshaped_and_copied_on_every_path(
    rule: q.Rule | None, f: Callable[..., Tensor], rate: object
) -> None:
    box, rate = q.Box(0.0, 1.0, dimension=2), torch.tensor(rate)
    plain = lambda x, rate: torch.exp(-rate * x.square().sum(-1))  # noqa: E731
    for limits in (box, q.Box([0.0, 0.0], [1.0, lambda x: x])):
        found, wanted = (q.integrate(g, limits, rule, args=(rate,)) for g in (f, plain))
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=0)
    if not rate.ndim:
        one = q.integrate(lambda x: f(x, rate), box, rule)
        torch.testing.assert_close(one, q.integrate(plain, box, rule, args=(rate,)))


def test_the_same_call_gives_the_same_bits() -> None:
    first, second = (
        q.integrate(lambda x: peaks(x, 30.0), q.Box(0.0, 1.0, 3)) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_nothing_of_the_callers_is_touched() -> None:
    lower, upper = torch.zeros(2), torch.ones(2)
    kept: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        kept.append(x.clone())
        return x.sum(-1)

    state = torch.get_rng_state()
    q.integrate(f, q.Box(lower, upper))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(lower, torch.zeros(2))
    assert torch.equal(upper, torch.ones(2))


def test_the_faces_of_a_simplex_keep_their_digits() -> None:
    chart = q.Simplex(2).chart(bind_alone(torch.sin, 3))
    near = 1e-9
    u = torch.tensor([[near, 0.5], [1 - near, 0.5]], dtype=torch.float64)
    points, density = chart(u, log=False)
    edge = math.sin(math.pi / 2 * near) ** 2
    # The distance of 1 - near from 1, as it is rounded.
    last = math.sin(math.pi / 2 * (1 - u[1, 0].item())) ** 2
    wanted = torch.tensor([[edge, 0.5, 0.5], [1.0, last / 2, last / 2]])
    torch.testing.assert_close(points, wanted, rtol=1e-14, atol=0)
    # Of the first angle pi sin cos, of the second pi / 2 times what is left.
    slopes = math.pi**2 / 2 * torch.tensor([edge**0.5, last**1.5])
    torch.testing.assert_close(density, slopes, rtol=1e-14, atol=0)


def test_an_audit_of_nothing_agrees() -> None:
    plan = q.adapt(
        lambda x: torch.full_like(x, -torch.inf),
        q.Interval(0.0, 1.0),
        log=True,
        audit=True,
        on_failure="raise",
    )
    assert plan.status == q.Status.CONVERGED


def test_an_audit_never_makes_a_status_better() -> None:
    def nowhere(x: Tensor) -> Tensor:
        return torch.where((x - 0.5).abs() < 0.1, torch.nan, x)

    domain = q.Interval(0.0, 1.0)
    plan = q.adapt(nowhere, domain, audit=True, on_failure="ignore")
    assert plan.status == q.Status.NON_FINITE


def test_an_audit_keeps_to_its_memory() -> None:
    calls: list[int] = []

    def bell(x: Tensor) -> Tensor:
        calls.append(x.numel())
        return torch.exp(-x * x)

    q.adapt(bell, q.Interval(0.0, 1.0), audit=True, memory=2**16)
    assert sum(calls) > 131_072
    assert max(calls) * 8 <= 2**16 / 8


@pytest.mark.parametrize("domain", [q.Interval(0.0, 1.0), q.Box(0.0, 1.0, 2)], ids=str)
def test_a_generator_seeds_the_lattice_of_an_audit(domain: q.Domain) -> None:
    def points(generator: torch.Generator | None) -> Tensor:
        seen: list[Tensor] = []

        def bell(x: Tensor) -> Tensor:
            seen.append(x.detach().flatten())
            return torch.exp(-x * x) if x.ndim == 1 else torch.exp(-x.square().sum(-1))

        q.adapt(bell, domain, audit=True, generator=generator)
        return torch.cat(seen).sort().values

    seven, again, eight = (torch.Generator().manual_seed(s) for s in (7, 7, 8))
    first = points(seven)
    assert torch.equal(first, points(again))
    assert not torch.equal(first, points(eight))
    assert not torch.equal(first, points(seven))  # the state has moved on
    assert torch.equal(points(None), points(None))
    with pytest.raises(ValueError, match="generator has no effect"):
        q.adapt(lambda x: x, q.Interval(0.0, 1.0), generator=seven)
