"""The functions that people call: integrals, their logs, their errors, their plans."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_mlcalc.quadrature import automatic
from torch_mlcalc.quadrature.contract import LinearSum, LogSum
from torch_mlcalc.quadrature.domains import Domain, Extent, Limit
from torch_mlcalc.quadrature.double_exponential import DoubleExponential
from torch_mlcalc.quadrature.estimate import Estimate, Tolerance, report
from torch_mlcalc.quadrature.evaluator import Evaluator, Values
from torch_mlcalc.quadrature.fixed import apply_fixed
from torch_mlcalc.quadrature.gauss_kronrod import GaussKronrod
from torch_mlcalc.quadrature.host import (
    dual_level,
    frozen,
    mapped_mark,
    read,
    readable,
    transforming,
    write,
)
from torch_mlcalc.quadrature.integrand import Function, Integrand, as_result, bind
from torch_mlcalc.quadrature.ledger import Ledger, status_of
from torch_mlcalc.quadrature.pieces import Pieces, make_pieces
from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE, place
from torch_mlcalc.quadrature.plan import Cells, Plan, make_cells
from torch_mlcalc.quadrature.rules import Array, FixedRule, Rule, TabulatedRule
from torch_mlcalc.quadrature.search import Search

Breakpoints = Tensor | Sequence[float]

#: Points that one integral may use by default. The hardest of the 168 test problems
#: that converges at rtol=1e-8, a staircase of 11 steps, uses 4691.
MAX_EVALS = 100_000


def integrate(
    integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
    progress: bool = False,
) -> Tensor:
    r"""Integrate a function over a domain, for a whole batch of integrals at once.

    .. math:: I = \int_a^b f(x, \theta)\,dx

    The gradient flows to everything the integrand depends on - closed-over tensors,
    ``args``, the limits, the breakpoints - and can be differentiated again.

    Args:
        integrand: Function of the points and ``args``. It gets points of shape
            ``(n, *batch)`` and returns ``(n, *batch, *event)``.
        domain: Where to integrate.
        rule: How; by default adaptive Gauss-Kronrod on finite intervals, and
            double-exponential at singular or infinite ends.
        args: Further arguments of the integrand. Adaptive rules then evaluate only the
            rows of the batch that have not converged, so batched tensors are better
            passed than closed over.
        batch_shape: Shape of the batch, if it is not that to which limits and args
            broadcast. Args must begin with it and may have dimensions behind it.
        breakpoints: Where the integrand has kinks, jumps or peaks: numbers, or a tensor
            ``(k,)`` or ``(k, *batch)``. Those outside of the limits have no effect.
        rtol: Wanted relative error; by default the square root of the dtype's epsilon
            (0 if ``atol`` is given). Adaptive rules only.
        atol: Wanted absolute error: either of the two is enough. Adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points with its values may use, about; by
            default a block fits the cache.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` integrals that did not
            converge.
        progress: Whether to show a bar that counts points (needs tqdm).

    Shape:
        Limits broadcast to ``(*batch)``. Returns ``(*batch, *event)``.

    Returns:
        The integral, in the dtype of the limits, else of the args, else torch's
        default.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> rate = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> value = mlc.integrate(
        ...     lambda x, rate: torch.exp(-rate * x), mlc.HalfLine(), args=(rate,)
        ... )
        >>> value
        tensor([1.0000, 0.5000], grad_fn=...)
        >>> torch.autograd.grad(value.sum(), rate)
        (tensor([-1.0000, -0.2500]),)

    References:
        P. J. Davis, P. Rabinowitz, "Methods of Numerical Integration", 2nd ed.,
        Academic Press 1984.
    """
    call = _check(integrand, domain, rule, on_failure, max_evals, memory, progress)
    problem = _bind(call, domain, args, batch_shape, breakpoints)
    if isinstance(rule, (FixedRule, Plan)):
        _refuse_tolerance(rule, rtol, atol)
        return _apply(problem, rule, max_evals, memory, log=False)
    return _value(
        _search(problem, rule, rtol, atol, max_evals, memory, on_failure, log=False)
    )


def integrate_with_error(
    integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
    progress: bool = False,
) -> Estimate:
    """Integrate, and say how far the result can be trusted; see :func:`integrate`.

    Args:
        integrand: As for :func:`integrate`, and so are the others.
        domain: Where to integrate.
        rule: None or an adaptive rule.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        breakpoints: Where to split.
        rtol: Wanted relative error.
        atol: Wanted absolute error.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        progress: Whether to show a bar.

    Returns:
        Value, error, status, number of evaluations and plan.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit, or the rule
            is fixed and so has no error estimate.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> estimate = mlc.integrate_with_error(torch.exp, mlc.Interval(0, 1))
        >>> estimate.value, mlc.Status(int(estimate.status)).name
        (tensor(1.7183), 'CONVERGED')
    """
    call = _check(integrand, domain, rule, on_failure, max_evals, memory, progress)
    _refuse_fixed(rule)
    problem = _bind(call, domain, args, batch_shape, breakpoints)
    return _estimate(
        _search(problem, rule, rtol, atol, max_evals, memory, on_failure, log=False)
    )


def log_integrate(
    log_integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
    progress: bool = False,
) -> Tensor:
    r"""Log of the integral of a positive function that is given by its log.

    .. math:: \log Z = \log \int_a^b e^{\ell(x, \theta)}\,dx

    Nothing is exponentiated but differences to the largest value, so the log may be
    near 1e5 or -1e5 even in float32.

    Args:
        log_integrand: Function that returns the log; minus infinity for 0.
        domain: Where to integrate, with ``lower <= upper``.
        rule: As for :func:`integrate`, and so are the others.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        breakpoints: Where to split.
        rtol: Wanted error of the log, which is the relative error of the integral.
        atol: The same; the larger of the two counts.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        progress: Whether to show a bar.

    Returns:
        The log of the integral; its gradient is the mean of the gradient of the log
        under the normalised density.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.log_integrate(lambda x: 1000 - x * x / 2, mlc.RealLine())
        tensor(1000.9189)
    """
    call = _check(log_integrand, domain, rule, on_failure, max_evals, memory, progress)
    problem = _bind(call, domain, args, batch_shape, breakpoints)
    _refuse_reversed(problem.extent)
    if isinstance(rule, (FixedRule, Plan)):
        _refuse_tolerance(rule, rtol, atol)
        return _apply(problem, rule, max_evals, memory, log=True)
    return _value(
        _search(problem, rule, rtol, atol, max_evals, memory, on_failure, log=True)
    )


def log_integrate_with_error(
    log_integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
    progress: bool = False,
) -> Estimate:
    """Log of an integral, and the error of the log; see :func:`log_integrate`.

    Args:
        log_integrand: As for :func:`log_integrate`, and so are the others.
        domain: Where to integrate.
        rule: None or an adaptive rule.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        breakpoints: Where to split.
        rtol: Wanted error of the log.
        atol: The same; the larger of the two counts.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        progress: Whether to show a bar.

    Returns:
        Value, error, status, number of evaluations and plan.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit, or the rule
            is fixed and so has no error estimate.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> estimate = mlc.log_integrate_with_error(
        ...     lambda x: -x * x / 2, mlc.RealLine()
        ... )
        >>> estimate.value, bool(estimate.error < 1e-3)
        (tensor(0.9189), True)
    """
    call = _check(log_integrand, domain, rule, on_failure, max_evals, memory, progress)
    _refuse_fixed(rule)
    problem = _bind(call, domain, args, batch_shape, breakpoints)
    _refuse_reversed(problem.extent)
    return _estimate(
        _search(problem, rule, rtol, atol, max_evals, memory, on_failure, log=True)
    )


def adapt(
    integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    log: bool = False,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
    progress: bool = False,
) -> Plan:
    """Find the nodes that an integral needs, to use them again; see :func:`integrate`.

    Args:
        integrand: As for :func:`integrate`, and so are the others.
        domain: Where to integrate.
        rule: None or an adaptive rule.
        log: Whether the integrand returns logs, as for :func:`log_integrate`.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        breakpoints: Where to split.
        rtol: Wanted relative error.
        atol: Wanted absolute error.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        progress: Whether to show a bar.

    Returns:
        A fixed rule for this batch, with error and status of the search.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit, or the rule
            is fixed already.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> plan = mlc.adapt(torch.sqrt, mlc.Interval(0, 1))
        >>> mlc.integrate(lambda x: x * torch.sqrt(x), mlc.Interval(0, 2), plan)
        tensor(2.2627)
    """
    call = _check(integrand, domain, rule, on_failure, max_evals, memory, progress)
    _refuse_fixed(rule)
    problem = _bind(call, domain, args, batch_shape, breakpoints)
    if log:
        _refuse_reversed(problem.extent)
    return _freeze(
        _search(problem, rule, rtol, atol, max_evals, memory, on_failure, log=log)
    )


class Problem(NamedTuple):
    """What is to be integrated, checked."""

    integrand: Integrand
    extent: Extent
    breakpoints: Tensor | None


class Found(NamedTuple):
    """What a search was for, and what it found."""

    problem: Problem
    pieces: Pieces
    evaluate: Evaluator
    ledger: Ledger
    status: Array
    memory: int | None


def _bind(
    function: Function,
    domain: Domain,
    args: Sequence[Any],
    batch_shape: Sequence[int] | None,
    breakpoints: Breakpoints | None,
) -> Problem:
    extent = domain.extent
    inner = None if breakpoints is None else _breakpoints(breakpoints)
    return Problem(bind(function, extent, args, batch_shape, inner), extent, inner)


def _breakpoints(breakpoints: object) -> Tensor:
    if not isinstance(breakpoints, Tensor):
        if not isinstance(breakpoints, (list, tuple)):
            raise TypeError(
                f"breakpoints is a {type(breakpoints).__name__}; a list of numbers or "
                "a tensor (k,) or (k, *batch) is wanted."
            )
        breakpoints = torch.tensor(breakpoints, dtype=torch.get_default_dtype())
    if breakpoints.ndim == 0 or len(breakpoints) == 0:
        raise ValueError(
            f"breakpoints has shape {tuple(breakpoints.shape)}; at least one, along "
            "the first dimension, is wanted. Leave it out to have none."
        )
    return breakpoints


def _check(
    function: Function,
    domain: object,
    rule: object,
    on_failure: str,
    max_evals: int | None,
    memory: int | None,
    progress: bool,
) -> Function:
    if not isinstance(domain, Domain):
        raise TypeError(
            f"domain is a {type(domain).__name__}; a domain is wanted, for example "
            "Interval(0, 1) or RealLine()."
        )
    if rule is not None and not isinstance(rule, Rule):
        raise TypeError(
            f"rule is a {type(rule).__name__}; a rule object is wanted, for example "
            "GaussLegendre(32), or None to have one chosen."
        )
    if on_failure not in ("warn", "raise", "ignore"):
        raise ValueError(
            f"on_failure is {on_failure!r}; 'warn', 'raise' or 'ignore' is wanted."
        )
    for name, value in (("max_evals", max_evals), ("memory", memory)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(
                f"{name} is a {type(value).__name__}; an integer is wanted."
            )
        if value < 1:
            raise ValueError(f"{name} is {value}; at least 1 is wanted.")
    return _counting(function) if progress else function


def _counting(function: Function) -> Function:
    try:
        from tqdm import tqdm
    except ImportError:
        raise ImportError(
            "progress=True shows a bar by tqdm, which is not installed: "
            "pip install 'torch_mlcalc[examples]'"
        ) from None
    bar = tqdm(unit=" points", unit_scale=True)

    def counted(points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        bar.update(points.numel())
        bar.refresh()
        return function(points, *args)

    return counted


def _refuse_tolerance(rule: Rule, rtol: float | None, atol: float | None) -> None:
    if rtol is not None or atol is not None:
        raise ValueError(
            f"rtol and atol have no effect with {rule}, whose nodes are fixed; leave "
            "them out, or use an adaptive rule such as GaussKronrod()."
        )


def _refuse_fixed(rule: Rule | None) -> None:
    if isinstance(rule, (FixedRule, Plan)):
        raise ValueError(
            f"{rule} has no error estimate, as its nodes are fixed; use an adaptive "
            "rule such as GaussKronrod(), or none, or call integrate."
        )


def _refuse_reversed(extent: Extent) -> None:
    lower, upper = extent.lower, extent.upper
    reversed_ = lower > upper
    if isinstance(reversed_, Tensor):
        # On a GPU and in vmap reading this would stall or fail; the result is nan.
        reversed_ = readable(reversed_) and bool(reversed_.any())
    if reversed_:
        raise ValueError(
            f"the log of an integral needs lower <= upper, got lower={lower}, "
            f"upper={upper}; swap them."
        )


def _apply(
    problem: Problem,
    rule: Rule,
    max_evals: int | None,
    memory: int | None,
    *,
    log: bool,
) -> Tensor:
    """A fixed rule, on every piece between breakpoints, or a plan."""
    integrand, extent, breakpoints = problem
    if isinstance(rule, Plan):
        return rule.apply(extent, integrand, breakpoints, log=log, memory=memory)
    assert isinstance(rule, FixedRule)  # noqa: S101
    pieces = 1 if breakpoints is None else len(breakpoints) + 1
    if max_evals is not None and rule.n * pieces > max_evals:
        raise ValueError(
            f"{rule} needs {rule.n * pieces} evaluations, max_evals is {max_evals}; "
            "raise it, or use fewer nodes."
        )
    if log and isinstance(rule, TabulatedRule) and min(rule.weights) < 0:
        raise ValueError(
            f"{rule} has negative weights, of which there is no log; use integrate, "
            "or a rule with positive weights such as GaussLegendre."
        )
    add = LogSum() if log else LinearSum()
    if breakpoints is None:
        return apply_fixed(rule, place(extent), integrand, add, memory)
    total = None
    for piece in _between(extent, breakpoints, integrand):
        value = apply_fixed(rule, place(piece), integrand, add, memory)
        total = value if total is None else add.join(total, value)
    assert total is not None  # noqa: S101
    return total


def _between(
    extent: Extent, breakpoints: Tensor, integrand: Integrand
) -> Iterable[Extent]:
    lower, upper = (_full(limit, integrand) for limit in extent[:2])
    low, high = torch.minimum(lower, upper), torch.maximum(lower, upper)
    inner = _per_element(breakpoints, integrand)
    inner = torch.minimum(torch.maximum(inner, low), high).sort(0).values
    inner = torch.where(lower <= upper, inner, inner.flip(0))
    edges = [lower, *inner, upper]
    return [
        Extent(a, b, extent.loc, extent.scale)
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]


def _per_element(breakpoints: Tensor, integrand: Integrand) -> Tensor:
    """Breakpoints ``(k,)`` or ``(k, *batch)`` as ``(k, *batch)``."""
    count, *own = breakpoints.shape
    missing = len(integrand.batch_shape) - len(own)
    inner = breakpoints.to(integrand.dtype).reshape(count, *(1,) * missing, *own)
    return inner.expand(count, *integrand.batch_shape)


def _full(limit: Limit, integrand: Integrand) -> Tensor:
    """A limit as a tensor of the shape of the batch."""
    tensor = torch.as_tensor(limit, device=integrand.device)
    return tensor.to(integrand.dtype).expand(integrand.batch_shape)


def _search(
    problem: Problem,
    rule: Rule | None,
    rtol: float | None,
    atol: float | None,
    max_evals: int | None,
    memory: int | None,
    on_failure: str,
    *,
    log: bool,
) -> Found:
    """Search for the nodes that the integrals need, and report on it."""
    integrand = problem.integrand
    if rule is not None and not isinstance(rule, (GaussKronrod, DoubleExponential)):
        raise TypeError(f"{rule} is not a rule for one dimension.")
    tolerance = Tolerance.of(rtol, atol, integrand.dtype)
    pieces, mark, lead = _host_pieces(problem)
    grad = torch.is_grad_enabled()
    evaluate = Evaluator(integrand, lead, mark, _home(pieces), memory, grad=grad)
    epsilon = torch.finfo(integrand.dtype).eps
    ledger = Ledger(
        pieces.elements, tolerance, epsilon, max_evals or MAX_EVALS, log=log
    )
    # What overflows or has no value is looked at, level by level, where it matters.
    with frozen(), np.errstate(all="ignore"):
        automatic.run(Search(pieces, evaluate, ledger), rule)
    status = status_of(ledger)
    report(status, _detail(ledger), on_failure, stacklevel=4)
    return Found(problem, pieces, evaluate, ledger, status, memory)


def _value(found: Found, plan: Plan | None = None) -> Tensor:
    """The integrals: by a plan if a gradient is wanted, else as they were added up."""
    problem, log = found.problem, found.ledger.log
    # Without any length nothing was evaluated, and the event shape is not known.
    known = found.ledger.total is not None
    if known and not _wants_gradient(problem, found.evaluate):
        return _total(found.evaluate, found.ledger)
    plan = plan or _freeze(found)
    return plan.apply(
        problem.extent,
        problem.integrand,
        problem.breakpoints,
        log=log,
        memory=found.memory,
    )


def _estimate(found: Found) -> Estimate:
    plan = _freeze(found)
    value = _value(found, plan)
    return Estimate(value, plan.error, plan.status, plan.n_evals, plan)


def _wants_gradient(problem: Problem, evaluate: Evaluator) -> bool:
    if transforming() or dual_level():
        return True
    tensors = [t for t in (*problem.extent[:2], problem.breakpoints)]
    moving = any(isinstance(t, Tensor) and t.requires_grad for t in tensors)
    return torch.is_grad_enabled() and (moving or evaluate.requires_grad)


def _host_pieces(problem: Problem) -> tuple[Pieces, Tensor | None, tuple[int, ...]]:
    """Limits and breakpoints read once, and the dimensions that vmap maps over."""
    integrand, extent, breakpoints = problem
    with frozen():
        rows = [_full(limit, integrand) for limit in extent]
        if breakpoints is not None:
            rows[1:1] = list(_per_element(breakpoints, integrand))
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
    return make_pieces(table[:-2], table[-2], table[-1]), mark, tuple(lead)


def _home(pieces: Pieces) -> Array:
    """A point inside the first piece of every element."""
    first = np.arange(pieces.elements)
    kind = pieces.kind[first]
    position = np.where(kind == FINITE, 0.5, np.where(kind == BELOW, -1.0, 0.0))
    position = np.where(kind == ABOVE, 1.0, position)
    home = pieces.points(first, position[None])[0]
    return np.where(np.isfinite(home), home, 0.0)


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
    tensor = torch.as_tensor(value, device=integrand.device).to(evaluate.dtype)
    return as_result(tensor, integrand)


def _freeze(found: Found) -> Plan:
    """The nodes of the ledger as tensors, mapped as the search was."""
    problem, pieces, evaluate, ledger, status, _ = found
    integrand, mark, lead = problem.integrand, evaluate.mark, evaluate.lead
    device, batch = integrand.device, integrand.batch_shape
    inner = int(np.prod(batch, dtype=int))

    def tensor(array: npt.NDArray[Any], columns: tuple[int, ...]) -> Tensor:
        """A host array whose last dimension counts elements, mapped ones in front."""
        array = array.reshape((*array.shape[:-1], *lead, *columns))
        front = range(array.ndim - len(columns) - len(lead), array.ndim - len(columns))
        array = np.moveaxis(array, list(front), range(len(lead)))
        with torch.inference_mode(False):
            return write(array.copy(), mark, device)

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
        error = _reported_error(ledger)
    count = 0 if problem.breakpoints is None else len(problem.breakpoints)
    kinds = pieces.kind.reshape(count + 1, pieces.elements)
    return Plan(
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


def _reported_error(ledger: Ledger) -> Array:
    total = ledger.total
    assert total is not None  # noqa: S101
    error = np.where(ledger.unseen[:, None], np.inf, total.error)
    if not ledger.log:
        return error
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = error / total.value
    return np.where(total.value > 0, relative, error)
