"""Integrals as functions of a limit, as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from torch_mlcalc.quadrature import Rule
from torch_mlcalc.quadrature.cumulative import check_limits, cumulative_integrate
from torch_mlcalc.quadrature.domains import Limit
from torch_mlcalc.quadrature.integrand import Function, check_function
from torch_mlcalc.quadrature.inverse import inverse


class Antiderivative(nn.Module):
    r"""Layer that integrates a module or function up to its input.

    .. math:: F(x) = \int_a^x f(t, \text{args})\,dt, \qquad F^{-1}(F(x)) = x

    With a positive integrand, such as a network that ends in a softplus, it is a
    monotone network that can be inverted; its derivative is the integrand.

    Args:
        integrand: Module or function of the points and the args of ``forward``.
        lower: Where the integrals begin, with :math:`F = 0`.
        rule: By default adaptive, see :func:`cumulative_integrate`.
        rtol: Wanted error relative to the integral of ``|f|`` over the range.
        atol: Wanted absolute error.
        max_evals: Points that each element of the batch may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.

    Shape:
        As for :func:`cumulative_integrate`: ``x`` is ``(*sample, *batch)``, the batch
        being that of ``lower`` and args.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> layer = mlc.Antiderivative(lambda t: 2 * t + 1)
        >>> y = layer(torch.tensor([1.0, 2.0]))
        >>> y, layer.inverse(y)
        (tensor([2., 6.]), tensor([1.0000, 2.0000]))
    """

    def __init__(
        self,
        integrand: Function,
        lower: Limit = 0.0,
        rule: Rule | None = None,
        *,
        rtol: float | None = None,
        atol: float | None = None,
        max_evals: int | None = None,
        on_failure: str = "warn",
    ) -> None:
        """Keep the settings; nothing is integrated yet."""
        super().__init__()
        check_function(integrand)
        check_limits(lower, 0.0, rule, max_evals, on_failure)
        self.integrand = integrand
        if isinstance(lower, Tensor) and not isinstance(lower, nn.Parameter):
            self.register_buffer("lower", lower)
        else:
            self.lower = lower
        self.rule = rule
        self._settings: dict[str, Any] = {
            "rtol": rtol,
            "atol": atol,
            "max_evals": max_evals,
            "on_failure": on_failure,
        }

    def forward(
        self,
        x: Tensor,
        *args: Any,  # noqa: ANN401
        batch_shape: Sequence[int] | None = None,
    ) -> Tensor:
        """Integrate up to ``x``.

        Args:
            x: Upper limits.
            *args: Passed to the integrand after the points.
            batch_shape: Shape of the batch, if args have dimensions behind it.

        Returns:
            The integrals.
        """
        return cumulative_integrate(
            self.integrand,
            self.lower,
            x,
            self.rule,
            args=args,
            batch_shape=batch_shape,
            **self._settings,
        )

    def inverse(
        self,
        y: Tensor,
        *args: Any,  # noqa: ANN401
        batch_shape: Sequence[int] | None = None,
    ) -> Tensor:
        """The ``x`` with :math:`F(x) = y`, for a positive integrand.

        It is found on adaptive panels and a bisection, whatever the rule; gradients are
        those of the implicit function, in ``y``, args, parameters and ``lower``.

        Args:
            y: Integrals; where no ``x`` has them the result is nan.
            *args: Passed to the integrand after the points.
            batch_shape: Shape of the batch, if args have dimensions behind it.

        Returns:
            The upper limits.

        Raises:
            ValueError: If the integrand is negative somewhere.
        """  # noqa: DOC502
        return inverse(
            self.integrand,
            self.lower,
            y,
            args=args,
            batch_shape=batch_shape,
            **self._settings,
        )

    def extra_repr(self) -> str:
        """The settings that are not modules."""
        return f"lower={self.lower}, rule={self.rule}"
