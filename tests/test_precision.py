"""Autocast rounds the network of the caller to half precision, and nothing else."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import torch_mlcalc as mlc

SQUARE = mlc.Box(0, 1, dimension=2)


def _exp(points: Tensor) -> Tensor:
    return torch.exp(points)


def _exp_of_sum(points: Tensor) -> Tensor:
    return torch.exp(points.sum(-1))


def _line(rule: mlc.Rule | None, upper: float | Tensor = 1.0) -> Tensor:
    return mlc.integrate(_exp, mlc.Interval(0, upper), rule)


def _replayed() -> Tensor:
    plan = mlc.adapt(_exp, mlc.Interval(0, 1))
    return mlc.integrate(_exp, mlc.Interval(0, 1), plan)


def _square(rule: mlc.Rule | None) -> Tensor:
    return mlc.integrate(_exp_of_sum, SQUARE, rule)


def _normal() -> mlc.NormalizedDensity:
    return mlc.NormalizedDensity(lambda x: -x * x / 2, mlc.RealLine())


def _square_density() -> mlc.NormalizedDensity:
    return mlc.NormalizedDensity(_log_of_two, SQUARE)


def _log_of_two(points: Tensor) -> Tensor:
    return -4 * (points - 0.5).square().sum(-1) + points.prod(-1)


def _samples() -> Tensor:
    torch.manual_seed(0)
    return _square_density().rsample((4,))


def _of_two(event: Tensor) -> Tensor:
    return event.exp().sum(-1)


def _linear() -> Tensor:
    torch.manual_seed(0)
    x, weight = torch.randn(8, 64), torch.randn(20, 64).requires_grad_()
    loss = mlc.linear_cross_entropy(x, weight, torch.arange(8))
    # Within autocast, which a training loop should not do, but may.
    (grad,) = torch.autograd.grad(loss, weight)
    loss = mlc.linear_cross_entropy(x, weight, torch.arange(8), label_smoothing=0.1)
    return torch.cat([loss.detach()[None], grad.flatten()])


def _tempered() -> Tensor:
    torch.manual_seed(0)
    target = torch.rand(4, 3).softmax(-1)
    weight = torch.tensor([0.3, 0.7, 1.1])
    return mlc.bi_tempered_loss(
        torch.randn(4, 3), target, t1=0.9, t2=1.1, weight=weight
    )


PRODUCTS: dict[str, Callable[[], Tensor]] = {
    "fixed rule": lambda: _line(mlc.GaussLegendre(16)),
    "fixed rule with tensor limits": lambda: _line(
        mlc.GaussLegendre(16), torch.tensor(1.0)
    ),
    "fixed rule in blocks": lambda: mlc.integrate(
        _exp, mlc.Interval(0, 1), mlc.GaussLegendre(64), memory=1024
    ),
    "automatic": lambda: _line(None),
    "plan": _replayed,
    "product": lambda: _square(mlc.Product(mlc.GaussLegendre(6))),
    "sparse grid": lambda: _square(mlc.SparseGrid(4)),
    "automatic in two dimensions": lambda: _square(None),
    "hermite": lambda: mlc.log_integrate(
        lambda x: -x.square().sum(-1) - (x[..., 0] * x[..., 1] + 1).square(),
        mlc.Box(-math.inf, math.inf, dimension=2),
        mlc.AdaptiveGaussHermite(),
    ),
    "events": lambda: mlc.integrate(
        lambda x: torch.stack([x, x.exp()], -1),
        mlc.Interval(0, 1),
        mlc.GaussLegendre(8),
    ),
    "expectation": lambda: mlc.expectation(_exp, Normal(torch.tensor(0.5), 1.0)),
    "expectation in two dimensions": lambda: mlc.expectation(
        _of_two,
        MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.7], [0.7, 1.0]])),
    ),
    "cumulative": lambda: mlc.cumulative_integrate(_exp, 0.0, torch.tensor([0.5, 2.0])),
    "moments": lambda: torch.stack([_normal().mean, _normal().variance]),
    "cdf": lambda: _normal().cdf(torch.tensor([-1.0, 1.3])),
    "icdf": lambda: _normal().icdf(torch.tensor([0.1, 0.7])),
    "samples in two dimensions": _samples,
    "linear cross-entropy with its gradient": _linear,
    "weighted tempered loss": _tempered,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_sums_and_places_are_not_rounded_to_half_precision(name: str) -> None:
    exact = PRODUCTS[name]()
    with torch.autocast("cpu", torch.bfloat16):
        value = PRODUCTS[name]()
    assert value.dtype == exact.dtype == torch.float32
    torch.testing.assert_close(value, exact, rtol=2e-6, atol=2e-6)


def test_the_network_of_an_integrand_still_is() -> None:
    net, seen = torch.nn.Linear(1, 1), []

    def integrand(x: Tensor) -> Tensor:
        values = net(x[:, None])[:, 0]
        seen.append(values.dtype)
        return values

    with torch.autocast("cpu", torch.bfloat16):
        value = mlc.integrate(integrand, mlc.Interval(0, 1), mlc.GaussLegendre(4))
    assert seen == [torch.bfloat16]
    assert value.dtype == torch.float32


def test_blocks_do_not_add_up_their_gradients_in_half_precision() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(1, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
    )

    def gradient() -> tuple[Tensor, ...]:
        value = mlc.integrate(
            lambda x: net(x[:, None])[:, 0],
            mlc.Interval(0, 1),
            mlc.GaussLegendre(600),
            memory=1000,
        )
        return torch.autograd.grad(value, [*net.parameters()])

    exact = gradient()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradient()
        assert torch.is_autocast_cache_enabled()
    for one, other in zip(rounded, exact, strict=True):
        assert (one - other).abs().max() < 1e-2 * other.abs().max()


PLANE = mlc.Box(-math.inf, math.inf, dimension=2)

NARROW: dict[str, tuple[mlc.Domain, mlc.Rule | None]] = {
    "line": (mlc.RealLine(), None),
    "fixed": (mlc.RealLine(), mlc.GaussHermite(8)),
    "levels": (mlc.RealLine(), mlc.DoubleExponential()),
    "plane": (PLANE, None),
    "regions": (PLANE, mlc.GenzMalik()),
    "lattice": (PLANE, mlc.Lattice(64)),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_the_result_is_that_of_the_inputs(
    dtype: torch.dtype, name: str, grad: bool
) -> None:
    domain, rule = NARROW[name]
    rate = torch.ones((), dtype=dtype, requires_grad=grad)

    def integrand(x: Tensor, rate: Tensor) -> Tensor:
        square = x.square().sum(-1) if domain.solid else x.square()
        # As a network under autocast: narrower than what it is asked for.
        return torch.exp(-rate * square).to(torch.bfloat16)

    value = mlc.integrate(
        integrand, domain, rule, args=(rate,), on_failure="ignore", max_evals=20000
    )
    assert value.dtype == dtype


TRANSFORMED: dict[str, Callable[[Tensor], Tensor]] = {
    "interval": lambda w: mlc.integrate(torch.exp, mlc.Interval(0.0, w)),
    "line": lambda w: mlc.log_integrate(_log_bell, mlc.RealLine(), args=(w,)),
    "levels": lambda w: mlc.log_integrate(
        _log_bell, mlc.RealLine(), mlc.DoubleExponential(), args=(w,)
    ),
    "modes": lambda w: mlc.log_integrate(
        _log_bell, mlc.RealLine(), mlc.AdaptiveGaussHermite(), args=(w,)
    ),
    "square": lambda w: mlc.integrate(
        lambda x, w: torch.exp(-w * x.sum(-1)), SQUARE, args=(w,)
    ),
    "cumulative": lambda w: mlc.cumulative_integrate(torch.exp, 0.0, w),
}


def _log_bell(x: Tensor, w: Tensor) -> Tensor:
    return -w * x * x


# vmap puts its dimension in front of edges that are contiguous without it.
@pytest.mark.filterwarnings("ignore:torch.searchsorted")
@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_functional_transforms_take_every_dtype(dtype: torch.dtype, name: str) -> None:
    function = TRANSFORMED[name]
    w = torch.tensor([0.75, 1.5], dtype=dtype)
    leaf = w.clone().requires_grad_()
    value = function(leaf)
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    tolerance = {"rtol": 20 * torch.finfo(dtype).eps ** 0.7, "atol": 0.0}
    mapped = torch.func.vmap(function)(w)
    torch.testing.assert_close(mapped, value.detach(), **tolerance)
    rows = torch.func.jacrev(function)(w)
    torch.testing.assert_close(rows.diagonal(), slope, **tolerance)
    each = torch.func.vmap(torch.func.grad(function))(w)
    torch.testing.assert_close(each, slope, **tolerance)


@pytest.mark.parametrize("n", [None, 3])
def test_modes_in_several_dimensions_take_half_precision(n: int | None) -> None:
    w = torch.ones((), dtype=torch.bfloat16, requires_grad=True)
    value = mlc.log_integrate(
        lambda x, w: -w * x.square().sum(-1),
        PLANE,
        mlc.AdaptiveGaussHermite(n),
        args=(w,),
    )
    (slope,) = torch.autograd.grad(value, w)
    assert value.dtype == torch.bfloat16
    assert value.item() == pytest.approx(math.log(math.pi), rel=1e-2)
    assert slope.item() == pytest.approx(-1, rel=2e-2)
