"""Tweedie deviance, from the Gaussian over Poisson and gamma to inverse Gaussian."""

import math

import torch
from torch import Tensor

from torch_mlcalc.losses.likelihood.checks import (
    check_count,
    check_finite,
    check_flag,
    check_number,
    check_positive,
)
from torch_mlcalc.losses.likelihood.remainders import horner
from torch_mlcalc.losses.reduction import Loss, Reduction, prepare, reduce
from torch_mlcalc.losses.validation import is_validated


def tweedie_deviance_loss(
    input: Tensor,
    target: Tensor,
    power: float = 1.5,
    log_input: bool = True,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Unit deviance of the Tweedie family, of variance :math:`\phi \mu^p`.

    .. math::
        \ell(\mu, y) = 2 \int_\mu^y \frac{y - t}{t^p}\,dt
        = 2 \Bigl[\frac{y^{2 - p}}{(1 - p)(2 - p)} - \frac{y \mu^{1 - p}}{1 - p}
            + \frac{\mu^{2 - p}}{2 - p}\Bigr]

    .. math::
        \partial_\mu \ell = \frac{2 (\mu - y)}{\mu^p}, \qquad
        \partial_\eta \ell = 2 (\mu - y) \mu^{1 - p} \quad (\mu = e^\eta)

    It is twice what the negative log-likelihood, times the dispersion :math:`\phi`, has
    above its smallest value, so it is 0 where :math:`\mu = y` and has the same gradient
    as twice the likelihood. It is the squared error for :math:`p = 0`, and the deviance
    of the Poisson (:math:`p = 1`), gamma (2) and inverse Gaussian (3) families; between
    1 and 2 of sums of a Poisson number of gamma variables, which may be 0. What it
    leaves out depends on :math:`\phi` and :math:`p` and is an infinite series for most
    of them: it is to learn means by, not the power or the dispersion.

    The second formula divides by 0 at :math:`p = 1` and 2, and near them, or near
    :math:`\mu = y`, has no digits. What is computed is smooth in :math:`p` and exact
    there: with :math:`u = \log(y/\mu)` and the divided difference of the exponential,

    .. math:: \ell = 2 \mu^{2 - p} u^2 \exp[0, u, (2 - p) u]

    Args:
        input: Predicted logarithms of means, or without ``log_input`` means.
        target: Observed values :math:`y`.
        power: The power :math:`p`: at most 0, or at least 1.
        log_input: Whether ``input`` is a logarithm.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that means are positive, and values positive
            (:math:`p \ge 2`), not negative (:math:`1 \le p < 2`) or finite; None for
            the setting of :func:`set_default_validate`.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or none is
            floating-point.
        ValueError: If the shapes differ, ``power`` is between 0 and 1 or not finite,
            ``reduction`` is none of the three, or a checked value is out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> log_mean, claims = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 3.0])
        >>> mlc.tweedie_deviance_loss(log_mean, claims, 1.5, reduction="none")
        tensor([4.0000, 0.0168])

    References:
        Jorgensen, "The Theory of Dispersion Models" (1997), chapter 4.
    """
    _check_settings(power, log_input)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        _check_values(input, target, power, log_input)
    if power == 0:
        gap = (input.exp() if log_input else input) - target
        return reduce(gap * gap, weight, reduction).to(dtype)
    # Or NaN, which the loss then is.
    is_positive = ~(target <= 0)
    positive = torch.where(is_positive, target, 1)
    loss = _half_deviance(input, positive, 2 - power, log_input)
    rest = _without_positive(input, target, 2 - power, log_input)
    loss = torch.where(is_positive, loss, rest)
    return (2 * reduce(loss, weight, reduction)).to(dtype)


class TweedieDevianceLoss(Loss):
    """Deviance of the Tweedie family: the module of :func:`tweedie_deviance_loss`."""

    def __init__(
        self,
        power: float = 1.5,
        log_input: bool = True,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_settings(power, log_input)
        is_validated(validate)
        self.power, self.log_input, self.validate = power, log_input, validate

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return tweedie_deviance_loss(
            input,
            target,
            self.power,
            self.log_input,
            self.reduction,
            weight,
            self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        settings = f"power={self.power}, log_input={self.log_input}"
        return f"{settings}, {super().extra_repr()}"


def _half_deviance(input: Tensor, target: Tensor, q: float, is_log: bool) -> Tensor:
    """Return half the deviance of positive values for ``q = 2 - power``."""
    log_ratio = target.log() - input if is_log else _log_ratio(target, input)
    # How far the series goes: its arguments are u and q u.
    is_near = log_ratio.abs() * max(1.0, abs(q)) <= 1
    # A branch that is not taken gets numbers of which all derivatives are finite.
    fill = 0.0 if is_log else 1.0
    at = torch.where(is_near, input, fill)
    u = torch.where(is_near, log_ratio, 0)
    near = u * u * horner(u, _divided_difference(q, u.dtype)) * _power(at, q, is_log)
    at, y = torch.where(is_near, fill, input), torch.where(is_near, 1, target)
    u = torch.where(is_near, 0, log_ratio)
    lower = _power_difference(at, y, u, q - 1, is_log)
    far = y * lower - _power_difference(at, y, u, q, is_log)
    return torch.where(is_near, near, far)


def _without_positive(input: Tensor, target: Tensor, q: float, is_log: bool) -> Tensor:
    """Return half the deviance of values at most 0."""
    if q <= 0:
        return torch.full_like(input, math.inf)
    loss = _power(input, q, is_log) / q
    if q > 1:
        loss = loss - target * _power(input, q - 1, is_log) / (q - 1)
    return loss


def _log_ratio(target: Tensor, mean: Tensor) -> Tensor:
    """Return ``log(target / mean)``, with every digit where the two are close."""
    gap = target - mean
    is_close = gap.abs() < 0.5 * mean
    # In the place of those that are not close: gap / mean may overflow.
    gap, near_mean = torch.where(is_close, gap, 0), torch.where(is_close, mean, 1)
    return torch.where(is_close, (gap / near_mean).log1p(), target.log() - mean.log())


def _power(input: Tensor, q: float, is_log: bool) -> Tensor:
    """Return the mean to the power ``q``."""
    return (q * input).exp() if is_log else input.pow(q)


def _power_difference(
    input: Tensor, target: Tensor, u: Tensor, q: float, is_log: bool
) -> Tensor:
    """Return ``(target^q - mean^q) / q``, which is ``u = log(target / mean)`` at 0."""
    if q == 0:
        return u
    if abs(q) < 0.1:
        return _power(input, q, is_log) * (q * u).expm1() / q
    # As it is written: the derivative is then that of mean^q alone.
    return (target.pow(q) - _power(input, q, is_log)) / q


def _divided_difference(q: float, dtype: torch.dtype) -> list[float]:
    """Return the series of ``exp[0, u, q u]`` in ``u``: sums of powers of q, over n!.

    For arguments up to 1 the first term left out is below 2e-9 and 2e-17.
    """
    terms, power_sum, coefficients = (10 if dtype == torch.float32 else 17), 0.0, []
    for n in range(terms):
        power_sum = 1 + q * power_sum
        coefficients.append(power_sum / math.factorial(n + 2))
    return coefficients


def _check_values(input: Tensor, target: Tensor, power: float, log_input: bool) -> None:
    if power >= 2:
        check_positive("target", target)
    elif power >= 1:
        check_count("target", target)
    else:
        check_finite("target", target)
    if log_input or power == 0:
        check_finite("input", input)
    else:
        check_positive("input", input)


def _check_settings(power: float, log_input: bool) -> None:
    check_flag("log_input", log_input)
    check_number("power", power)
    if not (-math.inf < power <= 0 or 1 <= power < math.inf):
        raise ValueError(
            f"power must be at most 0 or at least 1, and finite, got {power}; no "
            "distribution has one between"
        )
