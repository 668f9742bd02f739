"""How far a density is from integrating to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torch_mlcalc.losses.crps.common import decay
from torch_mlcalc.losses.integral.settings import (
    IntegralLoss,
    check_function,
    check_weight,
)
from torch_mlcalc.losses.reduction import Reduction, check_reduction, reduce
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import integrate, log_integrate
from torch_mlcalc.quadrature.rules import Rule


def normalization_penalty(
    density: Function,
    domain: Domain,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    log: bool = False,
    squared: bool = True,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Penalty of a density that does not integrate to 1.

    .. math::
        (Z - 1)^2 \text{ or } |Z - 1|, \qquad Z = \int p(x)\,dx, \qquad
        \frac{\partial (Z - 1)^2}{\partial \theta}
        = 2 (Z - 1) \int \partial_\theta p\,dx

    to be added to a likelihood, which alone would make an unnormalised density grow.
    From the log of the density :math:`Z - 1` is computed as
    :math:`e^{\log Z} - 1` without cancellation.

    Args:
        density: Function of points ``(n, *batch)``, or ``(n, *batch, d)`` on a
            :class:`Box`, and ``args`` that returns the density, ``(n, *batch)``.
        domain: Where it should integrate to 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch of densities.
        weight: Weight of each density; ``"mean"`` divides by the sum of the weights.
        log: Whether the function returns the log of the density.
        squared: Whether to square; else the penalty has a kink where it is 0.
        args: Further arguments of the function, such as features.
        batch_shape: Shape of the batch, if it is not that to which limits and args
            broadcast.
        rule: How to integrate; by default chosen as :func:`integrate` does.
        rtol: Wanted relative error of the integral; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``weight``: ``(*batch)``.

    Returns:
        The penalty, of shape ``()``, or ``(*batch)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes do not fit or a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> height = torch.tensor([0.5, 1.0], requires_grad=True)
        >>> mlc.normalization_penalty(
        ...     lambda x, h: h + 0 * x, mlc.Interval(0, 1), "none", args=(height,)
        ... )
        tensor([0.2500, 0.0000], grad_fn=...)

    References:
        J. Andreas, D. Klein, "When and why are log-linear models self-normalizing?"
        (2015), section 2. https://aclanthology.org/N15-1027
    """
    check_function("density", density)
    check_reduction(reduction)
    solve = log_integrate if log else integrate
    mass = solve(
        density,
        domain,
        rule,
        args=args,
        batch_shape=batch_shape,
        rtol=rtol,
        atol=atol,
        max_evals=max_evals,
        memory=memory,
        on_failure=on_failure,
    )
    check_weight(weight, mass.shape, "of the densities")
    excess = decay(mass) if log else mass - 1
    return reduce(excess.square() if squared else excess.abs(), weight, reduction)


class NormalizationPenalty(IntegralLoss):
    """Penalty of a density: the module of :func:`normalization_penalty`.

    Args:
        density: Module or function that returns the density, or its log.
        domain: Where it should integrate to 1.
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        log: Whether the function returns the log of the density.
        squared: Whether to square.
        **search: Tolerances and limits, as for the function.

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> net = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Softplus())
        >>> penalty = mlc.NormalizationPenalty(
        ...     lambda x: net(x[..., None]).mean(-1), mlc.Interval(-1, 1)
        ... )
        >>> penalty().backward()
    """  # noqa: DOC502

    def __init__(
        self,
        density: Function,
        domain: Domain,
        rule: Rule | None = None,
        *,
        reduction: Reduction = "mean",
        log: bool = False,
        squared: bool = True,
        **search: Any,  # noqa: ANN401
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rule, reduction, **search)
        check_function("density", density)
        self.density = density
        self.domain = domain
        self.log = log
        self.squared = squared

    def forward(
        self,
        *args: Any,  # noqa: ANN401
        batch_shape: Sequence[int] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the penalty, with the args of the density.

        Returns:
            The penalty.
        """
        return normalization_penalty(
            self.density,
            self.domain,
            self.reduction,
            weight,
            log=self.log,
            squared=self.squared,
            args=args,
            batch_shape=batch_shape,
            rule=self.rule,
            **self.search,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        own = f"domain={self.domain}, log={self.log}, squared={self.squared}"
        return f"{super().extra_repr()}, {own}"
