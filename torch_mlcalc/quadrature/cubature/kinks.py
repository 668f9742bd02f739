"""Kinks and jumps across an axis, found by looking along lines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cubature.genz_malik_table import (
    count_nodes,
    symmetric_table,
)
from torch_mlcalc.quadrature.cubature.regions import Regions
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array

Mask = npt.NDArray[Any]

#: Points on a line in one look; the next look is at two of their gaps.
POINTS = 33

#: Looks. Each narrows a line by 16, so that a jump is known to 16^-12 = 4e-15.
LOOKS = 12

#: A second difference that falls by more than 16^-1.5 from one look to the next is that
#: of something smooth (16^-2); a kink's falls by 16^-1, a jump's stays.
SMOOTH = 16.0**-1.5


def find_kinks(search: CubeSearch, owner: Index) -> Array:
    """Where integrands bend or jump across an axis.

    Every axis is looked at along one line, through the node of a symmetric rule at
    which the integrand is largest, and narrowed to the largest second difference as
    long as that shrinks more slowly than in something smooth. What moves from line to
    line is not found this way, but what does not is found to the last digits.

    Args:
        search: The integrals.
        owner: Which of them, ``(m)``.

    Returns:
        One place for each axis, ``(m, d)``; nan where there is none.
    """
    d, m = search.dimension, owner.size
    base = _largest(search, owner)
    low, high = np.zeros((m, d)), np.ones((m, d))
    found = np.ones((m, d), dtype=bool)
    before = np.full((m, d), np.nan)
    # The first look stays inside; all others are between two points of the one before.
    steps = (0.5 + np.arange(POINTS)) / POINTS
    for look in range(LOOKS):
        width = high - low
        places = low + width * steps[:, None, None]
        values = _along(search, owner, base, places)
        second = np.abs(values[2:] - 2 * values[1:-1] + values[:-2])
        top, largest = second.argmax(0), second.max(0)
        noise = 64 * search.ledger.epsilon * np.abs(values).max(0)
        if look:
            with np.errstate(divide="ignore", invalid="ignore"):
                found &= (largest >= SMOOTH * before) | (largest <= noise)
        else:
            found &= largest > noise
        # Below the noise of the integrand there is nothing more to see.
        going = found & (largest > noise)
        if not going.any():
            break
        before = largest
        low, high = (
            np.where(going, low + width * steps[top], low),
            np.where(going, low + width * steps[top + 2], high),
        )
        steps = np.linspace(0, 1, POINTS)
    inside = (low > 1e-9) & (high < 1 - 1e-9)
    return np.where(found & inside, (low + high) / 2, np.nan)


def cost(dimension: int) -> int:
    """Points that :func:`find_kinks` may use for each integral."""
    return count_nodes(7, dimension) + LOOKS * POINTS * dimension


def cut_at(regions: Regions, owner: Index, places: Array) -> Regions:
    """Whole cubes cut at one place on each axis, where there is one."""
    elements = int(owner.max()) + 1
    for axis in range(places.shape[1]):
        full = np.full(elements, np.nan)
        full[owner] = places[:, axis]
        place = full[regions.owner]
        some = ~np.isnan(place)
        if some.any():
            cuts = regions.take(some)
            own = np.full(cuts.owner.size, axis)
            parts = cuts.cut(own, place[some])
            regions = Regions(
                *(
                    np.concatenate([a, b])
                    for a, b in zip(regions.take(~some), parts, strict=True)
                )
            )
    return regions


def _largest(search: CubeSearch, owner: Index) -> Array:
    """The node at which each integrand is largest, ``(m, d)``."""
    nodes = symmetric_table(7, search.dimension).nodes
    points = np.broadcast_to(
        nodes[:, None], (len(nodes), owner.size, search.dimension)
    ).copy()
    values = search.evaluate(owner, points)
    search.ledger.count(owner, len(nodes))
    size = _size(values, log=search.ledger.log)
    return nodes[size.argmax(0)]


def _along(search: CubeSearch, owner: Index, base: Array, places: Array) -> Array:
    """Values ``(k, m, d)`` on a line along each axis through the base."""
    k, m, d = places.shape
    points = np.broadcast_to(base[:, None], (k, m, d, d)).copy()
    axis = np.arange(d)
    points[:, :, axis, axis] = places
    values = search.evaluate(np.repeat(owner, d), points.reshape(k, m * d, d))
    search.ledger.count(owner, k * d)
    return _size(values, log=search.ledger.log).reshape(k, m, d)


def _size(values: npt.NDArray[Any], *, log: bool) -> Array:
    """One real number for each value: the sum of its events; finite."""
    if log:
        top = np.where(np.isfinite(values), values, -np.inf).max()
        values = np.exp(values - (top if np.isfinite(top) else 0.0))
    values = np.where(np.isfinite(values), values, 0.0)
    total: Array = (values.real + values.imag).sum(-1)
    return total
