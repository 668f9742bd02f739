"""What an integral goes through, on a line or in several dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from torch_mlcalc.quadrature import checks
from torch_mlcalc.quadrature.adaptive import estimate_of, find, freeze, value_of
from torch_mlcalc.quadrature.apply import apply_rule
from torch_mlcalc.quadrature.checks import Settings
from torch_mlcalc.quadrature.cubature import engine as cubature
from torch_mlcalc.quadrature.cubature import line
from torch_mlcalc.quadrature.cubature import problem as solid
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.estimate import Estimate
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.problem import pose
from torch_mlcalc.quadrature.rules import Rule
from torch_mlcalc.quadrature.sharding import Ranks


class Engine(NamedTuple):
    """The steps of a call, one after the other."""

    pose: Callable[..., Any]
    refuse_reversed: Callable[[Any], None]
    apply_rule: Callable[..., Tensor]
    find: Callable[..., Any]
    value_of: Callable[[Any], Tensor]
    estimate_of: Callable[[Any], Estimate]
    plan_of: Callable[[Any], Plan]


_LINE = Engine(
    pose, checks.refuse_reversed, apply_rule, find, value_of, estimate_of, freeze
)
_SOLID = Engine(
    solid.pose,
    cubature.refuse_reversed,
    cubature.apply_rule,
    cubature.find,
    cubature.value_of,
    cubature.estimate_of,
    cubature.plan_of,
)
#: A rule for any dimension on a line.
_AXIS = _SOLID._replace(pose=line.pose)


def engine_of(domain: Domain, rule: Rule | None) -> Engine:
    """That of a domain, and of a rule that may know of no line."""
    # Their classes are abstract, and to ask what they are takes ten times as long.
    if domain.solid:
        return _SOLID
    return _AXIS if rule is not None and rule.cubic else _LINE


def shared(
    problem: Any,  # noqa: ANN401
    ranks: Ranks | None,
    domain: Domain,
    rule: Rule | None,
    settings: Settings,
    *,
    log: bool,
) -> Any:  # noqa: ANN401
    """The problem as one in log form, and that several processes work on."""
    if log:
        problem = problem._replace(integrand=problem.integrand._replace(log=True))
    if ranks is None:
        return problem
    if settings.grad_rtol is not None:
        raise ValueError(
            "grad_rtol looks at the gradient, of which each rank of process_group has "
            "a part; make a plan by adapt(..., grad_rtol=...) on every rank alone, and "
            "pass the plan as the rule with process_group."
        )
    integrand = problem.integrand
    alike = settings._replace(memory=None, generator=None)._asdict().items()
    words = [
        [type(domain).__name__, *vars(domain).values()],
        f"rule {rule}, log={log}, batch_shape={integrand.batch_shape}",
        *(f"{name}={value}" for name, value in alike if value is not None),
    ]
    tensors = [t for t in integrand.args if isinstance(t, Tensor)] + problem.tensors
    ranks.describe(words, tensors, integrand.dtype)
    return problem._replace(integrand=integrand._replace(ranks=ranks))
