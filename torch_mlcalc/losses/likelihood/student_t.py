"""Student-t negative log-likelihood, whose degrees of freedom may be learned."""

import torch
from torch import Tensor

from torch_mlcalc.losses.likelihood.checks import (
    check_positive,
    prepare_positive,
)
from torch_mlcalc.losses.likelihood.remainders import (
    HALF_LOG_2PI,
    half_step_remainder,
    log1p_ratio,
)
from torch_mlcalc.losses.reduction import Loss, Reduction, reduce
from torch_mlcalc.losses.validation import check_values, is_validated


def student_t_nll_loss(
    input: Tensor,
    target: Tensor,
    scale: Tensor | float,
    df: Tensor | float,
    *,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Student-t negative log-likelihood.

    .. math::
        \ell = \log\frac{\Gamma(\frac\nu2) \sqrt{\nu \pi}\, \sigma}
            {\Gamma(\frac{\nu + 1}2)}
            + \frac{\nu + 1}2 \log\Bigl(1 + \frac{z^2}\nu\Bigr), \qquad
        z = \frac{\text{input} - \text{target}}{\sigma}

    .. math::
        \partial_z \ell = \frac{(\nu + 1) z}{\nu + z^2}, \qquad
        \partial_\nu \ell = \frac12 \Bigl[\psi\bigl(\tfrac\nu2\bigr)
            - \psi\bigl(\tfrac{\nu + 1}2\bigr) + \frac1\nu
            + \log\Bigl(1 + \frac{z^2}\nu\Bigr)
            - \frac{(\nu + 1) z^2}{\nu (\nu + z^2)}\Bigr]

    with :math:`\nu` the degrees of freedom and :math:`\psi` the digamma function.

    Of :math:`\partial_\nu \ell`, which is of the size of :math:`1/\nu^2`, the terms are
    of the size of :math:`1/\nu`, and those of the value of the size of
    :math:`\nu \log \nu`. Neither is computed from them, so that value and derivatives,
    those in :math:`\nu` too, keep their digits from small :math:`\nu` to 1e8 and beyond
    in ``float32``; an infinite :math:`\nu` in a tensor gives the Gaussian likelihood.

    Args:
        input: Predicted locations.
        target: Observed values.
        scale: Scales :math:`\sigma`, or one positive number for all elements.
        df: Degrees of freedom :math:`\nu`, or one positive number for all elements.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that ``scale`` is positive and finite and ``df``
            positive; None for the setting of :func:`set_default_validate`.

    Shape:
        ``input``, ``target``, ``scale`` and ``df`` unless numbers, and ``weight``:
        ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or none is
            floating-point.
        ValueError: If the shapes differ, ``scale`` or ``df`` is a number that is not
            positive, ``reduction`` is none of the three, or a checked value is out of
            range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> df = torch.tensor([3.0, 1e8], requires_grad=True)
        >>> loss = mlc.student_t_nll_loss(
        ...     torch.tensor([2.0, 2.0]), torch.zeros(2), 1.0, df, reduction="none"
        ... )
        >>> loss
        tensor([2.6955, 2.9189], grad_fn=<AddBackward0>)
        >>> torch.autograd.grad(loss.sum(), df)
        (tensor([1.6216e-02, 1.7500e-16]),)

    References:
        Lange, Little and Taylor, "Robust statistical modeling using the t distribution"
        (1989). https://doi.org/10.2307/2290063
    """
    (input, target, scale, df), dtype = prepare_positive(
        {"input": input, "target": target},
        {"scale": scale, "df": df},
        weight,
        reduction,
    )
    if is_validated(validate):
        check_positive("scale", scale)
        check_values("df", df, df > 0, "must be positive")
    loss = _kernel(input - target, scale, df)
    loss = loss + (HALF_LOG_2PI - half_step_remainder(df))
    return reduce(loss, weight, reduction).to(dtype)


def _kernel(residual: Tensor, scale: Tensor, df: Tensor) -> Tensor:
    """Return ``log(scale) + (df + 1) / 2 * log(1 + z^2 / df)``."""
    root = df.sqrt()
    part = residual / root
    is_near = part.abs() <= 0.7 * scale
    # Written with z^2 and w^2 = z^2 / df this tends to z^2 / 2, and so do derivatives.
    z = residual.masked_fill(~is_near, 0) / scale
    square = (z / root).square()
    near = (z.square() + square) * log1p_ratio(square)
    # Of w^2 neither overflow nor underflow, and the derivative of hypot is bounded.
    length = torch.hypot(part, scale)
    # Without the roots derivatives are length / scale^2, of which float32 has no number
    # for a residual of 1 and a scale of 1e-20, or scale / length^2, for 1e20 and 1e-10.
    log_far = (length.sqrt() / scale.sqrt()).masked_fill(is_near, 1).log()
    far = df.masked_fill(is_near, 1) * log_far
    # The logarithm of the scale is in that of the length: their slopes in the scale,
    # 1 / scale and nearly minus that, leave one of the size of df / scale.
    near = torch.add(scale.log(), near, alpha=0.5)
    far = torch.add(length.log(), far, alpha=2)
    return torch.where(is_near, near, far)


class StudentTNLLLoss(Loss):
    """Student-t likelihood: the module of :func:`student_t_nll_loss`."""

    def __init__(
        self, *, reduction: Reduction = "mean", validate: bool | None = None
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        is_validated(validate)
        self.validate = validate

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        scale: Tensor | float,
        df: Tensor | float,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return student_t_nll_loss(
            input,
            target,
            scale,
            df,
            reduction=self.reduction,
            weight=weight,
            validate=self.validate,
        )
