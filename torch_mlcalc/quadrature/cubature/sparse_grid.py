"""Smolyak's sparse grids on nested Clenshaw-Curtis rules."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.chart import Chart
from torch_mlcalc.quadrature.cubature.cubature import FixedCubature
from torch_mlcalc.quadrature.cubature.nodes import UnitNodes
from torch_mlcalc.quadrature.host import readable
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import Array, ClenshawCurtis, check_count, table

Levels = tuple[int, ...]


@final
@dataclass(frozen=True)
class SparseGrid(FixedCubature):
    r"""Smolyak's construction on Clenshaw-Curtis rules with 1, 3, 5, 9, 17... nodes.

    .. math:: \sum_{a_1 \ell_1 + \dots + a_d \ell_d \le L}
        \Delta_{\ell_1} \otimes \dots \otimes \Delta_{\ell_d}, \qquad
        \Delta_\ell = Q_\ell - Q_{\ell - 1}

    For smooth integrands in moderately many dimensions: level ``L`` integrates
    polynomials of total degree ``2 L + 1`` exactly, with a number of nodes that grows
    like a power ``L`` of ``d``. Some weights are negative.

    Args:
        level: ``L``.
        weights: ``a``, at least 1 for each axis: how fast the level of an axis uses up
            ``L``, so that unimportant axes get fewer nodes. By default all are 1.

    Raises:
        TypeError: If ``level`` is not an integer, or a weight not a number.
        ValueError: If ``level`` is negative, or a weight less than 1 or not finite.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> cube = mlc.Box(0.0, 1.0, dimension=10)
        >>> mlc.integrate(lambda x: torch.exp(x.mean(-1)), cube, mlc.SparseGrid(3))
        tensor(1.6556)

    References:
        T. Gerstner, M. Griebel, "Numerical integration using sparse grids", Numerical
        Algorithms 18 (1998), https://doi.org/10.1023/A:1019129717644
    """

    level: int
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:  # noqa: D105
        check_count("level", self.level, 0)
        if self.weights is None:
            return
        weights = tuple(self.weights)
        for weight in weights:
            if isinstance(weight, bool) or not isinstance(weight, (int, float)):
                raise TypeError(
                    f"a weight is {weight!r} ({type(weight).__name__}); numbers are "
                    "wanted."
                )
            if not 1 <= weight < math.inf:
                raise ValueError(
                    f"a weight is {weight}; finite numbers of at least 1 are wanted."
                )
        object.__setattr__(self, "weights", weights)

    def count(self, dimension: int) -> int:
        """How many nodes there are, from the new ones of each level."""
        return _counted(self.level, tuple(self._weights(dimension)))

    def refuse_log(self) -> None:
        """Refuse it: there are negative weights at every level but 0."""
        if self.level:
            raise ValueError(
                f"{self} has negative weights, of which there is no log; use "
                "integrate, or a rule with positive weights such as "
                "Product(GaussLegendre(8))."
            )

    def nodes(self, chart: Chart) -> SparseNodes:
        """Nodes and weights in the cube."""
        kind = getattr(chart, "kind", None)
        if kind is not None and readable(kind) and (kind != FINITE).any():
            raise ValueError(
                f"{self} has nodes at the ends of the axes, which are infinite here; "
                "use Product(GaussLegendre(8)), or leave out the rule."
            )
        weights = self._weights(chart.dimension)
        nodes, node_weights = _tensors(self.level, tuple(weights), chart.device)
        return SparseNodes(chart.dimension, nodes, node_weights)

    def _weights(self, dimension: int) -> Sequence[float]:
        if self.weights is None:
            return (1,) * dimension
        if len(self.weights) != dimension:
            raise ValueError(
                f"{self} has {len(self.weights)} weights, the domain {dimension} axes; "
                "one for each is wanted."
            )
        return self.weights


@final
@dataclass(frozen=True, eq=False)
class SparseNodes(UnitNodes):
    """Nodes and weights of a sparse grid."""

    dimension: int
    nodes: Tensor
    weights: Tensor

    @property
    def n(self) -> int:  # type: ignore[override]
        """Number of nodes."""
        return len(self.nodes)

    def unit(
        self, start: int, stop: int, dtype: torch.dtype, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Nodes and weights ``start`` to ``stop``."""
        return self.nodes[start:stop].to(dtype), self.weights[start:stop].to(dtype)


@lru_cache(maxsize=32)
def _count(most: int, weights: tuple[float, ...]) -> int:
    counts: dict[float, int] = {0.0: 1}
    for weight in weights:
        longer: dict[float, int] = {}
        for spent, ways in counts.items():
            for level in range(_most(most - spent, weight) + 1):
                total = spent + weight * level
                longer[total] = longer.get(total, 0) + ways * _new(level)
        counts = longer
    return sum(counts.values())


def _counted(most: int, weights: tuple[float, ...]) -> int:
    return _count(most, weights)


# The compiler cannot trace tables; these make it ask once. See also host.py.
_counted._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _new(level: int) -> int:
    """Nodes that a level of one axis adds to those before."""
    return (1, 2)[level] if level < 2 else 2 ** (level - 1)


def _most(rest: float, weight: float) -> int:
    """Highest level of an axis; the last digits of a sum of weights do not count."""
    return math.floor(rest / weight + 1e-9)


def _indices(rest: float, weights: Sequence[float]) -> Iterator[Levels]:
    """All levels of the axes that the sum allows."""
    if not weights:
        yield ()
        return
    for level in range(_most(rest, weights[0]) + 1):
        for others in _indices(rest - weights[0] * level, weights[1:]):
            yield (level, *others)


@lru_cache(maxsize=32)
def _table(level: int, weights: tuple[float, ...]) -> tuple[Array, Array]:
    """Nodes on ``[0, 1]^d`` and weights, each node once."""
    total: dict[Levels, float] = {}
    for levels in _indices(level, weights):
        for node, weight in zip(*_differences(levels), strict=True):
            total[node] = total.get(node, 0.0) + weight
    places = _places(level)
    nodes = np.array([[places[i] for i in node] for node in total])
    return nodes, np.array(list(total.values()))


def _tensors(
    level: int, weights: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    # Never inference tensors, whatever mode the caller is in.
    with torch.inference_mode(False):
        nodes, node_weights = _table(level, weights)
        return (
            torch.tensor(nodes, device="cpu").to(device, non_blocking=True),
            torch.tensor(node_weights, device="cpu").to(device, non_blocking=True),
        )


_tensors._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _differences(levels: Levels) -> tuple[list[Levels], list[float]]:
    """Nodes of a product of differences of neighbouring rules, and their weights."""
    axes = [_difference(level) for level in levels]
    nodes = list(itertools.product(*(ids for ids, _ in axes)))
    weights = [math.prod(ws) for ws in itertools.product(*(w for _, w in axes))]
    return nodes, weights


@lru_cache(maxsize=32)
def _difference(level: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The nodes of a level, as numbers of the finest grid, and their weights."""
    ids, weights = _rule(level)
    total = dict(zip(ids, weights, strict=True))
    if level:
        for node, weight in zip(*_rule(level - 1), strict=True):
            total[node] -= weight
    return tuple(total), tuple(total.values())


#: Finest level that node numbers are made for; 2^20 nodes on one axis.
_FINEST = 20


def _rule(level: int) -> tuple[list[int], list[float]]:
    if level == 0:
        return [2 ** (_FINEST - 1)], [1.0]
    _, weights = table(ClenshawCurtis(2**level + 1))
    step = 2 ** (_FINEST - level)
    return [i * step for i in range(2**level + 1)], (weights / 2).tolist()


def _places(level: int) -> dict[int, float]:
    """Where the numbered nodes are on ``[0, 1]``."""
    places = {2 ** (_FINEST - 1): 0.5}
    if level:
        nodes, _ = table(ClenshawCurtis(2**level + 1))
        step = 2 ** (_FINEST - level)
        places |= {i * step: (1 + float(x)) / 2 for i, x in enumerate(nodes)}
    return places
