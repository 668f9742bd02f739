"""Integrals up to many limits at once, from one set of nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.domains import (
    Extent,
    Interval,
    Limit,
    check_agree,
    check_limit,
)
from torch_mlcalc.quadrature.estimate import Status, Tolerance, report
from torch_mlcalc.quadrature.evaluator import Evaluator
from torch_mlcalc.quadrature.host import frozen, mapped_mark, read, transforming, write
from torch_mlcalc.quadrature.integrand import Function, Integrand, as_result, bind
from torch_mlcalc.quadrature.integrate import integrate
from torch_mlcalc.quadrature.panels import Reach, find_panels
from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE
from torch_mlcalc.quadrature.primitive import Mesh, Primitive
from torch_mlcalc.quadrature.problem import as_breakpoints, follow, full, per_element
from torch_mlcalc.quadrature.rules import Array, FixedRule, Rule

#: Points that one antiderivative may use by default, as for one integral.
MAX_EVALS = 100_000


def cumulative_integrate(
    integrand: Function,
    lower: Limit,
    upper: Limit,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Tensor | Sequence[float] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Integrate up to many upper limits at once, all from one set of nodes.

    .. math:: F(x_i) = \int_a^{x_i} f(t, \theta)\,dt

    The range of all limits is divided into panels until the integrand is a polynomial
    on each, to the tolerance; its integral up to any point is then known, and a
    thousand limits cost as many evaluations as one. Derivatives by the limits are the
    integrand there, exactly; those by parameters go through the nodes.

    Args:
        integrand: Function of the points and ``args``, as for :func:`integrate`.
        lower: Where all integrals begin; a number or a tensor ``(*batch)``.
            ``-math.inf`` is allowed.
        upper: Where they end, on either side of ``lower``, in any order.
        rule: By default the panels. A fixed rule is applied to every integral on its
            own and needs ``rule.n`` evaluations for each.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch, if it is not that to which ``lower`` and args
            broadcast.
        breakpoints: Where the integrand has kinks, jumps or peaks: ``(k,)`` or
            ``(k, *batch)``.
        rtol: Wanted error, relative to the integral of ``|f|`` over the whole range; by
            default the square root of the dtype's epsilon (0 if ``atol`` is given).
        atol: Wanted absolute error: either of the two is enough.
        max_evals: Points that each element of the batch may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``upper``: ``(*sample, *batch)``: any shape if there is no batch. Returns
        ``(*sample, *batch, *event)``.

    Returns:
        The integrals.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit.
        IntegrationError: If one did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> x = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
        >>> area = mlc.cumulative_integrate(torch.exp, 0.0, x)
        >>> area
        tensor([0.0000, 1.7183, 6.3891], grad_fn=...)
        >>> torch.autograd.grad(area.sum(), x)
        (tensor([1.0000, 2.7183, 7.3891]),)

    References:
        L. N. Trefethen, "Approximation Theory and Approximation Practice", SIAM 2013,
        chapters 18 and 19.
    """
    check_limits(lower, upper, rule, max_evals, on_failure)
    like = upper.new_zeros(()) if isinstance(upper, Tensor) else 0.0
    inner = None if breakpoints is None else _breakpoints(breakpoints)
    tensor = inner if isinstance(breakpoints, Tensor) else None
    problem = bind(integrand, Extent(lower, like), args, batch_shape, tensor)
    inner = follow(inner, problem)
    x, sample = per_sample(upper, problem)
    start = full(lower, problem)
    if isinstance(rule, FixedRule):
        _refuse_settings(rule, rtol, atol, max_evals, inner)
        value = _each(problem, start, x, rule)
    else:
        settings = Settings(
            Tolerance.of(rtol, atol, problem.dtype), max_evals or MAX_EVALS, on_failure
        )
        with torch.no_grad():
            every = torch.cat([start[None], x])
            low, high = every.amin(0), every.amax(0)
        primitive = tabulate(problem, Extent(low, high), inner, settings)
        value = primitive(x) - primitive(start[None])
    return as_result(value.reshape((*sample, *value.shape[1:])), problem)


class Settings(NamedTuple):
    """When an antiderivative is good enough, and what to do if it is not."""

    tolerance: Tolerance
    max_evals: int
    on_failure: str


def tabulate(
    integrand: Integrand, extent: Extent, inner: Tensor | None, settings: Settings
) -> Primitive:
    """The antiderivative of an integrand over the range ``extent``, ready for use."""
    return Primitive(integrand, find_mesh(integrand, extent, inner, settings))


def find_mesh(
    integrand: Integrand, extent: Extent, inner: Tensor | None, settings: Settings
) -> Mesh:
    """The panels that an antiderivative needs, and a report on what went wrong."""
    with frozen():
        rows = [full(limit, integrand) for limit in extent]
        rows += [] if inner is None else list(per_element(inner, integrand))
        table = torch.stack(rows).to(torch.float64)
        mark = _mark(table, integrand)
        array = read(table, mark)
        lead = array.shape[: array.ndim - table.ndim]
        flat = np.moveaxis(array, len(lead), 0)
        flat = flat.reshape(len(table), math.prod(flat.shape[1:]))
        low, high, loc, scale, *points = flat
        with np.errstate(all="ignore"):
            reach = _reach(low, high, loc, scale)
            home = reach.points(np.full_like(low, 0.5))[0]
            edges = [reach.variable(p) for p in points]
        found = find_panels(
            Evaluator(integrand, lead, mark, home, None, grad=False),
            reach,
            np.array(edges).reshape(len(points), low.size),
            settings.tolerance,
            torch.finfo(integrand.dtype).eps,
            settings.max_evals,
        )
    report(found.status, _detail(found.status), settings.on_failure, stacklevel=5)
    columns = np.concatenate([np.stack(reach), found.edges, found.status[None]])
    columns = columns.reshape((len(columns), *lead, *integrand.batch_shape))
    with torch.inference_mode(False):
        placed = write(
            np.moveaxis(columns, 0, len(lead)).copy(), mark, integrand.device
        )
    return Mesh(Reach(*placed[:3]), placed[3:-1], placed[-1])


def _mark(table: Tensor, integrand: Integrand) -> Tensor | None:
    """What carries the dimensions that vmap maps over, if it does."""
    if not transforming():
        return None
    low, high = (t.nan_to_num(posinf=1.0, neginf=-1.0) for t in table[:2])
    values = integrand(((low + high) / 2).to(integrand.dtype)[None])
    return mapped_mark(table, values.real if values.is_complex() else values)


def _reach(low: Array, high: Array, loc: Array, scale: Array) -> Reach:
    """Ranges between limits ``(elements,)``; ``loc`` places those without an end."""
    below, above = low == -np.inf, high == np.inf
    kind = np.where(below, BELOW, FINITE) | np.where(above, ABOVE, FINITE)
    anchor = np.where(below, np.where(above, loc, high), low)
    span = np.where(below | above, scale, high - low)
    # Where all limits are the same infinity, there is nothing.
    nothing = low == high
    return Reach(
        np.where(nothing, FINITE, kind),
        np.where(nothing & below | nothing & above, 0.0, anchor),
        np.where(nothing, 0.0, span),
    )


def _detail(status: Array) -> str:
    if (status == Status.SUSPECTED_DIVERGENT).any():
        return (
            " An antiderivative needs an integrand that can be integrated to both ends."
        )
    return ""


def _each(problem: Integrand, start: Tensor, x: Tensor, rule: FixedRule) -> Tensor:
    """Every integral on its own, by a fixed rule."""

    def values(points: Tensor) -> Tensor:
        # The integrand takes any number of points of each element of the batch.
        flat = problem(points.flatten(0, 1))
        return flat.reshape(points.shape[:2] + flat.shape[1:])

    return integrate(values, Interval(start, x), rule, batch_shape=x.shape)


def per_sample(
    upper: Limit, integrand: Integrand, name: str = "upper"
) -> tuple[Tensor, tuple[int, ...]]:
    """Upper limits as ``(m, *batch)``, and the shape ``sample`` of the ``m``."""
    batch = integrand.batch_shape
    x = torch.as_tensor(upper, dtype=integrand.dtype, device=integrand.device)
    sample = x.shape[: max(x.ndim - len(batch), 0)]
    try:
        x = x.expand((*sample, *batch))
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}, which does not end with the shape "
            f"{batch} of the batch (that of lower and args); dimensions for more "
            "limits come first: (*sample, *batch)."
        ) from None
    return x.reshape((math.prod(sample), *batch)), tuple(sample)


def check_limits(
    lower: Limit,
    upper: Limit,
    rule: object,
    max_evals: int | None,
    on_failure: str,
    name: str = "upper",
) -> None:
    """Refuse limits, a rule or settings that cannot be used."""
    check_limit("lower", lower)
    check_limit(name, upper)
    if isinstance(lower, Tensor) and isinstance(upper, Tensor):
        # Dtype and device only; the shapes are compared once the batch is known.
        check_agree("lower", lower.flatten()[:1], name, upper.flatten()[:1])
    if rule is not None and not isinstance(rule, FixedRule):
        kind = f"{rule}" if isinstance(rule, Rule) else f"a {type(rule).__name__}"
        raise TypeError(
            f"rule is {kind}; a fixed rule such as GaussLegendre(32) is wanted, or "
            "None for adaptive panels."
        )
    if max_evals is not None and (
        isinstance(max_evals, bool) or not isinstance(max_evals, int)
    ):
        raise TypeError(
            f"max_evals is a {type(max_evals).__name__}; an integer is wanted."
        )
    if max_evals is not None and max_evals < 1:
        raise ValueError(f"max_evals is {max_evals}; at least 1 is wanted.")
    if on_failure not in ("warn", "raise", "ignore"):
        raise ValueError(
            f"on_failure is {on_failure!r}; 'warn', 'raise' or 'ignore' is wanted."
        )


def _refuse_settings(rule: FixedRule, *settings: object) -> None:
    names = ("rtol", "atol", "max_evals", "breakpoints")
    given = [n for n, s in zip(names, settings, strict=True) if s is not None]
    if given:
        raise ValueError(
            f"{given[0]} has no effect with {rule}, whose nodes are fixed; leave it "
            "out, or leave out the rule."
        )


def _breakpoints(breakpoints: object) -> Tensor:
    inner = as_breakpoints(breakpoints)
    if inner.requires_grad:
        raise ValueError(
            "breakpoints requires grad, but panels stand still, so that the gradient "
            "of a jump would be lost: split at it with integrate, or detach it."
        )
    return inner
