"""Known distributions in double precision, where their log densities keep digits.

The log of the gamma function of 1e6 is 1e7, of which float32 keeps units. So the
probabilities of a Poisson variable of mean 1e6 added up to 1.32, the density of a
Student variable with as many degrees of freedom to 0.92. In float64 both are right to
1e-8.
"""

from __future__ import annotations

from copy import copy
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Binomial,
    Cauchy,
    Dirichlet,
    Distribution,
    FisherSnedecor,
    Gamma,
    Geometric,
    InverseGamma,
    NegativeBinomial,
    Poisson,
    StudentT,
    VonMises,
)

#: Those whose densities are functions of the tensors that they hold, and subtract large
#: numbers; subclasses such as Chi2 with them.
_KNOWN = (
    Beta,
    Binomial,
    Cauchy,
    Dirichlet,
    FisherSnedecor,
    Gamma,
    Geometric,
    InverseGamma,
    NegativeBinomial,
    Poisson,
    StudentT,
    VonMises,
)

D = TypeVar("D", bound=Distribution)


def is_known(distribution: Distribution) -> bool:
    """Whether a distribution has the log density of one of those above."""
    own = type(distribution).log_prob
    return any(isinstance(distribution, k) and own is k.log_prob for k in _KNOWN)


def widened(distribution: D) -> D:
    """A known distribution with parameters in float64, any other as it is.

    Args:
        distribution: Any, which stays as it is.

    Returns:
        One with gradients in the same parameters, that does not check the points, which
        are ours.
    """
    return in_double(distribution) if is_known(distribution) else distribution


def is_torchs(distribution: Distribution) -> bool:
    """Whether a distribution, and all that it is made of, is one of torch's own.

    Such one can be asked at points in float64 whatever it holds; one with a network of
    the caller's inside cannot.

    Returns:
        Whether it is.
    """
    parts = [v for v in vars(distribution).values() if isinstance(v, Distribution)]
    transforms = vars(distribution).get("transforms", ())
    kinds = list(map(type, (distribution, *transforms)))
    own = all(kind.__module__.startswith("torch.distributions.") for kind in kinds)
    # It compares its concentration with a number in float32, which fails in float64.
    own = own and kinds[0].__name__ != "GeneralizedPareto"
    return own and all(map(is_torchs, parts))


def in_double(distribution: D) -> D:
    """A distribution of torch's own with all that it holds in float64.

    Args:
        distribution: One of which :func:`is_torchs` holds; it stays as it is.

    Returns:
        One with gradients in the same parameters, that does not check points.
    """
    wide = copy(distribution)
    wide._validate_args = False
    for name, value in vars(distribution).items():
        if isinstance(value, Tensor) and value.is_floating_point():
            setattr(wide, name, value.to(torch.float64))
        elif isinstance(value, Distribution):
            setattr(wide, name, in_double(value))
    # Logits that were derived from probabilities have lost digits, and the other way.
    given = vars(distribution).get("_param")
    for name in ("probs", "logits"):
        if given is not None and vars(distribution).get(name, given) is not given:
            delattr(wide, name)
    return wide
