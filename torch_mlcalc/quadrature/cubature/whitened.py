"""Charts and plans in coordinates in which a density is about standard normal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from torch_mlcalc.precision import full_precision
from torch_mlcalc.quadrature.contract import LogSum
from torch_mlcalc.quadrature.cubature.chart import BoxChart, Chart, Placed
from torch_mlcalc.quadrature.cubature.region_plan import Group, RegionPlan
from torch_mlcalc.quadrature.cubature.tails import Tails, unfold
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import Array


@dataclass(frozen=True, eq=False)
class WhitenedChart(Chart):
    r"""The map to all of space around a centre, scaled by a triangular matrix.

    .. math:: x = \text{chart}(c + F z(u))

    Attributes:
        base: The chart of a box without any limit.
        centre: ``(*batch, d)``, in its units.
        factor: Upper triangular with a positive diagonal, ``(*batch, d, d)``.
        tails: How the cube is stretched; None for nodes that are ``z`` themselves.
    """

    dimension: int
    batch_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    base: BoxChart
    centre: Tensor
    factor: Tensor
    tails: Tails | None

    @staticmethod
    def of(
        base: BoxChart, centre: Tensor, factor: Tensor, tails: Tails | None = None
    ) -> WhitenedChart:
        """The chart around a centre."""
        shared = base.dimension, base.batch_shape, base.dtype, base.device
        return WhitenedChart(*shared, base, centre, factor, tails)

    @property
    def kind(self) -> Tensor | None:
        """No axis has an end."""
        return self.base.kind

    @property
    def unbounded(self) -> bool:
        """No axis has an end."""
        return True

    def rows(self, rows: Tensor) -> WhitenedChart:
        """The chart of some integrals of the flattened batch, ``(m)``."""
        d = self.dimension
        return replace(
            self,
            batch_shape=tuple(rows.shape),
            base=self.base.rows(rows),
            centre=self.centre.reshape(-1, d).index_select(0, rows),
            factor=self.factor.reshape(-1, d, d).index_select(0, rows),
        )

    def __call__(self, u: Tensor, *, log: bool) -> Placed:
        """Points and density at ``u``: ``(n, d)`` or ``(n, *batch, d)``."""
        if self.tails is None:
            return self.place(u, log=log)
        u = self.widened(u)
        assert self.base.kind is not None  # noqa: S101
        z, log_slope = unfold(u, self.base.kind, self.tails)
        log_density = log_slope.sum(-1)
        points, _ = self.place(z, log=log)
        return Placed(points, log_density if log else log_density.exp())

    def place(self, z: Tensor, *, log: bool) -> Placed:
        """Points at ``z``."""
        z = self.widened(z)
        with full_precision(z.device):
            y = self.centre + torch.einsum("...ij,...j->...i", self.factor, z)
        return self.base.place(y, log=log)

    @property
    def lengths(self) -> Tensor:
        """Those of the base, stretched by the factor, which is triangular."""
        stretch = self.factor.diagonal(dim1=-2, dim2=-1)
        return self.base.lengths * stretch.to(self.base.length.dtype)

    def scale(self, total: Tensor, *, log: bool) -> Tensor:
        """The sum over the cube times the volume, or plus its log."""
        moved = self.base.scale(total, log=log)
        log_volume = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_volume = log_volume.to(self.base.length.dtype)
        events = total.ndim - len(self.batch_shape)
        log_volume = log_volume.reshape(log_volume.shape + (1,) * events)
        return moved + log_volume if log else moved * log_volume.exp()


@final
@dataclass(frozen=True, eq=False, repr=False)
class WhitenedPlan(Plan):
    """Plans around the centre of each integral, each of which does some of them.

    Attributes:
        centre: Centres, in units of the domain's ``loc`` and ``scale``.
        factor: Their scales.
        parts: Nodes, those of an integral all in one part.
    """

    centre: Tensor
    factor: Tensor
    parts: tuple[RegionPlan, ...]
    batch_shape: tuple[int, ...]
    error: Tensor
    status: Tensor
    n_evals: Tensor

    @property
    def n(self) -> int:
        """Largest number of nodes of an integral."""
        return max(part.n for part in self.parts)

    def __repr__(self) -> str:
        """Size and outcome."""
        return f"Plan(n={self.n}, batch_shape={self.batch_shape})"

    def to(self, device: torch.device | str) -> WhitenedPlan:
        """The same plan on another device."""
        names = ("centre", "factor", "error", "status", "n_evals")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, parts=tuple(p.to(device) for p in self.parts), **moved)

    def _parts(self) -> dict[str, Any]:
        names = ("centre", "factor", "batch_shape", "error", "status", "n_evals")
        own = {"parts": [part.state() for part in self.parts]}
        return {**{name: getattr(self, name) for name in names}, **own}

    @classmethod
    def _from_parts(cls, parts: dict[str, Any]) -> WhitenedPlan:
        own = {
            "parts": tuple(Plan.from_state(part) for part in parts["parts"]),
            "batch_shape": tuple(parts["batch_shape"]),
        }
        return cls(**{**parts, **own})

    @property
    def on_grids(self) -> bool:
        """Whether all nodes are grids around centres."""
        return all(part.tails is None for part in self.parts)

    def with_grid(self, nodes: Array, weights: Array) -> WhitenedPlan:
        """One grid for all, evaluated on the whole batch, with these on each axis."""
        device, shape = self.centre.device, (1, *self.centre.shape)
        row, own = (torch.tensor(array, device=device) for array in (nodes, weights))
        none = torch.empty(0, dtype=torch.int64, device=device)
        low = torch.zeros(shape, dtype=torch.float64, device=device)
        piece = torch.zeros(shape, dtype=torch.int64, device=device)
        group = Group(row, own, none, piece, low, low + 1)
        part = replace(self.parts[0], groups=(group,), gathers=False)
        return replace(self, parts=(part,))

    def apply(
        self, integrand: Integrand, chart: BoxChart, *, log: bool, memory: int | None
    ) -> Tensor:
        """The integral of a function over all of space."""
        splits = (None,) * chart.dimension
        total = None
        for part in self.parts:
            white = WhitenedChart.of(chart, self.centre, self.factor, part.tails)
            value = part.apply(integrand, white, splits, log=log, memory=memory)
            if total is None:
                total = value
            else:
                total = LogSum().join(total, value) if log else total + value
        assert total is not None  # noqa: S101
        return total
