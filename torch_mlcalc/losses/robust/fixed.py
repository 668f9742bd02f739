r"""Robust losses of one shape each, as functions of ``x = (input - target) / scale``.

All are :math:`x^2 / 2` near 0. Many texts scale them back, so that they are half the
squared residual near 0: multiply by ``scale**2`` for that. Each docstring states the
first and the second derivative in :math:`x`.
"""

import math

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Loss, Reduction, reduce
from torch_mlcalc.losses.robust.scale import (
    check_scale,
    keep_setting,
    scaled_residual,
    shown,
)


def charbonnier_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Charbonnier (pseudo-Huber) loss: a square near 0, an absolute error far out.

    .. math::
        \ell(x) = \sqrt{x^2 + 1} - 1, \qquad \ell'(x) = \frac{x}{\sqrt{x^2 + 1}},
        \qquad \ell''(x) = (x^2 + 1)^{-3/2}

    with :math:`x = (\text{input} - \text{target}) / \text{scale}`. The shape 1 of
    :func:`general_robust_loss`.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        scale: Unit of the residual, positive; as a tensor it may require grad.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same, to which a tensor
        ``scale`` broadcasts.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``scale`` is neither a number nor a tensor.
        ValueError: If the shapes do not fit, ``scale`` is a number that is not positive
            and finite, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.charbonnier_loss(torch.tensor([1.0, 1e3]), torch.zeros(2), "none")
        tensor([4.1421e-01, 9.9900e+02])

    References:
        Charbonnier et al., "Two deterministic half-quadratic regularization algorithms
        for computed imaging" (1994). https://doi.org/10.1109/ICIP.1994.413553
    """
    x, dtype = scaled_residual(input, target, weight, reduction, scale)
    return reduce(charbonnier(x), weight, reduction).to(dtype)


def cauchy_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Cauchy (Lorentzian) loss, which grows as a logarithm.

    .. math::
        \ell(x) = \log(1 + x^2 / 2), \qquad \ell'(x) = \frac{2 x}{x^2 + 2},
        \qquad \ell''(x) = \frac{2 (2 - x^2)}{(x^2 + 2)^2}

    with :math:`x = (\text{input} - \text{target}) / \text{scale}`. The shape 0 of
    :func:`general_robust_loss`.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        scale: Unit of the residual, positive; as a tensor it may require grad.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same, to which a tensor
        ``scale`` broadcasts.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``scale`` is neither a number nor a tensor.
        ValueError: If the shapes do not fit, ``scale`` is a number that is not positive
            and finite, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.cauchy_loss(torch.tensor([1.0, 1e3]), torch.zeros(2), "none")
        tensor([ 0.4055, 13.1224])

    References:
        Black and Anandan, "The robust estimation of multiple motions" (1996), section
        3.2. https://doi.org/10.1006/cviu.1996.0006
    """
    x, dtype = scaled_residual(input, target, weight, reduction, scale)
    return reduce(cauchy(x), weight, reduction).to(dtype)


def geman_mcclure_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Geman-McClure loss, at most 2.

    .. math::
        \ell(x) = \frac{2 x^2}{x^2 + 4}, \qquad \ell'(x) = \frac{16 x}{(x^2 + 4)^2},
        \qquad \ell''(x) = \frac{16 (4 - 3 x^2)}{(x^2 + 4)^3}

    with :math:`x = (\text{input} - \text{target}) / \text{scale}`. The shape -2 of
    :func:`general_robust_loss`.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        scale: Unit of the residual, positive; as a tensor it may require grad.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same, to which a tensor
        ``scale`` broadcasts.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``scale`` is neither a number nor a tensor.
        ValueError: If the shapes do not fit, ``scale`` is a number that is not positive
            and finite, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.geman_mcclure_loss(torch.tensor([1.0, 1e3]), torch.zeros(2), "none")
        tensor([0.4000, 2.0000])

    References:
        Geman and McClure, "Bayesian image analysis: an application to single photon
        emission tomography" (1985).
    """
    x, dtype = scaled_residual(input, target, weight, reduction, scale)
    return reduce(geman_mcclure(x), weight, reduction).to(dtype)


def welsch_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Welsch (Leclerc) loss, at most 1.

    .. math::
        \ell(x) = 1 - e^{-x^2 / 2}, \qquad \ell'(x) = x\, e^{-x^2 / 2},
        \qquad \ell''(x) = (1 - x^2)\, e^{-x^2 / 2}

    with :math:`x = (\text{input} - \text{target}) / \text{scale}`. The limit of shape
    :math:`-\infty` of :func:`general_robust_loss`.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        scale: Unit of the residual, positive; as a tensor it may require grad.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same, to which a tensor
        ``scale`` broadcasts.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``scale`` is neither a number nor a tensor.
        ValueError: If the shapes do not fit, ``scale`` is a number that is not positive
            and finite, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.welsch_loss(torch.tensor([1.0, 1e3]), torch.zeros(2), "none")
        tensor([0.3935, 1.0000])

    References:
        Dennis and Welsch, "Techniques for nonlinear least squares and robust
        regression" (1978). https://doi.org/10.1080/03610917808812083
    """
    x, dtype = scaled_residual(input, target, weight, reduction, scale)
    return reduce(welsch(x), weight, reduction).to(dtype)


def tukey_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    scale: float | Tensor = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Tukey's biweight loss, constant from the scale on.

    .. math::
        \ell(x) = \begin{cases} \frac{1}{6} (1 - (1 - x^2)^3) & |x| \le 1 \\
        \frac{1}{6} & |x| > 1 \end{cases} \qquad
        \ell'(x) = x\, (1 - x^2)^2, \qquad \ell''(x) = (1 - x^2) (1 - 5 x^2)

    with :math:`x = (\text{input} - \text{target}) / \text{scale}`. Outside both
    derivatives are 0. ``scale=4.685`` standard deviations have 95 % of the efficiency
    of least squares on normal errors.

    Args:
        input: Predictions.
        target: Values to predict.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        scale: Unit of the residual, positive; as a tensor it may require grad.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same, to which a tensor
        ``scale`` broadcasts.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``scale`` is neither a number nor a tensor.
        ValueError: If the shapes do not fit, ``scale`` is a number that is not positive
            and finite, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.tukey_loss(torch.tensor([1.0, 1e3]), torch.zeros(2), "none")
        tensor([0.1667, 0.1667])

    References:
        Beaton and Tukey, "The fitting of power series, meaning polynomials, illustrated
        on band-spectroscopic data" (1974). https://doi.org/10.1080/00401706.1974.10489171
    """
    x, dtype = scaled_residual(input, target, weight, reduction, scale)
    return reduce(tukey(x), weight, reduction).to(dtype)


class ScaledLoss(Loss):
    """Base of the robust modules: holds the ``scale``.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        scale: Unit of the residual. A :class:`torch.nn.Parameter` is trained with the
            module, another tensor is a buffer.
    """

    scale: float | Tensor

    def __init__(
        self, reduction: Reduction = "mean", scale: float | Tensor = 1.0
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        check_scale(scale)
        keep_setting(self, "scale", scale)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, scale={shown(self.scale)}"


class CharbonnierLoss(ScaledLoss):
    """A square, then an absolute error: the module of :func:`charbonnier_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return charbonnier_loss(input, target, self.reduction, self.scale, weight)


class CauchyLoss(ScaledLoss):
    """A loss that grows as a logarithm: the module of :func:`cauchy_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return cauchy_loss(input, target, self.reduction, self.scale, weight)


class GemanMcClureLoss(ScaledLoss):
    """A loss of at most 2: the module of :func:`geman_mcclure_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return geman_mcclure_loss(input, target, self.reduction, self.scale, weight)


class WelschLoss(ScaledLoss):
    """A loss of at most 1: the module of :func:`welsch_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return welsch_loss(input, target, self.reduction, self.scale, weight)


class TukeyLoss(ScaledLoss):
    """A loss that is constant from the scale on: the module of :func:`tukey_loss`."""

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return tukey_loss(input, target, self.reduction, self.scale, weight)


def charbonnier(x: Tensor) -> Tensor:
    """Return the loss of a scaled residual."""
    inside, size = _split(x, 1)
    near = torch.expm1(inside.square().log1p() / 2)
    # sqrt(x^2 + 1) - |x| in terms of 1 / x, whose derivatives vanish at infinity.
    i = size.reciprocal()
    far = size - 1 + i / ((1 + i.square()).sqrt() + 1)
    return torch.where(x.abs() > 1, far, near)


def cauchy(x: Tensor) -> Tensor:
    """Return the loss of a scaled residual."""
    inside, size = _split(x, 1)
    near = (inside.square() / 2).log1p()
    far = 2 * size.log() - math.log(2) + (2 * size.reciprocal().square()).log1p()
    return torch.where(x.abs() > 1, far, near)


def geman_mcclure(x: Tensor) -> Tensor:
    """Return the loss of a scaled residual."""
    inside, size = _split(x, 2)
    near = 2 * inside.square() / (inside.square() + 4)
    far = 2 / (1 + 4 * size.reciprocal().square())
    return torch.where(x.abs() > 2, far, near)


def welsch(x: Tensor) -> Tensor:
    """Return the loss of a scaled residual."""
    # Autograd takes the derivative of expm1(-u) from its value, which has no digits of
    # it far out, where exp has. From 40 on exp(-x^2 / 2) is 0 in float64.
    inside, size = _split(x, 1)
    near = -torch.expm1(-inside.square() / 2)
    far = 1 - torch.exp(-size.clamp(max=40).square() / 2)
    return torch.where(x.abs() > 1, far, near)


def tukey(x: Tensor) -> Tensor:
    """Return the loss of a scaled residual."""
    inside = x.clamp(-1, 1)
    square = inside.square()
    near = square * (3 + square * (square - 3)) / 6
    # The polynomial cancels in the derivatives towards 1, this form in the value
    # towards 0: at 1/8 neither loses more than a factor of 3.
    far = (1 - ((1 - inside) * (1 + inside)) ** 3) / 6
    return torch.where(square > 1 / 8, far, near)


def _split(x: Tensor, at: float) -> tuple[Tensor, Tensor]:
    """Return ``x`` if it is inside and the size if it is not, and else what is finite.

    What is not finite makes the gradient NaN even in the branch that is not taken.
    """
    outside = x.abs() > at
    return torch.where(outside, 0, x), torch.where(outside, x.abs(), at)
