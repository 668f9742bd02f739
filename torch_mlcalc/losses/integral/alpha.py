"""Divergences of two distributions: the family of the Kullback-Leibler divergence."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from torch_mlcalc.losses.integral.compare import (
    PairLoss,
    Search,
    compare,
    prepare_pair,
)
from torch_mlcalc.losses.integral.settings import reduce_to
from torch_mlcalc.losses.reduction import Reduction
from torch_mlcalc.quadrature.rules import Rule

#: Coefficients of (exp(x) - 1 - x) / x^2; up to |x| = 1 they leave out 1e-17.
_SERIES = [1 / math.factorial(k + 2) for k in range(17)]


def kl_divergence_loss(
    input: Distribution,
    target: Distribution,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    reverse: bool = False,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Kullback-Leibler divergence, in either direction.

    .. math::
        D(p \,\|\, q) = \int p \log \frac{p}{q}\,dx
        = \int \Big( p \log \frac{p}{q} - p + q \Big) dx, \qquad
        \frac{\partial D}{\partial \theta_q} = -\int p\,\partial_\theta \log q\,dx

    of the target :math:`p` from the input :math:`q`, which covers the mass of the
    target; ``reverse`` gives :math:`D(q \,\|\, p)`, which seeks a mode. The second form
    is integrated, whose integrand is never negative, so that the divergence of nearly
    equal distributions keeps its digits. It is infinite where the first has mass and
    the second cannot have any.

    Args:
        input: A continuous distribution of one number, mostly a model :math:`q`.
        target: Another, mostly what is to be learnt, :math:`p`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch.
        weight: Weight of each pair; ``"mean"`` divides by the sum of the weights.
        reverse: Whether to swap the two.
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
        >>> mlc.kl_divergence_loss(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(1.3069)

    References:
        S. Kullback, R. A. Leibler, "On information and sufficiency" (1951).
        https://doi.org/10.1214/aoms/1177729694
    """
    return alpha_divergence_loss(
        input,
        target,
        reduction,
        weight,
        alpha=0.0 if reverse else 1.0,
        rule=rule,
        rtol=rtol,
        atol=atol,
        max_evals=max_evals,
        memory=memory,
        on_failure=on_failure,
    )


def alpha_divergence_loss(
    input: Distribution,
    target: Distribution,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    alpha: float,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Alpha divergence: a family from one Kullback-Leibler divergence to the other.

    .. math::
        D_\alpha = \frac{1}{\alpha (\alpha - 1)} \int \big( p^\alpha q^{1 - \alpha}
        - \alpha p - (1 - \alpha) q \big) dx, \qquad
        D_1 = D(p \,\|\, q), \quad D_0 = D(q \,\|\, p)

    of the target :math:`p` and the input :math:`q`. :math:`D_{1/2}` is 4 times the
    squared Hellinger distance, :math:`D_2` half the chi-squared divergence. The
    integrand is never negative and without cancellation, also near the limits. Its
    derivatives by the density are

    .. math::
        \frac{\partial}{\partial q} = \frac1\alpha \Big(1 - \Big(\frac pq\Big)^\alpha
        \Big), \qquad \frac{\partial^2}{\partial q^2} = \frac{p^\alpha}{q^{\alpha + 1}}

    and the first at :math:`\alpha = 0` is :math:`\log(q / p)`.

    Args:
        input: A continuous distribution of one number, mostly a model :math:`q`.
        target: Another, mostly what is to be learnt, :math:`p`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch.
        weight: Weight of each pair; ``"mean"`` divides by the sum of the weights.
        alpha: Which; any number.
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
        >>> mlc.alpha_divergence_loss(Normal(0.0, 1.0), Normal(1.0, 2.0), alpha=0.5)
        tensor(0.5968)

    References:
        S. Amari, "Alpha-divergence is unique, belonging to both f-divergence and
        Bregman divergence classes" (2009). https://doi.org/10.1109/TIT.2009.2030485
    """
    _check_alpha(alpha)
    pair = prepare_pair(input, target, weight, reduction)
    # The two directions of the family: D_alpha(p, q) = D_(1 - alpha)(q, p).
    swapped = alpha < 0.5
    if swapped:
        pair = pair.swapped
    search = Search(rule, rtol, atol, max_evals, memory, on_failure)
    alpha = 1 - alpha if swapped else alpha
    loss = compare(
        lambda log_p, log_q: alpha_term(log_p, log_q, alpha),
        pair,
        search,
        uncovered=alpha >= 1,
    )
    return reduce_to(loss, weight, reduction, pair.dtype)


class KLDivergenceLoss(PairLoss):
    """Kullback-Leibler divergence: the module of :func:`kl_divergence_loss`.

    Args:
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        reverse: Whether to swap the two.
        **search: Tolerances and limits, as for the function.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.KLDivergenceLoss(reverse=True)(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(0.4431)
    """

    function = staticmethod(kl_divergence_loss)

    def __init__(
        self,
        rule: Rule | None = None,
        reduction: Reduction = "mean",
        *,
        reverse: bool = False,
        **search: Any,  # noqa: ANN401
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rule, reduction, **search)
        self.reverse = reverse

    def options(self) -> dict[str, Any]:
        """Return the settings beyond those that all share."""
        return {"reverse": self.reverse}


class AlphaDivergenceLoss(PairLoss):
    """Alpha divergence: the module of :func:`alpha_divergence_loss`.

    Args:
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        alpha: Which; any number.
        **search: Tolerances and limits, as for the function.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.AlphaDivergenceLoss(alpha=0.5)(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(0.5968)
    """

    function = staticmethod(alpha_divergence_loss)

    def __init__(
        self,
        rule: Rule | None = None,
        reduction: Reduction = "mean",
        *,
        alpha: float,
        **search: Any,  # noqa: ANN401
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rule, reduction, **search)
        _check_alpha(alpha)
        self.alpha = alpha

    def options(self) -> dict[str, Any]:
        """Return the settings beyond those that all share."""
        return {"alpha": self.alpha}


def _check_alpha(alpha: object) -> None:
    if isinstance(alpha, bool) or not isinstance(alpha, Real):
        raise TypeError(f"alpha must be a number, got {type(alpha).__name__}")
    if not math.isfinite(alpha):
        raise ValueError(f"alpha must be finite, got {alpha}")


def alpha_term(log_p: Tensor, log_q: Tensor, alpha: float) -> Tensor:
    r"""Integrand of the divergence of ``alpha >= 1/2``, never negative.

    With :math:`u = \log p / q`, :math:`\beta = \alpha - 1` and
    :math:`\varphi(x) = (e^x - 1 - x) / x^2` it is

    .. math:: \frac{p\,u^2}{\alpha} \big( \beta \varphi(\beta u) + \varphi(-u) \big)

    Args:
        log_p: Log density of the first.
        log_q: Log density of the second.
        alpha: Which divergence.

    Returns:
        The integrand.
    """
    beta = alpha - 1
    u, p, q = log_p - log_q, log_p.exp(), log_q.exp()
    near = u.abs() * max(1, abs(beta)) <= 1
    s = torch.where(near, u, 0)
    close = p * s.square() * (beta * _phi(beta * s) + _phi(-s))
    # Farther apart nothing cancels. What is not taken is kept finite.
    u = torch.where(near, 1 / max(1, abs(beta)), u)
    if beta == 0:
        growth = p * u
    else:
        slow = beta * u <= 1
        power = log_p + torch.where(slow, 0, beta * u)
        growth = torch.where(
            slow, p * torch.expm1(torch.where(slow, beta * u, 0)), power.exp() - p
        )
        growth = growth / beta
    return torch.where(near, close, growth - p + q) / alpha


def _phi(x: Tensor) -> Tensor:
    series = torch.zeros_like(x)
    for coefficient in reversed(_SERIES):
        series = series * x + coefficient
    return series
