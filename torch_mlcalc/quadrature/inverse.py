"""The inverse of an antiderivative: limits up to which an integral has a value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_mlcalc.quadrature.cumulative import (
    MAX_EVALS,
    Settings,
    check_limits,
    per_sample,
    tabulate,
)
from torch_mlcalc.quadrature.domains import Extent, Limit, check_limit
from torch_mlcalc.quadrature.estimate import Status, Tolerance, report
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.integrand import Function, Integrand, as_result, bind
from torch_mlcalc.quadrature.primitive import Primitive
from torch_mlcalc.quadrature.problem import full

#: Factor by which the search for a limit goes further out each time, and how often:
#: to 8^40, about 1e36, near the end of float32.
REACH, STEPS = 8.0, 40


def inverse(
    integrand: Function,
    lower: Limit,
    value: Limit,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    """The limits up to which a positive integrand has given integrals.

    Args:
        integrand: As for :func:`cumulative_integrate`, and so are the others.
        lower: Where the integrals begin; finite.
        value: The integrals, ``(*sample, *batch)``.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        rtol: Wanted error of the integrals.
        atol: Wanted absolute error of the integrals.
        max_evals: Points that each element of the batch may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.

    Returns:
        Upper limits like ``value``, nan where there is none.

    Raises:
        ValueError: If the integrand is found to be negative.
    """
    check_limits(lower, value, None, max_evals, on_failure, name="value")
    check_limit("lower", lower, finite=True)
    like = value.new_zeros(()) if isinstance(value, Tensor) else 0.0
    problem = bind(integrand, Extent(lower, like), args, batch_shape)
    y, sample = per_sample(value, problem, name="value")
    start = full(lower, problem).detach()
    tolerance = Tolerance.of(rtol, atol, problem.dtype)
    settings = Settings(tolerance, max_evals or MAX_EVALS, on_failure)
    extent, found = _bracket(problem, start, y.detach(), settings)
    primitive = tabulate(problem, extent, None, settings)
    # What the range begins with is not part of the integral.
    begin = primitive(full(lower, problem)[None])
    x = torch.where(found, primitive.invert(y + begin), torch.nan)
    missed = ~read(found).astype(bool)
    report(missed.astype(int), _NO_LIMIT, on_failure, stacklevel=3)
    return as_result(x.reshape((*sample, *x.shape[1:])), problem)


_NO_LIMIT = " No limit was found up to which the integrand has the integral asked for."


def _bracket(
    problem: Integrand, start: Tensor, y: Tensor, settings: Settings
) -> tuple[Extent, Tensor]:
    """A range that holds all limits, and which there are, ``(m, *batch)``."""
    low = start - (y < 0).any(0).to(start.dtype)
    high = start + (y >= 0).any(0).to(start.dtype)
    best, most = Extent(low, high), torch.zeros_like(y, dtype=torch.bool)
    quiet = settings._replace(on_failure="ignore")
    for _ in range(STEPS):
        with torch.no_grad():
            primitive = tabulate(problem, Extent(low, high), None, quiet)
            _refuse_negative(primitive)
            begin = primitive(start[None])
            short, far = y + begin > primitive.total, y + begin < 0
            found = ~(short | far | y.isnan())
            found &= primitive.status != Status.NON_FINITE
            # A range can be so wide that what was seen in a smaller one is lost.
            more = (found & ~most).any(0)
            best = Extent(
                torch.where(more, low, best.lower), torch.where(more, high, best.upper)
            )
            most = torch.where(more, found, most)
            if read(most).all():
                break
            high = torch.where(short.any(0), start + REACH * (high - start), high)
            low = torch.where(far.any(0), start - REACH * (start - low), low)
    return best, most


def _refuse_negative(primitive: Primitive) -> None:
    if primitive.lowest is not None and (read(primitive.lowest) < 0).any():
        raise ValueError(
            "the integrand is negative somewhere, so its antiderivative has no "
            "inverse; make it positive, for example by softplus."
        )
