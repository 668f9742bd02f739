"""The search for nodes in one dimension: host, rules, and back to a plan."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_mlcalc.quadrature import automatic
from torch_mlcalc.quadrature.adaptive_hermite import (
    ANY,
    AdaptiveGaussHermite,
    check_hermite,
    through_mode,
)
from torch_mlcalc.quadrature.checks import Settings, refuse_tolerance
from torch_mlcalc.quadrature.contract import LinearSum, accumulator, block_of
from torch_mlcalc.quadrature.domains import Extent, of_numbers
from torch_mlcalc.quadrature.double_exponential import DoubleExponential
from torch_mlcalc.quadrature.estimate import Estimate, Status, Tolerance, report
from torch_mlcalc.quadrature.evaluator import Evaluator, Values
from torch_mlcalc.quadrature.gauss_kronrod import GaussKronrod
from torch_mlcalc.quadrature.host import (
    dual_level,
    frozen,
    mapped_mark,
    read,
    transforming,
    unrecorded,
    write,
)
from torch_mlcalc.quadrature.integrand import as_result
from torch_mlcalc.quadrature.ledger import Ledger, status_of
from torch_mlcalc.quadrature.line_plan import LinePlan
from torch_mlcalc.quadrature.nodes import Cells, make_cells
from torch_mlcalc.quadrature.pieces import Pieces, make_pieces, piece_between
from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE
from torch_mlcalc.quadrature.problem import Problem, full, per_element
from torch_mlcalc.quadrature.rules import Array, Rule
from torch_mlcalc.quadrature.search import Search

#: Points that one integral may use by default. The hardest of the 168 test problems
#: that converges at rtol=1e-8, a staircase of 11 steps, uses 4691.
MAX_EVALS = 100_000


class Found(NamedTuple):
    """What a search was for, and what it found."""

    problem: Problem
    pieces: Pieces
    evaluate: Evaluator
    ledger: Ledger
    status: Array
    memory: int | None
    rule: Rule | None


#: What an adaptive rule for one dimension may be.
RULES = (GaussKronrod, DoubleExponential, AdaptiveGaussHermite)


def find(
    problem: Problem, rule: Rule | None, settings: Settings, *, log: bool
) -> Found:
    """Search for the nodes that the integrals need, and report on it."""
    integrand = problem.integrand
    if rule is not None and not isinstance(rule, RULES):
        raise TypeError(f"{rule} is not a rule for one dimension.")
    tolerance = Tolerance.of(
        settings.rtol, settings.atol, integrand.dtype, settings.grad_rtol
    )
    if rule is not None and isinstance(rule, AdaptiveGaussHermite):
        check_hermite(problem, log=log)
        if rule.n is not None:
            refuse_tolerance(rule, settings)
            tolerance = Tolerance(ANY, 0.0)
    pieces, home, mark, lead = _host_pieces(problem)
    grad = torch.is_grad_enabled()
    evaluate = Evaluator(integrand, lead, mark, home, settings.memory, grad=grad)
    epsilon = torch.finfo(integrand.dtype).eps
    budget = settings.max_evals or MAX_EVALS
    ledger = Ledger(pieces.elements, tolerance, epsilon, budget, log=log)
    # A mode is found by derivatives.
    hermite = rule is not None and isinstance(rule, AdaptiveGaussHermite)
    quiet = unrecorded(alone=evaluate.is_alone and not hermite)
    # What overflows or has no value is looked at, level by level, where it matters.
    with quiet, np.errstate(all="ignore"):
        search = Search(pieces, evaluate, ledger)
        automatic.run(search, rule)
    return concluded(problem, search, rule, settings.memory, settings.on_failure)


def concluded(
    problem: Problem,
    search: Search,
    rule: Rule | None,
    memory: int | None,
    on_failure: str,
) -> Found:
    """What was found, reported to the caller of the caller's caller."""
    pieces, evaluate, ledger = search.pieces, search.evaluate, search.ledger
    ledger.note_seen()
    status = status_of(ledger)
    if np.count_nonzero(status):
        nowhere = np.isnan(pieces.bounds).any(0).reshape(-1, pieces.elements).any(0)
        status = np.where(nowhere, int(Status.NON_FINITE), status)
        detail = _nan_of(problem) if nowhere.any() else _detail(ledger)
        report(status, detail, on_failure, stacklevel=5)
    return Found(problem, pieces, evaluate, ledger, status, memory, rule)


def value_of(found: Found, plan: LinePlan | None = None) -> Tensor:
    """The integrals: by a plan if a gradient is wanted, else as they were added up."""
    problem, log = found.problem, found.ledger.log
    # Without any length nothing was evaluated, and the event shape is not known.
    known = found.ledger.total is not None
    if known and not _wants_gradient(problem, found.evaluate):
        return _total(found.evaluate, found.ledger)
    if known and isinstance(found.rule, AdaptiveGaussHermite) and found.rule.n:
        return _through_mode(found, found.rule)
    value = _at_once(found) if plan is None else None
    if value is not None:
        return value
    plan = plan or freeze(found)
    return plan.apply(
        problem.extent,
        problem.integrand,
        problem.breakpoints,
        log=log,
        memory=found.memory,
    )


def _at_once(found: Found) -> Tensor | None:
    """A single integral from one call at all nodes, where these stand still.

    To make a plan of them and apply it takes a millisecond, several times a cheap
    integrand with its gradient.

    Returns:
        The integral, or None where there is more to it.
    """
    problem, pieces, evaluate, ledger, *_ = found
    integrand, alone = problem.integrand, evaluate.mark is None and not ledger.log
    known = integrand.dtype in (torch.float64, torch.float32)
    if not alone or not known or integrand.batch_shape or integrand.ranks is not None:
        return None
    if not pieces.sign.all() or dual_level() or _moves(problem):
        return None
    with np.errstate(all="ignore"):
        parts = [make() for make in ledger.nodes]
        points = [pieces.points(part.piece, part.positions).ravel() for part in parts]
        units = [(pieces.unit * pieces.sign)[part.piece] for part in parts]
    count = sum(column.size for column in points)
    itemsize, device = integrand.dtype.itemsize, integrand.device
    if block_of(count, itemsize, found.memory, device).size < count:
        return None
    weights = [(p.weights * unit).ravel() for p, unit in zip(parts, units, strict=True)]
    where, weight = (
        torch.from_numpy(np.concatenate(c)).to(integrand.device, integrand.dtype)
        for c in (points, weights)
    )
    return LinearSum()(weight, weight, integrand(where))


def _through_mode(found: Found, rule: AdaptiveGaussHermite) -> Tensor:
    """The formula of a rule whose number of nodes was asked for."""
    integrand, evaluate = found.problem.integrand, found.evaluate
    positions = found.ledger.nodes[0]().positions
    at = (
        found.pieces.anchors[0] + found.pieces.unit * (positions[0] + positions[-1]) / 2
    )
    total = found.ledger.total
    assert total is not None  # noqa: S101
    known = np.isfinite(total.error[:, 0])
    shape = (*evaluate.lead, *integrand.batch_shape)

    def tensor(array: npt.NDArray[Any]) -> Tensor:
        with torch.inference_mode(False):
            return write(array.reshape(shape).copy(), evaluate.mark, integrand.device)

    at_mode = tensor(at).to(integrand.dtype)[None]
    return through_mode(rule, integrand, at_mode, tensor(known)[None])


def estimate_of(found: Found) -> Estimate:
    """Value, error, status and plan of what was found."""
    plan = freeze(found)
    value = value_of(found, plan)
    if plan.error.shape != value.shape:
        # The search evaluated nothing, and did not see events.
        plan = replace(plan, error=plan.error.new_zeros(value.shape))
    return Estimate(value, plan.error, plan.status, plan.n_evals, plan)


def _wants_gradient(problem: Problem, evaluate: Evaluator) -> bool:
    if transforming() or dual_level():
        return True
    if not torch.is_grad_enabled():
        return False
    return evaluate.requires_grad or _moves(problem)


def _moves(problem: Problem) -> bool:
    """Whether a limit or breakpoint has a gradient."""
    (lower, upper, _, _), inner = problem.extent, problem.breakpoints
    return (
        (isinstance(lower, Tensor) and lower.requires_grad)
        or (isinstance(upper, Tensor) and upper.requires_grad)
        or (inner is not None and inner.requires_grad)
    )


def _host_pieces(
    problem: Problem,
) -> tuple[Pieces, Array, Tensor | None, tuple[int, ...]]:
    """Limits and breakpoints read once, and the dimensions that vmap maps over."""
    integrand, extent, breakpoints = problem
    alone = breakpoints is None and integrand.batch_shape == ()
    if alone and integrand.device.type == "cpu" and not transforming():
        return *between_numbers(_numbers(extent), integrand.dtype), None, ()
    with frozen():
        rows = [full(limit, integrand) for limit in extent]
        if breakpoints is not None:
            rows[1:1] = list(per_element(breakpoints, integrand))
        edges = torch.stack(rows)
        mark = None
        if transforming():
            probe = torch.where(edges[0].isfinite(), edges[0], 0)[None]
            values = integrand(probe)
            mark = mapped_mark(edges, values.real if values.is_complex() else values)
        array = read(edges, mark)
    lead = array.shape[: array.ndim - edges.ndim]
    table = np.moveaxis(array, len(lead), 0).reshape(len(edges), -1)
    # Rows are lower, breakpoints, upper, loc, scale.
    pieces = make_pieces(table[:-2], table[-2], table[-1])
    _refuse_too_long(pieces, integrand.dtype)
    return pieces, _home(pieces), mark, tuple(lead)


def _numbers(extent: Extent) -> Extent:
    """The limits of a single integral as plain numbers."""
    if of_numbers(extent):
        return extent
    return Extent(*(x.item() if isinstance(x, Tensor) else x for x in extent))


@lru_cache(maxsize=256)
def between_numbers(extent: Extent, dtype: torch.dtype) -> tuple[Pieces, Array]:
    """The piece between two numbers, a tenth of the time of a small integral."""
    for name, value in extent._asdict().items():
        if math.isnan(value):
            raise ValueError(f"{name} is nan; a number or +-math.inf is wanted.")
    pieces = piece_between(*torch.tensor(extent, dtype=dtype, device="cpu").tolist())
    _refuse_too_long(pieces, dtype)
    home = _home(pieces)
    for array in (*pieces[:-2], home):
        array.setflags(write=False)
    return pieces, home


def _refuse_too_long(pieces: Pieces, dtype: torch.dtype) -> None:
    """Refuse intervals of which the length is no number."""
    largest = torch.finfo(accumulator(dtype)).max
    long = (pieces.unit > largest) & (pieces.kind == FINITE)
    if long.any():
        lower, upper = pieces.bounds[:, long.argmax()]
        raise ValueError(
            f"the interval from {lower} to {upper} is longer than the largest number, "
            f"{largest}; pass +-math.inf for limits that are to be infinite, or "
            "breakpoints= at which to split it."
        )


def _home(pieces: Pieces) -> Array:
    """A point inside the first piece of every element."""
    first = np.arange(pieces.elements)
    kind = pieces.kind[first]
    position = np.where(kind == FINITE, 0.5, np.where(kind == BELOW, -1.0, 0.0))
    position = np.where(kind == ABOVE, 1.0, position)
    home = pieces.points(first, position[None])[0]
    return np.where(np.isfinite(home), home, 0.0)


def _nan_of(problem: Problem) -> str:
    """Which of the limits and breakpoints are nan somewhere."""
    if transforming():
        return " A limit or breakpoint is nan."
    places = {**problem.extent._asdict(), "breakpoints": problem.breakpoints}
    names = [
        name
        for name, place in places.items()
        if isinstance(place, Tensor) and bool(place.isnan().any())
    ]
    return f" {' and '.join(names)}: nan in some of the integrals."


def _detail(ledger: Ledger) -> str:
    if ledger.bad_point is not None:
        element, point = ledger.bad_point
        return f" The integrand of integral {element} was not finite at x = {point}."
    if ledger.unseen.any():
        return (
            " An integrand was exactly 0 at every node of an unbounded domain: place "
            "the nodes with RealLine(loc, scale) or HalfLine(start, scale), or use "
            "log_integrate, which sees a far-off peak."
        )
    return ""


def _total(evaluate: Evaluator, ledger: Ledger) -> Tensor:
    """The value that the search added up, which needs no second evaluation."""
    integrand = evaluate.integrand
    shape = (*integrand.batch_shape, *evaluate.event_shape)
    total = ledger.total
    if total is None:
        value: Values = np.full(shape, -np.inf if ledger.log else 0.0)
    else:
        value = total.value.reshape(shape)
        if total.log_unit is not None:
            with np.errstate(divide="ignore"):
                value = np.log(value) + total.log_unit.reshape(shape)
    # A NumPy number where there is neither batch nor event.
    tensor = torch.from_numpy(np.asarray(value))
    if tensor.dtype != evaluate.dtype or not evaluate.on_host:
        tensor = tensor.to(integrand.device, evaluate.dtype)
    return as_result(tensor, integrand)


def freeze(found: Found) -> LinePlan:
    """The nodes of the ledger as tensors, mapped as the search was."""
    problem, pieces, evaluate, ledger, status, *_ = found
    integrand, mark, lead = problem.integrand, evaluate.mark, evaluate.lead
    device, batch = integrand.device, integrand.batch_shape
    inner = int(np.prod(batch, dtype=int))

    def tensor(array: npt.NDArray[Any], columns: tuple[int, ...]) -> Tensor:
        """A host array whose last dimension counts elements, mapped ones in front."""
        array = array.reshape((*array.shape[:-1], *lead, *columns))
        front = range(array.ndim - len(columns) - len(lead), array.ndim - len(columns))
        array = np.moveaxis(array, list(front), range(len(lead)))
        with torch.inference_mode(False):
            return write(np.require(array, requirements=["C", "W"]), mark, device)

    cells = []
    with np.errstate(all="ignore"):
        parts = [make() for make in ledger.nodes]
    for positions, weights, piece, low, high in make_cells(
        parts, pieces.elements, gathers=evaluate.gathers
    ):
        columns = (piece.shape[-1],) if evaluate.gathers else (inner,)
        # Mapped elements are integrals of their own here, but not inside vmap.
        step, own = piece // pieces.elements, piece % pieces.elements % max(inner, 1)
        cells.append(
            Cells(
                tensor(positions, columns),
                tensor(weights, columns),
                tensor(step * inner + own, columns),
                tensor(low, columns),
                tensor(high, columns),
            )
        )
    events = evaluate.event_shape
    error = np.zeros((pieces.elements, int(np.prod(events, dtype=int))))
    if ledger.total is not None:
        error = _reported_error(ledger, status)
    count = 0 if problem.breakpoints is None else len(problem.breakpoints)
    kinds = pieces.kind.reshape(count + 1, pieces.elements)
    return LinePlan(
        batch,
        count,
        tensor(kinds, (inner,)).reshape(-1),
        tuple(cells),
        evaluate.gathers,
        tensor(error.T, batch).movedim(0, -1).reshape(*batch, *events).to(torch.float64)
        if batch
        else tensor(error.T, (1,)).reshape(events),
        tensor(status, batch),
        tensor(ledger.n_evals, batch),
    )


def _reported_error(ledger: Ledger, status: Array) -> Array:
    total = ledger.total
    assert total is not None  # noqa: S101
    # Nothing is known of what is not finite.
    nothing = (ledger.unseen | (status == Status.NON_FINITE))[:, None]
    nothing = nothing | np.isnan(total.error)
    error = np.where(nothing, np.inf, total.error)
    if not ledger.log:
        return error
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = error / total.value
    return np.where(total.value > 0, relative, error)
