"""A larger rule and lines along the axes in one call, for a single rough integrand.

A call takes as long as a thousand points in it. Where the first two rules find an
integrand rough, lines through its largest value show whether that is a kink.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from torch_mlcalc.quadrature.cubature.along import NODES, Lines, Probe, lines_of
from torch_mlcalc.quadrature.cubature.climbed import Climbed, Sum, sums_of_one
from torch_mlcalc.quadrature.cubature.fitted import fit, fit_parts
from torch_mlcalc.quadrature.cubature.grown import OnGrid, grow, on_whole
from torch_mlcalc.quadrature.cubature.kinks import eased
from torch_mlcalc.quadrature.cubature.ladder import FITTED, Stage, stage_of
from torch_mlcalc.quadrature.cubature.parts import (
    Fitted,
    between,
    climb_parts,
    cut_places,
)
from torch_mlcalc.quadrature.cubature.regions import gauss_table
from torch_mlcalc.quadrature.cubature.single_kinks import Kinks, find_kinks_single
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.rules import Array

#: Points on a line on the plane: as many as place the kinks of Genz's continuous family
#: of difficulty 1 at 1e-3. What needs more is looked at again. In 3 dimensions they are
#: the nodes that tell how many a rule needs.
POINTS = 257

#: The step of the ladder that is the first between kinks on the plane, where its 1,156
#: points take a tenth longer than the 320 of the step before.
BETWEEN = 2

#: Last coefficients, as a part of the size, up to which the step before is tried first:
#: those of Genz's continuous family of difficulty 0.3 are 0.27, of 1 they are 1.7.
GENTLE = 0.5


def leap(probe: Probe, begun: Climbed) -> tuple[Climbed, Fitted | None]:
    """Take a step further, and see what lines show.

    Args:
        probe: The integrand.
        begun: Where it stands: steep, with the node at which it was largest.

    Returns:
        Where it stands then, and the integral if that was enough.
    """
    terms, base, d = probe.terms, begun.base, probe.terms.dimension
    assert base is not None  # noqa: S101
    begun, step = begun._replace(steep=False), begun.step
    if d in FITTED and begun.misses(FITTED[d] - 1, terms):
        step = FITTED[d] - 1
    stage = stage_of(step, d, first=False)
    values = probe(_with_lines(stage, base))
    if values is None:
        return begun, None
    along, values = values[: -stage.n], values[-stage.n :]
    if d not in FITTED:
        return _on_plane(probe, begun, stage, along, values)
    grid = OnGrid.of(values, (stage.size,) * d)
    if not grid.absolute:
        return begun, None
    begun = begun.judged([grid.total(probe)], terms, step - begun.step + 1)
    begun, found = _in_space(probe, begun, base, along, grid)
    # Where tensor rules go on, the last of them tells that.
    if found is None and (begun.left or begun.fitted):
        begun = begun.seen(stage, values)
    return begun, found


def _on_plane(
    probe: Probe, begun: Climbed, stage: Stage, along: Values, values: Values
) -> tuple[Climbed, Fitted | None]:
    """The integral by tensor rules between kinks, or by this one."""
    spent, seen, base = probe.spent, begun.before, begun.base
    assert seen is not None and base is not None  # noqa: S101
    # Coefficients may fall by accident. Of 24,192 integrals of Genz's families in 2 and
    # 3 dimensions 16 were claimed falsely where lines did not count then, now 8.
    kinks = _kinks(probe, base, seen, along)
    if kinks is not None and not kinks.none:
        # What a jump leaves of coefficients tells nothing of what is beside it.
        gentle = kinks.jumps or seen.tail < GENTLE * seen.absolute
        parts = between(cut_places(kinks.places))
        found = climb_parts(probe, parts, begin=1 if gentle else BETWEEN)
        return begun._replace(left=found is None), found
    sums = sums_of_one(stage, values, probe.volume, probe.terms.epsilon)
    if not sums[0].absolute:
        return begun, None
    begun = begun.judged(sums, probe.terms)
    if begun.done:
        if probe.spent > spent:
            # A gradient flows through the values that were asked for last.
            probe(stage.table.nodes)
        total = sums[0]._replace(tail=begun.error)
        return begun, on_whole(total, (stage.size,) * 2)
    return (begun.seen(stage, values) if begun.left else begun), None


def _in_space(
    probe: Probe, begun: Climbed, base: Array, along: Values, grid: OnGrid
) -> tuple[Climbed, Fitted | None]:
    """The integral by what suits it, if that is enough."""
    seen, d = begun.before, len(base)
    assert seen is not None  # noqa: S101
    if begun.done:
        return begun, on_whole(seen._replace(tail=begun.error), grid.sizes)
    kinks = _kinks(probe, base, seen, along) if begun.rough else None
    if kinks is not None and not kinks.none:
        found = fit_parts(probe, seen, base, cut_places(kinks.places))
        return begun._replace(fitted=True), found
    if not (begun.left or begun.step >= FITTED[d]):
        return begun, None
    return _fitted(probe, begun, base, along, grid)


def _fitted(
    probe: Probe, begun: Climbed, base: Array, along: Values, grid: OnGrid
) -> tuple[Climbed, Fitted | None]:
    """The integral by a rule that is fitted to what is known."""
    seen, found = begun.before, None
    assert seen is not None  # noqa: S101
    if begun.step >= FITTED[len(base)]:
        found = grow(probe, grid, partial(_lines, probe, seen, along))
    if found is None:
        found = fit(probe, seen, base)
    return begun._replace(fitted=True), found


def _lines(probe: Probe, seen: Sum, along: Values) -> Lines:
    return lines_of(along, probe, [[0.0, 1.0]] * probe.terms.dimension, seen)


def _with_lines(stage: Stage, base: Array) -> Array:
    """Points on lines through one, and then the nodes of a rule, ``(n, d)``."""
    d = len(base)
    line = _line(d)
    k = len(line)
    points = np.empty((d, d * k + stage.n))
    points[:, : d * k] = base[:, None]
    for axis in range(d):
        points[axis, axis * k : (axis + 1) * k] = line
    points[:, d * k :] = stage.table.nodes.T
    return points.T


@lru_cache(maxsize=4)
def _line(d: int) -> Array:
    """Places on a line."""
    if d in FITTED:
        return gauss_table(NODES[d]).nodes
    return eased((0.5 + np.arange(POINTS)) / POINTS)


def _kinks(probe: Probe, base: Array, seen: Sum, along: Values) -> Kinks | None:
    """What the lines show of them."""
    d = len(base)
    return find_kinks_single(probe, base, seen, list(range(d)), (_line(d), along))
