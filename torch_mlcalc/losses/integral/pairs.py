"""Two distributions on one line: where to integrate a comparison of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.support import extent_of
from torch_mlcalc.density.wide import in_double, is_torchs
from torch_mlcalc.losses.integral.places import (
    centre_of,
    inner_point,
    inside,
    is_discrete,
    kinks_of,
    log_density,
    place_of,
    within,
)
from torch_mlcalc.quadrature.domains import Domain, HalfLine, Interval, Limit, RealLine
from torch_mlcalc.quadrature.host import frozen

#: Standard deviations around the mean within which the mass is looked for: outside of
#: these a normal distribution has 1e-15.
REACH = 8.0

#: The same where the density there is still 1e-10 of a peak as wide, as that of Laplace
#: is 1e-5: of one 5e4 away from the other, 3e-6 of the mass was not found.
TAIL = 32.0

#: The same where the density there underflows, the farthest at which it does not: of a
#: Gumbel variable the mass to the left was not found.
NEARER = (1.0, 2.0, 4.0, REACH)

#: Distance of the other distribution, in widths of the one, from which on these two are
#: looked at. Nearer by, the rule sees what is between, and 32 took it twice the points.
APART = 2 * TAIL

#: Points on which a sign is looked at, for each distribution: a crossing of two is seen
#: if it is a quarter of a standard deviation away from the next.
GRID = 65


class Pair(NamedTuple):
    """Two distributions with a common batch, and the line they are compared on.

    Attributes:
        input: The first, mostly a model.
        target: The second.
        places: Their supports.
        domain: The smallest interval that holds both.
        breaks: Where densities have kinks, jumps or their mass, ``(k, *batch)``.
        batch: The batch shape.
        dtype: That of the parameters, and of the loss.
    """

    input: Distribution
    target: Distribution
    places: tuple[Domain, Domain]
    domain: Domain
    breaks: Tensor
    batch: torch.Size
    dtype: torch.dtype

    @property
    def swapped(self) -> Pair:
        """The same with the roles exchanged."""
        return self._replace(
            input=self.target, target=self.input, places=self.places[::-1]
        )

    @property
    def uncovered(self) -> Tensor | bool:
        """Whether the target has mass where the input cannot have any."""
        (low, high, *_), (lower, upper, *_) = map(extent_of, self.places)
        return (lower < low) | (upper > high)

    def log_densities(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the target and of the input, minus infinity outside of the supports."""
        here, there = self.places
        return _log_density(self.target, there, x), _log_density(self.input, here, x)

    def useful(self, points: Tensor) -> Tensor:
        """Points to split at, another break in the place of those that are of no use.

        Where both densities underflow a rule could not tell that there is nothing
        beyond.

        Args:
            points: Where to split, ``(k, *batch)``.

        Returns:
            As many.
        """
        with frozen():
            floor = math.log(torch.finfo(points.dtype).tiny)
            seen = torch.maximum(*self.log_densities(points)) > floor
        return torch.where(seen, points, self.breaks[1].detach())

    def grid(self) -> Tensor:
        """Ascending points where the masses are, ``(n, *batch)``, constants."""
        steps = torch.linspace(
            -REACH, REACH, GRID, dtype=self.breaks.dtype, device="cpu"
        )
        steps = steps.to(self.breaks.device).reshape(-1, *(1,) * len(self.batch))
        rows = []
        for p in (self.input, self.target):
            at, width = _middle(p, self.domain, self.breaks[0])
            rows.append((at + width * steps).expand(-1, *self.batch))
        grid = torch.cat([*rows, self.breaks.detach()])
        return within(self.domain, grid).sort(0).values


def pair_of(input: Distribution, target: Distribution) -> Pair:
    """Check two distributions, and find where to compare them.

    Args:
        input: A continuous distribution of one number.
        target: Another.

    Returns:
        The pair.

    Raises:
        TypeError: If one is no distribution.
        ValueError: If one is not continuous and univariate, or the batches differ.
    """
    for name, p in (("input", input), ("target", target)):
        _check(name, p)
    batch = input.batch_shape
    if batch != target.batch_shape:
        raise ValueError(
            f"target must have the batch_shape of input, {tuple(input.batch_shape)}, "
            f"got {tuple(target.batch_shape)}; expand one of them"
        )
    like = _like(input) + _like(target)
    dtype = like.dtype
    if is_torchs(input) and is_torchs(target):
        # Numbers around 1e6 have 16 values in a unit in float32, and log densities with
        # parameters of 1e6 no digits: the divergence of Gamma(1e7) from one whose shape
        # is larger by one standard deviation was 22104 instead of 0.45.
        input, target, like = in_double(input), in_double(target), like.double()
    places = place_of(input), place_of(target)
    domain = _union(*places)
    (at, width), (home, other) = (_middle(p, domain, like) for p in (input, target))
    gap = (at - home).abs()
    rows = [
        _breaks(input, places[0], at, width, gap > APART * width, like),
        _breaks(target, places[1], home, other, gap > APART * other, like),
    ]
    table, home = within(domain, torch.cat(rows)), within(domain, home)
    # Home comes second, as useful() wants.
    pair = Pair(input, target, places, domain, home.expand(2, *batch), batch, dtype)
    return pair._replace(breaks=pair.useful(table))


def _breaks(
    p: Distribution,
    place: Domain,
    at: Tensor,
    width: Tensor,
    apart: Tensor,
    like: Tensor,
) -> Tensor:
    """Where one distribution has its mass, its ends and its kinks, ``(k, *batch)``."""
    low, high = _sides(p, place, at, width, apart)
    ends = [e for e in extent_of(place)[:2] if _is_end(e)]
    rows = [low, at, high, *ends]
    breaks = [
        torch.as_tensor(r, dtype=like.dtype, device=like.device).expand(like.shape)[
            None
        ]
        for r in rows
    ]
    kinks = [k.to(like).expand(-1, *like.shape) for k in kinks_of(p)]
    return torch.cat([*breaks, *kinks])


def _sides(
    p: Distribution, place: Domain, at: Tensor, width: Tensor, apart: Tensor
) -> list[Tensor]:
    """Where the mass of a distribution ends, to both sides."""
    floor = math.log(torch.finfo(at.dtype).tiny)
    sides = []
    with frozen():
        points = [at + n * w for w in (-width, width) for n in NEARER]
        logs = _log_density(p, place, torch.stack(points)).split(len(NEARER))
        for w, end, log in zip(
            (-width, width), (points[3], points[-1]), logs, strict=True
        ):
            reach = torch.full_like(at, NEARER[0])
            for n, seen in zip(NEARER, log > floor, strict=True):
                reach = torch.where(seen, n, reach)
            reach = torch.where(inside(place, end) & apart, reach, REACH)
            heavy = log[-1] + width.log() > math.log(1e-10)
            heavy = heavy & inside(place, at + TAIL * w) & apart
            sides.append(at + torch.where(heavy, TAIL, reach) * w)
    return sides


def _check(name: str, p: object) -> None:
    if not isinstance(p, Distribution):
        raise TypeError(
            f"{name} must be one of torch.distributions, got {type(p).__name__}"
        )
    if p.event_shape or is_discrete(p):
        raise ValueError(
            f"{name} must be a continuous distribution of one number, got {p}; use "
            "expectation for others"
        )


def _like(p: Distribution) -> Tensor:
    """A zero with dtype, device and batch of a distribution."""
    if isinstance(p, NormalizedDensity):
        return torch.zeros(p.batch_shape, dtype=p.dtype, device=p.device)
    base = p
    while isinstance(base, TransformedDistribution):
        base = base.base_dist
    values = [getattr(base, name, None) for name in base.arg_constraints]
    tensors = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    like = tensors[0] if tensors else p.mean
    return like.detach().new_zeros(p.batch_shape)


def _middle(p: Distribution, domain: Domain, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation as constants, or what comes nearest to them."""
    try:
        at, width = p.mean.detach(), p.stddev.detach()
    except (NotImplementedError, AttributeError):
        at = width = torch.full_like(like, math.nan)
        if isinstance(p, TransformedDistribution):
            at, width = _moved(p, like)
    loc, scale = centre_of(p)
    if isinstance(loc, Tensor):
        at = torch.where(at.isfinite(), at, loc.detach())
    if isinstance(scale, Tensor):
        width = torch.where(width.isfinite(), width, scale.detach())
    at = torch.where(at.isfinite(), at, inner_point(domain, at))
    return at, torch.where(width.isfinite(), width, 1)


def _moved(p: TransformedDistribution, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where the middle of the base goes, and half of how far apart its sides do."""
    at, width = _middle(p.base_dist, place_of(p.base_dist), like)
    points = torch.stack(torch.broadcast_tensors(at - width, at, at + width))
    with frozen():
        for transform in p.transforms:
            points = transform(points)
    points = points.detach().expand(3, *p.batch_shape)
    return points[1], (points[2] - points[0]).abs() / 2


def _is_end(limit: Limit) -> bool:
    return isinstance(limit, Tensor) or math.isfinite(limit)


def _union(one: Domain, other: Domain) -> Domain:
    """The smallest interval that holds two."""
    (low, high, loc, scale), (lower, upper, *_) = extent_of(one), extent_of(other)
    low = _outer(low, lower, torch.minimum, min)
    high = _outer(high, upper, torch.maximum, max)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor):
        if low == -math.inf and high == math.inf:
            return RealLine(loc, scale)
        if high == math.inf and low > -math.inf:
            return HalfLine(low, scale)
    return Interval(low, high)


def _outer(
    one: Limit,
    other: Limit,
    of_tensors: Callable[[Tensor, Tensor], Tensor],
    of_numbers: Callable[[float, float], float],
) -> Limit:
    tensors = [t for t in (one, other) if isinstance(t, Tensor)]
    if not tensors:
        return of_numbers(float(one), float(other))
    like = tensors[0]
    one, other = (
        torch.as_tensor(t, dtype=like.dtype, device=like.device) for t in (one, other)
    )
    return of_tensors(one, other)


def _log_density(p: Distribution, place: Domain, x: Tensor) -> Tensor:
    within = inside(place, x)
    at = torch.where(within, x, inner_point(place, x))
    return torch.where(within, log_density(p, at), -math.inf)
