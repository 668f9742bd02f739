"""Finding the nodes of an integral, to use them again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch

from torch_mlcalc.quadrature.audit import AUDITOR, audit_settings, audited
from torch_mlcalc.quadrature.checks import Settings, check, refuse_fixed
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.engine import engine_of, shared
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.problem import Breakpoints
from torch_mlcalc.quadrature.rules import Rule
from torch_mlcalc.quadrature.sharding import ranks_of
from torch_mlcalc.quadrature.slopes import search

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def adapt(
    integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    log: bool = False,
    audit: bool = False,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    grad_rtol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    generator: torch.Generator | None = None,
    on_failure: str = "warn",
    progress: bool = False,
    process_group: ProcessGroup | None = None,
) -> Plan:
    """Find the nodes that an integral needs, to use them again; see :func:`integrate`.

    Args:
        integrand: As for :func:`integrate`, and so are the others.
        domain: Where to integrate.
        rule: None or an adaptive rule.
        log: Whether the integrand returns logs, as for :func:`log_integrate`.
        audit: Whether to test the plan on 131,072 points of an independent, randomly
            shifted lattice, and to downgrade its status where that disagrees: a peak
            that no node of the search has seen is found if it fills more than about
            1e-4 of the domain.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        breakpoints: Where to split.
        rtol: Wanted relative error.
        atol: Wanted absolute error.
        grad_rtol: Wanted relative error of the gradient.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        generator: What seeds a random rule, and the lattice of an audit.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        progress: Whether to show a bar.
        process_group: Processes that share the points.

    Returns:
        A fixed rule for this batch, with error and status of the search.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit, or the rule
            is fixed already.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> plan = mlc.adapt(torch.sqrt, mlc.Interval(0, 1))
        >>> mlc.integrate(lambda x: x * torch.sqrt(x), mlc.Interval(0, 2), plan)
        tensor(2.2627)
    """
    settings = Settings(rtol, atol, max_evals, memory, on_failure, generator, grad_rtol)
    with (
        ranks_of(process_group) as ranks,
        check(integrand, domain, rule, settings, progress, audit=audit) as call,
    ):
        refuse_fixed(rule)
        engine = engine_of(domain, rule)
        problem = engine.pose(call, domain, args, batch_shape, breakpoints)
        problem = shared(problem, ranks, domain, rule, settings, log=log)
        if log:
            engine.refuse_reversed(problem)
        if grad_rtol is not None:
            plan = cast(Plan, search(engine, problem, rule, settings, log=log).plan)
        else:
            plan = engine.plan_of(engine.find(problem, rule, settings, log=log))
        if not audit:
            return plan
        other = engine_of(domain, AUDITOR)
        again = other.pose(call, domain, args, batch_shape, None)
        again = shared(again, ranks, domain, AUDITOR, settings, log=log)
        looked = other.find(again, AUDITOR, audit_settings(settings), log=log)
        with torch.no_grad():
            value = engine.apply_rule(problem, plan, settings, log=log)
        return audited(plan, value, other.estimate_of(looked), settings)
