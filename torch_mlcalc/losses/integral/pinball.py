"""Quantile functions, scored at all levels at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_mlcalc.losses.crps.crossings import crossings
from torch_mlcalc.losses.integral.settings import (
    IntegralLoss,
    check_function,
    check_weight,
    reduce_to,
)
from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.quadrature.domains import Interval
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import integrate
from torch_mlcalc.quadrature.rules import Rule

#: Levels at which a quantile function is compared with the target, to find where it
#: crosses. One that increases has one crossing, whatever their number.
GRID = 33


def integrated_quantile_loss(
    quantile: Function,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    lower: float = 0.0,
    upper: float = 1.0,
    args: Sequence[Any] = (),
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Quantile (pinball) loss of a quantile function, integrated over its levels.

    .. math::
        \ell = \int_a^b \rho_\tau(Q(\tau), y)\,d\tau, \qquad
        \rho_\tau(q, y) = \max\big(\tau (y - q), (1 - \tau)(q - y)\big), \qquad
        \frac{\partial \ell}{\partial \theta} = \int_a^b (1[Q(\tau) > y] - \tau)\,
        \partial_\theta Q(\tau)\,d\tau

    Over all levels twice the loss is the continuous ranked probability score of the
    distribution with the quantile function :math:`Q`. The integral is split at the
    levels where :math:`Q` crosses the target, so that derivatives of both orders are
    exact.

    Args:
        quantile: Function of levels ``(n, *batch)`` and ``args`` that returns the
            quantiles there, ``(n, *batch)``. It may be a network.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each observation; ``"mean"`` divides by the sum of the
            weights.
        lower: Level :math:`a` at which the integral begins, at least 0.
        upper: Level :math:`b` at which it ends, at most 1.
        args: Further arguments of the function, such as features: tensors that begin
            with the shape of ``target``, or others as they are.
        rule: How to integrate; by default chosen as :func:`integrate` does.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``target`` and ``weight``: ``(*batch)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*batch)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes do not fit or a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> width = torch.tensor(2.0, requires_grad=True)
        >>> loss = mlc.integrated_quantile_loss(
        ...     lambda tau: width * tau, torch.tensor([0.0, 1.0]), "none"
        ... )
        >>> 2 * loss  # scores of a uniform distribution on [0, 2]
        tensor([0.6667, 0.1667], grad_fn=...)

    References:
        T. Gneiting, R. Ranjan, "Comparing density forecasts using threshold- and
        quantile-weighted scoring rules" (2011), equation 13.
        https://doi.org/10.1198/jbes.2010.08110
    """
    check_function("quantile", quantile)
    _check_levels(lower, upper)
    (value,), dtype = prepare_all({"target": target}, None, reduction)
    check_weight(weight, value.shape, "of target")

    def pinball(tau: Tensor, y: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        error = quantile(tau, *args) - y
        return (1 - tau) * error.relu() + tau * (-error).relu()

    levels = torch.linspace(lower, upper, GRID, dtype=value.dtype, device=value.device)
    # The quantiles at the ends may be infinite.
    grid = levels[1:-1].reshape(-1, *(1,) * value.ndim).expand(-1, *value.shape)
    kinks = crossings(lambda tau: quantile(tau, *args) - value, _with_tails(grid))
    loss = integrate(
        pinball,
        Interval(torch.full_like(value, lower), upper),
        rule,
        args=(value, *args),
        batch_shape=value.shape,
        breakpoints=kinks,
        rtol=rtol,
        atol=atol,
        max_evals=max_evals,
        memory=memory,
        on_failure=on_failure,
    )
    return reduce_to(loss, weight, reduction, dtype)


class IntegratedQuantileLoss(IntegralLoss):
    """Integrated quantile loss: the module of :func:`integrated_quantile_loss`.

    Args:
        quantile: Module or function that returns quantiles.
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        lower: Level at which the integral begins.
        upper: Level at which it ends.
        **search: Tolerances and limits, as for the function.

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> class Quantiles(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(3, 2)
        ...     def forward(self, tau, x):
        ...         loc, scale = self.layer(x).unbind(-1)
        ...         return loc + scale.exp() * torch.logit(tau)
        >>> criterion = mlc.IntegratedQuantileLoss(Quantiles())
        >>> criterion(torch.randn(10), torch.randn(10, 3)).backward()
    """  # noqa: DOC502

    def __init__(
        self,
        quantile: Function,
        rule: Rule | None = None,
        *,
        reduction: Reduction = "mean",
        lower: float = 0.0,
        upper: float = 1.0,
        **search: Any,  # noqa: ANN401
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rule, reduction, **search)
        check_function("quantile", quantile)
        _check_levels(lower, upper)
        self.quantile = quantile
        self.lower = lower
        self.upper = upper

    def forward(
        self,
        target: Tensor,
        *args: Any,  # noqa: ANN401
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of observations, with the args of the quantile function.

        Returns:
            The loss.
        """
        return integrated_quantile_loss(
            self.quantile,
            target,
            self.reduction,
            weight,
            lower=self.lower,
            upper=self.upper,
            args=args,
            rule=self.rule,
            **self.search,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, lower={self.lower}, upper={self.upper}"


def _check_levels(lower: float, upper: float) -> None:
    for name, level in (("lower", lower), ("upper", upper)):
        if isinstance(level, bool) or not isinstance(level, (int, float)):
            raise TypeError(f"{name} must be a number, got {type(level).__name__}")
    if not 0 <= lower < upper <= 1:
        raise ValueError(
            f"lower and upper must be levels with 0 <= lower < upper <= 1, got {lower} "
            f"and {upper}"
        )


def _with_tails(grid: Tensor) -> Tensor:
    """A grid with levels near 0 and 1 as well, for targets far out."""
    step = grid[1] - grid[0]
    tails = [step * 10.0**-k for k in range(1, 8)]
    low = torch.stack([grid[0] - step + tail for tail in reversed(tails)])
    high = torch.stack([grid[-1] + step - tail for tail in tails])
    # Where those near 1 are rounded to it, the quantile may be infinite.
    most = 1 - torch.finfo(grid.dtype).eps / 2
    return torch.cat([low, grid, high.clamp(max=most)])
