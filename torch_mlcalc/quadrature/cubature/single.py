"""The first tensor rules for a single integral, judged in plain numbers.

What is out of the ordinary goes on in ``tensor.py``.
"""

from __future__ import annotations

import numpy as np

from torch_mlcalc.quadrature.contract import BLOCK_BYTES, TEMPORARIES
from torch_mlcalc.quadrature.cubature.along import Probe
from torch_mlcalc.quadrature.cubature.climbed import (
    FEW,
    MOST_AT_ONCE,
    Climbed,
    Terms,
)
from torch_mlcalc.quadrature.cubature.fitted import fit
from torch_mlcalc.quadrature.cubature.ladder import (
    FITTED,
    LADDERS,
    stage_of,
)
from torch_mlcalc.quadrature.cubature.leap import leap
from torch_mlcalc.quadrature.cubature.look import look_first
from torch_mlcalc.quadrature.cubature.parts import Fitted, sums_of_parts, whole_sums
from torch_mlcalc.quadrature.cubature.regions import Regions, gauss_table
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.ledger import Amount
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.single.sampling import is_ordinary


def is_single(search: CubeSearch) -> bool:
    """Whether there is one integral, of which nothing is known yet, not in log form."""
    ledger = search.ledger
    return (
        search.evaluate.is_alone
        and not ledger.log
        and ledger.tolerance.grad_rtol is None
        and ledger.total is None
    )


def probe_of(search: CubeSearch) -> Probe:
    """The integrand of a search as one function over the cube."""
    ledger, evaluate, d = search.ledger, search.evaluate, search.dimension

    def sample(points: Array) -> Values | None:
        ledger.n_evals[0] += len(points)
        values = evaluate.row(points)
        return values if is_ordinary(values) else None

    memory = evaluate.memory
    block = (BLOCK_BYTES if memory is None else memory // TEMPORARIES) // (8 * d)
    (volume,), (spent,) = search.volume.tolist(), ledger.n_evals.tolist()
    terms = Terms(d, ledger.tolerance, ledger.epsilon, unbounded=search.unbounded)
    return Probe(sample, terms, volume, ledger.max_evals, max(block, 1), spent)


def fit_single(search: CubeSearch, regions: Regions) -> bool:
    """Try first a rule on the whole, then one that is fitted to the integrand.

    Args:
        search: The integral, of which nothing is known yet.
        regions: The cube.

    Returns:
        Whether that was enough.
    """
    looked, lines = None, None
    if FITTED.get(search.dimension) != 1:
        begun = search.begun or Climbed(1)
        begun, found = _begin(search, regions, begun)
        search.begun = begun
        if found is not None:
            _keep(search, found)
        if begun.done or begun.before is None or begun.base is None:
            return begun.done
        if begun.fitted or search.dimension not in FITTED:
            return False
        seen, base = begun.before, begun.base
    else:
        look = look_first(probe_of(search))
        if look is None:
            return False
        search.begun = begun = Climbed(1, whole=look.values)
        seen, base, looked, lines = look.total, look.base, look.looked, look.lines
        if look.settled:
            columns = np.array(seen).reshape(3, 1, 1)
            search.keep(look.table, regions, Amount(columns, None))
            return True
    found = fit(probe_of(search), seen, base, looked, lines)
    search.begun = begun._replace(fitted=True)
    if found is None:
        return False
    _keep(search, found)
    return True


def _keep(search: CubeSearch, found: Fitted) -> None:
    search.keep(found.table, found.regions, Amount(found.columns[..., None], None))


def _begin(
    search: CubeSearch, regions: Regions, begun: Climbed
) -> tuple[Climbed, Fitted | None]:
    """Take the steps before a fitted rule, one of them as a leap if it is steep."""
    last = FITTED.get(search.dimension, len(LADDERS[search.dimension]))
    begun = climb_single(search, regions, 1, begun, parts=False, last=last)
    if not begun.steep:
        return begun, None
    begun, found = leap(probe_of(search), begun)
    if found is not None:
        return begun._replace(done=True), found
    if not (begun.left or begun.fitted):
        begun = climb_single(search, regions, 1, begun, parts=False, last=last)
    return begun, None


def climb_single(
    search: CubeSearch,
    regions: Regions,
    begin: int,
    begun: Climbed,
    *,
    parts: bool,
    last: int | None = None,
) -> Climbed:
    """Take the first steps of :func:`climb`.

    Args:
        search: The integral.
        regions: All of its regions.
        begin: The step of the ladder that was the first.
        begun: Where it stands.
        parts: Whether the regions are those between kinks.
        last: The step before which to stop.

    Returns:
        Where it stands then.
    """
    ledger, d, m = search.ledger, search.dimension, regions.owner.size
    terms = Terms(d, ledger.tolerance, ledger.epsilon, begin, parts, search.unbounded)
    low, width = search.corners(regions)
    volume = np.multiply.reduce(width, 1) * search.volume[0]
    (spent,) = ledger.n_evals.tolist()
    most = MOST_AT_ONCE if search.evaluate.memory is None else FEW
    budget = terms.budget(ledger.max_evals)
    while not begun.left and begun.step < len(LADDERS.get(d, ())):
        if begun.step == last or (last is not None and begun.steep):
            return begun
        stage = stage_of(begun.step, d, first=begun.before is None)
        count = stage.n * m
        spent += count
        if count > most or not stage.rows.size or spent > budget:
            return begun
        points = low + width * stage.table.nodes[:, None]
        values = search.evaluate.row(points.reshape(count, d))
        ledger.n_evals[0] = spent
        if not is_ordinary(values) or not values.any():
            return begun._replace(values=values.reshape(-1, m, *values.shape[1:]))
        columns = sums_of_parts(stage, values, volume)
        begun = begun.judged(whole_sums(columns, ledger.epsilon), terms)
        if m == 1 and (begun.left or begun.steep or begun.step == last):
            begun = begun.seen(stage, values)
        if begun.done:
            kept = columns[-1, ..., None]
            kept[1] = begun.error / m
            search.keep(gauss_table(stage.size), regions, Amount(kept, None))
            return begun
    return begun._replace(left=True)
