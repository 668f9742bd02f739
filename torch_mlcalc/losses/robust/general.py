"""Barron's general robust loss, and the likelihood that adapts its shape."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.losses.robust.fixed import (
    ScaledLoss,
    cauchy,
    charbonnier,
    geman_mcclure,
    welsch,
)
from torch_mlcalc.losses.robust.normalizer import log_normalizer, log_normalizer_of
from torch_mlcalc.losses.robust.scale import (
    check_broadcasts,
    check_setting,
    keep_setting,
    scaled_residual,
    shown,
)
from torch_mlcalc.losses.robust.shape import general
from torch_mlcalc.losses.validation import check_values, is_validated

# Given as numbers, these take a fraction of the time of the general form.
_NAMED: dict[float, Callable[[Tensor], Tensor]] = {
    -math.inf: welsch,
    -2.0: geman_mcclure,
    0.0: cauchy,
    1.0: charbonnier,
    2.0: lambda x: x * (x / 2),
}


def general_robust_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    alpha: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Barron's general robust loss, whose shape ranges from the square to a step.

    .. math::
        \rho(x, \alpha) = \frac{|\alpha - 2|}{\alpha} \Big( \Big( \frac{x^2}
        {|\alpha - 2|} + 1 \Big)^{\alpha / 2} - 1 \Big), \qquad
        \rho'(x) = x \Big( \frac{x^2}{|\alpha - 2|} + 1 \Big)^{\alpha / 2 - 1}

    with :math:`x = (\text{input} - \text{target}) / \text{scale}` and the limits

    ================  =============================================================
    ``alpha``         loss
    ================  =============================================================
    :math:`\infty`    :math:`e^{x^2 / 2} - 1`
    2                 :math:`x^2 / 2`, half of :func:`mse_loss`
    1                 :func:`charbonnier_loss`
    0                 :func:`cauchy_loss`
    -2                :func:`geman_mcclure_loss`
    :math:`-\infty`   :func:`welsch_loss`
    ================  =============================================================

    With :math:`b = |\alpha - 2|` and :math:`L = \log(1 + x^2 / b)` the derivative in
    the shape is

    .. math::
        \frac{\partial \rho}{\partial \alpha} = \frac{2 \rho}{\alpha (\alpha - 2)}
        + \frac{b}{\alpha} \Big(1 + \frac{x^2}{b}\Big)^{\alpha / 2}
        \Big( \frac{L}{2} - \frac{\alpha\, x^2}{2 (\alpha - 2) (b + x^2)} \Big)

    and at 0 the limit of that. Towards 2 it grows without bound, as
    :math:`\frac{1}{4} x^2 \log(1 / b)`; at 2 it is that of the number next to 2.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        alpha: Shape, any number or infinity; as a tensor it may require grad.
        scale: Unit of the residual, positive; as a tensor it may require grad.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same, to which tensors
        ``alpha`` and ``scale`` broadcast.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is neither a number nor a tensor.
        ValueError: If the shapes do not fit, a number is out of range, or ``reduction``
            is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([0.1, 10.0]), torch.zeros(2)
        >>> mlc.general_robust_loss(input, target, "none", alpha=2.0)
        tensor([5.0000e-03, 5.0000e+01])
        >>> mlc.general_robust_loss(input, target, "none", alpha=-1.0)
        tensor([0.0050, 2.4880])

    References:
        Barron, "A general and adaptive robust loss function" (2019), equations (1) and
        (8). https://arxiv.org/abs/1701.03077
    """
    loss, dtype = _general(input, target, reduction, alpha, scale, weight)
    return reduce(loss, weight, reduction).to(dtype)


def general_robust_nll_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    alpha: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Negative log likelihood of the density that belongs to the general robust loss.

    .. math::
        \ell = \rho(x, \alpha) + \log \text{scale} + \log Z(\alpha), \qquad
        Z(\alpha) = \int_{-\infty}^{\infty} e^{-\rho(x, \alpha)}\, dx

    with :math:`\rho` and :math:`x` of :func:`general_robust_loss`. As a likelihood it
    can be minimised in ``alpha`` and ``scale`` along with the model: 2 is the normal
    distribution, 0 a Cauchy distribution, 1 is close to a smoothed Laplace one.

    .. math::
        \frac{d \log Z}{d \alpha} = -\mathrm{E} \frac{\partial \rho}{\partial \alpha},
        \qquad \frac{d^2 \log Z}{d \alpha^2} = \mathrm{Var}
        \frac{\partial \rho}{\partial \alpha}
        - \mathrm{E} \frac{\partial^2 \rho}{\partial \alpha^2}

    where :math:`x` has that density. ``log Z`` and its derivatives are computed by
    quadrature in ``float64``, for each element of ``alpha``, to the last digits.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        alpha: Shape, 0 to infinity; as a tensor it may require grad. For negative ones
            there is no density, and the loss is infinite.
        scale: Unit of the residual, positive; as a tensor it may require grad.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that no ``alpha`` in a tensor is negative and each
            ``scale`` is positive; None for what :func:`set_default_validate` has set.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same, to which tensors
        ``alpha`` and ``scale`` broadcast.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is neither a number nor a tensor.
        ValueError: If the shapes do not fit, a number is out of range, or ``reduction``
            is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> zero = torch.zeros(1)
        >>> mlc.general_robust_nll_loss(zero, zero, alpha=2.0)  # log(2 pi) / 2
        tensor(0.9189)
        >>> mlc.general_robust_nll_loss(zero, zero, alpha=0.0)  # log(pi sqrt(2))
        tensor(1.4913)

    References:
        Barron, "A general and adaptive robust loss function" (2019), equations (15)
        and (16). https://arxiv.org/abs/1701.03077
    """
    _check_normalizable(alpha)
    if is_validated(validate):
        _check_setting_values(alpha, scale)
    loss, dtype = _general(input, target, reduction, alpha, scale, weight)
    log_z = (
        log_normalizer(alpha.to(loss.dtype))
        if isinstance(alpha, Tensor)
        else log_normalizer_of(float(alpha), loss.dtype, loss.device)
    )
    loss = loss + log_z + _as_tensor(scale, loss).log()
    return reduce(loss, weight, reduction).to(dtype)


class GeneralRobustLoss(ScaledLoss):
    """Barron's general robust loss: the module of :func:`general_robust_loss`.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        alpha: Shape. A :class:`torch.nn.Parameter` is trained with the module, another
            tensor is a buffer.
        scale: Unit of the residual, likewise.
    """

    alpha: float | Tensor

    def __init__(
        self,
        reduction: Reduction = "mean",
        alpha: float | Tensor = 1.0,
        scale: float | Tensor = 1.0,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction, scale)
        _check_alpha(alpha)
        keep_setting(self, "alpha", alpha)

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return general_robust_loss(
            input, target, self.reduction, self.alpha, self.scale, weight
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, alpha={shown(self.alpha)}"


class GeneralRobustNLLLoss(GeneralRobustLoss):
    """Likelihood of any shape: the module of :func:`general_robust_nll_loss`.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        alpha: Shape, 0 to infinity. A :class:`torch.nn.Parameter` is trained with the
            module, another tensor is a buffer.
        scale: Unit of the residual, likewise.
        validate: Whether to check the values of tensors.
    """

    def __init__(
        self,
        reduction: Reduction = "mean",
        alpha: float | Tensor = 1.0,
        scale: float | Tensor = 1.0,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction, alpha, scale)
        _check_normalizable(alpha)
        is_validated(validate)
        self.validate = validate

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return general_robust_nll_loss(
            input,
            target,
            self.reduction,
            self.alpha,
            self.scale,
            weight,
            validate=self.validate,
        )


def _general(
    input: Tensor,
    target: Tensor,
    reduction: Reduction,
    alpha: float | Tensor,
    scale: float | Tensor,
    weight: Tensor | None,
) -> tuple[Tensor, torch.dtype]:
    _check_alpha(alpha)
    x, dtype = scaled_residual(input, target, weight, reduction, scale)
    check_broadcasts("alpha", alpha, x)
    if not isinstance(alpha, Tensor) and alpha in _NAMED:
        return _NAMED[alpha](x), dtype
    return general(x, _as_tensor(alpha, x)), dtype


def _as_tensor(setting: float | Tensor, like: Tensor) -> Tensor:
    if isinstance(setting, Tensor):
        return setting.to(like.dtype)
    # torch.as_tensor would copy the number from the host, and wait for the device.
    return like.new_full((), setting)


def _check_alpha(alpha: float | Tensor) -> None:
    check_setting("alpha", alpha)
    if not isinstance(alpha, Tensor) and math.isnan(alpha):
        raise ValueError(f"alpha must be a number or infinite, got {alpha}")


def _check_normalizable(alpha: float | Tensor) -> None:
    _check_alpha(alpha)
    if not isinstance(alpha, Tensor) and alpha < 0:
        raise ValueError(
            f"alpha must not be negative, got {alpha}: exp(-loss) has no integral"
        )


def _check_setting_values(alpha: float | Tensor, scale: float | Tensor) -> None:
    if isinstance(alpha, Tensor):
        check_values("alpha", alpha, alpha >= 0, "must not be negative")
    if isinstance(scale, Tensor):
        valid = (scale > 0) & scale.isfinite()
        check_values("scale", scale, valid, "must be positive and finite")
