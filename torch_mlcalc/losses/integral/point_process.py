"""Event times: the likelihood of a point process whose intensity is any function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torch_mlcalc.losses.integral.settings import (
    IntegralLoss,
    check_function,
    check_weight,
    reduce_to,
)
from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.losses.validation import check_values, is_validated
from torch_mlcalc.quadrature.domains import Interval, Limit
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import integrate
from torch_mlcalc.quadrature.rules import Rule


def point_process_nll_loss(
    log_intensity: Function,
    times: Tensor,
    end: Limit,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    start: Limit = 0.0,
    mask: Tensor | None = None,
    args: Sequence[Any] = (),
    split: bool = False,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
    validate: bool | None = None,
) -> Tensor:
    r"""Negative log likelihood of sequences of events, from the log of their intensity.

    .. math::
        \ell = \int_a^b \lambda(t)\,dt - \sum_i \log \lambda(t_i), \qquad
        \frac{\partial \ell}{\partial \theta} = \int_a^b \lambda\,
        \partial_\theta \log \lambda\,dt - \sum_i \partial_\theta \log \lambda(t_i)

    for all events between the start :math:`a` and the end :math:`b` of observation. The
    intensity may depend on the events before ``t``, if they are among ``args``: the
    loss is then that of a self-exciting process.

    Args:
        log_intensity: Function of times ``(n, *batch)`` and ``args`` that returns the
            log of the intensity there, ``(n, *batch)``. It may be a network.
        times: Times of the events, filled up where ``mask`` is False.
        end: End of observation: a number, or one for each sequence.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the sequences.
        weight: Weight of each sequence; ``"mean"`` divides by the sum of the weights.
        start: Start of observation, likewise.
        mask: Which times are events; by default all. What others hold has no effect;
            it may be NaN.
        args: Further arguments of the function: tensors that begin with ``*batch``, or
            others as they are.
        split: Whether to split the integral at the events, where the intensity of a
            self-exciting process jumps.
        rule: How to integrate; by default chosen as :func:`integrate` does.
        rtol: Wanted relative error of the integral; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.
        validate: Whether to look at the values; see :func:`set_default_validate`.

    Shape:
        ``times`` and ``mask``: ``(*batch, events)``. ``start`` and ``end``: numbers,
        ``()`` or ``(*batch)``. ``weight``: ``(*batch)``.

    Returns:
        The loss, of shape ``()``, or ``(*batch)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes do not fit or a setting does not exist; with ``validate``
            also if an event is outside of the time of observation.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> times = torch.tensor([[0.5, 1.5, 2.5], [1.0, 0.0, 0.0]])
        >>> events = torch.tensor([[True, True, True], [True, False, False]])
        >>> log_rate = torch.tensor(0.0, requires_grad=True)
        >>> mlc.point_process_nll_loss(
        ...     lambda t: log_rate + 0 * t, times, 3.0, "none", mask=events
        ... )  # 3 - n log(1)
        tensor([3., 3.], grad_fn=...)

    References:
        D. J. Daley, D. Vere-Jones, "An Introduction to the Theory of Point Processes",
        vol. 1, 2nd ed., Springer 2003, proposition 7.2.III.
        https://doi.org/10.1007/b97277
    """
    check_function("log_intensity", log_intensity)
    checked = is_validated(validate)
    (points,), dtype = prepare_all({"times": times}, None, reduction)
    if points.ndim == 0:
        raise ValueError(
            "times must have a dimension for the events, its last one, got shape ()"
        )
    batch = points.shape[:-1]
    check_weight(weight, batch, "of the sequences")
    mask = _mask(mask, times)
    low, high = (
        _limit(name, limit, points) for name, limit in (("start", start), ("end", end))
    )
    if checked:
        inside = (points >= low[..., None]) & (points <= high[..., None])
        wanted = "must be between start and end where mask is True"
        check_values("times", points, inside | ~mask, wanted)
    # Where there is no event there is still a time at which the function is finite.
    middle = (low + (high - low) / 2).detach()[..., None]
    points = torch.where(mask, points, middle).movedim(-1, 0)

    def intensity(t: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        return log_intensity(t, *args).exp()

    expected = integrate(
        intensity,
        Interval(low, high),
        rule,
        args=tuple(args),
        batch_shape=batch,
        breakpoints=points if split and len(points) else None,
        rtol=rtol,
        atol=atol,
        max_evals=max_evals,
        memory=memory,
        on_failure=on_failure,
    )
    logs = torch.where(mask.movedim(-1, 0), log_intensity(points, *args), 0)
    loss = expected - logs.sum(0)
    return reduce_to(loss, weight, reduction, dtype)


class PointProcessNLLLoss(IntegralLoss):
    """Likelihood of event times: the module of :func:`point_process_nll_loss`.

    Args:
        log_intensity: Module or function that returns the log of the intensity.
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        split: Whether to split the integral at the events.
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
        >>> class Daily(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 1)
        ...     def forward(self, t):
        ...         return self.layer(torch.stack([t.sin(), t.cos()], -1))[..., 0]
        >>> criterion = mlc.PointProcessNLLLoss(Daily(), mlc.GaussLegendre(32))
        >>> criterion(torch.rand(8, 20) * 6, 6.0).backward()
    """

    def __init__(
        self,
        log_intensity: Function,
        rule: Rule | None = None,
        *,
        reduction: Reduction = "mean",
        split: bool = False,
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
        check_function("log_intensity", log_intensity)
        is_validated(validate)
        self.log_intensity = log_intensity
        self.split = split
        self.validate = validate

    def forward(
        self,
        times: Tensor,
        end: Limit,
        *args: Any,  # noqa: ANN401
        start: Limit = 0.0,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of sequences, with the args of the intensity.

        Returns:
            The loss.
        """
        return point_process_nll_loss(
            self.log_intensity,
            times,
            end,
            self.reduction,
            weight,
            start=start,
            mask=mask,
            args=args,
            split=self.split,
            rule=self.rule,
            validate=self.validate,
            **self.search,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return super().extra_repr() + (", split=True" if self.split else "")


def _mask(mask: Tensor | None, times: Tensor) -> Tensor:
    if mask is None:
        return torch.ones(times.shape, dtype=torch.bool, device=times.device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask must be a tensor of booleans, True for events, got {got}; convert "
            "with .bool()"
        )
    if mask.shape != times.shape:
        raise ValueError(
            f"mask must have the shape of times, {tuple(times.shape)}, got "
            f"{tuple(mask.shape)}"
        )
    return mask


def _limit(name: str, limit: Limit, points: Tensor) -> Tensor:
    """A limit for each sequence."""
    batch = points.shape[:-1]
    if isinstance(limit, Tensor) and limit.shape not in (torch.Size(), batch):
        raise ValueError(
            f"{name} must be a number, or have the shape {tuple(batch)} of the "
            f"sequences, got {tuple(limit.shape)}"
        )
    tensor = torch.as_tensor(limit, dtype=points.dtype, device=points.device)
    return tensor.expand(batch)
