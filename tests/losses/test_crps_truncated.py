"""CRPS of a truncated normal where its closed form has no digits, against mpmath."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import crps_truth as truth
import mpmath as mp
import pytest
import scoringrules
import torch
from torch import Tensor

import torch_mlcalc as mlc

INF = math.inf
DOUBLE = torch.float64

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

#: Mean, standard deviation, limits, target.
POINTS = {
    "narrow": (0.0, 1.0, 0.0, 1e-3, 4e-4),
    "narrow around the mean": (0.5, 2.0, 0.5 - 2**-20, 0.5 + 2**-18, 0.5 + 2**-20),
    "wide scale": (3.0, 1e6, 0.0, 1.0, 0.3),
    "upper tail": (0.0, 1.0, 10.0, 11.0, 10.05),
    "lower tail": (0.0, 1.0, -11.0, -10.0, -10.05),
    "beyond all digits": (0.0, 1.0, 40.0, 45.0, 40.02),
    "narrow in a tail": (-5.0, 0.5, 1.0, 1.0 + 2**-12, 1.0 + 2**-13),
    "open in a tail": (0.0, 1.0, 100.0, INF, 100.005),
    "far in a tail": (0.0, 1e-3, 10.0, INF, 10.0 + 2**-23),
    "limit just reached": (0.0, 1.0, -8.7, 8.8, -0.2),
    "limit just out of reach": (0.0, 1.0, -8.8, 8.7, 0.3),
    "outside of a tail": (0.0, 1.0, 20.0, 22.0, 18.0),
    "target beyond all digits": (0.0, 1.0, -30.0, INF, -12.0),
    "target in a tail": (0.0, 1.0, -30.0, 0.01, -6.0),
}
points = pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)


def columns(rows: Sequence[Sequence[float]]) -> list[Tensor]:
    return [torch.tensor(c, dtype=DOUBLE) for c in zip(*rows, strict=True)]


def lengths(point: Sequence[float]) -> list[mp.mpf]:
    """How far each argument moves before the score is another one."""
    m, s, a, b, _ = map(mp.mpf, point)
    depth = max(a - m, m - b, mp.mpf(0)) / s
    shape = min(s, b - a, s / depth if depth else s)
    return [s, s, shape, shape, shape]


def derivative(point: Sequence[float], orders: Sequence[int]) -> mp.mpf:
    """Mixed derivative of the exact score, by central differences of each order."""
    with mp.workdps(90):
        at = list(map(mp.mpf, point))
        steps = [size * mp.mpf(10) ** -14 for size in lengths(point)]
        total = mp.mpf(0)
        stencils = ([(0, 1)], [(-1, -0.5), (1, 0.5)], [(-1, 1), (0, -2), (1, 1)])
        for terms in itertools.product(*(stencils[order] for order in orders)):
            moved = (x + k * h for x, (k, _), h in zip(at, terms, steps, strict=True))
            factor = mp.fprod(mp.mpf(w) for _, w in terms)
            total += factor * truth.truncated_normal(*moved)
        return total / mp.fprod(h**n for h, n in zip(steps, orders, strict=True))


@points
def test_values_and_derivatives_are_exact_to_second_order(
    point: tuple[float, ...],
) -> None:
    arguments = [c.requires_grad_() for c in columns([point])]
    score = mlc.crps_truncated_normal(*arguments, "none")
    exact = derivative(point, [0] * 5)
    assert score.item() == pytest.approx(float(exact), 1e-13)
    unit = lengths(point)
    movable = [i for i in range(5) if math.isfinite(point[i])]
    slopes = torch.autograd.grad(score, arguments, create_graph=True)
    for i in movable:
        orders = [int(k == i) for k in range(5)]
        # What rounding the arguments does to it is no fault.
        error = 1e-14 * float(exact / unit[i])
        expected = float(derivative(point, orders))
        assert slopes[i].item() == pytest.approx(expected, 1e-12, error), orders
        curvatures = torch.autograd.grad(slopes[i], arguments, retain_graph=True)
        for j in movable[movable.index(i) :]:
            orders = [int(k == i) + int(k == j) for k in range(5)]
            error = 1e-12 * float(exact / unit[i] / unit[j])
            expected = float(derivative(point, orders))
            assert curvatures[j].item() == pytest.approx(expected, 1e-11, error), orders


def test_a_batch_is_its_elements() -> None:
    arguments = columns(list(POINTS.values()))
    together = mlc.crps_truncated_normal(*arguments, "none")
    alone = [
        mlc.crps_truncated_normal(*(a[i] for a in arguments), "none")
        for i in range(len(POINTS))
    ]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-14, atol=0)
    square = [a[:12].reshape(3, 4) for a in arguments]
    found = mlc.crps_truncated_normal(*square, "none")
    torch.testing.assert_close(found.flatten(), together[:12], rtol=1e-14, atol=0)


def test_no_elements() -> None:
    none = torch.ones(0, 3, requires_grad=True)
    found = mlc.crps_truncated_normal(none, none, 0.0, 1.0, none, "none")
    assert found.shape == (0, 3)
    found.sum().backward()
    assert none.grad is not None


@points
def test_single_precision_has_its_digits(point: tuple[float, ...]) -> None:
    narrow = [c.float() for c in columns([point])]
    found = mlc.crps_truncated_normal(*narrow).item()
    wide = mlc.crps_truncated_normal(*(c.double() for c in narrow)).item()
    assert found == pytest.approx(wide, 3e-6)


def test_without_limits_in_reach_it_is_the_normal_one() -> None:
    loc, scale, target = columns(
        [(0.5, 1.0, 0.3), (-3.0, 2e-3, -3.1), (7.0, 1e4, 1e5), (0.0, 1.0, 0.0)]
    )
    expected = mlc.crps_normal(loc, scale, target, "none")
    for limit in (INF, 1e6):
        found = mlc.crps_truncated_normal(loc, scale, -limit, limit, target, "none")
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_wide_scale_is_the_uniform_one() -> None:
    y = torch.tensor([-0.5, 0.0, 0.3, 1.0, 4.0], dtype=DOUBLE)
    zero, one = torch.zeros_like(y), torch.ones_like(y)
    expected = mlc.crps_uniform(zero, one, y, "none")
    for scale in (1e9, 1e300):
        found = mlc.crps_truncated_normal(zero, scale * one, 0.0, 1.0, y, "none")
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


def test_far_tail_is_the_exponential_one() -> None:
    # Of rate |m| / s^2, to a relative error of (s / m)^2.
    y = torch.tensor([-1.0, 0.0, 0.3, 2.0, 50.0], dtype=DOUBLE)
    one = torch.ones_like(y)
    expected = mlc.crps_exponential(one, y, "none")
    found = mlc.crps_truncated_normal(-1e20 * one, 1e10 * one, 0.0, INF, y, "none")
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    mirrored = mlc.crps_truncated_normal(1e20 * one, 1e10 * one, -INF, 0.0, -y, "none")
    torch.testing.assert_close(mirrored, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_a_tail_whose_square_overflows_is_at_its_limit(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    arguments = [
        torch.tensor([v], dtype=dtype, requires_grad=True)
        for v in (0.0, tiny, 1e10, 2e10, 1.5e10)
    ]
    score = mlc.crps_truncated_normal(*arguments)
    torch.testing.assert_close(score, torch.tensor(5e9, dtype=dtype))
    slopes = torch.autograd.grad(score, arguments)
    assert all(s.isfinite() for s in slopes), slopes
    assert [s.item() for s in slopes[2:]] == pytest.approx([-1, 0, 1])


def test_slope_in_the_target_is_that_of_its_distribution_function() -> None:
    y = torch.tensor([-1.0, 0.0, 0.4, 2.0, 3.0, INF], dtype=DOUBLE, requires_grad=True)
    loc, scale = torch.full_like(y, 0.5), torch.ones_like(y)
    score = mlc.crps_truncated_normal(loc, scale, 0.0, 2.0, y, "sum")
    (slope,) = torch.autograd.grad(score, y)
    start, middle, stop = torch.special.ndtr(loc.new_tensor([-0.5, -0.1, 1.5]))
    inner = (2 * (middle - start) / (stop - start) - 1).item()
    assert slope.tolist() == pytest.approx([-1, -1, inner, 1, 1, 1], 1e-13)


@pytest.mark.parametrize(
    "function",
    [mlc.crps_truncated_normal, mlc.crps_censored_normal],
    ids=["truncated", "censored"],
)
def test_limits_as_numbers_are_those_as_tensors(
    function: Callable[..., Tensor],
) -> None:
    loc, scale, y = columns([(0.5, 1.0, 1.0), (2.0, 0.5, 3.0)])
    low, high = torch.full_like(y, 0.3), torch.full_like(y, 1.7)
    expected = function(loc, scale, low, high, y, "none")
    torch.testing.assert_close(
        function(loc, scale, 0.3, high, y, "none"), expected, rtol=0, atol=0
    )
    # Counts have no fractions, but the limits beside them do.
    torch.testing.assert_close(
        function(loc, scale, 0.3, 1.7, y.long(), "none"), expected, rtol=0, atol=0
    )


def test_autocast_leaves_it_in_single_precision() -> None:
    arguments = [c[:1].float() for c in columns([(0.5, 1.0, 0.0, 2.0, 0.75)])]
    expected = mlc.crps_truncated_normal(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = mlc.crps_truncated_normal(*arguments)
    assert found.dtype == torch.float32
    assert found.item() == expected.item()


def test_compiled_as_one_graph() -> None:
    arguments = [c.requires_grad_() for c in columns(list(POINTS.values()))]
    compiled = torch.compile(mlc.crps_truncated_normal, fullgraph=True, backend="eager")
    found, expected = compiled(*arguments), mlc.crps_truncated_normal(*arguments)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, arguments),
        torch.autograd.grad(expected, arguments),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_ordinary_scores_agree_with_both_of_scoringrules() -> None:
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(4, 200, generator=generator, dtype=DOUBLE)
    loc, scale = 2 * share[0] - 1, 0.5 + share[1]
    lower, upper = loc - 2 * share[2] - 0.2, loc + 2 * share[3] + 0.2
    target = lower + 1.4 * (upper - lower) * share.flip(0)[1] - 0.2
    found = mlc.crps_truncated_normal(loc, scale, lower, upper, target, "none")
    arrays = [t.numpy() for t in (target, loc, scale, lower, upper)]
    for peer in (scoringrules.crps_tnormal, scoringrules.crps_gtcnormal):
        theirs = torch.as_tensor(peer(*arrays))
        torch.testing.assert_close(found, theirs, rtol=1e-11, atol=0)
