"""A larger rule and lines along the axes in one call, for a single rough integrand.

A call takes as long as a thousand points in it. Where the first two rules find an
integrand rough, lines through its largest value show whether that is a kink.
"""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np

from torch_mlcalc.quadrature.cubature.along import NODES, Lines, Probe, lines_of
from torch_mlcalc.quadrature.cubature.climbed import Climbed, Sum
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
#: those of Genz's continuous family of difficulty 0.3 are 0.06, of 1 they are 0.4.
GENTLE = 0.1


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
    grid = OnGrid.of(values, (stage.size,) * d)
    if not grid.absolute:
        return begun, None
    begun = begun.judged([grid.total(probe)], terms, step - begun.step + 1)
    begun, found = _concluded(probe, begun, base, along, grid)
    # Where tensor rules go on, the last of them tells that.
    if found is None and (begun.left or begun.fitted):
        begun = begun.seen(stage, values)
    return begun, found


def _concluded(
    probe: Probe, begun: Climbed, base: Array, along: Values, grid: OnGrid
) -> tuple[Climbed, Fitted | None]:
    """The integral by what suits it, if that is enough."""
    d = len(base)
    assert begun.before is not None  # noqa: S101
    if begun.done:
        return begun, on_whole(begun.before._replace(tail=begun.error), grid.sizes)
    # Coefficients may fall by accident. Of 24,192 integrals of Genz's families in 2 and
    # 3 dimensions 16 were claimed falsely where lines did not count then, now 9.
    looks = begun.rough or d not in FITTED
    kinks = _kinks(probe, begun, base, along) if looks else None
    if kinks is not None and not kinks.none:
        return _between_kinks(probe, begun, base, kinks)
    if d not in FITTED or not (begun.left or begun.step >= FITTED[d]):
        return begun, None
    return _fitted(probe, begun, base, along, grid)


def _between_kinks(
    probe: Probe, begun: Climbed, base: Array, kinks: Kinks
) -> tuple[Climbed, Fitted | None]:
    """The integral by tensor rules on the parts, if they will do."""
    seen, parts = begun.before, cut_places(kinks.places)
    assert seen is not None  # noqa: S101
    if len(parts) in FITTED:
        return begun._replace(fitted=True), fit_parts(probe, seen, base, parts)
    # What a jump leaves of coefficients tells nothing of what is beside it.
    gentle = kinks.jumps or seen.tail < GENTLE * seen.absolute
    found = climb_parts(probe, between(parts), begin=1 if gentle else BETWEEN)
    return begun._replace(left=found is None), found


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


def _kinks(probe: Probe, begun: Climbed, base: Array, along: Values) -> Kinks | None:
    """What the lines show of them."""
    assert begun.before is not None  # noqa: S101
    d = len(base)
    known = _line(d), along
    return find_kinks_single(probe, base, begun.before, list(range(d)), known)
