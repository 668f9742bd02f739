"""Densities on boxes: what there is, and what there is not."""

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from scipy import stats
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


def log_z_of_normal(matrix: Tensor) -> Tensor:
    d = matrix.shape[-1]
    return d / 2 * math.log(2 * math.pi) - torch.linalg.slogdet(matrix)[1] / 2


class Family(NamedTuple):
    """Densities on all of space, the log of their integral, and a parameter."""

    name: str
    dimension: int
    log_density: Callable[[Tensor, Tensor], Tensor]
    log_z: Callable[[Tensor], Tensor]
    theta: Tensor


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


FAMILIES = [
    Family("banana", 2, lambda x, k: -k[0] * x[..., 0] ** 2 / 2
           - k[1] * (x[..., 1] - x[..., 0] ** 2) ** 2,
           lambda k: math.log(math.sqrt(2) * math.pi) - k.log().sum() / 2,
           tensor(1.0, 2.0)),
    Family("funnel", 2, lambda x, k: -k[0] * x[..., 0] ** 2 / 2 - x[..., 0] / 2
           - k[1] * x[..., 1] ** 2 * torch.exp(-x[..., 0]) / 2,
           lambda k: math.log(2 * math.pi) - k.log().sum() / 2, tensor(1.0, 1.0)),
    Family("mixture", 2, lambda x, k: torch.logaddexp(
           k[0] - ((x - 1.5) ** 2).sum(-1), -k[1] * ((x + 1.5) ** 2).sum(-1)),
           lambda k: math.log(math.pi) + (k[0].exp() + 1 / k[1]).log(),
           tensor(0.5, 2.0)),
    *(Family(f"correlated, d = {d}", d, lambda x, a: -((x @ a) * x).sum(-1) / 2,
             log_z_of_normal,
             torch.linalg.inv(0.5 * torch.eye(d, dtype=DOUBLE) + 0.5))
      for d in (2, 3, 4, 5)),
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_log_normalizer_and_its_gradient_by_default(family: Family) -> None:
    theta = family.theta.clone().requires_grad_()
    space = mlc.Box(torch.full((family.dimension,), -math.inf, dtype=DOUBLE), math.inf)
    p = mlc.NormalizedDensity(lambda x: family.log_density(x, theta), space)
    exact = family.log_z(theta)
    assert p.log_normalizer.item() == pytest.approx(exact.item(), abs=1e-6)
    assert p.status == mlc.Status.CONVERGED
    ours, theirs = (torch.autograd.grad(v, theta)[0] for v in (p.log_normalizer, exact))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_log_normalizer_in_single_precision(family: Family) -> None:
    theta = family.theta.float()
    space = mlc.Box(torch.full((family.dimension,), -math.inf), math.inf)
    log_z = mlc.NormalizedDensity(
        lambda x: family.log_density(x, theta), space
    ).log_normalizer
    assert log_z.dtype == torch.float32
    exact = family.log_z(family.theta).item()
    assert log_z.item() == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_loose_tolerances_are_met(family: Family, dtype: torch.dtype) -> None:
    theta = family.theta.to(dtype)
    space = mlc.Box(torch.full((family.dimension,), -math.inf, dtype=dtype), math.inf)
    for rtol in (3.5e-4, 1e-4):
        log_z, error, status, *_ = mlc.log_integrate_with_error(
            lambda x: family.log_density(x, theta), space, rtol=rtol
        )
        assert status == mlc.Status.CONVERGED and error <= rtol
        assert log_z.item() == pytest.approx(
            family.log_z(family.theta).item(), abs=rtol
        )


@pytest.mark.parametrize("name", ["funnel", "correlated, d = 3"])
def test_loose_tolerances_are_met_without_logs(name: str) -> None:
    family = next(f for f in FAMILIES if f.name == name)
    space = mlc.Box(torch.full((family.dimension,), -math.inf, dtype=DOUBLE), math.inf)
    z, _, status, *_ = mlc.integrate_with_error(
        lambda x: family.log_density(x, family.theta).exp(), space, rtol=3.5e-4
    )
    assert status == mlc.Status.CONVERGED
    exact = family.log_z(family.theta).exp().item()
    assert z.item() == pytest.approx(exact, rel=3.5e-4)


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


def test_quantiles_are_refused() -> None:
    p = mlc.NormalizedDensity(funnel, PLANE)
    with pytest.raises(NotImplementedError, match="many points have the same"):
        p.icdf(torch.tensor([0.5, 0.5], dtype=DOUBLE))


def gaussian(d: int) -> tuple[MultivariateNormal, mlc.NormalizedDensity]:
    """A batch of two correlated normal densities, by torch and from their logs."""
    torch.manual_seed(d)
    factor = torch.randn(2, d, d, dtype=DOUBLE) * 0.5 + torch.eye(d, dtype=DOUBLE)
    cov = (factor @ factor.mT).requires_grad_()
    loc = (3 * torch.randn(2, d, dtype=DOUBLE)).requires_grad_()
    twin = MultivariateNormal(loc, cov)
    twin.loc, twin.covariance_matrix = loc, cov

    def log_density(x: Tensor, loc: Tensor, inverse: Tensor) -> Tensor:
        y = x - loc
        return -(y[..., None, :] @ inverse @ y[..., None])[..., 0, 0] / 2

    box = mlc.Box(torch.full((d,), -math.inf, dtype=DOUBLE), math.inf)
    p = mlc.NormalizedDensity(
        log_density, box, args=(loc, torch.linalg.inv(cov)), batch_shape=(2,)
    )
    return twin, p


def whiten(twin: MultivariateNormal, x: Tensor) -> Tensor:
    y = torch.linalg.solve_triangular(
        twin.scale_tril, (x - twin.loc)[..., None], upper=False
    )
    return y[..., 0]


@pytest.mark.parametrize("d", [2, 4])
def test_samples_of_correlated_normal_densities(d: int) -> None:
    twin, p = gaussian(d)
    assert p.has_rsample
    with torch.no_grad():
        z = whiten(twin, p.sample((1000,))).flatten(0, 1)
    # Independent standard normal coordinates, each by Kolmogorov and Smirnov.
    for axis in range(d):
        assert stats.kstest(z[:, axis].numpy(), "norm").pvalue > 1e-3
    correlation = torch.corrcoef(z.T) - torch.eye(d, dtype=DOUBLE)
    assert correlation.abs().max() < 4 / math.sqrt(2000)


@pytest.mark.parametrize("d", [2, 4])
def test_samples_move_as_those_of_the_normal_distribution(d: int) -> None:
    # With the same axes first, Rosenblatt's map of a normal density is x = loc + L z.
    twin, p = gaussian(d)
    x = p.rsample((50,))
    z = whiten(twin, x).detach()
    weight = torch.randn_like(z)
    inputs = (twin.loc, twin.covariance_matrix)
    wanted = twin.loc + (twin.scale_tril @ z[..., None])[..., 0]
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-9)
    ours = torch.autograd.grad((x * weight).sum(), inputs, retain_graph=True)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-6, atol=1e-6)
    symmetric = [g + g.mT for g in (ours[1], theirs[1])]
    torch.testing.assert_close(*symmetric, rtol=1e-6, atol=1e-5)


def banana(x: Tensor, bend: Tensor) -> Tensor:
    return -(x[..., 0] ** 2) / 2 - 2 * (x[..., 1] - bend * x[..., 0] ** 2) ** 2


def test_samples_of_a_banana_and_their_gradient() -> None:
    torch.manual_seed(5)
    bend = torch.tensor([0.3, -0.5], dtype=DOUBLE, requires_grad=True)
    p = mlc.NormalizedDensity(banana, PLANE, args=(bend,))
    x = p.rsample((1000,))
    straight = (x[..., 1] - bend * x[..., 0] ** 2).detach() * 2
    for axis in range(2):
        for column in (x[:, axis, 0].detach(), straight[:, axis]):
            assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    # E y = bend, E y^2 = 1/4 + 3 bend^2, so that the derivatives are 1 and 6 bend.
    y = x[..., 1]
    first = torch.autograd.grad(y.mean(0).sum(), bend, retain_graph=True)[0]
    second = torch.autograd.grad(y.square().mean(0).sum(), bend)[0]
    torch.testing.assert_close(first, torch.ones_like(bend), rtol=0, atol=0.1)
    torch.testing.assert_close(second, 6 * bend.detach(), rtol=0.25, atol=0)


def test_second_derivatives_of_samples() -> None:
    bend = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)

    def drawn(bend: Tensor) -> Tensor:
        torch.manual_seed(1)
        scale = torch.tensor([1.0, 2.0], dtype=DOUBLE)
        return mlc.NormalizedDensity(
            lambda x, b: -((x / scale) ** 2 * b.exp()[..., None]).sum(-1) / 2,
            PLANE,
            args=(bend,),
        ).rsample((3,))

    # Each sample is exp(-b / 2) times a number.
    x = drawn(bend)
    (first,) = torch.autograd.grad(x.sum(), bend, create_graph=True)
    (second,) = torch.autograd.grad(first, bend)
    total = x.detach().sum()
    torch.testing.assert_close(first.detach(), -total / 2, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(second, total / 4, rtol=1e-5, atol=1e-5)


def test_samples_in_boxes_with_ends_that_move() -> None:
    torch.manual_seed(2)
    high = torch.tensor([1.0, 3.0], dtype=DOUBLE, requires_grad=True)
    box = mlc.Box(torch.zeros(2, dtype=DOUBLE), high)
    x = mlc.NormalizedDensity(lambda x: 0 * x.sum(-1), box).rsample((100,))
    (g,) = torch.autograd.grad(x.sum(), high)
    torch.testing.assert_close(g, (x / high).detach().sum(0))
    for axis in range(2):
        share = (x[:, axis] / high[axis]).detach().numpy()
        assert stats.kstest(share, "uniform").pvalue > 1e-3
    # And in a triangle, and on a simplex, in all of their own coordinates.
    triangle = mlc.Box([0.0, 0.0], [1.0, lambda x: 1 - x])
    t = mlc.NormalizedDensity(lambda x: 0 * x.sum(-1), triangle).sample((500,))
    assert (t.sum(-1) < 1).all()
    assert stats.kstest(t[:, 0].numpy(), stats.beta(1, 2).cdf).pvalue > 1e-3
    alpha = torch.tensor([2.0, 3.0, 4.0], dtype=DOUBLE)
    s = mlc.NormalizedDensity(
        lambda x, a: ((a - 1) * x.log()).sum(-1),
        mlc.Simplex(2),
        args=(alpha.expand(2, 3),),
        batch_shape=(2,),
    ).sample((500,))
    assert s.shape == (500, 2, 3)
    torch.testing.assert_close(s.sum(-1), torch.ones(500, 2, dtype=DOUBLE))
    assert stats.kstest(s[:, 0, 1].numpy(), stats.beta(3, 6).cdf).pvalue > 1e-3


def test_cdf_of_independent_and_correlated_normal_densities() -> None:
    twin, p = gaussian(2)
    shift = torch.tensor([[0.3, -0.5], [40.0, 1.0], [-40.0, 1.0]], dtype=DOUBLE)
    x = (twin.loc.detach() + shift[:, None]).requires_grad_()
    value = p.cdf(x)
    assert value.shape == (3, 2)
    for i in range(3):
        for b in range(2):
            true = stats.multivariate_normal(
                twin.loc[b].detach(), twin.covariance_matrix[b].detach()
            ).cdf(x[i, b].detach())
            assert value[i, b].item() == pytest.approx(true, abs=1e-7)
    # By a coordinate: the density there times the other's conditional probability.
    (g,) = torch.autograd.grad(value[0].sum(), x)
    for b in range(2):
        mean, cov = twin.loc[b].detach(), twin.covariance_matrix[b].detach()
        at = x[0, b].detach()
        slope = cov[0, 1] / cov[0, 0]
        rest = Normal(
            mean[1] + slope * (at[0] - mean[0]), (cov[1, 1] - slope * cov[0, 1]).sqrt()
        )
        wanted = Normal(mean[0], cov[0, 0].sqrt()).log_prob(at[0]).exp() * rest.cdf(
            at[1]
        )
        torch.testing.assert_close(g[0, b, 0], wanted, rtol=0, atol=1e-6)
    # By the location it is the opposite.
    (h,) = torch.autograd.grad(p.cdf(x[0]).sum(), twin.loc)
    torch.testing.assert_close(h, -g[0], rtol=0, atol=1e-6)


def test_cdf_in_a_box_begins_at_0_and_ends_at_1() -> None:
    k = torch.tensor([[1.0, 4.0], [2.0, 2.0], [1.0, 1.0]], dtype=DOUBLE)
    p = springs(k)
    corners = torch.tensor([[-8.0, 3.0], [8.0, 8.0], [0.0, 0.0]], dtype=DOUBLE)
    value = p.cdf(corners[:, None].expand(3, 3, 2))
    wanted = torch.tensor([0.0, 1.0, 0.25], dtype=DOUBLE)[:, None].expand(3, 3)
    torch.testing.assert_close(value, wanted, rtol=0, atol=1e-8)


def test_mode_inside_and_at_a_corner() -> None:
    twin, p = gaussian(3)
    torch.testing.assert_close(p.mode, twin.loc, rtol=0, atol=1e-12)
    (g,) = torch.autograd.grad(p.mode.sum(), twin.loc)
    torch.testing.assert_close(g, torch.ones_like(g))
    # Of two hills the higher one, and at the end of a box what the slope pushes there.
    hills = mlc.NormalizedDensity(
        lambda x: torch.logaddexp(
            -((x - 2) ** 2).sum(-1) * 2, -((x + 2) ** 2).sum(-1) * 2 + 1
        ),
        SQUARE,
    )
    torch.testing.assert_close(
        hills.mode, torch.full((2,), -2.0, dtype=DOUBLE), rtol=0, atol=1e-9
    )
    high = torch.tensor([1.0, 3.0], dtype=DOUBLE, requires_grad=True)
    p = mlc.NormalizedDensity(
        lambda x: x[..., 0] - (x[..., 1] - x[..., 0]) ** 2,
        mlc.Box(torch.zeros(2, dtype=DOUBLE), high),
    )
    torch.testing.assert_close(p.mode, torch.ones(2, dtype=DOUBLE), rtol=0, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(
        lambda h: (
            mlc.NormalizedDensity(
                lambda x: x[..., 0] - (x[..., 1] - x[..., 0]) ** 2,
                mlc.Box(torch.zeros(2, dtype=DOUBLE), h),
            ).mode
        ),
        high,
    )
    wanted = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=DOUBLE)
    torch.testing.assert_close(jacobian, wanted, rtol=0, atol=1e-9)


def test_single_precision_samples() -> None:
    p = mlc.NormalizedDensity(
        lambda x: -(x**2).sum(-1) / 2, mlc.Box(-math.inf, math.inf, 2)
    )
    x = p.sample((1000,))
    assert x.dtype == torch.float32
    assert stats.kstest(x[:, 1].numpy(), "norm").pvalue > 1e-3
    assert p.mode.abs().max() < 1e-6
    assert p.cdf(torch.zeros(2)).item() == pytest.approx(0.25, abs=5e-5)


def test_what_no_grid_resolves_is_reported() -> None:
    jump = mlc.NormalizedDensity(
        lambda x: torch.where(x.sum(-1) > 0, 0.0, -5.0).to(x),
        SQUARE,
        mlc.Product(mlc.GaussLegendre(64)),
    )
    with pytest.warns(mlc.IntegrationWarning, match="not resolved by the largest grid"):
        jump.sample((2,))
    nothing = mlc.NormalizedDensity(
        lambda x: -(x**2).sum(-1), mlc.Box(-math.inf, math.inf, 7)
    )
    assert not nothing.has_rsample
    with pytest.raises(NotImplementedError, match="in 7 dimensions"):
        nothing.sample()
    bent = mlc.NormalizedDensity(
        lambda x: x.sum(-1), mlc.Box([0.0, 0.0], [1.0, lambda x: 1 - x])
    )
    for name in ("cdf", "mode"):
        with pytest.raises(NotImplementedError, match=f"has no {name}"):
            value = getattr(bent, name)
            value(torch.tensor([0.1, 0.1]))


@pytest.mark.parametrize("d", [3, 5])
def test_moments_of_correlated_normal_densities(d: int) -> None:
    twin, p = gaussian(d)
    torch.testing.assert_close(p.mean, twin.loc, rtol=1e-9, atol=1e-9)
    variance = twin.covariance_matrix.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(p.variance, variance, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(p.entropy(), twin.entropy(), rtol=1e-9, atol=1e-9)
    # More nodes than the normaliser needs.
    wave = p.expectation(lambda x: torch.cos(x[..., 0] / 2))
    spread = variance[..., 0] / 4
    wanted = torch.cos(twin.loc[..., 0] / 2) * torch.exp(-spread / 2)
    torch.testing.assert_close(wave, wanted, rtol=1e-6, atol=1e-6)
    (g,) = torch.autograd.grad(p.mean.sum(), twin.loc)
    torch.testing.assert_close(g, torch.ones_like(g), rtol=1e-8, atol=1e-8)


def test_what_overflows_far_out_has_no_slope_where_nothing_can_be_read() -> None:
    # As on a GPU: whether a log is minus infinity at a node is not asked below vmap.
    (family,) = (f for f in FAMILIES if f.name == "funnel")
    space = mlc.Box(torch.full((2,), -math.inf, dtype=DOUBLE), math.inf)

    def log_z(theta: Tensor) -> Tensor:
        return mlc.log_integrate(lambda x: family.log_density(x, theta), space)

    theta = torch.stack([family.theta, 2 * family.theta])
    slopes = torch.func.vmap(torch.func.grad(log_z))(theta)
    torch.testing.assert_close(slopes, -0.5 / theta, rtol=1e-6, atol=0)


def test_a_step_next_to_the_mode_is_seen_by_means() -> None:
    # The normaliser has a grid of 64 nodes on each axis. With scipy.integrate.quad.
    p = mlc.NormalizedDensity(
        lambda x: (-(x**2) / 2 - 0.03 * x**4).sum(-1), PLANE, mlc.AdaptiveGaussHermite()
    )
    share = p.expectation(lambda x: (x[..., 0] > 0.05).double())
    assert share.item() == pytest.approx(0.47870247700733776, rel=1e-6)
