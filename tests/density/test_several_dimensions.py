"""Densities on boxes: what there is, and what there is not."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

import torch_mlcalc as mlc

DOUBLE = torch.float64
PLANE = mlc.Box(torch.full((2,), -math.inf, dtype=DOUBLE), math.inf)
SQUARE = mlc.Box(torch.tensor([-8.0, -8.0], dtype=DOUBLE), 8.0)


def funnel(x: Tensor) -> Tensor:
    return (
        -(x[..., 0] ** 2) / 2 - x[..., 0] / 2 - x[..., 1] ** 2 / 2 * (-x[..., 0]).exp()
    )


def springs(k: Tensor, rule: mlc.Rule | None = None) -> mlc.NormalizedDensity:
    return mlc.NormalizedDensity(
        lambda x, k: -(k * x * x).sum(-1) / 2, SQUARE, rule, args=(k,), batch_shape=(3,)
    )


def test_log_normalizer_on_the_plane() -> None:
    p = mlc.NormalizedDensity(funnel, PLANE)
    assert p.event_shape == (2,) and p.batch_shape == ()
    assert p.log_normalizer.item() == pytest.approx(math.log(2 * math.pi), abs=1e-6)


def test_batches_gradients_and_agreement_with_torch() -> None:
    k = torch.tensor([[1.0, 4.0], [2.0, 2.0], [1.0, 1.0]], dtype=DOUBLE)
    k.requires_grad_()
    rule = mlc.Product(mlc.GaussLegendre(60), mlc.GaussLegendre(60))
    p = springs(k, rule)
    twin = Independent(Normal(torch.zeros(3, 2, dtype=DOUBLE), k.rsqrt()), 1)
    x = torch.randn(5, 3, 2, dtype=DOUBLE)
    torch.testing.assert_close(p.log_prob(x), twin.log_prob(x))
    torch.testing.assert_close(p.mean, torch.zeros(3, 2, dtype=DOUBLE))
    torch.testing.assert_close(p.variance, 1 / k)
    torch.testing.assert_close(p.entropy(), twin.entropy())
    (g,) = torch.autograd.grad(p.log_normalizer.sum(), k)
    torch.testing.assert_close(g, -1 / (2 * k.detach()))
    assert p.expand((2, 3)).log_prob(x[:, None]).shape == (5, 2, 3)


def test_divergence_from_a_multivariate_normal() -> None:
    rule = mlc.Product(mlc.GaussLegendre(60), mlc.GaussLegendre(60))
    p = mlc.NormalizedDensity(lambda x: -(x * x).sum(-1) / 2, SQUARE, rule)
    q = MultivariateNormal(
        torch.tensor([0.5, 0.0], dtype=DOUBLE), 2 * torch.eye(2, dtype=DOUBLE)
    )
    unit = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), torch.eye(2, dtype=DOUBLE))
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(unit, q))


def test_support_is_checked() -> None:
    p = mlc.NormalizedDensity(lambda x: x.sum(-1), SQUARE, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor([9.0, 0.0], dtype=DOUBLE))


@pytest.mark.parametrize("name", ["cdf", "icdf", "sample", "mode"])
def test_what_needs_an_order_is_refused(name: str) -> None:
    p = mlc.NormalizedDensity(funnel, PLANE, validate_args=False)
    assert not p.has_rsample
    with pytest.raises(NotImplementedError, match="several dimensions"):
        value = getattr(p, name)
        if name == "sample":
            value()
        elif callable(value):
            value(torch.zeros(2, dtype=DOUBLE))
