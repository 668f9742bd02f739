"""Tweedie deviance, against mpmath, in the power too, and the families it contains."""

import math

import mpmath as mp
import pytest
import torch
from likelihood_case import (
    DTYPES,
    Case,
    assert_conventions,
    assert_exact,
    assert_gradients,
    grid,
)

from torch_mlcalc.losses import (
    TweedieDevianceLoss,
    mse_loss,
    poisson_nll_loss,
    tweedie_deviance_loss,
)

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


def deviance(mu: mp.mpf, y: mp.mpf, p: float) -> mp.mpf:
    """The textbook formulas, each of its own power, with digits to spare."""
    p = mp.mpf(p)
    if p == 0:
        return (y - mu) ** 2
    if p == 1:
        return 2 * ((y * mp.log(y / mu) if y else 0) - y + mu)
    if p == 2:
        return 2 * (y / mu - 1 - mp.log(y / mu))
    first = max(y, mp.mpf(0)) ** (2 - p) / ((1 - p) * (2 - p)) if y or p < 2 else mp.inf
    return 2 * (first - y * mu ** (1 - p) / (1 - p) + mu ** (2 - p) / (2 - p))


def case(power: float, log_input: bool, **more: object) -> Case:
    means = (0.3, 1.5, 2.1, 9.0)
    values = (0.4, 2.0, 7.0)
    if power < 2:
        values = (0.0, *values)
    if power <= 0:
        values = (-1.5, *values)
    points = grid([math.log(m) for m in means] if log_input else means, values)
    # On both sides of where the series ends, and nearly equal.
    tie, near = (1.0, 1.1) if log_input else (math.e, 1.0001)
    points += [(tie, math.e * s) for s in (near, 0.6, 0.4, 2.6, 2.8, 1e-3, 1e3)]
    exact = (
        (lambda x, y: deviance(mp.exp(x), y, power))
        if log_input
        else lambda x, y: deviance(x, y, power)
    )
    settings = {"power": power, "log_input": log_input}
    return Case(
        tweedie_deviance_loss,
        TweedieDevianceLoss,
        settings,
        exact,
        points,
        points[1:9:3],
        (0,),
        **{
            "eps": (64, 256, 2000),
            "size": lambda x, y: mp.mpf(0),
            "digits": 60,
            **more,
        },
    )


# The smallest distances from 1 and 2 are a thousandth of what float32 resolves.
POWERS = (-1.0, 0.0, 1.0, 1 + 1e-10, 1.001, 1.5, 2 - 1e-10, 2.0, 2.001, 3.0, 5.0)
CASES = {
    f"{power}, {'log' if log_input else 'mean'}": case(power, log_input)
    for power in POWERS
    for log_input in (True, False)
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
some = pytest.mark.parametrize(
    "case", [CASES[n] for n in ("1.5, log", "1.0, mean", "2.0, log", "0.0, mean")]
)


@cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_value_and_derivatives_are_exact(case: Case, dtype: torch.dtype) -> None:
    assert_exact(case, dtype)


@some
def test_gradients_hold_in_every_mode(case: Case) -> None:
    assert_gradients(case)


@some
def test_conventions_are_those_of_the_house(case: Case) -> None:
    assert_conventions(case)


def test_derivatives_in_the_target_hold() -> None:
    points = grid([0.4, 1.3], [0.6, 1.1, 5.0])
    for name in ("1.5, log", "2.0, mean", "3.0, log"):
        both = CASES[name]._replace(points=points, smooth=(0, 1))
        assert_exact(both, torch.float64)


@pytest.mark.parametrize("at", [1.0, 2.0])
def test_deviance_is_smooth_in_the_power_at_its_limits(at: float) -> None:
    """Differences over ever smaller steps agree; the textbook form has no digits."""
    log_mean = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    target = torch.tensor([2.0, 0.5, 7.0], dtype=torch.float64)

    def loss(power: float) -> torch.Tensor:
        return tweedie_deviance_loss(log_mean, target, power, reduction="none")

    slopes = [(loss(at + h) - loss(at)) / h for h in (1e-3, 1e-4, 1e-5)]
    changes = [(b - a).abs().max() for a, b in zip(slopes, slopes[1:], strict=False)]
    assert changes[1] < changes[0] / 5
    torch.testing.assert_close(loss(at + 1e-13), loss(at), rtol=1e-12, atol=0)


def test_families_are_those_with_a_name() -> None:
    mean = torch.rand(50, dtype=torch.float64) * 3 + 0.1
    count = torch.poisson(mean)
    close = torch.testing.assert_close
    close(tweedie_deviance_loss(mean, count, 0, False), mse_loss(mean, count))
    poisson = [poisson_nll_loss(x, count, False) for x in (mean, count)]
    close(tweedie_deviance_loss(mean, count, 1, False), 2 * (poisson[0] - poisson[1]))
    y = mean.flip(0)
    gamma = 2 * (y / mean - 1 - (y / mean).log()).mean()
    close(tweedie_deviance_loss(mean, y, 2, False), gamma)
    inverse = ((y - mean) ** 2 / (mean**2 * y)).mean()
    close(tweedie_deviance_loss(mean, y, 3, False), inverse)


@pytest.mark.parametrize("power", POWERS)
def test_perfect_predictions_cost_nothing(power: float) -> None:
    y = torch.tensor([0.2, 1.0, 1e3, 1e-3])
    mean = y.clone().requires_grad_()
    loss = tweedie_deviance_loss(mean, y, power, False, "none")
    assert loss.tolist() == [0.0] * 4
    assert torch.autograd.grad(loss.sum(), mean)[0].tolist() == [0.0] * 4


def test_zero_is_infinitely_far_from_the_gamma_family_on() -> None:
    x, y = torch.zeros(1, requires_grad=True), torch.zeros(1)
    assert tweedie_deviance_loss(x, y, 1.999).isfinite()
    for power in (2.0, 3.0):
        assert tweedie_deviance_loss(x, y, power).item() == math.inf


def test_settings_and_values_are_checked() -> None:
    x, bad, zero = torch.ones(2), torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.0])
    for call in (
        lambda **s: tweedie_deviance_loss(x, x, **s),
        lambda **s: TweedieDevianceLoss(**s),
    ):
        for power in (0.5, 1e-9, math.inf, -math.inf, math.nan):
            with pytest.raises(ValueError, match="power must be at most 0 or at least"):
                call(power=power)
        with pytest.raises(TypeError, match="power must be a number, got str"):
            call(power="gamma")
        with pytest.raises(TypeError, match="log_input must be True or False"):
            call(log_input=0)
    loss = tweedie_deviance_loss
    with pytest.raises(
        ValueError, match=r"target must be positive .* got 0.0 at \[1\]"
    ):
        loss(x, zero, 2.0, validate=True)
    for power in (1.0, 1.5):
        with pytest.raises(ValueError, match="target must be .* not negative, got -1"):
            loss(x, bad, power, validate=True)
    with pytest.raises(ValueError, match="target must be finite, got inf"):
        loss(x, x / 0, -1.0, validate=True)
    with pytest.raises(ValueError, match="input must be positive and finite, got -1.0"):
        TweedieDevianceLoss(1.5, False, validate=True)(bad, x)
    with pytest.raises(ValueError, match="input must be finite, got inf"):
        loss(x / 0, x, validate=True)
    loss(bad, bad, 0, False, validate=True)
