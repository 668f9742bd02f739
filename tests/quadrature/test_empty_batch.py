"""A batch of no integrals: a mask that selects nothing, the last rows of a data set."""

import math

import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc

PLANE = mlc.Box(-math.inf, math.inf, dimension=2)

#: Rules with a domain, all that a batch may meet on the way.
CASES: dict[str, tuple[mlc.Domain, mlc.Rule | None]] = {
    "automatic on an interval": (mlc.Interval(0, 1), None),
    "automatic on the line": (mlc.RealLine(), None),
    "Gauss-Legendre": (mlc.Interval(0, 1), mlc.GaussLegendre(4)),
    "Gauss-Kronrod": (mlc.Interval(0, 1), mlc.GaussKronrod()),
    "double-exponential": (mlc.RealLine(), mlc.DoubleExponential()),
    "around modes": (mlc.RealLine(), mlc.AdaptiveGaussHermite()),
    "around modes, three nodes": (mlc.RealLine(), mlc.AdaptiveGaussHermite(3)),
    "automatic on a plane": (PLANE, None),
    "automatic on a simplex": (mlc.Simplex(3), None),
    "Genz-Malik": (PLANE, mlc.GenzMalik()),
    "around modes on a plane": (PLANE, mlc.AdaptiveGaussHermite()),
    "around modes, three nodes on a plane": (PLANE, mlc.AdaptiveGaussHermite(3)),
    "lattice": (PLANE, mlc.Lattice(64)),
    "VEGAS": (PLANE, mlc.Vegas(256)),
    "product": (mlc.Box(0, 1, dimension=2), mlc.Product(mlc.GaussLegendre(3))),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_no_integral_has_the_shape_of_none(name: str, grad: bool) -> None:
    domain, rule = CASES[name]
    rate = torch.zeros(3, 0, requires_grad=grad)
    log_of = _log_of_plane if domain.solid else _log_of_line
    value = mlc.log_integrate(log_of, domain, rule, args=(rate,))
    assert value.shape == (3, 0)
    assert value.dtype == torch.float32
    assert value.requires_grad == grad
    if rule is not None and rule.fixed:
        return
    estimate = mlc.log_integrate_with_error(log_of, domain, rule, args=(rate,))
    for column in (estimate.value, estimate.error, estimate.status, estimate.n_evals):
        assert column.shape == (3, 0)
    again = mlc.log_integrate(log_of, domain, estimate.plan, args=(rate,))
    assert again.shape == (3, 0)


def _log_of_line(x: Tensor, rate: Tensor) -> Tensor:
    return -rate * x * x


def _log_of_plane(x: Tensor, rate: Tensor) -> Tensor:
    return -rate * x.square().sum(-1)


@pytest.mark.parametrize("name", [n for n in CASES if "modes" not in n])
def test_events_keep_their_shape(name: str) -> None:
    domain, rule = CASES[name]

    def events(x: Tensor, rate: Tensor) -> Tensor:
        one = (_log_of_plane if domain.solid else _log_of_line)(x, rate)
        return torch.stack([one, one, one], -1)

    args = (torch.zeros(0),)
    value = mlc.integrate(events, domain, rule, args=args)
    assert value.shape == (0, 3)
    if not domain.solid and (rule is None or not rule.fixed):
        estimate = mlc.integrate_with_error(events, domain, rule, args=args)
        assert estimate.value.shape == estimate.error.shape == (0, 3)
        assert estimate.plan.error.shape == (0, 3)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_between_equal_limits_there_is_no_error_of_every_event(
    shape: tuple[int, ...],
) -> None:
    one = torch.ones(shape)
    estimate = mlc.integrate_with_error(
        lambda x: torch.stack([x, x, x], -1), mlc.Interval(one, one)
    )
    assert estimate.error.shape == estimate.value.shape == (*shape, 3)
    assert (estimate.error == 0).all()
    assert (estimate.value == 0).all()


def test_antiderivatives_of_none() -> None:
    rate = torch.zeros(0)
    value = mlc.cumulative_integrate(
        lambda x, rate: rate * x, 0.0, torch.zeros(5, 0), args=(rate,)
    )
    assert value.shape == (5, 0)
    layer = mlc.Antiderivative(lambda x, rate: rate * x)
    assert layer.inverse(torch.zeros(5, 0), rate).shape == (5, 0)
