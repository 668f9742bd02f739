"""Distribution functions, also of those distributions for which torch has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Cauchy,
    Distribution,
    Exponential,
    FisherSnedecor,
    Gamma,
    Independent,
    Laplace,
    MixtureSameFamily,
    Normal,
    SigmoidTransform,
    StudentT,
    TransformedDistribution,
    Uniform,
)

from torch_mlcalc.density.divergence import log_prob_anywhere
from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.quadrature.domains import Interval, Line, RealLine, domain_of
from torch_mlcalc.special import stdtr
from torch_mlcalc.special.beta import both_betas
from torch_mlcalc.special.gamma import both_gammas

#: What makes a logistic variable of a uniform one.
LOGIT = SigmoidTransform().inv

Cdf = Callable[[Tensor], Tensor]
Tails = Callable[[Tensor], tuple[Tensor, Tensor]]


def cdf_of(distribution: Distribution) -> Cdf:
    """The distribution function of a continuous distribution, with all its gradients.

    Args:
        distribution: Of one variable.

    Returns:
        A function of points within the support.

    Raises:
        ValueError: If it has neither ``cdf`` nor ``log_prob`` and ``support``.
    """  # noqa: DOC502
    tails = tails_of(distribution)
    return lambda x: tails(x)[0]


def tails_of(distribution: Distribution) -> Tails:
    """The probabilities below and above a point, the smaller one with all its digits.

    Args:
        distribution: Of one variable, continuous.

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
    if (
        isinstance(distribution, TransformedDistribution)
        and type(distribution).cdf is TransformedDistribution.cdf
    ):
        return is_integrated(distribution.base_dist)
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

    try:
        kind(**parameters, validate_args=False)
    except TypeError:  # it takes others besides, such as a temperature
        parameters = {}

    def log_density(x: Tensor, *values: Tensor) -> Tensor:
        if not parameters:
            return log_prob_anywhere(distribution, x)
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


def tails_from(cdf: Cdf) -> Tails:
    """Those of a distribution function of which nothing else is known."""

    def tails(x: Tensor) -> tuple[Tensor, Tensor]:
        below = cdf(x)
        return below, 1 - below

    return tails


def _given(distribution: Distribution) -> Tails:
    return tails_from(distribution.cdf)


# Bases of transformed distributions see points outside of their own support.
def _uniform(p: Uniform) -> Tails:
    width = p.high - p.low
    return lambda x: tuple(  # type: ignore[return-value]
        (part / width).clamp(0, 1) for part in (x - p.low, p.high - x)
    )


def _exponential(p: Exponential) -> Tails:
    def tails(x: Tensor) -> tuple[Tensor, Tensor]:
        depth = -p.rate * x.clamp(min=0)
        return -torch.expm1(depth), torch.exp(depth)

    return tails


def _gamma(p: Gamma) -> Tails:
    return lambda x: both_gammas(p.concentration, (p.rate * x).clamp(min=0))


def _beta(p: Beta) -> Tails:
    return lambda x: both_betas(p.concentration1, p.concentration0, x.clamp(0, 1))


def _fisher_snedecor(p: FisherSnedecor) -> Tails:
    def tails(x: Tensor) -> tuple[Tensor, Tensor]:
        share = p.df1 * x.clamp(min=0)
        return both_betas(p.df1 / 2, p.df2 / 2, share / (share + p.df2))

    return tails


def _symmetric(below: Cdf) -> Callable[[Any], Tails]:
    """Of a location and a scale, from the lower tail of the standard one."""

    def make(p: Any) -> Tails:  # noqa: ANN401
        def tails(x: Tensor) -> tuple[Tensor, Tensor]:
            z = (x - p.loc) / p.scale
            return below(z), below(-z)

        return tails

    return make


def lower_normal(z: Tensor) -> Tensor:
    """The normal distribution function; torch's has no digits left from -8 on."""
    return torch.erfc(z * -math.sqrt(0.5)) / 2


def _lower_cauchy(z: Tensor) -> Tensor:
    return torch.atan2(torch.ones_like(z), -z) / math.pi


def _lower_laplace(z: Tensor) -> Tensor:
    # Not abs, which has no slope at 0.
    small = torch.exp(torch.where(z < 0, z, -z)) / 2
    return torch.where(z < 0, small, 1 - small)


def _student_t(p: StudentT) -> Tails:
    return _symmetric(lambda z: stdtr(p.df, z))(p)


def _independent(p: Any) -> Tails:  # noqa: ANN401
    return tails_of(p.base_dist)


def _mixture(p: MixtureSameFamily) -> Tails:
    parts = tails_of(p.component_distribution)

    def tails(x: Tensor) -> tuple[Tensor, Tensor]:
        probs = p.mixture_distribution.probs
        below, above = ((probs * part).sum(-1) for part in parts(x[..., None]))
        return below, above

    return tails


def _transformed(p: TransformedDistribution) -> Tails:
    if any(not t.bijective for t in p.transforms):
        return _given(p)  # such as that of HalfNormal, which knows better
    base = tails_of(p.base_dist)

    def tails(x: Tensor) -> tuple[Tensor, Tensor]:
        rising = torch.ones_like(x)
        for transform in reversed(p.transforms):
            # torch's sigmoid stops short of 1, so that its logit has a heavy tail.
            x = torch.sigmoid(x) if transform == LOGIT else transform.inv(x)
            rising = rising * transform.sign
        below, above = base(x)
        return (
            torch.where(rising > 0, below, above),
            torch.where(rising > 0, above, below),
        )

    return tails


_OWN: dict[type[Distribution], Callable[[Any], Tails]] = {
    Normal: _symmetric(lower_normal),
    Cauchy: _symmetric(_lower_cauchy),
    Laplace: _symmetric(_lower_laplace),
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
