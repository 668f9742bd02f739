"""Losses that compare two distributions by an integral of their log densities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from torch_mlcalc.losses.integral.pairs import Pair, pair_of
from torch_mlcalc.losses.integral.settings import (
    IntegralLoss,
    check_weight,
    rtol_for,
)
from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.quadrature.estimate import Status, report
from torch_mlcalc.quadrature.host import frozen, read
from torch_mlcalc.quadrature.integrate import integrate
from torch_mlcalc.quadrature.rules import Rule

Term = Callable[[Tensor, Tensor], Tensor]

#: Log density that stands for minus infinity: its exponential is 0, and so is that of
#: half of it, but differences are finite.
NOTHING = -1e5

#: Share of the mass that may be missing: a hundred times what rounding takes from a log
#: density of float32 at 1e4, and less than a component of a mixture that matters.
MISSED = 0.01


class Search(NamedTuple):
    """How to integrate."""

    rule: Rule | None
    rtol: float | None
    atol: float | None
    max_evals: int | None
    memory: int | None
    on_failure: str

    def options(self, dtype: torch.dtype) -> dict[str, Any]:
        """Arguments of :func:`integrate` for a result of a dtype.

        Integrals are computed in a wider one, but to the tolerance of this.

        Args:
            dtype: That of the loss.

        Returns:
            The arguments.
        """
        rtol = rtol_for(dtype, self.rule, self.rtol, self.atol)
        return self._replace(rtol=rtol)._asdict()


class PairLoss(IntegralLoss):
    """Base of losses of two distributions, which call ``function``."""

    function: Callable[..., Tensor]

    def options(self) -> dict[str, Any]:
        """Return the settings beyond those that all share."""
        return {}

    def forward(
        self, input: Distribution, target: Distribution, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch of pairs."""
        return type(self).function(
            input,
            target,
            self.reduction,
            weight,
            rule=self.rule,
            **self.options(),
            **self.search,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        own = [f"{name}={value}" for name, value in self.options().items()]
        return ", ".join([super().extra_repr(), *own])


def compare(
    term: Term,
    pair: Pair,
    search: Search,
    *,
    crossings: Tensor | None = None,
    uncovered: bool = False,
) -> Tensor:
    """Integrate a term of two log densities, that of the target first.

    Args:
        term: The integrand; it is not asked where neither has mass.
        pair: The two distributions.
        search: How to integrate.
        crossings: Where to split besides, ``(k, *batch)``.
        uncovered: Whether the integral is infinite if the target has mass where the
            input cannot have any.

    Returns:
        The integrals ``(*batch)``.
    """

    def integrand(x: Tensor) -> Tensor:
        log_p, log_q = pair.log_densities(x)
        some = (log_p > -math.inf) | (log_q > -math.inf)
        if uncovered:
            some = some & (log_q > -math.inf)
        # Neither is asked where there is nothing: infinities would meet.
        log_p, log_q = (torch.where(some, finite(t), 0.0) for t in (log_p, log_q))
        values = torch.where(some, term(log_p, log_q), 0)
        # The mass as well: two that are equal differ by 0 everywhere, and only this
        # tells the rule that it has seen them.
        mass = torch.where(some, (log_p.exp() + log_q.exp()).detach(), 0)
        return torch.stack([values, mass], -1)

    breaks = pair.breaks
    if crossings is not None:
        breaks = torch.cat([breaks, _known(pair.useful(crossings), breaks)])
    value, mass = integrate(
        integrand,
        pair.domain,
        batch_shape=pair.batch,
        breakpoints=breaks,
        **search.options(pair.dtype),
    ).unbind(-1)
    if uncovered:
        lost = torch.as_tensor(pair.uncovered, device=value.device)
        value, mass = torch.where(lost, math.inf, value), torch.where(lost, 2, mass)
    _report_missed(mass, search)
    return value


def _report_missed(mass: Tensor, search: Search) -> None:
    """Say so where the mass of two distributions, which is 2, was not found.

    A peak that no node meets is seen by nothing else: without it a difference of two
    densities is that of one and of nothing, and converges.
    """
    # A fixed rule reports nothing, and need not integrate the mass to anything.
    if search.on_failure == "ignore" or (search.rule and search.rule.fixed):
        return
    found = read(mass)
    missed = abs(found - 2) > 2 * max(MISSED, search.rtol or 0)
    if missed.any():
        worst = found[missed][abs(found[missed] - 2).argmax()]
        detail = (
            f" The mass of both distributions, 2, was integrated to {worst:.3g}: one "
            "lies where it was not looked for, or its log_prob is not normalized; give "
            "it a mean and a stddev, or a loc and a scale."
        )
        status = missed * int(Status.TOLERANCE_NOT_REACHED)
        report(status, detail, search.on_failure, stacklevel=5)


def _known(crossings: Tensor, breaks: Tensor) -> Tensor:
    """Crossings, those at a break being that break.

    Where a density ends, the difference jumps over 0. Of two splits there, a rounding
    apart, only the one that moves with the end has the gradient of the integral.

    Returns:
        As many, ``(k, *batch)``.
    """
    with frozen():
        scale = breaks.amax(0) - breaks.amin(0)
        away = (crossings[:, None] - breaks).abs()
        distance, nearest = away.min(1)
        same = distance <= 4 * torch.finfo(breaks.dtype).eps * scale
    return torch.where(same, breaks.gather(0, nearest), crossings)


def finite(log: Tensor) -> Tensor:
    """A log density with ``NOTHING`` in the place of minus infinity."""
    return torch.where(log == -math.inf, NOTHING, log)


def prepare_pair(
    input: Distribution,
    target: Distribution,
    weight: Tensor | None,
    reduction: Reduction,
) -> Pair:
    """Check what a loss of two distributions is called with.

    Args:
        input: The first.
        target: The second.
        weight: Weight of each pair, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The pair.

    Raises:
        TypeError: If one is no distribution.
        ValueError: If they do not go together, or the reduction does not exist.
    """  # noqa: DOC502
    pair = pair_of(input, target)
    check_weight(weight, pair.batch, "of the distributions", "batch_shape")
    like = pair.breaks.new_zeros(pair.batch, dtype=pair.dtype)
    _, dtype = prepare_all({"input": like}, None, reduction)  # another under autocast
    return pair._replace(dtype=dtype)
