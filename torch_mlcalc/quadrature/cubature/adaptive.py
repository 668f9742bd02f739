"""The search for regions: host, rules, and back to a plan."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_mlcalc.quadrature.checks import Settings
from torch_mlcalc.quadrature.cubature import automatic
from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.cubature.chart import Chart
from torch_mlcalc.quadrature.cubature.found import MAX_EVALS, Found
from torch_mlcalc.quadrature.cubature.problem import SolidProblem
from torch_mlcalc.quadrature.cubature.pulled import OnBox, PulledBack, mapped_over
from torch_mlcalc.quadrature.cubature.region_plan import Group, RegionPlan
from torch_mlcalc.quadrature.cubature.regions import Regions, join_regions
from torch_mlcalc.quadrature.cubature.search import CubeSearch, Kept
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, LOGISTIC, Tails
from torch_mlcalc.quadrature.estimate import Tolerance
from torch_mlcalc.quadrature.evaluator import Evaluator, Values, slots
from torch_mlcalc.quadrature.host import frozen, read, transforming, write
from torch_mlcalc.quadrature.integrand import HALF
from torch_mlcalc.quadrature.ledger import Ledger, status_of
from torch_mlcalc.quadrature.rules import Array, Rule

#: Points used, by all integrals or by each, ``(elements)``.
Spent = int | npt.NDArray[Any]


def find_regions(
    problem: SolidProblem,
    rule: Rule | None,
    settings: Settings,
    *,
    log: bool,
    spent: Spent = 0,
    instead: Callable[[Spent], tuple[Found | None, Spent]] | None = None,
) -> tuple[Found, str]:
    """Search by regions of the cube; and a sentence on what went wrong, if anything.

    Args:
        problem: What is integrated.
        rule: None or Genz-Malik.
        settings: Of the call.
        log: Whether the integrand is a log.
        spent: Points that were used before.
        instead: What to try before any subdivision of all of space.

    Returns:
        The two.
    """
    integrand, domain = problem.integrand, problem.domain
    grad = torch.is_grad_enabled()
    with frozen():
        # Light tails are common and cost little to try.
        tails = LOGISTIC
        search = None if log else plain_search(problem, settings, grad=grad)
        if search is not None:
            automatic.run(search, rule)
            return _found(problem, settings, search, ALGEBRAIC)
        chart = domain.chart(integrand, tails)
        if chart.unbounded and rule is None:
            search = new_search(problem, chart, settings, grad=grad, log=log)
            search.ledger.n_evals += spent
            # Half of what is left is for what comes after.
            search.ledger.max_evals -= search.ledger.left // 2
            if not automatic.run_tensor(search):
                spent = search.ledger.n_evals
                search = None
                found, spent = instead(spent) if instead else (None, spent)
                if found is not None:
                    return found, ""
        if search is None:
            tails = ALGEBRAIC
            if chart.unbounded:
                chart = domain.chart(integrand, tails)
            search = new_search(problem, chart, settings, grad=grad, log=log)
            search.ledger.n_evals += spent
            automatic.run(search, rule)
    return _found(problem, settings, search, tails)


def _found(
    problem: SolidProblem, settings: Settings, search: CubeSearch, tails: Tails
) -> tuple[Found, str]:
    """What a search found, and a sentence on what went wrong, if anything."""
    integrand, ledger, evaluate = problem.integrand, search.ledger, search.evaluate
    status = status_of(ledger)
    value, error = results_of(ledger)

    def freeze(errors: Tensor, statuses: Tensor, n_evals: Tensor) -> RegionPlan:
        return RegionPlan(
            tails,
            integrand.batch_shape,
            problem.counts,
            groups_of(search),
            evaluate.gathers,
            errors,
            statuses,
            n_evals,
        )

    results = value, error, status, ledger.n_evals
    found = Found(problem, settings, ledger.log, evaluate, *results, freeze)
    if ledger.bad_point is None:
        return found, ""
    with frozen():
        return found, detail_of(search, problem.domain.chart(integrand, tails))


def plain_search(
    problem: SolidProblem, settings: Settings, *, grad: bool
) -> CubeSearch | None:
    """A new search for one integral without args over a box of numbers, if it is one.

    It does what any other does, but to make its chart takes as long as the integral of
    a smooth function.

    Returns:
        The search, or None where there is more to it.
    """
    integrand, domain, splits, begun, spent = problem
    if not isinstance(domain, Box) or any(s is not None for s in splits):
        return None
    corners = domain.corners
    if corners is None or integrand.args or integrand.batch_shape or transforming():
        return None
    if integrand.device.type != "cpu" or integrand.ranks or integrand.dtype in HALF:
        return None
    low, span, volume, knots, home = _placed(*corners, integrand.dtype)
    evaluate = Evaluator(
        OnBox(integrand, low, span), (), None, home, settings.memory, grad=grad
    )
    tolerance = Tolerance.of(settings.rtol, settings.atol, integrand.dtype)
    epsilon, budget = torch.finfo(integrand.dtype).eps, settings.max_evals or MAX_EVALS
    ledger = Ledger(1, tolerance, epsilon, budget, log=False)
    ledger.n_evals += spent
    return CubeSearch(evaluate, ledger, volume, knots, begun=begun)


@lru_cache(maxsize=64)
def _placed(
    lower: tuple[float, ...], upper: tuple[float, ...], dtype: torch.dtype
) -> tuple[Tensor | None, Tensor, Array, tuple[Array, ...], Array]:
    """Corner, sides, volume, ends and middle of a box, in the cube where not said."""
    with torch.inference_mode(False):
        low = torch.tensor(lower, dtype=dtype, device="cpu")
        span = torch.tensor(upper, dtype=dtype, device="cpu") - low
    volume = np.multiply.reduce(span.numpy().astype(float), keepdims=True)
    home, knots = np.full((1, len(lower)), 0.5), (np.array([[0.0, 1.0]]),) * len(lower)
    for array in (volume, home, *knots):
        array.setflags(write=False)
    whole = not any(lower) and all(x == 1 for x in upper)
    return None if whole else low, span, volume, knots, home


def new_search(
    problem: SolidProblem,
    chart: Chart,
    settings: Settings,
    *,
    grad: bool,
    log: bool,
    ledger: Ledger | None = None,
) -> CubeSearch:
    """A new search, with nothing evaluated yet, or one that goes on with a ledger."""
    integrand = problem.integrand
    lead, mark = mapped_over(integrand, chart)
    elements = math.prod(lead) * math.prod(integrand.batch_shape)
    pulled = PulledBack(integrand, chart, log)
    home = np.full((elements, chart.dimension), 0.5)
    evaluate = Evaluator(pulled, lead, mark, home, settings.memory, grad=grad)
    tolerance = Tolerance.of(
        settings.rtol, settings.atol, integrand.dtype, settings.grad_rtol
    )
    epsilon, budget = torch.finfo(integrand.dtype).eps, settings.max_evals or MAX_EVALS
    ledger = ledger or Ledger(elements, tolerance, epsilon, budget, log=log)
    volume = _volume(chart, mark, elements, log=log)
    knots = _knots(problem, chart, mark, elements)
    return CubeSearch(evaluate, ledger, volume, knots, chart.unbounded)


def _volume(chart: Chart, mark: Tensor | None, elements: int, *, log: bool) -> Array:
    """Signed volume of each domain, or its log."""
    length = chart.lengths.expand(*chart.batch_shape, chart.lengths.shape[-1])
    lengths = read(length, mark).reshape(elements, length.shape[-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        volume: Array = np.log(lengths).sum(1) if log else lengths.prod(1)
    if log and np.isnan(volume).any():
        raise ValueError(
            "the log of an integral needs lower <= upper on every axis; integral "
            f"{int(np.isnan(volume).argmax())} has reversed limits (or NaN); swap them."
        )
    if elements == 1 and math.isnan(volume[0]):
        raise ValueError("a limit is nan; a number or +-math.inf is wanted.")
    return volume


def _knots(
    problem: SolidProblem, chart: Chart, mark: Tensor | None, elements: int
) -> tuple[Array, ...]:
    """Ends of the pieces of each axis in the cube, ``(elements, k + 1)``."""
    ends = np.zeros((elements, 1))
    knots = []
    for axis, split in enumerate(problem.splits):
        inner = np.empty((elements, 0))
        if split is not None:
            places = chart.knots(split.to(chart.device), axis)
            places = places.expand(len(split), *chart.batch_shape)
            inner = np.moveaxis(read(places.movedim(0, -1), mark), -1, 0)
            inner = np.sort(inner.reshape(len(split), elements).T, axis=1)
        knots.append(np.concatenate([ends, inner, ends + 1], axis=1))
    return tuple(knots)


def results_of(ledger: Ledger) -> tuple[Values, Array]:
    """Values and errors, in the log form those of the log."""
    total = ledger.total
    if total is None:  # of an empty batch
        return np.zeros((ledger.elements, 1)), np.zeros((ledger.elements, 1))
    if total.log_unit is None:
        return total.value, total.error
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(total.value > 0, total.error / total.value, total.error)
        return np.log(total.value) + total.log_unit, error


def detail_of(search: CubeSearch, chart: Chart) -> str:
    """Where the integrand was not finite, if that was somewhere."""
    if search.ledger.bad_point is None:
        return ""
    element, node = search.ledger.bad_point
    inner = max(math.prod(chart.batch_shape), 1)
    with frozen():
        u = torch.tensor([node], dtype=chart.dtype, device=chart.device)
        points, _ = chart(u, log=False)
        mark = search.evaluate.mark
        own = read(points, mark).reshape(-1, *points.shape[-1:])
    x = own[element % len(own)] if len(own) >= inner else own[0]
    place = ", ".join(f"{c:.6g}" for c in x)
    return f" The integrand of integral {element} was not finite at x = ({place})."


def groups_of(search: CubeSearch) -> tuple[Group, ...]:
    """Regions with the same rule together, as tensors."""
    by_table: dict[int, list[Kept]] = {}
    for kept in search.kept:
        by_table.setdefault(id(kept.table.nodes), []).append(kept)
    return tuple(
        _group(search, same[0], join_regions([k.regions for k in same]))
        for same in by_table.values()
    )


def _group(search: CubeSearch, kept: Kept, regions: Regions) -> Group:
    evaluate = search.evaluate
    device, mark, lead = evaluate.integrand.device, evaluate.mark, evaluate.lead
    with torch.inference_mode(False):
        nodes = torch.tensor(kept.table.nodes, device=device)
        weights = torch.tensor(kept.table.weights, device=device)
        if evaluate.gathers:
            columns = [torch.tensor(c, device=device) for c in regions]
            return Group(nodes, weights, *columns)
        none = torch.empty(0, dtype=torch.int64, device=device)

        def dense(array: npt.NDArray[Any]) -> Tensor:
            count, _, *tail = array.shape
            array = array.reshape(count, *lead, -1, *tail)
            array = np.moveaxis(array, 0, len(lead))
            return write(array.copy(), mark, device)

        return Group(
            nodes, weights, none, *(dense(c) for c in _padded(regions, search.elements))
        )


def _padded(regions: Regions, elements: int) -> tuple[npt.NDArray[Any], ...]:
    """As many regions for every integral: ``(count, elements, d)`` each."""
    owner, d = regions.owner, regions.low.shape[1]
    slot, count = slots(owner, elements)
    # Missing ones have no volume, in the middle of another of the same integral.
    home = np.full((elements, d), 0.5)
    home[owner] = (regions.low + regions.high) / 2
    low = np.tile(home, (count, 1, 1))
    high, piece = low.copy(), np.zeros(low.shape, dtype=np.int64)
    spare = np.zeros((elements, d), dtype=np.int64)
    spare[owner] = regions.piece
    piece[:] = spare
    piece[slot, owner] = regions.piece
    low[slot, owner], high[slot, owner] = regions.low, regions.high
    return piece, low, high
