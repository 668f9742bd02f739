"""Survival: the likelihood of times to an event whose hazard is any function."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy import special
from torch import Tensor

from torch_mlcalc.losses.integral.censoring import (
    Subjects,
    check_subjects,
    prepare_subjects,
)
from torch_mlcalc.losses.integral.settings import IntegralLoss, check_function
from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.quadrature.domains import Interval
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import integrate, log_integrate
from torch_mlcalc.quadrature.problem import Breakpoints
from torch_mlcalc.quadrature.rules import Rule

#: Coefficients of the series of log(sinh(x / 2) / (x / 2)) in x^2: the logarithm of the
#: product of 1 + (x / (2 pi k))^2 over all k. For x up to 1 ten terms leave out 1e-17.
_LOG_SINHC = [
    -((-1) ** k) * special.zeta(2 * k) / k / (2 * math.pi) ** (2 * k)
    for k in range(1, 11)
]


def hazard_nll_loss(
    log_hazard: Function,
    time: Tensor,
    event: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    upper: Tensor | None = None,
    entry: Tensor | None = None,
    args: Sequence[Any] = (),
    rule: Rule | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
    validate: bool | None = None,
) -> Tensor:
    r"""Negative log likelihood of survival times, from the log of their hazard.

    .. math::
        \Lambda(a, b) = \int_a^b h(s)\,ds, \qquad
        \ell = \begin{cases}
        \Lambda(e, t) & \text{not until } t \\
        \Lambda(e, t) - \log h(t) & \text{at } t \\
        -\log(1 - e^{-\Lambda(e, t)}) & \text{before } t \\
        \Lambda(e, t) - \log(1 - e^{-\Lambda(t, u)}) & \text{between } t \text{ and } u
        \end{cases}

    for right-censored times, events, and left- and interval-censored times, all given
    that nothing happened before the entry :math:`e` (left truncation). The derivative
    by a parameter :math:`\theta` of :math:`\log h` is
    :math:`\int_e^t h\,\partial_\theta \log h\,ds - \partial_\theta \log h(t)` for an
    event; those by the times are :math:`h(t) - h'(t) / h(t)` and :math:`-h(e)`. What
    is censored to the left or to an interval is integrated in log form, so that
    hazards that underflow are none the worse.

    Args:
        log_hazard: Function of times ``(n, *batch)`` and ``args`` that returns the log
            of the hazard there, ``(n, *batch)``. It may be a network.
        time: Time of the event or of censoring, not before ``entry``.
        event: Booleans, whether the event happened at ``time``, or the integer codes of
            :class:`Censoring`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each subject; ``"mean"`` divides by the sum of the weights.
        upper: End of the interval of those with ``Censoring.INTERVAL``; others are not
            looked at. Infinity makes a right-censored time of it.
        entry: Since when each subject is under observation; by default since 0.
        args: Further arguments of the function, such as features: tensors that begin
            with the shape of ``time``, or others as they are.
        rule: How to integrate; by default chosen as :func:`integrate` does. Smooth
            hazards are right to single precision with ``GaussLegendre(16)``, which is
            much faster.
        breakpoints: Where the hazard has kinks or jumps, ``(k,)`` or ``(k, *batch)``.
        rtol: Wanted relative error of the integrals; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.
        validate: Whether to look at the values; see :func:`set_default_validate`.

    Shape:
        ``time``, ``event``, ``upper``, ``entry`` and ``weight``: ``(*batch)``, the
        same.

    Returns:
        The loss, of shape ``()``, or ``(*batch)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes differ or a setting does not exist; with ``validate`` also
            if times are out of order or a code does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> time, died = torch.tensor([1.0, 2.0]), torch.tensor([True, False])
        >>> rate = torch.tensor(0.5, requires_grad=True)
        >>> loss = mlc.hazard_nll_loss(
        ...     lambda t: rate.log().expand_as(t), time, died, "sum"
        ... )
        >>> loss  # 0.5 * (1 + 2) - log(0.5)
        tensor(2.1931, grad_fn=...)
        >>> torch.autograd.grad(loss, rate)  # (1 + 2) - 1 / 0.5
        (tensor(1.0000),)

    References:
        J. P. Klein, M. L. Moeschberger, "Survival Analysis", 2nd ed., Springer 2003,
        section 3.5. https://doi.org/10.1007/b97377
    """
    check_function("log_hazard", log_hazard)
    checked = is_validated(validate)
    subjects, dtype = prepare_subjects(time, event, upper, entry, weight, reduction)
    if checked:
        check_subjects(subjects, time, event, upper, entry)
    options: dict[str, Any] = {
        "args": tuple(args),
        "batch_shape": time.shape,
        "breakpoints": breakpoints,
        "rtol": rtol,
        "atol": atol,
        "max_evals": max_evals,
        "memory": memory,
        "on_failure": on_failure,
    }
    loss = _exposed(log_hazard, subjects, rule, options)
    loss = loss - _log_at_event(log_hazard, subjects, args)
    if subjects.coded:
        loss = loss + _hidden(log_hazard, subjects, rule, options)
    return reduce(loss, weight, reduction).to(dtype)


class HazardNLLLoss(IntegralLoss):
    """Likelihood of survival times: the module of :func:`hazard_nll_loss`.

    Args:
        log_hazard: Module or function that returns the log of the hazard.
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        breakpoints: Where the hazard has kinks or jumps, the same for all subjects:
            numbers, or a tensor ``(k,)``, which becomes a buffer.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        validate: Whether to look at the values.

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> class Weibull(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(3, 1)
        ...         self.log_shape = torch.nn.Parameter(torch.tensor(0.0))
        ...     def forward(self, t, x):
        ...         k = self.log_shape.exp()
        ...         return self.layer(x)[..., 0] + self.log_shape + (k - 1) * t.log()
        >>> criterion = mlc.HazardNLLLoss(Weibull(), mlc.GaussLegendre(16))
        >>> time, event = torch.rand(50) + 1, torch.rand(50) < 0.5
        >>> criterion(time, event, torch.randn(50, 3)).backward()
    """

    breakpoints: Tensor | None

    def __init__(
        self,
        log_hazard: Function,
        rule: Rule | None = None,
        *,
        reduction: Reduction = "mean",
        breakpoints: Tensor | Sequence[float] | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        max_evals: int | None = None,
        memory: int | None = None,
        on_failure: str = "warn",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(
            rule,
            reduction,
            rtol=rtol,
            atol=atol,
            max_evals=max_evals,
            memory=memory,
            on_failure=on_failure,
        )
        check_function("log_hazard", log_hazard)
        is_validated(validate)
        self.log_hazard = log_hazard
        self.validate = validate
        given = None if breakpoints is None else torch.as_tensor(breakpoints)
        self.register_buffer("breakpoints", given)

    def forward(
        self,
        time: Tensor,
        event: Tensor,
        *args: Any,  # noqa: ANN401
        upper: Tensor | None = None,
        entry: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of subjects, with the args of the hazard.

        Returns:
            The loss.
        """
        return hazard_nll_loss(
            self.log_hazard,
            time,
            event,
            self.reduction,
            weight,
            upper=upper,
            entry=entry,
            args=args,
            rule=self.rule,
            breakpoints=self.breakpoints,
            validate=self.validate,
            **self.search,
        )


def _exposed(
    log_hazard: Function,
    subjects: Subjects,
    rule: Rule | None,
    options: dict[str, Any],
) -> Tensor:
    """Cumulative hazard while a subject was seen to live, 0 if it never was."""

    def hazard(t: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        return log_hazard(t, *args).exp()

    domain = Interval(subjects.entry, subjects.time)
    exposed = integrate(hazard, domain, rule, **options)
    return torch.where(subjects.left, 0, exposed)


def _log_at_event(
    log_hazard: Function, subjects: Subjects, args: Sequence[Any]
) -> Tensor:
    """Log hazard at the events, 0 for other subjects."""
    # The hazard of others may be infinite at their time, and so be its gradient.
    inner = (subjects.entry.detach() + subjects.beyond) / 2
    at = torch.where(subjects.event, subjects.time, inner)
    return torch.where(subjects.event, log_hazard(at[None], *args)[0], 0)


def _hidden(
    log_hazard: Function,
    subjects: Subjects,
    rule: Rule | None,
    options: dict[str, Any],
) -> Tensor:
    """Minus the log probability of an event that was not seen, 0 for other subjects."""
    entry, time, upper, _, left, interval, _ = subjects
    hidden = left | interval
    lower = torch.where(interval, time, entry)
    end = torch.where(left, time, torch.where(interval, upper, subjects.beyond))
    log_mass = log_integrate(log_hazard, Interval(lower, end), rule, **options)
    log_mass = torch.where(hidden, log_mass, 0)
    return torch.where(hidden, minus_log_probability(log_mass), 0)


def minus_log_probability(log_hazard: Tensor) -> Tensor:
    r"""Of an event with the cumulative hazard :math:`e^b`: exact for every ``b``.

    .. math:: -\log(1 - e^{-x}) = -b + x / 2 - \log \frac{\sinh(x / 2)}{x / 2},
        \qquad x = e^b

    Args:
        log_hazard: Logs ``b`` of cumulative hazards.

    Returns:
        Minus the logs of probabilities, with derivatives that do not cancel.
    """
    # Up to x = 1 by the series of the last term, beyond by the first form. The clamps
    # keep the branch that is not taken finite.
    small = log_hazard.clamp(max=0).exp()
    series = torch.zeros_like(small)
    for coefficient in reversed(_LOG_SINHC):
        series = (series + coefficient) * small.square()
    large = log_hazard.clamp(min=0).exp()
    near = -log_hazard + small / 2 - series
    return torch.where(log_hazard < 0, near, -torch.log1p(-torch.exp(-large)))
