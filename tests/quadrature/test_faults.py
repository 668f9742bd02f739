"""What goes wrong in an integral is reported, and bad input is refused by name."""

import gc
import math
import sys
import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import tqdm
from torch import Tensor

import torch_mlcalc.quadrature as q

UNIT = q.Interval(0, 1)
FUNCTIONS = {
    "integrate": q.integrate,
    "integrate_with_error": q.integrate_with_error,
    "log_integrate": q.log_integrate,
    "log_integrate_with_error": q.log_integrate_with_error,
    "adapt": q.adapt,
}
functions = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def _reciprocal(x: Tensor) -> Tensor:
    return 1 / x


def _jump(x: Tensor) -> Tensor:
    return (x > 1 / 3).to(x.dtype)


def _nan_inside(x: Tensor) -> Tensor:
    return torch.where((x > 0.4) & (x < 0.6), torch.nan, x)


# --- integrals that fail -----------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (2,)], ids=["single", "batch"])
def test_an_integrand_that_is_finite_at_one_node_only(shape: tuple[int, ...]) -> None:
    estimate = q.integrate_with_error(
        lambda x, _: torch.where((x - 0.5).abs() < 0.01, 1.0, math.inf),
        q.Interval(0, 1),
        q.DoubleExponential(),
        args=(torch.zeros(shape),),
        on_failure="ignore",
    )
    assert (estimate.status == q.Status.NON_FINITE).all()


def test_failure_warns_by_category_and_says_what_to_try() -> None:
    with pytest.warns(q.IntegrationWarning, match="1 of 1 integrals did not") as caught:
        q.integrate(_reciprocal, UNIT)
    assert "suspected divergent" in str(caught[0].message)
    assert "check that" in str(caught[0].message)
    assert caught[0].filename == __file__


@functions
def test_failure_raises_on_request(function: Callable) -> None:
    integrand = torch.log if "log" in function.__name__ else (lambda x: x)
    with pytest.raises(q.IntegrationError, match="integrals did not converge"):
        function(lambda x: torch.nan * integrand(x), UNIT, on_failure="raise")


def test_failure_is_silent_on_request() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        q.integrate(_reciprocal, UNIT, on_failure="ignore")


@pytest.mark.parametrize("rule", [None, q.GaussKronrod(), q.DoubleExponential()])
def test_budget_ends_the_search(rule: q.Rule | None) -> None:
    with pytest.warns(q.IntegrationWarning, match="raise max_evals, or pass breakpoi"):
        estimate = q.integrate_with_error(_jump, UNIT, rule, rtol=1e-14, max_evals=150)
    assert estimate.status == q.Status.TOLERANCE_NOT_REACHED
    assert int(estimate.n_evals) <= 150
    assert float(estimate.error) >= abs(float(estimate.value) - 2 / 3)


@pytest.mark.parametrize("rule", [None, q.GaussKronrod(), q.DoubleExponential()])
def test_nan_inside_is_reported_with_a_place(rule: q.Rule | None) -> None:
    with pytest.warns(q.IntegrationWarning, match=r"was not finite at x = 0\.[45]"):
        estimate = q.integrate_with_error(_nan_inside, UNIT, rule)
    assert estimate.status == q.Status.NON_FINITE
    assert estimate.error == estimate.plan.error == math.inf


def test_infinity_at_a_point_of_the_mesh_is_survived() -> None:
    upper = torch.tensor(1.0, dtype=torch.float64)
    value = q.integrate(
        lambda x: (x - 0.5).abs().rsqrt(), q.Interval(0, upper), rtol=1e-6
    )
    assert float(value) == pytest.approx(2 * math.sqrt(2), rel=1e-5)


def test_infinity_at_a_breakpoint_is_never_met() -> None:
    upper = torch.tensor(1.0, dtype=torch.float64)
    value = q.integrate(
        lambda x: (x - 0.5).abs().rsqrt(), q.Interval(0, upper), breakpoints=[0.5]
    )
    assert float(value) == pytest.approx(2 * math.sqrt(2), rel=1e-7)


def test_nothing_seen_on_the_real_line_is_not_converged() -> None:
    with pytest.warns(q.IntegrationWarning, match=r"RealLine\(loc, scale\)"):
        estimate = q.integrate_with_error(
            lambda x: torch.exp(-((x - 1e6) ** 2)), q.RealLine()
        )
    assert estimate.status != q.Status.CONVERGED
    assert estimate.error == math.inf


@pytest.mark.parametrize("log", [False, True], ids=["linear", "log"])
@pytest.mark.parametrize("rule", [None, q.DoubleExponential()], ids=str)
def test_breakpoints_at_the_ends_of_a_support_are_no_reason_to_doubt(
    rule: q.Rule | None, log: bool
) -> None:
    function = q.log_integrate_with_error if log else q.integrate_with_error

    def box(x: Tensor, upper: Tensor) -> Tensor:
        inside = ((x > -1) & (x < upper)).to(x.dtype)
        return inside.log() if log else inside

    upper = torch.tensor([0.5, 2.0, -2.0])
    cuts = torch.stack([-torch.ones(3), upper.clamp(min=-1)])
    estimate = function(
        box, q.RealLine(), rule, args=(upper,), breakpoints=cuts, on_failure="ignore"
    )
    # Of the last nothing was seen anywhere.
    assert estimate.status.tolist() == [0, 0, q.Status.TOLERANCE_NOT_REACHED]
    assert estimate.error.isinf().tolist() == [False, False, True]
    exact = (upper + 1).clamp(min=0)
    torch.testing.assert_close(estimate.value, exact.log() if log else exact)


@pytest.mark.parametrize("through", ["args", "closure"])
def test_one_bad_element_leaves_the_others_right(through: str) -> None:
    power = torch.tensor([0.5, -1.0, 2.0, -1.5], dtype=torch.float64)
    if through == "args":
        estimate = q.integrate_with_error(
            torch.pow, UNIT, args=(power,), on_failure="ignore"
        )
    else:
        estimate = q.integrate_with_error(
            lambda x: x**power,
            q.Interval(torch.zeros(4).double(), 1),
            on_failure="ignore",
        )
    good = torch.tensor([0, 2])
    torch.testing.assert_close(estimate.value[good], 1 / (power[good] + 1))
    converged = estimate.status == q.Status.CONVERGED
    assert converged.tolist() == [True, False, True, False]


@pytest.mark.parametrize("name", ["lower", "upper"])
def test_a_limit_that_is_nan_is_named(name: str) -> None:
    limits = {"lower": torch.tensor(0.0), "upper": torch.tensor(1.0)}
    # max(0, nan) is 0, and between equal limits an integral is 0.
    domain = q.Interval(**(limits | {name: torch.tensor(math.nan)}))
    with pytest.raises(ValueError, match=f"^{name} is nan; a number"):
        q.integrate(torch.exp, domain)


@pytest.mark.parametrize("name", ["lower", "upper", "breakpoints"])
def test_of_a_batch_the_integral_with_a_nan_is_not_finite(name: str) -> None:
    limits = {"lower": torch.zeros(3), "upper": torch.ones(3)}
    inner = torch.full((1, 3), 0.5)
    nan = torch.tensor([0.0, math.nan, 0.0])
    if name == "breakpoints":
        inner = inner + nan
    else:
        limits[name] = limits[name] + nan
    with pytest.warns(
        q.IntegrationWarning, match=f"1 non finite.* {name}: nan in some"
    ):
        found = q.integrate_with_error(
            torch.exp, q.Interval(**limits), breakpoints=inner
        )
    assert found.status.tolist() == [0, q.Status.NON_FINITE, 0]
    assert found.value.isnan().tolist() == [False, True, False]
    exact = torch.full((2,), math.e - 1)
    torch.testing.assert_close(found.value[::2], exact)


def test_message_counts_each_kind_of_failure() -> None:
    power = torch.tensor([0.5, -1.0, math.nan], dtype=torch.float64)
    with pytest.warns(q.IntegrationWarning) as caught:
        q.integrate(torch.pow, UNIT, args=(power,))
    message = str(caught[0].message)
    assert message.startswith("2 of 3 integrals did not converge: 1 suspected")
    assert "1 non finite (make the integrand finite" in message
    assert "of integral 2 was not finite at x = " in message


@pytest.mark.parametrize("rule", [None, q.GaussKronrod(), q.DoubleExponential()])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_no_end_is_ever_evaluated(rule: q.Rule | None, dtype: torch.dtype) -> None:
    seen: list[Tensor] = []

    def root(x: Tensor) -> Tensor:
        seen.append(x)
        return x.rsqrt() + (3 - x).rsqrt()

    upper = torch.tensor(3, dtype=dtype)
    q.integrate(root, q.Interval(0, upper), rule, on_failure="ignore")
    points = torch.cat(seen)
    assert ((points > 0) & (points < 3)).all()


def test_no_infinite_end_is_ever_evaluated() -> None:
    for domain in (q.RealLine(), q.HalfLine(1), q.Interval(-math.inf, 2)):
        seen: list[Tensor] = []

        def tail(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x)
            return 1 / (1 + x.abs()) ** 2

        q.integrate(tail, domain)
        assert torch.cat(seen).isfinite().all()


# --- arguments ---------------------------------------------------------------------


class _Unknown(q.Rule):
    """A rule that says neither that it is fixed nor how to search."""


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "rule": ({"rule": "gauss"}, TypeError, "rule is a str; a rule object is wanted"),
    "rule_class": ({"rule": q.GaussKronrod}, TypeError, "rule is the class GaussK"),
    "domain": ({"domain": (0, 1)}, TypeError, "domain is a tuple; a domain is wanted"),
    "integrand": ({"integrand": 3.0}, TypeError, "integrand is a float; a function"),
    "on_failure": (
        {"on_failure": "print"},
        ValueError,
        "on_failure is 'print'; 'warn', 'raise' or 'ignore' is wanted",
    ),
    "rtol_type": ({"rtol": "1e-3"}, TypeError, "rtol is a str; a number is wanted"),
    "rtol_negative": ({"rtol": -1.0}, ValueError, "rtol is -1.0; a finite number, 0"),
    "atol_nan": ({"atol": math.nan}, ValueError, "atol is nan; a finite number"),
    "atol_bool": ({"atol": True}, TypeError, "atol is a bool; a number is wanted"),
    "memory_type": ({"memory": 1e6}, TypeError, r"memory is 1.*\(float\); an integer"),
    "memory_value": ({"memory": 0}, ValueError, "memory is 0; at least 1 is wanted"),
    "evals_type": (
        {"max_evals": "9"},
        TypeError,
        r"max_evals is .9. \(str\); an integer",
    ),
    "evals_value": ({"max_evals": -5}, ValueError, "max_evals is -5; at least 1"),
    "breakpoints_type": (
        {"breakpoints": 0.5},
        TypeError,
        r"breakpoints is a float; a list of numbers or a tensor \(k,\) or \(k, \*b",
    ),
    "breakpoints_empty": (
        {"breakpoints": []},
        ValueError,
        r"breakpoints has shape \(0,\); at least one",
    ),
    "breakpoints_scalar": (
        {"breakpoints": torch.tensor(0.5)},
        ValueError,
        r"breakpoints has shape \(\); at least one",
    ),
    "breakpoints_nan": (
        {"breakpoints": [0.2, math.nan]},
        ValueError,
        r"breakpoints\[1\] is nan; a number or",
    ),
    "breakpoints_text": (
        {"breakpoints": ["a"]},
        TypeError,
        r"breakpoints\[0\] is a str; a number or a tensor is wanted",
    ),
    "breakpoints_nested": (
        {"breakpoints": [[0.5]]},
        TypeError,
        r"breakpoints\[0\] is a list; a number or a tensor is wanted",
    ),
    "breakpoints_complex": (
        {"breakpoints": torch.tensor([0.5j])},
        TypeError,
        r"breakpoints has dtype torch.complex64; a real tensor is wanted",
    ),
    "generator_type": (
        {"generator": 3},
        TypeError,
        "generator is a int; a torch.Generator is wanted",
    ),
    "generator_unused": (
        {"generator": torch.Generator()},
        ValueError,
        "generator has no effect with the rule chosen here, which is not random",
    ),
    "own_rule": (
        {"rule": _Unknown()},
        TypeError,
        "_Unknown object .* is not a rule for one dimension",
    ),
    "args_tensor": (
        {"args": torch.ones(2)},
        TypeError,
        r"args is a Tensor; a tuple is wanted: args=\(theta,\)",
    ),
    "args_shapes": (
        {"args": (torch.ones(2), torch.ones(3))},
        ValueError,
        r"which do not broadcast to one batch; declare batch_shape=",
    ),
    "args_lead": (
        {"args": (torch.ones(3, 2),), "batch_shape": (2,)},
        ValueError,
        r"args\[0\] has shape \(3, 2\), which does not begin with batch_shape \(2,\)",
    ),
    "batch_shape": (
        {"domain": q.Interval(0, torch.ones(3)), "batch_shape": (2,)},
        ValueError,
        r"batch_shape is \(2,\), but the limits have shapes",
    ),
    "devices": (
        {"args": (torch.ones(2), torch.ones(2, device="meta"))},
        ValueError,
        "limits and args are on cpu and meta; move them to one device",
    ),
}


@functions
@pytest.mark.parametrize(("given", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_argument_is_refused_before_any_work(
    function: Callable, given: dict, error: type[Exception], message: str
) -> None:
    calls = []

    def integrand(x: Tensor, *args: Tensor) -> Tensor:
        calls.append(x)
        return x

    given = {"integrand": integrand, "domain": UNIT, "rule": None} | given
    head = (given.pop("integrand"), given.pop("domain"), given.pop("rule"))
    with pytest.raises(error, match=message):
        function(*head, **given)
    assert not calls


WRONG_VALUES = {
    "float": (lambda x: 1.0, TypeError, "returned float; a tensor is wanted"),
    "constant": (
        lambda x: torch.tensor(1.0),
        ValueError,
        r"return torch.full_like\(points, c\)",
    ),
    "sum": (lambda x: x.sum(0), ValueError, r"points of shape \(\d+, 3\) and returned"),
    "events_first": (
        lambda x: torch.stack([x, x]),
        ValueError,
        "Event dimensions come last",
    ),
}


@functions
@pytest.mark.parametrize(
    ("integrand", "error", "message"), WRONG_VALUES.values(), ids=WRONG_VALUES
)
def test_wrong_result_of_the_integrand_is_refused(
    function: Callable, integrand: Callable, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        function(integrand, q.Interval(0, torch.ones(3)))


def test_log_form_refuses_reversed_numbers() -> None:
    with pytest.raises(ValueError, match="needs lower <= upper, got lower=1.*swap"):
        q.log_integrate(torch.log, q.Interval(1, 0))


def test_integer_limits_and_args_work_as_numbers() -> None:
    value = q.integrate(torch.square, q.Interval(torch.tensor(0), torch.tensor(3)))
    assert value.dtype == torch.get_default_dtype()
    assert float(value) == pytest.approx(9)


def test_either_tolerance_is_enough() -> None:
    def peak(x: Tensor) -> Tensor:
        return 1 / (x * x + 1e-4)

    upper = torch.tensor(1.0, dtype=torch.float64)
    evals = {
        key: int(q.integrate_with_error(peak, q.Interval(-1, upper), **key_).n_evals)
        for key, key_ in {
            "atol": {"atol": 1.0},
            "rtol": {"rtol": 1e-12},
            "both": {"atol": 1.0, "rtol": 1e-12},
        }.items()
    }
    assert evals["atol"] == evals["both"] < evals["rtol"]


# --- what is the caller's ----------------------------------------------------------


def test_a_single_integral_lets_go_of_what_its_integrand_closes_over() -> None:
    """At once, not when the collector finds a cycle: it may be a large network."""

    class Exponential(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.exp(-x)

    for domain in (UNIT, q.HalfLine()):
        module = Exponential()
        gone = weakref.ref(module)
        gc.disable()
        try:
            q.integrate(module, domain)
            del module
            assert gone() is None
        finally:
            gc.enable()


def test_progress_shows_a_bar_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    q.integrate(torch.exp, UNIT, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "points" in err
    q.integrate(torch.exp, UNIT)
    assert capsys.readouterr() == ("", "")


@functions
@pytest.mark.parametrize("fault", [False, True])
def test_a_bar_is_closed_before_the_call_returns(
    function: Callable[..., object], fault: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tqdm.tqdm] = []

    class Bar(tqdm.tqdm):
        def __init__(self, **settings: object) -> None:
            super().__init__(**settings)
            bars.append(self)

    def broken(x: Tensor) -> Tensor:
        raise ArithmeticError(x.shape)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    with pytest.raises(ArithmeticError) if fault else nullcontext():
        function(broken if fault else torch.exp, UNIT, progress=True)
    assert [bar.disable for bar in bars] == [True]


def test_a_bar_without_tqdm_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"tqdm.*pip install 'torch_mlcalc\[examples"):
        q.integrate(torch.exp, UNIT, progress=True)


def test_nothing_of_the_caller_is_touched() -> None:
    lower = torch.tensor([0.0, 0.1], requires_grad=True)
    rate = torch.tensor([1.0, 2.0], requires_grad=True)
    before = lower.detach().clone(), rate.detach().clone()
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            q.integrate(
                lambda x, r: torch.exp(-r * x), q.Interval(lower, 1), args=(rate,)
            )
            assert torch.is_grad_enabled() == grad
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    assert lower.grad is None
    assert rate.grad is None
    assert torch.equal(lower, before[0])
    assert torch.equal(rate, before[1])


def test_a_failing_integrand_leaves_the_grad_mode_alone() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        q.integrate(broken, UNIT)
    assert torch.is_grad_enabled()


def test_the_output_of_the_integrand_is_not_written_to() -> None:
    kept: list[tuple[Tensor, Tensor]] = []

    def remembered(x: Tensor) -> Tensor:
        y = x.sqrt()
        kept.append((y, y.clone()))
        return y

    q.integrate(remembered, UNIT)
    assert all(torch.equal(y, copy) for y, copy in kept)


def test_the_same_call_gives_the_same_bits() -> None:
    power = torch.linspace(-0.5, 2, 7)
    values = [q.integrate(torch.pow, UNIT, args=(power,)) for _ in range(2)]
    assert torch.equal(*values)


@pytest.mark.parametrize("rule", [None, q.GaussKronrod(), q.DoubleExponential()])
def test_a_replay_evaluates_no_end_either(rule: q.Rule | None) -> None:
    scale = torch.tensor(1.0, requires_grad=True)
    value = q.integrate(
        lambda x: scale * (3 - x).rsqrt(), q.Interval(0, 3), rule, on_failure="ignore"
    )
    assert value.item() == pytest.approx(2 * math.sqrt(3), rel=1e-2)


@pytest.mark.parametrize("rule", [None, q.GaussLegendre(8)], ids=["none", "fixed"])
def test_reversed_tensor_limits_are_refused_in_the_log_form(rule: q.Rule) -> None:
    lower = torch.tensor([0.0, 2.0])
    with pytest.raises(ValueError, match="needs lower <= upper"):
        q.log_integrate(lambda x: -x, q.Interval(lower, 1.0), rule)
