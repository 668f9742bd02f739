"""Expectations as a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.distributions import Distribution

from torch_mlcalc.density import expectation, log_expectation
from torch_mlcalc.layers.shared import Shared
from torch_mlcalc.quadrature import Rule
from torch_mlcalc.quadrature.checks import Settings, check_settings
from torch_mlcalc.quadrature.integrand import Function, check_function

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Expectation(Shared):
    r"""Layer that averages a module or function under a distribution.

    .. math:: y = \mathbb{E}_{x \sim p} f(x) \quad\text{or}\quad
        \log \mathbb{E}_{x \sim p}\, e^{f(x)}

    Args:
        integrand: Module or function of the points.
        rule: How; by default chosen by the distribution, see :func:`expectation`.
        log: Whether the integrand returns logs and the layer the log of the mean.
        rtol: Wanted relative error.
        atol: Wanted absolute error.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        process_group: Processes that share the points, as for :class:`Integral`.

    Shape:
        As for :func:`expectation`.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> layer = mlc.Expectation(torch.exp)
        >>> layer(torch.distributions.Normal(torch.tensor([0.0, 1.0]), 1.0))
        tensor([1.6487, 4.4817])
    """

    def __init__(
        self,
        integrand: Function,
        rule: Rule | None = None,
        *,
        log: bool = False,
        rtol: float | None = None,
        atol: float | None = None,
        max_evals: int | None = None,
        memory: int | None = None,
        on_failure: str = "warn",
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Keep the settings."""
        super().__init__(process_group)
        check_function(integrand)
        check_settings(rule, Settings(rtol, atol, max_evals, memory, on_failure))
        self.integrand = integrand
        self.rule = rule
        self.log = log
        self._settings: dict[str, Any] = {
            "rtol": rtol,
            "atol": atol,
            "max_evals": max_evals,
            "memory": memory,
            "on_failure": on_failure,
        }

    def forward(self, distribution: Distribution) -> Tensor:
        """The mean under a distribution, one for each element of its batch."""
        solve = log_expectation if self.log else expectation
        return solve(
            self.integrand,
            distribution,
            self.rule,
            process_group=self.process_group,
            **self._settings,
        )

    def extra_repr(self) -> str:
        """The settings that are not modules."""
        shown = [f"rule={self.rule}"]
        if self.log:
            shown.append("log=True")
        if self.process_group is not None:
            shown.append("process_group=...")
        return ", ".join(shown)
