"""From a problem to its integral: what ``integrate`` calls for a solid domain."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_mlcalc.quadrature.adaptive_hermite import AdaptiveGaussHermite
from torch_mlcalc.quadrature.checks import Settings, refuse_endless
from torch_mlcalc.quadrature.cubature.adaptive import find_regions
from torch_mlcalc.quadrature.cubature.box import DETERMINISTIC
from torch_mlcalc.quadrature.cubature.cubature import FixedCubature, RandomRule
from torch_mlcalc.quadrature.cubature.found import MAX_EVALS, Found
from torch_mlcalc.quadrature.cubature.genz_malik import GenzMalik
from torch_mlcalc.quadrature.cubature.hermite import find_whitened, whole_space
from torch_mlcalc.quadrature.cubature.known import apply_known
from torch_mlcalc.quadrature.cubature.lattice import Lattice
from torch_mlcalc.quadrature.cubature.nodes import apply_nodes
from torch_mlcalc.quadrature.cubature.plan import NodesPlan
from torch_mlcalc.quadrature.cubature.problem import SolidProblem
from torch_mlcalc.quadrature.cubature.region_plan import RegionPlan
from torch_mlcalc.quadrature.cubature.sampler import Sampler
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, GAUSSIAN
from torch_mlcalc.quadrature.cubature.unimodal import find_unimodal
from torch_mlcalc.quadrature.cubature.whitened import WhitenedPlan
from torch_mlcalc.quadrature.estimate import Estimate, Tolerance, report
from torch_mlcalc.quadrature.host import dual_level, transforming, write
from torch_mlcalc.quadrature.integrand import as_result
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import FixedRule, Rule

#: Relative error wanted by default in many dimensions, where a lattice of 2^20 points
#: and 16 shifts, if the integrand is smooth, reaches about 1e-5.
LATTICE_RTOL = 1e-4

#: In so many dimensions modes are looked for first, in fewer where tensor rules on the
#: whole cube do not do: these take 4 to 20 ms for two or three independent variables,
#: but for four correlated ones 105,000 points, and miss 1e-8.
MODES_FIRST = 4


def refuse_reversed(problem: SolidProblem) -> None:
    """Refuse a negative integral where its log is asked for."""
    problem.domain.refuse_reversed()


def apply_rule(
    problem: SolidProblem, rule: Rule, settings: Settings, *, log: bool
) -> Tensor:
    """A fixed rule or a plan, with ordinary autograd."""
    integrand, domain, splits = problem[:3]
    memory = settings.memory
    split = any(s is not None for s in splits)
    if isinstance(rule, Plan):
        _refuse_other_batch(rule, problem)
    elif isinstance(rule, FixedCubature):
        if log:
            rule.refuse_log()
        pieces = math.prod([count + 1 for count in problem.counts])
        refuse_endless(rule, rule.count(domain.dimension) * pieces, settings.max_evals)
    else:
        raise TypeError(_not_solid(rule))
    if not split and memory is None:
        value = apply_known(rule, domain, integrand, log=log)
        if value is not None:
            return value
    if isinstance(rule, Plan):
        return _apply_plan(problem, rule, memory, log=log)
    chart = domain.chart(integrand)
    nodes = rule.nodes_between(chart, splits) if split else rule.nodes(chart)
    return apply_nodes(nodes, chart, integrand, log=log, memory=memory)


def _apply_plan(
    problem: SolidProblem, plan: Plan, memory: int | None, *, log: bool
) -> Tensor:
    integrand, domain, splits = problem[:3]
    split = any(s is not None for s in splits)
    if isinstance(plan, RegionPlan) and plan.tails is not None:
        chart = domain.chart(integrand, plan.tails)
        return plan.apply(integrand, chart, splits, log=log, memory=memory)
    if isinstance(plan, WhitenedPlan):
        if split or (whole := whole_space(problem, look=False)) is None:
            raise ValueError(
                "the plan was made for all of space; pass a Box without limits and no "
                "breakpoints, as it was passed to adapt."
            )
        return plan.apply(integrand, whole, log=log, memory=memory)
    assert isinstance(plan, NodesPlan)  # noqa: S101
    if split:
        raise ValueError(_no_breakpoints(plan))
    chart = domain.chart(integrand, plan.tails)
    return apply_nodes(plan.nodes, chart, integrand, log=log, memory=memory)


def _no_breakpoints(rule: Rule) -> str:
    return (
        f"breakpoints have no effect with {rule}, whose nodes are random; leave them "
        "out, or use a Product or no rule."
    )


def _not_solid(rule: Rule) -> str:
    if isinstance(rule, FixedRule):
        return (
            f"{rule} is a rule for one dimension; on a domain of several, use it on "
            f"every axis by Product({rule}), or leave out the rule."
        )
    return f"{rule} is not a rule for several dimensions; leave out the rule."


def _refuse_other_batch(plan: Plan, problem: SolidProblem) -> None:
    if not isinstance(plan, (RegionPlan, WhitenedPlan, NodesPlan)):
        raise TypeError(_not_solid(plan))
    batch = problem.integrand.batch_shape
    if plan.batch_shape != batch:
        raise ValueError(
            f"the plan was made for integrals of shape {plan.batch_shape}, the "
            f"limits and args now have shape {batch}; make a new one with adapt, or "
            "pass limits and args of the old shape."
        )
    if isinstance(plan, RegionPlan) and len(plan.breakpoints) != len(problem.counts):
        raise ValueError(
            f"the plan was made in {len(plan.breakpoints)} dimensions, the domain has "
            f"{len(problem.counts)}; make a new one with adapt."
        )
    if isinstance(plan, RegionPlan) and plan.breakpoints != problem.counts:
        raise ValueError(
            f"the plan was made with {plan.breakpoints} breakpoints on the axes, got "
            f"{problem.counts}; pass breakpoints= as it was passed to adapt."
        )


def find(
    problem: SolidProblem, rule: Rule | None, settings: Settings, *, log: bool
) -> Found:
    """Search for the nodes that the integrals need, and report on it."""
    if rule is None and problem.domain.dimension > DETERMINISTIC:
        rule, settings = _many_dimensions(problem, settings)
    if 0 in problem.integrand.batch_shape and isinstance(rule, RandomRule):
        rule = None
    if isinstance(rule, RandomRule):
        found, detail = _find_random(problem, rule, settings, log=log)
    elif isinstance(rule, AdaptiveGaussHermite):
        found, detail = find_whitened(problem, rule, settings, log=log)
    elif rule is None or isinstance(rule, GenzMalik):
        found, detail = _find_regions(problem, rule, settings, log=log)
    else:
        raise TypeError(_not_solid(rule))
    report(found.status, detail, settings.on_failure, stacklevel=4)
    return found


def _find_regions(
    problem: SolidProblem, rule: Rule | None, settings: Settings, *, log: bool
) -> tuple[Found, str]:
    if not log or rule is not None:
        return find_regions(problem, rule, settings, log=log)
    grad = torch.is_grad_enabled()
    around = partial(find_unimodal, problem, settings, grad=grad)
    if problem.domain.dimension < MODES_FIRST:
        return find_regions(problem, rule, settings, log=log, instead=around)
    found, spent = around(0)
    if found is not None:
        return found, ""
    return find_regions(problem, rule, settings, log=log, spent=spent)


def _many_dimensions(
    problem: SolidProblem, settings: Settings
) -> tuple[RandomRule, Settings]:
    """A lattice, to the tolerance that other rules keep by default."""
    tails = GAUSSIAN if problem.domain.chart(problem.integrand).unbounded else ALGEBRAIC
    if settings.rtol is None and settings.atol is None:
        tolerance = Tolerance.of(None, None, problem.integrand.dtype)
        settings = settings._replace(rtol=max(tolerance.rtol, LATTICE_RTOL))
    return Lattice(tails=tails), settings


def _find_random(
    problem: SolidProblem, rule: RandomRule, settings: Settings, *, log: bool
) -> tuple[Found, str]:
    integrand, domain, splits = problem[:3]
    if any(s is not None for s in splits):
        raise ValueError(_no_breakpoints(rule))
    asked = Tolerance.of(settings.rtol, settings.atol, integrand.dtype)
    free = settings.rtol is None and settings.atol is None
    sampler = Sampler(
        integrand,
        domain.chart(integrand, rule.tails),
        log,
        None if free else asked,
        settings.max_evals or MAX_EVALS,
        settings.memory,
        settings.generator,
    )
    outcome = rule.run(sampler)

    def freeze(error: Tensor, status: Tensor, n_evals: Tensor) -> Plan:
        batch = integrand.batch_shape
        return NodesPlan(outcome.nodes, rule.tails, batch, error, status, n_evals)

    results = outcome.value, outcome.error, outcome.status, outcome.n_evals
    found = Found(problem, settings, log, sampler, *results, freeze)
    return found, outcome.detail


def value_of(found: Found, plan: Plan | None = None) -> Tensor:
    """The integrals: by a plan if a gradient is wanted, else as they were added up."""
    empty = 0 in found.problem.integrand.batch_shape
    if not (empty or _wants_gradient(found)):
        return _total(found)
    if found.formula is not None and not empty:
        return found.formula()
    return apply_rule(
        found.problem, plan or plan_of(found), found.settings, log=found.log
    )


def estimate_of(found: Found) -> Estimate:
    """Value, error, status and plan of what was found."""
    plan = plan_of(found)
    value = value_of(found, plan)
    return Estimate(value, plan.error, plan.status, plan.n_evals, plan)


def plan_of(found: Found) -> Plan:
    """What was found as tensors, mapped as the search was."""
    batch, events = found.problem.integrand.batch_shape, found.probe.event_shape

    def tensor(array: npt.NDArray[Any], shape: tuple[int, ...]) -> Tensor:
        array = array.reshape((*found.probe.lead, *shape))
        with torch.inference_mode(False):
            return write(array.copy(), found.probe.mark, found.problem.integrand.device)

    return found.freeze(
        tensor(found.error, (*batch, *events)),
        tensor(found.status.astype(np.int64), batch),
        tensor(found.n_evals.astype(np.int64), batch),
    )


def _wants_gradient(found: Found) -> bool:
    if transforming() or dual_level():
        return True
    moving = any(t.requires_grad for t in found.problem.tensors)
    return torch.is_grad_enabled() and (moving or found.probe.requires_grad)


def _total(found: Found) -> Tensor:
    """The value that the search added up, which needs no second evaluation."""
    integrand, probe = found.problem.integrand, found.probe
    shape = (*integrand.batch_shape, *probe.event_shape)
    assert found.value.size == math.prod(shape)  # noqa: S101
    tensor = torch.as_tensor(found.value.reshape(shape), device=integrand.device)
    return as_result(tensor.to(probe.dtype), integrand)
