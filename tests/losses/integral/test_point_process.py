"""Likelihoods of event times against closed forms, and their derivatives."""

import math

import pytest
import torch
from integral_checks import (
    DOUBLE,
    assert_module,
    assert_reductions,
    assert_settings,
    number,
    t,
)
from torch import Tensor, nn

import torch_mlcalc as mlc
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

TIMES = torch.tensor([[0.5, 1.5, 2.5], [1.0, math.nan, -7.0], [9.0] * 3], dtype=DOUBLE)
MASK = torch.tensor([[True] * 3, [True, False, False], [False] * 3])


def line(s: Tensor, level: Tensor, slope: Tensor) -> Tensor:
    """Log-linear: the expected number is known."""
    return level + slope * s


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(-0.5, dtype=DOUBLE))

    def forward(self, s: Tensor, slope: Tensor) -> Tensor:
        return line(s, self.level, slope)


def closed_form(
    level: float, slope: float, low: float, high: float, events: Tensor
) -> float:
    expected = (
        math.exp(level) * (math.exp(slope * high) - math.exp(slope * low)) / slope
    )
    return expected - (level + slope * events).sum().item()


def test_likelihood_is_that_of_the_closed_form() -> None:
    end, slope = t(3.0, 4.0, 5.0), t(0.3, -0.2, 0.1)
    loss = mlc.point_process_nll_loss(
        line, TIMES, end, "none", start=0.25, mask=MASK, args=(number(-0.5), slope)
    )
    expected = [
        closed_form(-0.5, s, 0.25, e, TIMES[i][MASK[i]])
        for i, (s, e) in enumerate(zip(slope.tolist(), end.tolist(), strict=True))
    ]
    torch.testing.assert_close(loss, t(*expected), rtol=1e-10, atol=0)


def test_start_is_0_unless_given() -> None:
    times = t(0.5, 1.5)
    args = (number(0.0), number(0.5))
    for start, low in ((None, 0.0), (-1.0, -1.0), (t(0.4)[0], 0.4)):
        options = {} if start is None else {"start": start}
        loss = mlc.point_process_nll_loss(line, times, 2.0, args=args, **options)
        expected = closed_form(0.0, 0.5, low, 2.0, times)
        assert loss.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rule", [None, mlc.GaussLegendre(12)], ids=str)
def test_a_self_exciting_process_is_split_at_its_events(rule: mlc.Rule) -> None:
    mu, alpha, beta = number(0.6), number(0.8), number(1.7)
    times = TIMES[:2].nan_to_num(-3.0)

    def hawkes(s: Tensor, past: Tensor, mask: Tensor) -> Tensor:
        gap = s[..., None] - past
        kernel = torch.where((gap > 0) & mask, (-beta * gap.clamp(min=0)).exp(), 0)
        return (mu + alpha * kernel.sum(-1)).log()

    def expected() -> list[float]:
        found = []
        for row, mask in zip(times, MASK[:2], strict=True):
            events = row[mask].tolist()
            total = 0.6 * 4 + sum(
                0.8 / 1.7 * (1 - math.exp(-1.7 * (4 - s))) for s in events
            )
            for i, s in enumerate(events):
                past = sum(math.exp(-1.7 * (s - r)) for r in events[:i])
                total -= math.log(0.6 + 0.8 * past)
            found.append(total)
        return found

    def loss(split: bool) -> Tensor:
        return mlc.point_process_nll_loss(
            hawkes,
            times,
            4.0,
            "none",
            mask=MASK[:2],
            args=(times, MASK[:2]),
            split=split,
            rule=rule,
        )

    torch.testing.assert_close(loss(True), t(*expected()), rtol=1e-10, atol=0)
    if rule is not None:
        assert (loss(False) - loss(True)).abs().max() > 1e-3


def test_what_is_masked_has_no_effect_and_no_gradient() -> None:
    times = TIMES.clone().requires_grad_()
    slope = number(0.3)
    loss = mlc.point_process_nll_loss(
        line, times, 3.0, mask=MASK, args=(number(0.0), slope)
    )
    by_times, by_slope = torch.autograd.grad(loss, (times, slope))
    assert torch.equal(by_times[~MASK], torch.zeros(5, dtype=DOUBLE))
    torch.testing.assert_close(by_times[MASK], torch.full((4,), -0.1, dtype=DOUBLE))
    assert by_slope.isfinite()


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
def test_gradients_in_every_mode(split: bool) -> None:
    module = mlc.PointProcessNLLLoss(
        Line(), mlc.GaussLegendre(10), split=split, reduction="none"
    )

    def loss(times: Tensor, end: Tensor, slope: Tensor, start: Tensor) -> Tensor:
        return module(times, end, slope, start=start, mask=MASK[:2])

    times = t(0.5, 1.0, 1.5, 0.7, 0.8, 0.9).detach().reshape(2, 3).requires_grad_()
    inputs = (times, t(2.0, 3.0), t(0.3, 0.2), t(0.1, 0.2))
    # Compiling takes ten times as long as all else for the pieces between events.
    check_gradients(loss, inputs, compile=not split)


def test_gradients_of_the_default() -> None:
    module = mlc.PointProcessNLLLoss(Line(), reduction="none")
    times = t(0.5, 1.0, 1.5, 0.7).detach().reshape(2, 2).requires_grad_()
    inputs = (times, t(2.0, 3.0), t(0.3, 0.2))
    check_gradients(module, inputs, compile=False)


def test_intensities_are_not_asked_where_they_do_not_count() -> None:
    end = number(2.0)
    times, mask = t(1.0, 2.0), torch.tensor([True, False])
    loss = mlc.point_process_nll_loss(
        lambda s: (end - s).log(), times, 2.0, mask=mask, rtol=1e-12
    )
    assert loss.item() == pytest.approx(2)
    assert torch.autograd.grad(loss, end)[0].item() == pytest.approx(2 - 1)


def test_reductions() -> None:
    args = (number(0.0), number(0.3))
    assert_reductions(
        lambda reduction, weight: mlc.point_process_nll_loss(
            line, TIMES, 3.0, reduction, weight, mask=MASK, args=args
        ),
        TIMES[:, 0],
    )


def test_no_event_and_no_sequence() -> None:
    args = (number(0.0), number(1.0))
    none = mlc.point_process_nll_loss(
        line, torch.zeros(2, 0, dtype=DOUBLE), 1.0, "none", args=args, split=True
    )
    torch.testing.assert_close(none, t(*[math.e - 1] * 2))
    empty = torch.zeros(0, 3, dtype=DOUBLE)
    assert mlc.point_process_nll_loss(line, empty, 1.0, "sum", args=args).item() == 0
    assert mlc.point_process_nll_loss(line, empty, 1.0, "mean", args=args).isnan()


def test_dtypes() -> None:
    half = torch.tensor([0.5, 1.0], dtype=torch.float16)
    args = (torch.tensor(0.0), torch.tensor(0.5))
    loss = mlc.point_process_nll_loss(line, half, 2.0, args=args)
    wide = mlc.point_process_nll_loss(line, half.float(), 2.0, args=args)
    assert (loss.dtype, wide.dtype) == (torch.float16, torch.float32)
    assert torch.equal(loss, wide.half())
    weight = torch.tensor(2.0, dtype=DOUBLE)
    assert mlc.point_process_nll_loss(
        line, half, 2.0, "mean", weight, args=args
    ).dtype == (DOUBLE)


def test_module() -> None:
    rule = mlc.GaussLegendre(10)
    module = mlc.PointProcessNLLLoss(
        Line(), rule, reduction="sum", split=True, validate=True
    )
    slope, weight = t(0.3, 0.2, 0.1), t(1.0, 2.0, 3.0)
    expected = mlc.point_process_nll_loss(
        module.log_intensity,
        TIMES,
        3.0,
        "sum",
        weight,
        start=0.1,
        mask=MASK,
        args=(slope,),
        split=True,
        rule=rule,
    )
    assert_module(
        module,
        lambda m: m(TIMES, 3.0, slope, start=0.1, mask=MASK, weight=weight),
        expected,
    )
    assert repr(module).splitlines()[1].endswith(", split=True")
    assert_settings(lambda rule, **s: mlc.PointProcessNLLLoss(Line(), rule, **s))
    with pytest.raises(ValueError, match=r"times must be between start and end .* 3.5"):
        module(t(1.0, 3.5), 3.0, number(0.3))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"log_intensity": 1}, TypeError, "log_intensity must be a function or a mod"),
        ({"times": [1.0]}, TypeError, "times must be a torch.Tensor, got list"),
        ({"times": torch.tensor(1.0)}, ValueError, "times must have a dimension for"),
        ({"mask": torch.ones(2)}, TypeError, "mask must be a tensor of booleans"),
        ({"mask": [True, False]}, TypeError, "mask must be a tensor .* got list"),
        ({"mask": MASK}, ValueError, r"mask must have the shape of times, \(2,\)"),
        ({"end": t(1.0, 2.0)}, ValueError, r"end must be a number, or have the shape"),
        ({"start": t(1.0, 2.0)}, ValueError, "start must be a number, or have"),
        ({"weight": t(1.0)}, ValueError, r"weight must have the shape \(\) of the seq"),
        ({"validate": "yes"}, TypeError, "validate must be True, False or None"),
    ],
)
def test_what_cannot_be_is_refused(change: dict, error: type, message: str) -> None:
    call = {"log_intensity": torch.zeros_like, "times": t(0.5, 1.0), "end": 2.0}
    mlc.point_process_nll_loss(**call)
    with pytest.raises(error, match=message):
        mlc.point_process_nll_loss(**(call | change))
