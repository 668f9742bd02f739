"""CRPS of symmetric forecasts with a location and a scale."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import special
from torch import Tensor

from torch_mlcalc.losses.crps.common import decay, prepare_parameters, standardised
from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.losses.regression import log_cosh_loss
from torch_mlcalc.losses.validation import check_values, is_validated
from torch_mlcalc.special.factorial import log_half_step
from torch_mlcalc.special.student import (
    MOST_DF,
    is_central,
    log_power,
    middle_and_tail,
)

#: Scales beyond which exp(-z) is 0 in float64.
FAR = 750.0

#: From here on functions of the degrees of freedom are those of their inverse, which
#: have a derivative that is not a difference of larger ones.
_MANY = 2.0

#: Distance of the degrees of freedom from 1 within which the series is used.
_NEAR_ONE = 0.1

_ORDERS = np.arange(2, 24)
#: Taylor coefficients at 1 of log R, from those of the digamma function at 1/2 (DLMF
#: 5.15.2 and 25.11.1); the next one contributes 1e-18.
_LOG_RATIO = (
    (-1.0) ** _ORDERS
    * (2.0**_ORDERS - 1)
    * (2.0 ** (1 - _ORDERS) - 1)
    * special.zeta(_ORDERS)
    / _ORDERS
).tolist()


def crps_logistic(
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a logistic forecast.

    .. math::
        s \left(z - 2 \log \frac{1}{1 + e^{-z}} - 1\right), \qquad z = \frac{y - \mu}{s}

    with the derivative :math:`\tanh(z / 2)` in :math:`y`, its negative in :math:`\mu`,
    and the loss divided by :math:`s` less :math:`z \tanh(z / 2)` in :math:`s`. The
    second in :math:`y` is :math:`\operatorname{sech}^2(z / 2) / (2 s)`.

    Args:
        loc: Mean.
        scale: Scale, positive.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``loc``, ``scale``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mu, s = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
        >>> mlc.crps_logistic(mu, s, torch.tensor([0.0, 4.0]), "none")
        tensor([0.3863, 1.8057])

    References:
        Taillardat, Mestre, Zamo and Naveau, "Calibrated ensemble forecasts using
        quantile regression forests and ensemble model output statistics" (2016),
        appendix. https://doi.org/10.1175/MWR-D-15-0260.1
    """
    values, dtype = prepare_parameters(
        {"loc": loc, "scale": scale, "target": target},
        weight,
        reduction,
        validate,
        positive=("scale",),
    )
    return reduce(logistic(*values), weight, reduction).to(dtype)


def crps_laplace(
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a Laplace forecast.

    .. math::
        s \left(|z| + e^{-|z|} - \frac34\right), \qquad z = \frac{y - \mu}{s}

    with the derivative :math:`\operatorname{sign}(z)\,(1 - e^{-|z|})` in :math:`y`, its
    negative in :math:`\mu`, :math:`(1 + |z|)\,e^{-|z|} - \frac34` in :math:`s`, and the
    second derivative :math:`e^{-|z|} / s` in :math:`y`, also at 0.

    Args:
        loc: Median.
        scale: Mean distance from it, positive.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``loc``, ``scale``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mu, s = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
        >>> mlc.crps_laplace(mu, s, torch.tensor([0.0, 4.0]), "none")
        tensor([0.2500, 1.9463])

    References:
        Jordan, Krueger and Lerch, "Evaluating probabilistic forecasts with
        scoringRules" (2019), appendix A. https://doi.org/10.18637/jss.v090.i12
    """
    values, dtype = prepare_parameters(
        {"loc": loc, "scale": scale, "target": target},
        weight,
        reduction,
        validate,
        positive=("scale",),
    )
    return reduce(laplace(*values), weight, reduction).to(dtype)


def crps_student_t(
    df: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a Student's t forecast.

    .. math::
        s \left(z (2 F_\nu(z) - 1) + 2 f_\nu(z) \frac{\nu + z^2}{\nu - 1} - \frac{2
        \sqrt\nu}{\nu - 1} \frac{B(\frac12, \nu - \frac12)}{B(\frac12, \frac\nu2)^2}
        \right), \qquad z = \frac{y - \mu}{s}

    with the derivative :math:`2 F_\nu(z) - 1` in :math:`y`, its negative in
    :math:`\mu`, and the loss divided by :math:`s` less :math:`z (2 F_\nu(z) - 1)` in
    :math:`s`; that in :math:`\nu` is the integral of :func:`crps_loss`. It exists for
    :math:`\nu > 1/2` - a mean is not needed -, is smooth at :math:`\nu = 1`, which is
    the Cauchy distribution, and becomes :func:`crps_normal` for large :math:`\nu`; all
    without a loss of digits.

    Args:
        df: Degrees of freedom, above 1/2; infinity is the normal distribution.
        loc: Median.
        scale: Scale, positive.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``df``, ``loc``, ``scale``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> df, mu, s = torch.tensor([1.0, 5.0]), torch.zeros(2), torch.ones(2)
        >>> mlc.crps_student_t(df, mu, s, torch.tensor([0.0, 2.0]), "none")
        tensor([0.4413, 1.3970])

    References:
        Jordan, Krueger and Lerch, "Evaluating probabilistic forecasts with
        scoringRules" (2019), appendix A. https://doi.org/10.18637/jss.v090.i12
    """
    values, dtype = prepare_parameters(
        {"df": df, "loc": loc, "scale": scale, "target": target},
        weight,
        reduction,
        validate,
        positive=("scale",),
    )
    if is_validated(validate):
        check_values("df", values[0], values[0] > 0.5, "must be above 1/2")
    return reduce(student_t(*values), weight, reduction).to(dtype)


def logistic(loc: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element."""
    difference = target - loc
    z, near = standardised(difference, scale, FAR)
    # log(1 + e^-z) + z / 2 is log cosh of half, whose digits that loss keeps.
    bend = 2 * log_cosh_loss(z / 2, torch.zeros_like(z), "none")
    inside = scale * (bend + (2 * math.log(2) - 1))
    return torch.where(near, inside, difference.abs() - scale)


def laplace(loc: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element."""
    difference = target - loc
    z, near = standardised(difference, scale, FAR)
    # Not abs, whose derivative at 0 would take the second one of the exponential along.
    size = torch.where(z < 0, -z, z)
    inside = scale * (size + decay(-size) + 0.25)
    return torch.where(near, inside, difference.abs() - 0.75 * scale)


def student_t(df: Tensor, loc: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    r"""CRPS of each element.

    With :math:`R = \frac{\Gamma(\nu) \Gamma(\nu / 2)}{\Gamma(\nu - 1 / 2)
    \Gamma((\nu + 1) / 2)}` and C the second fraction without its :math:`\nu - 1`, the
    last two terms are

    .. math:: \frac{2 C}{\nu - 1} \left(R\,(1 + z^2 / \nu)^{-(\nu - 1) / 2} - 1\right)

    where R is 1 at 1.

    Args:
        df: Degrees of freedom.
        loc: Medians.
        scale: Scales.
        target: Observations.

    Returns:
        The scores.
    """
    df = df.clamp(max=MOST_DF)
    difference = target - loc
    most = torch.finfo(scale.dtype).max ** 0.45
    z, near = standardised(difference, scale, most)
    endless = ~near
    middle, tail = middle_and_tail(df, z)
    outside = torch.where(z < 0, tail - 0.5, 0.5 - tail)
    share = torch.where(is_central(df, z), middle, outside)
    share = torch.where(endless, difference.sign() / 2, share)
    reach = (z / df.sqrt()).clamp(-most, most).square()
    reach = torch.where(endless, most**2, reach)
    half, whole = log_half_step(torch.stack([df / 2, df - 0.5]))
    less = _log_less(df) / 2
    constant = torch.exp(2 * half - whole - less) / math.sqrt(math.pi)
    log_r = whole - half + (math.log(2) / 2 + less)
    # Not scale * z, whose slope in the scale is the rounding error of a large target.
    return 2 * difference * share + scale * constant * _excess(df, z, reach, log_r)


def _log_less(df: Tensor) -> Tensor:
    r""":math:`\log \frac{\nu - 1/2}{\nu}`."""
    many = df >= _MANY
    few, inverse = torch.where(many, 1.0, df), 1 / torch.where(many, df, _MANY)
    return torch.where(many, torch.log1p(-inverse / 2), torch.log((few - 0.5) / few))


def _excess(df: Tensor, z: Tensor, reach: Tensor, log_r: Tensor) -> Tensor:
    r""":math:`\nu (R (1 + r)^{-(\nu - 1) / 2} - 1) / (\nu - 1)`, also at 1."""
    above = df - 1
    near = above.abs() < _NEAR_ONE
    far = torch.where(near, 2.0, df)
    square = torch.where(reach < 1, z, 0.0).square()
    outer = decay(log_r - log_power(far, square, reach, -1)) / (1 - 1 / far)
    reach = torch.log1p(reach)
    step = torch.where(near, above, 0.0)
    series = torch.full_like(step, _LOG_RATIO[-1])
    for coefficient in reversed(_LOG_RATIO[:-1]):
        series = series * step + coefficient
    slope = math.log(2) + step * series - reach / 2
    return torch.where(near, df * slope * _expm1_over(step * slope), outer)


def _expm1_over(t: Tensor) -> Tensor:
    """(e^t - 1) / t, also at 0."""
    near = t.abs() < 0.5
    small, large = torch.where(near, t, 0.0), torch.where(near, 1.0, t)
    # 15 terms: the next one is 0.5^15 / 16!, 1e-18.
    series = torch.ones_like(t)
    for k in range(15, 1, -1):
        series = 1 + small / k * series
    return torch.where(near, series, torch.expm1(large) / large)
