"""Where to integrate: intervals of the real line, finite or not.

Domains in more dimensions are in :mod:`torch_mlcalc.quadrature.cubature`.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    MixtureSameFamily,
    VonMises,
    constraints,
)

from torch_mlcalc.quadrature.host import readable

Limit = float | Tensor

_MOST = sys.float_info.max


class Extent(NamedTuple):
    """Limits of a 1-D domain and where nodes go if a limit is infinite."""

    lower: Limit
    upper: Limit
    loc: Limit = 0.0
    scale: Limit = 1.0


def of_numbers(extent: Extent) -> bool:
    """Whether nothing of an extent is a tensor."""
    lower, upper, loc, scale = extent
    return not (
        isinstance(lower, Tensor)
        or isinstance(upper, Tensor)
        or isinstance(loc, Tensor)
        or isinstance(scale, Tensor)
    )


class Domain(ABC):  # noqa: B024
    """A set to integrate over: an :class:`Interval`, a :class:`Box` and so on."""

    #: Whether it is one of several dimensions.
    solid: ClassVar[bool] = False


class Line(Domain):
    """A part of the real line; :class:`Interval` is the one most code needs."""

    @property
    @abstractmethod
    def extent(self) -> Extent:
        """Limits, and placement of the nodes of an unbounded domain."""


@final
@dataclass(frozen=True, eq=False)
class Interval(Line):
    r"""The interval from ``lower`` to ``upper``.

    .. math:: \int_a^b f(x)\,dx = -\int_b^a f(x)\,dx, \qquad \int_a^a f(x)\,dx = 0

    Args:
        lower: Lower limit :math:`a`: a number, or a tensor with one limit for each
            integral of a batch. ``-math.inf`` is allowed, also for some elements only.
        upper: Upper limit :math:`b`, likewise; the two broadcast.

    Shape:
        ``lower`` and ``upper``: broadcastable to ``(*batch)``.

    Raises:
        TypeError: If a limit is neither a real number nor a real tensor, or if two
            tensor limits differ in dtype.
        ValueError: If a limit is NaN, or two tensor limits differ in device or do
            not broadcast.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.Interval(0, torch.tensor([1.0, 2.0]))
        Interval(lower=0, upper=tensor([1., 2.]))
    """

    lower: Limit
    upper: Limit

    def __post_init__(self) -> None:  # noqa: D105
        check_limit("lower", self.lower)
        check_limit("upper", self.upper)
        if isinstance(self.lower, Tensor) and isinstance(self.upper, Tensor):
            check_agree("lower", self.lower, "upper", self.upper)

    @property
    def extent(self) -> Extent:
        """Limits; nodes of an unbounded interval are placed around 0 with scale 1."""
        return Extent(self.lower, self.upper)


@final
@dataclass(frozen=True, eq=False)
class RealLine(Line):
    r"""The whole real line, with reference nodes ``z`` placed at ``loc + scale * z``.

    Args:
        loc: Where the integrand has its mass, roughly. Adaptive rules find the mass by
            themselves and start from here.
        scale: Over which length it varies; positive.

    Shape:
        ``loc`` and ``scale``: broadcastable to ``(*batch)``.

    Raises:
        TypeError: If an argument is neither a real number nor a real tensor.
        ValueError: If ``loc`` is not finite, or ``scale`` is not finite and positive.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.RealLine(loc=3.0)
        RealLine(loc=3.0, scale=1.0)
    """

    loc: Limit = 0.0
    scale: Limit = 1.0

    def __post_init__(self) -> None:  # noqa: D105
        check_limit("loc", self.loc, finite=True)
        check_limit("scale", self.scale, finite=True)
        check_positive("scale", self.scale)

    @property
    def extent(self) -> Extent:
        """Infinite limits, and the placement asked for."""
        return Extent(-math.inf, math.inf, self.loc, self.scale)


@final
@dataclass(frozen=True, eq=False)
class HalfLine(Line):
    r"""The half line :math:`[\text{start}, \infty)`, nodes at ``start + scale * z``.

    Args:
        start: The finite end.
        scale: Over which length from ``start`` the integrand varies; positive.

    Shape:
        ``start`` and ``scale``: broadcastable to ``(*batch)``.

    Raises:
        TypeError: If an argument is neither a real number nor a real tensor.
        ValueError: If ``start`` is not finite, or ``scale`` is not finite and
            positive. A half line downwards is ``Interval(-math.inf, end)``.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.HalfLine(2.0)
        HalfLine(start=2.0, scale=1.0)
    """

    start: Limit = 0.0
    scale: Limit = 1.0

    def __post_init__(self) -> None:  # noqa: D105
        check_limit("start", self.start, finite=True)
        check_limit("scale", self.scale, finite=True)
        check_positive("scale", self.scale)

    @property
    def extent(self) -> Extent:
        """Limits, and the placement asked for."""
        return Extent(self.start, math.inf, scale=self.scale)


def domain_of(source: Distribution | constraints.Constraint) -> Domain:
    """The domain on which a distribution lives or a constraint holds.

    Args:
        source: A continuous univariate ``torch.distributions.Distribution``, of which
            the ``support`` is taken, or a constraint.

    Returns:
        An :class:`Interval`, :class:`RealLine` or :class:`HalfLine`. For a distribution
        with finite mean and standard deviation the nodes are placed by them.

    Raises:
        TypeError: If ``source`` is neither a distribution nor a constraint.
        ValueError: If the support is discrete, multivariate or not an interval.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.domain_of(torch.distributions.Exponential(2.0))
        HalfLine(start=0.0, scale=tensor(0.5000))
        >>> mlc.domain_of(torch.distributions.constraints.unit_interval)
        Interval(lower=0.0, upper=1.0)
    """
    if isinstance(source, constraints.Constraint):
        return _domain_of_constraint(source, 0.0, 1.0)
    if isinstance(source, VonMises):
        # torch says that it lives on the real line, where its density is periodic.
        return Interval(source.loc - math.pi, source.loc + math.pi)
    if isinstance(source, MixtureSameFamily):
        return _domain_of_mixture(source)
    if not isinstance(source, Distribution):
        raise TypeError(
            f"domain_of got {type(source).__name__}; pass a torch.distributions "
            "Distribution or Constraint, or write the domain yourself, "
            "for example Interval(0, 1)."
        )
    try:
        support = source.support
    except NotImplementedError:
        support = None
    if support is None:
        raise ValueError(
            f"{type(source).__name__} states no support; write the domain yourself, "
            "for example RealLine()."
        )
    return _domain_of_constraint(support, *_location_and_scale(source))


def _domain_of_mixture(mixture: MixtureSameFamily) -> Domain:
    """That of the components, which they must share."""
    part = domain_of(mixture.component_distribution)
    assert isinstance(part, Line)  # noqa: S101
    if any(isinstance(limit, Tensor) for limit in part.extent[:2]):
        raise ValueError(
            "the components of the mixture have supports of their own; write the "
            "domain yourself, for example Interval(0, 1)."
        )
    loc, scale = _location_and_scale(mixture)
    if isinstance(part, RealLine):
        return RealLine(loc, scale)
    return HalfLine(part.start, scale) if isinstance(part, HalfLine) else part


def _location_and_scale(distribution: Distribution) -> tuple[Limit, Limit]:
    """Mean and standard deviation where they exist, else 0 and 1; detached."""
    # They only place nodes: the integral does not depend on them, so no gradient.
    try:
        loc = distribution.mean.detach()
        scale = distribution.stddev.detach()
    except (NotImplementedError, AttributeError):
        return 0.0, 1.0
    usable = torch.isfinite(loc) & torch.isfinite(scale) & (scale > 0)
    return (
        torch.where(usable, loc, torch.zeros_like(loc)),
        torch.where(usable, scale, torch.ones_like(scale)),
    )


def _domain_of_constraint(
    support: constraints.Constraint, loc: Limit, scale: Limit
) -> Domain:
    if support.is_discrete or support.event_dim > 0:
        kind = "discrete" if support.is_discrete else "multivariate"
        raise ValueError(
            f"domain_of needs a continuous univariate support, got {support} "
            f"({kind}); a sum or a Box is wanted there, not an interval."
        )
    if support is constraints.real:
        return RealLine(loc, scale)
    lower = getattr(support, "lower_bound", None)
    upper = getattr(support, "upper_bound", None)
    if lower is not None and upper is not None:
        return Interval(lower, upper)
    if lower is not None:
        return HalfLine(lower, scale)
    if upper is not None:
        return Interval(-math.inf, upper)
    raise ValueError(
        f"{support} is not an interval that domain_of knows; write the domain "
        "yourself, for example Interval(0, 1)."
    )


def check_limit(name: str, limit: object, *, finite: bool = False) -> None:
    """Refuse what is not a real number or tensor; numbers also for their value."""
    if type(limit) in (int, float) and -_MOST <= limit <= _MOST:  # type: ignore[operator]
        return  # nearly always, and small integrals are made anew at every call
    if isinstance(limit, Tensor):
        if limit.is_complex() or limit.dtype == torch.bool:
            remedy = "Integrate along a path by a parameter of its own."
            if not limit.is_complex():
                remedy = f"Convert it, for example {name}.float()."
            raise TypeError(
                f"{name} has dtype {limit.dtype}; a real tensor is wanted. {remedy}"
            )
        return
    if isinstance(limit, bool) or not isinstance(limit, (int, float)):
        # A number of numpy has a dtype, which a tensor says and a number does not.
        given = isinstance(limit, (np.generic, np.ndarray, list, tuple))
        remedy = f" Convert it: torch.as_tensor({name})." if given else ""
        raise TypeError(
            f"{name} is a {type(limit).__name__}; a number or a tensor is wanted, "
            f"and math.inf for an infinite limit.{remedy}"
        )
    if isinstance(limit, int) and abs(limit) > _MOST:
        raise ValueError(
            f"{name} is an integer beyond what a floating point number can hold; "
            "write math.inf for an infinite limit."
        )
    if math.isnan(limit) or (finite and math.isinf(limit)):
        wanted = "a finite number" if finite else "a number or +-math.inf"
        raise ValueError(f"{name} is {limit}; {wanted} is wanted.")


def check_positive(name: str, value: Limit) -> None:
    """Refuse what is not positive; a tensor only where reading it is free."""
    if isinstance(value, Tensor):
        if readable(value) and not bool((value > 0).all()):
            raise ValueError(
                f"{name} has values down to {value.min().item()}; it must be positive."
            )
    elif value <= 0:
        raise ValueError(f"{name} is {value}; it must be positive.")


def check_agree(
    name: str, one: Tensor, other_name: str, other: Tensor, *, shapes: bool = True
) -> None:
    """Refuse two tensor limits that torch would silently promote or fail on."""
    if one.device != other.device:
        raise ValueError(
            f"{name} is on {one.device}, {other_name} on {other.device}; move one, "
            f"for example {name}.to({str(other.device)!r})."
        )
    floating = one.is_floating_point() and other.is_floating_point()
    if floating and one.dtype != other.dtype:
        raise TypeError(
            f"{name} is {one.dtype}, {other_name} is {other.dtype}; convert one, "
            f"for example {name}.to({other.dtype})."
        )
    if not shapes:
        return
    try:
        torch.broadcast_shapes(one.shape, other.shape)  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {tuple(one.shape)}, {other_name} has "
            f"{tuple(other.shape)}; they must broadcast to the batch of integrals."
        ) from None
