"""Survival likelihoods against closed forms in mpmath, and their derivatives."""

import math

import mpmath as mp
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
from torch_mlcalc.losses.integral.hazard import minus_log_probability
from torch_mlcalc.testing import check_gradients

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

RIGHT, EVENT, LEFT, INTERVAL = mlc.Censoring
EVERY = torch.tensor([RIGHT, EVENT, LEFT, INTERVAL])


def gompertz(s: Tensor, level: Tensor, slope: Tensor) -> Tensor:
    return level + slope * s


def weibull(s: Tensor, log_rate: Tensor, shape: Tensor) -> Tensor:
    return shape.log() + log_rate + (shape - 1) * s.log()


class Gompertz(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(-1.0, dtype=DOUBLE))
        self.slope = nn.Parameter(torch.tensor(0.4, dtype=DOUBLE))

    def forward(self, s: Tensor, x: Tensor) -> Tensor:
        return self.level + x + self.slope * s


def mass(family: str, a: float, b: float, low: float, high: float) -> mp.mpf:
    """Cumulative hazard in closed form."""
    a, b, low, high = map(mp.mpf, (a, b, low, high))
    if family == "gompertz":
        return mp.exp(a) * (mp.exp(b * high) - mp.exp(b * low)) / b
    return mp.exp(a) * (high**b - low**b)


def exact(
    family: str, a: float, b: float, code: int, e: float, time: float, u: float
) -> float:
    log_hazard = a + b * mp.mpf(time)
    if family == "weibull":
        log_hazard = mp.log(b) + a + (b - 1) * mp.log(mp.mpf(time))
    seen = mass(family, a, b, e, time)
    after = mass(family, a, b, time, u)
    with mp.workdps(60):
        return float(
            {
                RIGHT: seen,
                EVENT: seen - log_hazard,
                LEFT: -mp.log(-mp.expm1(-seen)),
                INTERVAL: seen - mp.log(-mp.expm1(-after)),
            }[mlc.Censoring(code)]
        )


#: Family, its two parameters, entry, time, upper.
CASES = [
    ("gompertz", -1.0, 0.3, 0.0, 2.0, 3.5),
    ("gompertz", -9.5, 0.09, 60.0, 82.5, 84.0),
    ("gompertz", 2.0, -1.5, 0.5, 0.75, 20.0),
    ("gompertz", -60.0, 0.5, 0.0, 1.0, 2.0),
    ("gompertz", 3.0, 0.1, 0.0, 30.0, 30.001),
    ("weibull", 0.3, 2.5, 0.0, 1.3, 1.4),
    ("weibull", -0.7, 0.5, 0.0, 1e-6, 2.0),
    ("weibull", -12.0, 3.0, 40.0, 55.0, 70.0),
]


@pytest.mark.parametrize("code", mlc.Censoring)
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0]}({c[1]}, {c[2]})")
def test_likelihood_is_that_of_the_closed_form(case: tuple, code: int) -> None:
    family, a, b, e, time, u = case
    loss = mlc.hazard_nll_loss(
        {"gompertz": gompertz, "weibull": weibull}[family],
        t(time),
        torch.tensor([code]),
        entry=t(e),
        upper=t(u),
        args=(t(a), t(b)),
        rtol=1e-11,
    )
    assert loss.item() == pytest.approx(
        exact(family, a, b, code, e, time, u), rel=1e-11
    )


@pytest.mark.parametrize("case", CASES[:5], ids=lambda c: f"{c[1]}, {c[2]}")
def test_a_fixed_rule_serves_all_kinds_at_once(case: tuple) -> None:
    _, a, b, e, time, u = case
    loss = mlc.hazard_nll_loss(
        gompertz,
        t(time).expand(4),
        EVERY,
        "none",
        entry=t(e).expand(4),
        upper=t(u).expand(4),
        args=(t(a).expand(4), t(b).expand(4)),
        rule=mlc.GaussLegendre(40),
    )
    expected = [exact("gompertz", a, b, code, e, time, u) for code in mlc.Censoring]
    torch.testing.assert_close(loss, t(*expected), rtol=1e-12, atol=0)


def test_default_tolerance_is_that_of_integrate() -> None:
    time, level, slope = t(0.5, 2.0, 9.0), t(-1.0, 0.0, -2.0), t(0.3, 0.2, 0.5)
    loss = mlc.hazard_nll_loss(gompertz, time, time > 0, "none", args=(level, slope))
    expected = [
        exact("gompertz", a, b, EVENT, 0.0, s, 0.0)
        for a, b, s in zip(level.tolist(), slope.tolist(), time.tolist(), strict=True)
    ]
    torch.testing.assert_close(loss, t(*expected), rtol=1e-8, atol=0)


def test_booleans_are_right_censoring_and_events() -> None:
    time, event = t(1.0, 2.0, 3.0), torch.tensor([True, False, True])
    options = {"reduction": "none", "args": (number(0.0), number(0.3))}
    coded = mlc.hazard_nll_loss(gompertz, time, event.long(), **options)
    plain = mlc.hazard_nll_loss(gompertz, time, event, **options)
    assert torch.equal(coded, plain)


def test_entry_is_0_unless_given() -> None:
    options = {"reduction": "none", "args": (number(0.0), number(0.3))}
    time, event = t(1.0, 2.0), torch.tensor([True, False])
    late = mlc.hazard_nll_loss(gompertz, time, event, entry=t(0.5, 0.5), **options)
    zero = mlc.hazard_nll_loss(gompertz, time, event, entry=t(0.0, 0.0), **options)
    none = mlc.hazard_nll_loss(gompertz, time, event, **options)
    assert torch.equal(zero, none)
    assert (late < none).all()


def test_what_may_have_happened_has_probability_1() -> None:
    time, upper = t(0.5, 2.0), t(0.9, 7.0)
    probability = torch.zeros(2, dtype=DOUBLE)
    for code, at in ((LEFT, time), (INTERVAL, time), (RIGHT, upper)):
        codes = torch.full((2,), int(code))
        loss = mlc.hazard_nll_loss(
            gompertz,
            at,
            codes,
            "none",
            upper=upper,
            entry=t(0.1, 0.2),
            args=(number(-1.0), number(0.3)),
        )
        probability = probability + (-loss).exp()
    torch.testing.assert_close(probability, t(1.0, 1.0), rtol=1e-9, atol=0)


def test_an_interval_without_end_is_right_censoring() -> None:
    time = t(1.0, 2.0)
    for upper in (t(math.inf, math.inf), None):
        open_end = mlc.hazard_nll_loss(
            gompertz,
            time,
            torch.tensor([INTERVAL] * 2),
            upper=upper,
            args=(number(0.0), number(0.3)),
        )
        right = mlc.hazard_nll_loss(
            gompertz, time, torch.tensor([False] * 2), args=(number(0.0), number(0.3))
        )
        assert torch.equal(open_end, right)


@pytest.mark.parametrize("code", [LEFT, INTERVAL])
def test_hazards_that_underflow_keep_their_log(code: int) -> None:
    # In float32 exp(-200) is 0; the probability of an event is about exp(-200) * 2.
    level = torch.tensor([-200.0], requires_grad=True)
    loss = mlc.hazard_nll_loss(
        lambda s, a: a.expand_as(s),
        torch.tensor([2.0]),
        torch.tensor([int(code)]),
        upper=torch.tensor([4.0]),
        args=(level,),
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(200 - math.log(2), rel=1e-7)
    assert torch.autograd.grad(loss, level)[0].item() == pytest.approx(-1)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_log_probability_is_exact_with_two_derivatives(dtype: torch.dtype) -> None:
    b = torch.cat([torch.linspace(-80, 4, 211), torch.tensor([0.0, -1e-3, 1e-3])])
    b = b.to(dtype).requires_grad_()
    value = minus_log_probability(b)
    (slope,) = torch.autograd.grad(value.sum(), b, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), b)

    def formula(x: mp.mpf) -> mp.mpf:
        return -mp.log(-mp.expm1(-mp.exp(x)))

    def first(x: mp.mpf) -> mp.mpf:
        return -mp.exp(x) / mp.expm1(mp.exp(x))

    def second(x: mp.mpf) -> mp.mpf:
        y = mp.exp(x)
        return -y / mp.expm1(y) + y**2 * mp.exp(y) / mp.expm1(y) ** 2

    # The argument enters by its exponential, so its rounding grows by up to exp(4).
    rtol = 64 * torch.finfo(dtype).eps
    with mp.workdps(60):
        for found, wanted in ((value, formula), (slope, first), (curvature, second)):
            expected = [float(wanted(mp.mpf(x))) for x in b.tolist()]
            torch.testing.assert_close(
                found, torch.tensor(expected, dtype=dtype), rtol=rtol, atol=0
            )


def test_impossible_and_certain_events() -> None:
    value = minus_log_probability(t(-math.inf, math.inf, 800.0))
    assert value.tolist() == [math.inf, 0, 0]


def test_derivatives_by_the_times_are_those_of_the_docstring() -> None:
    entry, time, slope = t(0.2), t(1.5), 0.4
    loss = mlc.hazard_nll_loss(
        gompertz, time, torch.tensor([True]), entry=entry, args=(t(-1.0), t(slope))
    )
    by_time, by_entry = torch.autograd.grad(loss, (time, entry))
    hazard = (-1 + slope * time).exp()
    assert by_time.item() == pytest.approx(hazard.item() - slope, rel=1e-8)
    assert by_entry.item() == pytest.approx(-math.exp(-1 + slope * 0.2), rel=1e-8)


def every_kind(rule: mlc.Rule | None, coded: bool) -> object:
    event = EVERY if coded else EVERY == 1

    def loss(
        level: Tensor, slope: Tensor, entry: Tensor, time: Tensor, upper: Tensor
    ) -> Tensor:
        return mlc.hazard_nll_loss(
            gompertz,
            time,
            event,
            "none",
            entry=entry,
            upper=upper,
            args=(level.expand(4), slope.expand(4)),
            rule=rule,
        )

    return loss


def kinds() -> tuple[Tensor, ...]:
    times = (t(0.1, 0.2, 0.3, 0.4), t(1.0, 2.0, 3.0, 1.5), t(4.0, 4.0, 4.0, 4.5))
    return (t(-1.0), t(0.3), *times)


@pytest.mark.parametrize("coded", [True, False], ids=["codes", "booleans"])
def test_gradients_of_a_fixed_rule_in_every_mode(coded: bool) -> None:
    # Compiled is the longer way, of which the other is a part.
    loss = every_kind(mlc.GaussLegendre(16), coded)
    check_gradients(loss, kinds(), compile=coded, max_elements=2)


def test_gradients_of_the_default() -> None:
    # A search is not compiled.
    check_gradients(every_kind(None, True), kinds(), compile=False, max_elements=1)


def test_gradients_reach_a_network() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def log_hazard(s: Tensor, x: Tensor) -> Tensor:
        x = x.expand(*s.shape, 2)
        return net(torch.cat([s[..., None], x], -1))[..., 0]

    module = mlc.HazardNLLLoss(log_hazard, mlc.GaussLegendre(12))
    features = torch.randn(3, 2, dtype=DOUBLE, requires_grad=True)
    time = t(0.5, 1.0, 2.0, grad=False)
    check_gradients(
        lambda x: module(time, time > 0.7, x),
        features,
        params=net.parameters(),
        max_elements=2,
        compile=False,
    )


def test_hazards_are_not_asked_where_they_do_not_count() -> None:
    # At its end the hazard is 0, with an infinite derivative of its log.
    end = number(2.0)

    def fading(s: Tensor) -> Tensor:
        return (end - s).log()

    for event in (torch.tensor([False]), torch.tensor([int(RIGHT)])):
        loss = mlc.hazard_nll_loss(fading, t(2.0, grad=False), event, rtol=1e-12)
        assert loss.item() == pytest.approx(2)
        assert torch.autograd.grad(loss, end)[0].item() == pytest.approx(2)


def test_a_jump_in_the_hazard_is_a_breakpoint() -> None:
    def step(s: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return torch.where(s < 1, low, high).log()

    time, event = t(0.5, 3.0, grad=False), torch.tensor([True, True])
    args = (number(0.7), number(0.2))
    expected = t(0.35 - math.log(0.7), 0.7 + 0.4 - math.log(0.2))
    rule = mlc.GaussLegendre(4)
    for breakpoints in ([1.0], torch.tensor([1.0], dtype=DOUBLE)):
        loss = mlc.hazard_nll_loss(
            step, time, event, "none", args=args, rule=rule, breakpoints=breakpoints
        )
        torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
        module = mlc.HazardNLLLoss(
            step, rule, reduction="none", breakpoints=breakpoints
        )
        torch.testing.assert_close(module(time, event, *args), expected)
    without = mlc.hazard_nll_loss(step, time, event, "none", args=args, rule=rule)
    assert (without - expected).abs().max() > 0.01
    assert list(module.state_dict()) == ["breakpoints"]
    assert module.float().breakpoints.dtype == torch.float32


def test_reductions() -> None:
    time, event = t(1.0, 2.0, 3.0), torch.tensor([1, 0, 2])
    assert_reductions(
        lambda reduction, weight: mlc.hazard_nll_loss(
            gompertz, time, event, reduction, weight, args=(number(0.0), number(0.3))
        ),
        time,
    )


def test_no_subject_and_a_single_one() -> None:
    rate = t(0.5)[0]

    def loss(time: Tensor, reduction: str) -> Tensor:
        return mlc.hazard_nll_loss(
            lambda s: rate.log().expand_as(s), time, time > 0, reduction
        )

    assert loss(torch.zeros(0, dtype=DOUBLE), "sum").item() == 0
    assert loss(torch.zeros(0, dtype=DOUBLE), "mean").isnan()
    assert loss(torch.zeros(0, 3, dtype=DOUBLE), "none").shape == (0, 3)
    one = loss(torch.tensor(2.0, dtype=DOUBLE), "none")
    assert one.shape == ()
    assert one.item() == pytest.approx(1 + math.log(2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    time, event = torch.tensor([0.7, 2.3], dtype=dtype), torch.tensor([True, False])
    args = (torch.tensor([-1.0, 0.0]), torch.tensor([0.3, 0.1]))
    loss = mlc.hazard_nll_loss(gompertz, time, event, args=args)
    wide = mlc.hazard_nll_loss(gompertz, time.float(), event, args=args)
    assert loss.dtype == dtype
    assert torch.equal(loss, wide.to(dtype))


def test_module() -> None:
    time, event, x = t(1.0, 2.0), torch.tensor([1, 3]), t(0.1, -0.2)
    upper, entry, weight = t(2.0, 3.0), t(0.1, 0.2), t(1.0, 2.0)
    options = {"upper": upper, "entry": entry, "weight": weight}
    rule = mlc.GaussLegendre(10)
    module = mlc.HazardNLLLoss(Gompertz(), rule, reduction="sum", validate=True)
    expected = mlc.hazard_nll_loss(
        module.log_hazard, time, event, "sum", args=(x,), rule=rule, **options
    )
    assert_module(module, lambda m: m(time, event, x, **options), expected)
    assert dict(module.named_parameters()).keys() == {
        "log_hazard.level",
        "log_hazard.slope",
    }
    assert_settings(lambda rule, **s: mlc.HazardNLLLoss(Gompertz(), rule, **s))
    with pytest.raises(TypeError, match="validate must be True, False or None"):
        mlc.HazardNLLLoss(Gompertz(), validate=1)


def test_settings_of_the_search_arrive() -> None:
    def bumpy(s: Tensor) -> Tensor:
        return torch.sin(200 * s)

    time = t(10.0, grad=False)
    for settings in ({"max_evals": 30}, {"max_evals": 30, "memory": 64}):
        module = mlc.HazardNLLLoss(bumpy, on_failure="raise", **settings)
        with pytest.raises(mlc.IntegrationError):
            module(time, time > 0)
    coarse, fine = (
        mlc.HazardNLLLoss(bumpy, rtol=rtol)(time, time > 0) for rtol in (0.1, 1e-12)
    )
    assert coarse != fine
    loose = mlc.HazardNLLLoss(bumpy, atol=10.0)(time, time > 0)
    assert loose != fine


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": t(1.0, -2.0)}, r"time must be finite and >= 0, got -2.0 at \[1\]"),
        ({"time": t(1.0, math.inf)}, "time must be finite"),
        ({"entry": t(0.0, -1.0)}, "entry must not be negative, got -1.0"),
        ({"entry": t(0.0, 3.0)}, "time must not be before entry, got 2.0"),
        ({"event": torch.tensor([1, 4])}, "event must be a code of Censoring.* got 4"),
        ({"upper": t(0.0, 1.5)}, "upper must be after time, got 1.5"),
        ({"upper": None}, "event needs upper for Censoring.INTERVAL, got 3"),
    ],
)
def test_values_are_refused_when_validated(change: dict, message: str) -> None:
    subjects = {
        "time": t(1.0, 2.0),
        "event": torch.tensor([1, 3]),
        "upper": t(9.0, 9.0),
        "entry": t(0.0, 0.5),
    }
    options = {"args": (number(0.0), number(0.3)), "rule": mlc.GaussLegendre(4)}
    mlc.hazard_nll_loss(gompertz, **subjects, **options, validate=True)
    with pytest.raises(ValueError, match=message):
        mlc.hazard_nll_loss(gompertz, **(subjects | change), **options, validate=True)


def test_values_are_not_looked_at_otherwise() -> None:
    time = t(-1.0, math.nan)
    options = {"reduction": "none", "rule": mlc.GaussLegendre(4)}
    loss = mlc.hazard_nll_loss(torch.zeros_like, time, torch.tensor([0, 7]), **options)
    assert loss.tolist() == [-1, pytest.approx(math.nan, nan_ok=True)]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"event": t(1.0, 0.0)}, TypeError, "event must hold booleans or the integer"),
        ({"event": t(1.0, 0.0) * 1j}, TypeError, "got torch.complex128; convert with"),
        ({"event": [True, False]}, TypeError, "event must be a torch.Tensor, got list"),
        ({"event": torch.tensor([True])}, ValueError, "event must have the shape of"),
        ({"time": [1.0, 2.0]}, TypeError, "time must be a torch.Tensor, got list"),
        ({"upper": t(1.0)}, ValueError, "upper must have the shape of time"),
        ({"entry": t(1.0)}, ValueError, "entry must have the shape of time"),
        ({"log_hazard": 3.0}, TypeError, "log_hazard must be a function .* got float"),
        ({"time": torch.tensor([1, 2])}, TypeError, "time must be floating-point"),
    ],
)
def test_what_cannot_be_is_always_refused(
    change: dict, error: type, message: str
) -> None:
    call = {
        "log_hazard": lambda s: torch.zeros_like(s),
        "time": t(1.0, 2.0),
        "event": torch.tensor([True, False]),
    }
    mlc.hazard_nll_loss(**call)
    with pytest.raises(error, match=message):
        mlc.hazard_nll_loss(**(call | change))
