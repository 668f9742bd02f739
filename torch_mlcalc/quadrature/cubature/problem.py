"""What is to be integrated in several dimensions, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from torch import Tensor

from torch_mlcalc.quadrature.cubature.box import Solid
from torch_mlcalc.quadrature.cubature.climbed import Climbed
from torch_mlcalc.quadrature.integrand import Function, Integrand, bind_shaped
from torch_mlcalc.quadrature.problem import (
    Breakpoints,
    as_breakpoints,
    follow,
    has_tensors,
)


class SolidProblem(NamedTuple):
    """The integrand with its args, the domain, and breakpoints of each axis.

    Breakpoints are ``(k)`` or ``(k, *batch)``, None on axes without. ``begun`` is where
    a single integral stands that was begun at once, after ``spent`` points.
    """

    integrand: Integrand
    domain: Solid
    splits: tuple[Tensor | None, ...]
    begun: Climbed | None = None
    spent: int = 0

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of breakpoints of each axis."""
        return tuple(0 if s is None else len(s) for s in self.splits)

    @property
    def tensors(self) -> list[Tensor]:
        """Limits and breakpoints, by which there may be derivatives."""
        limits = [t for t, _ in self.domain.limits()]
        return limits + [s for s in self.splits if s is not None]


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
    splits: tuple[Tensor | None, ...] = (None,) * domain.dimension
    if breakpoints is not None:
        domain.refuse_breakpoints()
        splits = _splits(breakpoints, domain.dimension)
        # Numbers settle neither dtype nor device.
        given = cast("Sequence[Breakpoints]", breakpoints)
        tensors = [
            split
            for split, own in zip(splits, given, strict=True)
            if split is not None and has_tensors(own)
        ]
        limits += tensors
        shapes += [split.shape[1:] for split in tensors]
    integrand = bind_shaped(
        function, limits, shapes, args, batch_shape, domain.coordinates
    )
    splits = tuple(follow(split, integrand) for split in splits)
    return SolidProblem(integrand, domain, splits)


def _splits(breakpoints: object, dimension: int) -> tuple[Tensor | None, ...]:
    if not isinstance(breakpoints, (list, tuple)):
        raise TypeError(
            f"breakpoints is a {type(breakpoints).__name__}; in several dimensions a "
            "list with an entry for each axis is wanted: None, a list of numbers, or a "
            "tensor (k,) or (k, *batch)."
        )
    if len(breakpoints) != dimension:
        raise ValueError(
            f"breakpoints has {len(breakpoints)} entries, the domain {dimension} axes; "
            "one entry for each is wanted, None for an axis without."
        )
    return tuple(
        None if given is None else as_breakpoints(given, axis)
        for axis, given in enumerate(breakpoints)
    )
