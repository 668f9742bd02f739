"""Densities in half precision: all that is asked of one has its dtype."""

import math

import pytest
import torch
from torch import Tensor

import torch_mlcalc as mlc

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])

LINES: dict[str, mlc.Domain] = {
    "line": mlc.RealLine(),
    "half-line": mlc.HalfLine(0.3),
    "interval": mlc.Interval(-0.3, 0.3),  # neither end is a number in half precision
}

#: The standard deviation of exp(-x^2) on the line, on every axis.
SPREAD = math.sqrt(0.5)

DOMAINS = LINES | {
    "box": mlc.Box(-3.0, 3.0, dimension=2),
    "plane": mlc.Box(-math.inf, math.inf, dimension=2),
}


def _density(domain: mlc.Domain, dtype: torch.dtype) -> mlc.NormalizedDensity:
    def log_density(x: Tensor, rate: Tensor) -> Tensor:
        return -rate * (x.square().sum(-1) if domain.solid else x.square())

    rate = torch.ones(3, dtype=dtype, requires_grad=True)
    # Rounding is more than what a cdf in two dimensions wants.
    on_failure = "ignore" if domain.solid else "warn"
    return mlc.NormalizedDensity(
        log_density, domain, args=(rate,), validate_args=True, on_failure=on_failure
    )


@HALF
@pytest.mark.parametrize("name", DOMAINS)
def test_every_result_has_the_dtype_of_the_density(
    name: str, dtype: torch.dtype
) -> None:
    p = _density(DOMAINS[name], dtype)
    assert p.dtype == dtype
    drawn = p.rsample((5,))
    results = [p.log_normalizer, p.mean, p.variance, p.mode, p.entropy()]
    # Rounded, samples are in the support still.
    results += [drawn, p.sample(), p.log_prob(drawn), p.cdf(drawn.detach())]
    if not p.event_shape:
        results += [p.icdf(torch.tensor([0.0, 0.5, 1.0])), p.icdf(p.cdf(drawn))]
    assert {result.dtype for result in results} == {dtype}
    drawn.sum().backward()
    (rate,) = p.args
    assert rate.grad.isfinite().all()
    layer = torch.nn.Linear(drawn.shape[-1], 2, dtype=dtype)
    assert layer(p.sample()).dtype == dtype


@HALF
@pytest.mark.parametrize("name", LINES)
def test_quantiles_are_those_of_single_precision_rounded(
    name: str, dtype: torch.dtype
) -> None:
    p, wide = (_density(LINES[name], kind) for kind in (dtype, torch.float32))
    eps = torch.finfo(dtype).eps
    q = torch.linspace(0.125, 0.875, 7)[:, None]
    x = wide.icdf(q).detach()
    torch.testing.assert_close(p.icdf(q).float(), x, rtol=8 * eps, atol=8 * eps)
    x = x.to(dtype)
    expected = wide.cdf(x.float())
    torch.testing.assert_close(p.cdf(x).float(), expected, rtol=8 * eps, atol=8 * eps)


@HALF
@pytest.mark.parametrize("name", ["line", "plane"])
def test_samples_come_from_uniform_numbers_of_single_precision(
    name: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(3)
    drawn = _density(DOMAINS[name], dtype).sample((4000,)).float()
    drawn = drawn.reshape(4000, 3, -1)
    # Of uniform numbers in bfloat16 there are 256 above 1/2,
    # and so many samples above 0.
    above = drawn[..., 0][drawn[..., 0] > 0]
    assert above.unique().numel() > 400
    assert drawn.mean().abs() < 5 * SPREAD / math.sqrt(drawn.numel())
    assert abs(drawn.std().item() / SPREAD - 1) < 5 / math.sqrt(2 * drawn.numel())
