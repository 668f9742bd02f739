"""What all losses with an integral inside do with the settings of its search."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from integral_checks import DOUBLE
from torch import Tensor
from torch.distributions import Normal

import torch_mlcalc as mlc

ZERO = torch.zeros(1, dtype=DOUBLE)


class Counter:
    """A bumpy function of numbers that counts how many it gets at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, *_: Tensor) -> Tensor:
        self.sizes.append(x.numel())
        return torch.sin(30 * x) - x * x

    @property
    def total(self) -> int:
        return sum(self.sizes)


class Bumpy(Normal):
    """A distribution of the caller's, counted in all that it is asked for."""

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        super().__init__(ZERO, 1.0, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.1 * self.counter(value)

    def cdf(self, value: Tensor) -> Tensor:
        return super().cdf(value + 0.003 * self.counter(value))

    def icdf(self, value: Tensor) -> Tensor:
        return super().icdf(value) + 0.01 * self.counter(value)


def pair(loss: Callable[..., Tensor], **more: Any) -> Callable[..., Tensor]:  # noqa: ANN401
    wide = Normal(ZERO + 0.5, 2.0)
    return lambda f, **s: loss(wide, Bumpy(f), **more, **s)


EVENT = torch.tensor([True])
LOSSES: dict[str, Callable[..., Tensor]] = {
    "kl": pair(mlc.kl_divergence_loss),
    "alpha": pair(mlc.alpha_divergence_loss, alpha=0.3),
    "chi2": pair(mlc.chi2_loss),
    "hellinger": pair(mlc.hellinger_loss),
    "jensen-shannon": pair(mlc.jensen_shannon_loss),
    "variation": pair(mlc.total_variation_loss),
    "cramer": pair(mlc.cramer_loss),
    "wasserstein": pair(mlc.wasserstein_1d_loss),
    "wasserstein 2": pair(mlc.wasserstein_1d_loss, p=2),
    "expected": lambda f, **s: mlc.expected_loss(
        lambda a, y: a + f(y).abs(), ZERO, Normal(ZERO, 1.0), **s
    ),
    "expected, kinks": lambda f, **s: mlc.expected_loss(
        lambda a, y: (a - y).abs() + f(y), ZERO, Normal(ZERO, 1.0), kinks=[0], **s
    ),
    "marginal": lambda f, **s: mlc.marginal_nll_loss(f, Normal(ZERO, 1.0), **s),
    "normalized": lambda f, **s: mlc.normalized_nll_loss(
        f, ZERO, mlc.Interval(-3, 3), **s
    ),
    "normalized module": lambda f, **s: mlc.NormalizedNLLLoss(
        f, mlc.Interval(-3, 3), **s
    )(ZERO),
    "penalty": lambda f, **s: mlc.normalization_penalty(f, mlc.Interval(-ZERO, 3), **s),
    "log penalty": lambda f, **s: mlc.normalization_penalty(
        f, mlc.Interval(ZERO, 3), log=True, **s
    ),
    "pinball": lambda f, **s: mlc.integrated_quantile_loss(f, ZERO - 9, **s),
    "point process": lambda f, **s: mlc.point_process_nll_loss(f, ZERO[None], 3.0, **s),
    "hazard": lambda f, **s: mlc.hazard_nll_loss(f, ZERO + 3, EVENT, **s),
    "left-censored": lambda f, **s: mlc.hazard_nll_loss(f, ZERO + 3, 2 * EVENT, **s),
}

#: Finer than the default, so that all have more to do than without a tolerance.
FINE = 1e-10


@cache
def fine(name: str) -> Counter:
    """What is asked for at the fine tolerance: the measure of the others."""
    return count(LOSSES[name], rtol=FINE)


def count(loss: Callable[..., Tensor], **settings: Any) -> Counter:  # noqa: ANN401
    counter = Counter()
    loss(counter, on_failure="ignore", **settings)
    return counter


losses = pytest.mark.parametrize("name", LOSSES)


@losses
def test_tolerances_say_how_much_is_spent(name: str) -> None:
    assert count(LOSSES[name], rtol=0.1).total < fine(name).total
    # The larger of the two counts: an absolute one that is lost is seen by this alone.
    assert count(LOSSES[name], rtol=FINE, atol=1e3).total < fine(name).total


@losses
def test_points_are_limited_and_failure_is_reported(name: str) -> None:
    loss, few = LOSSES[name], {"rtol": FINE, "max_evals": 40}
    assert count(loss, **few).total < fine(name).total
    with pytest.raises(mlc.IntegrationError, match="did not converge"):
        loss(Counter(), on_failure="raise", **few)
    with pytest.warns(mlc.IntegrationWarning, match="did not converge"):
        loss(Counter(), on_failure="warn", **few)


@losses
def test_memory_limits_a_block(name: str) -> None:
    # A number for each point of the largest block, which takes more than that.
    whole = fine(name).sizes
    blocks = count(LOSSES[name], rtol=FINE, memory=8 * max(whole)).sizes
    assert len(blocks) > len(whole)


@pytest.mark.parametrize(
    "make",
    [
        mlc.HazardNLLLoss,
        mlc.PointProcessNLLLoss,
        lambda function: mlc.NormalizedNLLLoss(function, mlc.RealLine()),
    ],
    ids=["hazard", "point process", "normalized"],
)
def test_a_module_refuses_what_is_no_function(make: Callable) -> None:
    with pytest.raises(TypeError, match="must be a function or a module, got float"):
        make(1.0)


@pytest.mark.parametrize(
    "make",
    [
        mlc.CRPSLoss,
        lambda **validate: mlc.HazardNLLLoss(torch.zeros_like, **validate),
        lambda **validate: mlc.PointProcessNLLLoss(torch.zeros_like, **validate),
    ],
    ids=["crps", "hazard", "point process"],
)
def test_a_module_refuses_to_validate_by_word(make: Callable) -> None:
    with pytest.raises(TypeError, match="validate must be True, False or None"):
        make(validate="yes")
