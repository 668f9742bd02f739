"""Normal-like densities by default, and what only looks like one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.quadrature.cubature.whitened import WhitenedPlan

DOUBLE = torch.float64


def space(d: int) -> mlc.Box:
    return mlc.Box(torch.full((d,), -math.inf, dtype=DOUBLE), math.inf)


@pytest.mark.parametrize("d", [2, 3, 4, 5])
def test_correlated_normal_densities(d: int) -> None:
    rho = torch.tensor([0.5, 0.99], dtype=DOUBLE, requires_grad=True)
    unit = torch.eye(d, dtype=DOUBLE)
    cov = rho[:, None, None] + (1 - rho[:, None, None]) * unit
    inverse = torch.linalg.inv(cov)

    def log_density(x: Tensor, inverse: Tensor) -> Tensor:
        return -(x[..., None, :] @ inverse @ x[..., None])[..., 0, 0] / 2

    estimate = mlc.log_integrate_with_error(
        log_density, space(d), args=(inverse,), batch_shape=(2,)
    )
    wanted = d / 2 * math.log(2 * math.pi) + torch.linalg.slogdet(cov)[1] / 2
    torch.testing.assert_close(estimate.value, wanted, rtol=0, atol=1e-10)
    # In few dimensions tensor rules on the whole come first, and are counted too.
    most = {2: 15_000, 3: 130_000}.get(d, 10_000)
    assert (estimate.status == 0).all() and (estimate.n_evals < most).all()
    got, true = (
        torch.autograd.grad(v.sum(), rho, retain_graph=True)
        for v in (estimate.value, wanted)
    )
    torch.testing.assert_close(got, true, rtol=1e-8, atol=0)


@pytest.mark.parametrize("gap", [3.0, 6.0, 12.0])
def test_a_second_mode_is_not_overlooked(gap: float) -> None:
    # A grid around the first mode, found from 0, is sure of itself and 0.85 off.
    near, far = (torch.full((4,), c, dtype=DOUBLE) for c in (gap / 16, -gap / 2))

    def mixture(x: Tensor) -> Tensor:
        first, second = (-((x - c) ** 2).sum(-1) / 2 for c in (near, far))
        return torch.logaddexp(first, second + 0.3)

    estimate = mlc.log_integrate_with_error(
        mixture, space(4), on_failure="ignore", max_evals=200_000
    )
    wanted = 2 * math.log(2 * math.pi) + math.log1p(math.exp(0.3))
    off = abs(estimate.value.item() - wanted)
    assert off < 0.05
    assert off < 1e-8 or estimate.status != mlc.Status.CONVERGED
    assert not isinstance(estimate.plan, WhitenedPlan)


def test_a_narrow_spike_beside_a_wide_hill() -> None:
    at = torch.tensor([6.0, 0.0, 0.0, 0.0], dtype=DOUBLE)

    def spiked(x: Tensor) -> Tensor:
        spike = -((x - at) ** 2).sum(-1) / 2 / 0.5**2
        return torch.logaddexp(-(x**2).sum(-1) / 2, spike + 4 * math.log(2))

    estimate = mlc.log_integrate_with_error(
        spiked, space(4), on_failure="ignore", max_evals=200_000
    )
    assert not isinstance(estimate.plan, WhitenedPlan)


@pytest.mark.parametrize(
    "function",
    [
        # Without derivatives, with event dimensions, with a kink at the mode.
        lambda x: torch.from_numpy(-(x.detach().numpy() ** 2).sum(-1) / 2),
        lambda x: torch.stack([-(x**2).sum(-1) / 2] * 2, -1),
        lambda x: -(x**2).sum(-1) / 2 - x.norm(dim=-1) * 0.01,
    ],
    ids=["numpy", "events", "kink"],
)
def test_others_are_integrated_as_before(function: Callable[[Tensor], Tensor]) -> None:
    estimate = mlc.log_integrate_with_error(
        function, space(4), on_failure="ignore", max_evals=200_000
    )
    assert not isinstance(estimate.plan, WhitenedPlan)
    assert (estimate.value - 2 * math.log(2 * math.pi)).abs().max() < 0.1


def test_breakpoints_beyond_the_end_of_a_half_line_have_no_effect() -> None:
    box = mlc.Box(torch.zeros(2, dtype=DOUBLE), math.inf)
    value = mlc.integrate(
        lambda x: torch.exp(-x.sum(-1)), box, breakpoints=[[-37.0, 1.0], [-2.0]]
    )
    assert value.item() == pytest.approx(1.0, abs=1e-8)
