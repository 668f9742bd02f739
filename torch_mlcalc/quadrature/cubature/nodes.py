"""Fixed sets of nodes, made and summed block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import (
    Block,
    LinearSum,
    LogSum,
    accumulator,
    block_of,
    sum_blocks,
    together,
)
from torch_mlcalc.quadrature.cubature.chart import Chart, Placed
from torch_mlcalc.quadrature.integrand import Integrand, as_result

N = TypeVar("N", bound="Nodes")


class Nodes(ABC):
    """Nodes and weights for one integral, or for each of a batch.

    A concrete class is a frozen dataclass of tensors and plain values, which are what a
    plan moves and saves. The same nodes come in every call.

    Attributes:
        n: How many.
    """

    n: int

    _families: ClassVar[dict[str, type[Nodes]]] = {}

    def __init_subclass__(cls) -> None:  # noqa: D105
        Nodes._families[cls.__name__] = cls

    @abstractmethod
    def block(self, start: int, stop: int, chart: Chart, *, log: bool) -> Placed:
        """Points and weights ``start`` to ``stop``; the logs of weights if ``log``.

        Weights are ``(n)`` or ``(n, *batch)``, and never None.
        """

    def to(self: N, device: torch.device | str) -> N:
        """The same nodes with their tensors on another device."""
        moved = {k: v.to(device) for k, v in self._tensors().items()}
        return replace(self, **moved) if moved else self  # type: ignore[type-var]

    def state(self) -> dict[str, Any]:
        """All there is to the nodes, in tensors and plain values."""
        names = [field.name for field in fields(self)]  # type: ignore[arg-type]
        return {"family": type(self).__name__, **{n: getattr(self, n) for n in names}}

    @staticmethod
    def from_state(state: dict[str, Any]) -> Nodes:
        """The nodes that :meth:`state` took apart."""
        parts = {name: value for name, value in state.items() if name != "family"}
        return Nodes._families[state["family"]](**parts)

    def _tensors(self) -> dict[str, Tensor]:
        every = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {k: v for k, v in every.items() if isinstance(v, Tensor)}


class UnitNodes(Nodes):
    """Nodes in the unit cube, placed by the chart.

    Attributes:
        dimension: Dimension of the cube.
    """

    dimension: int

    @abstractmethod
    def unit(
        self, start: int, stop: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Nodes and weights ``start`` to ``stop``.

        Args:
            start: The first.
            stop: One after the last.
            dtype: In which dtype; nodes are strictly inside of the cube in it.
            device: Where.

        Returns:
            Nodes ``(n, d)`` or ``(n, *batch, d)`` and weights ``(n)`` or
            ``(n, *batch)``. All ``n`` weights sum to 1.
        """

    def block(self, start: int, stop: int, chart: Chart, *, log: bool) -> Placed:
        """Points and weights ``start`` to ``stop``; the logs of weights if ``log``."""
        u, weights = self.unit(start, stop, chart.dtype, chart.device)
        return weighted(chart(u, log=log), weights, log=log)


def weighted(placed: Placed, weights: Tensor, *, log: bool) -> Placed:
    """Placed nodes with their weights multiplied into the density."""
    if log:
        weights = LogSum().weigh(weights)
    if placed.density is None:
        return Placed(placed.points, weights)
    density = placed.density
    weights = weights.reshape(weights.shape + (1,) * (density.ndim - weights.ndim))
    return Placed(placed.points, weights + density if log else weights * density)


def _part(
    nodes: Nodes,
    chart: Chart,
    integrand: Integrand,
    add: LinearSum | LogSum,
    start: int,
    stop: int,
) -> Tensor:
    log = isinstance(add, LogSum)
    points, weights = nodes.block(start, stop, chart, log=log)
    assert weights is not None  # noqa: S101
    weights = weights.to(accumulator(integrand.dtype))
    return add(weights, weights, integrand(points.to(integrand.dtype)))


def apply_nodes(
    nodes: Nodes,
    chart: Chart,
    integrand: Integrand,
    *,
    log: bool,
    memory: int | None,
) -> Tensor:
    """The integral, or its log, with ordinary autograd and memory of one block."""
    add = LogSum() if log else LinearSum()
    part = partial(_part, nodes, chart, integrand, add)
    block = block_of_nodes(nodes.n, integrand, memory)
    ranks = integrand.ranks
    total = sum_blocks(part, nodes.n, block, add, ranks=ranks)
    total = together(total, add, ranks)
    return as_result(chart.scale(total, log=log), integrand)


def block_of_nodes(n: int, integrand: Integrand, memory: int | None) -> Block:
    """How many nodes of the whole batch go into one block."""
    bytes_each = integrand.dtype.itemsize * integrand.coordinates
    for count in integrand.batch_shape:
        bytes_each *= count
    whole = torch.compiler.is_compiling()
    return block_of(n, bytes_each, memory, integrand.device, whole=whole)
