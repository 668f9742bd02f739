"""The CRPS of any forecast: closed form where there is one, integral where not."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce as fold
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from torch_mlcalc.density.nodes import is_exact
from torch_mlcalc.density.wide import in_double, is_torchs
from torch_mlcalc.losses.crps import dispatch
from torch_mlcalc.losses.crps.cdf import (
    is_integrated,
    place_of,
    support_of,
    tails_from,
    tails_of,
)
from torch_mlcalc.losses.crps.quadrature import crps_of_cdf, crps_of_steps
from torch_mlcalc.losses.crps.weighting import (
    Levels,
    Thresholds,
    Weight,
    check_weights,
)
from torch_mlcalc.losses.reduction import Loss, Reduction, prepare_all, reduce
from torch_mlcalc.losses.validation import check_values, is_validated
from torch_mlcalc.quadrature.checks import Settings, check_settings
from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.domains import Domain, Line
from torch_mlcalc.quadrature.integrand import HALF

Forecast = Distribution | Callable[[Tensor], Tensor]


def crps_loss(
    input: Forecast,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    domain: Domain | None = None,
    threshold_weight: Weight = None,
    quantile_weight: Weight = None,
    closed_form: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    on_failure: str = "warn",
    validate: bool | None = None,
) -> Tensor:
    r"""Continuous ranked probability score of a probabilistic forecast.

    .. math:: \int_{-\infty}^\infty (F(x) - 1\{y \le x\})^2\,dx
        = \mathbb{E} |X - y| - \tfrac12 \mathbb{E} |X - X'|

    It is smallest on average at the true distribution, has the unit of the target, and
    is the absolute error if all mass is in one point. Its derivative in :math:`y` is
    :math:`2 F(y) - 1`, the second one twice the density; that in a parameter
    :math:`\theta` of the forecast, whatever this is, is

    .. math:: 2 \int_{-\infty}^\infty (F(x) - 1\{y \le x\})\,
        \partial_\theta F(x)\,dx

    Distributions with a closed form - normal, log-normal, Student's t, Cauchy,
    logistic, Laplace, gamma, exponential, beta, uniform, mixtures of normal ones,
    Poisson, geometric, negative binomial, and what affine transforms make of them -
    use it; :func:`register_crps` adds others. Other discrete ones are summed, and the
    rest integrated numerically, split at the observation, from their ``cdf``, or if
    there is none from ``log_prob``. Normal distributions that are cut off or censored,
    of which torch has none, are scored by :func:`crps_truncated_normal` and
    :func:`crps_censored_normal`.

    With a ``threshold_weight`` :math:`w` the integrand is multiplied by :math:`w(x)`.
    With a ``quantile_weight`` :math:`v` the score is
    :math:`\int_0^1 2 \rho_\tau(y - F^{-1}(\tau))\,v(\tau)\,d\tau`, where :math:`\rho`
    is the quantile loss.

    Args:
        input: The forecast: a univariate ``torch.distributions.Distribution``, or the
            distribution function of points ``(n, *)``, with a ``domain``.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        domain: The support, for a distribution function: an :class:`Interval`,
            :class:`HalfLine` or :class:`RealLine`, placed where the mass is.
        threshold_weight: A function of thresholds that is not negative, or a pair
            ``(lower, upper)`` of the thresholds that count.
        quantile_weight: A smooth function of levels that is not negative, or a pair of
            levels ``(lower, upper)`` between 0 and 1 of those that count.
        closed_form: Whether to use closed forms, which only exist without weights.
        rtol: Wanted relative error where it is integrated; see :func:`integrate`.
        atol: Wanted absolute error.
        max_evals: Points that each integral may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` integrals that did not
            converge.
        validate: Whether to check that no target is NaN; None is
            :func:`set_default_validate`'s. Distributions check their own parameters.

    Shape:
        ``input.batch_shape``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the shapes differ, a setting is out of range, nothing is known
            about the distribution, or there is a domain for a distribution or none for
            a function.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> shape = torch.tensor([0.5, 3.0], requires_grad=True)
        >>> forecast = torch.distributions.Gamma(shape, 1.0)
        >>> loss = mlc.crps_loss(forecast, torch.tensor([1.0, 2.0]))
        >>> loss, torch.autograd.grad(loss, shape)
        (tensor(0.4690, grad_fn=...), (tensor([-0.3507,  0.1997]),))
        >>> mlc.crps_loss(
        ...     lambda x: torch.sigmoid(x) ** 2, torch.zeros(1), domain=mlc.RealLine()
        ... )
        tensor(0.5530)

    References:
        Gneiting and Raftery, "Strictly proper scoring rules, prediction, and
        estimation" (2007), equations (20) and (21).
        https://doi.org/10.1198/016214506000001437
    """
    check_weights(threshold_weight, quantile_weight)
    settings = Settings(rtol, atol, max_evals, None, on_failure)
    check_settings(None, settings)
    _check_domain(input, domain)
    _check_target(target)
    if isinstance(input, Distribution):
        _check_univariate(input, target)
        if not target.is_floating_point():
            own = _dtype_of(input, torch.get_default_dtype())
            target = target.to(accumulator(own))
    (observed,), dtype = prepare_all({"target": target}, weight, reduction)
    if is_validated(validate):
        check_values("target", observed, ~observed.isnan(), "must not be NaN")
    scores = _scores(
        input,
        observed,
        domain,
        Thresholds.of(threshold_weight),
        Levels.of(quantile_weight),
        closed=closed_form,
        options=settings,
    )
    if dtype not in HALF or _dtype_of(input, dtype) not in HALF:
        dtype = torch.promote_types(dtype, scores.dtype)
    return reduce(scores, weight, reduction).to(dtype)


class CRPSLoss(Loss):
    """CRPS of a forecast: the module of :func:`crps_loss`, with its settings."""

    def __init__(
        self,
        reduction: Reduction = "mean",
        *,
        domain: Domain | None = None,
        threshold_weight: Weight = None,
        quantile_weight: Weight = None,
        closed_form: bool = True,
        rtol: float | None = None,
        atol: float | None = None,
        max_evals: int | None = None,
        on_failure: str = "warn",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        check_weights(threshold_weight, quantile_weight)
        check_settings(None, Settings(rtol, atol, max_evals, None, on_failure))
        is_validated(validate)
        self.domain = domain
        self.threshold_weight = threshold_weight
        self.quantile_weight = quantile_weight
        self.closed_form = closed_form
        self.rtol = rtol
        self.atol = atol
        self.max_evals = max_evals
        self.on_failure = on_failure
        self.validate = validate

    def forward(
        self, input: Forecast, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return crps_loss(input, target, self.reduction, weight, **self._settings())

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _DEFAULTS}

    def extra_repr(self) -> str:
        """Return the settings for ``repr``, those that are not the default."""
        settings = [
            f"{name}={value!r}"
            for name, value in self._settings().items()
            # validate is shown with the reduction.
            if name != "validate"
            and value is not _DEFAULTS[name]
            and value != _DEFAULTS[name]
        ]
        return ", ".join([super().extra_repr(), *settings])


_DEFAULTS: dict[str, Any] = {
    "domain": None,
    "threshold_weight": None,
    "quantile_weight": None,
    "closed_form": True,
    "rtol": None,
    "atol": None,
    "max_evals": None,
    "on_failure": "warn",
    "validate": None,
}


def _scores(
    forecast: Forecast,
    target: Tensor,
    domain: Domain | None,
    thresholds: Thresholds,
    levels: Levels,
    *,
    closed: bool,
    options: Settings,
) -> Tensor:
    eps = torch.finfo(target.dtype).eps
    if not isinstance(forecast, Distribution):
        assert isinstance(domain, Line)  # noqa: S101
        place = place_of(domain, target)
        tails = tails_from(forecast)
        return crps_of_cdf(
            tails, domain, place, target, thresholds, levels, options, eps
        )
    if closed and thresholds.plain and levels.plain:
        scores = dispatch.closed_form(forecast, target)
        if scores is not None:
            return scores
    if is_exact(forecast):
        return crps_of_steps(forecast, target, thresholds, levels)
    dtype = torch.promote_types(target.dtype, _dtype_of(forecast, target.dtype))
    if is_torchs(forecast):
        # In single precision a distribution function has steps of 6e-8, numbers around
        # 1e6 are 1/16 apart, and log densities with such parameters have no digits.
        forecast, target = in_double(forecast), target.double()
    support = support_of(forecast)
    place = place_of(support, target, forecast)
    if options.rtol is None and options.atol is None and is_integrated(forecast):
        # Its distribution function has an error of its own, of some roots of epsilon.
        options = options._replace(rtol=64 * eps**0.5)
    tails = tails_of(forecast)
    found = crps_of_cdf(tails, support, place, target, thresholds, levels, options, eps)
    return found.to(dtype)


def _check_domain(forecast: object, domain: object) -> None:
    if isinstance(forecast, Distribution):
        if domain is not None:
            raise ValueError(
                f"{type(forecast).__name__} knows its support; domain is for a "
                f"distribution function, got {domain!r}"
            )
    elif not callable(forecast):
        raise TypeError(
            "input must be a torch.distributions.Distribution or a distribution "
            f"function, got {type(forecast).__name__}"
        )
    elif not isinstance(domain, Line):
        raise (ValueError if domain is None else TypeError)(
            "a distribution function needs domain, the Interval, HalfLine or RealLine "
            f"where it grows from 0 to 1, got {domain!r}"
        )


def _check_target(target: object) -> None:
    if not isinstance(target, Tensor):
        raise TypeError(
            f"target must be a torch.Tensor, got {type(target).__name__}; "
            "convert with torch.as_tensor"
        )


def _check_univariate(forecast: Distribution, target: Tensor) -> None:
    if forecast.event_shape:
        raise ValueError(
            f"input must be a univariate distribution, got event_shape "
            f"{tuple(forecast.event_shape)}; score the margins, or use an energy score"
        )
    if forecast.batch_shape != target.shape:
        raise ValueError(
            f"target must have the batch_shape of input, "
            f"{tuple(forecast.batch_shape)}, got {tuple(target.shape)}; losses do not "
            "broadcast: say what is meant with input.expand(target.shape)"
        )


def _dtype_of(forecast: object, otherwise: torch.dtype) -> torch.dtype:
    """The dtype of the parameters of a distribution, or what is known instead."""
    if not isinstance(forecast, Distribution):
        return otherwise
    held = vars(forecast).values()
    found = [v.dtype for v in held if isinstance(v, Tensor) and v.is_floating_point()]
    found += [_dtype_of(v, otherwise) for v in held if isinstance(v, Distribution)]
    return fold(torch.promote_types, found) if found else otherwise
