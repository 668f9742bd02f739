r"""Nodes that serve the gradient too: a search for the integral and its slope at once.

Nodes that are good for the value can be bad for its gradient, which is the integral of
another function. That function has as many components as there are parameters; one of
them is looked at, in the direction :math:`u` of the gradient itself:

.. math:: s(x) = \left\langle u, \frac{\partial f(x)}{\partial \theta} \right\rangle,
    \qquad \int s(x)\,dx = \left\langle u, \frac{\partial I}{\partial \theta}
    \right\rangle

It is another component of the integrand, with a tolerance of its own, so that the
embedded pair of every rule measures it and its cells are split where it needs that. The
direction comes from the plan before; when a new plan turns it, the search is repeated.
The result is a plan like any other: its gradient is plain autograd, to any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from torch_mlcalc.quadrature.checks import Settings, refuse_random
from torch_mlcalc.quadrature.estimate import Estimate, Status, report
from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.one_pass import clock
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import Rule

#: Searches at most. The direction of the first is that of a gradient that can be wrong
#: by half; over the test problems none took more than three to settle.
ROUNDS = 4


class Engine(Protocol):
    """The part of an engine that a search for slopes needs."""

    @property
    def find(self) -> Callable[..., Any]:
        """Searches for nodes."""

    @property
    def apply_rule(self) -> Callable[..., Tensor]:
        """Applies a plan."""

    @property
    def plan_of(self) -> Callable[[Any], Plan]:
        """The plan that was found."""

    @property
    def estimate_of(self) -> Callable[[Any], Estimate]:
        """The integral that was found."""


class Posed(Protocol):
    """A problem of either engine: a named tuple with an integrand."""

    @property
    def integrand(self) -> Integrand:
        """The function with its args."""

    def _replace(self, **fields: object) -> Posed:
        """The same problem with another integrand."""


class Direction(NamedTuple):
    """A direction in the space of all that the integrand depends on."""

    edges: tuple[GradientEdge, ...]
    parts: tuple[Tensor, ...]

    def along(self, edge: GradientEdge, like: Tensor) -> Tensor:
        """The part for one edge; 0 for one that the integral did not depend on."""
        for known, part in zip(self.edges, self.parts, strict=True):
            if known.node is edge.node and known.output_nr == edge.output_nr:
                return part
        return torch.zeros_like(like)

    def length(self) -> float:
        """Its Euclidean length."""
        return math.sqrt(sum(float(p.abs().square().sum()) for p in self.parts))

    def apart(self, other: Direction) -> float:
        """The distance to another one."""
        return math.sqrt(
            sum(
                float((part - self.along(edge, part)).abs().square().sum())
                for edge, part in zip(other.edges, other.parts, strict=True)
            )
        )


def search(
    engine: Engine,
    problem: Posed,
    rule: Rule | None,
    settings: Settings,
    *,
    log: bool,  # noqa: ANN401
) -> Estimate:
    """Find nodes that are right for the integral and for its gradient.

    Args:
        engine: What searches, on a line or in several dimensions.
        problem: What to integrate.
        rule: How.
        settings: What the caller asked for, ``grad_rtol`` among it.
        log: Whether the integrand returns logs.

    Returns:
        The integral; its error is that of the value, its status that of both.

    Raises:
        ValueError: If a gradient cannot be looked at here.
    """
    refuse_here(rule)
    began = clock()
    quiet = settings._replace(on_failure="ignore")
    alone = quiet._replace(grad_rtol=None)
    estimate = engine.estimate_of(engine.find(problem, rule, alone, log=log))
    if torch.is_grad_enabled() and estimate.value.requires_grad:
        estimate = _settled(engine, problem, rule, quiet, estimate, began, log=log)
    report(estimate.status.cpu().numpy(), _DETAIL, settings.on_failure, stacklevel=4)
    return estimate


_DETAIL = (
    " With grad_rtol, the slope of the integrand in the direction of the gradient "
    "must converge as well."
)


def _settled(
    engine: Engine,
    problem: Posed,
    rule: Rule | None,
    settings: Settings,
    estimate: Estimate,
    began: int,
    *,
    log: bool,
) -> Estimate:
    """Search with the slope in the direction of the gradient, until that settles."""
    if estimate.value.is_complex():
        raise ValueError(
            "grad_rtol needs a real integrand, this one is complex; integrate its real "
            "and imaginary parts."
        )
    n_evals, way = estimate.n_evals, _direction(estimate.value, began)
    longest = way.length()
    for _ in range(ROUNDS):
        joint = _with_slopes(problem, estimate.value, way, began, log=log)
        found = engine.find(joint, rule, settings, log=False)
        plan = engine.plan_of(found)
        n_evals = n_evals + plan.n_evals
        plan = replace(plan, error=plan.error[..., 0], n_evals=n_evals)  # type: ignore[type-var]
        value = engine.apply_rule(problem, plan, settings, log=log)
        estimate = Estimate(value, plan.error, plan.status, n_evals, plan)
        before, way = way, _direction(value, began)
        longest = max(longest, way.length())
        if before.apart(way) <= (settings.grad_rtol or 0.0) * longest:
            return estimate
    # As for a slope so narrow that a node only meets it by chance.
    missed = plan.status.clamp(min=int(Status.TOLERANCE_NOT_REACHED))
    plan = replace(plan, status=missed)  # type: ignore[type-var]
    return estimate._replace(status=missed, plan=plan)


def refuse_here(rule: Rule | None) -> None:
    """Refuse transforms, which hide the graph, and rules without an embedded pair."""
    if rule is not None:
        refuse_random(rule)
    if transforming() or dual_level() or torch.compiler.is_compiling():
        raise ValueError(
            "grad_rtol looks at the graph of the integrand, which torch.func, forward "
            "mode and torch.compile do not show; make a plan with adapt(..., "
            "grad_rtol=...) outside, and pass it as the rule."
        )


def _direction(value: Tensor, began: int) -> Direction:
    """The gradient of the sum of all integrals, by all that they depend on."""
    total = value.sum()
    edges = _edges_behind(total, began)
    parts = torch.autograd.grad(total, edges, retain_graph=True, allow_unused=True)
    kept = [(e, p.detach()) for e, p in zip(edges, parts, strict=True) if p is not None]
    return Direction(tuple(e for e, _ in kept), tuple(p for _, p in kept))


def length_of(total: Tensor) -> float:
    """Length of the gradient of a number by all that it depends on."""
    if not total.requires_grad:
        return 0.0
    return _direction(total, 0).length()


def _edges_behind(total: Tensor, began: int) -> tuple[GradientEdge, ...]:
    """Where a graph made since ``began`` meets leaves and what was there before."""
    found: dict[tuple[Any, int], GradientEdge] = {}
    seen, ends = set(), [(total.grad_fn, total.output_nr)]
    while ends:
        node, number = ends.pop()
        if node is None:
            continue
        if hasattr(node, "variable") or node._sequence_nr() <= began:
            found[node, number] = GradientEdge(node, number)
        elif node not in seen:
            seen.add(node)
            ends.extend(node.next_functions)
    return tuple(found.values())


def _with_slopes(
    problem: Posed,
    value: Tensor,
    way: Direction,
    began: int,
    *,
    log: bool,  # noqa: ANN401
) -> Posed:
    """The problem whose integrand also returns its slope, in a last dimension."""
    integrand, value = problem.integrand, value.detach()
    function, args, batch = integrand.function, integrand.args, integrand.batch_shape
    # A search takes the rows of args that it needs without recording that. Here it
    # takes their numbers, and the rows are taken where a gradient is recorded.
    by_row = any(isinstance(a, Tensor) and a.ndim for a in args)

    def joint(points: Tensor, *given: Any) -> Tensor:  # noqa: ANN401
        own, offset = args, value
        with torch.enable_grad():
            if by_row:
                own = tuple(integrand.rows(a, given[0]) for a in args)
                offset = integrand.rows(value, given[0])
            values = function(points, *own)
            slopes = _slopes(values, way, began)
        if log:
            # The log form has no negative numbers; relative to the integral, it is
            # an ordinary density.
            density = torch.exp(values - offset)
            values, slopes = density, density * slopes
        return torch.stack([values, slopes], -1).detach()

    if by_row:
        args_of_search: tuple[Any, ...] = (
            torch.arange(math.prod(batch), device=integrand.device).reshape(batch),
        )
    else:
        args_of_search = args
    return problem._replace(
        integrand=integrand._replace(function=joint, args=args_of_search)
    )


def _slopes(values: Tensor, way: Direction, began: int) -> Tensor:
    """Derivative of each value in a direction, by differentiating twice."""
    if not values.requires_grad:
        return torch.zeros_like(values)
    cotangent = torch.ones_like(values).requires_grad_()
    edges = _edges_behind(values.sum(), began)
    parts = torch.autograd.grad(
        (cotangent * values).sum(), edges, create_graph=True, allow_unused=True
    )
    along = [
        (part * way.along(edge, part)).sum()
        for edge, part in zip(edges, parts, strict=True)
        if part is not None and part.requires_grad
    ]
    if not along:
        return torch.zeros_like(values)
    total: Sequence[Tensor] = torch.autograd.grad(sum(along), cotangent)  # type: ignore[arg-type]
    return total[0]
