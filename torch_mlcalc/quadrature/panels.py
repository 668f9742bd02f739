"""Panels: an adaptive mesh on which an integrand is a piecewise polynomial.

Rules for one integral need only its value; an antiderivative needs the integrand
everywhere between its limits. Here the range is divided until the Legendre series of
the integrand on each panel has ended, so that the series can be integrated from the
left end of its panel to any point of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

from torch_mlcalc.quadrature.estimate import Status, Tolerance
from torch_mlcalc.quadrature.evaluator import Evaluator
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE, WHOLE
from torch_mlcalc.quadrature.rules import Array

#: Nodes of a panel. The twelve integrands of tests/quadrature/test_cumulative.py need
#: 8592 evaluations with 16, and 19560, 8496, 11016 and 13632 with 8, 12, 24 and 32;
#: those with many features fewest with 12, smooth ones with 16.
NODES = 16

#: Equal panels to begin with: an odd function of the middle is not taken for nothing.
FIRST = 4

#: Width at which a panel at 0 is not divided any more. Beyond it x^-0.9 has 1e-10 of
#: its integral from 0 to 1, and 1/x still as much as anywhere.
LEAST = 1e-100

#: QUADPACK's factor for rounding, as in ledger.py.
ROUNDING = 50.0

Index = npt.NDArray[Any]


class Reach(NamedTuple):
    """The range of each antiderivative, in which a variable ``u`` runs from 0 to 1.

    ``kind`` says which ends are infinite; a finite range is ``anchor + scale * u``, and
    the others are rational in ``u``. All are float64 and broadcast with ``u``: arrays
    on the host, where a mesh is found, and tensors where it is used.
    """

    kind: Any
    anchor: Any
    scale: Any

    def points(self, u: Any) -> tuple[Any, Any]:  # noqa: ANN401
        r"""Points and their derivative by ``u``.

        .. math:: x = a + s u, \quad a + s \frac{u}{1 - u}, \quad
            a - s \frac{1 - u}{u}, \quad a + s \frac{z}{1 - z^2}, \; z = 2 u - 1

        Returns:
            Both, of the shape of ``u``.
        """
        kind, anchor, scale = self
        where: Any = torch.where if isinstance(u, Tensor) else np.where
        z, gap = 2 * u - 1, 4 * u * (1 - u)
        position, slope = z / gap, 2 * (1 + z * z) / gap**2
        for which, own, own_slope in (
            (FINITE, u, u * 0 + 1),
            (ABOVE, u / (1 - u), 1 / (1 - u) ** 2),
            (BELOW, -(1 - u) / u, 1 / u**2),
        ):
            position = where(kind == which, own, position)
            slope = where(kind == which, own_slope, slope)
        return anchor + scale * position, scale * slope

    def variable(self, x: Any) -> Any:  # noqa: ANN401
        """The value of ``u`` at points within the range, infinite ones included."""
        kind, anchor, scale = self
        xp: Any = torch if isinstance(x, Tensor) else np
        where = xp.where
        y = (x - anchor) / where(scale > 0, scale, 1.0)
        u = (1 + 2 * y / (1 + xp.sqrt(1 + 4 * y * y))) / 2
        u = where(kind == FINITE, y, u)
        u = where(kind == ABOVE, y / (1 + y), u)
        u = where(kind == BELOW, 1 / (1 - y), u)
        u = where(xp.isinf(x), where(x > 0, 1.0, 0.0), u)
        return u.clip(0, 1)


def at_end(reach: Reach, points: Any) -> Any:  # noqa: ANN401
    """Where rounding has put points on an end of their range."""
    # There the integrand may be infinite; the mass beyond is that of rounding itself.
    finite = reach.kind != WHOLE
    low = (reach.kind != BELOW) & finite & (points == reach.anchor)
    end = reach.anchor + reach.scale * (reach.kind == FINITE)
    return low | ((reach.kind != ABOVE) & finite & (points == end))


class Series(NamedTuple):
    """What turns values at the nodes of a panel into a Legendre series."""

    nodes: Array
    transform: Array


@lru_cache(maxsize=8)
def series(n: int) -> Series:
    """Gauss-Legendre nodes, and the matrix from values to Legendre coefficients."""
    nodes, weights = special.roots_legendre(n)
    k = np.arange(n)[:, None]
    transform = (2 * k + 1) / 2 * weights * special.eval_legendre(k, nodes)
    for array in (nodes, transform):
        array.setflags(write=False)
    return Series(nodes, transform)


@dataclass
class Found:
    """A mesh: edges in ``u``, ``(panels + 1, elements)``, 1 where padded; outcome."""

    edges: Array
    status: Index
    error: Array
    n_evals: Index


class _Panels(NamedTuple):
    element: Index
    low: Array
    high: Array
    error: Array
    absolute: Array
    broken: npt.NDArray[np.bool_]

    def take(self, index: Index) -> _Panels:
        return _Panels(*(column[index] for column in self))


def find_panels(
    evaluate: Evaluator,
    reach: Reach,
    inner: Array,
    tolerance: Tolerance,
    epsilon: float,
    max_evals: int,
) -> Found:
    """Divide the range of every element until its series have ended.

    Args:
        evaluate: The integrand.
        reach: The ranges, ``(elements,)``.
        inner: Breakpoints in ``u``, ``(k, elements)``.
        tolerance: Wanted error, relative to the integral of the absolute value.
        epsilon: Relative rounding error of one value.
        max_evals: Points that each element may use.

    Returns:
        The mesh.
    """
    elements = evaluate.elements
    n_evals = np.zeros(elements, dtype=np.int64)
    if not elements:
        return Found(np.ones((2, 0)), n_evals, np.zeros((0, 1)), n_evals)
    done: list[_Panels] = []
    new = _first(inner, elements)
    fault = np.zeros(elements, dtype=np.int64)
    while new.element.size:
        np.add.at(n_evals, new.element, NODES)
        new = _measure(evaluate, reach, new)
        every = [*done, new]
        owner = np.concatenate([p.element for p in every])
        error = _summed(owner, [p.error for p in every], elements)
        absolute = _summed(owner, [p.absolute for p in every], elements)
        allowed = np.maximum(tolerance.atol, tolerance.rtol * absolute)
        allowed = np.maximum(allowed, epsilon * ROUNDING * absolute)
        count = np.bincount(owner, minlength=elements)[:, None]
        e = new.element
        miss = ((error > allowed)[e] & (new.error > (allowed / count)[e])).any(1)
        miss |= new.broken
        narrow = _narrow(new)
        cost = 2 * NODES * np.bincount(e[miss], minlength=elements)
        poor = (n_evals + cost > max_evals)[e]
        split = miss & ~narrow & ~poor
        kept = miss & ~split
        at_end = (new.low == 0) | (new.high == 1)
        _blame(fault, e[kept], Status.TOLERANCE_NOT_REACHED)
        _blame(fault, e[kept & narrow & at_end], Status.SUSPECTED_DIVERGENT)
        _blame(fault, e[kept & new.broken & ~at_end], Status.NON_FINITE)
        done.append(new.take(~split))
        new = _halves(new.take(split))
    settled = _Panels(*(np.concatenate(c) for c in zip(*done, strict=True)))
    error = _summed(settled.element, [settled.error], elements)
    absolute = _summed(settled.element, [settled.absolute], elements)
    allowed = np.maximum(tolerance.atol, tolerance.rtol * absolute)
    allowed = np.maximum(allowed, epsilon * ROUNDING * absolute)
    reached = (error <= allowed).all(1) & (fault < Status.NON_FINITE)
    status = np.where(reached, 0, np.maximum(fault, Status.TOLERANCE_NOT_REACHED))
    return Found(_edges(settled, elements), status, error, n_evals)


def _blame(fault: Index, element: Index, status: Status) -> None:
    np.maximum.at(fault, element, int(status))


def _first(inner: Array, elements: int) -> _Panels:
    grid = np.tile(np.linspace(0, 1, FIRST + 1)[:, None], elements)
    edges = np.sort(np.concatenate([grid, np.clip(inner, 0, 1)]), axis=0)
    low, high = edges[:-1], edges[1:]
    element = np.broadcast_to(np.arange(elements), low.shape)
    some = high > low
    return _blank(element[some], low[some], high[some])


def _blank(element: Index, low: Array, high: Array) -> _Panels:
    nothing = np.zeros((element.size, 0))
    return _Panels(element, low, high, nothing, nothing, np.zeros(element.size, bool))


def _halves(panels: _Panels) -> _Panels:
    middle = (panels.low + panels.high) / 2
    return _blank(
        np.concatenate([panels.element, panels.element]),
        np.concatenate([panels.low, middle]),
        np.concatenate([middle, panels.high]),
    )


def _measure(evaluate: Evaluator, reach: Reach, panels: _Panels) -> _Panels:
    """The panels with the error of their series and the integral of the absolute."""
    nodes, transform = series(NODES)
    half = (panels.high - panels.low) / 2
    u = panels.low + half + half * nodes[:, None]
    with np.errstate(all="ignore"):
        own = Reach(*(t[panels.element] for t in reach))
        points, slope = own.points(u)
        if evaluate.single:
            points = points.astype(np.float32).astype(float)
        values = evaluate(panels.element, points)
        values = values * (slope * half)[..., None]
    finite = np.isfinite(values).all(-1)
    values = np.where(finite[..., None], values, 0)
    finite |= at_end(own, points)
    size = np.abs(contract(transform, values))
    # The last two coefficients: one of them may vanish by symmetry.
    error = size[-2:].max(0)
    absolute = contract(2 * transform[:1], np.abs(values))[0]
    broken = ~finite.all(0)
    # A broken panel claims nothing, unless rounding has made it: at a singular end.
    error[broken & ~_narrow(panels)] = np.inf
    return panels._replace(error=error, absolute=absolute, broken=broken)


def _narrow(panels: _Panels) -> npt.NDArray[np.bool_]:
    least = np.maximum(8 * np.finfo(float).eps * panels.high, LEAST)
    narrow: npt.NDArray[np.bool_] = panels.high - panels.low <= least
    return narrow


def _summed(element: Index, columns: list[Array], elements: int) -> Array:
    column = np.concatenate(columns)
    total = np.zeros((elements, column.shape[1]))
    np.add.at(total, element, column)
    return total


def _edges(panels: _Panels, elements: int) -> Array:
    count = np.bincount(panels.element, minlength=elements)
    order = np.lexsort((panels.low, panels.element))
    element, low = panels.element[order], panels.low[order]
    slot = np.arange(element.size) - (np.cumsum(count) - count)[element]
    edges = np.ones((int(count.max(initial=0)) + 1, elements))
    edges[slot, element] = low
    return edges
