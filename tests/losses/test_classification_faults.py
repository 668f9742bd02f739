"""Where torch 2.13 is wrong about classes: its number, the true one, and ours."""

import math
from collections.abc import Callable

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torch_mlcalc as mlc

INF = math.inf
Loss = Callable[[Tensor], Tensor]

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def derivatives(loss: Loss, *x: float, order: int = 2) -> list[list[float]]:
    """Value and derivatives by each element, which do not depend on each other."""
    input = torch.tensor(x, requires_grad=True)
    found = [loss(input)]
    for _ in range(order):
        total = found[-1].sum()
        found.append(torch.autograd.grad(total, input, create_graph=True)[0])
    return [tensor.tolist() for tensor in found]


def true_derivatives(
    loss: Callable[[mp.mpf], mp.mpf], x: float, order: int = 2
) -> list[float]:
    with mp.workdps(60):
        point = mp.mpf(torch.tensor(x).item())
        return [float(mp.diff(loss, point, n)) for n in range(order + 1)]


def both(name: str, *target: float, **settings: object) -> tuple[Loss, Loss]:
    """torch's loss and this package's, of the input alone."""
    wanted = torch.tensor(target)

    def bind(library: object) -> Loss:
        function = getattr(library, name)
        return lambda x: function(x, wanted, reduction="none", **settings)

    return bind(F), bind(mlc)


def test_soft_margin_overflows_at_margin_minus_100() -> None:
    theirs, ours = both("soft_margin_loss", 1.0)
    value, slope = derivatives(theirs, -100.0, order=1)
    assert value == [INF]
    assert math.isnan(slope[0])
    truth = true_derivatives(lambda x: mp.log1p(mp.exp(-x)), -100.0)
    assert truth[:2] == [100.0, -1.0]
    value, slope, curvature = derivatives(ours, -100.0)
    assert [*value, *slope] == truth[:2]
    assert curvature[0] == pytest.approx(truth[2], rel=1e-6, abs=1e-38)


def test_soft_margin_of_large_margins_has_all_digits() -> None:
    _, ours = both("soft_margin_loss", 1.0)
    truth = true_derivatives(lambda x: mp.log1p(mp.exp(-x)), 20.0)
    found = [number for (number,) in derivatives(ours, 20.0)]
    assert found == pytest.approx(truth, rel=1e-6)


def test_binary_cross_entropy_loses_its_gradient_near_0() -> None:
    theirs, ours = both("binary_cross_entropy", 1.0)
    p = 1e-20
    assert derivatives(theirs, p, order=1)[1] == [pytest.approx(-1e12)]
    truth = true_derivatives(lambda x: -mp.log(x), p, order=1)
    assert truth[1] == pytest.approx(-1e20, rel=1e-6)
    value, slope = derivatives(ours, p, order=1)
    assert [*value, *slope] == pytest.approx(truth, rel=1e-6)


def test_binary_cross_entropy_is_cut_off_at_100() -> None:
    theirs, ours = both("binary_cross_entropy", 1.0, 0.0, 1.0, 0.0)
    p = (0.0, 1.0, 1.0, 0.0)
    assert derivatives(theirs, *p, order=0) == [[100.0, 100.0, 0.0, 0.0]]
    value, slope, curvature = derivatives(ours, *p)
    assert value == [INF, INF, 0.0, 0.0]
    assert slope == [-INF, INF, -1.0, 1.0]
    assert curvature == [INF, INF, 1.0, 1.0]


@pytest.mark.parametrize(("x", "t"), [(-20.0, 0.0), (20.0, 1.0)])
def test_binary_cross_entropy_with_logits_cancels(x: float, t: float) -> None:
    theirs, ours = both("binary_cross_entropy_with_logits", t)
    truth = true_derivatives(lambda x: mp.log1p(mp.exp(x if t == 0 else -x)), x)
    assert abs(truth[0]) == pytest.approx(2.06e-9, rel=1e-2)
    # Either the value or the derivatives are those of a loss that is 0.
    assert 0.0 in [number for (number,) in derivatives(theirs, x)]
    found = [number for (number,) in derivatives(ours, x)]
    assert found == pytest.approx(truth, rel=1e-6)


def test_binary_cross_entropy_with_logits_is_nan_for_certainty() -> None:
    theirs, ours = both("binary_cross_entropy_with_logits", 1.0, 0.0)
    assert all(math.isnan(number) for number in theirs(torch.tensor([INF, -INF])))
    assert derivatives(ours, INF, -INF) == [[0.0, 0.0]] * 3


@pytest.mark.parametrize("log_target", [False, True], ids=["target", "log_target"])
def test_kl_div_of_an_impossible_class_is_nan(log_target: bool) -> None:
    t = (0.25, 0.75, 0.0)
    target = [math.log(p) if p else -INF for p in t] if log_target else t
    log_p = (math.log(0.5), math.log(0.5), -INF)
    theirs, ours = both("kl_div", *target, log_target=log_target)
    assert math.isnan(theirs(torch.tensor(log_p))[2])
    truth = [p * math.log(p / 0.5) for p in t[:2]] + [0.0]
    value, slope = derivatives(ours, *log_p, order=1)
    assert value == pytest.approx(truth, rel=1e-6)
    assert slope == pytest.approx([-p for p in t], rel=1e-6)


def test_kl_div_loses_the_gradient_of_an_impossible_class_in_the_target() -> None:
    log_p = torch.tensor([math.log(0.5), -1.0, -INF])
    found = []
    for kl_div in (F.kl_div, mlc.kl_div):
        u = torch.tensor([math.log(0.25), -INF, -INF], requires_grad=True)
        loss = kl_div(log_p, u, reduction="sum", log_target=True)
        found.append(torch.autograd.grad(loss, u)[0].tolist())
    assert [math.isnan(number) for number in found[0]] == [False, True, True]
    assert found[1] == [pytest.approx(0.25 * (math.log(0.5) + 1)), 0.0, 0.0]


LOGITS = (2.0, -INF, 1.0, -INF)
SHARES = (0.25, 0.0, 0.75, 0.0)


def test_cross_entropy_of_probabilities_is_nan_for_masked_classes() -> None:
    target = torch.tensor(SHARES)
    assert F.cross_entropy(torch.tensor(LOGITS), target).isnan()
    input = torch.tensor(LOGITS, requires_grad=True)
    loss = mlc.cross_entropy(input, target)
    (slope,) = torch.autograd.grad(loss, input, create_graph=True)
    (curvature,) = torch.autograd.grad(slope @ torch.tensor([1.0, 1, 0, 1]), input)
    total = mp.exp(2) + mp.exp(1)
    p = [mp.exp(2) / total, 0, mp.exp(1) / total, 0]
    truth = -mp.mpf(0.25) * mp.log(p[0]) - mp.mpf(0.75) * mp.log(p[2])
    assert loss.item() == pytest.approx(float(truth), rel=1e-6)
    slopes = [float(a - b) for a, b in zip(p, SHARES, strict=True)]
    assert slope.tolist() == pytest.approx(slopes, rel=1e-6)
    curvatures = [float(p[0] * (1 - p[0])), 0.0, float(-p[0] * p[2]), 0.0]
    assert curvature.tolist() == pytest.approx(curvatures, rel=1e-6)


def test_cross_entropy_of_a_possible_class_that_is_masked_stays_infinite() -> None:
    target = torch.tensor([0.5, 0.5, 0.0, 0.0])
    assert mlc.cross_entropy(torch.tensor(LOGITS), target).item() == INF


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_an_ignored_batch_is_nan(smoothing: float) -> None:
    target = torch.full((3,), -100)
    for library, wanted in ((F, math.nan), (mlc, 0.0)):
        input = torch.randn(3, 5, requires_grad=True)
        loss = library.cross_entropy(input, target, label_smoothing=smoothing)
        assert loss.item() == pytest.approx(wanted, nan_ok=True)
    loss.backward()
    assert not input.grad.any()


def test_multi_margin_has_no_second_derivative() -> None:
    input = torch.tensor([[1.0, 0.5, 3.0]], requires_grad=True)
    target = torch.tensor([0])
    theirs = F.multi_margin_loss(input, target, p=2)
    (slope,) = torch.autograd.grad(theirs, input, create_graph=True)
    with pytest.raises(RuntimeError, match="multi_margin_loss_backward"):
        slope.sum().backward()

    def truth(*x: mp.mpf) -> mp.mpf:
        return sum(max(mp.mpf(0), 1 - x[0] + x[c]) ** 2 for c in (1, 2)) / 3

    hessian = torch.autograd.functional.hessian(
        lambda x: mlc.multi_margin_loss(x, target, p=2), input
    ).view(3, 3)
    for i in range(3):
        for j in range(3):
            orders = tuple((i == k) + (j == k) for k in range(3))
            wanted = mp.diff(truth, (1, 0.5, 3), orders)
            assert hessian[i, j].item() == pytest.approx(float(wanted), abs=1e-6)
