"""Kullback-Leibler divergence of discrete distributions."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from torch_mlcalc.losses.pointwise import Pointwise, forget_nan_
from torch_mlcalc.losses.reduction import Loss, Reduction, as_dtype, prepare
from torch_mlcalc.losses.short import constant, is_usual
from torch_mlcalc.losses.validation import check_values, is_validated

KLReduction = Reduction | Literal["batchmean"]


def kl_div(
    input: Tensor,
    target: Tensor,
    reduction: KLReduction = "mean",
    log_target: bool = False,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Kullback-Leibler divergence from predicted log-probabilities, class by class.

    .. math::
        \ell(x, t) = t (\log t - x), \qquad
        \frac{\partial \ell}{\partial x} = -t, \qquad
        \frac{\partial \ell}{\partial t} = \log t + 1 - x

    and, of a target :math:`u = \log t`,
    :math:`\partial \ell / \partial u = e^u (u + 1 - x)`. A class of probability 0 in
    the target has the loss 0 whatever is predicted, :math:`x = -\infty` included, for
    which torch says NaN; where both are 0 all derivatives are. That by a probability
    :math:`t = 0` is otherwise :math:`-\infty`: to train the target, take its log.

    The sum over the classes is the divergence; ``"batchmean"`` is its mean over the
    batch, ``"mean"`` the mean over classes and batch.

    Args:
        input: Predicted log-probabilities :math:`x`.
        target: Probabilities :math:`t` to predict, or their logarithms.
        reduction: ``"none"``, ``"mean"``, ``"sum"``, or ``"batchmean"``, which divides
            the sum by the size of the first dimension.
        log_target: Whether ``target`` holds logarithms.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to refuse values out of range; None for the default setting.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``log_target`` is no bool.
        ValueError: If the shapes differ, ``reduction`` is none of the four, or
            ``validate`` finds a probability outside of [0, 1] or a positive logarithm.

    Example:
        >>> import torch
        >>> import torch_mlcalc as mlc
        >>> p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.75, 0.0]])
        >>> mlc.kl_div(q.log(), p, "batchmean")
        tensor(0.1438)

    References:
        Cover and Thomas, "Elements of Information Theory" (2006), equation (2.26).
    """
    _check_log_target(log_target)
    plain: Reduction = "sum" if reduction == "batchmean" else reduction
    divergence = _of_log if log_target else _of_probability
    if is_usual(input, target, weight, plain, validate):
        return divergence.usual(input, target, reduction)
    input, target, dtype = prepare(input, target, weight, plain)
    if is_validated(validate):
        check_values("input", input, input <= 0, "must be log-probabilities, at most 0")
        low, high = (-float("inf"), 0) if log_target else (0, 1)
        valid = (target >= low) & (target <= high)
        check_values("target", target, valid, f"must be from {low} to {high}")
    loss = divergence.reduced(weight, plain, input, target)
    return as_dtype(_of_batch(loss, input, reduction), dtype)


class KLDivLoss(Loss):
    """Kullback-Leibler divergence: the module of :func:`kl_div`.

    Args:
        reduction: ``"none"``, ``"mean"``, ``"sum"`` or ``"batchmean"``.
        log_target: Whether ``target`` holds logarithms.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    reduction: KLReduction  # type: ignore[assignment]

    def __init__(
        self,
        reduction: KLReduction = "mean",
        log_target: bool = False,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__("sum" if reduction == "batchmean" else reduction)
        _check_log_target(log_target)
        is_validated(validate)
        self.reduction = reduction
        self.log_target = log_target
        self.validate = validate

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return kl_div(
            input,
            target,
            self.reduction,
            self.log_target,
            weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, log_target={self.log_target}"


def _check_log_target(log_target: object) -> None:
    if not isinstance(log_target, bool):
        raise TypeError(f"log_target must be a bool, got {type(log_target).__name__}")


def _of_batch(loss: Tensor, input: Tensor, reduction: KLReduction) -> Tensor:
    whole = reduction == "batchmean" and input.ndim
    return loss / input.size(0) if whole else loss


def probability_in_short(x: Tensor, t: Tensor, count: int) -> Tensor | None:
    """Return the divergence as torch's kernel does, with two nodes of the graph less.

    Args:
        x: Predicted log-probabilities.
        t: Probabilities to predict.
        count: What to divide by.

    Returns:
        The loss, or None where it is NaN, which 0 times infinity makes it.
    """
    share = t * constant(1 / count, t.dtype)
    loss = torch.addcmul(torch.xlogy(share, t), share, x, value=-1).sum()
    return None if math.isnan(loss.item()) else loss


def log_in_short(x: Tensor, u: Tensor, count: int) -> Tensor | None:
    """Return the same of logarithms ``u`` to predict."""
    loss = ((u - x) * u.exp().mul_(constant(1 / count, u.dtype))).sum()
    return None if math.isnan(loss.item()) else loss


def _probability_value(x: Tensor, t: Tensor) -> Tensor:
    return t.log().sub_(x).mul_(t)


def _probability_whole(x: Tensor, t: Tensor) -> Tensor:
    # The last term is NaN where x is, else 0; the first where t is, or is negative.
    loss = torch.xlogy(t, t).sub_(forget_nan_(t * x))
    return loss.add_(x.clamp(-1, 1), alpha=0)


def _probability_slope(x: Tensor, t: Tensor) -> Tensor:
    both = (t == 0) & (x == -float("inf"))
    slope = t.masked_fill(both, 1).log() + 1 - x.masked_fill(both, 0)
    return slope.masked_fill(both, 0)


def _log_value(x: Tensor, u: Tensor) -> Tensor:
    return (u - x).mul_(u.exp())


def _log_whole(x: Tensor, u: Tensor) -> Tensor:
    # The last term is NaN where an argument is, else 0.
    loss = forget_nan_(_log_value(x, u))
    return loss.add_(x.clamp(-1, 1).add_(u.clamp(-1, 1)), alpha=0)


def _log_slope(x: Tensor, u: Tensor) -> Tensor:
    none = u == -float("inf")
    u, x = u.masked_fill(none, 0), x.masked_fill(none, 0)
    return (u.exp() * (u + 1 - x)).masked_fill(none, 0)


_of_probability = Pointwise(
    _probability_value,
    lambda x, t: -t,
    lambda x, t: _probability_slope(x, t),
    whole=_probability_whole,
    short=probability_in_short,
    # At 3e4 elements 1.02 of the time of torch's instead of 0.83.
    few=1 << 13,
)
_of_log = Pointwise(
    _log_value,
    lambda x, u: -u.exp(),
    lambda x, u: _log_slope(x, u),
    whole=_log_whole,
    short=log_in_short,
    # At 1e5 and 1e6 elements 1.1 of the time of torch's instead of 1.3 and 1.4; at 1e7
    # more memory.
    few=1 << 20,
)
