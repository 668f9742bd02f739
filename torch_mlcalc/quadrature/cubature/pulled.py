"""The integrand on the unit cube, as adaptive rules see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.chart import Chart
from torch_mlcalc.quadrature.host import frozen, mapped_mark, read, transforming
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.sharding import Ranks


@dataclass(eq=False)
class PulledBack:
    """Integrand times density of the chart, or the sum of their logs.

    Attributes:
        integrand: The integrand.
        chart: From the cube to the domain.
        log: Whether the integrand returns logs.
    """

    integrand: Integrand
    chart: Chart
    log: bool
    _result: torch.dtype = torch.float64

    @property
    def args(self) -> tuple[Any, ...]:
        """Those of the integrand; none where the chart cannot take single rows."""
        return self.integrand.args if self.chart.divisible else ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch."""
        return self.integrand.batch_shape

    @property
    def dtype(self) -> torch.dtype:
        """That in which the chart wants its nodes."""
        return self.chart.dtype

    @property
    def device(self) -> torch.device:
        """That of the points."""
        return self.integrand.device

    @property
    def ranks(self) -> Ranks | None:
        """Processes that share the points, or None."""
        return self.integrand.ranks

    def __call__(self, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """Values at nodes in the cube, ``(n, *batch, d)`` or ``(n, m, d)``."""
        chart = self.chart if rows is None else self.chart.rows(rows)
        placed, density = chart(points, log=self.log)
        if placed.dtype != self.integrand.dtype:
            placed = placed.to(self.integrand.dtype)
        values = self.integrand(placed, rows)
        self._result = self.integrand.result_dtype(values)
        if density is None:
            return values
        events = values.ndim - density.ndim
        density = density.reshape(density.shape + (1,) * events)
        return values + density if self.log else values * density

    def result_dtype(self, values: Tensor) -> torch.dtype:
        """As without the density, which may be in double precision; see Chart."""
        return self._result


class OnBox(NamedTuple):
    """A single integrand on a box of numbers, which needs no chart.

    Attributes:
        integrand: The integrand, without args and batch.
        low: Lower corner of the box, None of the unit cube.
        span: Its sides.
    """

    integrand: Integrand
    low: Tensor | None
    span: Tensor

    @property
    def args(self) -> tuple[Any, ...]:
        """There are none."""
        return ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """There is no batch."""
        return ()

    @property
    def dtype(self) -> torch.dtype:
        """That of the points."""
        return self.integrand.dtype

    @property
    def device(self) -> torch.device:
        """That of the points."""
        return self.integrand.device

    @property
    def ranks(self) -> Ranks | None:
        """There is one process."""
        return None

    def __call__(self, points: Tensor, rows: Tensor | None = None) -> Tensor:
        """Values at nodes in the cube, ``(n, d)``."""
        if self.low is not None:
            points = torch.addcmul(self.low, self.span, points)
        return self.integrand(points)

    def result_dtype(self, values: Tensor) -> torch.dtype:
        """That of the integrand."""
        return self.integrand.result_dtype(values)


def mapped_over(
    integrand: Integrand, chart: Chart
) -> tuple[tuple[int, ...], Tensor | None]:
    """The dimensions that vmap maps over, and a tensor that is mapped over them.

    Only below vmap is the integrand evaluated for this, once.

    Returns:
        Sizes, outermost first, and the tensor, or None without any.
    """
    if not transforming():
        return (), None
    with frozen():
        middle = torch.full((1, chart.dimension), 0.5, dtype=chart.dtype, device="cpu")
        points, _ = chart(middle.to(chart.device), log=False)
        values = integrand(points.to(integrand.dtype))
        mark = mapped_mark(points, values.real if values.is_complex() else values)
        assert mark is not None  # noqa: S101
        return read(mark, mark).shape, mark
