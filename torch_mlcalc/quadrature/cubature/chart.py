"""Charts: smooth maps from the unit cube to where an integral is taken."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.cubature.tails import Tails, fold, unfold
from torch_mlcalc.quadrature.domains import Limit
from torch_mlcalc.quadrature.host import dual_level, on_device, readable, transforming
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.placement import ABOVE, BELOW, FINITE, WHOLE

Bounds = tuple[tuple[Callable[..., Tensor] | None, Callable[..., Tensor] | None], ...]


#: Limits up to which they are looked at one by one: a tensor of 16 costs as much as a
#: call of isfinite and one of all.
FEW = 16


#: A breakpoint so near to infinity, in the cube, is not used: double precision has only
#: 1024 numbers there, too few for nodes between them.
_ROOM = 2.0**-43


class Placed(NamedTuple):
    """Points ``(n, *batch, coordinates)`` and the density there, ``(n, *batch)``.

    The density is None where it is 1; in the log form it is a log (None for 0).
    """

    points: Tensor
    density: Tensor | None


class Chart(ABC):
    """A smooth map from the unit cube, for the batch of one call.

    Attributes:
        dimension: Dimension of the cube.
        batch_shape: Shape of the batch.
        dtype: In which dtype nodes in the cube are wanted: double where an end of the
            cube stands for infinity, as 1 - u would lose its digits.
        device: Where they are wanted.
    """

    dimension: int
    batch_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def divisible(self) -> bool:
        """Whether :meth:`rows` works."""
        return True

    @property
    def unbounded(self) -> bool:
        """Whether there may be infinite axes, on which the kind of tails matters."""
        return False

    @property
    def moves(self) -> bool:
        """Whether a derivative by a limit may be asked for."""
        return False

    @property
    def lengths(self) -> Tensor:
        """Signed factors of the volume, ``(d)`` or ``(*batch, d)``; see scale."""
        return torch.ones(self.dimension, dtype=self.dtype, device=self.device)

    @abstractmethod
    def rows(self, rows: Tensor) -> Chart:
        """The chart of some integrals of the flattened batch, ``(m)``."""

    def held(self, u: Tensor) -> Tensor:
        """Places ``(..., *batch, d)`` in the cube of points that do not move.

        Their values are ``u``, their derivatives such that the points stand still
        while the limits move.

        Returns:
            The places.
        """
        return u

    def knots(self, x: Tensor, axis: int) -> Tensor:
        """Where coordinates ``(k, *batch)`` of an axis are in the cube."""
        raise NotImplementedError

    @abstractmethod
    def __call__(self, u: Tensor, *, log: bool) -> Placed:
        """Points and density at ``u``: ``(n, d)`` or ``(n, *batch, d)``."""

    def place(self, z: Tensor, *, log: bool) -> Placed:
        """Points and density at ``z``, to which infinite axes are stretched already."""
        return self(z, log=log)

    @abstractmethod
    def scale(self, total: Tensor, *, log: bool) -> Tensor:
        """The sum over the cube times the volume, or plus its log."""

    def widened(self, u: Tensor) -> Tensor:
        """``u`` with the dimensions of the batch."""
        if u.ndim == 2:
            ones = (1,) * len(self.batch_shape)
            return u.reshape(u.shape[0], *ones, self.dimension)
        return u


@dataclass(frozen=True, eq=False)
class BoxChart(Chart):
    """The map to a box: ``anchor + span * z(u)`` on each axis.

    Attributes:
        kind: Which ends are infinite, ``(d)`` or ``(*batch, d)``; None for none.
        anchor: Where ``z = 0`` is placed.
        span: Length of a unit of ``z``.
        length: Signed factor that each axis contributes to the volume.
        bounds: Limits that are functions of earlier coordinates, two for each axis.
        tails: How infinite axes are stretched.
    """

    dimension: int
    batch_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    kind: Tensor | None
    anchor: Tensor
    span: Tensor
    length: Tensor
    bounds: Bounds
    tails: Tails

    @staticmethod
    def of(
        lower: Limit | Sequence[float],
        upper: Limit | Sequence[float],
        loc: Limit,
        scale: Limit,
        bounds: Bounds,
        integrand: Integrand,
        dimension: int,
        tails: Tails,
    ) -> BoxChart:
        """The chart of a box with these limits."""
        wide = accumulator(integrand.dtype)

        def full(limit: Limit | Sequence[float]) -> Tensor:
            if isinstance(limit, Sequence):
                tensor = torch.tensor(limit, dtype=wide, device="cpu")
                tensor = tensor.to(integrand.device, non_blocking=True)
            else:
                tensor = on_device(limit, wide, integrand.device)
            return tensor.expand(*tensor.shape[:-1], dimension)

        low, high = full(lower), full(upper)
        # Below vmap and on a GPU numbers, but not tensors, are known to be finite.
        finite = all(
            _all_finite(given, tensor)
            for given, tensor in ((lower, low), (upper, high))
        )
        kind, anchor, length = None, low, high - low
        span = length
        if not finite:
            kind, anchor, span, length = _unbounded(low, high, full(loc), full(scale))
        # An axis with a bound is placed by it; its length is a factor of the density.
        bent = [any(pair) for pair in bounds]
        if any(bent):
            mask = torch.tensor(bent, device="cpu").to(
                integrand.device, non_blocking=True
            )
            length = torch.where(mask, 1.0, length)
        return BoxChart(
            dimension,
            integrand.batch_shape,
            wide if kind is None else torch.float64,
            integrand.device,
            kind,
            anchor,
            span,
            length,
            bounds if any(bent) else (),
            tails,
        )

    def __call__(self, u: Tensor, *, log: bool) -> Placed:
        """Points and density at ``u``: ``(n, d)`` or ``(n, *batch, d)``."""
        u = self.widened(u)
        if self.kind is None:
            return self.place(u, log=log)
        z, log_slope = unfold(u, self.kind, self.tails)
        log_density = log_slope.sum(-1)
        points, density = self.place(z, log=log)
        if density is None:
            return Placed(points, log_density if log else log_density.exp())
        if log:
            return Placed(points, density + log_density)
        return Placed(points, density * log_density.exp())

    @property
    def unbounded(self) -> bool:
        """Whether limits are infinite, or not known to be finite."""
        return self.kind is not None

    @property
    def moves(self) -> bool:
        """Whether a derivative by a limit may be asked for."""
        if transforming() or dual_level():
            return True
        return self.anchor.requires_grad or self.span.requires_grad

    @property
    def lengths(self) -> Tensor:
        """Those of the axes."""
        return self.length

    @property
    def divisible(self) -> bool:
        """Not with bounds, which may close over batched tensors."""
        return not self.bounds

    def rows(self, rows: Tensor) -> BoxChart:
        """The chart of some integrals of the flattened batch, ``(m)``."""

        def take(tensor: Tensor) -> Tensor:
            if tensor.ndim == 1:
                return tensor
            full = tensor.expand(*self.batch_shape, self.dimension)
            return full.reshape(-1, self.dimension).index_select(0, rows)

        return replace(
            self,
            batch_shape=tuple(rows.shape),
            kind=None if self.kind is None else take(self.kind),
            anchor=take(self.anchor),
            span=take(self.span),
            length=take(self.length),
        )

    def held(self, u: Tensor) -> Tensor:
        """Places in the cube of points that stand still while the limits move."""
        z = u if self.kind is None else unfold(u, self.kind, self.tails)[0]
        # Infinity stands still anyway, and would make gradients nan, taken or not.
        far = z.isinf()
        z, some = torch.where(far, 0, z), (self.span != 0) & ~far
        span = torch.where(some, self.span, 1)
        moved = self.anchor - self.anchor.detach()
        live = (span.detach() * z - moved) / span
        if self.kind is not None:
            live = fold(live, self.kind, self.tails)
        bent = [any(pair) for pair in self.bounds] or [False] * self.dimension
        free = some & ~torch.tensor(bent, device="cpu").to(u.device, non_blocking=True)
        return torch.where(free, live, u)

    def knots(self, x: Tensor, axis: int) -> Tensor:
        """Where coordinates ``(k, *batch)`` of an axis are in the cube, in [0, 1]."""
        anchor, span = self.anchor[..., axis], self.span[..., axis]
        some = span != 0
        # Those that all integrals share must not pair up with the batch.
        missing = max(anchor.ndim, span.ndim) - (x.ndim - 1)
        if missing > 0:
            x = x.reshape(len(x), *(1,) * missing, *x.shape[1:])
        far, above = x.isinf(), x > 0
        near = torch.where(far, 0, x)
        z = torch.where(some, (near - anchor) / torch.where(some, span, 1), 0)
        end = (above == (span > 0)).to(z.dtype)
        if self.kind is None:
            return torch.where(far, end, z.clamp(0, 1))
        kind = self.kind[..., axis].expand(z.shape)
        finite, whole = kind == FINITE, kind == WHOLE
        # Beyond the end of a half line there is nothing to fold.
        z = torch.where(whole, z, z.clamp(min=0))
        u = fold(z, kind, self.tails).clamp(0, 1)
        # Between infinity and a place next to it there are no nodes: any other will do.
        room = torch.where(whole, torch.minimum(u, 1 - u), 1 - u)
        lost = far | (~finite & (room < _ROOM))
        return torch.where(lost, torch.where(finite, end, 0.5), u)

    def place(self, z: Tensor, *, log: bool) -> Placed:
        """Points at ``z``; the density is the length of bent axes."""
        z = self.widened(z)
        if self.bounds:
            return self._bend(z, log=log)
        points = torch.addcmul(self.anchor, self.span, z)
        shape = (points.shape[0], *self.batch_shape, self.dimension)
        return Placed(points if points.shape == shape else points.expand(shape), None)

    def _bend(self, z: Tensor, *, log: bool) -> Placed:
        shape = (z.shape[0], *self.batch_shape)
        straight = self.anchor + self.span * z
        lower, upper = self.anchor, self.anchor + self.span
        points: list[Tensor] = []
        lengths: list[Tensor] = []
        for axis, (low, high) in enumerate(self.bounds):
            if low is None and high is None:
                points.append(straight[..., axis].expand(shape))
                continue
            begin = low(*points) if low else lower[..., axis]
            end = high(*points) if high else upper[..., axis]
            for name, bound, limit in (("lower", low, begin), ("upper", high, end)):
                if bound:
                    _check_bound(f"{name}[{axis}]", limit, shape)
            length, start, step = end - begin, begin, end - begin
            if self.kind is not None and not (low and high):
                # The other limit may be infinite, to which the span leads.
                away = self.kind[..., axis] != FINITE
                span = self.span[..., axis]
                step = torch.where(away, span, length)
                start = torch.where(away, begin if low else end, begin)
                length = torch.where(away, span if low else -span, length)
            lengths.append(length.expand(shape))
            points.append((start + step * z[..., axis]).expand(shape))
        sides = torch.stack(lengths, -1)
        density = torch.log(sides).sum(-1) if log else volume_of(sides)
        return Placed(torch.stack(points, -1), density)

    def scale(self, total: Tensor, *, log: bool) -> Tensor:
        """The sum over the cube times the volume, or plus its log."""
        size = torch.log(self.length).sum(-1) if log else volume_of(self.length)
        whole = _behind(size, total, self)
        # 0 times an infinite integrand: at equal limits the value is 0, and the
        # gradient still that of the limits.
        blank = torch.where(total.isfinite(), total, 0)
        total = torch.where(whole == (-math.inf if log else 0), blank, total)
        return total + whole if log else total * whole


def volume_of(length: Tensor) -> Tensor:
    """The product over the axes, which are the last dimension."""
    # The backward pass of prod reads whether a factor is 0, for which a GPU is waited.
    # On the host it takes half as long as one product after the other.
    if length.device.type != "cpu" and length.requires_grad:
        return reduce(torch.mul, length.unbind(-1))
    return length.prod(-1)


def _behind(factor: Tensor, total: Tensor, chart: Chart) -> Tensor:
    """A factor of the batch, with dimensions for the events of the total."""
    events = total.ndim - len(chart.batch_shape)
    return factor.reshape(factor.shape + (1,) * events)


def _all_finite(given: Limit | Sequence[float], tensor: Tensor) -> bool:
    if not isinstance(given, Tensor):
        numbers = given if isinstance(given, Sequence) else (given,)
        return all(math.isfinite(x) for x in numbers)
    if not readable(tensor):
        return False
    if tensor.numel() <= FEW:
        return all(map(math.isfinite, tensor.reshape(-1).tolist()))
    return bool(tensor.isfinite().all())


def _unbounded(
    lower: Tensor, upper: Tensor, loc: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kind, anchor, span and length of axes some of which may be infinite."""
    flipped = lower > upper
    below = (lower == -math.inf) | (upper == -math.inf)
    above = (lower == math.inf) | (upper == math.inf)
    # Equal infinite limits are an empty axis.
    empty = (lower == upper) & lower.isinf()
    below, above = below & ~empty, above & ~empty
    kind = below.long() * BELOW + above.long() * ABOVE
    # Infinite limits are replaced before any arithmetic, else their nan would reach
    # the gradient through the branch that is not taken. A limit that is nan stays.
    a = torch.where(lower.isinf(), 0, lower)
    b = torch.where(upper.isinf(), 0, upper)
    finite = kind == FINITE
    # The only finite limit of a half line; the other one was replaced by 0.
    end = torch.where(lower.isinf(), b, a)
    anchor = torch.where(finite, a, torch.where(kind == WHOLE, loc, end))
    span = torch.where(finite, b - a, torch.where(kind == BELOW, -scale, scale))
    length = torch.where(finite, b - a, torch.where(flipped, -scale, scale))
    length = torch.where(anchor.isnan(), anchor, length)
    return kind, anchor, span, length


def _check_bound(name: str, limit: object, shape: tuple[int, ...]) -> None:
    if not isinstance(limit, Tensor):
        raise TypeError(
            f"the function {name} of the box returned {type(limit).__name__}; a tensor "
            f"of shape {shape} is wanted."
        )
    if limit.shape != shape:
        raise ValueError(
            f"the function {name} of the box got coordinates of shape {shape} and "
            f"returned shape {tuple(limit.shape)}; one limit for each is wanted. For a "
            "constant, write the number itself."
        )
