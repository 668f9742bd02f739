"""CRPS of forecasts on a half line or an interval."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_mlcalc.losses.crps.common import decay, prepare_parameters
from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.losses.validation import check_values, is_validated
from torch_mlcalc.special.beta import (
    both_tails,
    log_choices,
    log_negative_binomial,
)
from torch_mlcalc.special.factorial import log_half_step
from torch_mlcalc.special.gamma import gammainc, log_poisson


def crps_gamma(
    concentration: Tensor,
    rate: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a gamma forecast, trainable in both parameters.

    .. math::
        y (2 P(\alpha, \beta y) - 1) - \frac\alpha\beta (2 P(\alpha + 1, \beta y) - 1) -
        \frac{1}{\beta B(\frac12, \alpha)}

    with the derivative :math:`2 P(\alpha, \beta y) - 1` in :math:`y`; that in
    :math:`\alpha` is the one of :func:`torch_mlcalc.special.gammainc`. Below 0 it is
    linear.

    Args:
        concentration: Shape :math:`\alpha`, positive.
        rate: Rate :math:`\beta`, positive.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``concentration``, ``rate``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> alpha = torch.tensor([0.5, 3.0], requires_grad=True)
        >>> loss = mlc.crps_gamma(alpha, torch.ones(2), torch.tensor([1.0, 2.0]))
        >>> loss, torch.autograd.grad(loss, alpha)
        (tensor(0.4690, grad_fn=...), (tensor([-0.3507,  0.1997]),))

    References:
        Scheuerer and Moeller, "Probabilistic wind speed forecasting on a grid based on
        ensemble model output statistics" (2015), equation (9).
        https://doi.org/10.1214/15-AOAS843
    """
    values, dtype = prepare_parameters(
        {"concentration": concentration, "rate": rate, "target": target},
        weight,
        reduction,
        validate,
        positive=("concentration", "rate"),
    )
    return reduce(gamma(*values), weight, reduction).to(dtype)


def crps_exponential(
    rate: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of an exponential forecast.

    .. math:: |y| - \frac2\lambda F(y) + \frac{1}{2 \lambda},
        \qquad F(y) = 1 - e^{-\lambda \max(y, 0)}

    with the derivative :math:`2 F(y) - 1` in :math:`y` and
    :math:`(2 F(y) - \frac12) / \lambda^2 - \frac2\lambda \max(y, 0)\,(1 - F(y))` in
    :math:`\lambda`.

    Args:
        rate: Rate :math:`\lambda`, positive.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``rate``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> rate, target = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
        >>> mlc.crps_exponential(rate, target, "none")
        tensor([0.2358, 1.2500])

    References:
        Jordan, Krueger and Lerch, "Evaluating probabilistic forecasts with
        scoringRules" (2019), appendix A. https://doi.org/10.18637/jss.v090.i12
    """
    values, dtype = prepare_parameters(
        {"rate": rate, "target": target},
        weight,
        reduction,
        validate,
        positive=("rate",),
    )
    return reduce(exponential(*values), weight, reduction).to(dtype)


def crps_beta(
    concentration1: Tensor,
    concentration0: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a beta forecast, trainable in both parameters.

    .. math::
        y (2 I_y(\alpha, \beta) - 1) + \frac{\alpha}{\alpha + \beta} \left(1 - 2
        I_y(\alpha + 1, \beta) - \frac{2 B(2 \alpha, 2 \beta)}
        {\alpha B(\alpha, \beta)^2}\right)

    with the derivative :math:`2 I_y(\alpha, \beta) - 1` in :math:`y`. Outside of
    [0, 1] it is linear.

    Args:
        concentration1: First shape :math:`\alpha`, positive.
        concentration0: Second shape :math:`\beta`, positive.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``concentration1``, ``concentration0``, ``target`` and ``weight``:
        ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> alpha, beta = torch.tensor([2.0, 0.5]), torch.tensor([5.0, 0.5])
        >>> mlc.crps_beta(alpha, beta, torch.tensor([0.5, 1.0]), "none")
        tensor([0.1445, 0.2974])

    References:
        Jordan, Krueger and Lerch, "Evaluating probabilistic forecasts with
        scoringRules" (2019), appendix A. https://doi.org/10.18637/jss.v090.i12
    """
    values, dtype = prepare_parameters(
        {
            "concentration1": concentration1,
            "concentration0": concentration0,
            "target": target,
        },
        weight,
        reduction,
        validate,
        positive=("concentration1", "concentration0"),
    )
    return reduce(beta(*values), weight, reduction).to(dtype)


def crps_uniform(
    low: Tensor,
    high: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a uniform forecast.

    .. math::
        |y - c| + w \left(t^2 - t + \frac13\right), \qquad c = \max(l, \min(y, h)),
        \quad w = h - l, \quad t = \frac{c - l}{w}

    with the derivative :math:`2 t - 1` in :math:`y`,
    :math:`\frac13 - t^2` in :math:`h` and :math:`(1 - t)^2 - \frac13` in :math:`l`.

    Args:
        low: Lower end :math:`l`.
        high: Upper end :math:`h`, above it.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``low``, ``high``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> low, high = torch.zeros(2), torch.tensor([1.0, 2.0])
        >>> mlc.crps_uniform(low, high, torch.tensor([0.5, 3.0]), "none")
        tensor([0.0833, 1.6667])

    References:
        Jordan, Krueger and Lerch, "Evaluating probabilistic forecasts with
        scoringRules" (2019), appendix A. https://doi.org/10.18637/jss.v090.i12
    """
    values, dtype = prepare_parameters(
        {"low": low, "high": high, "target": target},
        weight,
        reduction,
        validate,
        positive=(),
    )
    if is_validated(validate):
        check_values("high", values[1], values[1] > values[0], "must be above low")
    return reduce(uniform(*values), weight, reduction).to(dtype)


def gamma(concentration: Tensor, rate: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element.

    In the form in which neither value nor slope cancels at small targets: that of
    ``P(a)`` is infinite at 0 for a < 1, that of ``P(a + 1)`` is not.

    Args:
        concentration: Shapes.
        rate: Rates.
        target: Observations.

    Returns:
        The scores.
    """
    # Far off the slope in the rate is that of the mean and the spread, which is lost if
    # the target goes through a product with the rate: 0 instead of 1.5 at 1e9 / rate.
    # Nor does it go through one at small shapes, where mean and spread differ by only
    # 2 log(2) a^2: in single precision the slopes in a = 1e-6 were 16 % off.
    endless, small = target.isinf(), concentration < 1
    x = rate * torch.where(endless, 1.0, target)
    far = endless | small | (x.abs() > 2 * concentration + 2)
    above = torch.where(endless, target, x) > 0
    inside = torch.where(above, x, 1.0).clamp(max=torch.finfo(x.dtype).max / 1e4)
    twice = torch.where(above, 2 * gammainc(concentration + 1, inside), 0.0)
    twice = torch.where(endless, target.sign() + 1, twice)
    share = twice - 1
    density = torch.exp(log_poisson(concentration, inside))
    bend = 2 * torch.where(above & ~endless, target, 0.0) * density
    wide = concentration.double()
    spread = torch.sqrt(wide / math.pi) * torch.exp(log_half_step(wide))
    rest = (torch.where(small, wide, 0.0) - spread).to(x.dtype)
    near = torch.where(far, 0.0, x) - concentration
    score = (near * torch.where(small, twice, share) + rest) / rate
    return score + bend + torch.where(far, target, 0.0) * share


def exponential(rate: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element."""
    # Not abs, which has no slope at 0. Nor rate * |target| / rate, whose slope in the
    # rate is the rounding error of a large target.
    size, above = torch.where(target > 0, target, -target), target > 0
    inside = torch.where(above & target.isfinite(), target, 0.0)
    below = torch.where(target == torch.inf, -1.0, decay(-rate * inside))
    return size + (2 * below + 0.5) / rate


def beta(concentration1: Tensor, concentration0: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element, in a form as that of :func:`gamma`."""
    a, b = concentration1, concentration0
    mean = a / (a + b)
    between = (target > 0) & (target < 1)
    inside = torch.where(between, target, 0.5)
    share, _ = both_tails(a + 1, b, inside, 1 - inside)
    share = torch.where(between, share, (target >= 1).to(share.dtype))
    density = torch.exp(log_negative_binomial(a, b, inside, 1 - inside)) * b / (a + b)
    bend = torch.where(between, 2 * inside * density, 0.0)
    # B(2a, 2b) / B(a, b)^2 without its large logs.
    log_ratio = 2 * log_choices(a, b) - log_choices(2 * a, 2 * b)
    spread = mean * (b / (a + b)) * torch.exp(log_ratio)
    return (target - mean) * (2 * share - 1) + bend - spread


def uniform(low: Tensor, high: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element."""
    width = high - low
    under, over = target < low, target > high
    # What is outside takes no part in the quotient, whose slopes in the ends cancel
    # there, and had the wrong sign at 1e9 widths.
    inside = torch.where(under | over, low, target)
    share = torch.where(over, 1.0, (inside - low) / width)
    beyond = torch.where(under, low - target, torch.where(over, target - high, 0.0))
    return beyond + width * (share * (share - 1) + 1 / 3)
