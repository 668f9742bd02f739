r"""Panels of a distribution function, on the nodes that its normaliser has anyway.

A Kronrod cell is a panel: the polynomial through its nodes is integrated exactly. Of an
even run in a double-exponential variable the sinc series through all nodes,

.. math:: g(v) = \sum_k g(k h)\,\frac{\sin \pi (v / h - k)}{\pi (v / h - k)},

is written as Legendre series on panels of four steps. Both are linear in the values, so
that a matrix, the same for all columns, makes series of them.

A normaliser is right to the square of what its nodes tell about the density in between:
a sum of step h knows the Fourier transform of g up to :math:`2 \pi / h`, a series up to
half of that. So the error of each panel is estimated, and where it is not small enough
yet, a cell is halved and a run gets the nodes between its own.

References:
    F. Stenger, "Numerical Methods Based on Sinc and Analytic Functions", Springer 1993,
    sections 3.1 and 3.6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from torch_mlcalc.density.plan_nodes import LONGEST, Columns, Mask
from torch_mlcalc.density.rule_nodes import Polynomial, polynomial
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.kronrod import kronrod_table
from torch_mlcalc.quadrature.panels import series
from torch_mlcalc.quadrature.pieces import Index
from torch_mlcalc.quadrature.rules import Array

#: Terms of the series on a panel of a run, and its steps: what has a wave of two steps
#: at most has terms of 1e-12 of that wave's from the 22nd on.
TERMS, STEPS = 21, 4

#: Nodes at a finite end whose terms are more than this of the largest one go on beyond
#: it: what lies there is more than rounding.
MATTERS = 1e-14

#: By how much of the variable two nodes differ that tell the power of an end.
APART = 0.25

#: How far runs are continued; by then a power of the distance of -0.99 has 1e-3 left.
BEYOND = 3.0

#: Distance in units of a range below which rounding moves a node.
CLOSE = 1e-6

#: Frequencies, in units of that of the nodes, at which the transform of a run is looked
#: at, since at one of them it may vanish.
PROBES = np.array([7 / 8, 15 / 16, 1.0])

#: How much more than the rounding of points counts.
NOISE = 4.0

#: Kronrod nodes of the halves of a rule, as many as integrals have by default.
CELL = 21

#: Halvings at most; a kink, which takes most, has cells of its own by then.
MOST = 12

Evaluate = Callable[[Index, Array], Array]


class Beyond(NamedTuple):
    r"""How a run goes on at an end where a density is a power of the distance.

    The log density at a node beyond, or one that rounding has moved, is

    .. math:: \ell_i + r\,(\ell_i - \ell_j)

    of two nodes inside, so that it has their derivatives.

    Attributes:
        added: Nodes that are added on either side.
        one: Number of the first node, ``(k, m)``.
        other: Number of the second.
        rate: The factor r.
    """

    added: int
    one: Index
    other: Index
    rate: Array


class Block(NamedTuple):
    """Columns of nodes, and what makes series of the values there.

    Attributes:
        columns: The nodes.
        beyond: How they go on; None if they end.
        scale: Logs of what the density is multiplied by; minus infinity where a node
            does not belong to its column. ``(k, m)``.
        matrix: From the products to the terms of the panels, ``(panels, terms, k)``.
        edges: Edges of the panels in the variable, ``(panels + 1, m)``.
    """

    columns: Columns
    beyond: Beyond | None
    scale: Array
    matrix: Array
    edges: Array


def blocks_of(
    evaluate: Evaluate, columns: list[Columns], tolerance: float, budget: int
) -> tuple[list[Block], bool]:
    """Panels that are good enough.

    Args:
        evaluate: Log densities at nodes ``(k, m)`` of elements ``(m,)``.
        columns: Nodes to begin with.
        tolerance: Wanted error of each distribution function.
        budget: Nodes that each may have.

    Returns:
        The panels, and whether all of them are.
    """
    done: list[Block] = []
    good = True
    todo = [(one, evaluate(one.element, one.x)) for one in columns]
    for _ in range(MOST):
        if not todo:
            break
        every = [block.columns for block in done] + [one for one, _ in todo]
        owner = np.concatenate([one.element for one in every])
        size = np.concatenate([np.full(one.element.size, len(one.x)) for one in every])
        parts, nodes = np.bincount(owner), np.bincount(owner, size)
        following: list[tuple[Columns, Array]] = []
        for one, logs in todo:
            block = _block(one, logs)
            error = _error(block, logs)
            poor = error > tolerance / parts[one.element]
            able = ~_narrow(one) & (nodes[one.element] <= budget)
            good &= bool(able[poor].all())
            poor &= able
            if not poor.all():
                # Made anew, as a run of fewer columns may be shorter.
                done.append(_block(*one.take(logs, ~poor)))
            if poor.any():
                following.append(_refined(evaluate, *one.take(logs, poor)))
        todo = following
    return [*done, *(_block(one, logs) for one, logs in todo)], good and not todo


def _narrow(columns: Columns) -> Mask:
    """Which columns are at the end of what halving can do."""
    if columns.step:
        return np.full(columns.element.size, 2 * len(columns.x) > LONGEST)
    scale = np.maximum(np.abs(columns.low), np.abs(columns.high))
    narrow: Mask = columns.high - columns.low <= 64 * np.finfo(float).eps * scale
    return narrow


def _refined(
    evaluate: Evaluate, columns: Columns, logs: Array
) -> tuple[Columns, Array]:
    """Halves of cells, or runs with the nodes between."""
    element, span, low, high, x, step, epsilon, rule = columns
    if not step:
        middle = (low + high) / 2
        halves = Columns(
            np.tile(element, 2),
            span.take(np.tile(np.arange(element.size), 2)),
            np.concatenate([low, middle]),
            np.concatenate([middle, high]),
            np.tile(x[:1] if rule else x, (CELL if rule else 1, 2)),
            0.0,
            epsilon,
        )
        halves = halves._replace(x=halves.ranges.points(halves.v)[0])
        return halves, evaluate(halves.element, halves.x)
    between = columns.v[:-1] + step / 2
    inside = (between > low) & (between < high)
    new = np.where(inside, span.points(between)[0], x[:-1])
    finer = np.empty((2 * len(x) - 1, element.size))
    values = np.empty_like(finer)
    finer[::2], finer[1::2] = x, new
    values[::2], values[1::2] = logs, evaluate(element, new)
    return Columns(element, span, low, high, finer, step / 2, epsilon), values


def _block(columns: Columns, logs: Array) -> Block:
    """The panels of some columns."""
    if not columns.step:
        half = (columns.high - columns.low) / 2
        _, slope = columns.ranges.points(columns.v)
        cuts, matrix, _ = _cell(columns)
        edges = columns.low + half * (1 + cuts[:, None])
        return Block(columns, None, slope + np.log(half), matrix, edges)
    beyond = _beyond(columns, logs)
    first, count, step = columns.first, len(columns.x), columns.step
    v, inside = columns.v, columns.inside
    if beyond is not None:
        first, count = first - beyond.added, len(beyond.one)
        v = (first + np.arange(count))[:, None] * step
        # An end that does not go on has nothing behind it.
        inside = np.pad(inside, ((beyond.added, beyond.added), (0, 0)))
        inside = inside | (beyond.rate != 0)
    _, slope = columns.ranges.points(v)
    scale = np.where(inside, slope + math.log(STEPS / 2 * step), -np.inf)
    low = np.rint(np.where(inside, v, np.inf).min(0) / step)
    high = np.rint(np.where(inside, v, -np.inf).max(0) / step)
    # From at least a step below the first node of each to one above its last.
    begin, end = np.floor((low - 1) / STEPS), np.ceil((high + 1) / STEPS)
    grid = np.arange(begin.min(), end.max() + 1)[:, None]
    edges = STEPS * step * np.clip(grid, begin, end)
    offset = round(STEPS * begin.min()) - first
    matrix = _sinc(offset, len(grid) - 1, count)
    return Block(columns, beyond, scale, matrix, edges)


def _cell(columns: Columns) -> Polynomial:
    """What makes series of the values of a cell."""
    found = None if columns.rule is None else polynomial(columns.rule)
    return found or _kronrod(len(columns.x))


@lru_cache(maxsize=8)
def _kronrod(n: int) -> Polynomial:
    """From values at Kronrod nodes to Legendre coefficients, on one panel."""
    nodes, _ = kronrod_table(n)
    matrix = np.linalg.inv(np.polynomial.legendre.legvander(nodes, n - 1))
    return Polynomial(np.array([-1.0, 1.0]), matrix[None], matrix[-2:])


@lru_cache(maxsize=32)
def _sinc(offset: int, panels: int, count: int) -> Array:
    """From values of a run to the series on panels, ``(panels, TERMS, count)``.

    Args:
        offset: Steps from the first node to the first edge.
        panels: Number of panels.
        count: Number of nodes.

    Returns:
        The matrix.
    """
    nodes, transform = series(TERMS)
    at = offset + STEPS * (np.arange(panels)[:, None] + (1 + nodes) / 2)
    return transform @ np.sinc(at[..., None] - np.arange(count))


def products(block: Block, logs: Array) -> Array:
    """The density times slope at all nodes, ``(k, m)``."""
    if block.beyond is not None:
        _, one, other, rate = block.beyond
        column = np.arange(logs.shape[1])
        here, there = logs[one, column], logs[other, column]
        logs = np.where(rate == 0, here, here + rate * (here - there))
    values = np.exp(logs + block.scale)
    return np.where(np.isfinite(values), values, 0)


def _error(block: Block, logs: Array) -> Array:
    """Estimate of the error of the integral of the series of each column.

    Returns:
        The estimate; 0 where it is not more than rounding, which no more nodes mend.
    """
    values, noise = products(block, logs), _noise(block, logs)
    if not block.columns.step:
        # The last two: one of them may vanish by symmetry. The integral of the term of
        # degree k is at most so much smaller: (P[k+1] - P[k-1]) / (2 k + 1).
        size = np.abs(contract(_cell(block.columns).tail, values)).max(0)
        part = 1 / len(values) ** 1.5
    else:
        angle = math.pi * PROBES[:, None] * np.arange(len(values))
        parts = contract(np.cos(angle), values), contract(np.sin(angle), values)
        # Values are for half a panel each; an integral divides by the frequency.
        size, part = np.hypot(*parts).max(0), 2 / STEPS * block.columns.step / math.pi
    return np.where(size > NOISE * noise, size * part, 0)


def _noise(block: Block, logs: Array) -> Array:
    """What rounding of the points does to the products of each column."""
    x, beyond = block.columns.x, block.beyond
    steep = np.abs(np.diff(logs, axis=0) / np.diff(x, axis=0))
    steep = np.where(np.isfinite(steep), steep, 0)
    steep = np.maximum(np.pad(steep, ((1, 0), (0, 0))), np.pad(steep, ((0, 1), (0, 0))))
    moved = block.columns.epsilon * (1 + steep * np.abs(x))
    values = products(block, logs)
    if beyond is not None:
        inner = slice(beyond.added, beyond.added + len(x))
        # Those next to an end are put where they belong.
        values = np.where(beyond.rate == 0, values, 0)[inner]
    return np.sqrt(((moved * values) ** 2).sum(0))


def _beyond(columns: Columns, logs: Array) -> Beyond | None:
    """How runs go on behind their ends, if that matters to any of them."""
    v, inside, step = columns.v, columns.inside, columns.step
    x, slope = columns.ranges.points(v)
    with np.errstate(all="ignore"):
        size = np.where(inside, np.exp(logs + slope), 0)
    most, m = np.nanmax(size, axis=0, initial=0), np.arange(x.shape[1])
    first = inside.argmax(0)
    last = len(v) - 1 - inside[::-1].argmax(0)
    count = math.ceil(BEYOND / step)
    rows = np.arange(-count, len(v) + count)[:, None]
    one = np.clip(rows, first, last)
    other, rate = one.copy(), np.zeros(one.shape)
    apart = max(1, round(APART / step))
    wanted = columns.ranges.log_distances(rows * step + v[0])
    span = columns.ranges
    for side, (outer, sign) in enumerate([(first, 1), (last, -1)]):
        known = np.abs(columns.x - (span.begin, span.end)[side])
        power = size[outer, m] > MATTERS * most
        power &= np.isfinite(wanted[side]).any(0)
        if not power.any():
            continue
        known = np.log(known)
        close = wanted[side] - np.log(span.unit) < math.log(CLOSE)
        beyond = rows < outer if sign == 1 else rows > outer
        inner = np.clip(one + sign * apart, first, last)
        run = known[one, m] - known[inner, m]
        some = power & (close | beyond) & np.isfinite(run) & (run != 0)
        some &= (rows >= first - count) & (rows <= last + count)
        own = (wanted[side] - known[one, m]) / np.where(some, run, 1)
        rate = np.where(some, own, rate)
        other = np.where(some, inner, other)
    return Beyond(count, one, other, rate) if (rate != 0).any() else None
