"""CRPS by integration, split at the observation, and by summation over steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from torch_mlcalc.density.nodes import nodes_of
from torch_mlcalc.losses.crps.cdf import Cdf, Tails
from torch_mlcalc.losses.crps.crossings import crossings
from torch_mlcalc.losses.crps.weighting import Levels, Thresholds
from torch_mlcalc.quadrature.checks import Settings
from torch_mlcalc.quadrature.domains import Domain, Interval, Line, RealLine
from torch_mlcalc.quadrature.estimate import report
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.integrate import integrate, integrate_with_error

#: Where integrals are split, in units of the forecast's width around its middle.
_AROUND = torch.tensor([-40.0, -4.0, 0.0, 4.0, 40.0], device="cpu")


def crps_of_cdf(
    tails: Tails,
    domain: Line,
    place: tuple[Tensor, Tensor],
    target: Tensor,
    thresholds: Thresholds,
    levels: Levels,
    options: Settings,
    eps: float,
) -> Tensor:
    r"""The score of each element by quadrature.

    .. math:: S(y) = \int_{-\infty}^c V(F)\,w\,dx + \int_c^\infty W(F)\,w\,dx +
        \int_c^y (V(F) - W(F))\,w\,dx

    with the middle c of the forecast, a constant. So an observation far off is the
    limit of an integral without being a breakpoint in one that is 0 there.

    Args:
        tails: Probabilities below and above points ``(n, *batch)``.
        domain: The support.
        place: Middle and width of the forecast, which carry no gradient.
        target: Observations ``(*batch)``.
        thresholds: What counts on the line.
        levels: What counts of the probabilities.
        options: Tolerances, and what to do if they are not reached.
        eps: Rounding error of the result, from which those follow that are not given.

    Returns:
        The scores.
    """
    if not target.numel():
        return target.clone()
    lower, upper = (thresholds.clip(e) for e in _limits(domain, target))
    loc, scale = (t.expand(target.shape) for t in place)
    home = loc  # a point of the support, whatever the thresholds
    middle = torch.minimum(torch.maximum(loc, lower), upper)

    start, stop = _limits(domain, target)

    def shares(x: Tensor) -> tuple[Tensor, Tensor]:
        # A point may be rounded to the end of the support, where slopes are infinite.
        inside = (x > start) & (x < stop)
        below, above = tails(torch.where(inside, x, home))
        return (
            torch.where(inside, below, 1.0 * (x >= stop)),
            torch.where(inside, above, 1.0 * (x <= start)),
        )

    def at_middle(x: Tensor) -> Tensor:
        p, q = shares(x)
        score = torch.where(x < middle, levels.below(p), levels.above(q))
        return thresholds.at(x, score)

    def further(x: Tensor) -> Tensor:
        p, q = shares(x)
        return thresholds.at(x, levels.below(p) - levels.above(q))

    first, last = _levels_reached(shares, middle, scale, levels, (lower, upper))
    left, right = torch.minimum(first, middle), torch.maximum(last, middle)
    unbounded = isinstance(domain, RealLine) and thresholds.unbounded
    unbounded = unbounded and first is lower and last is upper
    inside = RealLine(loc, scale) if unbounded else Interval(left, right)
    # Where the mass is; a narrow one would be missed from far off.
    around = middle + scale * _AROUND.to(scale).reshape(-1, *(1,) * scale.ndim)
    # Nothing is to be split off where it has ended: a rule for an infinite range that
    # begins there sees zeros alone, or rounding errors. On a line nodes are placed.
    start_of_tail = [around[i] for i in (1, 3)]
    splits = torch.where(left.isinf(), around.clamp(min=start_of_tail[0]), around)
    splits = torch.where(right.isinf(), splits.clamp(max=start_of_tail[1]), splits)
    splits = torch.where(left.isinf() & right.isinf(), middle, splits)
    kinks = torch.stack([torch.where(x.isinf(), middle, x) for x in (first, last)])
    splits, around = (torch.cat([t, kinks]) for t in (splits, around))
    total = _solve(at_middle, inside, splits, scale, options, eps)
    end = thresholds.clip(torch.minimum(torch.maximum(target, lower), upper))
    reach = Interval(middle, end.nan_to_num())
    # Its tolerance is relative to the sum: alone it may be nearly 0.
    total = total + _solve(further, reach, around, scale, options, eps, total.detach())
    total = total + _outside(target, (start, stop), thresholds, levels, options)
    return total.to(target.dtype)


def _levels_reached(
    shares: Tails,
    middle: Tensor,
    scale: Tensor,
    levels: Levels,
    limits: tuple[Tensor, Tensor],
) -> list[Tensor]:
    """Where the distribution function reaches the ends of the levels that count.

    There the integrands have kinks, below the first V is 0, above the last W. They move
    with the forecast, so that second derivatives are right.

    Args:
        shares: Probabilities below and above.
        middle: A middle of the forecast.
        scale: Its width.
        levels: Those that count.
        limits: Where it reaches 0 and 1, or what to return where it is not found.

    Returns:
        Two points ``(*batch)``.
    """
    steps = 2.0 ** torch.arange(-6, 40, dtype=torch.float64, device="cpu")
    steps = torch.cat([-steps.flip(0), steps]).to(scale)
    grid = middle + scale * steps.reshape(-1, *(1,) * scale.ndim)
    found = []
    for p, limit in zip((levels.lower, levels.upper), limits, strict=True):
        at = limit
        if levels.density is None and 0 < p < 1:
            at = crossings(lambda x, p=p: shares(x)[0] - p, grid)[0]  # type: ignore[misc]
            at = torch.where(at == grid[0], limit, at)
        found.append(at)
    return found


def _solve(
    integrand: Cdf,
    domain: Domain,
    breakpoints: Tensor,
    scale: Tensor,
    options: Settings,
    eps: float,
    other: Tensor | None = None,
) -> Tensor:
    """Integrate, and report what has not converged unless it is nothing.

    What is beyond the rounding error of 1 - F has no digits of its own, so that there
    is an absolute tolerance, of that size; and an integrand that is 0 at all nodes is 0
    indeed, for it falls from the middle on.

    Args:
        integrand: Function of points.
        domain: Where.
        breakpoints: Where to split.
        scale: Widths of the forecasts.
        options: Tolerances, and what to do if they are not reached.
        eps: Rounding error of the result.
        other: What the integral is added to, if anything.

    Returns:
        The integral.
    """
    rtol, atol = options.rtol, options.atol
    if rtol is None and atol is None:
        rtol = math.sqrt(eps)
        atol = torch.finfo(scale.dtype).eps * float(read(scale).min())
    if rtol and other is not None:
        atol = max(atol or 0.0, rtol * float(read(other).min()))
    estimate = integrate_with_error(
        integrand,
        domain,
        batch_shape=scale.shape,
        breakpoints=breakpoints,
        rtol=rtol,
        atol=atol,
        max_evals=options.max_evals,
        on_failure="ignore",
    )
    status = torch.where(estimate.value.detach() == 0, 0, estimate.status)
    report(read(status), "", options.on_failure, stacklevel=6)
    return estimate.value


def _limits(domain: Line, target: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = (
        torch.as_tensor(e, dtype=target.dtype, device=target.device).expand(
            target.shape
        )
        for e in domain.extent[:2]
    )
    return lower, upper


def _outside(
    target: Tensor,
    limits: tuple[Tensor, Tensor],
    thresholds: Thresholds,
    levels: Levels,
    options: Settings,
) -> Tensor:
    """The score from the support to an observation outside of it; NaN for NaN."""
    one = torch.ones_like(target)
    start, end = torch.maximum(target, limits[0]), torch.minimum(target, limits[1])
    if thresholds.density is None:
        below = thresholds.clip(start) - thresholds.clip(target)
        above = thresholds.clip(target) - thresholds.clip(end)
    else:
        ends = [t.nan_to_num() for t in (target, start, end)]
        sides = Interval(ends[0], ends[1]), Interval(ends[2], ends[0])
        below, above = (
            integrate(thresholds.density, side, **options._asdict()) for side in sides
        )
    return below * levels.above(one) + above * levels.below(one)


def crps_of_steps(
    distribution: Distribution,
    target: Tensor,
    thresholds: Thresholds,
    levels: Levels,
) -> Tensor:
    """The score of each element for a distribution with countably many values.

    Args:
        distribution: One whose values :func:`expectation` enumerates.
        target: Observations.
        thresholds: What counts on the line.
        levels: What counts of the probabilities.

    Returns:
        The scores, exact but for tails of 1e-20.
    """
    nodes = nodes_of(distribution, 0)
    points, log_weights = torch.broadcast_tensors(*nodes)
    dtype = torch.promote_types(nodes.dtype, target.dtype)
    points = points.to(target.dtype).expand(len(points), *target.shape)
    shares = log_weights.exp().expand(len(points), *target.shape)
    points, order = points.sort(0)
    share = shares.gather(0, order).cumsum(0).to(dtype)
    start, end, share = points[:-1], points[1:], share[:-1]
    # Each step is split where the observation is; outside of all there is nothing.
    split = torch.minimum(torch.maximum(target, start), end)
    below = thresholds.between(start, split) * levels.below(share)
    above = thresholds.between(split, end) * levels.above(1 - share)
    one = torch.ones_like(target)
    first, last = points[0], points[-1]
    before = thresholds.between(torch.minimum(target, first), first)
    after = thresholds.between(last, torch.maximum(target, last))
    return (
        (below + above).sum(0) + before * levels.above(one) + after * levels.below(one)
    )
