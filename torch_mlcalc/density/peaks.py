"""Where a density is high, as the nodes of its normaliser saw it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.density.support import extent_of
from torch_mlcalc.quadrature.domains import Domain, HalfLine, Limit, RealLine
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.integrate import log_integrate
from torch_mlcalc.quadrature.problem import Breakpoints, as_breakpoints
from torch_mlcalc.quadrature.rules import Array

if TYPE_CHECKING:
    from torch_mlcalc.density.normalized import NormalizedDensity

#: Peaks of a density at which its panels are split to begin with.
PEAKS = 6

#: Width in units of the interval below which 21 nodes may not see a peak: their largest
#: distance is 0.07, and one at 0.035 from a normal peak of this width sees exp(-38).
NARROW = 0.01

#: By how much the width of a peak and that for which a domain places nodes may differ
#: for these to do, since the normaliser has been there already. Mean, variance, entropy
#: and an expectation of each of the 22 densities of the tests took 5,230 evaluations
#: with nodes of their own, and 5,128, 3,889, 3,569 and 3,569 with 2, 4, 8 and 16.
NEAR = 8.0


class Peaks(NamedTuple):
    """Where each density is high, as the nodes of its normaliser saw it.

    Attributes:
        at: Where most mass is, ``(*batch)``.
        width: Mass over density there, ``(*batch)``.
        every: Peaks, the highest first, ``(k, *batch)``.
    """

    at: Tensor
    width: Tensor
    every: Tensor

    @staticmethod
    def of(density: NormalizedDensity) -> Peaks:
        """Look at the nodes of the normaliser."""
        with torch.no_grad():
            at, height, every = _peaks(density)
            width = torch.exp(density.log_normalizer.detach() - height)
            width = torch.where((width > 0) & width.isfinite(), width, 1)
        return Peaks(at, width, every)

    def place(
        self, domain: Domain, breakpoints: Breakpoints | None, near: float
    ) -> tuple[Domain, Breakpoints | None]:
        """The domain and breakpoints that show the mass to a rule not in log form.

        Args:
            domain: The domain of the normaliser.
            breakpoints: Its breakpoints.
            near: By which factor another width than that of the domain will do.

        Returns:
            Both; where the domain will do its own placing, whose nodes are known.
        """
        lower, upper, loc, scale = extent_of(domain)
        width, reach = self.width, self.at - lower + self.width
        if isinstance(domain, RealLine):
            fits = _near(width, scale, near) & ((self.at - loc).abs() < width + scale)
            at = torch.where(fits, loc, self.at)
            return RealLine(at, torch.where(fits, scale, width)), breakpoints
        if isinstance(domain, HalfLine):
            scale = torch.where(_near(reach, scale, near), scale, reach)
            return HalfLine(lower, scale), breakpoints
        # In a narrow interior peak only: at singular ends nodes gather by themselves.
        far = torch.minimum(self.at - lower, upper - self.at)
        narrow = (self.width < NARROW * (upper - lower)) & (far > 8 * self.width)
        if not (read(narrow) > 0).any():
            return domain, breakpoints
        sides = torch.stack([self.at + k * self.width for k in (-4, 0, 4)])
        sides = torch.where(narrow, sides, lower)
        if breakpoints is not None:
            given = as_breakpoints(breakpoints).to(sides)
            own = (1,) * (sides.ndim - given.ndim)
            given = given.reshape(given.shape[:1] + own + given.shape[1:])
            sides = torch.cat([sides, given.expand(-1, *sides.shape[1:])])
        return domain, sides


def _near(wanted: Tensor, scale: Limit, factor: float) -> Tensor:
    return (wanted < factor * scale) & (wanted * factor > scale)


def _peaks(density: NormalizedDensity) -> tuple[Tensor, Tensor, Tensor]:
    """Where most mass is, the log density there, and peaks, the highest first.

    Most mass is where density times distance from the nearest end is largest: near a
    singular end the density alone is infinite on next to nothing.

    Returns:
        Two tensors ``(*batch)`` and one ``(k, *batch)``.
    """
    batch = tuple(density.batch_shape)
    count = int(np.prod(batch, dtype=int))
    element, x, value, distance = seen(density)
    order = np.lexsort((x, element))
    element, x, value = element[order].astype(int), x[order], value[order]
    value = np.where(np.isnan(value), -np.inf, value)
    with np.errstate(divide="ignore", invalid="ignore"):
        mass = value + np.log(distance[order])
    mass = np.where(np.isnan(mass), -np.inf, mass)
    most = _first_of_each(element, np.lexsort((-mass, element)))
    at, height = np.zeros(count), np.zeros(count)
    at[element[most]], height[element[most]] = x[most], value[most]
    edge = np.flatnonzero(np.diff(element)) + 1
    before = np.concatenate([[-np.inf], value[:-1]])
    after = np.concatenate([value[1:], [-np.inf]])
    before[edge], after[edge - 1] = -np.inf, -np.inf
    peak = np.flatnonzero((value >= before) & (value > after))
    peak = peak[np.lexsort((-value[peak], element[peak]))]
    rank = np.arange(peak.size) - np.searchsorted(element[peak], element[peak])
    # Where there are fewer peaks, the place of most mass stands for the others.
    table = np.tile(at, (PEAKS, 1))
    keep = rank < PEAKS
    table[rank[keep], element[peak[keep]]] = x[peak[keep]]

    def tensor(array: Array) -> Tensor:
        own = torch.as_tensor(array, device=density.device).to(density.dtype)
        return own.reshape((*array.shape[:-1], *batch))

    return tensor(at), tensor(height), tensor(table)


def _first_of_each(element: Array, order: Array) -> Array:
    """Of an order that is by element first, the first entry of each element."""
    return order[np.diff(element[order], prepend=-1) > 0]


class Seen(NamedTuple):
    """Element, point, value and distance from an end, at the normaliser's nodes."""

    element: Array
    point: Array
    value: Array
    distance: Array


def seen(density: NormalizedDensity) -> Seen:
    """What the normaliser has seen, in the order of its nodes."""
    batch = tuple(density.batch_shape)
    count = int(np.prod(batch, dtype=int))
    index = torch.arange(count, device=density.device).reshape(batch)
    lower, upper = (
        torch.as_tensor(t, dtype=density.dtype, device=density.device).expand(batch)
        for t in extent_of(density.domain)[:2]
    )
    rows: list[list[Array]] = []
    known = density._known

    def record(
        points: Tensor,
        index: Tensor,
        lower: Tensor,
        upper: Tensor,
        *args: Any,  # noqa: ANN401
    ) -> Tensor:
        values = known(points, *args)
        distance = torch.minimum(points - lower, upper - points)
        distance = torch.where(distance.isinf(), 1, distance)
        columns = (index.expand_as(points), points, values, distance)
        rows.append([read(column).ravel() for column in columns])
        return values

    log_integrate(
        record,
        density.domain,
        density._plan,
        args=(index, lower, upper, *known.args),
        batch_shape=batch,
        breakpoints=density.breakpoints,
    )
    found = Seen(*(np.concatenate(column) for column in zip(*rows, strict=True)))
    if found.element.size != found.point.size:
        raise NotImplementedError(
            "a density has no cdf, quantiles, samples or mode inside of vmap; pass the "
            "mapped tensors to it as a batch, by args= and batch_shape=."
        )
    return found
