"""Negative binomial negative log-likelihood, down to its Poisson limit."""

import torch
from torch import Tensor

from torch_mlcalc.losses.likelihood.checks import (
    check_count,
    check_finite,
    check_flag,
    check_positive,
    prepare_positive,
)
from torch_mlcalc.losses.likelihood.remainders import (
    log1p_ratio,
    log1p_second,
    log_factorial_remainder,
    stirling_remainder,
)
from torch_mlcalc.losses.reduction import Loss, Reduction, reduce
from torch_mlcalc.losses.validation import is_validated


def negative_binomial_nll_loss(
    input: Tensor,
    target: Tensor,
    dispersion: Tensor | float,
    *,
    log_input: bool = True,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Negative binomial negative log-likelihood of counts.

    With the mean :math:`\mu` and the dispersion :math:`\alpha`, so that the variance is
    :math:`\mu + \alpha \mu^2` (NB2), and :math:`r = 1/\alpha`,

    .. math::
        \ell = \log\frac{n!\, \Gamma(r)}{\Gamma(n + r)}
            - r \log\frac{r}{r + \mu} - n \log\frac{\mu}{r + \mu}

    .. math::
        \partial_\mu \ell = \frac{\mu - n}{\mu (1 + \alpha \mu)}, \qquad
        \partial_\alpha \ell = r^2 \Bigl[\psi(n + r) - \psi(r)
            + \log\frac{r}{r + \mu} + \frac{\mu - n}{r + \mu}\Bigr]

    A dispersion of 0 in a tensor is the Poisson likelihood with its constant, where
    :math:`\partial_\alpha \ell = (n - (n - \mu)^2) / 2`: value and derivatives are
    computed from the deviance and the remainders of Stirling's formula, which are
    smooth there, not from gamma functions of :math:`r`. They keep their digits for
    counts of a million and for dispersions of 1e-8 in ``float32``.

    In ``torch.distributions.NegativeBinomial``, ``total_count`` is :math:`r` and
    ``logits`` is :math:`\log(\alpha \mu)`. Of those, ``input`` is ``logits +
    total_count.log()`` and ``dispersion`` is ``1 / total_count``.

    Args:
        input: Predicted logarithms of means, or without ``log_input`` means.
        target: Observed counts :math:`n`, whole or not.
        dispersion: Dispersions :math:`\alpha`, or one positive number for all elements.
        log_input: Whether ``input`` is a logarithm.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that counts and dispersions are finite and not
            negative, and means positive; None for the setting of
            :func:`set_default_validate`.

    Shape:
        ``input``, ``target``, ``dispersion`` unless a number, and ``weight``: ``(*)``,
        the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or none is
            floating-point.
        ValueError: If the shapes differ, ``dispersion`` is a number that is not
            positive, ``reduction`` is none of the three, or a checked value is out of
            range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> dispersion = torch.zeros(2, requires_grad=True)
        >>> mean, count = torch.tensor([2.0, 2.0]), torch.tensor([2, 5])
        >>> loss = mlc.negative_binomial_nll_loss(
        ...     mean, count, dispersion, log_input=False, reduction="none"
        ... )
        >>> loss
        tensor([1.3069, 3.3218], grad_fn=<AddBackward0>)
        >>> torch.autograd.grad(loss.sum(), dispersion)
        (tensor([ 1., -2.]),)

    References:
        Hilbe, "Negative Binomial Regression" (2011), equation (8.9); Loader, "Fast and
        accurate computation of binomial probabilities" (2000), for the deviance.
    """
    check_flag("log_input", log_input)
    (input, target, dispersion), dtype = prepare_positive(
        {"input": input, "target": target},
        {"dispersion": dispersion},
        weight,
        reduction,
    )
    if is_validated(validate):
        check_count("target", target)
        check_count("dispersion", dispersion)
        (check_finite if log_input else check_positive)("input", input)
    mean, log_mean = (input.exp(), input) if log_input else (input, input.log())
    loss = _half_deviance(mean, log_mean, target, dispersion) + _norm(
        target, dispersion
    )
    return reduce(loss, weight, reduction).to(dtype)


class NegativeBinomialNLLLoss(Loss):
    """Negative binomial likelihood: :func:`negative_binomial_nll_loss`."""

    def __init__(
        self,
        *,
        log_input: bool = True,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        check_flag("log_input", log_input)
        is_validated(validate)
        self.log_input, self.validate = log_input, validate

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        dispersion: Tensor | float,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return negative_binomial_nll_loss(
            input,
            target,
            dispersion,
            log_input=self.log_input,
            reduction=self.reduction,
            weight=weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"log_input={self.log_input}, {super().extra_repr()}"


def _half_deviance(
    mean: Tensor, log_mean: Tensor, count: Tensor, alpha: Tensor
) -> Tensor:
    r"""Return :math:`n \log(n/\mu) - (n + r) \log\frac{n + r}{\mu + r}`.

    With :math:`a` and :math:`b` from :math:`1 + a = \frac{n (1 + \alpha\mu)}{\mu (1 +
    \alpha n)}` and :math:`1 + b = \frac{1 + \alpha n}{1 + \alpha\mu}` it is
    :math:`n \log(1 + a) - \log(1 + b) / \alpha`. Where both are small these cancel, and
    what is left is a sum of the second order.
    """
    near_a, near_b = _are_near(mean.detach(), count.detach(), alpha.detach())
    both = near_a & near_b
    # A branch that is not taken gets numbers of which all derivatives are finite.
    m, n = torch.where(both, mean, 1), torch.where(both, count, 1)
    gap, of_count, of_mean = n - m, 1 + alpha * n, 1 + alpha * m
    a, b = gap / (m * of_count), gap / of_mean
    near = a * (gap / of_mean) + n * a * a * log1p_second(a)
    near = near - b * (alpha * b) * log1p_second(alpha * b)

    positive = torch.where(~both & (count > 0), count, 1)
    # Four logarithms: the derivatives of their quotients would underflow and cancel.
    log_a = positive.log() - log_mean
    log_a = log_a + (alpha * mean).log1p() - (alpha * positive).log1p()
    m, n = torch.where(near_b, mean, 1), torch.where(near_b, count, 1)
    b = (n - m) / (1 + alpha * m)
    alpha_b = torch.where(near_b, 1, alpha)
    direct = ((alpha_b * count).log1p() - (alpha_b * mean).log1p()) / alpha_b
    log_b = torch.where(near_b, b * log1p_ratio(alpha * b), direct)
    return torch.where(both, near, count * log_a - log_b)


def _are_near(mean: Tensor, count: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    gap = count - mean
    a = gap / (mean * (1 + alpha * count))
    return a.abs() <= 0.5, (alpha * gap / (1 + alpha * mean)).abs() <= 0.5


def _norm(count: Tensor, alpha: Tensor) -> Tensor:
    """Return what the likelihood has besides the deviance, without the mean."""
    at_count = alpha * count
    remainder = stirling_remainder(alpha) - stirling_remainder(alpha / (1 + at_count))
    return log_factorial_remainder(count) + 0.5 * at_count.log1p() + remainder
