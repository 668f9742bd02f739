"""Where to integrate in several dimensions: boxes, finite or not."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import ne
from typing import Any, final

import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.chart import BoxChart, Chart
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, Tails
from torch_mlcalc.quadrature.domains import (
    Domain,
    Limit,
    check_agree,
    check_limit,
    check_positive,
)
from torch_mlcalc.quadrature.host import on_device, readable
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.rules import check_count

#: Up to so many dimensions the automatic rule is deterministic. Above, a tensor grid of
#: 3 nodes on each axis has more than 20,000 nodes, and the rules of Genz and Malik more
#: than 1,000 in every region: a lattice of as many points is better.
DETERMINISTIC = 8

#: A limit of one axis that depends on the coordinates before it.
Bound = Callable[..., Tensor]
Limits = Limit | Sequence[Limit | Bound]


class Solid(Domain):
    """A set in several dimensions: a smooth map of the unit cube.

    Attributes:
        dimension: Dimension ``d`` of the cube.
        coordinates: How many coordinates the integrand gets.
    """

    solid = True
    dimension: int

    @property
    def coordinates(self) -> int:
        """As many as dimensions."""
        return self.dimension

    @abstractmethod
    def limits(self) -> list[tuple[Tensor, torch.Size]]:
        """Tensors that settle dtype, device and batch, with the batch shape of each."""

    @abstractmethod
    def chart(self, integrand: Integrand, tails: Tails = ALGEBRAIC) -> Chart:
        """The map for one call, in its dtype and device."""

    def refuse_reversed(self) -> None:  # noqa: B027
        """Refuse limits that make the integral negative."""

    def refuse_breakpoints(self) -> None:
        """Refuse breakpoints where the axes of the cube are not those of the points."""
        raise ValueError(
            f"breakpoints have no meaning on {self}, whose axes are not those of the "
            "unit cube; leave them out, or integrate over a Box."
        )


@final
@dataclass(frozen=True, eq=False)
class Box(Solid):
    r"""The box from ``lower`` to ``upper``, also with limits that bend.

    .. math:: \int_{a_1}^{b_1} \cdots \int_{a_d}^{b_d} f(x)\,dx_d \cdots dx_1

    Every reversed axis flips the sign, an axis of length 0 gives 0. A limit may be a
    function of the coordinates before it, so that discs and triangles are direct.

    Args:
        lower: Lower limits: a tensor ``(*batch, d)``, or a sequence with one number,
            tensor ``(*batch)`` or function for each axis, or one number for all axes.
            A function gets the coordinates before its own, each ``(n, *batch)``, and
            returns a finite limit of that shape; opposite to it there may be an
            infinite one. Infinite limits are ``+-math.inf``.
        upper: Upper limits, likewise.
        dimension: ``d``, where neither limit tells.
        loc: Where the integrand has its mass on axes without any finite limit: a
            number, or a tensor that broadcasts to ``(*batch, d)``.
        scale: Over which length it varies on axes with an infinite limit, likewise.

    Shape:
        Limits broadcast to ``(*batch, d)``; the integrand gets ``(n, *batch, d)``.

    Raises:
        TypeError: If a limit is neither a real number, a real tensor nor a function, or
            if tensor limits differ in dtype.
        ValueError: If a limit is NaN, if numbers are farther apart than the largest
            one, if limits disagree in ``d``, in device or in batch, if nothing tells
            ``d``, if the first limit is a function, or if ``loc`` is not finite, or
            ``scale`` not finite and positive.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> square = mlc.Box(0.0, 1.0, dimension=2)
        >>> mlc.integrate(lambda x: torch.exp(x.sum(-1)), square)
        tensor(2.9525)
        >>> triangle = mlc.Box([0, 0], [1, lambda x: 1 - x])
        >>> mlc.integrate(lambda x: x[..., 0], triangle)
        tensor(0.1667)
    """

    lower: Limits
    upper: Limits
    dimension: int = 0
    loc: Limit = 0.0
    scale: Limit = 1.0

    def __post_init__(self) -> None:  # noqa: D105
        given = {"lower": self.lower, "upper": self.upper}
        for name, limits in given.items():
            _check_limits(name, limits)
        for name, place in (("loc", self.loc), ("scale", self.scale)):
            check_limit(name, place, finite=True)
        check_positive("scale", self.scale)
        if self.dimension:
            check_count("dimension", self.dimension, 1)
        object.__setattr__(self, "dimension", _dimension(self.dimension, **given))
        self._refuse_too_long()
        tensors = [t for t, _ in self.limits()]
        for tensor in tensors[1:]:
            check_agree("one limit", tensors[0], "another", tensor, shapes=False)

    def _refuse_too_long(self) -> None:
        lower, upper = self._numbers(self.lower), self._numbers(self.upper)
        if lower is None or upper is None:
            return
        for axis, (low, high) in enumerate(zip(lower, upper, strict=True)):
            if math.isinf(high - low) and math.isfinite(low) and math.isfinite(high):
                raise ValueError(
                    f"the box is longer than the largest number on axis {axis}, from "
                    f"{low} to {high}; pass +-math.inf for limits that are to be "
                    "infinite."
                )

    def limits(self) -> list[tuple[Tensor, torch.Size]]:
        """Tensor limits, loc and scale, and the batch shape of each."""
        found = []
        for limits in (self.lower, self.upper):
            if isinstance(limits, Tensor):
                found.append((limits, limits.shape[:-1]))
            elif isinstance(limits, Sequence):
                found += [(t, t.shape) for t in limits if isinstance(t, Tensor)]
        for place in (self.loc, self.scale):
            if isinstance(place, Tensor):
                found.append((place, place.shape[:-1]))
        return found

    def chart(self, integrand: Integrand, tails: Tails = ALGEBRAIC) -> Chart:
        """The map from the unit cube, through which gradients of the limits flow."""
        lower, low = _columns(self.lower, self.dimension, integrand)
        upper, high = _columns(self.upper, self.dimension, integrand)
        bounds = tuple(zip(low, high, strict=True))
        return BoxChart.of(
            lower, upper, self.loc, self.scale, bounds, integrand, self.dimension, tails
        )

    @property
    def corners(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Lower and upper limits where all are finite numbers that differ."""
        lower, upper = self._numbers(self.lower), self._numbers(self.upper)
        if lower is None or upper is None:
            return None
        usable = all(map(math.isfinite, lower + upper)) and all(map(ne, lower, upper))
        return (lower, upper) if usable else None

    def _numbers(self, limits: Limits) -> tuple[float, ...] | None:
        if type(limits) is float or type(limits) is int:
            return (float(limits),) * self.dimension
        if type(limits) is not list and type(limits) is not tuple:
            return None
        if not all(type(x) is float or type(x) is int for x in limits):
            return None
        numbers = tuple(map(float, limits))
        return numbers if len(numbers) == self.dimension else numbers * self.dimension

    def refuse_breakpoints(self) -> None:
        """Refuse them with limits that are functions."""
        for limits in (self.lower, self.upper):
            if isinstance(limits, Sequence) and any(map(callable, limits)):
                super().refuse_breakpoints()

    def refuse_reversed(self) -> None:
        """Refuse limits that make the integral negative, where reading them is free."""
        pairs: list[tuple[Any, Any]] = [(self.lower, self.upper)]
        if any(isinstance(limits, Sequence) for limits in pairs[0]):
            pairs = [
                (_entry(self.lower, axis), _entry(self.upper, axis))
                for axis in range(self.dimension)
            ]
        for low, high in pairs:
            if any(callable(x) and not isinstance(x, Tensor) for x in (low, high)):
                continue
            reversed_ = low > high
            if isinstance(reversed_, Tensor):
                reversed_ = readable(reversed_) and bool(reversed_.any())
            if reversed_:
                raise ValueError(
                    "the log of an integral needs lower <= upper on every axis, got "
                    f"lower={low}, upper={high}; swap them."
                )


def _check_limits(name: str, limits: object) -> None:
    if isinstance(limits, (list, tuple)):
        for axis, limit in enumerate(limits):
            if not callable(limit) or isinstance(limit, Tensor):
                check_limit(f"{name}[{axis}]", limit)
        if not limits:
            raise ValueError(f"{name} is empty; a limit for each axis is wanted.")
        if callable(limits[0]) and not isinstance(limits[0], Tensor):
            raise ValueError(
                f"{name}[0] is a function, but there are no coordinates before the "
                "first that it could depend on; order the axes so that the first has "
                "constant limits."
            )
        return
    check_limit(name, limits)
    if isinstance(limits, Tensor) and limits.ndim == 0:
        raise ValueError(
            f"{name} is a tensor without dimensions; one of shape (*batch, d) is "
            "wanted, or a number for all axes."
        )


def _dimension(declared: int, **given: Limits) -> int:
    found = {"dimension": declared} if declared else {}
    for name, limits in given.items():
        if isinstance(limits, Tensor):
            found[name] = limits.shape[-1]
        elif isinstance(limits, Sequence):
            found[name] = len(limits)
    if not found:
        raise ValueError(
            "lower and upper are numbers, so nothing tells in how many dimensions the "
            "box is; pass dimension=, or a limit for each axis."
        )
    # A tensor (*batch, 1) broadcasts.
    several = {n for n in found.values() if n != 1} or {1}
    if len(several) > 1:
        raise ValueError(
            f"the limits of a box disagree in its dimension: {found}; "
            "each needs one limit for each axis."
        )
    return several.pop()


def _entry(limits: Limits, axis: int) -> Limit | Bound:
    if isinstance(limits, Tensor):
        return limits[..., axis % limits.shape[-1]]
    if isinstance(limits, Sequence):
        return limits[axis % len(limits)]
    return limits


def _columns(
    limits: Limits, dimension: int, integrand: Integrand
) -> tuple[Limit | list[float] | Tensor, list[Bound | None]]:
    """Limits as a number, a list or a tensor, and those that are functions."""
    none: list[Bound | None] = [None] * dimension
    if isinstance(limits, Tensor) or not isinstance(limits, Sequence):
        return limits, none
    entries = [_entry(limits, axis) for axis in range(dimension)]
    bounds = [e if callable(e) and not isinstance(e, Tensor) else None for e in entries]
    fixed = [e if isinstance(e, (int, float, Tensor)) else 0.0 for e in entries]
    if not any(isinstance(e, Tensor) for e in fixed):
        return [float(e) for e in fixed], bounds
    columns = [
        on_device(e, integrand.dtype, integrand.device).expand(integrand.batch_shape)
        for e in fixed
    ]
    return torch.stack(columns, -1), bounds
