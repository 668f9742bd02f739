"""Plans of adaptive rules: regions of the cube, each with the same small rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import (
    LinearSum,
    LogSum,
    accumulator,
    block_of,
    sum_blocks,
    together,
)
from torch_mlcalc.quadrature.cubature.chart import Chart, volume_of
from torch_mlcalc.quadrature.cubature.nodes import weighted
from torch_mlcalc.quadrature.cubature.tails import Tails
from torch_mlcalc.quadrature.host import readable
from torch_mlcalc.quadrature.integrand import Integrand, as_result
from torch_mlcalc.quadrature.plan import Plan, none_of

Splits = Sequence[Tensor | None]


class Group(NamedTuple):
    """Regions with the same rule, ``(m)`` or ``(count, elements)``.

    With as many regions for every integral, missing ones are padded by regions of no
    volume.

    Attributes:
        nodes: Of the rule on the unit cube, ``(k, d)``; of an axis of a grid, ``(n)``.
        weights: Likewise.
        owner: The integral of each region, ``(m)``; empty if all have as many.
        piece: Between which breakpoints it is on each axis, ``(*, d)``.
        low: Where it begins, as a fraction of the piece.
        high: Where it ends.
    """

    nodes: Tensor
    weights: Tensor
    owner: Tensor
    piece: Tensor
    low: Tensor
    high: Tensor


@final
@dataclass(frozen=True, eq=False, repr=False)
class RegionPlan(Plan):
    """A plan in several dimensions, found by dividing the domain.

    Attributes:
        breakpoints: Number of breakpoints on each axis that it was made with.
        groups: Regions and rules.
        tails: How the cube is stretched over infinite axes; None for nodes that are
            placed on these without.
        gathers: Whether each region is evaluated for its own integral only.
    """

    tails: Tails | None
    batch_shape: tuple[int, ...]
    breakpoints: tuple[int, ...]
    groups: tuple[Group, ...]
    gathers: bool
    error: Tensor
    status: Tensor
    n_evals: Tensor

    @property
    def dimension(self) -> int:
        """Dimension of the cube."""
        return len(self.breakpoints)

    @property
    def n(self) -> int:
        """Largest number of nodes of an integral."""
        if not self.gathers:
            return sum(_count(g, self.dimension) * len(g.low) for g in self.groups)
        counts = torch.zeros(
            max(self.status.numel(), 1), dtype=torch.int64, device="cpu"
        )
        for g in self.groups:
            counts += _count(g, self.dimension) * torch.bincount(
                g.owner.cpu(), minlength=len(counts)
            )
        return int(counts.max())

    def __repr__(self) -> str:
        """Size and outcome; the regions themselves can be many."""
        return f"Plan(n={self.n}, batch_shape={self.batch_shape})"

    def to(self, device: torch.device | str) -> RegionPlan:
        """The same plan on another device."""
        return replace(
            self,
            groups=tuple(Group(*(t.to(device) for t in g)) for g in self.groups),
            error=self.error.to(device),
            status=self.status.to(device),
            n_evals=self.n_evals.to(device),
        )

    def _parts(self) -> dict[str, Any]:
        names = ("batch_shape", "breakpoints", "gathers", "error", "status", "n_evals")
        groups = [tuple(g) for g in self.groups]
        tails = None if self.tails is None else self.tails.value
        own = {"groups": groups, "tails": tails}
        return {**{name: getattr(self, name) for name in names}, **own}

    @classmethod
    def _from_parts(cls, parts: dict[str, Any]) -> RegionPlan:
        own = {
            "tails": None if parts["tails"] is None else Tails(parts["tails"]),
            "groups": tuple(Group(*g) for g in parts["groups"]),
            "batch_shape": tuple(parts["batch_shape"]),
            "breakpoints": tuple(parts["breakpoints"]),
        }
        return cls(**{**parts, **own})

    def apply(
        self,
        integrand: Integrand,
        chart: Chart,
        splits: Splits,
        *,
        log: bool,
        memory: int | None,
    ) -> Tensor:
        """The integral of a function over the domain of the chart."""
        total = self._sum(self.groups, integrand, chart, splits, memory, log=log)
        if total is None:
            return none_of(integrand)
        return as_result(chart.scale(total, log=log), integrand)

    @property
    def is_alone(self) -> bool:
        """Whether it is of one integral without breakpoints, as :meth:`placed` asks."""
        several = self.batch_shape or self.gathers or any(self.breakpoints)
        return bool(self.groups and self.tails) and not several

    def placed(self, integrand: Integrand, chart: Chart) -> tuple[Tensor, Tensor]:
        """All points of the only integral, and their weights."""
        none = (None,) * self.dimension
        parts = [
            _placed(
                self,
                group,
                integrand,
                chart,
                none,
                (0, _count(group, self.dimension)),
                (0, len(group.low)),
                log=False,
            )[:2]
            for group in self.groups
        ]
        points, weights = zip(*parts, strict=True)
        return torch.cat(points), torch.cat(weights)

    def _sum(
        self,
        groups: tuple[Group, ...],
        integrand: Integrand,
        chart: Chart,
        splits: Splits,
        memory: int | None,
        *,
        log: bool,
    ) -> Tensor | None:
        """Sum over groups; in the log form, what has negative weights is taken off."""
        add = LogSum() if log else LinearSum()
        taken_off: list[Group] = []
        if log:
            halves = [_by_sign(group) for group in groups]
            groups = tuple(positive for positive, _ in halves)
            taken_off = [negative for _, negative in halves if len(negative.nodes)]
        total = None
        for group in groups:
            value = self._apply_group(group, integrand, chart, splits, add, memory)
            total = value if total is None else add.join(total, value)
        less = None
        for group in taken_off:
            value = self._apply_group(group, integrand, chart, splits, add, memory)
            less = value if less is None else add.join(less, value)
        if total is not None:
            total = together(total, add, integrand.ranks)
        if total is None or less is None:
            return total
        return _log_difference(total, together(less, add, integrand.ranks))

    def _apply_group(
        self,
        group: Group,
        integrand: Integrand,
        chart: Chart,
        splits: Splits,
        add: LinearSum | LogSum,
        memory: int | None,
    ) -> Tensor:
        """A block is some nodes of all regions, or all nodes of some regions."""
        nodes, regions = _count(group, self.dimension), len(group.low)
        bytes_each = integrand.dtype.itemsize * integrand.coordinates
        if not self.gathers:
            for size in self.batch_shape:
                bytes_each *= size
        whole, device = torch.compiler.is_compiling(), integrand.device
        part = partial(_part, self, group, integrand, chart, splits, add)
        summed = partial(sum_blocks, rule=add, ranks=integrand.ranks)
        if nodes < regions:
            each = bytes_each * nodes
            block = block_of(regions, each, memory, device, whole=whole)
            by_regions = partial(part, 0, nodes)
            return summed(by_regions, regions, block)
        block = block_of(nodes, bytes_each * regions, memory, device, whole=whole)
        by_nodes = partial(_by_nodes, part, regions)
        return summed(by_nodes, nodes, block)


def _by_sign(group: Group) -> tuple[Group, Group]:
    """A group with its positive weights, and one with the negative ones, negated."""
    nodes, weights = group.nodes, group.weights
    if nodes.ndim == 1:  # a tensor rule, of Gauss nodes
        return group, group._replace(nodes=nodes[:0], weights=weights[:0])
    if torch.compiler.is_compiling():  # which cannot choose nodes by their sign
        return (
            group._replace(weights=weights.clamp(min=0)),
            group._replace(weights=(-weights).clamp(min=0)),
        )
    some = weights < 0
    return (
        group._replace(nodes=nodes[~some], weights=weights[~some]),
        group._replace(nodes=nodes[some], weights=-weights[some]),
    )


def _log_difference(total: Tensor, less: Tensor) -> Tensor:
    """Log of the difference of two numbers given by their logs; nan if negative."""
    nothing = total == -math.inf
    gap = torch.where(nothing, -1.0, less - torch.where(nothing, 0, total))
    return total + torch.log(-torch.expm1(gap))


def _by_nodes(part: partial[Tensor], regions: int, start: int, stop: int) -> Tensor:
    return part(start, stop, 0, regions)


def _count(group: Group, dimension: int) -> int:
    return len(group.nodes) ** (1 if group.nodes.ndim == 2 else dimension)


def _part(
    plan: RegionPlan,
    group: Group,
    integrand: Integrand,
    chart: Chart,
    splits: Splits,
    add: LinearSum | LogSum,
    start: int,
    stop: int,
    first: int,
    last: int,
) -> Tensor:
    """Contribution of nodes ``start`` to ``stop`` of regions ``first`` to ``last``."""
    log, batch = isinstance(add, LogSum), integrand.batch_shape
    points, weights, rows = _placed(
        plan, group, integrand, chart, splits, (start, stop), (first, last), log=log
    )
    values = integrand(points, rows)
    if log and values.requires_grad:
        values = _alive(integrand, points, rows, values)
    if rows is None:
        return add(weights, weights, values)
    sums = add(weights, weights, values)
    count = last - first
    total = add.spread(sums[:count], rows[:count], plan.status.numel())
    return total.reshape(*batch, *total.shape[1:])


def _placed(
    plan: RegionPlan,
    group: Group,
    integrand: Integrand,
    chart: Chart,
    splits: Splits,
    nodes: tuple[int, int],
    which: tuple[int, int],
    *,
    log: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points and weights of some nodes of some regions, and whose rows these are."""
    batch, d, (first, last) = integrand.batch_shape, plan.dimension, which
    regions = [c[first:last] for c in group[3:]]
    rows = group.owner[first:last] if plan.gathers else None
    shape = (last - first, d) if plan.gathers else (last - first, *batch, d)
    piece, low, high = (c.reshape(shape) for c in regions)
    if rows is not None:
        # As in the search: rows must never pass for the whole batch.
        spare = 1 if rows.numel() == plan.status.numel() else 0
        if spare:
            rows = torch.cat([rows, rows[-1:]])
            piece, low, high = (torch.cat([c, c[-1:]]) for c in (piece, low, high))
        chart = chart.rows(rows)
    begin, end = _edges(chart, splits, rows, piece, low, high)
    unit, weights = _table(group, *nodes, d)
    u = begin + (end - begin) * unit.reshape(-1, *(1,) * (begin.ndim - 1), d)
    volume = volume_of(end - begin)
    w = weights.reshape(-1, *(1,) * volume.ndim) * volume
    if rows is None:
        u, w = u.reshape(-1, *batch, d), w.reshape(-1, *batch)
    points, total = weighted(chart(u.to(chart.dtype), log=log), w, log=log)
    assert total is not None  # noqa: S101
    return points.to(integrand.dtype), total.to(accumulator(integrand.dtype)), rows


def _alive(
    integrand: Integrand, points: Tensor, rows: Tensor | None, values: Tensor
) -> Tensor:
    """The same, with derivatives of 0 where a density is 0, as it is far out.

    There the log may be minus infinity because something in it overflows, of which the
    derivative is 0 times infinity. Such nodes are evaluated at the best one instead;
    where it cannot be seen whether there are any, without asking.

    Returns:
        The values.
    """
    if values.ndim != points.ndim - 1:
        return values
    dead = values.detach() == -math.inf
    if readable(dead) and not bool(dead.any()):
        return values
    best = values.detach().argmax(0, keepdim=True)[..., None]
    home = points.gather(0, best.expand(1, *points.shape[1:]))
    again = integrand(torch.where(dead[..., None], home, points), rows)
    return torch.where(dead, -math.inf, again)


def _table(group: Group, start: int, stop: int, d: int) -> tuple[Tensor, Tensor]:
    if group.nodes.ndim == 2:
        return group.nodes[start:stop], group.weights[start:stop]
    n = len(group.nodes)
    index = torch.arange(start, stop, device=group.nodes.device)
    powers = n ** torch.arange(d, device=group.nodes.device)
    digits = (index[:, None] // powers) % n
    return group.nodes[digits], group.weights[digits].prod(-1)


def _edges(
    chart: Chart,
    splits: Splits,
    rows: Tensor | None,
    piece: Tensor,
    low: Tensor,
    high: Tensor,
) -> tuple[Tensor, Tensor]:
    """Ends of regions in the cube; those inside of a piece stand still where they are.

    Only ends at a limit or breakpoint move with it, so that kinks and jumps inside do
    not enter the derivative by it.

    Returns:
        Lower and upper ends, of the shape of ``low``.
    """
    if all(s is None for s in splits):
        if not chart.moves:
            return low, high
        begin = torch.where(low == 0, low, chart.held(low))
        return begin, torch.where(high == 1, high, chart.held(high))
    knots = [_knots(chart, split, axis, rows) for axis, split in enumerate(splits)]
    begins = [_at(k, piece[..., j]) for j, k in enumerate(knots)]
    ends = [_at(k, piece[..., j] + 1) for j, k in enumerate(knots)]
    first, after = torch.stack(begins, -1), torch.stack(ends, -1)
    start, length = first.detach(), (after - first).detach()
    inner_low = chart.held(start + length * low)
    inner_high = chart.held(start + length * high)
    return (
        torch.where(low == 0, first, inner_low),
        torch.where(high == 1, after, inner_high),
    )


def _knots(
    chart: Chart, split: Tensor | None, axis: int, rows: Tensor | None
) -> Tensor:
    """Ends of the pieces of an axis in the cube, ``(k + 2, *batch)``."""
    batch = chart.batch_shape
    ends = torch.zeros(1, *batch, dtype=torch.float64, device=chart.device)
    if split is None:
        return torch.cat([ends, ends + 1])
    if rows is not None:
        split = split.reshape(len(split), -1)
        if split.shape[1] > 1:
            split = split.index_select(1, rows)
    inner = chart.knots(split.to(chart.device), axis)
    inner = inner.expand(len(split), *batch).sort(0).values.to(torch.float64)
    return torch.cat([ends, inner, ends + 1])


def _at(knots: Tensor, index: Tensor) -> Tensor:
    """``knots[index[i, b], b]`` for all regions ``i`` and integrals ``b``."""
    if knots.ndim == 1:
        return knots[index]
    which = torch.arange(len(knots), device=knots.device)
    # A comparison instead of a gather, which vmap would map over the batch too.
    chosen = index == which.reshape(-1, *(1,) * index.ndim)
    knots = knots[:, None] if index.ndim == knots.ndim else knots
    return torch.where(chosen, knots, 0).sum(0)
