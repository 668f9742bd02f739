"""Bayes risk: the mean of a loss over what may be observed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, MixtureSameFamily

from torch_mlcalc.density.expectation import expectation
from torch_mlcalc.density.wide import in_double, is_torchs
from torch_mlcalc.losses.integral.places import (
    inner_point,
    is_discrete,
    kinks_of,
    log_density,
    place_of,
    within,
)
from torch_mlcalc.losses.integral.settings import (
    IntegralLoss,
    check_function,
    check_weight,
    reduce_to,
    rtol_for,
)
from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.losses.regression import (
    HuberLoss,
    L1Loss,
    QuantileLoss,
    SmoothL1Loss,
)
from torch_mlcalc.quadrature.host import frozen
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import integrate
from torch_mlcalc.quadrature.rules import Rule


def expected_loss(
    loss: Function,
    action: Tensor,
    distribution: Distribution,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    kinks: Sequence[float] | None = None,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Mean of a loss over the predictive distribution of the target: the Bayes risk.

    .. math::
        R(a) = \mathbb{E}_{y \sim p}\,\ell(a, y), \qquad
        R'(a) = \mathbb{E}_{y \sim p}\,\partial_a \ell(a, y), \qquad
        R''(a) = \mathbb{E}_{y \sim p}\,\partial_a^2 \ell(a, y)
        + \sum_k J_k\,p(a + \kappa_k)

    with the jumps :math:`J_k` of the slope at kinks :math:`y = a + \kappa_k`: 2 for the
    absolute error, 1 for a quantile loss. The integral is split at the kinks, which
    move with the action, so that derivatives of both orders are exact. The action of
    least risk is the mean of the distribution for the squared error, the median for
    the absolute error and a quantile for a quantile loss.

    Args:
        loss: Function or module of ``(action, y)`` that returns a loss for each element
            (``reduction="none"``), such as ``mlc.HuberLoss("none")``.
        action: The decisions, or predictions.
        distribution: What may be observed: a ``torch.distributions.Distribution``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the decisions.
        weight: Weight of each decision; ``"mean"`` divides by the sum of the weights.
        kinks: Where the loss has kinks or jumps, as values of ``y - action``. By
            default those of this package's losses are known, and other losses are taken
            to be smooth.
        rule: How to integrate; by default chosen as :func:`expectation` does, and at
            kinks as :func:`integrate` does.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``action``: ``batch_shape + event_shape`` of the distribution. ``weight``:
        ``batch_shape``.

    Returns:
        The risk, of shape ``()``, or ``batch_shape`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes do not fit, a setting does not exist, or there are kinks
            in several dimensions.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> action = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> forecast = torch.distributions.Normal(torch.zeros(2), 1.0)
        >>> risk = mlc.expected_loss(mlc.L1Loss("none"), action, forecast, "none")
        >>> risk
        tensor([0.7979, 1.1666], grad_fn=...)
        >>> torch.autograd.grad(risk.sum(), action)  # P(y < a) - P(y > a)
        (tensor([0.0000, 0.6827]),)

    References:
        J. O. Berger, "Statistical Decision Theory and Bayesian Analysis", 2nd ed.,
        Springer 1985, section 4.4. https://doi.org/10.1007/978-1-4757-4286-2
    """
    check_function("loss", loss)
    value, dtype = _prepare(action, distribution, weight, reduction)
    offsets = _kinks(loss, kinks, distribution)

    options: dict[str, Any] = {
        "rtol": rtol,
        "atol": atol,
        "max_evals": max_evals,
        "memory": memory,
        "on_failure": on_failure,
    }
    mean = _mean(loss, value, distribution, offsets, rule, options)
    return reduce_to(mean, weight, reduction, dtype)


class ExpectedLoss(IntegralLoss):
    """Bayes risk of decisions: the module of :func:`expected_loss`.

    Args:
        loss: Function or module that returns a loss for each element.
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        kinks: Where the loss has kinks or jumps, as values of ``y - action``.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> criterion = mlc.ExpectedLoss(mlc.QuantileLoss("none", quantile=0.9))
        >>> action = torch.zeros(3, requires_grad=True)
        >>> forecast = torch.distributions.Normal(torch.zeros(3), 1.0)
        >>> criterion(action, forecast).backward()
        >>> action.grad  # (P(y < a) - 0.9) / 3
        tensor([-0.1333, -0.1333, -0.1333])
    """

    def __init__(
        self,
        loss: Function,
        rule: Rule | None = None,
        *,
        reduction: Reduction = "mean",
        kinks: Sequence[float] | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        max_evals: int | None = None,
        memory: int | None = None,
        on_failure: str = "warn",
    ) -> None:
        """Check and keep the settings."""
        super().__init__(
            rule,
            reduction,
            rtol=rtol,
            atol=atol,
            max_evals=max_evals,
            memory=memory,
            on_failure=on_failure,
        )
        check_function("loss", loss)
        self.loss = loss
        self.kinks = None if kinks is None else tuple(kinks)

    def forward(
        self, action: Tensor, distribution: Distribution, weight: Tensor | None = None
    ) -> Tensor:
        """Return the risk of a batch of decisions.

        Returns:
            The risk.
        """
        return expected_loss(
            self.loss,
            action,
            distribution,
            self.reduction,
            weight,
            kinks=self.kinks,
            rule=self.rule,
            **self.search,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        kinks = "" if self.kinks is None else f", kinks={self.kinks}"
        return super().extra_repr() + kinks


def _prepare(
    action: Tensor,
    distribution: Distribution,
    weight: Tensor | None,
    reduction: Reduction,
) -> tuple[Tensor, torch.dtype]:
    (value,), dtype = prepare_all({"action": action}, None, reduction)
    if not isinstance(distribution, Distribution):
        raise TypeError(
            f"distribution must be one of torch.distributions, got "
            f"{type(distribution).__name__}"
        )
    wanted = distribution.batch_shape + distribution.event_shape
    if value.shape != wanted:
        raise ValueError(
            f"action must have the shape of a sample, {tuple(wanted)}, got "
            f"{tuple(value.shape)}; expand one of them"
        )
    check_weight(weight, distribution.batch_shape, "of the decisions")
    return value, dtype


def _kinks(
    loss: Function, kinks: Sequence[float] | None, distribution: Distribution
) -> tuple[float, ...]:
    """Kinks of a loss as values of y - action; none where they do not matter."""
    if kinks is None:
        # A sum over discrete values has no use for them; in several dimensions a rule
        # for the whole space has to do.
        smooth = bool(distribution.event_shape) or is_discrete(distribution)
        return () if smooth else _known(loss)
    if distribution.event_shape or is_discrete(distribution):
        raise ValueError(
            "kinks have no effect but for continuous numbers, got a distribution with "
            f"event_shape {tuple(distribution.event_shape)}; leave them out"
        )
    return tuple(float(kink) for kink in kinks)


def _known(loss: Function) -> tuple[float, ...]:
    if isinstance(loss, HuberLoss):
        return (-loss.delta, loss.delta)
    if isinstance(loss, SmoothL1Loss):
        return (-loss.beta, loss.beta)
    return (0.0,) if isinstance(loss, (L1Loss, QuantileLoss, nn.L1Loss)) else ()


def _mean(
    loss: Function,
    action: Tensor,
    distribution: Distribution,
    kinks: tuple[float, ...],
    rule: Rule | None,
    options: dict[str, Any],
) -> Tensor:
    """The mean of the loss of each action, split at the kinks where there are some."""
    if isinstance(distribution, MixtureSameFamily) and not distribution.event_shape:
        # The mean of the means under the components, each with a scale of its own.
        parts = distribution.component_distribution
        each = action[..., None].expand(parts.batch_shape)
        means = _mean(loss, each, parts, kinks, rule, options)
        return (distribution.mixture_distribution.probs * means).sum(-1)
    if kinks:
        return _split(loss, action, distribution, kinks, rule, options)
    return expectation(
        lambda y: _risk(loss, action, y, distribution), distribution, rule, **options
    )


def _split(
    loss: Function,
    action: Tensor,
    distribution: Distribution,
    kinks: tuple[float, ...],
    rule: Rule | None,
    options: dict[str, Any],
) -> Tensor:
    """The mean as an integral over the support, split at the kinks."""
    dtype = action.dtype
    if is_torchs(distribution):
        # As for two distributions; see pairs.py.
        distribution, at = in_double(distribution), action.double()
        rtol = rtol_for(dtype, rule, options["rtol"], options["atol"])
        options = options | {"rtol": rtol}
    else:
        at = action
    if _known(loss):
        action = at  # of which we know that it does as well in double

    def weighted(y: Tensor) -> Tensor:
        log_p = log_density(distribution, y)
        some = log_p > -torch.inf
        risk = _risk(loss, action, y.to(action.dtype), distribution)
        return torch.where(some, torch.where(some, risk, 0) * log_p.exp(), 0)

    domain = place_of(distribution)
    steps = torch.tensor(kinks, dtype=at.dtype, device=at.device)
    breaks = at + steps.reshape(-1, *(1,) * at.ndim)
    with frozen():
        # Where the density underflows a kink has no effect, and beyond it there is
        # nothing that a rule could see.
        floor = math.log(torch.finfo(at.dtype).tiny)
        seen = log_density(distribution, within(domain, breaks)) > floor
    breaks = torch.where(seen, within(domain, breaks), inner_point(domain, at))
    return integrate(
        weighted,
        domain,
        rule,
        batch_shape=distribution.batch_shape,
        breakpoints=torch.cat([breaks, *kinks_of(distribution)]),
        **options,
    ).to(dtype)


def _risk(
    loss: Function, action: Tensor, y: Tensor, distribution: Distribution
) -> Tensor:
    """Losses of an action for many observations, checked."""
    values = loss(action.expand_as(y), y)
    wanted = y.shape[: y.ndim - len(distribution.event_shape)]
    if not isinstance(values, Tensor) or values.shape != wanted:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values)
        raise ValueError(
            f"loss must return one number for each element, of shape {tuple(wanted)}, "
            f"got {got}; make it with reduction='none'"
        )
    return values
