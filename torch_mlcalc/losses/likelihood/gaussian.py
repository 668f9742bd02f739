"""Gaussian negative log-likelihoods, in the variance and in its logarithm."""

import math

import torch
from torch import Tensor
from torch._C import _nn

from torch_mlcalc.losses.likelihood.checks import (
    check_finite,
    check_flag,
    check_floor,
    check_number,
    check_positive,
    prepare_positive,
)
from torch_mlcalc.losses.reduction import (
    Loss,
    Reduction,
    prepare_all,
    reduce,
    reduce_kernel,
)
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.losses.watch import can_read

LOG_2PI = math.log(2 * math.pi)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 0.0,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Gaussian negative log-likelihood with a variance for each element.

    .. math::
        \ell(r, v) = \frac12 \Bigl(\log v + \frac{r^2}{v}\Bigr), \qquad
        \partial_r \ell = \frac rv, \qquad
        \partial_v \ell = \frac{1}{2v} \Bigl(1 - \frac{r^2}{v}\Bigr), \qquad
        \partial_v^2 \ell = \frac{1}{2 v^2} \Bigl(\frac{2 r^2}{v} - 1\Bigr)

    of :math:`r = \text{input} - \text{target}`, for every variance :math:`v > 0`. Where
    :math:`1/v` overflows, below 3e-39 in ``float32``, the slope in the variance is
    infinite or NaN.

    With ``eps`` above 0 a variance below it, which may then be 0 or negative, gives the
    tangent of the loss at ``eps``: :math:`\ell(r, \epsilon) + (v - \epsilon)
    \partial_v \ell(r, \epsilon)`. The gradient in ``var`` is there that of
    ``torch.nn.functional.gaussian_nll_loss``, whose value however stays at
    :math:`\ell(r, \epsilon)`, so that its gradient is not that of its value. torch's
    ``eps`` is 1e-6, which makes standard deviations below 1e-3, in whatever unit, one.

    Args:
        input: Predicted means.
        target: Observed values.
        var: Predicted variances, or one positive number for all elements.
        full: Whether to add the constant :math:`\frac12 \log 2\pi`.
        eps: Variance below which the loss goes on along its tangent; 0 for none, and
            then a variance of 0 gives an infinite or NaN loss.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that variances are positive and finite, or with
            ``eps`` finite; None for the setting of :func:`set_default_validate`.

    Shape:
        ``input``, ``target``, ``var`` unless a number, and ``weight``: ``(*)``, the
        same. torch's shorter shapes of ``var`` are written
        ``var.unsqueeze(-1).expand_as(input)``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or none is
            floating-point.
        ValueError: If the shapes differ, ``var`` is a number that is not positive,
            ``eps`` is negative or not finite, ``reduction`` is none of the three, or a
            checked value is out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
        >>> mlc.gaussian_nll_loss(input, target, torch.tensor([1.0, 4.0]))
        tensor(0.5966)

    References:
        Nix and Weigend, "Estimating the mean and variance of the target probability
        distribution" (1994), equation (4). https://doi.org/10.1109/ICNN.1994.374138
    """
    _check_settings(full, eps)
    (input, target, var), dtype = prepare_positive(
        {"input": input, "target": target}, {"var": var}, weight, reduction
    )
    _check_variance(var, eps, validate)
    loss = _twice_nll(input, target, var, eps)
    if full:
        loss = loss + LOG_2PI
    return (0.5 * reduce(loss, weight, reduction)).to(dtype)


def gaussian_log_var_nll_loss(
    input: Tensor,
    target: Tensor,
    log_var: Tensor,
    full: bool = False,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Gaussian negative log-likelihood with the logarithm of each variance.

    .. math::
        \ell(r, s) = \frac12 \bigl(s + r^2 e^{-s}\bigr), \qquad
        \partial_r \ell = r e^{-s}, \qquad
        \partial_s \ell = \frac12 \bigl(1 - r^2 e^{-s}\bigr), \qquad
        \partial_s^2 \ell = \frac12 r^2 e^{-s}

    of :math:`r = \text{input} - \text{target}`. A network may put out any
    :math:`s = \log v`; nothing has to be made positive or kept from 0.

    The standardised residual is :math:`z = r e^{-s/2}`, exact while
    :math:`e^{-s/2}` is finite: from :math:`s = -177` in ``float32`` and
    :math:`s = -1419` in ``float64``. Below, it is that of the last such :math:`s`.

    Args:
        input: Predicted means.
        target: Observed values.
        log_var: Predicted logarithms of the variances.
        full: Whether to add the constant :math:`\frac12 \log 2\pi`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that ``log_var`` is finite; None for the setting of
            :func:`set_default_validate`.

    Shape:
        ``input``, ``target``, ``log_var`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or none is
            floating-point.
        ValueError: If the shapes differ, ``reduction`` is none of the three, or a
            checked value is out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
        >>> mlc.gaussian_log_var_nll_loss(input, target, torch.tensor([-200.0, 1.0]))
        tensor(-49.3821)

    References:
        Kendall and Gal, "What uncertainties do we need in Bayesian deep learning for
        computer vision?" (2017), equation (8). https://arxiv.org/abs/1703.04977
    """
    check_flag("full", full)
    tensors = {"input": input, "target": target, "log_var": log_var}
    (input, target, log_var), dtype = prepare_all(tensors, weight, reduction)
    if is_validated(validate):
        check_finite("log_var", log_var)
    # Not r^2 exp(-s), whose factors overflow and underflow where the product does not.
    z = (input - target) * inverse_scale(log_var / 2)
    loss = torch.addcmul(log_var, z, z)
    if full:
        loss = loss + LOG_2PI
    return (0.5 * reduce(loss, weight, reduction)).to(dtype)


def beta_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    beta: float = 0.5,
    full: bool = False,
    eps: float = 0.0,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Gaussian negative log-likelihood weighted by a power of its own variance.

    .. math::
        \ell_\beta(r, v) = \lfloor v^\beta \rfloor\, \ell(r, v), \qquad
        \partial_r \ell_\beta = v^{\beta - 1} r, \qquad
        \partial_v \ell_\beta = \frac{v^{\beta - 1}}{2} \Bigl(1 - \frac{r^2}{v}\Bigr)

    where :math:`\lfloor \cdot \rfloor` is held constant in derivatives, and
    :math:`\ell` is :func:`gaussian_nll_loss`. With :math:`\beta = 0` it is that
    likelihood, whose means are learned slowly where the variance is large; with
    :math:`\beta = 1` the mean has the gradient of half the squared error.

    The value is no likelihood and the gradient not that of a function: second
    derivatives are those of the gradient with :math:`\lfloor v^\beta \rfloor` constant.

    Args:
        input: Predicted means.
        target: Observed values.
        var: Predicted variances, or one positive number for all elements.
        beta: The power :math:`\beta`, from 0 to 1.
        full: Whether to add :math:`\frac12 \log 2\pi` to :math:`\ell`.
        eps: As in :func:`gaussian_nll_loss`; below it the weight is
            :math:`\epsilon^\beta`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean divides by the number
            of elements or the sum of ``weight``, not by the sum of :math:`v^\beta`.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: As in :func:`gaussian_nll_loss`.

    Shape:
        ``input``, ``target``, ``var`` unless a number, and ``weight``: ``(*)``, the
        same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or none is
            floating-point.
        ValueError: If the shapes differ, ``var`` is a number that is not positive,
            ``beta`` is not between 0 and 1, ``eps`` is negative or not finite,
            ``reduction`` is none of the three, or a checked value is out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input = torch.tensor([1.0, 1.0], requires_grad=True)
        >>> var = torch.tensor([0.25, 400.0])
        >>> loss = mlc.beta_nll_loss(input, torch.zeros(2), var, 1.0, reduction="sum")
        >>> loss.backward()
        >>> input.grad
        tensor([1., 1.])

    References:
        Seitzer, Tavakoli, Antic and Martius, "On the pitfalls of heteroscedastic
        uncertainty estimation with probabilistic neural networks" (2022), equations
        (5) to (7). https://arxiv.org/abs/2203.09168
    """
    _check_settings(full, eps)
    _check_beta(beta)
    (input, target, var), dtype = prepare_positive(
        {"input": input, "target": target}, {"var": var}, weight, reduction
    )
    _check_variance(var, eps, validate)
    loss = _twice_nll(input, target, var, eps)
    if full:
        loss = loss + LOG_2PI
    held = var.detach()
    loss = (held.clamp(min=eps) if eps > 0 else held).pow(beta) * loss
    return (0.5 * reduce(loss, weight, reduction)).to(dtype)


class GaussianNLLLoss(Loss):
    """Gaussian likelihood in the variance: the module of :func:`gaussian_nll_loss`.

    Its arguments are those of ``torch.nn.GaussianNLLLoss``, with ``eps`` 0 by default.
    """

    def __init__(
        self,
        *,
        full: bool = False,
        eps: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_settings(full, eps)
        is_validated(validate)
        self.full, self.eps, self.validate = full, eps, validate

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor | float,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return gaussian_nll_loss(
            input,
            target,
            var,
            self.full,
            self.eps,
            self.reduction,
            weight,
            self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"full={self.full}, eps={self.eps}, {super().extra_repr()}"


class GaussianLogVarNLLLoss(Loss):
    """Gaussian likelihood in log-variance: :func:`gaussian_log_var_nll_loss`."""

    def __init__(
        self,
        *,
        full: bool = False,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        check_flag("full", full)
        is_validated(validate)
        self.full, self.validate = full, validate

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        log_var: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return gaussian_log_var_nll_loss(
            input, target, log_var, self.full, self.reduction, weight, self.validate
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"full={self.full}, {super().extra_repr()}"


class BetaNLLLoss(Loss):
    """Gaussian likelihood weighted by its variance: :func:`beta_nll_loss`."""

    def __init__(
        self,
        beta: float = 0.5,
        *,
        full: bool = False,
        eps: float = 0.0,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_beta(beta)
        _check_settings(full, eps)
        is_validated(validate)
        self.beta, self.full, self.eps, self.validate = beta, full, eps, validate

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor | float,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return beta_nll_loss(
            input,
            target,
            var,
            self.beta,
            self.full,
            self.eps,
            self.reduction,
            weight,
            self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        settings = f"beta={self.beta}, full={self.full}, eps={self.eps}"
        return f"{settings}, {super().extra_repr()}"


def inverse_scale(log_scale: Tensor) -> Tensor:
    """Return ``exp(-log_scale)``, at most the largest number of the dtype.

    Infinity would make a residual of 0 NaN.

    Args:
        log_scale: Logarithm of a scale.

    Returns:
        The inverse of the scale, of the same shape.
    """
    largest = math.log(torch.finfo(log_scale.dtype).max) * (1 - 1e-7)
    return (-log_scale).clamp(max=largest).exp()


def _twice_nll(input: Tensor, target: Tensor, var: Tensor, eps: float) -> Tensor:
    if eps > 0:
        # One kernel forward and one backward: with the square root of the variance,
        # as below, it takes half as long again. It overflows where r^2 does.
        square = reduce_kernel(_nn.mse_loss, input, target, None, "none")
        if var.numel() and can_read(var) and var.min().item() >= eps:
            return var.log() + square / var
        floored = var.clamp(min=eps)
        square = square / floored
        # eps - v first, which is exact near eps: where v is eps, the tangent must not
        # add its slope to that of the clamped variance.
        below = torch.rsub(var, eps).relu()
        return torch.addcmul(floored.log() + square, square - 1, below, value=1 / eps)
    # r / sqrt(v) and not r^2 / v: where v and r^2 overflow or underflow, it does not.
    z = (input - target) / var.sqrt()
    return var.log() + z * z


def _check_settings(full: bool, eps: float) -> None:
    check_flag("full", full)
    check_floor(eps)


def _check_beta(beta: float) -> None:
    check_number("beta", beta)
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be between 0 and 1, got {beta}")


def _check_variance(var: Tensor, eps: float, validate: bool | None) -> None:
    if not is_validated(validate):
        return
    if eps > 0:
        check_finite("var", var)
    else:
        check_positive("var", var)
