"""What rules in several dimensions are."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy.typing as npt
from torch import Tensor

from torch_mlcalc.quadrature.cubature.chart import Chart
from torch_mlcalc.quadrature.cubature.nodes import Nodes
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, Tails
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.rules import Array, Rule

if TYPE_CHECKING:
    from torch_mlcalc.quadrature.cubature.sampler import Sampler

#: Breakpoints of each axis, ``(k)`` or ``(k, *batch)``.
Splits = Sequence[Tensor | None]


class FixedCubature(Rule):
    """A rule whose nodes are known without looking at the integrand."""

    fixed = True
    cubic = True

    @abstractmethod
    def nodes(self, chart: Chart) -> Nodes:
        """The nodes for a domain.

        Raises:
            ValueError: If the rule does not fit the domain.
        """

    def nodes_between(self, chart: Chart, splits: Splits) -> Nodes:
        """The nodes for a domain that is split at breakpoints.

        Raises:
            ValueError: If the rule does not fit the domain, or cannot be split.
        """
        raise ValueError(
            f"breakpoints have no effect with {self}; leave them out, or use a Product "
            "or no rule."
        )

    def refuse_log(self) -> None:  # noqa: B027
        """Refuse the log form if there are negative weights."""

    @abstractmethod
    def count(self, dimension: int) -> int:
        """How many nodes there are in so many dimensions, without making them."""


class Outcome(NamedTuple):
    """What a random rule found.

    Attributes:
        nodes: All nodes that ``value`` is the weighted sum of; they become the plan.
        value: The integrals, or their logs, ``(elements, events)``.
        error: Error of each at the confidence that the rule states, likewise; in the
            log form that of the log.
        status: A :class:`Status` for each integral, ``(elements)``.
        n_evals: Points evaluated for each integral, ``(elements)``.
        detail: A sentence for the warning, with a space in front, or nothing.
    """

    nodes: Nodes
    value: Values
    error: Array
    status: npt.NDArray[Any]
    n_evals: npt.NDArray[Any]
    detail: str = ""


class RandomRule(Rule):
    """A rule with random nodes, whose error is estimated from replicates.

    ``generator=`` seeds it, through :meth:`Sampler.seed`; without, the seed is fixed,
    so that the same call gives the same bits. If neither ``rtol`` nor ``atol`` is
    given, ``sampler.tolerance`` is None: the rule runs once at the size that it states
    and every finite result has converged.

    Attributes:
        tails: How it wants infinite axes to be stretched.
    """

    random = True
    cubic = True
    tails: Tails = ALGEBRAIC

    @abstractmethod
    def run(self, sampler: Sampler) -> Outcome:
        """Integrate by as many nodes as the tolerance and the budget say."""
