"""Cross-entropy of a linear layer, without its logits in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torch_mlcalc.losses.classification.classes import (
    IGNORED,
    ClassLoss,
    check_classes,
    known,
    prepare_classes,
    reduce_classes,
)
from torch_mlcalc.losses.classification.cross_entropy import reduce_spread
from torch_mlcalc.losses.classification.linear_logsumexp import linear_logsumexp
from torch_mlcalc.losses.classification.settings import check_index, check_number
from torch_mlcalc.losses.reduction import Reduction
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.precision import full_precision


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = IGNORED,
    label_smoothing: float = 0.0,
    validate: bool | None = None,
) -> Tensor:
    r"""Cross-entropy of a linear layer, which never holds all of its logits.

    .. math::
        \ell = w_t \left( \log \sum_c e^{z_c} - z_t \right), \quad
        z_c = W_c \cdot x + b_c, \qquad
        \frac{\partial \ell}{\partial x} = w_t \Big(\sum_c p_c W_c - W_t\Big), \quad
        \frac{\partial \ell}{\partial W_c} = w_t (p_c - \delta_{ct}) x

    with :math:`p = \operatorname{softmax}(z)`: the numbers of :func:`cross_entropy` of
    the layer's output, block by block of classes, which the backward pass computes
    again. So does the second derivative, and forward mode alone; forward and reverse
    mode on top of each other, a third derivative, and a compiled graph hold the logits.

    Args:
        input: Input of the layer, :math:`x`.
        linear_weight: Weight :math:`W` of the layer.
        target: Class indices :math:`t`.
        linear_bias: Bias :math:`b` of the layer.
        weight: Weight of each class.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; ``"mean"`` divides by the sum of
            the weights of the target classes that count.
        ignore_index: Class index whose elements do not count. A batch in which no
            element counts has the mean 0, and the gradient 0.
        label_smoothing: Share of the target that is spread over all classes, from 0 to
            1, as in :func:`cross_entropy`.
        validate: Whether to refuse indices out of range; None for the default setting.

    Shape:
        ``input``: ``(N, F)`` or ``(F)``. ``linear_weight``: ``(C, F)``.
        ``linear_bias`` and ``weight``: ``(C)``. ``target``: ``(N)`` or ``()``.

    Returns:
        The loss, of shape ``()``, or that of ``target`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor or a number of the wrong kind.
        ValueError: If shapes do not fit, a setting is out of range, or ``validate``
            finds an index out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
        >>> mlc.linear_cross_entropy(input, torch.eye(2), target)
        tensor(0.3133)

    References:
        Wijmans et al., "Cut your losses in large-vocabulary language models" (2024),
        section 4. https://arxiv.org/abs/2411.09009
    """
    check_number("label_smoothing", label_smoothing, 0, 1)
    check_index("ignore_index", ignore_index)
    _check_layer(input, linear_weight, linear_bias)
    # What is checked of logits, with logits that take no memory.
    one = input.new_zeros(()) if isinstance(input, Tensor) else input
    logits = one.expand(*input.shape[:-1], linear_weight.shape[0])
    _, target, weight, dtype = prepare_classes(logits, target, weight, reduction)
    if is_validated(validate):
        check_classes(logits, target, ignore_index)
    layer = [input, linear_weight, *([] if linear_bias is None else [linear_bias])]
    for tensor in layer:
        dtype = torch.promote_types(dtype, tensor.dtype)
    working = torch.float64 if dtype == torch.float64 else torch.float32
    x, matrix, *rest = (tensor.to(working) for tensor in layer)
    bias = rest[0] if rest else matrix.new_zeros(()).expand(matrix.shape[0])
    weight = None if weight is None else weight.to(working)
    rows = x.reshape(-1, x.shape[-1])
    index = known(target, ignore_index).reshape(-1)
    with full_precision(x.device):
        total, of_target = linear_logsumexp(rows, matrix, bias, index)
    total, of_target = total.view(target.shape), of_target.view(target.shape)
    loss = reduce_classes(total - of_target, target, weight, ignore_index, reduction)
    if label_smoothing:
        classes = matrix.shape[0]
        share = matrix.new_ones(classes) if weight is None else weight
        with full_precision(x.device):
            spread = share.sum() * total - x @ (share @ matrix) - share @ bias
        spread = reduce_spread(
            spread / classes, target, weight, ignore_index, reduction
        )
        loss = (1 - label_smoothing) * loss + label_smoothing * spread
    return loss.to(dtype)


class LinearCrossEntropyLoss(ClassLoss):
    """A linear layer and its cross-entropy: the module of :func:`linear_cross_entropy`.

    The layer is ``linear``, as in torch's module of this name, whose ``state_dict`` it
    shares.

    Args:
        in_features: Size F of the input.
        num_classes: Number C of classes.
        bias: Whether the layer has a bias.
        device: Where the layer is.
        dtype: Of what kind it is.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: Weight of each class; a buffer.
        ignore_index: Target that does not count.
        label_smoothing: Share of the target that is spread over all classes.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: Reduction = "mean",
        weight: Tensor | None = None,
        ignore_index: int = IGNORED,
        label_smoothing: float = 0.0,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings, and make the layer."""
        super().__init__(weight, ignore_index, reduction, validate=validate)
        check_number("label_smoothing", label_smoothing, 0, 1)
        self.label_smoothing = label_smoothing
        self.linear = nn.Linear(
            in_features, num_classes, bias=bias, device=device, dtype=dtype
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, label_smoothing={self.label_smoothing}"


def _check_layer(input: object, weight: object, bias: object) -> None:
    names = {"input": input, "linear_weight": weight, "linear_bias": bias}
    for name, value in names.items():
        if value is None and name == "linear_bias":
            continue
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a torch.Tensor, got {type(value).__name__}; "
                "convert with torch.as_tensor"
            )
        if not value.is_floating_point():
            raise TypeError(
                f"{name} must be floating-point, got {value.dtype}; convert with "
                ".to(torch.float32)"
            )
    if not isinstance(input, Tensor) or not isinstance(weight, Tensor):
        return
    if input.ndim not in (1, 2) or weight.ndim != 2:
        raise ValueError(
            "input must have the shape (N, F) or (F,) and linear_weight (C, F), got "
            f"{tuple(input.shape)} and {tuple(weight.shape)}; flatten what is between"
        )
    if input.shape[-1] != weight.shape[1]:
        raise ValueError(
            "input and linear_weight must have the same last dimension, the features, "
            f"got {tuple(input.shape)} and {tuple(weight.shape)}"
        )
    if isinstance(bias, Tensor) and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"linear_bias must have a number for each class, ({weight.shape[0]},), "
            f"got {tuple(bias.shape)}"
        )
