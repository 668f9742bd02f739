"""Divergences of two distributions that are bounded: Jensen-Shannon, variation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import softplus

from torch_mlcalc.losses.crps.crossings import crossings
from torch_mlcalc.losses.integral.compare import (
    PairLoss,
    Search,
    compare,
    finite,
    prepare_pair,
)
from torch_mlcalc.losses.integral.settings import reduce_to
from torch_mlcalc.losses.reduction import Reduction
from torch_mlcalc.quadrature.rules import Rule


def jensen_shannon_loss(
    input: Distribution,
    target: Distribution,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Jensen-Shannon divergence: from each of the two to their mean.

    .. math::
        D = \tfrac12 D(p \,\|\, m) + \tfrac12 D(q \,\|\, m), \qquad m = (p + q) / 2,
        \qquad 0 \le D \le \log 2

    which is finite for any two distributions, and symmetric. The derivative of the
    integrand by :math:`q` is :math:`\frac12 \log(q / m)`, the second
    :math:`p / (4 q m)`.

    Args:
        input: A continuous distribution of one number, mostly a model :math:`q`.
        target: Another, mostly what is to be learnt, :math:`p`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch.
        weight: Weight of each pair; ``"mean"`` divides by the sum of the weights.
        rule: How to integrate; by default chosen as :func:`integrate` does.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``input``, ``target`` and ``weight``: a batch ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If batches differ, a distribution is discrete or multivariate, or a
            setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.jensen_shannon_loss(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(0.1282)

    References:
        J. Lin, "Divergence measures based on the Shannon entropy" (1991), equation 4.1.
        https://doi.org/10.1109/18.61115
    """
    pair = prepare_pair(input, target, weight, reduction)
    search = Search(rule, rtol, atol, max_evals, memory, on_failure)
    loss = compare(_jensen_shannon_term, pair, search)
    return reduce_to(loss, weight, reduction, pair.dtype)


def total_variation_loss(
    input: Distribution,
    target: Distribution,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Total variation distance: the largest difference of a probability.

    .. math:: T = \tfrac12 \int |p - q|\,dx = \sup_A |P(A) - Q(A)|,
        \qquad 0 \le T \le 1

    The derivative of the integrand by :math:`q`, with its factor, is
    :math:`\frac12 \operatorname{sign}(q - p)`. The integral is split where the
    densities cross, up to eight times; the splits move with the parameters, so that the
    second derivative is right as well.

    Args:
        input: A continuous distribution of one number, mostly a model :math:`q`.
        target: Another, mostly what is to be learnt, :math:`p`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch.
        weight: Weight of each pair; ``"mean"`` divides by the sum of the weights.
        rule: How to integrate; by default chosen as :func:`integrate` does.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``input``, ``target`` and ``weight``: a batch ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If batches differ, a distribution is discrete or multivariate, or a
            setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.total_variation_loss(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(0.3901)

    References:
        F. Liese, I. Vajda, "On divergences and informations in statistics and
        information theory" (2006). https://doi.org/10.1109/TIT.2006.881731
    """
    pair = prepare_pair(input, target, weight, reduction)
    search = Search(rule, rtol, atol, max_evals, memory, on_failure)

    def log_ratio(x: Tensor) -> Tensor:
        log_p, log_q = map(finite, pair.log_densities(x))
        return log_p - log_q

    loss = compare(
        _total_variation_term, pair, search, crossings=crossings(log_ratio, pair.grid())
    )
    return reduce_to(loss, weight, reduction, pair.dtype)


class JensenShannonLoss(PairLoss):
    """Jensen-Shannon divergence: the module of :func:`jensen_shannon_loss`.

    Args:
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        **search: Tolerances and limits, as for the function.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.JensenShannonLoss()(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(0.1282)
    """

    function = staticmethod(jensen_shannon_loss)


class TotalVariationLoss(PairLoss):
    """Total variation distance: the module of :func:`total_variation_loss`.

    Args:
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        **search: Tolerances and limits, as for the function.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.TotalVariationLoss()(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(0.3901)
    """

    function = staticmethod(total_variation_loss)


def _jensen_shannon_term(log_p: Tensor, log_q: Tensor) -> Tensor:
    # With u = log p / q and m = (p + q) / 2: m / 2 (u tanh(u / 2) - 2 log cosh(u / 2)).
    u, middle = log_p - log_q, (log_p.exp() + log_q.exp()) / 2
    near = u.abs() < 1
    s = torch.where(near, u, 0)
    close = s * torch.tanh(s / 2) - 2 * torch.log1p(2 * torch.sinh(s / 4).square())
    # Farther apart both grow like |u|, which cancels: without it.
    r = torch.where(near, 1, u.abs())
    far = 2 * (math.log(2) - softplus(-r) - r * torch.sigmoid(-r))
    return middle / 2 * torch.where(near, close, far)


def _total_variation_term(log_p: Tensor, log_q: Tensor) -> Tensor:
    u = log_p - log_q
    above = -torch.expm1(-u.clamp(min=0)) * log_p.exp()
    below = -torch.expm1(u.clamp(max=0)) * log_q.exp()
    return torch.where(u > 0, above, below) / 2
