"""Distribution functions, also of those distributions for which torch has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Distribution,
    Exponential,
    FisherSnedecor,
    Gamma,
    Independent,
    MixtureSameFamily,
    SigmoidTransform,
    StudentT,
    TransformedDistribution,
    Uniform,
)

from torch_mlcalc.density.divergence import log_prob_anywhere
from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.quadrature.domains import Interval, Line, RealLine, domain_of
from torch_mlcalc.special import betainc, gammainc, stdtr

#: What makes a logistic variable of a uniform one.
LOGIT = SigmoidTransform().inv

Cdf = Callable[[Tensor], Tensor]


def cdf_of(distribution: Distribution) -> Cdf:
    """The distribution function of a continuous distribution, with all its gradients.

    Args:
        distribution: Of one variable.

    Returns:
        A function of points within the support.

    Raises:
        ValueError: If it has neither ``cdf`` nor ``log_prob`` and ``support``.
    """
    for kind in type(distribution).__mro__:
        if kind in _OWN:
            return _OWN[kind](distribution)
    if not is_integrated(distribution):
        return _given(distribution)
    if type(distribution).log_prob is Distribution.log_prob:
        raise ValueError(
            f"{type(distribution).__name__} has neither cdf nor log_prob; pass its "
            "distribution function and a domain instead, or register_crps."
        )
    return _given(_integrated(distribution))


def is_integrated(distribution: Distribution) -> bool:
    """Whether the distribution function is that of a :class:`NormalizedDensity`."""
    known = any(kind in _OWN for kind in type(distribution).__mro__)
    own = type(distribution).cdf is not Distribution.cdf
    return isinstance(distribution, NormalizedDensity) or not (known or own)


def _integrated(distribution: Distribution) -> NormalizedDensity:
    """A density with a distribution function, from one that has only ``log_prob``."""
    kind: Any = type(distribution)
    # As arguments, which are gathered with the rows that need more points.
    parameters = {
        name: value
        for name, value in vars(distribution).items()
        if name in distribution.arg_constraints and isinstance(value, Tensor)
    }

    def log_density(x: Tensor, *values: Tensor) -> Tensor:
        settings = dict(zip(parameters, values, strict=True))
        return log_prob_anywhere(kind(**settings, validate_args=False), x)

    return NormalizedDensity(
        log_density,
        support_of(distribution),
        args=tuple(parameters.values()),
        batch_shape=distribution.batch_shape,
    )


def support_of(distribution: Distribution) -> Line:
    """The line, half line or interval on which a distribution lives.

    Args:
        distribution: A continuous one of one variable.

    Returns:
        Its support; that of a mixture is the one of its components.

    Raises:
        ValueError: If it is not an interval, or differs between components.
    """
    if isinstance(distribution, Independent):
        return support_of(distribution.base_dist)
    if isinstance(distribution, MixtureSameFamily):
        part = support_of(distribution.component_distribution)
        if any(isinstance(e, Tensor) for e in part.extent[:2]):
            raise ValueError(
                "the components of the mixture have supports of their own; pass its "
                "distribution function and a domain instead"
            )
        lower, upper = part.extent[:2]
        is_line = lower == -math.inf and upper == math.inf
        return RealLine() if is_line else Interval(lower, upper)
    domain = domain_of(distribution)
    assert isinstance(domain, Line)  # noqa: S101
    return domain


def place_of(
    domain: Line, like: Tensor, distribution: Distribution | None = None
) -> tuple[Tensor, Tensor]:
    """Where a forecast has its mass, roughly: a middle and a width, both finite.

    Args:
        domain: Its support.
        like: A tensor of the dtype and device to use.
        distribution: The forecast, if it is one; its mean and standard deviation, or
            its ``loc`` and ``scale``.

    Returns:
        Middle and width, without a gradient.
    """
    lower, upper, loc, scale = (
        torch.as_tensor(e, dtype=like.dtype, device=like.device).detach()
        for e in domain.extent
    )
    if lower.ndim or upper.ndim:
        lower, upper = torch.broadcast_tensors(lower, upper)
    bounded = lower.isfinite() & upper.isfinite()
    loc = torch.where(lower.isfinite() & ~bounded, lower + scale, loc)
    loc = torch.where(bounded, lower / 2 + upper / 2, loc)
    scale = torch.where(bounded, (upper - lower) / 8, scale)
    for pair in (("loc", "scale"), ("mean", "stddev")):
        try:
            at, width = (getattr(distribution, n).detach().to(loc) for n in pair)
        except (NotImplementedError, AttributeError):
            continue
        usable = at.isfinite() & width.isfinite() & (width > 0)
        loc, scale = torch.where(usable, at, loc), torch.where(usable, width, scale)
    return loc, scale


def _given(distribution: Distribution) -> Cdf:
    cdf: Cdf = distribution.cdf
    return cdf


# Bases of transformed distributions see points outside of their own support.
def _uniform(p: Uniform) -> Cdf:
    return lambda x: ((x - p.low) / (p.high - p.low)).clamp(0, 1)


def _exponential(p: Exponential) -> Cdf:
    return lambda x: -torch.expm1(-p.rate * x.clamp(min=0))


def _gamma(p: Gamma) -> Cdf:
    return lambda x: gammainc(p.concentration, (p.rate * x).clamp(min=0))


def _beta(p: Beta) -> Cdf:
    return lambda x: betainc(p.concentration1, p.concentration0, x.clamp(0, 1))


def _student_t(p: StudentT) -> Cdf:
    return lambda x: stdtr(p.df, (x - p.loc) / p.scale)


def _fisher_snedecor(p: FisherSnedecor) -> Cdf:
    def cdf(x: Tensor) -> Tensor:
        share = p.df1 * x.clamp(min=0)
        return betainc(p.df1 / 2, p.df2 / 2, share / (share + p.df2))

    return cdf


def _independent(p: Any) -> Cdf:  # noqa: ANN401
    return cdf_of(p.base_dist)


def _mixture(p: MixtureSameFamily) -> Cdf:
    part = cdf_of(p.component_distribution)
    return lambda x: (p.mixture_distribution.probs * part(x[..., None])).sum(-1)


def _transformed(p: TransformedDistribution) -> Cdf:
    if any(not t.bijective for t in p.transforms):
        return _given(p)  # such as that of HalfNormal, which knows better
    base = cdf_of(p.base_dist)

    def cdf(x: Tensor) -> Tensor:
        rising = torch.ones_like(x)
        for transform in reversed(p.transforms):
            # torch's sigmoid stops short of 1, so that its logit has a heavy tail.
            x = torch.sigmoid(x) if transform == LOGIT else transform.inv(x)
            rising = rising * transform.sign
        share = base(x)
        # The rounding error of 1 - F would be no small integral over an infinite tail.
        rest = torch.where(share < 1 - 4 * torch.finfo(share.dtype).eps, 1 - share, 0.0)
        return torch.where(rising > 0, share, rest)

    return cdf


_OWN: dict[type[Distribution], Callable[[Any], Cdf]] = {
    Uniform: _uniform,
    Exponential: _exponential,
    Gamma: _gamma,
    Beta: _beta,
    StudentT: _student_t,
    FisherSnedecor: _fisher_snedecor,
    Independent: _independent,
    MixtureSameFamily: _mixture,
    TransformedDistribution: _transformed,
    NormalizedDensity: _given,
}
