"""Densities of an empty batch, and none of their samples."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

import torch_mlcalc as mlc

PLANE = mlc.Box(-math.inf, math.inf, dimension=2)

#: Domains and rules that lead a density along different ways to its nodes.
CASES: dict[str, tuple[mlc.Domain, mlc.Rule | None]] = {
    "interval": (mlc.Interval(-3, 3), None),
    "half-line": (mlc.HalfLine(0.0), None),
    "line": (mlc.RealLine(), None),
    "Gauss-Legendre": (mlc.Interval(-3, 3), mlc.GaussLegendre(16)),
    "double-exponential": (mlc.RealLine(), mlc.DoubleExponential()),
    "around modes": (mlc.RealLine(), mlc.AdaptiveGaussHermite()),
    "box": (mlc.Box(-3.0, 3.0, dimension=2), None),
    "plane": (PLANE, None),
    "product": (mlc.Box(-3.0, 3.0, dimension=2), mlc.Product(mlc.GaussLegendre(8))),
}

Method = Callable[[mlc.NormalizedDensity], Tensor]

#: What a density is asked, with the shape in front of the batch, and whether that of a
#: point is behind it. (torch cannot be asked: its Independent of no elements fails.)
METHODS: dict[str, tuple[Method, tuple[int, ...], bool]] = {
    "log_normalizer": (lambda p: p.log_normalizer, (), False),
    "mean": (lambda p: p.mean, (), True),
    "variance": (lambda p: p.variance, (), True),
    "stddev": (lambda p: p.stddev, (), True),
    "mode": (lambda p: p.mode, (), True),
    "entropy": (lambda p: p.entropy(), (), False),
    "expectation": (lambda p: p.expectation(lambda x: 2 * x), (), True),
    "log_prob": (lambda p: p.log_prob(_points(p)), (), False),
    "log_prob of 5": (lambda p: p.log_prob(_points(p, 5)), (5,), False),
    "log_prob of 0": (lambda p: p.log_prob(_points(p, 0)), (0,), False),
    "kl_divergence": (lambda p: kl_divergence(p, p), (), False),
    "sample": (lambda p: p.sample(), (), True),
    "sample of 5": (lambda p: p.sample((5,)), (5,), True),
    "sample of 0": (lambda p: p.sample((0,)), (0,), True),
    "sample of 2 and 0": (lambda p: p.sample((2, 0)), (2, 0), True),
    "rsample of 0": (lambda p: p.rsample((0,)), (0,), True),
    "expand to 2": (lambda p: p.expand((2, *p.batch_shape)).mean, (2,), True),
    "expand to 0": (lambda p: p.expand((0, *p.batch_shape)).sample(), (0,), True),
}

#: The same for probabilities, which all domains of one dimension have.
QUANTILES: dict[str, tuple[Method, tuple[int, ...], bool]] = {
    "cdf": (lambda p: p.cdf(_points(p)), (), False),
    "cdf of 5": (lambda p: p.cdf(_points(p, 5)), (5,), False),
    "cdf of 0": (lambda p: p.cdf(_points(p, 0)), (0,), False),
    "icdf": (lambda p: p.icdf(_points(p)), (), False),
    "icdf of 5": (lambda p: p.icdf(_points(p, 5)), (5,), False),
    "icdf of 0": (lambda p: p.icdf(_points(p, 0)), (0,), False),
}


def _points(p: Distribution, *sample: int) -> Tensor:
    return torch.zeros((*sample, *p.batch_shape, *p.event_shape))


def _density(name: str, scale: Tensor) -> mlc.NormalizedDensity:
    domain, rule = CASES[name]

    def log_density(x: Tensor, scale: Tensor) -> Tensor:
        return -scale * (x.square().sum(-1) if domain.solid else x.square())

    return mlc.NormalizedDensity(log_density, domain, rule, args=(scale,))


def _check(p: mlc.NormalizedDensity, empty: str = "") -> None:
    quantiles = {} if p.event_shape else QUANTILES
    for key, (method, sample, event) in (METHODS | quantiles).items():
        if key.endswith(empty):
            last = p.event_shape if event else ()
            result = method(p)
            assert tuple(result.shape) == (*sample, *p.batch_shape, *last), key
            assert result.dtype == torch.float32, key


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
@pytest.mark.parametrize("name", CASES)
def test_an_empty_batch_is_answered_with_empty_tensors(
    name: str, shape: tuple[int, ...]
) -> None:
    scale = torch.ones(shape, requires_grad=True)
    p = _density(name, scale)
    assert p.batch_shape == shape
    assert p.status.shape == shape
    _check(p)
    (slope,) = torch.autograd.grad(p.log_prob(_points(p, 5)).sum(), scale)
    assert slope.shape == shape


@pytest.mark.parametrize("shape", [(), (32,)])
@pytest.mark.parametrize("name", ["interval", "line", "Gauss-Legendre", "box"])
def test_no_samples_and_no_points(name: str, shape: tuple[int, ...]) -> None:
    _check(_density(name, torch.ones(shape)), " 0")


def test_divergence_from_another_family() -> None:
    p, q = _density("interval", torch.ones(0)), Normal(torch.ones(0), torch.ones(0))
    assert kl_divergence(p, q).shape == (0,)


def test_a_shape_that_does_not_fit_is_refused_of_none_as_well() -> None:
    p = _density("interval", torch.ones(3))
    with pytest.raises(ValueError, match=r"does not end with batch_shape"):
        p.log_prob(torch.zeros(0, 2))


@pytest.mark.parametrize(
    "p",
    [
        Gamma(torch.ones(0), 1.0),
        Beta(torch.ones(0), 1.0, validate_args=False),
        Dirichlet(torch.ones(0, 3), validate_args=False),
        MixtureSameFamily(Categorical(torch.ones(0, 2)), Normal(torch.zeros(0, 2), 1)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_means_under_an_empty_batch_of_distributions(p: Distribution) -> None:
    assert mlc.expectation(torch.relu, p).shape == p.batch_shape + p.event_shape
