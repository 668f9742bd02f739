"""CRPS of distributions made from normal ones."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from torch_mlcalc.losses.crps.cdf import lower_normal
from torch_mlcalc.losses.crps.common import prepare_parameters, standardised
from torch_mlcalc.losses.crps.truncated import truncated_normal
from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.losses.validation import check_values, is_validated

#: Standard deviations beyond which exp(-z^2 / 2) is 0 in float64.
FAR = 40.0


def crps_normal(
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a normal forecast.

    .. math::
        \sigma \left(z (2 \Phi(z) - 1) + 2 \varphi(z) - \frac{1}{\sqrt\pi}\right),
        \qquad z = \frac{y - \mu}{\sigma}

    with the derivative :math:`2 \Phi(z) - 1` in :math:`y`, its negative in :math:`\mu`,
    :math:`2 \varphi(z) - 1 / \sqrt\pi` in :math:`\sigma`, and the second derivative
    :math:`2 \varphi(z) / \sigma` in :math:`y`.

    Args:
        loc: Mean.
        scale: Standard deviation, positive.
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
        >>> mu, sigma = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0])
        >>> mlc.crps_normal(mu, sigma, torch.tensor([0.0, 4.0]), "none")
        tensor([0.2337, 1.9888])

    References:
        Gneiting, Raftery, Westveld and Goldman, "Calibrated probabilistic forecasting
        using ensemble model output statistics and minimum CRPS estimation" (2005),
        equation (5). https://doi.org/10.1175/MWR2904.1
    """
    values, dtype = prepare_parameters(
        {"loc": loc, "scale": scale, "target": target},
        weight,
        reduction,
        validate,
        positive=("scale",),
    )
    return reduce(normal(*values), weight, reduction).to(dtype)


def crps_normal_mixture(
    probs: Tensor,
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a mixture of normal forecasts.

    .. math::
        \sum_i p_i A(y - \mu_i, \sigma_i) - \frac12 \sum_{i, j} p_i p_j
        A\!\left(\mu_i - \mu_j, \sqrt{\sigma_i^2 + \sigma_j^2}\right),
        \qquad A(d, s) = d \left(2 \Phi(d / s) - 1\right) + 2 s \varphi(d / s)

    where A is the mean of the absolute value of a normal variable. The derivative in
    :math:`y` is :math:`2 F(y) - 1`. The number of terms grows as the square of that of
    components.

    Args:
        probs: Shares of the components, which sum to 1; not normalised here.
        loc: Means of the components.
        scale: Standard deviations of the components, positive.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check values; None is :func:`set_default_validate`'s.

    Shape:
        ``probs``, ``loc`` and ``scale``: ``(*, k)``.
        ``target`` and ``weight``: ``(*)``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a value
            is out of range and values are checked.

    Example:
        >>> import torch_mlcalc as mlc
        >>> probs = torch.tensor([[0.5, 0.5]])
        >>> loc, scale = torch.tensor([[-1.0, 1.0]]), torch.tensor([[0.5, 0.5]])
        >>> mlc.crps_normal_mixture(probs, loc, scale, torch.tensor([0.5]))
        tensor(0.4006)

    References:
        Grimit, Gneiting, Berrocal and Johnson, "The continuous ranked probability score
        for circular variables and its application to mesoscale forecast ensemble
        verification" (2006), equation (5). https://doi.org/10.1256/qj.05.235
    """
    components = {"probs": probs, "loc": loc, "scale": scale}
    parts, dtype = prepare_parameters(
        components, None, "none", validate, positive=("scale",)
    )
    if loc.ndim == 0:
        raise ValueError(
            "loc must have a dimension of components behind those of target, got a "
            "tensor without dimensions; use crps_normal for one component"
        )
    first = parts[1][..., 0].to(dtype)
    (_, observed), dtype_of_target = prepare_parameters(
        {"loc[..., 0]": first, "target": target}, weight, reduction, validate
    )
    if is_validated(validate):
        total = parts[0].sum(-1)
        even = (total - 1).abs() < math.sqrt(torch.finfo(total.dtype).eps)
        check_values("probs.sum(-1)", total, even, "must be 1")
    shares, means, widths = parts
    loss = normal_mixture(shares, means, widths, observed)
    dtype = torch.promote_types(dtype, dtype_of_target)
    return reduce(loss, weight, reduction).to(dtype)


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


def crps_log_normal(
    loc: Tensor,
    scale: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""CRPS of a log-normal forecast.

    .. math::
        y (2 \Phi(z) - 1) - 2 e^{\mu + \sigma^2 / 2} \left(\Phi(z - \sigma) +
        \Phi(\sigma / \sqrt 2) - 1\right), \qquad z = \frac{\log y - \mu}{\sigma}

    with the derivative :math:`2 \Phi(z) - 1` in :math:`y`; with the second term
    :math:`a` of the loss it is :math:`a` in :math:`\mu`, and in :math:`\sigma`
    :math:`\sigma a + e^{\mu + \sigma^2 / 2} (2 \varphi(z - \sigma) - \sqrt2\,
    \varphi(\sigma / \sqrt2))`. Below 0 it is linear.

    Args:
        loc: Mean of the logarithm.
        scale: Standard deviation of the logarithm, positive.
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
        >>> mu, sigma = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.1])
        >>> mlc.crps_log_normal(mu, sigma, torch.tensor([2.0, 1.0]), "none")
        tensor([0.5628, 0.0234])

    References:
        Baran and Lerch, "Log-normal distribution based Ensemble Model Output Statistics
        models for probabilistic wind-speed forecasting" (2015), equation (5).
        https://doi.org/10.1002/qj.2521
    """
    values, dtype = prepare_parameters(
        {"loc": loc, "scale": scale, "target": target},
        weight,
        reduction,
        validate,
        positive=("scale",),
    )
    return reduce(log_normal(*values), weight, reduction).to(dtype)


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


def normal(loc: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element."""
    return absolute_moment(target - loc, scale) - scale / math.sqrt(math.pi)


def absolute_moment(difference: Tensor, scale: Tensor) -> Tensor:
    """Mean distance from 0 of a normal variable with this mean."""
    z, near = standardised(difference, scale, FAR)
    inside = z * torch.erf(z / math.sqrt(2)) + math.sqrt(2 / math.pi) * torch.exp(
        -z * z / 2
    )
    return torch.where(near, scale * inside, difference.abs())


def normal_mixture(probs: Tensor, loc: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element, with components in the last dimension."""
    distance = (probs * absolute_moment(target[..., None] - loc, scale)).sum(-1)
    between = absolute_moment(
        loc[..., :, None] - loc[..., None, :],
        torch.hypot(scale[..., :, None], scale[..., None, :]),
    )
    spread = (probs[..., :, None] * probs[..., None, :] * between).sum((-2, -1))
    return distance - spread / 2


def censored_normal(
    loc: Tensor, scale: Tensor, lower: Tensor, upper: Tensor, target: Tensor
) -> Tensor:
    """CRPS of each element."""
    # Not by minimum and maximum, which halve the slope of a target at a limit.
    inside = torch.where(target < lower, lower, target)
    inside = torch.where(inside > upper, upper, inside)
    at, low, high = (_placed(end, loc) for end in (inside, lower, upper))
    # Nothing is between a limit and a target at it; as a difference of slopes that are
    # 1 this would take all digits from the other part, at 4 deviations in float32.
    below = _squared_cdf(at, scale) - _squared_cdf(low, scale)
    above = _squared_cdf(-at, scale) - _squared_cdf(-high, scale)
    below = torch.where(target <= lower, 0.0, below)
    above = torch.where(target >= upper, 0.0, above)
    beyond = torch.where(inside == target, 0.0, target - inside).abs()
    return beyond + below + above


def _placed(end: Tensor, loc: Tensor) -> Tensor:
    """Measured from the mean, with which an infinite end does not move."""
    finite = end.isfinite()
    return torch.where(finite, torch.where(finite, end, loc) - loc, end)


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


def log_normal(loc: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element."""
    above, endless = target > 0, target == torch.inf
    positive = torch.where(above & ~endless, target, 1.0)
    z = (torch.log(positive) - loc) / scale
    # Clamped where they have reached 0 or 1, since an infinite z has no derivative.
    share = torch.erf(z.clamp(-FAR, FAR) / math.sqrt(2))
    upper = torch.erfc((scale - z).clamp(-FAR, FAR) / math.sqrt(2))
    mean = torch.exp(loc + scale * scale / 2)
    spread = torch.erfc(scale / 2)
    inside = positive * share + mean * (spread - upper)
    outside = mean * torch.where(above, spread - 2, spread) + target.abs()
    return torch.where(above & ~endless, inside, outside)
