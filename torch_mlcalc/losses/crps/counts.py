"""CRPS of forecasts of counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_mlcalc.losses.crps.common import prepare_parameters
from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.special.beta import both_tails, log_negative_binomial
from torch_mlcalc.special.gamma import gammaincc, log_poisson
from torch_mlcalc.special.tail import depth, without_gradient

#: Rate from which on the asymptotic series of the spread is right to 1e-16.
_FAR = 20.0

#: Its terms: those of the Bessel function (DLMF 10.40.1) at 2 rates, integrated.
_SPREAD = tuple(
    math.prod(2 * j - 1 for j in range(1, k + 1)) ** 2
    / (math.factorial(k) * 16**k * (1 - 2 * k))
    for k in range(20)
)

#: Rate up to which half the mean difference is that of its power series.
_NEAR = 0.25

#: Coefficients of what it is less than the rate, from the second power of the rate on:
#: it is the rate times 1F1(1/2; 2; -4 rate), DLMF 13.6.9; the next term is 1e-18.
_LOST = tuple(
    -((-4.0) ** k)
    * math.prod((2 * j + 1) / (2 * (j + 2)) for j in range(k))
    / math.factorial(k)
    for k in range(1, 22)
)

#: What stands for the logarithm's argument at a count of 0, where it has the factor 0.
_NO_COUNT = 1e-30

#: Steps of the trapezoidal rule, in float64 and in narrower dtypes. Its error is
#: exp(-pi^2 / step), and the integrand at most 40 or 25 wide, so that it is below 1e-13
#: or 1e-8.
_NODES = {torch.float64: 128}
_FEWER = 48

#: Largest log of the change by a count that those nodes follow: second derivatives are
#: then right to 1e-10, and 30 times that was wrong by 1e-4.
_PEAKED = 2.0

#: Halvings of the logarithm of a width, which is known to a factor of 1e5 at first.
_HALVINGS = 8


def crps_poisson(
    rate: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a Poisson forecast.

    .. math::
        (y - \lambda)(2 F(y) - 1) + 2 \lambda f(\lfloor y \rfloor) -
        \lambda e^{-2 \lambda} (I_0(2 \lambda) + I_1(2 \lambda))

    with the Bessel functions I. The derivative of the last term in :math:`\lambda` is
    :math:`-e^{-2 \lambda} I_0(2 \lambda)`; that in :math:`y`, where it is no integer,
    is :math:`2 F(y) - 1`.

    Args:
        rate: Mean :math:`\lambda`, positive.
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
        >>> mlc.crps_poisson(torch.tensor([1.0, 9.0]), torch.tensor([2.0, 4.0]), "none")
        tensor([0.6835, 3.3769])

    References:
        Wei and Held, "Calibration tests for count data" (2014), section 2.
        https://doi.org/10.1007/s11749-014-0380-8
    """
    values, dtype = prepare_parameters(
        {"rate": rate, "target": target},
        weight,
        reduction,
        validate,
        positive=("rate",),
    )
    return reduce(poisson(*values), weight, reduction).to(dtype)


def crps_negative_binomial(
    total_count: Tensor,
    probs: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a negative binomial forecast, trainable in both parameters.

    .. math::
        (y - m)(2 F(y) - 1) + 2 m \frac{\Gamma(r + k + 1)}{\Gamma(r + 1)\,k!}
        p^k (1 - p)^r - \frac{m}{1 - p} {}_2F_1\!\left(r + 1, \tfrac12; 2;
        -\tfrac{4 p}{(1 - p)^2}\right), \quad m = \frac{r p}{1 - p},
        \ k = \lfloor y \rfloor

    where the hypergeometric function is the integral of a function that falls, by the
    trapezoidal rule. The parameters are those of
    ``torch.distributions.NegativeBinomial``. The derivative in :math:`r` is that of
    :func:`torch_mlcalc.special.betainc`.

    Args:
        total_count: Number :math:`r` of failures that end the count, positive; it need
            not be an integer.
        probs: Probability :math:`p` of what is counted, strictly between 0 and 1.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``total_count``, ``probs``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> r, p = torch.tensor([1.0, 2.5]), torch.tensor([0.5, 0.75])
        >>> mlc.crps_negative_binomial(r, p, torch.tensor([2.0, 4.0]), "none")
        tensor([0.8333, 1.6495])

    References:
        Wei and Held, "Calibration tests for count data" (2014), section 2.
        https://doi.org/10.1007/s11749-014-0380-8
    """
    values, dtype = prepare_parameters(
        {"total_count": total_count, "probs": probs, "target": target},
        weight,
        reduction,
        validate,
        positive=("total_count",),
        shares=("probs",),
    )
    count, share, observed = values
    loss = negative_binomial(count, share, 1 - share, observed)
    return reduce(loss, weight, reduction).to(dtype)


def poisson(rate: Tensor, target: Tensor) -> Tensor:
    r"""CRPS of each element.

    Below 1, where :math:`F = f`, it is :math:`y (2 F - 1) + \lambda - S` with half the
    mean difference S, which is nearly :math:`\lambda` for a small rate.

    Args:
        rate: Means.
        target: Observations.

    Returns:
        The scores.
    """
    count, above = _whole(target)
    below = torch.where(above, 2 * gammaincc(count + 1, rate) - 1, -1.0)
    density = torch.exp(log_poisson(count.clamp(min=_NO_COUNT), rate))
    bend = torch.where(above, 2 * rate * density, 0.0)
    spread, rest = _poisson_spread(rate)
    more = _more(target, rate, below, bend) - spread
    few = torch.where(target < 1, target, 0.0) * below
    return torch.where(target < 1, few + rest, more)


def _more(target: Tensor, mean: Tensor, below: Tensor, bend: Tensor) -> Tensor:
    """What is more than the spread; that of an infinite target has slopes as well."""
    inside = torch.where(target.isinf(), 0.0, target - mean) * below + bend
    return torch.where(target.isinf(), target.abs() - mean * target.sign(), inside)


def _whole(target: Tensor) -> tuple[Tensor, Tensor]:
    """The largest count up to the target, and whether there is one."""
    above = target >= 0
    most = torch.finfo(target.dtype).max / 1e4
    count = torch.where(above & target.isfinite(), target, 0.0)
    return count.clamp(max=most).floor(), above


def _poisson_spread(rate: Tensor) -> tuple[Tensor, Tensor]:
    """Half the mean difference of two counts, and what is left of the rate."""
    far, near = rate > _FAR, rate < _NEAR
    middle = torch.where(far | near, 1.0, rate)
    bessel = torch.special.i0e(2 * middle) + torch.special.i1e(2 * middle)
    small = torch.where(near, rate, 0.0)
    lost = torch.full_like(small, _LOST[-1])
    for coefficient in reversed(_LOST[:-1]):
        lost = lost * small + coefficient
    lost = lost * small * small
    large = torch.where(far, rate, _FAR)
    series = torch.full_like(large, _SPREAD[-1])
    for coefficient in reversed(_SPREAD[:-1]):
        series = series / large + coefficient
    spread = torch.where(far, torch.sqrt(large / math.pi) * series, middle * bessel)
    return torch.where(near, small - lost, spread), torch.where(
        near, lost, rate - spread
    )


def negative_binomial(
    total_count: Tensor, probs: Tensor, rest: Tensor, target: Tensor
) -> Tensor:
    """CRPS of each element; ``rest`` is 1 - probs, maybe with more digits."""
    count, above = _whole(target)
    mean = total_count * probs / rest
    # Of a small total_count it is nearly 1, with slopes as small as that, of which
    # float32 loses 0.4 % at 1e-3. The tails are a tenth of the time.
    wide = (x.double() for x in (total_count, count + 1, rest, probs))
    share = both_tails(*wide)[0].to(target.dtype)
    below = torch.where(above, 2 * share - 1, -1.0)
    count = count.clamp(min=_NO_COUNT)
    density = torch.exp(log_negative_binomial(count, total_count, probs, rest))
    bend = torch.where(above, 2 * mean * density, 0.0)
    # As for a Poisson variable, unless the integrand has a narrow peak, which takes so
    # much from the mean that nothing cancels.
    excess = 4 * probs / rest.square()
    none = (target < 1) & (total_count * torch.log1p(excess) < _PEAKED)
    spread = mean / rest * _hypergeometric(total_count, probs, rest, lost=none)
    more = _more(target, mean, below, bend) - spread
    few = torch.where(none, target, 0.0) * below
    return torch.where(none, few + spread, more)


def _hypergeometric(count: Tensor, probs: Tensor, rest: Tensor, lost: Tensor) -> Tensor:
    r"""2F1(count + 1, 1/2; 2; -4 probs / rest^2), or by how much it is below ``rest``.

    .. math::
        \frac4\pi \int_0^{\pi/2} \frac{\cos^2 \theta}{(1 + \kappa \sin^2 \theta)^a}
        \,d\theta, \qquad \kappa = \frac{4 p}{(1 - p)^2}, \quad a = r + 1

    with :math:`\sqrt{1 + \kappa} \tan \theta = \sinh v`, which spreads out the peak at
    0; 1 + kappa is the square of (1 + p) / (1 - p). Without a count it is 1 - p, so
    that what is lost by one is the integral of the difference.

    Args:
        count: r.
        probs: p.
        rest: 1 - p.
        lost: Where the difference is wanted.

    Returns:
        The function.
    """
    root = (1 + probs) / rest
    excess = 4 * probs / rest.square()
    width = without_gradient(_width, torch.where(lost, 0.0, count), excess, root)
    nodes = _NODES.get(root.dtype, _FEWER)
    step = width / nodes
    places = torch.arange(nodes, dtype=root.dtype, device=root.device)
    v = places.reshape(-1, *(1,) * root.ndim) * step
    growth, form = _integrand(v, excess, root)
    whole = (~lost).to(root.dtype)
    # Even and analytic up to v = i pi / 2, so that equal steps converge exponentially.
    values = torch.addcmul(whole, 2 * whole - 1, torch.expm1(-count * growth)) * form
    integral = step * (values.sum(0) - values[0] / 2)
    return 4 / math.pi * root * integral


def _integrand(v: Tensor, excess: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    r"""What the count multiplies in the exponent, and the factor without it.

    .. math:: \log\left(1 + \frac{\kappa \sinh^2 v}{\kappa + \cosh^2 v}\right), \qquad
        \frac{1}{(\kappa + \cosh^2 v) \cosh v}

    Args:
        v: Points.
        excess: kappa.
        root: The square root of 1 + kappa.

    Returns:
        The two.
    """
    growth = torch.expm1(v)
    fall = 1 / (1 + growth)
    sinh = growth * (1 + fall) / 2
    square = sinh.square()
    share = 1 / (root.square() + square)
    return torch.log1p(excess * (square * share)), share / (sinh + fall)


def _width(count: Tensor, excess: Tensor, root: Tensor) -> Tensor:
    """Where the integrand is below the rounding error."""
    digits = depth(root.dtype)
    curvature = (2 * (count + 1) * excess + 4) / root.square() - 1
    low = torch.sqrt(2 * digits / curvature)
    # In the end it falls as e^-3v, from where sinh v is the root.
    high = torch.log(2 * root) + digits / 3 + 1
    low = torch.minimum(low, high)
    for _ in range(_HALVINGS):
        middle = torch.sqrt(low * high)
        growth, form = _integrand(middle, excess, root)
        enough = count * growth - torch.log(form * root.square()) > digits
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high
