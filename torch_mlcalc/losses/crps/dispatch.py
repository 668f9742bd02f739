"""Which distributions have a closed form: an open registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Beta,
    Cauchy,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
    TransformedDistribution,
    Uniform,
)

from torch_mlcalc.losses.crps import bounded, counts, location_scale
from torch_mlcalc.losses.crps import normal as normals
from torch_mlcalc.losses.crps.cdf import LOGIT

ClosedForm = Callable[[Any, Tensor], Tensor | None]
C = TypeVar("C", bound=ClosedForm)

_registry: dict[type[Distribution], ClosedForm] = {}


def register_crps(kind: type[Distribution]) -> Callable[[C], C]:
    """Tell :func:`crps_loss` the closed form of a kind of distribution.

    Args:
        kind: A class of distributions; its subclasses are included.

    Returns:
        A decorator for a function ``(distribution, target)`` that returns the score of
        each element, with the gradients of the parameters and of the target; or None
        for an instance that has no closed form and is to be integrated.

    Raises:
        TypeError: If ``kind`` is not a class of distributions.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> class Sure(torch.distributions.Distribution):  # all mass in one point
        ...     arg_constraints = {}
        ...     def __init__(self, point):
        ...         self.point = point
        ...         super().__init__(point.shape, validate_args=False)
        >>> @mlc.register_crps(Sure)
        ... def absolute_error(sure, target):
        ...     return (target - sure.point).abs()
        >>> mlc.crps_loss(Sure(torch.zeros(2)), torch.tensor([1.0, -2.0]))
        tensor(1.5000)
    """
    if not (isinstance(kind, type) and issubclass(kind, Distribution)):
        raise TypeError(
            f"kind is {kind!r}; a class of torch.distributions is wanted, for example "
            "Normal."
        )

    def register(form: C) -> C:
        _registry[kind] = form
        return form

    return register


def closed_form(distribution: Distribution, target: Tensor) -> Tensor | None:
    """The score of each element, or None if only integration gives it."""
    for kind in type(distribution).__mro__:
        if kind in _registry:
            return _registry[kind](distribution, target)
    return None


def _score(form: Callable[..., Tensor], target: Tensor, *parameters: Tensor) -> Tensor:
    """A closed form in the widest dtype of its arguments, so never in half."""
    dtype = target.dtype
    for parameter in parameters:
        dtype = torch.promote_types(dtype, parameter.dtype)
    return form(*(p.to(dtype) for p in parameters), target.to(dtype))


@register_crps(Normal)
def _normal(p: Normal, y: Tensor) -> Tensor:
    return _score(normals.normal, y, p.loc, p.scale)


@register_crps(LogNormal)
def _log_normal(p: LogNormal, y: Tensor) -> Tensor:
    return _score(normals.log_normal, y, p.loc, p.scale)


@register_crps(Laplace)
def _laplace(p: Laplace, y: Tensor) -> Tensor:
    return _score(location_scale.laplace, y, p.loc, p.scale)


@register_crps(StudentT)
def _student_t(p: StudentT, y: Tensor) -> Tensor:
    return _score(location_scale.student_t, y, p.df, p.loc, p.scale)


@register_crps(Cauchy)
def _cauchy(p: Cauchy, y: Tensor) -> Tensor:
    return _score(location_scale.student_t, y, torch.ones_like(p.loc), p.loc, p.scale)


@register_crps(Gamma)
def _gamma(p: Gamma, y: Tensor) -> Tensor:
    return _score(bounded.gamma, y, p.concentration, p.rate)


@register_crps(Exponential)
def _exponential(p: Exponential, y: Tensor) -> Tensor:
    return _score(bounded.exponential, y, p.rate)


@register_crps(Beta)
def _beta(p: Beta, y: Tensor) -> Tensor:
    return _score(bounded.beta, y, p.concentration1, p.concentration0)


@register_crps(Uniform)
def _uniform(p: Uniform, y: Tensor) -> Tensor:
    return _score(bounded.uniform, y, p.low, p.high)


@register_crps(Poisson)
def _poisson(p: Poisson, y: Tensor) -> Tensor:
    return _score(counts.poisson, y, p.rate)


@register_crps(NegativeBinomial)
def _negative_binomial(p: NegativeBinomial, y: Tensor) -> Tensor:
    count = p.total_count.to(p.logits.dtype)
    return _score(counts.negative_binomial, y, count, p.probs, torch.sigmoid(-p.logits))


@register_crps(Geometric)
def _geometric(p: Geometric, y: Tensor) -> Tensor:
    one = torch.ones_like(p.probs)
    return _score(counts.negative_binomial, y, one, torch.sigmoid(-p.logits), p.probs)


@register_crps(Independent)
def _independent(p: Any, y: Tensor) -> Tensor | None:  # noqa: ANN401
    return closed_form(p.base_dist, y)


@register_crps(MixtureSameFamily)
def _mixture(p: MixtureSameFamily, y: Tensor) -> Tensor | None:
    part = p.component_distribution
    if type(part) is not Normal:
        return None
    probs = p.mixture_distribution.probs
    return _score(normals.normal_mixture, y, probs, part.loc, part.scale)


@register_crps(TransformedDistribution)
def _transformed(p: TransformedDistribution, y: Tensor) -> Tensor | None:
    """Of ``loc + scale X``: ``|scale|`` times that of X."""
    transforms: list[Any] = list(p.transforms)
    unit = torch.ones_like(y)
    while transforms and isinstance(transforms[-1], AffineTransform):
        last = transforms.pop()
        scale = torch.as_tensor(last.scale, dtype=y.dtype, device=y.device)
        y, unit = (y - last.loc) / scale, unit * scale.abs()
    base = p.base_dist
    if transforms == [LOGIT] and _is_standard(base):
        score = location_scale.logistic(torch.zeros_like(y), torch.ones_like(y), y)
    elif transforms:
        return None
    else:
        found = closed_form(base, y)
        if found is None:
            return None
        score = found
    return unit * score


def _is_standard(base: Distribution) -> bool:
    return (
        isinstance(base, Uniform)
        and bool((base.low == 0).all())
        and bool((base.high == 1).all())
    )
