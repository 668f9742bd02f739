"""A log density on a domain, checked, and what it says at points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from torch_mlcalc.density.known import Known, integrand_of
from torch_mlcalc.density.memory import Memory
from torch_mlcalc.density.support import (
    batch_extent,
    check_tensor,
    event_shape,
    extent_of,
    tensors_of,
)
from torch_mlcalc.density.transport import can_transport
from torch_mlcalc.quadrature.checks import (
    Settings,
    check_settings,
    refuse_random,
    refuse_tolerance,
)
from torch_mlcalc.quadrature.cubature.box import Solid
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.estimate import Tolerance
from torch_mlcalc.quadrature.host import on_device
from torch_mlcalc.quadrature.integrand import Function, bind
from torch_mlcalc.quadrature.problem import Breakpoints, as_breakpoints
from torch_mlcalc.quadrature.rules import Rule


class Unnormalized(Distribution):
    """A log density up to a constant: all of :class:`NormalizedDensity` but integrals.

    What is found out about it is in its memory, until a tensor that it depends on is
    written to.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        log_unnormalized: Function,
        domain: Domain,
        rule: Rule | None = None,
        *,
        args: Sequence[Any] = (),
        batch_shape: Sequence[int] | None = None,
        breakpoints: Breakpoints | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        grad_rtol: float | None = None,
        max_evals: int | None = None,
        memory: int | None = None,
        on_failure: str = "warn",
        validate_args: bool | None = None,
    ) -> None:
        """Check the arguments; nothing is evaluated yet."""
        if not isinstance(domain, Domain):
            raise TypeError(
                f"domain is a {type(domain).__name__}; a domain is wanted, for example "
                "Interval(0, 1) or RealLine()."
            )
        settings = Settings(
            rtol, atol, max_evals, memory, on_failure, grad_rtol=grad_rtol
        )
        known = check_settings(rule, settings)
        Tolerance.of(rtol, atol, torch.get_default_dtype(), grad_rtol)
        if known is not None and known.fixed:
            refuse_tolerance(known, settings)
        if known is not None and grad_rtol is not None:
            refuse_random(known)
        if breakpoints is not None:
            as_breakpoints(breakpoints)
        bound = bind(log_unnormalized, batch_extent(domain), args, batch_shape)
        self.log_unnormalized = log_unnormalized
        self.domain = domain
        self.rule = rule
        self.args = bound.args
        self.breakpoints = breakpoints
        self.dtype, self.device = bound.dtype, bound.device
        self._search: dict[str, Any] = {
            "rtol": rtol,
            "atol": atol,
            "max_evals": max_evals,
            "on_failure": on_failure,
        }
        self._grad_rtol = grad_rtol
        self._block = memory
        self.has_rsample = not isinstance(domain, Solid) or can_transport(domain)
        self._memory = Memory(
            log_unnormalized,
            bound.args,
            [t for t, _ in tensors_of(domain)],
            breakpoints,
        )
        super().__init__(
            torch.Size(bound.batch_shape),
            torch.Size(event_shape(domain)),
            validate_args=validate_args,
        )

    @property
    def _asked(self) -> tuple[Function, tuple[Any, ...]]:
        """What searches ask for the log density, and its args."""
        if isinstance(self.domain, Solid):
            return self.log_unnormalized, self.args
        known = self._known
        return known, known.args

    @property
    def _known(self) -> Known:
        """The log density on a line, with its values at nodes so far."""
        make = partial(Known, integrand_of(self))
        return self._memory.recall("values", make, value=False)

    @property
    def _shape(self) -> dict[str, Any]:
        return {"batch_shape": self.batch_shape, "breakpoints": self.breakpoints}

    def _points(self, value: Tensor) -> Tensor:
        """A value as points ``(m, *batch, *event)``."""
        shape = self.batch_shape + self.event_shape
        sample = value.shape[: max(value.ndim - len(shape), 0)]
        try:
            value = value.to(self.dtype).expand(sample + shape)
        except RuntimeError:
            raise ValueError(
                f"value has shape {tuple(value.shape)}, which does not end with "
                f"batch_shape + event_shape = {tuple(shape)}."
            ) from None
        return value.reshape((math.prod(sample), *shape))

    def _check(self, value: Tensor) -> None:
        """Refuse what is no tensor, and, if asked to, what is not in the support."""
        check_tensor(value)
        if self._validate_args and value.numel():
            self._validate_sample(value)

    def _log_density(self, points: Tensor) -> Tensor:
        """Log of the unnormalised density at points within the support."""
        values = self.log_unnormalized(points, *self.args)
        wanted = points.shape[: points.ndim - len(self.event_shape)]
        if values.shape != wanted:
            raise ValueError(
                f"the log density got points of shape {tuple(points.shape)} and "
                f"returned shape {tuple(values.shape)}; {tuple(wanted)} is wanted."
            )
        return values

    @property
    def _remembered(self) -> Function:
        """The log density at nodes, which many functions have in common."""
        return self._log_density if self.event_shape else self._known.at

    @property
    def _home(self) -> Tensor:
        """A point inside the support of each density."""
        lower, upper, loc, scale = (
            on_device(t, self.dtype, self.device).detach()
            for t in extent_of(self.domain)
        )
        inner = torch.where(lower.isfinite(), lower + scale, upper - scale)
        both = lower.isfinite() & upper.isfinite()
        inner = torch.where(both, (lower + upper) / 2, inner)
        return torch.where(lower.isinf() & upper.isinf(), loc, inner)

    @property
    def _fixed(self) -> bool:
        return self.rule is not None and self.rule.fixed
