"""Which deterministic rule looks at which integrals, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.cubature.genz_malik import (
    DEGREE,
    GenzMalik,
    attempt,
    subdivide,
)
from torch_mlcalc.quadrature.cubature.genz_malik_table import count_nodes
from torch_mlcalc.quadrature.cubature.kinks import cost, cut_at, find_kinks
from torch_mlcalc.quadrature.cubature.ladder import FITTED, RESUMED, STEEP
from torch_mlcalc.quadrature.cubature.parts import between, cut_places
from torch_mlcalc.quadrature.cubature.regions import (
    Regions,
    gauss_table,
    join_regions,
    no_regions,
    whole_cubes,
)
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.cubature.single import fit_single, is_single, probe_of
from torch_mlcalc.quadrature.cubature.single_kinks import find_kinks_single
from torch_mlcalc.quadrature.cubature.tensor import climb
from torch_mlcalc.quadrature.rules import Rule

Mask = npt.NDArray[Any]

#: Points for Genz and Malik's rule before tensor rules are tried, by dimension: once on
#: the whole, and where the first two of those have many, in as many as make these
#: unnecessary. In 5 dimensions halves take longer than 3,000 points.
ATTEMPTS = {4: 0, 5: 0, 6: 5_000, 7: 20_000, 8: 60_000}

#: The same before larger tensor rules are tried, about as many as the next of those.
RETRIES = {4: 5_000, 5: 30_000}

#: The same between kinks, for all parts together: those of 5 axes are 32, of which one
#: use of it needs 8,000 points, and the first two tensor rules 110,000.
PARTS = 40_000

#: Levels in which the last rule halves all regions. Before it others failed, so that
#: something is not smooth; where it moves across the axes, a region may still be smooth
#: at all nodes of one use, which then claims no error. Of 848 kinks and steps across
#: the axes in 2 to 4 dimensions 49 are claimed, and wrong by twice that, with 0,
#: 25 with 1, 22 with 2, 21 with 3. Of 648 of Genz's integrals in 2 to 8 dimensions 23
#: come so far, and take as many points as with 0.
DOUBTED = 2

#: Nodes on each axis of a domain without volume: the derivative by its limits, if a
#: plan is asked for one, is exact for integrands of degree 9.
FEW = 5


#: Dimensions in which a single integral has a way of its own.
SHORT = {*STEEP, *FITTED}


def run_tensor(search: CubeSearch) -> bool:
    """Tensor rules only; whether that was enough for all integrals."""
    cubes = whole_cubes(search.elements, search.pieces)
    empty = _without_volume(search)
    return not empty.any() and not climb(search, cubes).owner.size


def run(search: CubeSearch, rule: Rule | None) -> None:
    """Book every integral, by one rule or by what suits it."""
    cubes = whole_cubes(search.elements, search.pieces)
    empty = _without_volume(search)
    if empty.any():
        _keep_empty(search, cubes.take(empty[cubes.owner]))
        cubes = cubes.take(~empty[cubes.owner])
    regions = cubes
    if isinstance(rule, GenzMalik) and regions.owner.size:
        subdivide(search, regions, rule.degree)
    elif regions.owner.size:
        run_on(search, regions)


def run_on(search: CubeSearch, regions: Regions) -> None:
    """Book the integrals of some cubes, by what suits them."""
    with _last_resort_spared(search, regions):
        regions = _run_cheaper(search, regions)
    if regions.owner.size:
        subdivide(search, regions, DEGREE, DOUBTED)


@contextmanager
def _last_resort_spared(search: CubeSearch, regions: Regions) -> Iterator[None]:
    """Leave every integral the points for one use of the rule that is the last."""
    ledger, most = search.ledger, search.ledger.max_evals
    ledger.max_evals -= _last_resort(search, regions)
    yield
    ledger.max_evals = most


def _last_resort(search: CubeSearch, regions: Regions) -> int:
    several = np.bincount(regions.owner).max(initial=0)
    return int(several) * count_nodes(DEGREE, search.dimension)


def _run_cheaper(search: CubeSearch, regions: Regions) -> Regions:
    """Book integrals by rules that are not adaptive; the regions of all others."""
    if _may_be_fitted(search) and fit_single(search, regions):
        return no_regions(search.dimension)
    budget = ATTEMPTS.get(search.dimension)
    # The whole has been looked at before where a single integral was begun.
    if budget is not None and (budget or search.begun is None):
        regions = attempt(search, regions, DEGREE, budget)
    regions = climb(search, regions, begun=search.begun)
    if regions.owner.size and all(k == 1 for k in search.pieces):
        regions = _split_at_kinks(search, regions)
    return regions


def _may_be_fitted(search: CubeSearch) -> bool:
    """Whether it is a single integral over one cube, for which that was not tried."""
    plain = is_single(search) and search.undivided and not search.unbounded
    tried = search.begun is not None and search.begun.fitted
    return plain and search.dimension in SHORT and not tried


def _split_at_kinks(search: CubeSearch, regions: Regions) -> Regions:
    """Tensor rules on the regions between kinks, or larger ones if there are none."""
    dimension = search.dimension
    spare = search.ledger.max_evals - search.ledger.n_evals[regions.owner]
    if (spare < 2 * cost(dimension)).any():
        return regions
    begun, kinks = search.begun, None
    if is_single(search) and begun and begun.before and begun.base is not None:
        axes, probe = list(range(dimension)), probe_of(search)
        kinks = find_kinks_single(probe, begun.base, begun.before, axes)
    if kinks is not None:
        if kinks.none:
            return _run_larger(search, regions)
        return _run_parts(search, regions, between(cut_places(kinks.places)))
    each = find_kinks(search, regions.owner)
    kinked = np.logical_or.reduce(~np.isnan(each), 1)
    smooth, parts = regions.take(~kinked), regions.take(kinked)
    if kinked.any():
        cut = cut_at(parts, parts.owner, each[kinked])
        parts = _run_parts(search, parts, cut)
    if smooth.owner.size:
        smooth = _run_larger(search, smooth)
    return join_regions([smooth, parts])


def _run_parts(search: CubeSearch, regions: Regions, parts: Regions) -> Regions:
    """Tensor rules on the regions between kinks, if there are points for them."""
    if search.ledger.left < _last_resort(search, parts):
        return regions
    with _last_resort_spared(search, parts):
        if search.dimension in ATTEMPTS:
            budget = ATTEMPTS[search.dimension]
            if search.dimension > 4:  # where the first tensor rules are not cheap
                budget = max(budget, PARTS)
            parts = attempt(search, parts, DEGREE, budget)
        return climb(search, parts, parts=True)


def _run_larger(search: CubeSearch, smooth: Regions) -> Regions:
    """Larger tensor rules, where there are no kinks."""
    dimension = search.dimension
    if dimension not in RESUMED:
        return smooth
    if dimension in RETRIES:
        smooth = attempt(search, smooth, DEGREE, RETRIES[dimension])
    return climb(search, smooth, RESUMED[dimension])


def _without_volume(search: CubeSearch) -> Mask:
    nothing = -np.inf if search.ledger.log else 0.0
    nowhere: Mask = search.volume == nothing
    return nowhere


def _keep_empty(search: CubeSearch, regions: Regions) -> None:
    """Give domains without volume a few nodes, for the derivatives by their limits."""
    table, fault = gauss_table(FEW), search.ledger.bad_point
    measured = search.measure(regions, table, np.empty((0, 0)))
    zero = np.zeros(measured.sums.shape[1:])
    measured = measured._replace(broken=np.zeros_like(measured.broken))
    search.keep(table, regions, search.amount(regions, measured, zero, zero))
    # Nothing was integrated, so no fault matters.
    search.ledger.bad_point = fault
