"""Integrals over a line by rules for any dimension: a box with one axis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.cubature.problem import SolidProblem
from torch_mlcalc.quadrature.cubature.problem import pose as pose_box
from torch_mlcalc.quadrature.domains import Limit, Line
from torch_mlcalc.quadrature.integrand import Function


def pose(
    function: Function,
    domain: Line,
    args: Sequence[Any],
    batch_shape: Sequence[int] | None,
    breakpoints: object,
) -> SolidProblem:
    """The problem on a box; the integrand gets numbers, as on every line."""
    if breakpoints is not None:
        raise ValueError(
            "breakpoints have no effect with a rule for several dimensions; leave them "
            "out, or use a rule for the line such as GaussKronrod()."
        )
    lower, upper, loc, scale = domain.extent
    box = Box([lower], [upper], loc=_behind(loc), scale=_behind(scale))
    problem = pose_box(function, box, args, batch_shape, None)

    on_line = OnLine(function, getattr(function, "show", None))
    return problem._replace(integrand=problem.integrand._replace(function=on_line))


@dataclass(frozen=True)
class OnLine:
    """A function of numbers, called with points of one coordinate."""

    function: Function
    show: Callable[[str], None] | None

    def __call__(self, points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        """Its values at the coordinate."""
        return self.function(points[..., 0], *args)


def _behind(limit: Limit) -> Limit:
    return limit[..., None] if isinstance(limit, Tensor) else limit
