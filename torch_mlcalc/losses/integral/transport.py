"""Distances of two cumulative distribution functions: Wasserstein and Cramer."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from torch_mlcalc.losses.integral.compare import Search, prepare_pair
from torch_mlcalc.losses.integral.quantiles import (
    between_cdfs,
    between_quantiles,
)
from torch_mlcalc.losses.integral.samples import (
    between_samples,
    prepare_samples,
    step_quantiles,
)
from torch_mlcalc.losses.integral.settings import IntegralLoss, reduce_to
from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.quadrature.rules import Rule

Sampled = Tensor | Distribution


def wasserstein_1d_loss(
    input: Sampled,
    target: Sampled,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    p: float = 1.0,
    input_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Wasserstein distance on the line, to its own power, of samples or distributions.

    .. math::
        W_p^p = \int_0^1 |F^{-1}(u) - G^{-1}(u)|^p\,du, \qquad
        W_1 = \int |F(x) - G(x)|\,dx

    exact for samples of any two sizes and weights, in :math:`O(n \log n)`; by
    quadrature for distributions. The derivative by a sample :math:`x_i` is
    :math:`p \int |x_i - G^{-1}|^{p-1} \operatorname{sign}(x_i - G^{-1})\,du` over its
    share of the levels.

    Args:
        input: Samples in the last dimension, or a distribution of one number.
        target: The same kind.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch.
        weight: Weight of each pair; ``"mean"`` divides by the sum of the weights.
        p: Power, at least 1.
        input_weight: Weights of the samples, not negative, of any sum but 0, which
            gives NaN; by default all are equal. They have a gradient.
        target_weight: The same for the target.
        rule: How to integrate, for distributions; by default as :func:`integrate` does.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``input`` and ``input_weight``: ``(*, n)``, ``target`` and ``target_weight``:
        ``(*, m)``; or distributions with the batch ``(*)``. ``weight``: ``(*)``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes differ, or a setting does not exist or has no effect.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> samples = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
        >>> loss = mlc.wasserstein_1d_loss(samples, torch.tensor([5.0, 6.0, 8.0]))
        >>> loss
        tensor(5., grad_fn=...)
        >>> Normal = torch.distributions.Normal
        >>> mlc.wasserstein_1d_loss(Normal(0.0, 1.0), Normal(1.0, 2.0), p=2)
        tensor(2.)

    References:
        C. Villani, "Topics in Optimal Transportation" (2003), theorem 2.18.
        https://doi.org/10.1090/gsm/058
    """
    _check_power(p)
    search = Search(rule, rtol, atol, max_evals, memory, on_failure)
    _refuse(input, target, search, (input_weight, target_weight))
    if isinstance(input, Tensor) and isinstance(target, Tensor):
        x, y, dtype = prepare_samples(
            input, target, input_weight, target_weight, weight, reduction
        )
        share, left, right = step_quantiles(x, y)
        loss = (share * _power(left - right, p)).sum(-1)
        return reduce(loss, weight, reduction).to(dtype)
    pair = prepare_pair(
        cast(Distribution, input), cast(Distribution, target), weight, reduction
    )
    if p == 1:
        loss = between_cdfs(torch.abs, pair, search, kinks=True)
    else:
        loss = between_quantiles(lambda d: _power(d, p), pair, search, p % 2 != 0)
    return reduce_to(loss, weight, reduction, pair.dtype)


def cramer_loss(
    input: Sampled,
    target: Sampled,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    input_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Cramer distance, squared, of samples or distributions.

    .. math::
        C = \int (F(x) - G(x))^2\,dx
        = \mathbb{E}|X - Y| - \tfrac12 \mathbb{E}|X - X'| - \tfrac12 \mathbb{E}|Y - Y'|

    half the squared energy distance. The derivative by a sample :math:`x_i` of weight
    :math:`w_i` is :math:`2 w_i (G(x_i) - F(x_i))` with F in the middle of its
    step, and one of the two sides where G has a step too. Unlike those of the
    Wasserstein distance these gradients are unbiased. With one observation as the
    target it is the continuous ranked probability score.

    Args:
        input: Samples in the last dimension, or a distribution of one number.
        target: The same kind.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch.
        weight: Weight of each pair; ``"mean"`` divides by the sum of the weights.
        input_weight: Weights of the samples, not negative, of any sum but 0, which
            gives NaN; by default all are equal. They have a gradient.
        target_weight: The same for the target.
        rule: How to integrate, for distributions; by default as :func:`integrate` does.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``input`` and ``input_weight``: ``(*, n)``, ``target`` and ``target_weight``:
        ``(*, m)``; or distributions with the batch ``(*)``. ``weight``: ``(*)``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes differ, or a setting does not exist or has no effect.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.cramer_loss(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0]))
        tensor(0.0278)

    References:
        M. G. Bellemare et al., "The Cramer distance as a solution to biased Wasserstein
        gradients" (2017). https://arxiv.org/abs/1705.10743
    """
    search = Search(rule, rtol, atol, max_evals, memory, on_failure)
    _refuse(input, target, search, (input_weight, target_weight))
    if isinstance(input, Tensor) and isinstance(target, Tensor):
        x, y, dtype = prepare_samples(
            input, target, input_weight, target_weight, weight, reduction
        )
        loss = between_samples(torch.square, x, y)
        return reduce(loss, weight, reduction).to(dtype)
    pair = prepare_pair(
        cast(Distribution, input), cast(Distribution, target), weight, reduction
    )
    loss = between_cdfs(torch.square, pair, search, kinks=False)
    return reduce_to(loss, weight, reduction, pair.dtype)


class Wasserstein1DLoss(IntegralLoss):
    """Wasserstein distance: the module of :func:`wasserstein_1d_loss`.

    Args:
        rule: How to integrate, for distributions.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        p: Power, at least 1.
        **search: Tolerances and limits, as for the function.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> samples, target = torch.randn(8, 100), torch.randn(8, 70)
        >>> mlc.Wasserstein1DLoss(p=2, reduction="none")(samples, target).shape
        torch.Size([8])
    """

    def __init__(
        self,
        rule: Rule | None = None,
        reduction: Reduction = "mean",
        *,
        p: float = 1.0,
        **search: Any,  # noqa: ANN401
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rule, reduction, **search)
        _check_power(p)
        self.p = p

    def forward(
        self,
        input: Sampled,
        target: Sampled,
        weight: Tensor | None = None,
        *,
        input_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch of pairs.

        Returns:
            The loss.
        """
        return wasserstein_1d_loss(
            input,
            target,
            self.reduction,
            weight,
            p=self.p,
            input_weight=input_weight,
            target_weight=target_weight,
            rule=self.rule,
            **self.search,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, p={self.p}"


class CramerLoss(IntegralLoss):
    """Cramer distance: the module of :func:`cramer_loss`.

    Args:
        rule: How to integrate, for distributions.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        **search: Tolerances and limits, as for the function.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> samples, target = torch.randn(8, 100), torch.randn(8, 70)
        >>> mlc.CramerLoss(reduction="none")(samples, target).shape
        torch.Size([8])
    """

    def forward(
        self,
        input: Sampled,
        target: Sampled,
        weight: Tensor | None = None,
        *,
        input_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch of pairs.

        Returns:
            The loss.
        """
        return cramer_loss(
            input,
            target,
            self.reduction,
            weight,
            input_weight=input_weight,
            target_weight=target_weight,
            rule=self.rule,
            **self.search,
        )


def _power(difference: Tensor, p: float) -> Tensor:
    if p == 2:
        return difference.square()
    return difference.abs() if p == 1 else difference.abs() ** p


def _check_power(p: object) -> None:
    if isinstance(p, bool) or not isinstance(p, Real):
        raise TypeError(f"p must be a number, got {type(p).__name__}")
    if not 1 <= float(p) < math.inf:
        raise ValueError(f"p must be finite and at least 1, got {p}")


def _refuse(
    input: object, target: object, search: Search, weights: tuple[Tensor | None, ...]
) -> None:
    """Refuse one of each kind, and what has no effect for a kind."""
    samples = [isinstance(value, Tensor) for value in (input, target)]
    if any(samples) and not all(samples):
        kinds = f"{type(input).__name__} and {type(target).__name__}"
        raise TypeError(
            f"input and target must both be tensors or both distributions, got {kinds};"
            " draw samples from the distribution"
        )
    given = [
        name for name, value in search._asdict().items() if value not in (None, "warn")
    ]
    if all(samples) and given:
        raise ValueError(f"{given[0]} has no effect for samples; leave it out")
    if not any(samples) and any(w is not None for w in weights):
        raise ValueError(
            "input_weight and target_weight have no effect for distributions; leave "
            "them out"
        )
