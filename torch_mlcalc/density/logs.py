r"""Positive variables by their log, those between 0 and 1 by their log odds.

There no peak is too narrow to be found, and no power at an end too small. With the
remainder of Stirling's formula

.. math:: S(a) = a \log a - a - \log \Gamma(a) = \tfrac12 \log \tfrac{a}{2 \pi} -
    \tfrac{1}{12 a} + \tfrac{1}{360 a^3} - \dots

the log density of the log of a gamma variable, :math:`u` above :math:`\log(a / r)`, and
of the log odds of a beta variable, :math:`d` above those of :math:`p = a / (a + b)`,
are

.. math:: a\,(u - e^u + 1) + S(a), \qquad
    -a \log(p + q\,e^{-d}) - b \log(q + p\,e^d) + S(a) + S(b) - S(a + b)

where nothing is lost to large parameters: the log of the gamma function of 1e12 is
2.7e13, of which float64 keeps hundredths.

References:
    NIST Digital Library of Mathematical Functions, equation 5.11.1,
    https://dlmf.nist.gov/5.11
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Distribution,
    FisherSnedecor,
    Gamma,
    InverseGamma,
    StudentT,
)

from torch_mlcalc.density.wide import is_known, widened
from torch_mlcalc.quadrature.domains import RealLine
from torch_mlcalc.quadrature.integrand import Function

#: From where on the series is used: its first missing term is 1e-14 there.
LARGE = 16.0

#: Logs above which nothing is left of a gamma variable, and its slope can be written.
FAR = 300.0


class Stop(NamedTuple):
    """Where the values of a variable stop, which numbers do not reach further out.

    Attributes:
        at: The last value.
        before: One at twice the distance from the end, or half the size.
        mass: Probability beyond, and from half of the distance on, and so on: times the
            difference of a function, this is what is missing of the mean of a log. All
            three are ``(*batch, *event)``, the mass without the event.
    """

    at: Tensor
    before: Tensor
    mass: Tensor


class Logs(NamedTuple):
    """The line of the logs, or log odds, of a variable, in float64.

    Attributes:
        place: Where they are, and how wide; without gradients.
        log_density: Their log density.
        points: The values of the variable that they stand for.
        stops: Where these end, although the variable does not.
    """

    place: RealLine
    log_density: Function
    points: Function
    stops: tuple[Stop, ...] = ()


def has_logs(distribution: Distribution) -> bool:
    """Whether a distribution is one of those that :func:`logs_of` knows."""
    kinds = (Beta, FisherSnedecor, Gamma, InverseGamma)
    return isinstance(distribution, kinds) and is_known(distribution)


def logs_of(distribution: Distribution) -> Logs:
    """A variable by its log, or a beta variable by its log odds."""
    wide = widened(distribution)
    dtype = dtype_of(distribution)
    if isinstance(wide, Beta):
        return _beta(wide.concentration1, wide.concentration0, dtype)
    if isinstance(wide, FisherSnedecor):
        return _ratio(wide.df1 / 2, wide.df2 / 2, dtype)
    if isinstance(wide, InverseGamma):
        return _gamma(wide.base_dist, dtype, inverse=True)
    assert isinstance(wide, Gamma)  # noqa: S101
    return _gamma(wide, dtype, inverse=False)


def dtype_of(distribution: Distribution) -> torch.dtype:
    """The dtype of the values, before anything is in float64."""
    names = ("concentration1", "df1", "concentration")
    parameter = next(n for n in names if hasattr(distribution, n))
    dtype: torch.dtype = getattr(distribution, parameter).dtype
    return dtype


def _gamma(wide: Gamma, dtype: torch.dtype, *, inverse: bool) -> Logs:
    a, log_rate = wide.concentration, wide.rate.log()
    with torch.no_grad():
        place = RealLine(torch.digamma(a) - log_rate, torch.polygamma(1, a).sqrt())
    least, most = torch.finfo(dtype).tiny, torch.finfo(dtype).max

    def log_density(y: Tensor) -> Tensor:
        u = y + (log_rate - a.log())
        return a * (u - torch.expm1(u.clamp(max=FAR))) + _stirling(a)

    def points(y: Tensor) -> Tensor:
        return torch.exp(-y if inverse else y).clamp(least, most)

    end = (-math.log(most), most, most / 2) if inverse else (math.log(least), least)
    return Logs(place, log_density, points, (_stop(log_density, a, *end),))


def _beta(a: Tensor, b: Tensor, dtype: torch.dtype) -> Logs:
    """A beta variable, whose log odds tell how near it is to 1."""
    # Numbers below 1 end at 1e-16 from it, where of a power of 0.1 there is still a
    # fortieth of the mass.
    least, gap = torch.finfo(dtype).tiny, torch.finfo(dtype).eps / 2
    place, log_density = _log_odds(a, b)
    stops = (
        _stop(log_density, a, math.log(least), least),
        _stop(log_density, b, -math.log(gap), 1 - gap, 1 - 2 * gap),
    )
    return Logs(
        place, log_density, lambda z: torch.sigmoid(z).clamp(least, 1 - gap), stops
    )


def _ratio(a: Tensor, b: Tensor, dtype: torch.dtype) -> Logs:
    """The ratio of two gamma variables of mean 1: the odds of a beta variable."""
    least, most = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    place, log_density = _log_odds(a, b)
    shift = a.log() - b.log()
    stops = (
        _stop(log_density, a, math.log(least) + shift, least),
        _stop(log_density, b, math.log(most) + shift, most, most / 2),
    )

    def points(z: Tensor) -> Tensor:
        return torch.exp(z - shift).clamp(least, most)

    return Logs(place, log_density, points, stops)


def _stop(
    log_density: Function,
    power: Tensor,
    z: Tensor | float,
    at: float,
    before: float | None = None,
) -> Stop:
    """The end at ``z`` with a power of the distance beyond it."""
    with torch.no_grad():
        place = torch.as_tensor(z, device=power.device).expand_as(power)
        mass = log_density(place.to(power)).exp() / power / (1 - 0.5**power)
        near = 2 * at if before is None else before
        return Stop(torch.full_like(mass, at), torch.full_like(mass, near), mass)


def _log_odds(a: Tensor, b: Tensor) -> tuple[RealLine, Function]:
    """Where the log odds of a beta variable are, and their log density."""
    log_p, log_q = -torch.log1p(b / a), -torch.log1p(a / b)
    with torch.no_grad():
        at = torch.digamma(a) - torch.digamma(b)
        width = (torch.polygamma(1, a) + torch.polygamma(1, b)).sqrt()
    size = _stirling(a) + _stirling(b) - _stirling(a + b)

    def log_density(z: Tensor) -> Tensor:
        d = z - (a.log() - b.log())
        return size - a * _mixed(log_p, log_q, -d) - b * _mixed(log_q, log_p, d)

    return RealLine(at, width), log_density


def _mixed(log_p: Tensor, log_q: Tensor, d: Tensor) -> Tensor:
    """Log of ``p + q exp(d)``, where ``p + q`` is 1, with all its digits near 0."""
    near = torch.log1p(log_q.exp() * torch.expm1(d.clamp(-1, 1)))
    return torch.where(d.abs() < 1, near, torch.logaddexp(log_p, log_q + d))


def student_log_density(wide: StudentT) -> Function:
    """The log density of a Student variable, whatever its degrees of freedom."""
    h = wide.df / 2
    # Of the gamma function of h + 1/2 over that of h, by Stirling's formula.
    ratio = h * torch.log1p(0.5 / h) + (torch.log(h + 0.5) - 1) / 2
    ratio = ratio - _stirling(h + 0.5) + _stirling(h)
    size = ratio - (wide.df * math.pi).log() / 2 - wide.scale.log()

    def log_density(x: Tensor) -> Tensor:
        y = (x - wide.loc) / wide.scale
        return size - (h + 0.5) * torch.log1p(y * y / wide.df)

    return log_density


def _stirling(a: Tensor) -> Tensor:
    """The function S."""
    small, large = a.clamp(max=LARGE), a.clamp(min=LARGE)
    direct = small * small.log() - small - torch.lgamma(small)
    w = large**-2
    rest = (1 / 12 - w * (1 / 360 - w * (1 / 1260 - w / 1680))) / large
    return torch.where(
        a < LARGE, direct, (large.log() - math.log(2 * math.pi)) / 2 - rest
    )
