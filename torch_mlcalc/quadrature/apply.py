"""Applying rules whose nodes are known: a fixed rule, or a plan."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from torch_mlcalc.quadrature.checks import Settings, refuse_endless
from torch_mlcalc.quadrature.contract import LinearSum, LogSum, together
from torch_mlcalc.quadrature.domains import Extent
from torch_mlcalc.quadrature.fixed import apply_fixed
from torch_mlcalc.quadrature.integrand import Integrand, as_result
from torch_mlcalc.quadrature.line_plan import LinePlan
from torch_mlcalc.quadrature.problem import Problem, full, per_element
from torch_mlcalc.quadrature.rules import FixedRule, Rule, TabulatedRule


def apply_rule(
    problem: Problem, rule: Rule, settings: Settings, *, log: bool
) -> Tensor:
    """A fixed rule, on every piece between breakpoints, or a plan."""
    integrand, extent, breakpoints = problem
    memory = settings.memory
    if not isinstance(rule, FixedRule):
        if not isinstance(rule, LinePlan):
            raise TypeError(
                f"{rule} was made in several dimensions; make one with adapt on the "
                "domain that it is for."
            )
        return rule.apply(extent, integrand, breakpoints, log=log, memory=memory)
    pieces = 1 if breakpoints is None else len(breakpoints) + 1
    refuse_endless(rule, rule.n * pieces, settings.max_evals)
    if log and isinstance(rule, TabulatedRule) and min(rule.weights) < 0:
        raise ValueError(
            f"{rule} has negative weights, of which there is no log; use integrate, "
            "or a rule with positive weights such as GaussLegendre."
        )
    add = LogSum() if log else LinearSum()
    if breakpoints is None:
        total = apply_fixed(rule, extent, integrand, add, memory)
    else:
        places = _between(extent, breakpoints, integrand)
        values = [apply_fixed(rule, place, integrand, add, memory) for place in places]
        total = reduce(add.join, values)
    return as_result(together(total, add, integrand.ranks), integrand)


def _between(extent: Extent, breakpoints: Tensor, integrand: Integrand) -> list[Extent]:
    lower, upper = (full(limit, integrand) for limit in extent[:2])
    low, high = torch.minimum(lower, upper), torch.maximum(lower, upper)
    inner = per_element(breakpoints, integrand)
    inner = torch.minimum(torch.maximum(inner, low), high).sort(0).values
    inner = torch.where(lower <= upper, inner, inner.flip(0))
    edges = [lower, *inner, upper]
    return [
        Extent(a, b, extent.loc, extent.scale)
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]
