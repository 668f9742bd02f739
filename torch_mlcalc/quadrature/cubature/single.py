"""The first tensor rules for a single integral, judged in plain numbers.

What is out of the ordinary goes on in ``tensor.py``.
"""

from __future__ import annotations

import numpy as np

from torch_mlcalc.quadrature.cubature.climbed import (
    FEW,
    MOST_AT_ONCE,
    Climbed,
    Sum,
    Terms,
)
from torch_mlcalc.quadrature.cubature.ladder import LADDERS, Stage, stage_of
from torch_mlcalc.quadrature.cubature.regions import Regions, gauss_table
from torch_mlcalc.quadrature.cubature.search import CubeSearch
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import contract
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount
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


def climb_single(
    search: CubeSearch, regions: Regions, begin: int, begun: Climbed, *, parts: bool
) -> Climbed:
    """Take the first steps of :func:`climb`.

    Args:
        search: The integral.
        regions: All of its regions.
        begin: The step of the ladder that was the first.
        begun: Where it stands.
        parts: Whether the regions are those between kinks.

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
        columns = _sums(stage, values, volume, ledger.epsilon)
        begun = begun.judged(
            [Sum(*each) for each in np.add.reduce(columns, 2).tolist()], terms
        )
        if begun.left and m == 1:
            begun = begun.seen(stage, values)
        if begun.done:
            kept = columns[-1, ..., None]
            kept[1] = begun.error / m
            search.keep(gauss_table(stage.size), regions, Amount(kept, None))
            return begun
    return begun._replace(left=True)


def _sums(stage: Stage, values: Values, volume: Array, epsilon: float) -> Array:
    """The same of several regions, ``(rules, 3, m)``."""
    m = volume.size
    values = values.reshape(-1, m)
    rows = (contract(stage.rows, values) * volume).reshape(-1, stage.each, m)
    size = contract(stage.table.weights[None], np.abs(values))
    found = np.empty((len(rows), 3, m))
    found[:, 0] = rows[:, 0]
    found[:, 2] = np.abs(size[0] * volume)
    floor = ROUNDING * epsilon * found[:, 2]
    np.maximum(np.maximum.reduce(np.abs(rows[:, 1:]), 1), floor, out=found[:, 1])
    return found
