"""What is to be integrated in several dimensions, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch_mlcalc.quadrature.cubature.box import Solid
from torch_mlcalc.quadrature.integrand import Function, Integrand, bind_shaped


class SolidProblem(NamedTuple):
    """The integrand with its args, and the domain."""

    integrand: Integrand
    domain: Solid


def pose(
    function: Function,
    domain: Solid,
    args: Sequence[Any],
    batch_shape: Sequence[int] | None,
    breakpoints: object,
) -> SolidProblem:
    """Check what the caller passed, and bring it together."""
    found = domain.limits()
    limits, shapes = [t for t, _ in found], [s for _, s in found]
    integrand = bind_shaped(
        function, limits, shapes, args, batch_shape, domain.coordinates
    )
    return SolidProblem(integrand, domain)
