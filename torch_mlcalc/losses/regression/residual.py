"""Squares, absolute values and what lies between, without a threshold."""

import math

import torch
import torch.nn.functional as F
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
from torch_mlcalc.losses.watch import is_watched


def mse_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared error.

    .. math:: \ell(r) = r^2, \qquad \ell'(r) = 2r, \qquad \ell''(r) = 2

    The value overflows to infinity from :math:`|r| = 1.8 \cdot 10^{19}` in ``float32``,
    the derivatives do not. Where :math:`2r` itself is infinite, forward mode gives NaN.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.mse_loss(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor(2.)

    References:
        Bishop, "Pattern Recognition and Machine Learning" (2006), section 1.5.5.
    """
    input, target, dtype = prepare(input, target, weight, reduction)
    if reduction == "mean" and weight is None and is_watched():
        # That of the kernel has no forward-over-reverse derivative in torch 2.13.
        total = reduce_kernel(_nn.mse_loss, input, target, None, "sum")
        loss = total / input.numel()
    else:
        loss = reduce_kernel(_nn.mse_loss, input, target, weight, reduction)
    return loss.to(dtype)


def l1_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    r"""Absolute error.

    .. math::
        \ell(r) = |r|, \qquad \ell'(r) = \operatorname{sign} r, \qquad \ell''(r) = 0

    with :math:`\ell'(0) = 0`, the subgradient of smallest size. Complex residuals have
    :math:`\operatorname{sign} r = r / |r|`. As in torch, the derivative at NaN is 0.

    Args:
        input: Predictions, real or complex.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, or none is floating-point or complex.
        ValueError: If the shapes differ, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.l1_loss(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
        tensor(1.)

    References:
        Bishop, "Pattern Recognition and Machine Learning" (2006), section 1.5.5.
    """
    input, target, dtype = prepare(input, target, weight, reduction, allow_complex=True)
    return reduce_kernel(_nn.l1_loss, input, target, weight, reduction).to(dtype)


def log_cosh_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    r"""Logarithm of the hyperbolic cosine: a square near 0, an absolute error far out.

    .. math::
        \ell(r) = \log \cosh r, \qquad \ell'(r) = \tanh r,
        \qquad \ell''(r) = \operatorname{sech}^2 r

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point.
        ValueError: If the shapes differ, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.log_cosh_loss(torch.tensor([1e30, 1e-3]), torch.zeros(2), "none")
        tensor([1.0000e+30, 5.0000e-07])

    References:
        Green, "Bayesian reconstructions from emission tomography data using a modified
        EM algorithm" (1990). https://doi.org/10.1109/42.52985
    """
    input, target, dtype = prepare(input, target, weight, reduction)
    r = input - target
    size = r.abs()
    # log(1 + 2 sinh(r/2)^2) keeps every digit near 0 but overflows far out; there the
    # other form is right, which cancels near 0. Where they meet, at 1, value and both
    # derivatives that autograd takes are within 2.3 eps; no tail of sech^2 is lost, as
    # it would be in 1 - tanh^2. The clamp keeps the branch that is not taken finite, or
    # its gradient would be NaN.
    sinh = (r.clamp(-1, 1) / 2).sinh()
    near = (2 * sinh * sinh).log1p()
    far = size - math.log(2) + F.softplus(-2 * size)
    return reduce(torch.where(size < 1, near, far), weight, reduction).to(dtype)


def quantile_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    quantile: float = 0.5,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Quantile (pinball) loss, smallest on average at the quantile of the target.

    .. math::
        \ell(r) = (1 - q) \max(r, 0) + q \max(-r, 0),
        \qquad \ell'(r) = \begin{cases} 1 - q & r > 0 \\ -q & r < 0 \end{cases},
        \qquad \ell''(r) = 0

    with :math:`\ell'(0) = 0`, as in :func:`l1_loss`, of which ``quantile=0.5`` is half.

    Args:
        input: Predicted quantiles.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        quantile: Level :math:`q`, strictly between 0 and 1: the share of targets that
            shall lie below the prediction.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``quantile`` is no number.
        ValueError: If the shapes differ, ``quantile`` is not between 0 and 1, or
            ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 3.0])
        >>> mlc.quantile_loss(input, target, "none", quantile=0.9)
        tensor([0.2000, 1.8000])

    References:
        Koenker and Bassett, "Regression quantiles" (1978).
        https://doi.org/10.2307/1913643
    """
    _check_quantile(quantile)
    input, target, dtype = prepare(input, target, weight, reduction)
    r = input - target
    # Not |r|/2 + (1/2 - q) r: that one cancels for q near 0 and 1, and is NaN at inf.
    loss = (1 - quantile) * r.relu() + quantile * (-r).relu()
    return reduce(loss, weight, reduction).to(dtype)


class MSELoss(Loss):
    """Squared error: the module of :func:`mse_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return mse_loss(input, target, self.reduction, weight)


class L1Loss(Loss):
    """Absolute error: the module of :func:`l1_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return l1_loss(input, target, self.reduction, weight)


class LogCoshLoss(Loss):
    """Logarithm of the hyperbolic cosine: the module of :func:`log_cosh_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return log_cosh_loss(input, target, self.reduction, weight)


class QuantileLoss(Loss):
    """Quantile (pinball) loss: the module of :func:`quantile_loss`."""

    def __init__(self, reduction: Reduction = "mean", quantile: float = 0.5) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_quantile(quantile)
        self.quantile = quantile

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return quantile_loss(input, target, self.reduction, self.quantile, weight)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, quantile={self.quantile}"


def _check_quantile(quantile: float) -> None:
    check_number("quantile", quantile)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be strictly between 0 and 1, got {quantile}")
