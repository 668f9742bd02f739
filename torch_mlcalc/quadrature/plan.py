"""Plans: what an adaptive rule found, frozen into a fixed rule."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.rules import Rule


class Plan(Rule):
    """A fixed rule with nodes of its own for every integral of a batch.

    It is what :func:`adapt` returns, and ``Estimate.plan``. Pass it as the rule to
    integrate the same or another integrand over the same or moved limits, without any
    search: the nodes keep their places relative to the limits and breakpoints.

    Attributes:
        batch_shape: Shape of the batch that it was made for.
        error: Error found by the search, ``(*batch, *event)``.
        status: :class:`Status` found by the search, ``(*batch)``.
        n_evals: Points evaluated by the search for each integral, ``(*batch)``.
    """

    fixed = True
    batch_shape: tuple[int, ...]
    error: Tensor
    status: Tensor
    n_evals: Tensor

    _families: ClassVar[dict[str, type[Plan]]] = {}

    def __init_subclass__(cls) -> None:  # noqa: D105
        Plan._families[cls.__name__] = cls

    @property
    @abstractmethod
    def n(self) -> int:
        """Largest number of nodes of an integral."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Plan:
        """The same plan on another device.

        Args:
            device: Where to.

        Returns:
            A plan with all its tensors there.
        """

    @abstractmethod
    def _parts(self) -> dict[str, Any]:
        """The fields, in tensors, plain values, lists and dicts of them."""

    @classmethod
    @abstractmethod
    def _from_parts(cls, parts: dict[str, Any]) -> Plan:
        """The plan with these fields."""

    def state(self) -> dict[str, Any]:
        """All there is to the plan, in tensors and plain values, for saving."""
        return {"family": type(self).__name__, **self._parts()}

    @staticmethod
    def from_state(state: dict[str, Any]) -> Plan:
        """The plan that :meth:`state` took apart.

        Args:
            state: What it returned.

        Returns:
            An equal plan.
        """
        parts = {name: value for name, value in state.items() if name != "family"}
        return Plan._families[state["family"]]._from_parts(parts)


def none_of(integrand: Integrand) -> Tensor:
    """The integrals of an empty batch, whose events have a shape all the same."""
    last = (integrand.coordinates,) if integrand.coordinates else ()
    shape = (1, *integrand.batch_shape, *last)
    points = torch.zeros(shape, dtype=integrand.dtype, device=integrand.device)
    values = integrand(points)
    return values[0].to(integrand.result_dtype(values))
