"""Tests of fixed rules applied: values, limits, gradients, transforms and blocks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual

import torch_mlcalc.quadrature as q
from torch_mlcalc.quadrature import contract, fixed
from torch_mlcalc.quadrature.domains import Extent, of_numbers
from torch_mlcalc.quadrature.placement import Placement

F64 = torch.float64
forward_mode = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")


def t(value: object, dtype: torch.dtype = F64, grad: bool = False) -> Tensor:
    return torch.tensor(value, dtype=dtype, requires_grad=grad)


def parabola(x: Tensor) -> Tensor:
    return 3 * x**2


def bell(x: Tensor) -> Tensor:
    return torch.exp(-x * x)


def never(x: Tensor) -> Tensor:
    raise AssertionError("called all the same")


# --- Values ---------------------------------------------------------------------------

ROOT_PI = math.sqrt(math.pi)
LINE = q.Interval(-math.inf, math.inf)
VALUES = {
    "legendre": (
        torch.exp,
        q.Interval(-1, 2),
        q.GaussLegendre(12),
        math.e**2 - 1 / math.e,
    ),
    "clenshaw": (
        torch.exp,
        q.Interval(-1, 2),
        q.ClenshawCurtis(20),
        math.e**2 - 1 / math.e,
    ),
    "simpson": (parabola, q.Interval(-1, 2), q.Simpson(3), 9.0),
    "trapezoid": (
        lambda x: torch.exp(torch.cos(x)),
        q.Interval(0, 2 * math.pi),
        q.Trapezoid(21),
        7.95492652101284,  # 2 pi I_0(1)
    ),
    "tabulated": (
        parabola,
        q.Interval(1, 2),
        q.TabulatedRule([-(3**-0.5), 3**-0.5], [1, 1]),
        7.0,
    ),
    "hermite": (bell, q.RealLine(), q.GaussHermite(120), ROOT_PI),
    "hermite placed": (
        lambda x: torch.exp(-((x - 5) ** 2) / 18) * x,
        q.RealLine(5.0, 3.0),
        q.GaussHermite(2),
        5 * 3 * math.sqrt(2 * math.pi),
    ),
    "hermite whole": (
        bell,
        q.Interval(-math.inf, math.inf),
        q.GaussHermite(120),
        ROOT_PI,
    ),
    "laguerre": (lambda x: x**3 * torch.exp(-x), q.HalfLine(), q.GaussLaguerre(2), 6.0),
    "laguerre placed": (
        lambda x: torch.exp(-(x - 2) / 3),
        q.HalfLine(2.0, 3.0),
        q.GaussLaguerre(1),
        3.0,
    ),
    "laguerre alpha": (
        lambda x: torch.sqrt(x) * torch.exp(-x),
        q.HalfLine(),
        q.GaussLaguerre(1, 0.5),
        ROOT_PI / 2,
    ),
    "laguerre below": (
        lambda x: x * torch.exp(x),
        q.Interval(-math.inf, 1),
        q.GaussLaguerre(2),
        0.0,
    ),
    "laguerre above": (
        lambda x: torch.exp(1 - x),
        q.Interval(1.0, math.inf),
        q.GaussLaguerre(2),
        1.0,
    ),
    "jacobi": (
        lambda x: (1 - x) ** 1.5 * torch.sqrt(x + 1) * x,
        q.Interval(-1, 1),
        q.GaussJacobi(2, 1.5, 0.5),
        -math.pi / 8,
    ),
    "jacobi off-centre": (
        lambda x: 1 / torch.sqrt((x - 2) * (5 - x)),
        q.Interval(2, 5),
        q.GaussJacobi(3, -0.5, -0.5),
        math.pi,
    ),
    "legendre half line": (
        lambda x: 1 / (1 + x) ** 2,
        q.Interval(0, math.inf),
        q.GaussLegendre(4),
        1.0,
    ),
    "legendre below": (
        lambda x: 1 / (3 - x) ** 2,
        q.Interval(-math.inf, 2),
        q.GaussLegendre(4),
        1.0,
    ),
    "legendre real line": (bell, q.RealLine(), q.GaussLegendre(80), ROOT_PI),
}


@pytest.mark.parametrize("case", VALUES)
def test_values_equal_closed_forms_in_float64(case: str) -> None:
    function, domain, rule, wanted = VALUES[case]

    def checked(x: Tensor, one: Tensor) -> Tensor:
        assert x.dtype == F64
        assert x.shape == (rule.n,)
        return one * function(x)

    value = q.integrate(checked, domain, rule, args=(t(1.0),))
    assert value.dtype == F64
    assert value.shape == ()
    assert value.item() == pytest.approx(wanted, rel=1e-12, abs=1e-13)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 5e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
    ids=str,
)
@pytest.mark.parametrize("case", ["legendre", "simpson", "clenshaw", "laguerre above"])
def test_values_in_reduced_precision(
    case: str, dtype: torch.dtype, tolerance: float
) -> None:
    function, domain, rule, wanted = VALUES[case]
    lower, upper = (torch.tensor(limit, dtype=dtype) for limit in domain.extent[:2])
    points: list[Tensor] = []

    def seen(x: Tensor) -> Tensor:
        points.append(x)
        return function(x)

    value = q.integrate(seen, q.Interval(lower, upper), rule)
    assert value.dtype == points[0].dtype == dtype
    assert value.item() == pytest.approx(wanted, rel=tolerance)


# In bfloat16 the weights of 65,302 nodes would be 0.4 % too small.
@pytest.mark.parametrize("n", [65_302, 100_001])
def test_half_precision_sums_in_float32(n: int) -> None:
    limits = torch.tensor([0.0, 1.0], dtype=torch.bfloat16)
    value = q.integrate(torch.ones_like, q.Interval(*limits), q.Trapezoid(n))
    assert value.item() == 1.0


def test_python_numbers_take_the_default_dtype() -> None:
    assert (
        q.integrate(torch.exp, q.Interval(0, 1), q.GaussLegendre(3)).dtype
        == torch.float32
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    try:
        value = q.integrate(torch.exp, q.Interval(0, 1), q.GaussLegendre(9))
    finally:
        torch.set_default_dtype(before)
    assert value.dtype == F64
    assert value.item() == pytest.approx(math.e - 1, rel=1e-14)


@pytest.mark.parametrize("domain", [q.Interval(3, 1), q.HalfLine(2), q.RealLine()])
def test_the_short_way_of_small_calls_changes_nothing(domain: q.Domain) -> None:
    rate = torch.tensor([1.0, 2.0], requires_grad=True)

    def integrand(x: Tensor) -> Tensor:
        values = torch.exp(-rate * x.square()[:, None])
        x.zero_()  # as an integrand may
        return values

    rule = q.GaussLegendre(16)
    # Any option, also one without effect here, takes the long way.
    long, short = (
        q.integrate(integrand, domain, rule, memory=memory) for memory in (2**20, None)
    )
    assert torch.equal(short, long)
    assert torch.equal(
        *(torch.autograd.grad(value.sum(), rate)[0] for value in (short, long))
    )
    assert torch.equal(q.integrate(integrand, domain, rule), long)
    halves = q.integrate(lambda x: x.long(), q.Interval(0, 4), q.Trapezoid(5))
    assert halves == 8


def test_dtype_follows_limits_then_args() -> None:
    rule = q.GaussLegendre(3)
    times = lambda x, a: a * x  # noqa: E731
    limits = q.integrate(times, q.Interval(0, t(1.0)), rule, args=(torch.ones(()),))
    args = q.integrate(times, q.Interval(0, 1), rule, args=(t(1.0),))
    assert (limits.dtype, args.dtype) == (F64, F64)


# --- Limits ---------------------------------------------------------------------------


def test_mixed_limits_in_one_batch() -> None:
    inf = math.inf
    lower = t([-1.0, 0.0, -inf, -inf, inf, 2.0, inf, -inf, inf, 1.0])
    upper = t([1.0, inf, 0.0, inf, -inf, 1.0, 0.0, -inf, inf, 1.0])
    lorentz = lambda x: 1 / (1 + x * x)  # noqa: E731
    value = q.integrate(lorentz, q.Interval(lower, upper), q.GaussLegendre(40))
    torch.testing.assert_close(value, upper.atan() - lower.atan())


def test_gradient_of_mixed_limits_reaches_only_finite_ones() -> None:
    inf = math.inf
    lower = t([-1.0, 0.5, -inf, -inf, 2.0], grad=True)
    upper = t([1.0, inf, 0.3, inf, 1.0], grad=True)
    # On infinite ranges a fixed rule is right in value and so in gradient.
    lorentz = lambda x: 1 / (1 + x * x)  # noqa: E731
    value = q.integrate(lorentz, q.Interval(lower, upper), q.GaussLegendre(80))
    low, high = torch.autograd.grad(value.sum(), (lower, upper))
    wanted = torch.where(lower.isfinite(), -1 / (1 + lower**2), 0).detach()
    torch.testing.assert_close(low, wanted)
    wanted = torch.where(upper.isfinite(), 1 / (1 + upper**2), 0).detach()
    torch.testing.assert_close(high, wanted)


@pytest.mark.parametrize("tensor", [False, True])
def test_reversed_limits_flip_the_sign_and_equal_ones_give_zero(tensor: bool) -> None:
    make = t if tensor else float
    rule = q.GaussLegendre(5)

    def value(a: float, b: float) -> float:
        return q.integrate(parabola, q.Interval(make(a), make(b)), rule).item()

    assert value(2.0, 1.0) == pytest.approx(-7.0)
    assert value(1.0, 1.0) == 0.0
    decay = lambda x: 1 / (1 + x * x)  # noqa: E731
    wide = q.GaussLegendre(30)
    for a, b in [(math.inf, 0.0), (0.0, -math.inf), (math.inf, -math.inf)]:
        domain = q.Interval(make(a), make(b))
        found = q.integrate(decay, domain, wide).item()
        assert found == pytest.approx(math.atan(b) - math.atan(a), rel=1e-6)
    for a in (math.inf, -math.inf):
        domain = q.Interval(make(a), make(a))
        assert q.integrate(decay, domain, wide).item() == 0.0


def test_equal_limits_have_their_boundary_gradients() -> None:
    a, b = t(1.0, grad=True), t(1.0, grad=True)
    value = q.integrate(parabola, q.Interval(a, b), q.GaussLegendre(5))
    low, high = torch.autograd.grad(value, (a, b))
    assert (low.item(), high.item()) == (pytest.approx(-3.0), pytest.approx(3.0))


def test_equal_limits_in_a_mixed_batch_have_their_boundary_gradients() -> None:
    a, b = t([1.0, 2.0, 0.0], grad=True), t([1.0, 1.0, math.inf], grad=True)
    value = q.integrate(
        lambda x: 1 / (1 + x) ** 2, q.Interval(a, b), q.GaussLegendre(40)
    )
    low, high = torch.autograd.grad(value.sum(), (a, b))
    torch.testing.assert_close(low, t([-1 / 4, -1 / 9, -1.0]))
    torch.testing.assert_close(high, t([1 / 4, 1 / 4, 0.0]))


@pytest.mark.parametrize("tensor", [False, True])
def test_equal_limits_give_zero_where_the_integrand_is_infinite(tensor: bool) -> None:
    a = t(1.0, grad=True)
    zero = t(0.0) if tensor else 0.0
    value = q.integrate(lambda x: a / x, q.Interval(zero, zero), q.GaussLegendre(4))
    assert value.item() == 0.0
    assert value.requires_grad


@pytest.mark.parametrize(
    "domain",
    [
        q.Interval(0, 2),
        q.Interval(torch.tensor(0), torch.tensor(2)),
        q.Interval(0, torch.tensor(2)),
        q.Interval(torch.tensor(0), 2.0),
    ],
    ids=str,
)
def test_integer_limits_work_as_float(domain: q.Interval) -> None:
    value = q.integrate(parabola, domain, q.GaussLegendre(3))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(8.0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int64], ids=str)
@pytest.mark.parametrize("shape", [(), (2,)], ids=str)
def test_the_difference_of_integer_limits_does_not_wrap_around(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    info = torch.iinfo(dtype)
    least, most = (torch.full(shape, n, dtype=dtype) for n in (info.min, info.max))
    for lower, upper in ((least, most), (most, least)):
        value = q.integrate(torch.ones_like, q.Interval(lower, upper), RULE)
        torch.testing.assert_close(value, upper.float() - lower.float())


def test_integer_limits_do_not_narrow_the_other() -> None:
    upper = torch.tensor([math.inf, 16777217.0], dtype=torch.float64)
    for one, other in ((torch.tensor([1, 1]), upper), (upper, torch.tensor(1))):
        value = q.integrate(torch.ones_like, q.Interval(one, other), RULE)
        assert abs(value[1].item()) == 16777216


def test_integer_limits_with_an_infinite_one() -> None:
    domain = q.Interval(torch.tensor([1, 2]), math.inf)
    value = q.integrate(lambda x: x**-2, domain, q.GaussLegendre(40))
    torch.testing.assert_close(value, torch.tensor([1.0, 0.5]), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("rule", "domain", "message"),
    [
        (q.GaussHermite(5), q.Interval(0, 1), r"measure: normal\) .* a finite"),
        (q.GaussHermite(5), q.Interval(0, 1), r"use a rule such as GaussLegendre\(5\)"),
        (q.GaussHermite(5), q.HalfLine(), "cannot integrate over a half line"),
        (q.GaussLaguerre(5), q.RealLine(), r"lives on \[0, inf\) .* the real line"),
        (q.GaussLaguerre(5), q.Interval(0, 1), "cannot integrate over a finite"),
        (q.GaussJacobi(5, 0.5, 0.5), q.HalfLine(), "cannot integrate over a half"),
        (q.Trapezoid(5), q.RealLine(), r"Trapezoid\(n=5\) has a node at the end"),
        (q.Simpson(5), q.HalfLine(), "has a node at the end of the interval, which is"),
        (q.ClenshawCurtis(5), q.Interval(-math.inf, 0), "use an open rule such as"),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit_the_domain_say_so(
    rule: q.FixedRule, domain: q.Domain, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        q.integrate(bell, domain, rule)


def test_rules_that_do_not_fit_a_part_of_a_batch_say_so() -> None:
    domain = q.Interval(0.0, t([1.0, math.inf]))
    with pytest.raises(ValueError, match="half line|infinite here"):
        q.integrate(bell, domain, q.Simpson(5))
    with pytest.raises(ValueError, match="cannot integrate over a"):
        q.integrate(bell, domain, q.GaussLaguerre(5))


# --- Shapes ---------------------------------------------------------------------------


def test_points_are_nodes_first_then_the_batch() -> None:
    shapes: list[torch.Size] = []

    def function(x: Tensor, a: Tensor) -> Tensor:
        shapes.append(x.shape)
        return a * x

    domain = q.Interval(torch.zeros(3, 1), torch.ones(4))
    a = torch.arange(24.0).reshape(2, 3, 4)
    value = q.integrate(function, domain, q.GaussLegendre(5), args=(a,))
    assert shapes == [(5, 2, 3, 4)]
    torch.testing.assert_close(value, a / 2)


def test_event_dimensions_come_last() -> None:
    upper = t([1.0, 2.0])
    powers = torch.arange(6, dtype=F64).reshape(3, 2)
    value = q.integrate(
        lambda x: x[..., None, None] ** powers, q.Interval(0, upper), q.GaussLegendre(4)
    )
    wanted = upper[:, None, None] ** (powers + 1) / (powers + 1)
    torch.testing.assert_close(value, wanted)
    alone = q.integrate(
        lambda x: x[..., None, None] ** powers,
        q.Interval(0, t(1.0)),
        q.GaussLegendre(4),
    )
    torch.testing.assert_close(alone, 1 / (powers + 1))


def test_event_dimensions_with_mixed_limits() -> None:
    domain = q.Interval(t([0.0, 1.0]), t([1.0, math.inf]))
    value = q.integrate(
        lambda x: torch.stack([x**-0.0 / (1 + x) ** 2, 2 / (1 + x) ** 3], -1),
        domain,
        q.GaussLegendre(30),
    )
    torch.testing.assert_close(value, t([[0.5, 0.75], [0.5, 0.25]]))


def test_complex_values() -> None:
    omega = t([1.0, 2.0], grad=True)
    value = q.integrate(
        lambda x, omega: torch.exp(1j * omega * x),
        q.Interval(0.0, t(math.pi)),
        q.GaussLegendre(30),
        args=(omega,),
    )
    assert value.dtype == torch.complex128
    torch.testing.assert_close(value, t([2j, 0j], torch.complex128) * 1.0)
    (found,) = torch.autograd.grad(value.imag.sum(), omega)
    # d/dw of (1 - cos(w pi)) / w.
    torch.testing.assert_close(found, t([-2.0, 0.0]))


def test_batch_shape_declares_arguments_with_dimensions_of_their_own() -> None:
    weights = torch.randn(3, 5, dtype=F64)

    def polynomial(x: Tensor, weights: Tensor) -> Tensor:
        assert x.shape == (6, 3)
        return (x[..., None] ** torch.arange(5) * weights).sum(-1)

    value = q.integrate(
        polynomial,
        q.Interval(0, 1),
        q.GaussLegendre(6),
        args=(weights,),
        batch_shape=(3,),
    )
    torch.testing.assert_close(value, weights @ (1 / torch.arange(1.0, 6, dtype=F64)))


def test_batch_shape_for_a_closure() -> None:
    rate = t([1.0, 2.0])
    value = q.integrate(
        lambda x: torch.exp(-rate * x).to(F64),
        q.Interval(0, 1),
        q.GaussLegendre(12),
        batch_shape=(2,),
    )
    torch.testing.assert_close(value, (1 - torch.exp(-rate)) / rate, rtol=1e-6, atol=0)


def test_args_may_hold_anything_and_a_list() -> None:
    value = q.integrate(
        lambda x, power, scale: scale["a"] * x**power,
        q.Interval(0, 1),
        q.GaussLegendre(3),
        args=[2, {"a": 3.0}],
    )
    assert value.item() == pytest.approx(1.0)


# --- Gradients ------------------------------------------------------------------------

FINITE = [
    q.GaussLegendre(6),
    q.GaussJacobi(6, 0.5, -0.5),
    q.ClenshawCurtis(6),
    q.Trapezoid(6),
    q.Simpson(7),
    q.TabulatedRule([-0.5, 0.1, 0.6], [0.7, 0.8, 0.5]),
]


def wave(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.sin(a * x) * torch.exp(-b * x * x) + a * b


def checked_all_orders(
    function: Callable[..., Tensor], inputs: tuple[Tensor, ...]
) -> None:
    assert gradcheck(function, inputs, check_forward_ad=True)
    assert gradgradcheck(function, inputs, check_fwd_over_rev=True)


@forward_mode
@pytest.mark.parametrize(
    ("rule", "blocks"),
    [*((rule, False) for rule in FINITE), (FINITE[0], True), (FINITE[4], True)],
    ids=str,
)
def test_gradients_of_args_limits_and_closure(rule: q.FixedRule, blocks: bool) -> None:
    def value(low: Tensor, high: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return q.integrate(
            lambda x, a: wave(x, a, b),
            q.Interval(low, high),
            rule,
            args=(a,),
            memory=300 if blocks else None,
        )

    inputs = (
        t([0.1, 0.7], grad=True),
        t(1.3, grad=True),
        t([1.5, 2.0], grad=True),
        t(0.8, grad=True),
    )
    checked_all_orders(value, inputs)


@forward_mode
@pytest.mark.parametrize("rule", FINITE, ids=str)
def test_gradients_of_breakpoints(rule: q.FixedRule) -> None:
    def value(breaks: Tensor, high: Tensor, a: Tensor) -> Tensor:
        return q.integrate(
            lambda x: wave(x, a, a), q.Interval(0.0, high), rule, breakpoints=breaks
        )

    inputs = (t([0.3, 0.9], grad=True), t(1.3, grad=True), t(1.1, grad=True))
    checked_all_orders(value, inputs)


@forward_mode
@pytest.mark.parametrize("rule", FINITE[:4], ids=str)
def test_gradients_in_the_log_form(rule: q.FixedRule) -> None:
    def value(low: Tensor, high: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return q.log_integrate(
            lambda x, a: -a * x * x + b * x, q.Interval(low, high), rule, args=(a,)
        )

    inputs = (
        t([0.1, 0.7], grad=True),
        t(1.3, grad=True),
        t(1.5, grad=True),
        t(0.8, grad=True),
    )
    checked_all_orders(value, inputs)


@forward_mode
@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (q.RealLine, q.GaussHermite(5)),
        (q.HalfLine, q.GaussLaguerre(5)),
        (q.HalfLine, q.GaussLaguerre(5, 0.5)),
        (q.RealLine, q.GaussLegendre(6)),
        (q.HalfLine, q.GaussLegendre(6)),
    ],
    ids=str,
)
@pytest.mark.parametrize("call", [q.integrate, q.log_integrate])
def test_gradients_on_unbounded_domains(
    make: Callable[..., q.Domain], rule: q.FixedRule, call: Callable[..., Tensor]
) -> None:
    def value(place: Tensor, scale: Tensor, a: Tensor) -> Tensor:
        log = lambda x, a: -a * x * x + torch.sin(a * x)  # noqa: E731
        function = log if call is q.log_integrate else lambda x, a: log(x, a).exp()
        return call(function, make(place, scale), rule, args=(a,))

    inputs = (t([0.1, -0.3], grad=True), t(1.2, grad=True), t(0.7, grad=True))
    checked_all_orders(value, inputs)


@forward_mode
def test_gradients_of_limits_finite_in_part() -> None:
    def value(low: Tensor, a: Tensor) -> Tensor:
        high = t([1.0, math.inf, 0.5])
        return q.integrate(
            lambda x: torch.exp(-a * x * x), q.Interval(low, high), q.GaussLegendre(6)
        )

    checked_all_orders(value, (t([0.1, 0.2, 0.9], grad=True), t(1.2, grad=True)))


def test_a_breakpoint_on_a_moving_jump_gives_the_jump_term() -> None:
    c = t(0.3, grad=True)
    value = q.integrate(
        lambda x: (x < c).to(F64),
        q.Interval(0, t(1.0)),
        q.GaussLegendre(4),
        breakpoints=c[None],
    )
    assert value.item() == pytest.approx(0.3)
    (found,) = torch.autograd.grad(value, c)
    assert found.item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("rule", "breakpoints", "slope"),
    [
        (q.GaussLegendre(40), None, 0.3),
        (q.GaussLegendre(40), [0.3], 0.0),
        (None, None, 0.0),
    ],
    ids=["fixed", "split", "adaptive"],
)
def test_limits_of_fixed_rules_carry_a_jump_along_unless_it_is_a_breakpoint(
    rule: q.Rule | None, breakpoints: list[float] | None, slope: float
) -> None:
    upper = t(1.0, grad=True)
    value = q.integrate(
        lambda x: (x < 0.3).to(F64),
        q.Interval(0, upper),
        rule,
        breakpoints=breakpoints,
    )
    (found,) = torch.autograd.grad(value, upper)
    assert found.item() == pytest.approx(slope, abs=0.02)


@pytest.mark.parametrize("reverse", [False, True])
def test_breakpoints_split_in_any_order_and_ignore_those_outside(reverse: bool) -> None:
    limits = (1.0, -1.0) if reverse else (-1.0, 1.0)
    value = q.integrate(
        lambda x: (x - 0.3).abs() + (x + 0.5).abs(),
        q.Interval(*(t(limit) for limit in limits)),
        q.GaussLegendre(2),
        breakpoints=[0.3, -0.5, 7.0],
    )
    wanted = (1.3**2 + 0.7**2 + 0.5**2 + 1.5**2) / 2
    assert value.item() == pytest.approx(-wanted if reverse else wanted)


def test_breakpoints_without_a_batch_are_shared_by_all_elements() -> None:
    upper = t([1.0, 2.0])
    value = q.integrate(
        lambda x: (x - 0.3).abs() + (x - 0.8).abs(),
        q.Interval(0, upper),
        q.GaussLegendre(2),
        breakpoints=t([0.8, 0.3]),
    )
    both = t([0.3, 0.8])[:, None]
    torch.testing.assert_close(value, ((both**2 + (upper - both) ** 2) / 2).sum(0))


def test_breakpoints_per_element_join_the_batch() -> None:
    breaks = t([[0.2, 0.4, 0.6]])
    value = q.integrate(
        lambda x, c: (x - c).abs(),
        q.Interval(0, t(1.0)),
        q.GaussLegendre(2),
        args=(breaks[0],),
        breakpoints=breaks,
    )
    torch.testing.assert_close(value, (breaks[0] ** 2 + (1 - breaks[0]) ** 2) / 2)


# --- Transforms and modes -------------------------------------------------------------


def energy(a: Tensor, high: Tensor) -> Tensor:
    return q.integrate(
        lambda x, a: torch.exp(-a * x * x),
        q.Interval(0.0, high),
        q.GaussLegendre(20),
        args=(a,),
    )


def test_vmap_equals_a_loop() -> None:
    a, high = t([0.5, 1.0, 2.0]), t([1.0, 2.0, 0.3])
    wanted = torch.stack([energy(*pair) for pair in zip(a, high, strict=True)])
    torch.testing.assert_close(torch.func.vmap(energy)(a, high), wanted)
    wanted = torch.stack([energy(one, high[0]) for one in a])
    found = torch.func.vmap(energy, in_dims=(0, None))(a, high[0])
    torch.testing.assert_close(found, wanted)


def test_vmap_over_infinite_limits() -> None:
    high = t([1.0, math.inf, -math.inf])
    value = torch.func.vmap(
        lambda b: q.integrate(
            lambda x: 1 / (1 + x * x), q.Interval(0.0, b), q.GaussLegendre(30)
        )
    )(high)
    torch.testing.assert_close(value, high.atan())


@forward_mode
def test_jacobians_and_hessian_equal_autograd() -> None:
    a, high = t([0.5, 1.0, 2.0]), t([1.0, 2.0, 0.3])
    wanted = torch.autograd.functional.jacobian(energy, (a, high))
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        found = transform(energy, argnums=(0, 1))(a, high)
        torch.testing.assert_close(found, wanted)
    total = lambda a, high: energy(a, high).sum()  # noqa: E731
    found = torch.func.hessian(total, argnums=(0, 1))(a, high)
    torch.testing.assert_close(
        found, torch.autograd.functional.hessian(total, (a, high))
    )
    per_row = torch.func.vmap(torch.func.grad(energy, argnums=(0, 1)))(a, high)
    rows = tuple(torch.diagonal(block) for block in wanted)
    torch.testing.assert_close(per_row, rows)


@forward_mode
def test_forward_mode_reaches_a_closure() -> None:
    with dual_level():
        a = make_dual(t(1.0), t(1.0))
        value = q.integrate(
            lambda x: torch.exp(a * x), q.Interval(0, t(1.0)), q.GaussLegendre(10)
        )
        tangent = unpack_dual(value).tangent
    assert tangent.item() == pytest.approx(1.0)


# Of all pairs of a rule and a call, as many as it takes for every step from one line of
# the package to the next that any of them makes: to compile one takes 1.6 s.
@pytest.mark.parametrize(
    ("call", "rule", "domain"),
    [
        (q.integrate, q.GaussLegendre(9), lambda b: q.Interval(0.0, b)),
        (q.integrate, q.GaussHermite(9), lambda b: q.RealLine(b)),
        (q.integrate, q.GaussLaguerre(9, 0.5), lambda b: q.HalfLine(b)),
        (q.log_integrate, q.Simpson(9), lambda b: q.Interval(-b, b)),
        (q.log_integrate, q.GaussHermite(9), lambda b: q.RealLine(b)),
        (q.log_integrate, q.GaussLegendre(9), lambda b: q.Interval(b, math.inf)),
    ],
    ids=[
        "legendre",
        "hermite",
        "laguerre",
        "log simpson",
        "log hermite",
        "log half line",
    ],
)
def test_compiles_without_a_graph_break(
    call: Callable[..., Tensor], rule: q.FixedRule, domain: Callable[..., q.Domain]
) -> None:
    torch.compiler.reset()

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return call(
            lambda x, a: torch.exp(-a * x * x), domain(b), rule, args=(a,)
        ).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    a, b = t([0.5, 1.0], grad=True), t([0.4, 0.7], grad=True)
    wanted, found = loss(a, b), compiled(a, b)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, (a, b)), torch.autograd.grad(wanted, (a, b))
    )


def test_training_after_a_first_call_in_inference_mode() -> None:
    rule = q.GaussLegendre(23)  # a rule that no other test has put into the cache
    a = t(1.0, grad=True)
    function = lambda x: a * torch.exp(-a * x)  # noqa: E731
    with torch.inference_mode():
        first = q.integrate(function, q.Interval(0, t(2.0)), rule)
    value = q.integrate(function, q.Interval(0, t(2.0)), rule)
    (found,) = torch.autograd.grad(value, a)
    assert found.item() == pytest.approx(2 * math.exp(-2.0))
    assert first.item() == value.item()


# --- Blocks ---------------------------------------------------------------------------

BLOCKED = [
    (q.GaussLegendre(101), q.Interval(0.0, 2.0)),
    (q.Simpson(20_001), q.Interval(0.0, 2.0)),
    (q.Trapezoid(20_000), q.Interval(2.0, 0.0)),
    (q.GaussHermite(60), q.RealLine(0.3, 1.5)),
    (q.GaussLaguerre(40), q.HalfLine(0.2)),
    (q.GaussLegendre(100), q.Interval(t([0.0, 1.0]), t([1.0, math.inf]))),
]


@pytest.mark.parametrize(("rule", "domain"), BLOCKED, ids=lambda v: repr(v)[:30])
@pytest.mark.parametrize("call", [q.integrate, q.log_integrate])
def test_blocks_equal_a_single_sweep_to_second_order(
    rule: q.FixedRule, domain: q.Domain, call: Callable[..., Tensor]
) -> None:
    if call is q.log_integrate and isinstance(rule, q.Trapezoid):
        domain = q.Interval(0.0, 2.0)
    a, b = t(0.9, grad=True), t(0.4, grad=True)
    results = []
    for memory in (rule.n * 8 // 7 * 8, 10**9):
        value = call(
            lambda x, a: torch.exp(-a * x * x) + torch.cos(b * x) ** 2 / (1 + x**4),
            domain,
            rule,
            args=(a,),
            memory=memory,
        ).sum()
        first = torch.autograd.grad(value, (a, b), create_graph=True)
        second = torch.autograd.grad(first[0] + 2 * first[1], (a, b))
        results.append((value.detach(), *(g.detach() for g in first), *second))
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-11)
    assert all(g.abs() > 1e-6 for g in results[0])


def sizes_seen(memory: int | None, n: int = 100_000) -> list[int]:
    sizes: list[int] = []

    def function(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x

    q.integrate(function, q.Interval(0, t(1.0)), q.Trapezoid(n), memory=memory)
    return sizes


def test_memory_bounds_the_block_and_no_node_is_seen_twice() -> None:
    for memory in (None, 1, 80_000, 10**6, 10**9):
        sizes = sizes_seen(memory, 1000 if memory == 1 else 100_000)
        assert sum(sizes) == (1000 if memory == 1 else 100_000)
        if memory is not None:
            assert max(sizes) <= max(memory // 8 // 8, 1)
    assert len(sizes_seen(10**9)) == 1
    assert max(sizes_seen(None)) * 8 <= 2**19


@pytest.mark.parametrize("rule", [q.Trapezoid(600_002), q.Simpson(600_001)], ids=repr)
@pytest.mark.parametrize("call", [q.integrate, q.log_integrate])
@pytest.mark.parametrize("batch", [(), (2,)], ids=["single", "batch"])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str
)
def test_blocks_of_a_long_rule_have_its_nodes_and_weights(
    rule: q.FixedRule,
    call: Callable[..., Tensor],
    batch: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    seen: list[Tensor] = []

    def integrand(x: Tensor) -> Tensor:
        seen.append(x)
        values = (0.3 * x.double()).sin()
        return values.log() if call is q.log_integrate else values

    lower, upper = torch.tensor([0.25, 7.25], dtype=dtype)
    value = call(integrand, q.Interval(lower, upper.expand(batch)), rule)
    assert len(seen) > 2
    found = torch.cat(seen).reshape(rule.n, -1)[:, 0]
    assert found.dtype == dtype
    assert (found.diff() >= 0).all()
    # Both ends are met, and not passed.
    assert (found[0], found[-1]) == (lower, upper)
    nodes, weights = (torch.tensor(c) for c in rule.nodes_and_weights())
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        found.double(), 3.75 + 3.5 * nodes, rtol=eps, atol=8 * eps
    )
    exact = (3.5 * weights * (0.3 * found.double()).sin()).sum()
    value = value.exp() if call is q.log_integrate else value
    rtol = 1e-13 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(value.double(), exact.expand(batch), rtol=rtol, atol=0)


def test_an_integrand_may_keep_and_write_to_the_points_of_a_block() -> None:
    kept: list[Tensor] = []

    def integrand(x: Tensor) -> Tensor:
        kept.append(x)
        copies.append(x.clone())
        return x * x

    def writing(x: Tensor) -> Tensor:
        return x.mul_(x)

    copies: list[Tensor] = []
    rule, domain = q.Trapezoid(200_003), q.Interval(t(0.0), t(1.0))
    value = q.integrate(integrand, domain, rule)
    assert all((k == c).all() for k, c in zip(kept, copies, strict=True))
    assert q.integrate(writing, domain, rule) == value


class Counted:
    """Counts the numbers that graphs keep, while they keep them."""

    def __init__(self) -> None:
        self.live = self.most = 0

    def pack(self, tensor: Tensor) -> Counted.Kept:
        # Detached: a node that keeps its own output would never be freed.
        return Counted.Kept(self, tensor.detach())

    class Kept:
        def __init__(self, owner: Counted, tensor: Tensor) -> None:
            self.owner, self.tensor = owner, tensor
            owner.live += tensor.numel()
            owner.most = max(owner.most, owner.live)

        def __del__(self) -> None:
            self.owner.live -= self.tensor.numel()

    def __enter__(self) -> Counted:
        self.hooks = torch.autograd.graph.saved_tensors_hooks(
            self.pack, lambda kept: kept.tensor
        )
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.hooks.__exit__(*error)


def _decay(x: Tensor, theta: Tensor) -> Tensor:
    return torch.exp(-theta * x)


DECAY_SLOPE = (math.exp(-0.7) * 1.7 - 1) / 0.49  # of its integral over (0, 1), at 0.7


def test_gradient_of_a_leaf_is_taken_in_one_pass_and_keeps_one_block() -> None:
    theta, calls = t(0.7, grad=True), []

    def integrand(x: Tensor) -> Tensor:
        calls.append(len(x))
        return _decay(x, theta)

    with Counted() as counted:
        value = q.integrate(integrand, q.Interval(0, t(1.0)), q.Trapezoid(2_000_000))
    assert sum(calls) == 2_000_000
    assert counted.live < 10
    assert counted.most < 500_000
    (found,) = torch.autograd.grad(value, theta)
    assert sum(calls) == 2_000_000
    assert found.item() == pytest.approx(DECAY_SLOPE, rel=1e-9)


@pytest.mark.parametrize("memory", [None, 6 * 2**20])
def test_no_block_with_a_graph_is_as_large_as_the_first(memory: int | None) -> None:
    theta, calls = t(0.7, grad=True), []
    many = torch.ones(64, dtype=torch.float64)

    def integrand(x: Tensor) -> Tensor:
        calls.append(len(x))
        return _decay(x[:, None] * many, theta).mean(1)

    rule, domain = q.Trapezoid(100_000), q.Interval(0, t(1.0))
    value = q.integrate(integrand, domain, rule, memory=memory)
    # The very first only tells how large a graph is.
    _, largest, *later, _ = calls
    assert {2 * count for count in later} <= {largest, largest - 1}
    kept = (contract.GRAPH_BYTES if memory is None else 2**20) / (64 * 8)
    assert kept / 3 < largest <= kept
    (found,) = torch.autograd.grad(value, theta)
    assert found.item() == pytest.approx(DECAY_SLOPE, rel=1e-8)


@pytest.mark.parametrize("why", ["limit", "non_leaf", "hook", "memo", "batch"])
def test_many_blocks_keep_nothing_for_the_backward_pass(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "KEPT_BYTES", 10**6)
    theta, memo = t(0.7, grad=True), []
    domain: q.Interval = q.Interval(0, t(1.0))
    before = theta if why == "memo" else theta * 1.0
    if why == "limit":
        domain = q.Interval(0, t(1.0, grad=True))
    if why == "hook":
        theta.register_hook(lambda grad: 2 * grad)

    def integrand(x: Tensor) -> Tensor:
        if why == "non_leaf":
            return _decay(x, before)
        if why == "memo":  # made in the first block, used in all of them
            memo[:] = memo or [theta * 1.0]
            return _decay(x, memo[0])
        return _decay(x, theta)

    shape = (2,) if why == "batch" else ()
    with Counted() as counted:
        value = q.integrate(
            integrand, domain, q.Trapezoid(2_000_000), batch_shape=shape
        ).sum()
    assert counted.live < 500_000
    # The closed-over tensor is not an argument of anything, and yet:
    (found,) = torch.autograd.grad(value, theta)
    factor = 2 if why in ("hook", "batch") else 1
    assert found.item() == pytest.approx(factor * DECAY_SLOPE, rel=1e-9)


@pytest.mark.parametrize("memory", [None, 10**6])
def test_few_blocks_are_evaluated_once_unless_memory_is_bounded(
    memory: int | None,
) -> None:
    theta, calls = t(0.7, grad=True) * 1.0, []

    def integrand(x: Tensor) -> Tensor:
        calls.append(len(x))
        return _decay(x, theta)

    rule = q.Trapezoid(200_000)
    value = q.integrate(integrand, q.Interval(0, t(1.0)), rule, memory=memory)
    (found,) = torch.autograd.grad(value, theta)
    assert (sum(calls) == 200_000) == (memory is None)
    assert found.item() == pytest.approx(DECAY_SLOPE, rel=1e-9)


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
def test_one_pass_gives_all_derivatives(log: bool) -> None:
    theta, scale = t(0.7, grad=True), t([1.5], grad=True)

    def integrand(x: Tensor) -> Tensor:
        return -theta * x * scale if log else _decay(x, theta * scale)

    solve = q.log_integrate if log else q.integrate
    found = []
    for memory in (None, 1 << 40):
        value = solve(
            integrand, q.Interval(0, t(3.0)), q.Trapezoid(50_001), memory=memory
        )
        first = torch.autograd.grad(value, (theta, scale), create_graph=True)
        second = torch.autograd.grad(first[0] * 3, (theta, scale))
        found.append([value, *first, *second])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=0)


def test_one_pass_notices_a_parameter_changed_in_between() -> None:
    theta = t(0.7, grad=True)
    value = q.integrate(
        lambda x: _decay(x, theta), q.Interval(0, t(1.0)), q.Trapezoid(10**5)
    )
    with torch.no_grad():
        theta += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_one_pass_leaves_tables_and_gradients_alone() -> None:
    rule, domain = q.GaussLegendre(100), q.Interval(0, t(1.0))
    before = q.integrate(torch.exp, domain, rule)
    theta = torch.zeros(100, dtype=torch.float64, requires_grad=True)
    # The gradient of theta is the weights themselves.
    value = q.integrate(lambda x: x + theta[: len(x)], domain, rule, memory=64 * 100)
    value.backward()
    assert theta.grad is not None
    assert q.integrate(torch.exp, domain, rule) == before


def test_blocks_accumulate_into_the_parameters_of_a_module() -> None:
    layer = torch.nn.Linear(1, 1, dtype=F64)
    results = []
    for memory in (2000, 10**9):
        layer.zero_grad()
        q.integrate(
            lambda x: layer(x[:, None]).squeeze(-1).sigmoid(),
            q.Interval(0, t(3.0)),
            q.GaussLegendre(200),
            memory=memory,
        ).backward()
        results.append([p.grad.clone() for p in layer.parameters()])
    torch.testing.assert_close(results[0], results[1])
    assert all(g.abs().sum() > 0 for g in results[0])


# --- Log form -------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1e5, -1e5])
@pytest.mark.parametrize("memory", [None, 640], ids=["one sweep", "blocks"])
def test_log_form_in_float32_far_from_zero(offset: float, memory: int | None) -> None:
    c = torch.tensor(offset, requires_grad=True)
    mean = torch.tensor(0.5, requires_grad=True)
    value = q.log_integrate(
        lambda x: c - (x - mean) ** 2 / 2,
        q.RealLine(0.2, 1.1),
        q.GaussHermite(30),
        memory=memory,
    )
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(
        offset + 0.5 * math.log(2 * math.pi), abs=1e-5 + abs(offset) * 2e-7
    )
    of_offset, of_mean = torch.autograd.grad(value, (c, mean))
    # Logs near 1e5 are rounded to 0.008, which the mean of the scores averages.
    assert of_offset.item() == pytest.approx(1.0, abs=1e-5)
    assert of_mean.item() == pytest.approx(0.0, abs=1e-4 if offset == 0 else 1e-2)


def test_log_form_equals_the_log_of_the_integral() -> None:
    for _, (function, domain, rule, wanted) in VALUES.items():
        if rule.n > 2 and wanted > 0 and (rule != q.GaussHermite(2)):
            one = t(1.0)
            value = q.log_integrate(
                lambda x, one, f=function: f(x).log() * one, domain, rule, args=(one,)
            )
            assert value.item() == pytest.approx(math.log(wanted), abs=1e-11)


def test_log_form_of_zero_is_minus_infinity_without_nan_gradient() -> None:
    a = t(1.0, grad=True)
    upper = t([1.0, 0.0], grad=True)
    value = q.log_integrate(
        lambda x: torch.where(x > 5, a * x, -math.inf),
        q.Interval(0, upper),
        q.GaussLegendre(4),
    )
    assert (value == -math.inf).all()
    (found,) = torch.autograd.grad(value[0], a)
    assert found.item() == 0.0


def test_log_form_with_breakpoints_joins_pieces() -> None:
    value = q.log_integrate(
        lambda x: 2000 - (x - 0.3).abs(),
        q.Interval(0, t(1.0)),
        q.GaussLegendre(10),
        breakpoints=[0.3],
    )
    wanted = 2000 + math.log(2 - math.exp(-0.3) - math.exp(-0.7))
    assert value.item() == pytest.approx(wanted, abs=1e-10)


def test_log_form_refuses_reversed_numbers() -> None:
    with pytest.raises(ValueError, match=r"lower <= upper, got lower=1, upper=0; swap"):
        q.log_integrate(bell, q.Interval(1, 0), q.GaussLegendre(3))


# --- Bad input ------------------------------------------------------------------------

RULE = q.GaussLegendre(5)
UNIT = q.Interval(0, 1)
BAD = {
    "non-callable": (
        TypeError,
        "integrand is a float; a function of the points is wanted",
        lambda: q.integrate(3.0, UNIT, RULE),
    ),
    "non-tensor": (
        TypeError,
        r"the integrand returned float; a tensor is wanted, of shape \(5,\)",
        lambda: q.integrate(lambda x: 1.0, UNIT, RULE),
    ),
    "constant": (
        ValueError,
        r"points of shape \(5,\) and returned shape \(\); .* return torch.full_like",
        lambda: q.integrate(lambda x: torch.tensor(1.0), UNIT, RULE),
    ),
    "wrong shape": (
        ValueError,
        r"points of shape \(5, 2\) and returned shape \(5,\); \(5, 2\) is wanted",
        lambda: q.integrate(lambda x: x[:, 0], q.Interval(0, torch.ones(2)), RULE),
    ),
    "transposed": (
        ValueError,
        r"returned shape \(3, 5\); \(5,\) is wanted.*Event dimensions come last",
        lambda: q.integrate(lambda x: x.expand(3, 5), UNIT, RULE),
    ),
    "closure of a batch": (
        ValueError,
        r"returned shape \(3, 5\).*declare batch_shape=",
        lambda: q.integrate(lambda x: x * torch.ones(3, 1), UNIT, RULE),
    ),
    "rtol": (
        ValueError,
        r"rtol, atol and grad_rtol have no effect with GaussLegendre\(n=5\), w",
        lambda: q.integrate(bell, UNIT, RULE, rtol=1e-3),
    ),
    "atol": (
        ValueError,
        "rtol, atol and grad_rtol have no effect",
        lambda: q.log_integrate(bell, UNIT, RULE, atol=1e-3),
    ),
    "endless": (
        ValueError,
        r"Trapezoid\(n=10000000000\) needs 10000000000 evaluations here, which takes "
        "minutes .* pass max_evals=10000000000",
        lambda: q.integrate(never, UNIT, q.Trapezoid(10**10)),
    ),
    "endless with breakpoints": (
        ValueError,
        "needs 1200000000 evaluations here.*1000000000 nodes all the same",
        lambda: q.log_integrate(never, UNIT, q.Trapezoid(6 * 10**8), breakpoints=[0.5]),
    ),
    "max_evals": (
        ValueError,
        r"GaussLegendre\(n=5\) needs 5 evaluations, max_evals is 4; raise it",
        lambda: q.integrate(bell, UNIT, RULE, max_evals=4),
    ),
    "max_evals of pieces": (
        ValueError,
        "needs 15 evaluations, max_evals is 14",
        lambda: q.integrate(bell, UNIT, RULE, max_evals=14, breakpoints=[0.2, 0.4]),
    ),
    "max_evals type": (
        TypeError,
        "max_evals is .* \\(float\\); an integer is wanted",
        lambda: q.integrate(bell, UNIT, RULE, max_evals=1e3),
    ),
    "memory": (
        ValueError,
        "memory is 0; at least 1 is wanted",
        lambda: q.integrate(bell, UNIT, RULE, memory=0),
    ),
    "memory type": (
        TypeError,
        "memory is True \\(bool\\); an integer is wanted",
        lambda: q.integrate(bell, UNIT, RULE, memory=True),
    ),
    "domain": (
        TypeError,
        r"domain is a tuple; a domain is wanted, for example Interval\(0, 1\)",
        lambda: q.integrate(bell, (0, 1), RULE),
    ),
    "rule": (
        TypeError,
        "rule is a str; a rule object is wanted",
        lambda: q.integrate(bell, UNIT, "gauss"),
    ),
    "rule class": (
        TypeError,
        "rule is the class GaussLegendre; make one of it",
        lambda: q.integrate(bell, UNIT, q.GaussLegendre),
    ),
    "on_failure": (
        ValueError,
        "on_failure is 'stop'; 'warn', 'raise' or 'ignore' is wanted",
        lambda: q.integrate(bell, UNIT, RULE, on_failure="stop"),
    ),
    "args": (
        TypeError,
        r"args is a Tensor; a tuple is wanted: args=\(theta,\)",
        lambda: q.integrate(bell, UNIT, RULE, args=torch.ones(2)),
    ),
    "batch of args": (
        ValueError,
        r"shapes \[\(2,\), \(3,\)\], which do not broadcast to one batch; declare",
        lambda: q.integrate(
            bell, q.Interval(0, torch.ones(2)), RULE, args=(torch.ones(3),)
        ),
    ),
    "batch_shape and limits": (
        ValueError,
        r"batch_shape is \(3,\), but the limits have shapes \[\(2,\)\]",
        lambda: q.integrate(bell, q.Interval(0, torch.ones(2)), RULE, batch_shape=(3,)),
    ),
    "batch_shape and args": (
        ValueError,
        r"args\[0\] has shape \(4, 3\), which does not begin with batch_shape \(3,\)",
        lambda: q.integrate(
            bell, UNIT, RULE, args=(torch.ones(4, 3),), batch_shape=(3,)
        ),
    ),
    "devices": (
        ValueError,
        "limits and args are on cpu and meta; move them to one device",
        lambda: q.integrate(
            bell,
            q.Interval(0, torch.tensor(1.0)),
            RULE,
            args=(torch.ones(1, device="meta"),),
        ),
    ),
    "breakpoints type": (
        TypeError,
        "breakpoints is a float; a list of numbers or a tensor",
        lambda: q.integrate(bell, UNIT, RULE, breakpoints=0.5),
    ),
    "no breakpoints": (
        ValueError,
        r"breakpoints has shape \(0,\); at least one",
        lambda: q.integrate(bell, UNIT, RULE, breakpoints=[]),
    ),
    "no error estimate": (
        ValueError,
        r"GaussLegendre\(n=5\) has no error estimate, as its nodes are fixed",
        lambda: q.integrate_with_error(bell, UNIT, RULE),
    ),
    "no error estimate of the log": (
        ValueError,
        "has no error estimate",
        lambda: q.log_integrate_with_error(bell, UNIT, RULE),
    ),
    "adapt": (ValueError, "has no error estimate", lambda: q.adapt(bell, UNIT, RULE)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_came_and_what_is_wanted(case: str) -> None:
    error, message, call = BAD[case]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def test_max_evals_that_suffice_are_accepted() -> None:
    value = q.integrate(parabola, UNIT, RULE, max_evals=5)
    assert value.item() == pytest.approx(1.0)


# --- The caller's things stay the caller's --------------------------------------------


def test_tensors_of_the_caller_are_unchanged() -> None:
    lower, upper = t([0.0, 2.0], grad=True), t([1.0, math.inf], grad=True)
    a, breaks = t([1.0, 2.0], grad=True), t([0.9, 0.1], grad=True)
    tensors = (lower, upper, a, breaks)
    before = [tensor.detach().clone() for tensor in tensors]
    versions = [tensor._version for tensor in tensors]
    kept: list[Tensor] = []

    def function(x: Tensor, a: Tensor) -> Tensor:
        kept.append(torch.exp(-a * x))
        kept.append(kept[-1].detach().clone())
        return kept[-2]

    state = torch.get_rng_state()
    value = q.integrate(
        function, q.Interval(lower, upper), RULE, args=(a,), breakpoints=breaks
    )
    torch.autograd.grad(value.sum(), tensors)
    for tensor, copy, version in zip(tensors, before, versions, strict=True):
        assert torch.equal(tensor.detach(), copy)
        assert tensor._version == version
        assert tensor.grad is None
    assert all(
        torch.equal(out, copy) for out, copy in zip(kept[::2], kept[1::2], strict=True)
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_an_integrand_that_writes_to_its_points_does_not_spoil_the_table() -> None:
    def rude(x: Tensor) -> Tensor:
        return x.mul_(2)

    rule, domain = q.GaussLegendre(19), q.Interval(-1, 1)
    first = q.integrate(lambda x: x**2, domain, rule)
    q.integrate(rude, domain, rule)
    q.integrate(rude, q.Interval(-1.0, torch.tensor([1.0])), rule)
    assert torch.equal(q.integrate(lambda x: x**2, domain, rule), first)


def test_the_same_call_gives_the_same_bits() -> None:
    values = {energy(t(0.7), t(1.3)).item() for _ in range(3)}
    assert len(values) == 1


def test_negative_weights_are_refused_in_the_log_form() -> None:
    rule = q.TabulatedRule([-1.0, 0.0, 1.0], [1.5, -1.0, 1.5], degree=1)
    with pytest.raises(ValueError, match="has negative weights, of which there is no"):
        q.log_integrate(lambda x: -x, q.Interval(0, 1), rule)


def test_limits_in_tensors_that_nobody_differentiates_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers, place = [], fixed.place

    def watched(extent: Extent) -> Placement:
        numbers.append(of_numbers(extent))
        return place(extent)

    monkeypatch.setattr(fixed, "place", watched)
    end, rule = t(2.0625, grad=True), q.GaussLegendre(9)
    wanted = q.integrate(torch.exp, q.Interval(-0.1875, end), rule)
    q.integrate(torch.exp, q.Interval(-0.1875, end.detach()[None]), rule)
    assert numbers == [False, False]
    for limit in (end.detach(), end.detach().float()):
        value = q.integrate(torch.exp, q.Interval(-0.1875, limit), rule)
        torch.testing.assert_close(value, wanted.detach().to(limit.dtype))
    assert numbers[2:] == [True, True]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_trace_of_torchscript_holds_for_other_limits() -> None:
    rule = q.GaussLegendre(5)
    area = lambda end: q.integrate(parabola, q.Interval(0, end), rule)  # noqa: E731
    # A second trace, to check it by, finds the tables that the first has made.
    traced = torch.jit.trace(area, t(1.0), check_trace=False)
    assert traced(t(2.0)) == pytest.approx(8)
