"""Integrals, and logs of integrals, as layers of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from torch_mlcalc.layers.shared import Shared
from torch_mlcalc.quadrature import (
    Domain,
    Plan,
    Rule,
    Vegas,
    adapt,
    integrate,
    log_integrate,
)
from torch_mlcalc.quadrature.checks import Settings, check, refuse_tolerance
from torch_mlcalc.quadrature.estimate import Tolerance
from torch_mlcalc.quadrature.integrand import Function, check_function
from torch_mlcalc.quadrature.rules import FixedRule

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Integral(Shared):
    r"""Layer that integrates a module or function of the points and its inputs.

    .. math:: y = \int f(x, \text{args})\,dx \quad\text{or}\quad \log \int e^{f}\,dx

    In training, an adaptive rule need not look for its nodes in every step: with
    ``plan_every=k`` it does so in every k-th call, and in between replays the plan,
    which is saved in the ``state_dict``, as long as args keep their shape. In
    ``eval()`` every call looks anew.
    :class:`Vegas` always goes on from the map of the last plan.

    Limits that are tensors move with the layer, those that are parameters are its
    parameters, and those that are modules its modules, also where the limits of a
    :class:`Box` are a list.

    Args:
        integrand: Module or function of the points and the args of ``forward``.
        domain: Where to integrate.
        rule: How; by default chosen as :func:`integrate` does.
        log: Whether the integrand returns logs and the layer the log of the integral.
        plan_every: Number of training calls that share a plan.
        rtol: Wanted relative error of an adaptive rule.
        atol: Wanted absolute error of an adaptive rule.
        grad_rtol: Wanted relative error of the gradient, of an adaptive rule.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        process_group: Processes that share the points, all of which call the layer, as
            for :func:`integrate`; copies keep it, files do not.

    Shape:
        As for :func:`integrate`; ``batch_shape`` is passed to ``forward``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a setting is out of range, or ``plan_every`` is greater than 1
            with a fixed rule.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> layer = mlc.Integral(lambda x, rate: torch.exp(-rate * x), mlc.HalfLine())
        >>> layer(torch.tensor([1.0, 2.0]))
        tensor([1.0000, 0.5000])
    """

    def __init__(
        self,
        integrand: Function,
        domain: Domain,
        rule: Rule | None = None,
        *,
        log: bool = False,
        plan_every: int = 1,
        rtol: float | None = None,
        atol: float | None = None,
        grad_rtol: float | None = None,
        max_evals: int | None = None,
        memory: int | None = None,
        on_failure: str = "warn",
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Keep the settings; nothing is integrated yet."""
        super().__init__(process_group)
        if isinstance(plan_every, bool) or not isinstance(plan_every, int):
            raise TypeError(
                f"plan_every is a {type(plan_every).__name__}; an integer is wanted."
            )
        if plan_every < 1:
            raise ValueError(f"plan_every is {plan_every}; at least 1 is wanted.")
        if plan_every > 1 and isinstance(rule, (FixedRule, Plan)):
            raise ValueError(
                f"plan_every={plan_every} has no effect with {rule}, whose nodes are "
                "fixed; leave it out."
            )
        check_function(integrand)
        settings = Settings(
            rtol, atol, max_evals, memory, on_failure, grad_rtol=grad_rtol
        )
        check(integrand, domain, rule, settings, progress=False)
        Tolerance.of(rtol, atol, torch.get_default_dtype(), grad_rtol)
        if rule is not None and rule.fixed:
            refuse_tolerance(rule, settings)
        self.integrand = integrand
        self._adopt(domain)
        self.rule = rule
        self.log = log
        self.plan_every = plan_every
        self.rtol = rtol
        self.atol = atol
        self.grad_rtol = grad_rtol
        self.max_evals = max_evals
        self.memory = memory
        self.on_failure = on_failure
        self.plan: Plan | None = None
        self._calls_left = 0
        self._shapes: list[list[int]] = []

    def _adopt(self, domain: Domain) -> None:
        """Make the tensors and modules of a domain the layer's own."""
        self._domain = domain
        for name, value in _owned(domain).items():
            if isinstance(value, nn.Module):
                self.add_module(name, value)
            elif isinstance(value, nn.Parameter):
                self.register_parameter(name, value)
            else:
                self.register_buffer(name, value, persistent=False)

    @property
    def domain(self) -> Domain:
        """Where to integrate, with the tensors of the domain as the layer has them."""
        if not _owned(self._domain):
            return self._domain

        def current(name: str, value: object) -> object:
            if isinstance(value, (list, tuple)):
                return [current(f"{name}_{i}", limit) for i, limit in enumerate(value)]
            return getattr(self, name) if _is_owned(value) else value

        fields = vars(self._domain).items()
        moved: Any = {name: current(f"domain_{name}", value) for name, value in fields}
        return cast(Domain, replace(cast(Any, self._domain), **moved))

    def forward(
        self,
        *args: Any,  # noqa: ANN401
        batch_shape: Sequence[int] | None = None,
    ) -> Tensor:
        """Integrate for some args of the integrand.

        Args:
            *args: Passed to the integrand after the points.
            batch_shape: Shape of the batch, if args have dimensions behind it.

        Returns:
            The integral, or its log.
        """
        shape: dict[str, Any] = {
            "args": args,
            "batch_shape": batch_shape,
            "memory": self.memory,
            "process_group": self.process_group,
        }
        search: dict[str, Any] = {
            "rtol": self.rtol,
            "atol": self.atol,
            "grad_rtol": self.grad_rtol,
            "max_evals": self.max_evals,
            "on_failure": self.on_failure,
        }
        rule: Rule | None = self.rule
        learns = isinstance(rule, Vegas)
        if isinstance(rule, Vegas) and self.plan is not None:
            rule = replace(rule, start=self.plan)
        if self.training and (self.plan_every > 1 or learns):
            shapes = [[*a.shape] for a in args if isinstance(a, Tensor)]
            shapes.append([*(batch_shape or ())])
            # The last batch of an epoch may be shorter.
            if self.plan is None or self._calls_left == 0 or shapes != self._shapes:
                self.plan = adapt(
                    self.integrand, self.domain, rule, log=self.log, **shape, **search
                )
                self._calls_left, self._shapes = self.plan_every, shapes
            self._calls_left -= 1
            rule, search = self.plan, {}
        solve = log_integrate if self.log else integrate
        return solve(self.integrand, self.domain, rule, **shape, **search)

    def extra_repr(self) -> str:
        """The settings that are not modules."""
        shown = [f"domain={self.domain}", f"rule={self.rule}"]
        if self.log:
            shown.append("log=True")
        if self.plan_every > 1:
            shown.append(f"plan_every={self.plan_every}")
        if self.process_group is not None:
            shown.append("process_group=...")
        return ", ".join(shown)

    def get_extra_state(self) -> dict[str, Any]:
        """The plan, in tensors and plain numbers, and how long it still holds."""
        plan = None if self.plan is None else self.plan.state()
        return {"plan": plan, "calls_left": self._calls_left, "shapes": self._shapes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take a plan back."""
        plan = state["plan"]
        self.plan = None if plan is None else Plan.from_state(plan)
        self._calls_left, self._shapes = state["calls_left"], state["shapes"]

    def _apply(self, fn: Any, recurse: bool = True) -> Integral:  # noqa: ANN401
        """Move the plan with the module; its float64 nodes keep their dtype."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.plan is not None:
            self.plan = self.plan.to(fn(self.plan.status).device)
        return self


class LogNormalizer(Integral):
    r"""Layer that returns the log normaliser of a density given by its log.

    .. math:: \log Z(\text{args}) = \log \int e^{\ell(x, \text{args})}\,dx

    It is an :class:`Integral` with ``log=True``, whose gradient is the expected score,
    and normalises: with ``rule=AdaptiveGaussHermite()`` the log density is a joint one
    and the layer returns the evidence.

    Args:
        log_unnormalized: Module or function of the points and the args of ``forward``.
        domain: Where to integrate.
        rule: How; by default chosen as :func:`log_integrate` does.
        plan_every: Number of training calls that share a plan.
        rtol: Wanted error of the log.
        atol: The same; the larger of the two counts.
        grad_rtol: Wanted relative error of the gradient, of an adaptive rule.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        process_group: Processes that share the points, as for :class:`Integral`.

    Shape:
        As for :func:`log_integrate`; ``batch_shape`` is passed to ``forward``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> layer = mlc.LogNormalizer(lambda x, t: -t * x.abs(), mlc.RealLine())
        >>> rate = torch.tensor([1.0, 5.0])
        >>> layer(rate), layer.log_prob(torch.zeros(2), rate)
        (tensor([ 0.6931, -0.9163]), tensor([-0.6931,  0.9163]))
    """

    def __init__(
        self,
        log_unnormalized: Function,
        domain: Domain,
        rule: Rule | None = None,
        *,
        plan_every: int = 1,
        rtol: float | None = None,
        atol: float | None = None,
        grad_rtol: float | None = None,
        max_evals: int | None = None,
        memory: int | None = None,
        on_failure: str = "warn",
        process_group: ProcessGroup | None = None,
    ) -> None:
        """Keep the settings; nothing is integrated yet."""
        super().__init__(
            log_unnormalized,
            domain,
            rule,
            log=True,
            plan_every=plan_every,
            rtol=rtol,
            atol=atol,
            grad_rtol=grad_rtol,
            max_evals=max_evals,
            memory=memory,
            on_failure=on_failure,
            process_group=process_group,
        )

    def log_prob(
        self,
        x: Tensor,
        *args: Any,  # noqa: ANN401
        batch_shape: Sequence[int] | None = None,
    ) -> Tensor:
        """Log of the normalised density.

        Args:
            x: Where, ``(*sample, *batch)``; the domain is not checked.
            *args: Passed to the log density after the points.
            batch_shape: Shape of the batch, if args have dimensions behind it.

        Returns:
            The log density at ``x`` less the log normaliser.
        """
        return self.integrand(x, *args) - self(*args, batch_shape=batch_shape)


def _is_owned(value: object) -> bool:
    return isinstance(value, (Tensor, nn.Module))


def _owned(domain: Domain) -> dict[str, Any]:
    """Tensors and modules of a domain, also those in lists, by names of the layer."""
    named: dict[str, Any] = {}
    for name, value in vars(domain).items():
        several = isinstance(value, (list, tuple))
        entries = enumerate(value) if several else [("", value)]
        for place, entry in entries:
            if _is_owned(entry):
                named[f"domain_{name}_{place}" if several else f"domain_{name}"] = entry
    return named
