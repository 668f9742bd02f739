"""Domains of integration as supports of distributions, and points within them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from torch_mlcalc.quadrature.cubature.box import Box, Solid
from torch_mlcalc.quadrature.domains import Domain, Extent, Limit, Line


def event_shape(domain: Domain) -> tuple[int, ...]:
    """Shape of one point: none on a line, ``(d,)`` in a solid."""
    return (domain.coordinates,) if isinstance(domain, Solid) else ()


def extent_of(domain: Domain) -> Extent:
    """Limits and placement of a domain in one dimension."""
    assert isinstance(domain, Line)  # noqa: S101
    return domain.extent


def tensors_of(domain: Domain) -> list[tuple[Tensor, torch.Size]]:
    """Tensors that a domain is made of, and the batch shape of each."""
    if isinstance(domain, Solid):
        return domain.limits()
    return [(t, t.shape) for t in extent_of(domain) if isinstance(t, Tensor)]


def batch_extent(domain: Domain) -> Extent:
    """An interval with the batch shape, dtype and device of a domain."""
    if not isinstance(domain, Solid):
        return extent_of(domain)
    limits: list[Limit] = [t.new_zeros(shape) for t, shape in domain.limits()]
    total: Limit = sum(limits, 0.0)
    return Extent(total, total + 1.0)


def support_of(domain: Domain) -> constraints.Constraint:
    """The constraint that holds for the points of a domain."""
    if isinstance(domain, Solid):
        if isinstance(domain, Box) and not _bends(domain):
            lower, upper = (_column(limits) for limits in (domain.lower, domain.upper))
            return constraints.independent(constraints.interval(lower, upper), 1)
        # Limits that bend are not checked: a point outside gets what the log density
        # says there.
        return constraints.real_vector
    lower, upper = extent_of(domain)[:2]
    if not isinstance(lower, Tensor) and lower == -math.inf:
        if not isinstance(upper, Tensor) and upper == math.inf:
            return constraints.real
        return _at_most(upper)
    if not isinstance(upper, Tensor) and upper == math.inf:
        return constraints.greater_than_eq(lower)
    return constraints.interval(lower, upper)


def check_tensor(value: object) -> None:
    """Refuse a value that is not a tensor, as torch's distributions do."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"value is a {type(value).__name__}; a tensor is wanted, for example "
            "torch.tensor(0.5)."
        )


def contains(support: constraints.Constraint, points: Tensor) -> Tensor:
    """Which points are in a support; torch's constraints cannot be asked about none."""
    if points.numel():
        return support.check(points)
    shape = points.shape[: points.ndim - support.event_dim]
    return torch.ones(shape, dtype=torch.bool, device=points.device)


def _at_most(upper: Limit) -> constraints.Constraint:
    return constraints.interval(-math.inf, upper)


def corners_of(
    domain: Domain, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Lower and upper limits of a box, ``(d)`` or ``(*batch, d)``; None of others."""
    if not isinstance(domain, Box) or _bends(domain):
        return None
    low, high = (
        torch.as_tensor(_column(limits), dtype=dtype, device=device)
        for limits in (domain.lower, domain.upper)
    )
    return tuple(  # type: ignore[return-value]
        t.expand((*t.shape[:-1], domain.dimension)) for t in (low, high)
    )


def _bends(domain: Box) -> bool:
    return any(
        callable(limit)
        for limits in (domain.lower, domain.upper)
        if isinstance(limits, (list, tuple))
        for limit in limits
    )


def _column(limits: object) -> Limit:
    if isinstance(limits, (list, tuple)):
        devices = [t.device for t in limits if isinstance(t, Tensor)]
        device = devices[0] if devices else None
        columns = [torch.as_tensor(t, device=device) for t in limits]
        return torch.stack(torch.broadcast_tensors(*columns), -1)
    assert isinstance(limits, (int, float, Tensor))  # noqa: S101
    return limits
