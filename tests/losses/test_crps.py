"""Closed forms of the CRPS, against mpmath, the integral, and scoringrules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import crps_truth as truth
import mpmath as mp
import numpy as np
import pytest
import scoringrules
import torch
from scipy import stats
from torch import Tensor

import torch_mlcalc as mlc

INF = math.inf
DOUBLE = torch.float64

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Case(NamedTuple):
    """A closed form, its formula in mpmath, and points: parameters, then a target."""

    function: Callable[..., Tensor]
    formula: truth.Formula
    points: Sequence[tuple[float, ...]]
    # Distribution function of the first point, and where it is not smooth.
    cdf: truth.Formula
    peer: Callable[..., object]
    edges: tuple[float, ...] = ()
    counts: bool = False


def censored(
    m: truth.Number, s: truth.Number, a: truth.Number, b: truth.Number, y: truth.Number
) -> truth.Number:
    def squared(z: truth.Number) -> truth.Number:
        if z == -mp.inf:
            return mp.mpf(0)
        spread = mp.ncdf(mp.sqrt(2) * z) / mp.sqrt(mp.pi)
        return z * mp.ncdf(z) ** 2 + 2 * mp.npdf(z) * mp.ncdf(z) - spread

    c = max(a, min(y, b))
    at, low, high = (c - m) / s, (a - m) / s, (b - m) / s
    return abs(y - c) + s * (squared(at) - squared(low) + squared(-at) - squared(-high))


def censored_cdf(x: truth.Number) -> truth.Number:
    return mp.mpf(0) if x < 0 else mp.ncdf(x - 0.5) if x < 2 else mp.mpf(1)


def truncated_cdf(x: truth.Number) -> truth.Number:
    start, stop = mp.ncdf(-0.5), mp.ncdf(1.5)
    return max(mp.mpf(0), min((mp.ncdf(x - 0.5) - start) / (stop - start), mp.mpf(1)))


def places(*targets: float) -> list[tuple[float, ...]]:
    return [
        (loc, scale, loc + scale * t)
        for loc, scale in ((0.5, 1.0), (-3.0, 2e-3), (7.0, 1e4))
        for t in targets
    ]


CASES = {
    "normal": Case(
        mlc.crps_normal,
        truth.normal,
        places(0.3, 0.0, -7.5, 35.0),
        lambda x: mp.ncdf(x - 0.5),
        lambda m, s, y: scoringrules.crps_normal(y, m, s),
    ),
    "logistic": Case(
        mlc.crps_logistic,
        truth.logistic,
        places(0.3, 1e-5, -7.5, 60.0, 800.0),
        lambda x: 1 / (1 + mp.exp(0.5 - x)),
        lambda m, s, y: scoringrules.crps_logistic(y, m, s),
    ),
    "laplace": Case(
        mlc.crps_laplace,
        truth.laplace,
        places(0.3, -7.5, 60.0, 800.0),
        lambda x: mp.exp(x - 0.5) / 2 if x < 0.5 else 1 - mp.exp(0.5 - x) / 2,
        lambda m, s, y: scoringrules.crps_laplace(y, m, s),
        (0.5,),
    ),
    "student_t": Case(
        mlc.crps_student_t,
        truth.student_t,
        [(2.5, 0.5, 1.0, 1.5)]
        + [
            (df, 0.5, 2.0, 0.5 + 2.0 * t)
            for df in (0.6, 1.0, 1.05, 1.3, 1e3)
            for t in (0.3, -9.0)
        ],
        lambda x: truth.student_cdf(mp.mpf(2.5), x - 0.5),
        lambda df, m, s, y: scoringrules.crps_t(y, df, m, s),
    ),
    "censored_normal": Case(
        mlc.crps_censored_normal,
        censored,
        [
            (0.5, 1.0, 0.0, 2.0, 0.75),
            (0.5, 1.0, 0.0, 2.0, -3.0),
            (0.5, 1.0, 0.0, 2.0, 3.0),
            (-4.0, 1.0, 0.0, 2.0, 0.5),
            (-5.0, 1.0, 0.0, 2.0, 0.0),
            (5.0, 2.0, 0.0, INF, 4.0),
            (5.0, 2.0, -INF, 6.0, 4.0),
            (5.0, 2.0, -INF, INF, 4.0),
        ],
        censored_cdf,
        lambda m, s, a, b, y: scoringrules.crps_cnormal(y, m, s, a, b),
        (0.0, 2.0),
    ),
    "truncated_normal": Case(
        mlc.crps_truncated_normal,
        truth.truncated_normal,
        [
            (0.5, 1.0, 0.0, 2.0, 0.75),
            (0.5, 1.0, 0.0, 2.0, -3.0),
            (0.5, 1.0, 0.0, 2.0, 3.0),
            (-4.0, 1.0, 0.0, 2.0, 0.5),
            (5.0, 2.0, 0.0, INF, 4.0),
            (5.0, 2.0, -INF, 6.0, 4.0),
            (5.0, 2.0, -INF, INF, 4.0),
            (5.0, 2.0, -INF, INF, 90.0),
        ],
        truncated_cdf,
        lambda m, s, a, b, y: scoringrules.crps_gtcnormal(y, m, s, a, b),
        (0.0, 2.0),
    ),
    "log_normal": Case(
        mlc.crps_log_normal,
        truth.log_normal,
        [
            (0.5, 1.0, 2.5),
            (0.0, 1e-3, 1.001),
            (1.0, 0.5, 200.0),
            (0.0, 3.0, 1e-6),
            (-1.0, 1.0, -0.5),
        ],
        lambda x: mp.ncdf(mp.log(x) - 0.5) if x > 0 else mp.mpf(0),
        lambda m, s, y: scoringrules.crps_lognormal(y, m, s),
        (0.0,),
    ),
    "gamma": Case(
        mlc.crps_gamma,
        truth.gamma,
        [(2.5, 1.5, 2.0)]
        + [
            (a, rate, x * a / rate)
            for a in (1e-3, 0.3, 4.0, 1e3)
            for rate, x in ((0.5, 1e-3), (3.0, 0.9), (2.0, 5.0))
        ]
        + [(1.0, 0.5, -1.0), (1e4, 2.0, 4.95e3)],
        lambda x: truth.lower_gamma(mp.mpf(2.5), 1.5 * x),
        lambda a, rate, y: scoringrules.crps_gamma(y, a, rate),
        (0.0,),
    ),
    "exponential": Case(
        mlc.crps_exponential,
        truth.exponential,
        [(1.5, 2.0), (2.0, 0.01), (1e-3, 5e4), (2.0, -1.0)],
        lambda x: -mp.expm1(-1.5 * x) if x > 0 else mp.mpf(0),
        lambda rate, y: scoringrules.crps_exponential(y, rate),
        (0.0,),
    ),
    "beta": Case(
        mlc.crps_beta,
        truth.beta,
        [(2.5, 1.5, 0.75)]
        + [
            (a, b, y)
            for a, b in ((0.01, 0.1), (0.5, 40.0), (3.0, 0.2), (300.0, 200.0))
            for y in (1e-3, 0.61, -0.5, 1.5)
        ],
        lambda x: truth.lower_beta(mp.mpf(2.5), mp.mpf(1.5), x),
        lambda a, b, y: scoringrules.crps_beta(y, a, b),
        (0.0, 1.0),
    ),
    "uniform": Case(
        mlc.crps_uniform,
        truth.uniform,
        [(0.5, 2.0, 1.75), (0.0, 1e-3, 5e-4), (-3.0, 1e4, -7.0), (1.0, 2.0, 4.0)],
        lambda x: max(mp.mpf(0), min((x - 0.5) / 1.5, mp.mpf(1))),
        lambda low, high, y: scoringrules.crps_uniform(y, low, high),
        (0.5, 2.0),
    ),
    "poisson": Case(
        mlc.crps_poisson,
        truth.poisson,
        [(2.5, 3.0)]
        + [(rate, y) for rate in (1e-6, 0.24, 0.26) for y in (0.0, 0.7)]
        + [(rate, y) for rate in (1e-3, 19.9, 20.1, 400.0) for y in (0.0, 21.5, -1.5)],
        lambda x: (
            1 - truth.lower_gamma(mp.floor(x) + 1, mp.mpf(2.5)) if x >= 0 else mp.mpf(0)
        ),
        lambda rate, y: scoringrules.crps_poisson(y, rate),
        counts=True,
    ),
    "negative_binomial": Case(
        mlc.crps_negative_binomial,
        truth.negative_binomial,
        [(2.5, 0.5, 3.0)]
        + [(r, p, y) for r, p in ((0.01, 1e-4), (1.0, 1e-6)) for y in (0.0, 0.7)]
        + [(30.0, 1e-5, 0.0), (30.0, 0.99, 0.0)]
        + [
            (r, p, y)
            for r in (0.01, 3.0)
            for p in (1e-3, 0.9)
            for y in (0.0, 20.5, -1.5)
        ],
        lambda x: (
            truth.lower_beta(mp.mpf(2.5), mp.floor(x) + 1, mp.mpf(0.5))
            if x >= 0
            else mp.mpf(0)
        ),
        lambda r, p, y: scoringrules.crps_negbinom(y, r, 1 - p),
        counts=True,
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def columns(case: Case, dtype: torch.dtype = DOUBLE) -> list[Tensor]:
    return [torch.tensor(c, dtype=dtype) for c in zip(*case.points, strict=True)]


def exact(case: Case, rows: Sequence[Sequence[float]]) -> Tensor:
    with mp.workdps(30):
        values = [float(case.formula(*map(mp.mpf, row))) for row in rows]
    return torch.tensor(values, dtype=DOUBLE)


def slope(case: Case, row: tuple[float, ...], i: int) -> float:
    """Derivative of the formula by its i-th argument, by a central difference."""
    with mp.workdps(40):
        point = list(map(mp.mpf, row))
        step = (abs(point[i]) or mp.mpf(1)) * mp.mpf(10) ** -11
        ends = [
            case.formula(*point[:i], point[i] + s, *point[i + 1 :])
            for s in (step, -step)
        ]
        return float((ends[0] - ends[1]) / (2 * step))


@cases
def test_formula_is_the_integral_that_defines_the_score(case: Case) -> None:
    *_, y = map(mp.mpf, case.points[0])
    with mp.workdps(15):
        edges = map(mp.mpf, case.edges)
        found = (
            truth.steps(case.cdf, y)
            if case.counts
            else truth.integral(case.cdf, y, *edges)
        )
        assert float(found) == pytest.approx(
            float(case.formula(*map(mp.mpf, case.points[0]))), rel=1e-9
        )


@cases
def test_values_are_exact(case: Case) -> None:
    found = case.function(*columns(case), "none")
    torch.testing.assert_close(found, exact(case, case.points), rtol=1e-12, atol=1e-20)


@cases
def test_derivatives_are_exact(case: Case) -> None:
    arguments = [c.requires_grad_() for c in columns(case)]
    smooth = arguments[:-1] if case.counts else arguments
    score = case.function(*arguments, "none")
    for i, slopes in enumerate(torch.autograd.grad(score.sum(), smooth)):
        for row, found in zip(case.points, slopes.tolist(), strict=True):
            if math.isfinite(row[i]) and row[i]:
                # What moves the score by less than its rounding error is not seen.
                error = 1e-15 * float(case.formula(*map(mp.mpf, row))) / abs(row[i])
                assert found == pytest.approx(slope(case, row, i), 1e-11, error), row


@cases
def test_single_precision_is_that_of_its_arguments(case: Case) -> None:
    narrow = columns(case, torch.float32)
    rows = list(zip(*(c.tolist() for c in narrow), strict=True))
    found = case.function(*narrow, "none")
    assert found.dtype == torch.float32
    wide = case.function(*(c.double() for c in narrow), "none")
    # Differences to the target are rounded in units of the target.
    size = torch.tensor([max(abs(v) for v in row if abs(v) < INF) for row in rows])
    error = (found - wide).abs()
    assert (error <= 3e-6 * wide + 1e-6 * size).all()


@cases
def test_scores_agree_with_scoringrules(case: Case) -> None:
    points = columns(case)
    with np.errstate(all="ignore"):
        theirs = torch.as_tensor(np.asarray(case.peer(*(p.numpy() for p in points))))
    ours = case.function(*points, "none")
    # Theirs is NaN for a beta with a, b < 1 or y = 0, or a Poisson with a rate of 400.
    agree = ((ours - theirs).abs() <= 1e-9 * ours) | ~theirs.isfinite()
    if case.function is mlc.crps_student_t:
        # Theirs loses its digits near df = 1, where it is 0 / 0.
        agree |= (points[0] - 1).abs() < 0.1
    if case.function is mlc.crps_truncated_normal:
        # Theirs is off by 5e-8 where both limits are four deviations above the mean.
        agree |= points[0] == -4
    if case.function is mlc.crps_censored_normal:
        # Theirs is off by 7 % at a limit five deviations above the mean.
        agree |= points[0] == -5
    assert agree.all(), (points, ours, theirs)
    assert theirs.isfinite().any()


@cases
def test_gradients_in_every_mode(case: Case) -> None:
    rows = case.points[:1]
    arguments = [torch.tensor(c, dtype=DOUBLE) for c in zip(*rows, strict=True)]
    smooth = arguments[:-1] if case.counts else arguments
    for i, argument in enumerate(smooth):
        argument += torch.tensor([0.01 * (i + 1)])
        argument.requires_grad_()
    mlc.testing.check_gradients(
        lambda *a: case.function(*a, "sum"),
        tuple(arguments),
        # Seconds each; below.
        compile=False,
    )


def test_compiled_as_one_graph() -> None:
    case = CASES["gamma"]
    arguments = [c.requires_grad_() for c in columns(case)]
    compiled = torch.compile(case.function, fullgraph=True, backend="eager")
    found, expected = compiled(*arguments), case.function(*arguments)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, arguments),
        torch.autograd.grad(expected, arguments),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@cases
def test_reductions_and_weights(case: Case) -> None:
    points = columns(case)
    elements = case.function(*points, "none")
    weight = torch.rand(len(elements), dtype=DOUBLE)
    for w in (None, weight):
        weighted = elements if w is None else elements * w
        total = len(elements) if w is None else w.sum()
        expected = {
            "none": weighted,
            "sum": weighted.sum(),
            "mean": weighted.sum() / total,
        }
        for reduction, value in expected.items():
            torch.testing.assert_close(case.function(*points, reduction, w), value)
    with pytest.raises(ValueError, match="reduction must be"):
        case.function(*points, "average")


@cases
def test_unequal_shapes_are_refused(case: Case) -> None:
    *parameters, target = columns(case)
    with pytest.raises(ValueError, match="losses do not broadcast"):
        case.function(*parameters, target[:1])


@cases
def test_infinite_and_missing_targets(case: Case) -> None:
    *parameters, _ = (c[:1] for c in columns(case))
    parameters = [p.clone().requires_grad_() for p in parameters]
    for y in (INF, -INF):
        target = torch.tensor([y], dtype=DOUBLE, requires_grad=True)
        score = case.function(*parameters, target)
        assert score.item() == INF
        *slopes, gradient = torch.autograd.grad(score, (*parameters, target))
        assert gradient.item() == math.copysign(1, y)
        # One such in a batch must not take the gradients of all others away.
        assert all(slope.isfinite() for slope in slopes)
    missing = torch.tensor([math.nan], dtype=DOUBLE)
    assert case.function(*parameters, missing).isnan()
    with pytest.raises(ValueError, match="target must not be NaN, got nan"):
        case.function(*parameters, missing, validate=True)


def test_slopes_far_from_a_target_are_those_of_mean_and_spread() -> None:
    # From targets that had gone through a product with the scale nothing was left of
    # them: 0 instead of 1.5 at 1e9 in single precision, and of a uniform forecast -1
    # instead of -1/3.
    for name in ("exponential", "gamma", "uniform", "student_t"):
        case = CASES[name]
        *row, _ = case.points[0]
        for y in (-1e9, 1e9):
            inputs = [torch.tensor([v]).requires_grad_() for v in (*row, y)]
            slopes = torch.autograd.grad(case.function(*inputs), inputs)
            for i, found in enumerate(slopes):
                expected = slope(case, (*row, math.copysign(1e6, y)), i)
                assert found.item() == pytest.approx(expected, rel=1e-5), (name, y, i)


def test_slopes_of_a_censored_forecast_far_from_its_target_and_limits() -> None:
    # That in the scale was the rounding error of 500 / 0.1: 5e-4 off.
    row = tuple(torch.tensor([v]) for v in (5.0, 0.1, 0.0, 1e3, 500.0))
    inputs = [x.requires_grad_() for x in row]
    slopes = torch.autograd.grad(mlc.crps_censored_normal(*inputs), inputs)
    found = [x.item() for x in slopes]
    assert found == pytest.approx([-1, -(math.pi**-0.5), 0, 0, 1], rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_a_censored_forecast_much_wider_than_its_limits(dtype: torch.dtype) -> None:
    # As a difference of its ends in single precision the score was 10 % off at 1e5, and
    # of its slope in the scale nothing was left at 1e3.
    eps, case = torch.finfo(dtype).eps, CASES["censored_normal"]
    for scale in (10.0, 1e3, 1e5):
        row = (0.25, scale, 0.0, 1.0, 0.75)
        inputs = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in row]
        score = mlc.crps_censored_normal(*inputs)
        with mp.workdps(40):
            exact = float(case.formula(*map(mp.mpf, row)))
        assert score.item() == pytest.approx(exact, rel=8 * eps, abs=0)
        *found, above = [x.item() for x in torch.autograd.grad(score, inputs)]
        for i, value in enumerate(found):
            exact = float(slope(case, row, i))
            assert value == pytest.approx(exact, rel=20 * eps, abs=0), (scale, i)
        assert above == pytest.approx(float(slope(case, row, 4)), rel=0, abs=2 * eps)


def test_slopes_of_few_counts_in_single_precision() -> None:
    # 4 % off in the probability, as all of its distribution function was near 1.
    case = CASES["negative_binomial"]
    row = (2.0**-20, 0.75, 1.0)
    inputs = [torch.tensor(v).requires_grad_() for v in row]
    slopes = torch.autograd.grad(case.function(*inputs), inputs[:2])
    for i, found in enumerate(slopes):
        assert found.item() == pytest.approx(float(slope(case, row, i)), rel=1e-5)


def test_slopes_of_small_shapes_in_single_precision() -> None:
    # Mean and spread cancel to 2 log(2) a^2: slopes were 16 % off in the shape and 25 %
    # in the rate, and the value at a target next to 0 was 14 % off.
    case = CASES["gamma"]
    for a in (1e-6, 9e-6, 0.07):
        for y in (-1.0, 1e-6 * a, 0.03 * a, 2 * a):
            inputs = [torch.tensor([v]).requires_grad_() for v in (a, 2.0, y)]
            row = tuple(v.item() for v in inputs)
            score = case.function(*inputs)
            assert score.item() == pytest.approx(exact(case, [row]).item(), 5e-6), row
            for i, found in enumerate(torch.autograd.grad(score, inputs)):
                wanted = slope(case, row, i)
                assert found.item() == pytest.approx(wanted, 1e-5), (row, i)


def test_log_normal_of_large_and_small_scales_in_single_precision() -> None:
    # The mean overflows before the score does: from scales of 13 on all was infinite or
    # NaN. At small scales the slopes cancelled, and had no digits at 1e-3.
    case = CASES["log_normal"]
    rows = [(-60.0, 18.0), (-150.0, 26.0), (-225.0, 31.0), (-5.0, 1e-3)]
    for loc, scale in rows:
        for y in (-1.0, 1e-9, 0.00674, 3.0, 1e12):
            inputs = [torch.tensor([v]).requires_grad_() for v in (loc, scale, y)]
            row = tuple(v.item() for v in inputs)
            score = case.function(*inputs)
            assert score.item() == pytest.approx(exact(case, [row]).item(), 2e-7), row
            for i, found in enumerate(torch.autograd.grad(score, inputs)):
                wanted = slope(case, row, i)
                assert found.item() == pytest.approx(wanted, 2e-6, 1e-30), (row, i)


def test_a_censored_forecast_far_from_its_limits_is_at_one_of_them() -> None:
    # The distance of the limits had gone into the rounding error of that to the mean.
    row = (7e5, 3e-6, 0.011, 0.016, -0.75)
    for sign in (1, -1):
        loc, scale, low, high, y = (torch.tensor(v).requires_grad_() for v in row)
        limits = (low, high) if sign == 1 else (-high, -low)
        score = mlc.crps_censored_normal(sign * loc, scale, *limits, sign * y)
        assert score.item() == pytest.approx(0.766)
        slopes = torch.autograd.grad(score, (loc, scale, low, high, y))
        assert [s.item() for s in slopes] == [0, 0, 0, 1, -1]


NEXT_TO_0 = {torch.float32: 1e-40, DOUBLE: 5e-320}
OF_A_LOCATION = ("normal", "laplace", "logistic", "log_normal", "student_t")
LIMITED = ("censored_normal", "truncated_normal")


@pytest.mark.parametrize("name", OF_A_LOCATION + LIMITED)
@pytest.mark.parametrize("dtype", NEXT_TO_0, ids=str)
def test_scales_next_to_0_leave_the_distance(name: str, dtype: torch.dtype) -> None:
    # Such as softplus makes of -100. The slopes had gone through an infinite quotient.
    row = {"df": 3.0, "loc": -1.5, "scale": NEXT_TO_0[dtype], "lower": -9.0}
    row["upper"] = 9.0
    parameters = inspect.signature(getattr(mlc, f"crps_{name}")).parameters
    row = {key: row[key] for key in row if key in parameters} | {"target": 2.0}
    inputs = {k: torch.tensor(v, dtype=dtype).requires_grad_() for k, v in row.items()}
    score = getattr(mlc, f"crps_{name}")(**inputs)
    slopes = torch.autograd.grad(score, inputs.values())
    found = {k: s.item() for k, s in zip(inputs, slopes, strict=True)}
    loc = math.exp(-1.5) if name == "log_normal" else -1.5
    assert score.item() == pytest.approx(2 - loc)
    assert found["loc"] == pytest.approx(-loc if name == "log_normal" else -1)
    assert found["target"] == 1
    assert all(map(math.isfinite, found.values())), found


DENSITIES: dict[str, tuple[Callable[..., Tensor], tuple[float, ...], Callable]] = {
    "laplace": (mlc.crps_laplace, (0.0, 1.0), stats.laplace.pdf),
    "logistic": (mlc.crps_logistic, (0.0, 1.0), stats.logistic.pdf),
    "normal": (mlc.crps_normal, (0.0, 1.0), stats.norm.pdf),
    "exponential": (mlc.crps_exponential, (1.0,), stats.expon.pdf),
    "gamma": (mlc.crps_gamma, (2.5, 1.0), stats.gamma(2.5).pdf),
    "student_t": (mlc.crps_student_t, (10.0, 0.0, 1.0), stats.t(10).pdf),
    "log_normal": (mlc.crps_log_normal, (0.0, 1.0), stats.lognorm(1).pdf),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_second_derivative_is_twice_the_density_far_out_too(name: str) -> None:
    # That of an exponential, Laplace or Student variable was 0 or of the wrong sign.
    function, row, density = DENSITIES[name]
    for dtype, error in ((torch.float32, 5e-3), (DOUBLE, 1e-10)):
        parameters = [torch.full((4,), v, dtype=dtype) for v in row]
        y = torch.tensor([0.3, 9.0, 24.0, 60.0], dtype=dtype, requires_grad=True)
        score = function(*parameters, y, "sum")
        (slope_,) = torch.autograd.grad(score, y, create_graph=True)
        (bend,) = torch.autograd.grad(slope_.sum(), y)
        expected = torch.tensor(2 * density(y.detach().double().numpy()))
        close = {"rtol": error, "atol": float(torch.finfo(dtype).tiny)}
        torch.testing.assert_close(bend.double(), expected, **close)


def test_mixture_is_that_of_its_components() -> None:
    probs = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], dtype=DOUBLE)
    loc = torch.tensor([[-1.0, 0.5, 4.0]] * 2, dtype=DOUBLE)
    scale = torch.tensor([[0.5, 1.0, 0.1]] * 2, dtype=DOUBLE)
    target = torch.tensor([0.3, -2.0], dtype=DOUBLE)
    found = mlc.crps_normal_mixture(probs, loc, scale, target, "none")
    with mp.workdps(30):
        expected = [
            float(
                truth.normal_mixture(
                    [tuple(map(mp.mpf, p)) for p in zip(*row, strict=True)], mp.mpf(y)
                )
            )
            for *row, y in zip(
                probs.tolist(),
                loc.tolist(),
                scale.tolist(),
                target.tolist(),
                strict=True,
            )
        ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE))
    peer = scoringrules.crps_mixnorm(target, loc.numpy(), scale.numpy(), probs.numpy())
    torch.testing.assert_close(found, torch.as_tensor(np.asarray(peer)))
    alone = mlc.crps_normal(loc[1, :1], scale[1, :1], target[1:])
    torch.testing.assert_close(found[1], alone)
    arguments = tuple(t[:1].clone().requires_grad_() for t in (probs, loc, scale))
    mlc.testing.check_gradients(
        mlc.crps_normal_mixture,
        (*arguments, target[:1].clone().requires_grad_()),
        compile=False,
    )


def test_mixture_refuses_what_does_not_fit() -> None:
    part = torch.ones(2, 3)
    with pytest.raises(ValueError, match="probs.sum.* must be 1, got 3.0"):
        mlc.crps_normal_mixture(part, part, part, torch.ones(2), validate=True)
    with pytest.raises(ValueError, match="losses do not broadcast"):
        mlc.crps_normal_mixture(part, part, part, part)
    one = torch.tensor(1.0)
    with pytest.raises(ValueError, match="dimension of components"):
        mlc.crps_normal_mixture(one, one, one, one)


@pytest.mark.parametrize(
    "function", [mlc.crps_censored_normal, mlc.crps_truncated_normal]
)
def test_limits_are_numbers_or_tensors(function: Callable[..., Tensor]) -> None:
    one = torch.ones(2)
    for lower, upper, name in (("0", 1.0, "lower"), (0.0, None, "upper")):
        with pytest.raises(TypeError, match=f"{name} must be a number or a tensor"):
            function(one, one, lower, upper, one)


OUT_OF_RANGE = {
    "scale": (mlc.crps_normal, (0.0, 0.0, 1.0), "scale must be positive, got 0.0"),
    "df": (mlc.crps_student_t, (0.5, 0.0, 1.0, 1.0), "df must be above 1/2, got 0.5"),
    "concentration": (mlc.crps_gamma, (-1.0, 1.0, 1.0), "concentration must be pos"),
    "rate": (mlc.crps_poisson, (0.0, 1.0), "rate must be positive"),
    "probs": (
        mlc.crps_negative_binomial,
        (1.0, 1.0, 1.0),
        "probs must be strictly between 0 and 1",
    ),
    "high": (mlc.crps_uniform, (1.0, 1.0, 1.0), "high must be above low"),
    "upper": (
        mlc.crps_censored_normal,
        (0.0, 1.0, 1.0, 0.0, 1.0),
        "upper must be above lower",
    ),
    "truncated upper": (
        mlc.crps_truncated_normal,
        (0.0, 1.0, 1.0, 1.0, 1.0),
        "upper must be above lower",
    ),
    "loc": (mlc.crps_laplace, (math.nan, 1.0, 1.0), "loc must not be NaN"),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_values_out_of_range_are_refused_if_asked_for(name: str) -> None:
    function, arguments, message = OUT_OF_RANGE[name]
    tensors = [torch.tensor([a]) for a in arguments]
    with pytest.raises(ValueError, match=message):
        function(*tensors, validate=True)
    function(*tensors)


def test_gamma_forecasts_in_one_call_with_both_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    a, rate, y = (
        10 ** (4 * torch.rand(3, 1000, generator=generator, dtype=DOUBLE) - 2)
    ).unbind()
    arguments = [t.requires_grad_() for t in (a, rate, y * a / rate / 10)]
    score = mlc.crps_gamma(*arguments, "none")
    gradients = torch.autograd.grad(score.sum(), arguments[:2])
    for k in range(0, 1000, 83):
        row = tuple(t[k].item() for t in arguments)
        expected = exact(CASES["gamma"], [row]).item()
        assert score[k].item() == pytest.approx(expected, 1e-11)
        for i, gradient in enumerate(gradients):
            expected = slope(CASES["gamma"], row, i)
            assert gradient[k].item() == pytest.approx(expected, 1e-9)


def test_student_t_becomes_normal() -> None:
    z = torch.linspace(-6, 6, 13)
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    for df in (1e8, 1e20, INF):
        torch.testing.assert_close(
            mlc.crps_student_t(df * one, zero, one, z, "none"),
            mlc.crps_normal(zero, one, z, "none"),
        )


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_slope_of_student_t_in_many_degrees_of_freedom(dtype: torch.dtype) -> None:
    """Of the size of 1 / df^2, of which 9 % were lost at 1e5 in float32."""
    for df in (1e6, 1e8, 1e11):
        many = torch.tensor(df, dtype=dtype, requires_grad=True)
        zero, one = torch.zeros_like(many), torch.ones_like(many)
        for z in (0.3, -1.2, 3.0):
            score = mlc.crps_student_t(many, zero, one, z * one)
            (slope,) = torch.autograd.grad(score, many)
            # Of F = Phi - phi(x) (x^3 + x) / (4 df), and what it adds to the integral.
            more = mp.npdf(z) * (z * z + 3) / 2 - 7 / (8 * mp.sqrt(mp.pi))
            exact = -float(more / mp.mpf(many.item()) ** 2)
            assert slope.item() == pytest.approx(exact, rel=2e-5, abs=0)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_a_target_at_the_limit_of_a_censored_forecast(dtype: torch.dtype) -> None:
    # As on a dry day. Half of 2 F - 1, which its slope was, is not between those of
    # both sides, -1 and 2 F - 1; and from 4 deviations on float32 had no digits.
    loc = torch.tensor([2.0, -2.0, -6.0], dtype=dtype, requires_grad=True)
    y = torch.zeros_like(loc, requires_grad=True)
    rain = torch.special.erfc(-loc.detach().double() / math.sqrt(2)) / 2
    for sign, limits in ((1, (0.0, INF)), (-1, (-INF, 0.0))):
        one = torch.ones_like(loc)
        score = mlc.crps_censored_normal(sign * loc, one, *limits, y, "none")
        slope, by_loc = torch.autograd.grad(score.sum(), (y, loc))
        error = {"rtol": 1e4 * torch.finfo(dtype).eps, "atol": 0.0}
        torch.testing.assert_close(by_loc, rain.square().to(dtype), **error)
        torch.testing.assert_close(slope, (-sign * rain.square()).to(dtype), **error)
        assert (-1 <= sign * slope).all()
        assert (sign * slope <= 1 - 2 * rain).all()
    inner = mlc.crps_censored_normal(loc, one, -INF, 1e-6, y, "none")
    assert (inner - mlc.crps_normal(loc, one, y, "none") <= 1e-6).all()


def test_derivatives_of_the_kink_free_laplace_at_its_median() -> None:
    y = torch.zeros(1, requires_grad=True)
    score = mlc.crps_laplace(torch.zeros(1), torch.full((1,), 2.0), y)
    (first,) = torch.autograd.grad(score, y, create_graph=True)
    (second,) = torch.autograd.grad(first, y)
    assert (first.item(), second.item()) == (0.0, 0.5)


def test_slopes_stay_right_at_the_start_of_the_support() -> None:
    # The density is infinite there; in the formula as printed that is 0 * infinity.
    y = torch.tensor([1e-300, 1e-30, 0.0], dtype=DOUBLE, requires_grad=True)
    half = torch.full_like(y, 0.3).detach()
    for score in (mlc.crps_gamma(half, half, y), mlc.crps_beta(half, half, y)):
        (gradient,) = torch.autograd.grad(score * 3, y)
        assert gradient[2].item() == -1
        assert (gradient[:2] + 1).abs().max() < 1e-8
