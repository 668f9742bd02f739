"""CRPS of normal forecasts, mixtures of them, and of logarithms."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torch_mlcalc.losses.crps.common import prepare_parameters, standardised
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


def log_normal(loc: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """CRPS of each element."""
    # In single precision the mean overflows from scales of 13 on, long before the
    # score, which grows as exp(scale^2 / 4), and slopes cancelled at scales of 1e-3.
    dtype = target.dtype
    loc, scale, target = loc.double(), scale.double(), target.double()
    above = target > 0
    between = above & (target < torch.inf)
    positive = torch.where(between, target, 1.0)
    difference = torch.log(positive) - loc
    z, near = standardised(difference, scale, FAR**2)
    z = torch.where(near, z, FAR**2 * difference.sign())
    # Clamped where they have reached 0 or 1, since an infinite z has no derivative.
    share = torch.erf(z.clamp(-FAR, FAR) / math.sqrt(2))
    upper = torch.erfc((scale - z).clamp(-FAR, FAR) / math.sqrt(2))
    mean = torch.exp(loc + scale * scale / 2)
    error = torch.where(between, positive * share, target.abs())
    beyond = torch.where(between, upper, 2.0 * above)
    return (error + mean * (torch.erfc(scale / 2) - beyond)).to(dtype)
