"""What used to be silently wrong, or failed without a word on what to do."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc

LINE = mlc.RealLine()
PLANE = mlc.Box(0, 1, dimension=2)
RISING = torch.tensor([0.0, 1.0])
RULE = mlc.GaussLegendre(5)


def _bell(x: Tensor) -> Tensor:
    return torch.exp(-x * x)


def _sum(x: Tensor) -> Tensor:
    return x.sum(-1)


def _plan(domain: mlc.Domain) -> mlc.Plan:
    return mlc.adapt(_sum if domain.solid else _bell, domain)


REPLAYS: dict[str, tuple[mlc.Domain, mlc.Domain, type[Exception], str]] = {
    "of an interval, on the line": (mlc.Interval(0, 1), LINE, ValueError, "infinite"),
    "of the line, on an interval": (LINE, mlc.Interval(0, 1), ValueError, "infinite"),
    "of the line, on a half line": (LINE, mlc.HalfLine(), ValueError, "infinite"),
    "of a half line, on the other": (
        mlc.HalfLine(),
        mlc.Interval(-math.inf, 0),
        ValueError,
        "infinite",
    ),
    "of one interval of a batch, on the line": (
        mlc.Interval(0.0, RISING + 1),
        mlc.Interval(0.0, torch.tensor([1.0, math.inf])),
        ValueError,
        "infinite",
    ),
    "of a plane, on a line": (PLANE, mlc.Interval(0, 1), TypeError, "several dim"),
    "of a plane, in space": (
        PLANE,
        mlc.Box(0, 1, dimension=3),
        ValueError,
        "in 2 dimensions, the domain has 3",
    ),
}


@pytest.mark.parametrize("name", REPLAYS)
def test_a_plan_is_not_replayed_where_its_nodes_are_not(name: str) -> None:
    made_for, domain, error, message = REPLAYS[name]
    plan = _plan(made_for)
    with pytest.raises(error, match=message):
        mlc.integrate(_sum if domain.solid else _bell, domain, plan)


def test_a_plan_follows_limits_that_stay_finite_or_meet() -> None:
    plan = mlc.adapt(_bell, mlc.Interval(RISING - 2, math.inf))
    value = mlc.integrate(_bell, mlc.Interval(RISING - 3, math.inf), plan)
    exact = math.sqrt(math.pi) / 2 * torch.erfc(RISING - 3)
    torch.testing.assert_close(value, exact, rtol=1e-3, atol=0.0)
    met = mlc.integrate(_bell, mlc.Interval(torch.full((2,), math.inf), math.inf), plan)
    assert met.tolist() == [0, 0]
    back = mlc.adapt(_bell, mlc.Interval(0.0, 1.0))
    value = mlc.integrate(_bell, mlc.Interval(1.0, 0.0), back)
    torch.testing.assert_close(value, -mlc.integrate(_bell, mlc.Interval(0.0, 1.0)))


def test_a_scale_is_positive_in_tensors_too() -> None:
    # The sign of the integral would be that of the scale.
    with pytest.raises(ValueError, match=r"scale has values down to -2\.0"):
        mlc.RealLine(0.0, torch.tensor([1.0, -2.0]))


LAYERS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "domain": (lambda: mlc.Integral(_bell, (0, 1)), TypeError, "domain is a tuple"),
    "rule": (lambda: mlc.Integral(_bell, LINE, "gk"), TypeError, "rule is a str"),
    "class": (
        lambda: mlc.Integral(_bell, LINE, mlc.GaussHermite),
        TypeError,
        r"make one of it, GaussHermite\(\.\.\.\)",
    ),
    "on_failure": (
        lambda: mlc.Integral(_bell, LINE, on_failure="print"),
        ValueError,
        "on_failure is 'print'",
    ),
    "integrand": (lambda: mlc.Integral(3, LINE), TypeError, "integrand is a int"),
    "log density": (
        lambda: mlc.LogNormalizer(3, LINE),
        TypeError,
        "integrand is a int",
    ),
    "average": (lambda: mlc.Expectation(3), TypeError, "integrand is a int"),
    "rule of an average": (
        lambda: mlc.Expectation(_bell, "gh"),
        TypeError,
        "rule is a str",
    ),
    "derivative": (lambda: mlc.Antiderivative(3), TypeError, "integrand is a int"),
    "rule of an antiderivative": (
        lambda: mlc.Antiderivative(_bell, 0.0, mlc.GaussKronrod()),
        TypeError,
        "a fixed rule",
    ),
    "rule of a density": (
        lambda: mlc.NormalizedDensity(_bell, LINE, "gk"),
        TypeError,
        "rule is a str",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_refuse_when_they_are_made(name: str) -> None:
    make, error, message = LAYERS[name]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("shape", [3, (-1,), (2.0,), "3"])
def test_a_batch_shape_is_a_tuple_of_sizes(shape: object) -> None:
    with pytest.raises(TypeError, match="batch_shape is .*; a tuple of sizes"):
        mlc.integrate(_bell, LINE, batch_shape=shape)


def test_limits_are_neither_complex_nor_true() -> None:
    with pytest.raises(TypeError, match=r"lower has dtype torch.bool.*lower.float\(\)"):
        mlc.Interval(torch.tensor([True, False]), 2.0)
    with pytest.raises(
        TypeError, match="lower has dtype torch.complex64.*along a path"
    ):
        mlc.Interval(torch.tensor([1j]), 2.0)


LOGS: dict[str, tuple[mlc.Domain, mlc.Rule | None]] = {
    "automatic": (mlc.Interval(0, 1), None),
    "automatic on the line": (LINE, None),
    "Gauss-Legendre": (mlc.Interval(0, 1), mlc.GaussLegendre(4)),
    "around modes": (LINE, mlc.AdaptiveGaussHermite()),
    "automatic on a box": (PLANE, None),
    "around modes on a plane": (
        mlc.Box(-math.inf, math.inf, dimension=2),
        mlc.AdaptiveGaussHermite(3),
    ),
    "product": (PLANE, mlc.Product(mlc.GaussLegendre(3))),
    "lattice": (PLANE, mlc.Lattice(64)),
    "VEGAS": (PLANE, mlc.Vegas(256)),
}


@pytest.mark.parametrize("name", LOGS)
def test_a_log_integrand_is_not_complex(name: str) -> None:
    domain, rule = LOGS[name]

    def log_integrand(x: Tensor) -> Tensor:
        return -1j * (x.square().sum(-1) if domain.solid else x.square())

    calls = [lambda: mlc.log_integrate(log_integrand, domain, rule)]
    if rule is None or not rule.fixed:
        calls.append(lambda: mlc.log_integrate_with_error(log_integrand, domain, rule))
        calls.append(lambda: mlc.adapt(log_integrand, domain, rule, log=True))
        real = mlc.adapt(lambda x: log_integrand(x).imag, domain, rule, log=True)
        calls.append(lambda: mlc.log_integrate(log_integrand, domain, real))
    for call in calls:
        with pytest.raises(
            TypeError, match=r"log integrand returned torch\.complex64; real logs"
        ):
            call()


def test_a_log_density_is_not_complex() -> None:
    p = mlc.NormalizedDensity(lambda x: 1j * x, mlc.Interval(0, 1))
    with pytest.raises(TypeError, match=r"log integrand returned torch\.complex64"):
        p.log_prob(torch.tensor(0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlc.integrate(lambda x: x * RISING, LINE), r"size of .*\(129,\)"),
        (
            lambda: mlc.integrate(lambda x: x * RISING, mlc.Interval(0, 1), RULE),
            r"size of .*shape \(5,\) in torch.float32",
        ),
        (
            lambda: mlc.integrate(torch.nn.Linear(1, 1), mlc.Interval(0, RISING)),
            r"cannot be multiplied .*a network wants points\[..., None\]",
        ),
        (lambda: mlc.integrate(lambda x: _sum(x) * RISING, PLANE), r"batch_shape="),
    ],
)
def test_an_error_of_torch_inside_the_integrand_says_where(
    call: Callable[[], Tensor], message: str
) -> None:
    with pytest.raises(RuntimeError, match=f"(?s){message}"):
        call()


def test_an_error_of_another_kind_inside_the_integrand_stays_as_it_is() -> None:
    def broken(x: Tensor) -> Tensor:
        raise NotImplementedError("later")

    with pytest.raises(NotImplementedError, match="^later$"):
        mlc.integrate(broken, LINE)


@pytest.mark.parametrize("limit", [np.float32(0), np.int64(0), np.zeros(2), [0, 1]])
def test_limits_of_numpy_are_to_be_converted(limit: object) -> None:
    with pytest.raises(TypeError, match=r"Convert it: torch.as_tensor\(lower\)"):
        mlc.Interval(limit, 1)  # type: ignore[arg-type]


def test_counts_and_tolerances_may_be_numbers_of_numpy() -> None:
    assert mlc.GaussLegendre(np.int64(5)) == RULE  # type: ignore[arg-type]
    settings = {"rtol": np.float32(1e-2), "max_evals": np.int32(1000)}
    assert mlc.integrate(_bell, LINE, **settings).item() == pytest.approx(math.pi**0.5)
