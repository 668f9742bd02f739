"""Tensor rules: a rule for one dimension on every axis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import LogSum
from torch_mlcalc.quadrature.cubature.chart import Chart, Placed
from torch_mlcalc.quadrature.cubature.cubature import FixedCubature, Splits
from torch_mlcalc.quadrature.cubature.nodes import Nodes
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, unfold
from torch_mlcalc.quadrature.fixed import _cached_table as cached_table
from torch_mlcalc.quadrature.host import readable
from torch_mlcalc.quadrature.placement import FINITE
from torch_mlcalc.quadrature.rules import FixedRule, TabulatedRule

#: Nodes of neighbouring axes that are tabulated together. Dividing an index costs 5 ns,
#: so that a grid of 14^6 nodes takes a third of the time with two tables of 14^3.
LONGEST = 32_768


@final
@dataclass(frozen=True, init=False, repr=False)
class Product(FixedCubature):
    r"""Rules for one dimension on the axes of a box.

    .. math:: \sum_{i_1} \cdots \sum_{i_d} w_{i_1} \cdots w_{i_d}\,
        f(x_{i_1}, \dots, x_{i_d})

    The grid is made and summed block by block, so that its size is limited by time
    only: more than 1e9 nodes are refused unless ``max_evals=`` allows them. As in one
    dimension, a rule with a measure of its own, such as :class:`GaussHermite` on an
    axis without limits, integrates the Lebesgue integral.

    Args:
        *rules: One rule for all axes, or one for each.

    Raises:
        TypeError: If a rule is not a fixed rule for one dimension.
        ValueError: If there is none.

    Example:
        >>> import math, torch, torch_mlcalc as mlc
        >>> strip = mlc.Box([0.0, -math.inf], [1.0, math.inf])
        >>> rule = mlc.Product(mlc.GaussLegendre(8), mlc.GaussHermite(16))
        >>> f = lambda x: x[..., 0] * torch.exp(-x[..., 1] ** 2)
        >>> mlc.integrate(f, strip, rule)
        tensor(0.8862)

    References:
        P. J. Davis, P. Rabinowitz, "Methods of Numerical Integration", 2nd ed.,
        Academic Press 1984, section 5.6.
    """

    rules: tuple[FixedRule, ...]

    def __init__(self, *rules: FixedRule) -> None:
        """Keep the rules."""
        for i, rule in enumerate(rules):
            if not isinstance(rule, FixedRule):
                raise TypeError(
                    f"rule {i} of the product is a {type(rule).__name__}; a fixed rule "
                    "for one dimension is wanted, for example GaussLegendre(8)."
                )
        if not rules:
            raise ValueError(
                "Product got no rules; one for all axes or one for each is wanted."
            )
        object.__setattr__(self, "rules", rules)

    def __repr__(self) -> str:
        """The rules."""
        return f"Product({', '.join(map(repr, self.rules))})"

    def axes(self, dimension: int) -> tuple[FixedRule, ...]:
        """The rule of each axis."""
        if len(self.rules) == 1:
            return self.rules * dimension
        if len(self.rules) != dimension:
            raise ValueError(
                f"{self} has {len(self.rules)} rules, the domain {dimension} axes; one "
                "for each is wanted, or one for all."
            )
        return self.rules

    def count(self, dimension: int) -> int:
        """The product of the numbers of nodes."""
        return math.prod([rule.n for rule in self.axes(dimension)])

    def refuse_log(self) -> None:
        """Refuse tabulated rules with negative weights."""
        for rule in self.rules:
            if isinstance(rule, TabulatedRule) and min(rule.weights) < 0:
                raise ValueError(
                    f"{rule} has negative weights, of which there is no log; use "
                    "integrate, or a rule with positive weights such as GaussLegendre."
                )

    def nodes(self, chart: Chart) -> ProductNodes:
        """The grid, as tables of its axes."""
        return self.nodes_between(chart, (None,) * chart.dimension)

    def nodes_between(self, chart: Chart, splits: Splits) -> ProductNodes:
        """The same, with the rule of an axis on every piece of it."""
        axes = [
            _axis(rule, chart, axis, split)
            for axis, (rule, split) in enumerate(
                zip(self.axes(chart.dimension), splits, strict=True)
            )
        ]
        return ProductNodes(tuple(_grouped([Axes(z[..., None], *w) for z, *w in axes])))


class Axes(NamedTuple):
    """Some axes of a grid as one table, as the chart places them.

    Attributes:
        z: Nodes, ``(n, c)`` or ``(n, *batch, c)`` for ``c`` axes.
        weights: ``(n)`` or ``(n, *batch)``.
        log_weights: Their logs.
    """

    z: Tensor
    weights: Tensor
    log_weights: Tensor


def _grouped(axes: list[Axes]) -> list[Axes]:
    """Neighbouring axes together while the table is short: few are left to index."""
    groups = axes[:1]
    for axis in axes[1:]:
        last = groups[-1]
        length = len(last.z) * len(axis.z)
        if length <= LONGEST and last.z.ndim == axis.z.ndim == 2:
            groups[-1] = _crossed(last, axis)
        else:
            groups.append(axis)
    return groups


def _crossed(one: Axes, other: Axes) -> Axes:
    """All pairs, the index of the first running fastest."""
    n, m = len(one.z), len(other.z)
    z = torch.cat([one.z.repeat(m, 1), other.z.repeat_interleave(n, 0)], -1)
    weights = one.weights.repeat(m) * other.weights.repeat_interleave(n)
    logs = one.log_weights.repeat(m) + other.log_weights.repeat_interleave(n)
    return Axes(z, weights, logs)


@final
@dataclass(frozen=True, eq=False)
class ProductNodes(Nodes):
    """A grid of tables of some axes each, of which blocks are made as they are used."""

    groups: tuple[Axes, ...]

    @property
    def n(self) -> int:  # type: ignore[override]
        """Number of nodes of the grid."""
        return math.prod([len(group.z) for group in self.groups])

    def block(self, start: int, stop: int, chart: Chart, *, log: bool) -> Placed:
        """Points and weights ``start`` to ``stop`` of the grid."""
        index = torch.arange(start, stop, device=chart.device)
        columns, total, rest = [], None, len(self.groups)
        for group in self.groups:
            rest -= 1
            # The last index needs no remainder: there is nothing behind it.
            digit = index % len(group.z) if rest else index
            index = index // len(group.z) if rest else index
            columns.append(group.z.index_select(0, digit))
            own = group.log_weights if log else group.weights
            factor = own.index_select(0, digit)
            if total is None:
                total = factor
            else:
                total, factor = _aligned(total, factor)
                total = total + factor if log else total * factor
        assert total is not None  # noqa: S101
        points, density = chart.place(_joined(columns), log=log)
        if density is not None:
            total, density = _aligned(total, density)
            total = total + density if log else total * density
        return Placed(points, total)


def _aligned(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the dimensions of a batch if one has them."""
    if one.ndim == other.ndim:
        return one, other
    if one.ndim < other.ndim:
        return one.reshape(-1, *(1,) * (other.ndim - 1)), other
    return one, other.reshape(-1, *(1,) * (one.ndim - 1))


def _joined(columns: list[Tensor]) -> Tensor:
    """Coordinates beside each other, with the dimensions of a batch if one has them."""
    if len(columns) == 1:
        return columns[0]
    most = columns[0]
    for column in columns[1:]:
        most = column if column.ndim > most.ndim else most
    shape = most.shape[:-1]
    wide = []
    for column in columns:
        if column.ndim < most.ndim:
            ones = (1,) * (most.ndim - column.ndim)
            column = column.reshape(len(column), *ones, column.shape[-1])
        wide.append(column.expand(*shape, column.shape[-1]))
    return torch.cat(wide, -1)


def _axis(
    rule: FixedRule, chart: Chart, axis: int, split: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of an axis as the chart places them, weights and their logs."""
    kind = getattr(chart, "kind", None)
    own = None if kind is None else kind[..., axis]
    if split is not None:
        return _composite(rule, chart, axis, split, own)
    key = type(rule), rule.settings
    if own is None:
        return _on_unit(cached_table(*key, FINITE, chart.dtype, chart.device))
    if readable(own):
        kinds = set(own.flatten().tolist())
        for each in kinds:
            table = cached_table(*key, each, chart.dtype, chart.device)
        if len(kinds) == 1:
            z, weights, logs = table
            return _on_unit(table) if each == FINITE else (z, weights, logs)
    table = cached_table(*key, None, chart.dtype, chart.device)
    z, weights, logs = (t.index_select(1, own.reshape(-1)) for t in table)
    z, weights, logs = (t.reshape(rule.n, *own.shape) for t in (z, weights, logs))
    finite = own == FINITE
    unit = _on_unit((z, weights, logs))
    z = torch.where(finite, unit[0], z)
    weights = torch.where(finite, unit[1], weights)
    return z, weights, torch.where(finite, unit[2], logs)


def _on_unit(table: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    z, weights, logs = table
    return (1 + z) / 2, weights / 2, logs - math.log(2)


def _composite(
    rule: FixedRule, chart: Chart, axis: int, split: Tensor, kind: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The rule on every piece between breakpoints."""
    if rule.measure != "lebesgue":
        raise ValueError(
            f"{rule} (measure: {rule.measure}) does not fit between breakpoints; use "
            "GaussLegendre on this axis, or leave out its breakpoints."
        )
    table = cached_table(type(rule), rule.settings, FINITE, chart.dtype, chart.device)
    z, weights, _ = _on_unit(table)
    places = chart.knots(split.to(chart.device), axis).to(chart.dtype)
    places = places.sort(0).values
    ends = torch.zeros_like(places[:1])
    knots = torch.cat([ends, places, ends + 1])
    shape = (1, -1, *(1,) * (knots.ndim - 1))
    length = knots[1:] - knots[:-1]
    u = (knots[:-1][:, None] + length[:, None] * z.reshape(shape)).flatten(0, 1)
    w = (length[:, None] * weights.reshape(shape)).flatten(0, 1)
    if kind is not None:
        u, slope = unfold(u, kind, getattr(chart, "tails", ALGEBRAIC))
        w = w * slope.exp()
    return u, w, LogSum().weigh(w)
