"""CRPS of normal forecasts with limits: censored and truncated ones."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from torch_mlcalc.losses.crps.cdf import lower_normal
from torch_mlcalc.losses.crps.common import prepare_parameters, standardised
from torch_mlcalc.losses.crps.normal import FAR
from torch_mlcalc.losses.crps.truncated import truncated_normal
from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.losses.validation import check_values, is_validated
from torch_mlcalc.quadrature.host import is_plain
from torch_mlcalc.special.tail import unit_nodes

#: Width in standard deviations below which the integral is taken by nodes. As a
#: difference it loses as many digits, its slope in the scale twice as many: all of
#: float32 at 1e-3.
_NARROW = 0.25

#: Nodes for float64 and for narrower dtypes: second derivatives are right to 1e-15 and
#: 3e-6, with one less to 2e-12 and 1e-3.
_NODES = {torch.float64: 6}
_FEWER = 3


def crps_censored_normal(
    loc: Tensor,
    scale: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a normal forecast of what cannot be outside of an interval.

    The probability beyond a limit is in the limit, as in a sum of rain that cannot be
    negative. With :math:`y' = \max(l, \min(y, u))` and all of it standardised,

    .. math::
        |y - y'| + \sigma \left(A(y') - A(l) + A(-y') - A(-u)\right), \qquad
        A(z) = \int_{-\infty}^z \Phi^2 = z \Phi(z)^2 + 2 \varphi(z) \Phi(z) -
        \frac{\Phi(\sqrt 2 z)}{\sqrt\pi}

    For a target within the limits it is the score of :func:`crps_normal` with all
    thresholds between them counted, and no others, and has the derivative
    :math:`2 \Phi(z) - 1` in :math:`y`; at a limit it is one between those of both
    sides. A forecast whose probability is
    within the limits is that of :func:`crps_truncated_normal`.

    Args:
        loc: Mean before censoring.
        scale: Standard deviation before censoring, positive.
        lower: Lower limit, a tensor or one number; ``-math.inf`` for none.
        upper: Upper limit, above it, likewise.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        Every tensor is of shape ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mu, sigma = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
        >>> rain = torch.tensor([0.0, 4.0])
        >>> mlc.crps_censored_normal(mu, sigma, 0.0, torch.inf, rain, "none")
        tensor([0.1168, 1.9201])

    References:
        Thorarinsdottir and Gneiting, "Probabilistic forecasts of wind speed: ensemble
        model output statistics by using heteroscedastic censored regression" (2010).
        https://doi.org/10.1111/j.1467-985X.2009.00616.x
    """
    values, dtype = _prepare_limited(
        loc, scale, lower, upper, target, weight, reduction, validate
    )
    return reduce(censored_normal(*values), weight, reduction).to(dtype)


def crps_truncated_normal(
    loc: Tensor,
    scale: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a normal forecast on the condition that it is within an interval.

    With :math:`y' = \max(l, \min(y, u))` and the distribution function F between the
    limits,

    .. math::
        |y - y'| + \int_l^{y'} F^2\,dx + \int_{y'}^u (1 - F)^2\,dx, \qquad
        F(x) = \frac{\Phi((x - \mu) / \sigma) - \Phi((l - \mu) / \sigma)}
        {\Phi((u - \mu) / \sigma) - \Phi((l - \mu) / \sigma)}

    with the derivative :math:`2 F(y) - 1` in :math:`y`. The integrals' closed form
    loses its digits where the limits are close or both in one tail. A rule of 56 nodes
    on each side of the target, 24 in ``float32``, keeps them, in derivatives too, for
    6.5 kilobytes of memory for each element, 1.5 in ``float32``.

    Args:
        loc: Mean before truncation; the mode, if it is within the limits.
        scale: Standard deviation before truncation, positive.
        lower: Lower limit, a tensor or one number; ``-math.inf`` for none.
        upper: Upper limit, above it, likewise.
        target: Observed values; beyond a limit the score grows with the distance to it.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        Every tensor is of shape ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mu, sigma = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
        >>> wind = torch.tensor([0.0, 4.0])
        >>> mlc.crps_truncated_normal(mu, sigma, 0.0, torch.inf, wind, "none")
        tensor([0.4674, 1.3753])

    References:
        Thorarinsdottir and Gneiting, "Probabilistic forecasts of wind speed: ensemble
        model output statistics by using heteroscedastic censored regression" (2010),
        section 3. https://doi.org/10.1111/j.1467-985X.2009.00616.x

        Jordan, Krueger and Lerch, "Evaluating probabilistic forecasts with
        scoringRules" (2019), appendix A. https://doi.org/10.18637/jss.v090.i12
    """
    values, dtype = _prepare_limited(
        loc, scale, lower, upper, target, weight, reduction, validate
    )
    return reduce(truncated_normal(*values), weight, reduction).to(dtype)


def _prepare_limited(
    loc: Tensor,
    scale: Tensor,
    lower: Tensor | float,
    upper: Tensor | float,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    validate: bool | None,
) -> tuple[list[Tensor], torch.dtype]:
    """Check and promote a normal forecast with limits; a number has no dtype."""
    limits = {"lower": lower, "upper": upper}
    for name, end in limits.items():
        if not isinstance(end, (Tensor, Real)):
            raise TypeError(
                f"{name} must be a number or a tensor, got {type(end).__name__}"
            )
    tensors = {"loc": loc, "scale": scale, "target": target}
    tensors |= {n: end for n, end in limits.items() if isinstance(end, Tensor)}
    values, dtype = prepare_parameters(
        tensors, weight, reduction, validate, positive=("scale",)
    )
    ready = dict(zip(tensors, values, strict=True))
    low, high = (
        ready[n] if isinstance(end, Tensor) else torch.full_like(ready["loc"], end)
        for n, end in limits.items()
    )
    if is_validated(validate):
        check_values("upper", high, high > low, "must be above lower")
    return [ready["loc"], ready["scale"], low, high, ready["target"]], dtype


def censored_normal(
    loc: Tensor, scale: Tensor, lower: Tensor, upper: Tensor, target: Tensor
) -> Tensor:
    """CRPS of each element."""
    # Not by minimum and maximum, which halve the slope of a target at a limit.
    inside = torch.where(target < lower, lower, target)
    inside = torch.where(inside > upper, upper, inside)
    # Nothing is between a limit and a target at it; as a difference of slopes that are
    # 1 this would take all digits from the other part, at 4 deviations in float32.
    below = _squared_cdf_between(lower, inside, loc, scale)
    above = _squared_cdf_between(-upper, -inside, -loc, scale)
    below = torch.where(target <= lower, 0.0, below)
    above = torch.where(target >= upper, 0.0, above)
    beyond = torch.where(inside == target, 0.0, target - inside).abs()
    return beyond + below + above


def _placed(end: Tensor, loc: Tensor) -> Tensor:
    """Measured from the mean, with which an infinite end does not move."""
    finite = end.isfinite()
    return torch.where(finite, torch.where(finite, end, loc) - loc, end)


def _squared_cdf_between(
    start: Tensor, stop: Tensor, loc: Tensor, scale: Tensor
) -> Tensor:
    """Integral of the squared distribution function."""
    at, low = (_placed(end, loc) for end in (stop, start))
    difference = _squared_cdf(at, scale) - _squared_cdf(low, scale)
    width = stop - start
    # Limits far from the mean lose the digits of their distance when measured from it.
    difference = torch.where(low > FAR * scale, width, difference)
    narrow = width < _NARROW * scale
    # As above all targets of a forecast without an upper limit: a third of the time.
    if is_plain(narrow) and not narrow.any():
        return difference
    width = torch.where(narrow, width, 0.0)
    nodes, weights = (
        t.reshape(-1, *(1,) * width.ndim)
        for t in unit_nodes(_NODES.get(width.dtype, _FEWER), width.dtype, width.device)
    )
    places = torch.where(narrow, low, 0.0) + width * nodes
    z, near = standardised(places, scale, FAR)
    share = torch.where(near, lower_normal(z), (places > 0).to(z.dtype))
    integral = width * (weights * share * share).sum(0)
    return torch.where(narrow, integral, difference)


def _squared_cdf(at: Tensor, scale: Tensor) -> Tensor:
    """Integral up to there of the squared distribution function, of mean 0."""
    z, near = standardised(at, scale, FAR)
    share = lower_normal(z)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    spread = lower_normal(math.sqrt(2) * z) / math.sqrt(math.pi)
    # Not scale * z, whose slope in the scale is the rounding error of a far end.
    inside = torch.where(near, at, 0.0) * share * share
    inside = inside + scale * (2 * density * share - spread)
    outside = torch.where(at < 0, 0.0, at - scale / math.sqrt(math.pi))
    return torch.where(near, inside, outside)
