"""Likelihoods of densities that are known up to a constant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from torch_mlcalc.density.support import contains, event_shape, support_of
from torch_mlcalc.layers import LogNormalizer
from torch_mlcalc.losses.integral.places import inner_point
from torch_mlcalc.losses.integral.settings import (
    IntegralLoss,
    check_function,
    check_weight,
    reduce_to,
)
from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import log_integrate
from torch_mlcalc.quadrature.rules import Rule


def normalized_nll_loss(
    log_unnormalized: Function,
    target: Tensor,
    domain: Domain,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Negative log likelihood of a density that is known by its log up to a constant.

    .. math::
        \ell = \log \int e^{g(x)}\,dx - g(y), \qquad
        \frac{\partial \ell}{\partial \theta} =
        \mathbb{E}_p\,\partial_\theta g - \partial_\theta g(y), \qquad
        \frac{\partial^2 \ell}{\partial \theta^2} = \operatorname{Var}_p
        \partial_\theta g + \mathbb{E}_p\,\partial_\theta^2 g - \partial_\theta^2 g(y)

    with :math:`p = e^g / Z`: exact maximum likelihood for an energy network, of which
    :math:`g` is minus the energy. Nothing is exponentiated but differences to the
    largest :math:`g`. A target outside of the domain has an infinite loss.

    Args:
        log_unnormalized: Function of points ``(n, *batch)``, or ``(n, *batch, d)`` on
            a :class:`Box`, and ``args`` that returns :math:`g`, ``(n, *batch)``.
        target: Observed values.
        domain: Where the density is to integrate to 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each observation; ``"mean"`` divides by the sum of the
            weights.
        args: Further arguments of the function, such as features.
        batch_shape: Shape of the batch of densities, if it is not that to which limits
            and args broadcast: with features ``(m, k)``, a row for each observation, it
            is ``(m,)``. Without a batch one normaliser serves all observations.
        rule: How to integrate; by default chosen as :func:`log_integrate` does.
        rtol: Wanted error of the log normaliser; adaptive rules only.
        atol: The same; the larger of the two counts.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``target``: ``(*sample, *batch)``, or ``(*sample, *batch, d)`` on a
        :class:`Box`. ``weight``: ``(*sample, *batch)``.

    Returns:
        The loss, of shape ``()``, or ``(*sample, *batch)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes do not fit or a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> stiffness = torch.tensor(4.0, requires_grad=True)
        >>> target = torch.tensor([0.0, 1.0])
        >>> loss = mlc.normalized_nll_loss(
        ...     lambda x: -stiffness * x**2 / 2, target, mlc.RealLine(), "none"
        ... )
        >>> loss  # log(2 pi) / 2 - log(4) / 2 + 2 x^2
        tensor([0.2258, 2.2258], grad_fn=...)

    References:
        Y. LeCun et al., "A tutorial on energy-based learning" (2006), section 6.
        http://yann.lecun.com/exdb/publis/pdf/lecun-06.pdf
    """
    check_function("log_unnormalized", log_unnormalized)
    value, dtype = _prepare(target, domain, weight, reduction)
    log_z = log_integrate(
        _WithDtype(log_unnormalized),
        domain,
        rule,
        args=(*args, value.new_zeros(())),
        batch_shape=batch_shape,
        rtol=rtol,
        atol=atol,
        max_evals=max_evals,
        memory=memory,
        on_failure=on_failure,
    )
    loss = _nll(log_unnormalized, value, domain, args, log_z)
    return reduce_to(loss, weight, reduction, dtype)


class NormalizedNLLLoss(IntegralLoss):
    """Likelihood of an unnormalised density: the module of :func:`normalized_nll_loss`.

    Args:
        log_unnormalized: Module or function that returns the log density.
        domain: Where the density is to integrate to 1.
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        plan_every: Number of training calls that share the nodes of an adaptive rule;
            see :class:`Integral`.
        rtol: Wanted error of the log normaliser; adaptive rules only.
        atol: The same; the larger of the two counts.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> class Energy(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layers = torch.nn.Sequential(
        ...             torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
        ...         )
        ...     def forward(self, y, x):
        ...         x = x.expand(*y.shape, 2)
        ...         return self.layers(torch.cat([y[..., None], x], -1))[..., 0]
        >>> criterion = mlc.NormalizedNLLLoss(
        ...     Energy(), mlc.Interval(-3, 3), mlc.GaussLegendre(32)
        ... )
        >>> features, target = torch.randn(50, 2), torch.rand(50)
        >>> criterion(target, features, batch_shape=(50,)).backward()
    """

    def __init__(
        self,
        log_unnormalized: Function,
        domain: Domain,
        rule: Rule | None = None,
        *,
        reduction: Reduction = "mean",
        plan_every: int = 1,
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
        check_function("log_unnormalized", log_unnormalized)
        self.log_normalizer = LogNormalizer(
            _WithDtype(log_unnormalized),
            domain,
            rule,
            plan_every=plan_every,
            **self.search,
        )

    def forward(
        self,
        target: Tensor,
        *args: Any,  # noqa: ANN401
        batch_shape: Sequence[int] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of observations, with the args of the log density.

        Returns:
            The loss.
        """
        layer = self.log_normalizer
        value, dtype = _prepare(target, layer.domain, weight, self.reduction)
        log_z = layer(*args, value.new_zeros(()), batch_shape=batch_shape)
        function = cast(_WithDtype, layer.integrand).function
        loss = _nll(function, value, layer.domain, args, log_z)
        return reduce_to(loss, weight, self.reduction, dtype)


class _WithDtype(nn.Module):
    """A function that is passed one argument more, for its dtype alone.

    Without it the points on a domain of plain numbers would have torch's default dtype,
    whatever that of the target.
    """

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        return self.function(points, *args[:-1])


def _prepare(
    target: Tensor, domain: Domain, weight: Tensor | None, reduction: Reduction
) -> tuple[Tensor, torch.dtype]:
    (value,), dtype = prepare_all({"target": target}, None, reduction)
    shape = value.shape[: value.ndim - len(event_shape(domain))]
    check_weight(weight, shape, "of the observations")
    return value, dtype


def _nll(
    log_unnormalized: Function,
    target: Tensor,
    domain: Domain,
    args: Sequence[Any],
    log_z: Tensor,
) -> Tensor:
    """Log normaliser less log density at the target."""
    batch, event = tuple(log_z.shape), event_shape(domain)
    wanted = batch + event
    shape = target.shape[: target.ndim - len(event)]
    if target.shape[target.ndim - len(wanted) :] != wanted:
        raise ValueError(
            f"target must have a shape that ends with {wanted}, that of the batch of "
            f"densities and of a point, got {tuple(target.shape)}"
        )
    count = math.prod(target.shape[: target.ndim - len(wanted)])
    points = target.reshape(count, *wanted)
    inside = contains(support_of(domain), points)
    # The log density is not asked where it need not be defined.
    here = inside.reshape(inside.shape + (1,) * len(event))
    logs = log_unnormalized(
        torch.where(here, points, inner_point(domain, points)), *args
    )
    return (log_z - torch.where(inside, logs, -math.inf)).reshape(shape)
