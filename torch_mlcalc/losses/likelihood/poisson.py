"""Poisson negative log-likelihood, of rates or of their logarithms."""

import torch
from torch import Tensor

from torch_mlcalc.losses.likelihood.checks import (
    check_count,
    check_finite,
    check_flag,
    check_floor,
)
from torch_mlcalc.losses.likelihood.remainders import log_factorial_remainder
from torch_mlcalc.losses.reduction import (
    Loss,
    Reduction,
    as_dtype,
    prepare,
    reduce,
    reduce_kernel,
)
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.losses.watch import can_read


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 0.0,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Poisson negative log-likelihood.

    .. math::
        \ell(\eta, n) = e^\eta - n \eta, \qquad
        \partial_\eta \ell = e^\eta - n, \qquad \partial_\eta^2 \ell = e^\eta

    of the logarithm :math:`\eta` of the rate, or without ``log_input`` of the rate

    .. math::
        \ell(\mu, n) = \mu - n \log \mu, \qquad
        \partial_\mu \ell = 1 - \frac n\mu, \qquad
        \partial_\mu^2 \ell = \frac n{\mu^2}

    ``full`` adds :math:`\log n!`, exactly. torch adds Stirling's approximation of it
    for :math:`n > 1` and nothing for :math:`n \le 1`: 0.041 too little at 2. With
    counts above 24 the sum is computed from what is left when its terms cancel, so that
    it keeps its digits at a million, where they would have none in ``float32``.

    torch adds its ``eps`` of 1e-8 to each rate in the logarithm. Here it is a floor,
    from which on down the logarithm goes on along its tangent,
    :math:`\log \epsilon + (\mu - \epsilon) / \epsilon`; above, the loss is exact.

    Args:
        input: Predicted logarithms of rates, or without ``log_input`` rates.
        target: Observed counts :math:`n`, whole or not.
        log_input: Whether ``input`` is a logarithm.
        full: Whether to add :math:`\log n!`.
        eps: Rate below which its logarithm goes on along the tangent, without
            ``log_input``; 0 for none, and then a rate of 0 gives an infinite loss
            unless the count is 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that counts are not negative and, without
            ``log_input``, rates neither (with ``eps``, that they are finite); None for
            the setting of :func:`set_default_validate`.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or none is
            floating-point.
        ValueError: If the shapes differ, ``eps`` is negative or not finite,
            ``reduction`` is none of the three, or a checked value is out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> log_rate, count = torch.tensor([0.0, 1.0]), torch.tensor([0, 2])
        >>> mlc.poisson_nll_loss(log_rate, count, full=True, reduction="none")
        tensor([1.0000, 1.4114])

    References:
        Loader, "Fast and accurate computation of binomial probabilities" (2000), for
        the form of ``full``.
    """
    _check_settings(log_input, full, eps)
    input, target, dtype = prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_count("target", target)
        if log_input or eps > 0:
            check_finite("input", input)
        else:
            check_count("input", input)
    apart = full and _are_small(target)
    whole = full and not apart
    if log_input and not whole:
        loss = reduce_kernel(_plain, input, target, weight, reduction)
    elif log_input:
        loss = reduce(_of_log_rate(input, target), weight, reduction)
    else:
        loss = reduce(_of_rate(input, target, whole, eps), weight, reduction)
    if apart:
        constant = reduce((target + 1).lgamma_(), weight, reduction)
        # Without weights nothing is differentiated through it, and no sum of torch's
        # has saved its result: a node less of the graph is 4 % of a small loss.
        loss = loss + constant if weight is not None else _raised(loss, constant)
    return as_dtype(loss, dtype)


class PoissonNLLLoss(Loss):
    """Poisson likelihood: the module of :func:`poisson_nll_loss`.

    Its arguments are those of ``torch.nn.PoissonNLLLoss`` but the deprecated ones, with
    ``eps`` 0 by default.
    """

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        eps: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_settings(log_input, full, eps)
        is_validated(validate)
        self.log_input, self.full, self.eps = log_input, full, eps
        self.validate = validate

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return poisson_nll_loss(
            input,
            target,
            self.log_input,
            self.full,
            self.eps,
            self.reduction,
            weight,
            self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        settings = f"log_input={self.log_input}, full={self.full}, eps={self.eps}"
        return f"{settings}, {super().extra_repr()}"


def _are_small(count: Tensor) -> bool:
    # Then log n! may be added apart: with counts up to 24 the terms are at most 130,
    # the loss at least 2.5, and its error at most 26 eps. In one sum, which has fewer,
    # 1e6 elements take four times as long.
    usual = not count.requires_grad and count.numel() and can_read(count)
    return bool(usual) and count.max().item() <= 24


def _raised(loss: Tensor, constant: Tensor) -> Tensor:
    loss.detach().add_(constant)
    return loss


def _plain(log_rate: Tensor, count: Tensor, code: int) -> Tensor:
    return torch.poisson_nll_loss(log_rate, count, True, False, 0.0, code)


def _of_log_rate(log_rate: Tensor, count: Tensor) -> Tensor:
    positive = torch.where(count > 0, count, 1)
    return _full(log_rate.exp(), count, positive, positive.log() - log_rate)


def _of_rate(rate: Tensor, count: Tensor, full: bool, eps: float) -> Tensor:
    if (
        not full
        and rate.numel()
        and can_read(rate)
        and rate.detach().min().item() > eps
    ):
        return torch.addcmul(rate, count, rate.log(), value=-1)
    # Where the count is 0, whose logarithm has no part in the loss, it is that of rate
    # + 1: at a rate of 0 its derivative is not infinite.
    floored = rate.clamp(min=eps) if eps > 0 else rate + (count == 0)
    if full:
        positive = torch.where(count > 0, count, 1)
        loss = _full(
            floored if eps > 0 else rate, count, positive, -(floored / positive).log()
        )
    else:
        loss = torch.addcmul(
            floored if eps > 0 else rate, count, floored.log(), value=-1
        )
    if eps > 0:
        below = torch.rsub(rate, eps).relu()
        loss = loss + below * (count / eps - 1)
    return loss


def _full(rate: Tensor, count: Tensor, positive: Tensor, log_ratio: Tensor) -> Tensor:
    # n log(n / rate) - n + rate: of terms a million times as large as the sum, whose
    # derivative in the ratio is 0 where they cancel, so that its rounding does no harm.
    is_near = log_ratio.abs() < 0.5
    u = torch.where(is_near, log_ratio, 0)
    near, far = (-u).expm1() + u, rate - positive + positive * log_ratio
    deviance = torch.where(is_near, positive * near, far)
    return torch.where(count > 0, deviance, rate) + log_factorial_remainder(count)


def _check_settings(log_input: bool, full: bool, eps: float) -> None:
    check_flag("log_input", log_input)
    check_flag("full", full)
    check_floor(eps)
