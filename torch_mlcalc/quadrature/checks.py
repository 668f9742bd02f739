"""Refusing bad calls before any work, and the settings that all calls share."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.box import DETERMINISTIC, Solid
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.host import readable
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.problem import Problem
from torch_mlcalc.quadrature.rules import Rule, check_count

#: What can be done about integrals that did not converge.
FAILURES = ("warn", "raise", "ignore")

#: Nodes of a fixed rule that are evaluated without being asked for by max_evals=. On
#: one core they take 15 seconds for a cheap function of one coordinate and a minute for
#: the sum of three, in which nothing is said.
MOST_NODES = 10**9


class Settings(NamedTuple):
    """What the caller asked for besides the integral; see :func:`integrate`."""

    rtol: float | None
    atol: float | None
    max_evals: int | None
    memory: int | None
    on_failure: str
    generator: torch.Generator | None = None
    grad_rtol: float | None = None


def check_settings(rule: object, settings: Settings) -> Rule | None:
    """Refuse what is not a rule or a setting; return the rule."""
    if isinstance(rule, type) and issubclass(rule, Rule):
        raise TypeError(
            f"rule is the class {rule.__name__}; make one of it, {rule.__name__}(...)."
        )
    if rule is not None and not isinstance(rule, Rule):
        raise TypeError(
            f"rule is a {type(rule).__name__}; a rule object is wanted, for example "
            "GaussLegendre(32), or None to have one chosen."
        )
    if settings.on_failure not in FAILURES:
        raise ValueError(
            f"on_failure is {settings.on_failure!r}; "
            "'warn', 'raise' or 'ignore' is wanted."
        )
    if settings.max_evals is not None:
        check_count("max_evals", settings.max_evals, 1)
    if settings.memory is not None:
        check_count("memory", settings.memory, 1)
    return rule


def check(
    function: Function,
    domain: object,
    rule: object,
    settings: Settings,
    progress: bool,
    *,
    audit: bool = False,
) -> AbstractContextManager[Function]:
    """Refuse what is not a domain, a rule or a setting; count points for a bar."""
    if not isinstance(domain, Domain):
        raise TypeError(
            f"domain is a {type(domain).__name__}; a domain is wanted, for example "
            "Interval(0, 1), RealLine() or Box(0, 1, dimension=3)."
        )
    known = check_settings(rule, settings)
    if settings.generator is not None:
        # Without a rule, a random one is chosen in many dimensions; an audit is random.
        many = isinstance(domain, Solid) and domain.dimension > DETERMINISTIC
        chosen = known is None and many
        check_generator(settings.generator, known, otherwise=audit or chosen)
    if not progress:
        return nullcontext(function)
    return Counted(function, domain.coordinates if isinstance(domain, Solid) else 1)


def check_generator(generator: object, rule: Rule | None, *, otherwise: bool) -> None:
    """Refuse what would seed nothing, unless something else than the rule is random."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator is a {type(generator).__name__}; a torch.Generator is wanted."
        )
    if not (otherwise or (rule is not None and rule.random)):
        raise ValueError(
            f"generator has no effect with {rule or 'the rule chosen here'}, which is "
            "not random; leave it out, or use a random rule such as Lattice()."
        )


class Counted(AbstractContextManager[Function]):
    """A function that shows on a bar how many points it got, and what came of it."""

    def __init__(self, function: Function, coordinates: int) -> None:
        """Show the bar."""
        try:
            from tqdm import tqdm
        except ImportError:
            raise ImportError(
                "progress=True shows a bar by tqdm, which is not installed: "
                "pip install 'torch_mlcalc[examples]'"
            ) from None
        self._function = function
        self._coordinates = coordinates
        self._bar = tqdm(unit=" points", unit_scale=True)

    def __call__(self, points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        """Count, and call the function."""
        self._bar.update(points.numel() // self._coordinates)
        self._bar.refresh()
        return self._function(points, *args)

    def __enter__(self) -> Function:
        """The function itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the bar now: left to the collector, it writes in a later call."""
        self._bar.close()

    def show(self, estimate: str) -> None:
        """Write the running estimate behind the bar."""
        self._bar.set_postfix_str(estimate)


def refuse_tolerance(rule: Rule, settings: Settings) -> None:
    """Refuse a tolerance that a fixed rule could not keep."""
    asked = (settings.rtol, settings.atol, settings.grad_rtol)
    if any(tolerance is not None for tolerance in asked):
        raise ValueError(
            f"rtol, atol and grad_rtol have no effect with {rule}, whose nodes are "
            "fixed; leave them out, or use an adaptive rule such as GaussKronrod(), or "
            "none."
        )


def refuse_endless(rule: Rule, count: int, max_evals: int | None) -> None:
    """Refuse more nodes than the caller allows, or than will have been meant."""
    if max_evals is not None and count > max_evals:
        raise ValueError(
            f"{rule} needs {count} evaluations, max_evals is {max_evals}; raise it, or "
            "use fewer nodes."
        )
    if max_evals is None and count > MOST_NODES:
        raise ValueError(
            f"{rule} needs {count} evaluations here, which takes minutes if it ever "
            "ends; use fewer nodes, an adaptive rule, or no rule. To have more than "
            f"{MOST_NODES} nodes all the same, pass max_evals={count}."
        )


def refuse_random(rule: Rule) -> None:
    """Refuse a rule without an embedded pair where the gradient is looked at."""
    if rule.random:
        raise ValueError(
            f"grad_rtol has no effect with {rule}, whose nodes are random; leave it "
            "out, or use an adaptive rule."
        )


def refuse_fixed(rule: Rule | None) -> None:
    """Refuse a rule without an error estimate where one is asked for."""
    if rule is not None and rule.fixed:
        raise ValueError(
            f"{rule} has no error estimate, as its nodes are fixed; use an adaptive "
            "rule such as GaussKronrod(), or none, or call integrate."
        )


def refuse_reversed(problem: Problem) -> None:
    """Refuse a negative integral where its log is asked for."""
    lower, upper = problem.extent.lower, problem.extent.upper
    reversed_ = lower > upper
    if isinstance(reversed_, Tensor):
        # On a GPU and in vmap reading this would stall or fail; the result is nan.
        reversed_ = readable(reversed_) and bool(reversed_.any())
    if reversed_:
        raise ValueError(
            f"the log of an integral needs lower <= upper, got lower={lower}, "
            f"upper={upper}; swap them."
        )
