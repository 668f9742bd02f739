"""The square that ends in a line: Huber's loss, and the same over its threshold."""

import math

import torch
from torch import Tensor
from torch._C import _nn

from torch_mlcalc.losses.reduction import (
    Loss,
    Reduction,
    prepare,
    reduce,
    reduce_kernel,
)
from torch_mlcalc.losses.regression.settings import check_number


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared error up to ``delta``, absolute error beyond.

    .. math::
        \ell(r) = \begin{cases} r^2 / 2 & |r| \le \delta \\
        \delta (|r| - \delta / 2) & |r| > \delta \end{cases}
        \qquad \ell'(r) = \max(-\delta, \min(r, \delta)),
        \qquad \ell''(r) = \begin{cases} 1 & |r| < \delta \\
        0 & |r| > \delta \end{cases}

    At :math:`|r| = \delta`, where the second derivative jumps, it is one of the two.

    The numbers are those of ``torch.nn.functional.huber_loss``: to the last bit where
    ``delta`` is a power of two, to about the last bit elsewhere. With ``weight`` they
    are not, for torch's mean divides by the number of elements.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        delta: Residual at which the square ends, positive; infinity makes all of it
            :math:`r^2 / 2`.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``delta`` is no number.
        ValueError: If the shapes differ, ``delta`` is not positive, or ``reduction`` is
            none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.huber_loss(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor(0.7500)

    References:
        Huber, "Robust estimation of a location parameter" (1964).
        https://doi.org/10.1214/aoms/1177703732
    """
    _check_delta(delta)
    input, target, dtype = prepare(input, target, weight, reduction)
    if _kernel_is_exact(delta, input.dtype):
        # Not torch's Huber kernel, which has no forward-over-reverse derivative. Plain
        # operations take more than 10 times as long as that one, this kernel about as
        # long (1e6 elements, forward and backward, 2 cores).
        loss = reduce_kernel(
            _nn.smooth_l1_loss, input, target, weight, reduction, delta
        )
        return (loss if delta == 1 else delta * loss).to(dtype)
    # What is infinite makes the gradient NaN even in the branch that is not taken.
    limit = min(delta, torch.finfo(input.dtype).max)
    r = input - target
    size, clipped = r.abs(), r.clamp(-limit, limit)
    square, line = clipped * (clipped / 2), limit * (size - limit / 2)
    loss = torch.where(size <= limit, square, line)
    return reduce(loss, weight, reduction).to(dtype)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    beta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Absolute error, with the square of the residual in place of the kink.

    .. math::
        \ell(r) = \begin{cases} r^2 / (2 \beta) & |r| \le \beta \\
        |r| - \beta / 2 & |r| > \beta \end{cases}
        \qquad \ell'(r) = \max(-1, \min(r / \beta, 1)),
        \qquad \ell''(r) = \begin{cases} 1 / \beta & |r| < \beta \\
        0 & |r| > \beta \end{cases}

    At :math:`|r| = \beta`, where the second derivative jumps, it is one of the two.
    The loss is :func:`huber_loss` divided by :math:`\beta`.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        beta: Residual at which the square ends, finite; 0 gives :func:`l1_loss`, and so
            does anything below the smallest normal number of the dtype.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``beta`` is no number.
        ValueError: If the shapes differ, ``beta`` is negative or not finite in the
            dtype, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.smooth_l1_loss(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor(0.7500)

    References:
        Girshick, "Fast R-CNN" (2015), equation (3). https://arxiv.org/abs/1504.08083
    """
    _check_beta(beta)
    input, target, dtype = prepare(input, target, weight, reduction)
    finfo = torch.finfo(input.dtype)
    if beta > finfo.max:
        raise ValueError(
            f"beta must be at most {finfo.max:.3g}, the largest {input.dtype}, "
            f"got {beta}; scale the data, or convert it to a wider dtype"
        )
    if beta < finfo.tiny:
        loss = reduce_kernel(_nn.l1_loss, input, target, weight, reduction)
    elif _kernel_is_exact(beta, input.dtype):
        loss = reduce_kernel(_nn.smooth_l1_loss, input, target, weight, reduction, beta)
    else:
        r = input - target
        size, clipped = r.abs(), r.clamp(-beta, beta)
        square, line = (clipped / beta) * (clipped / 2), size - beta / 2
        loss = reduce(torch.where(size <= beta, square, line), weight, reduction)
    return loss.to(dtype)


class HuberLoss(Loss):
    """Squared, then absolute error: the module of :func:`huber_loss`."""

    def __init__(self, reduction: Reduction = "mean", delta: float = 1.0) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_delta(delta)
        self.delta = delta

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return huber_loss(input, target, self.reduction, self.delta, weight)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, delta={self.delta}"


class SmoothL1Loss(Loss):
    """Absolute error without the kink: the module of :func:`smooth_l1_loss`."""

    def __init__(self, reduction: Reduction = "mean", beta: float = 1.0) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_beta(beta)
        self.beta = beta

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return smooth_l1_loss(input, target, self.reduction, self.beta, weight)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, beta={self.beta}"


def _check_delta(delta: float) -> None:
    check_number("delta", delta)
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")


def _check_beta(beta: float) -> None:
    check_number("beta", beta)
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and not negative, got {beta}")


def _kernel_is_exact(threshold: float, dtype: torch.dtype) -> bool:
    """Return whether torch's smooth L1 kernel is right for every residual.

    It forms r^2/2, and r times the incoming gradient, before it divides by the
    threshold; huber_loss multiplies by it afterwards. Between eps and 1/eps that lifts
    what has underflowed by less than the smallest normal number, and up to the root of
    the largest number r^2/2 does not overflow.
    """
    if threshold == 1:
        return True
    finfo = torch.finfo(dtype)
    return finfo.eps <= threshold <= min(1 / finfo.eps, math.sqrt(finfo.max))
