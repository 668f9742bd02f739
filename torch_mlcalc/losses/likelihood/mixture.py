"""Gaussian mixture negative log-likelihood, as of a mixture density network."""

import torch
from torch import Tensor

from torch_mlcalc.losses.likelihood.checks import (
    check_finite,
    check_flag,
    check_tensor,
)
from torch_mlcalc.losses.likelihood.gaussian import inverse_scale
from torch_mlcalc.losses.likelihood.remainders import HALF_LOG_2PI
from torch_mlcalc.losses.reduction import Loss, Reduction, prepare_all, reduce
from torch_mlcalc.losses.validation import check_values, is_validated


def gaussian_mixture_nll_loss(
    input: Tensor,
    target: Tensor,
    log_scale: Tensor,
    logits: Tensor,
    *,
    multivariate: bool = False,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Negative log-likelihood of a mixture of Gaussians.

    .. math::
        \ell = -\log \sum_k \pi_k\, \mathcal N(y;\, \mu_k, \sigma_k), \qquad
        \pi = \operatorname{softmax}(\text{logits}), \qquad
        \sigma = e^{\text{log\_scale}}

    With the responsibilities :math:`\gamma_k`, the share of component :math:`k` in the
    sum, and :math:`z_k = (\mu_k - y) / \sigma_k`,

    .. math::
        \partial_{\text{logits}_k} \ell = \pi_k - \gamma_k, \qquad
        \partial_{\mu_k} \ell = \frac{\gamma_k z_k}{\sigma_k}, \qquad
        \partial_{\log \sigma_k} \ell = \gamma_k (1 - z_k^2)

    The sum is taken in logarithms: a target far from all means has a finite loss and
    the gradient of the nearest one. With ``multivariate`` a target is a vector, and
    components have a diagonal covariance.

    Args:
        input: Means :math:`\mu` of the components.
        target: Observed values :math:`y`.
        log_scale: Logarithms of the standard deviations; :math:`1/\sigma` is at most
            the largest number of the dtype.
        logits: Logarithms of the weights of the components, up to a constant; minus
            infinity switches a component off.
        multivariate: Whether the last dimension of ``target`` is that of vectors.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that ``log_scale`` is finite and each row of
            ``logits`` has a finite largest one; None for the setting of
            :func:`set_default_validate`.

    Shape:
        ``target`` and ``weight``: ``(*)``; ``input``, ``log_scale`` and ``logits``:
        ``(*, K)``. With ``multivariate``, ``target``: ``(*, D)``; ``input`` and
        ``log_scale``: ``(*, K, D)``; ``logits``: ``(*, K)``; ``weight``: ``(*)``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or none is
            floating-point.
        ValueError: If the shapes do not fit, there is no component, ``reduction`` is
            none of the three, or a checked value is out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> means, logits = torch.tensor([[-1.0, 1.0]]), torch.zeros(1, 2)
        >>> mlc.gaussian_mixture_nll_loss(means, torch.tensor([1e10]), logits, logits)
        tensor(5.0000e+19)

    References:
        Bishop, "Mixture density networks" (1994), equation (28).
        https://publications.aston.ac.uk/id/eprint/373/
    """
    check_flag("multivariate", multivariate)
    (input, target, log_scale, logits), dtype = _prepared(
        input, target, log_scale, logits, weight, reduction, multivariate
    )
    if is_validated(validate):
        check_finite("log_scale", log_scale)
        largest = logits.amax(-1)
        valid = largest.isfinite()
        check_values("the largest of logits", largest, valid, "must be finite")
    z = (input - target) * inverse_scale(log_scale)
    joint = -(0.5 * z * z + (log_scale + HALF_LOG_2PI)).sum(-1)
    loss = logits.logsumexp(-1) - (logits + joint).logsumexp(-1)
    return reduce(loss, weight, reduction).to(dtype)


class GaussianMixtureNLLLoss(Loss):
    """Mixture density likelihood: the module of :func:`gaussian_mixture_nll_loss`."""

    def __init__(
        self,
        *,
        multivariate: bool = False,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        check_flag("multivariate", multivariate)
        is_validated(validate)
        self.multivariate, self.validate = multivariate, validate

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        log_scale: Tensor,
        logits: Tensor,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return gaussian_mixture_nll_loss(
            input,
            target,
            log_scale,
            logits,
            multivariate=self.multivariate,
            reduction=self.reduction,
            weight=weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"multivariate={self.multivariate}, {super().extra_repr()}"


def _prepared(
    input: Tensor,
    target: Tensor,
    log_scale: Tensor,
    logits: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    multivariate: bool,
) -> tuple[list[Tensor], torch.dtype]:
    """Check and promote; give each a dimension of components and one of vectors."""
    tensors = {"input": input, "log_scale": log_scale}
    tensors = {**tensors, "target": target, "logits": logits}
    for name, tensor in tensors.items():
        # Each alone first: what is no tensor has no shape to compare.
        check_tensor(name, tensor)
    _check_shapes(input, target, logits, multivariate)
    if not multivariate:
        input, log_scale = input.unsqueeze(-1), log_scale.unsqueeze(-1)
        target = target.unsqueeze(-1)
    tensors = {
        "input": input,
        "log_scale": log_scale,
        "target": target.unsqueeze(-2).expand_as(input),
        "logits": logits.unsqueeze(-1).expand_as(input),
    }
    (input, log_scale, targets, logits), dtype = prepare_all(tensors, None, reduction)
    if weight is not None:
        elements = {"target": targets[..., 0, 0].to(dtype)}
        dtype = prepare_all(elements, weight, reduction)[1]
    return [input, targets, log_scale, logits[..., 0]], dtype


def _check_shapes(
    input: Tensor, target: Tensor, logits: Tensor, multivariate: bool
) -> None:
    vector = 1 if multivariate else 0
    names = "(*, K, D)" if multivariate else "(*, K)"
    if input.dim() < 1 + vector or 0 in input.shape[input.dim() - 1 - vector :]:
        raise ValueError(
            f"input must be {names}, with a component at least, got "
            f"{tuple(input.shape)}"
        )
    batch, size = input.shape[: input.dim() - 1 - vector], input.shape[-1 - vector]
    wanted = {
        "target": (target, (*batch, *input.shape[input.dim() - vector :])),
        "logits": (logits, (*batch, size)),
    }
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} must be {shape} where input is {tuple(input.shape)}, got "
                f"{tuple(tensor.shape)}; losses do not broadcast"
            )
