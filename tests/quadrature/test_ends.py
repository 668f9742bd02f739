"""Singularities at ends where rounding blurs the distance, and what lies beyond."""

import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature.pieces import make_pieces
from torch_mlcalc.quadrature.single import rows, runs, sampling, settled, tails


class Case(NamedTuple):
    """A function of the distance d from the end of the unit interval, its integral."""

    name: str
    f: Callable[[Tensor], Tensor]
    exact: float
    #: What is reached in single precision, in units of the integral; in double, where
    #: less lies beyond the outermost node, a hundredth of a thousandth of it.
    single: float


CASES = [
    Case("d^-0.5", lambda d: d**-0.5, 2.0, 1e-6),
    Case("d^-0.8", lambda d: d**-0.8, 5.0, 2e-6),
    Case("d^-0.5 log d", lambda d: d**-0.5 * d.log(), -4.0, 3e-6),
    Case("d^-0.5 (log d)^2", lambda d: d**-0.5 * d.log() ** 2, 16.0, 3e-5),
    Case("d^-0.5 + 5 d^-0.45", lambda d: d**-0.5 + 5 * d**-0.45, 2 + 5 / 0.55, 1e-6),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
rules = pytest.mark.parametrize(
    "rule", [None, q.DoubleExponential()], ids=["default", "double_exponential"]
)


def solve(case: Case, rule: q.Rule | None, end: Tensor) -> q.Estimate:
    return q.integrate_with_error(
        lambda x: case.f(end.detach() - x),
        q.Interval(end.detach() - 1, end),
        rule,
        on_failure="ignore",
    )


@rules
@dtypes
@cases
def test_what_lies_beyond_is_found(
    case: Case, dtype: torch.dtype, rule: q.Rule | None
) -> None:
    allowed = case.single * (1 if dtype == torch.float32 else 1e-3)
    # Alone, where the search is in plain numbers, and in a batch.
    for end in (torch.tensor(1.0), torch.tensor([1.0, 2.0])):
        found = solve(case, rule, end.to(dtype))
        off = (found.value.double() - case.exact).abs() / abs(case.exact)
        # At 2 twice as much is lost to rounding.
        assert (off <= 2 * allowed).all()
        assert (found.error >= (found.value - case.exact).abs() - 4e-6).all()
        assert (off[found.status == q.Status.CONVERGED] < 1e-4).all()


@dtypes
def test_a_plan_has_the_same_weights(dtype: torch.dtype) -> None:
    case, end = CASES[0], torch.tensor(1.0, dtype=dtype)
    plan = solve(case, None, end).plan
    scale = torch.tensor(3.0, dtype=dtype, requires_grad=True)
    value = q.integrate(
        lambda x: scale * case.f(end - x), q.Interval(end - 1, end), plan
    )
    assert value.item() == pytest.approx(6, rel=1e-6 if dtype == torch.float32 else 0)
    (slope,) = torch.autograd.grad(value, scale)
    assert slope.item() == pytest.approx(2, rel=1e-6)


def test_where_the_model_fails_the_doubt_says_so() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", q.IntegrationWarning)
        found = q.integrate_with_error(
            lambda x: (1 - x) ** -0.5 * (2 + (1 - x).log().cos()),
            q.Interval(torch.tensor(0.0, dtype=torch.float64), 1.0),
        )
    # The integral of d^-1/2 cos(log d) is 2/5.
    off = abs(found.value.item() - 4.4)
    assert found.status == q.Status.TOLERANCE_NOT_REACHED or off < 1e-8


@dtypes
def test_half_lines_that_do_not_begin_at_zero(dtype: torch.dtype) -> None:
    start = torch.tensor(1.0, dtype=dtype)
    # sqrt(pi) by the gamma function.
    found = q.integrate(lambda x: (x - 1) ** -0.5 * torch.exp(1 - x), q.HalfLine(start))
    assert found.item() == pytest.approx(
        1.7724538509055159, rel=1e-6 if dtype == torch.float32 else 1e-11
    )


#: Each differs from another one in little: the place, the length, the side, the window.
ALONE: list[tuple[Callable[[Tensor], Tensor], float, float]] = [
    (lambda x: torch.exp(-x), 5.0, math.inf),
    (lambda x: torch.exp(-x), 6.0, math.inf),
    (lambda x: torch.exp(x), -math.inf, 6.0),
    (lambda x: (1 + x * x) ** -0.55, 0.0, math.inf),
    (lambda x: (1 + x * x) ** -0.55, -math.inf, math.inf),
    (lambda x: (1 - x) ** -0.5, 0.0, 1.0),
    (lambda x: (1 - x) ** -0.5, 1.0, 0.0),
    (lambda x: (2 - x) ** -0.5, 0.0, 2.0),
    (lambda x: (2 - x) ** -0.5, 1.0, 2.0),
    (lambda x: (x - 1) ** -0.5, 1.0, 2.0),
    (lambda x: ((x - 1) * (2 - x)) ** -0.5, 1.0, 2.0),
    (lambda x: (2 - x) ** -0.5 + 1 / ((x - 1.1) ** 2 + 1e-4), 1.0, 2.0),
    (lambda x: (2 - x) ** -0.5 + 1 / ((x - 1.8) ** 2 + 1e-4), 1.0, 2.0),
]


def test_what_is_remembered_of_one_piece_is_not_taken_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def values() -> list[float]:
        return [
            q.integrate(f, q.Interval(*limits), on_failure="ignore").item()
            for f, *ends in ALONE
            for limits in (torch.tensor(ends), torch.tensor(ends, dtype=torch.float64))
        ]

    found = values()
    assert values() == found
    for part in (rows, runs, sampling, settled, tails):
        for name, memory in list(vars(part).items()):
            if hasattr(memory, "cache_info"):
                assert memory.cache_info().hits
                monkeypatch.setattr(part, name, memory.__wrapped__)
    assert values() == found


@pytest.mark.parametrize("power", [0.3, 0.5, 0.9])
def test_the_derivative_by_a_power_is_right_as_well(power: float) -> None:
    # d/da of the log of the integral of d^(a - 1), 1 / a, is -1 / a.
    a = torch.tensor(power, dtype=torch.float64, requires_grad=True)
    unit = q.Interval(torch.tensor(0.0, dtype=torch.float64), 1.0)
    for log_z in (
        q.log_integrate(lambda x: (a - 1) * torch.log1p(-x), unit),
        q.integrate(lambda x: (1 - x) ** (a - 1), unit).log(),
    ):
        (slope,) = torch.autograd.grad(log_z, a)
        assert slope.item() == pytest.approx(-1 / power, rel=2e-9)


def test_weights_stay_positive_where_nearly_all_lies_beyond() -> None:
    unit = q.Interval(torch.tensor(0.0, dtype=torch.float64), 1.0)
    plan = q.adapt(
        lambda x: -0.9 * torch.log1p(-x), unit, log=True, on_failure="ignore"
    )
    assert all((cells.weights >= 0).all() for cells in plan.cells)
    log_z = q.log_integrate(lambda x: -0.9 * torch.log1p(-x), unit, plan)
    assert log_z.exp().item() == pytest.approx(10, rel=1e-8)


@pytest.mark.parametrize("log", [True, False], ids=["log", "plain"])
@pytest.mark.parametrize("at", [0.0, 1.0])
def test_a_kink_too_small_for_two_levels_is_seen_in_the_spectrum(
    at: float, log: bool
) -> None:
    # The changes, 1e-2, 3e-4 and 3e-8, look quadratic; the last is all from the kink.
    line = q.RealLine(torch.tensor(0.0, dtype=torch.float64))

    def f(x: Tensor) -> Tensor:
        return -(x - at).abs() / 100

    if log:
        found = q.log_integrate_with_error(f, line).value.exp()
    else:
        found = q.integrate(lambda x: f(x).exp(), line)
    assert found.item() == pytest.approx(200, rel=1e-9)


every_rule = pytest.mark.parametrize(
    "rule",
    [None, q.GaussKronrod(), q.DoubleExponential()],
    ids=["default", "gauss_kronrod", "double_exponential"],
)
shapes = pytest.mark.parametrize("shape", [(), (2,)], ids=["single", "batch"])


@every_rule
@dtypes
@shapes
@pytest.mark.parametrize("power", [-0.9, -1.0, -1.1, -2.0])
def test_what_rounding_hides_of_a_pole_is_not_claimed(
    power: float, shape: tuple[int, ...], dtype: torch.dtype, rule: q.Rule | None
) -> None:
    start = torch.full(shape, 1000.0, dtype=dtype)
    found = q.integrate_with_error(
        lambda x: (x - start) ** power,
        q.Interval(start, 1001.0),
        rule,
        on_failure="ignore",
    )
    assert (found.status != q.Status.CONVERGED).all()
    assert (found.error >= 0).all()


def test_an_error_is_a_number() -> None:
    found = q.integrate_with_error(
        lambda x: 1 / x,
        q.Interval(0, torch.ones((), dtype=torch.float64)),
        q.GaussKronrod(),
        on_failure="ignore",
    )
    assert found.error == torch.inf


#: Units in the last place that an interval is long.
LENGTHS = [1, 2, 3, 10, 100, 300]


@pytest.mark.parametrize(
    "rule", [None, q.GaussKronrod(), q.DoubleExponential()], ids=str
)
@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
@dtypes
@shapes
def test_short_intervals_are_as_right_as_long_ones(
    shape: tuple[int, ...], dtype: torch.dtype, log: bool, rule: q.Rule | None
) -> None:
    function = q.log_integrate_with_error if log else q.integrate_with_error
    slope = torch.tensor(3.0, dtype=dtype)
    for length in LENGTHS:
        lower = torch.ones(shape, dtype=dtype, requires_grad=True)
        upper = 1 + length * torch.finfo(dtype).eps * torch.ones(shape, dtype=dtype)
        upper.requires_grad_()
        seen: list[Tensor] = []

        def line(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x.detach())
            return (slope * x).log() if log else slope * x

        found = function(line, q.Interval(lower, upper), rule)
        exact = slope * (upper - lower) * (upper + lower) / 2
        exact = exact.log() if log else exact
        torch.testing.assert_close(found.value, exact, rtol=1e-6, atol=1e-6 * log)
        assert (found.status == q.Status.CONVERGED).all()
        assert (found.n_evals == 21).all()
        points = torch.cat([x.flatten() for x in seen])
        assert length == 1 or ((points > 1) & (points < upper.max())).all()
        slopes, wanted = (
            torch.autograd.grad(v.sum(), (lower, upper), retain_graph=True)
            for v in (found.value, exact)
        )
        torch.testing.assert_close(slopes, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("given", ["numbers", "tensors", "batch"])
@pytest.mark.parametrize(
    "rule",
    [None, q.GaussKronrod(), q.DoubleExponential(), q.GaussLegendre(5), q.Lattice(8)],
    ids=str,
)
def test_the_log_of_nothing_at_a_singularity_is_minus_infinity(
    rule: q.Rule | None, given: str
) -> None:
    upper = {"numbers": 0.0, "tensors": torch.tensor(0.0)}
    upper = upper.get(given, torch.tensor([0.0, 1.0]))
    value = q.log_integrate(lambda x: -x.log() / 2, q.Interval(0.0, upper), rule)
    assert value.flatten()[0] == -torch.inf
    assert given != "batch" or value[1].item() == pytest.approx(math.log(2), abs=0.1)
    rule = q.Product(rule) if isinstance(rule, q.GaussLegendre) else q.Lattice(8)
    upper = [upper, 1.0]
    value = q.log_integrate(lambda x: -x[..., 0].log() / 2, q.Box(0.0, upper), rule)
    assert value.flatten()[0] == -torch.inf


@pytest.mark.parametrize(("begin", "end"), [(-0.3, 0.0), (0.0, 0.3)])
def test_nodes_keep_their_distance_from_either_end(begin: float, end: float) -> None:
    nodes = np.linspace(-0.9, 0.9, 5)
    # A fraction of the piece has no more digits next to its upper end.
    half = 2.0 ** -np.arange(2, 42 if end == 0 else 62)
    low = 1 - 2 * half if end == 0 else 0 * half
    pieces = make_pieces(np.array([[begin], [end]]), np.zeros(1), np.ones(1))
    points = pieces.within(np.zeros(len(low), int), low, half, nodes)
    length = Fraction(end) - Fraction(begin)
    exact = [
        [
            float(
                Fraction(begin)
                + length * (Fraction(a) + Fraction(h) * (1 + Fraction(x)))
            )
            for a, h in zip(low, half, strict=True)
        ]
        for x in nodes
    ]
    np.testing.assert_allclose(points, exact, rtol=1e-14, atol=0)


@dtypes
@shapes
def test_double_exponential_nodes_are_used_where_there_is_room_for_them(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    eps, fewest = torch.finfo(dtype).eps, 2**20 if dtype == torch.float64 else 2**12
    for numbers, bisected in ((fewest // 4, True), (4 * fewest, False)):
        lower = torch.ones(shape, dtype=dtype)
        upper = (lower + numbers * eps).requires_grad_()
        found = q.integrate_with_error(
            torch.exp, q.Interval(lower, upper), q.DoubleExponential()
        )
        exact = lower.exp() * (upper - lower).expm1()
        torch.testing.assert_close(found.value, exact, rtol=16 * eps**0.75, atol=0)
        (slope,) = torch.autograd.grad(found.value.sum(), upper)
        torch.testing.assert_close(slope, upper.exp(), rtol=16 * eps**0.5, atol=0)
        assert bool((found.n_evals % 21 == 0).all()) == bisected


def test_between_breakpoints_that_rounding_set_apart_nothing_is_evaluated() -> None:
    place = torch.tensor(0.1 + 0.2, dtype=torch.float64)
    cuts = torch.stack([place.nextafter(torch.zeros(())), place])
    gain = torch.tensor(1.0, requires_grad=True)
    value = q.integrate(
        lambda x: gain * (x - place).abs().rsqrt(),
        q.Interval(0, torch.tensor(1.0, dtype=torch.float64)),
        breakpoints=cuts,
    )
    exact = 2 * (place.sqrt() + (1 - place).sqrt())
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)
