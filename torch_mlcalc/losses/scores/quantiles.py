"""Losses of quantiles and expectiles: several levels at once, smooth, squared."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_mlcalc.losses.reduction import (
    Loss,
    Reduction,
    prepare,
    prepare_all,
    reduce,
)
from torch_mlcalc.losses.scores.layout import check_number
from torch_mlcalc.losses.validation import check_values, is_validated


def multi_quantile_loss(
    input: Tensor,
    target: Tensor,
    quantiles: Tensor | Sequence[float],
    reduction: Reduction = "mean",
    rearrange: bool = False,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Mean of the quantile losses of several levels.

    .. math::
        \ell = \frac{1}{k} \sum_{i=1}^{k} \big( (1 - q_i) \max(r_i, 0)
        + q_i \max(-r_i, 0) \big), \qquad r_i = \text{input}_i - \text{target}

    with the derivative :math:`(1 - q_i) / k` for :math:`r_i > 0`, :math:`-q_i / k` for
    :math:`r_i < 0` and 0 for :math:`r_i = 0`; the second is 0. With twice this loss at
    the levels :math:`(i - 1/2) / k` one scores the predictions as an ensemble, by
    :func:`ensemble_crps_loss`.

    Predicted quantiles can cross. With ``rearrange`` the predictions are sorted first,
    so that the smallest one, whichever it is, belongs to the lowest level. The loss of
    sorted quantiles is never larger, nor are they ever further from the right ones.
    Sort the predictions in use as well: ``input.sort(-1).values``.

    Args:
        input: Predicted quantiles, one for each level.
        target: Observations.
        quantiles: Levels, strictly between 0 and 1; increasing if ``rearrange``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        rearrange: Whether to sort the predictions, so that they cannot cross.
        weight: Weight of each target; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check the levels in a tensor; numbers are always checked.
            None for what :func:`set_default_validate` has set.

    Shape:
        ``input``: ``(*, k)``; ``quantiles``: ``(k,)``; ``target`` and ``weight``:
        ``(*)``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is of the wrong type.
        ValueError: If the shapes do not fit, a level is out of range, the levels do not
            increase and are to be sorted, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([[1.0, 4.0]]), torch.tensor([3.0])
        >>> mlc.multi_quantile_loss(input, target, [0.25, 0.75])
        tensor(0.3750)
        >>> crossing = input.flip(-1)
        >>> mlc.multi_quantile_loss(crossing, target, [0.25, 0.75])
        tensor(1.1250)
        >>> mlc.multi_quantile_loss(crossing, target, [0.25, 0.75], rearrange=True)
        tensor(0.3750)

    References:
        Koenker and Bassett, "Regression quantiles" (1978).
        https://doi.org/10.2307/1913643

        Chernozhukov, Fernandez-Val and Galichon, "Quantile and probability curves
        without crossing" (2010), proposition 4. https://doi.org/10.3982/ECTA7880
    """
    levels = _levels(quantiles, rearrange, is_validated(validate))
    if isinstance(input, Tensor) and isinstance(target, Tensor):
        _check_layout(input, target, levels)
        example = input.select(-1, 0)
    else:  # for prepare_all to refuse
        example = input
    (target, example), dtype = prepare_all(
        {"target": target, "input": example}, weight, reduction
    )
    values, q = input.to(example.dtype), levels.to(example, non_blocking=True)
    if rearrange:
        values = values.sort(-1).values
    r = values - target[..., None]
    loss = ((1 - q) * r.relu() + q * (-r).relu()).sum(-1) / q.numel()
    return reduce(loss, weight, reduction).to(dtype)


def smooth_quantile_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    quantile: float = 0.5,
    beta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Quantile (pinball) loss without the kink.

    .. math::
        \ell(r) = \beta \log(1 + e^{r / \beta}) - q r, \qquad
        \ell'(r) = \sigma(r / \beta) - q, \qquad
        \ell''(r) = \frac{1}{\beta} \sigma(r / \beta) (1 - \sigma(r / \beta))

    with :math:`\sigma` the logistic function. It is above :func:`quantile_loss` by at
    most :math:`\beta \log 2`, which it is at 0. It is convex and smallest where
    :math:`r = \beta \log(q / (1 - q))`.

    Args:
        input: Predicted quantiles.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        quantile: Level :math:`q`, strictly between 0 and 1.
        beta: Width of the rounding, positive and finite.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is no number.
        ValueError: If the shapes differ, a setting is out of range, or ``reduction`` is
            none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 3.0])
        >>> mlc.smooth_quantile_loss(input, target, "none", quantile=0.9, beta=0.1)
        tensor([0.2000, 1.8000])

    References:
        Zheng, "Gradient descent algorithms for quantile regression with smooth
        approximation" (2011), equation (8). https://doi.org/10.1007/s13042-011-0031-2
    """
    _check_level("quantile", quantile)
    _check_beta(beta)
    input, target, dtype = prepare(input, target, weight, reduction)
    r = input - target
    scaled = r / beta
    # Each form is right on its side of 0, where log(1 + exp) is small beside the rest;
    # softplus becomes the identity at 20, which no taken branch comes near.
    right = (1 - quantile) * r + beta * F.softplus(-scaled)
    left = -quantile * r + beta * F.softplus(scaled)
    return reduce(torch.where(r > 0, right, left), weight, reduction).to(dtype)


def expectile_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    expectile: float = 0.5,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared error with a weight for each side, smallest on average at the expectile.

    .. math::
        \ell(r) = c\, r^2, \qquad \ell'(r) = 2 c\, r, \qquad \ell''(r) = 2 c, \qquad
        c = \begin{cases} 1 - \tau & r > 0 \\ \tau & r \le 0 \end{cases}

    At 0, where the second derivative jumps, it is one of the two.
    With ``expectile=0.5`` it is half of :func:`mse_loss`.

    Args:
        input: Predicted expectiles.
        target: Observed values.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        expectile: Level :math:`\tau`, strictly between 0 and 1: the share that targets
            below the prediction have in the summed distances.
        weight: Weight of each element; ``"mean"`` divides by the sum of the weights.

    Shape:
        ``input``, ``target`` and ``weight``: ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or
            ``expectile`` is no number.
        ValueError: If the shapes differ, ``expectile`` is not between 0 and 1, or
            ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 3.0])
        >>> mlc.expectile_loss(input, target, "none", expectile=0.9)
        tensor([0.4000, 3.6000])

    References:
        Newey and Powell, "Asymmetric least squares estimation and testing" (1987),
        equation (2.1). https://doi.org/10.2307/1911031
    """
    _check_level("expectile", expectile)
    input, target, dtype = prepare(input, target, weight, reduction)
    r = input - target
    loss = r * torch.where(r > 0, (1 - expectile) * r, expectile * r)
    return reduce(loss, weight, reduction).to(dtype)


class MultiQuantileLoss(Loss):
    """Quantile losses of several levels: the module of :func:`multi_quantile_loss`.

    The levels are a buffer, which ``.to()`` moves and ``state_dict`` holds.
    """

    quantiles: Tensor

    def __init__(
        self,
        quantiles: Tensor | Sequence[float],
        reduction: Reduction = "mean",
        rearrange: bool = False,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        self.register_buffer("quantiles", _levels(quantiles, rearrange, True).clone())
        self.rearrange = rearrange

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose observations may have a weight each."""
        return multi_quantile_loss(
            input,
            target,
            self.quantiles,
            self.reduction,
            self.rearrange,
            weight,
            validate=False,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        levels = ", ".join(f"{q:.4g}" for q in self.quantiles.tolist())
        return (
            f"quantiles=[{levels}], {super().extra_repr()}, rearrange={self.rearrange}"
        )


class SmoothQuantileLoss(Loss):
    """Quantile loss without the kink: the module of :func:`smooth_quantile_loss`."""

    def __init__(
        self, reduction: Reduction = "mean", quantile: float = 0.5, beta: float = 1.0
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_level("quantile", quantile)
        _check_beta(beta)
        self.quantile, self.beta = quantile, beta

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return smooth_quantile_loss(
            input, target, self.reduction, self.quantile, self.beta, weight
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, quantile={self.quantile}, beta={self.beta}"


class ExpectileLoss(Loss):
    """Squared error, each side weighted: the module of :func:`expectile_loss`."""

    def __init__(self, reduction: Reduction = "mean", expectile: float = 0.5) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_level("expectile", expectile)
        self.expectile = expectile

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose elements may have a weight each."""
        return expectile_loss(input, target, self.reduction, self.expectile, weight)

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, expectile={self.expectile}"


def _levels(
    quantiles: Tensor | Sequence[float], rearrange: bool, checks_tensor: bool
) -> Tensor:
    """Return the levels as a tensor, checked if they are numbers or it is asked for."""
    if not isinstance(rearrange, bool):
        raise TypeError(f"rearrange must be a bool, got {type(rearrange).__name__}")
    if not isinstance(quantiles, Tensor):
        _check_numbers(quantiles, rearrange)
        # In float64, whose digits a wider input may want; cast where it is used.
        quantiles, checks_tensor = (
            torch.tensor(quantiles, dtype=torch.float64, device="cpu"),
            False,
        )
    if not quantiles.is_floating_point():
        raise TypeError(f"quantiles must be floating-point, got {quantiles.dtype}")
    if quantiles.ndim != 1 or not quantiles.numel():
        raise ValueError(
            "quantiles must have the shape (k,) with k of 1 at least, got "
            f"{tuple(quantiles.shape)}"
        )
    if checks_tensor:
        check_values(
            "quantiles",
            quantiles,
            (quantiles > 0) & (quantiles < 1),
            "must be strictly between 0 and 1",
        )
        if rearrange:
            check_values(
                "the difference of neighbours in quantiles",
                quantiles.diff(),
                quantiles.diff() > 0,
                "must be positive where predictions are sorted",
            )
    return quantiles


def _check_numbers(quantiles: object, rearrange: bool) -> None:
    if not isinstance(quantiles, Sequence) or isinstance(quantiles, str):
        raise TypeError(
            "quantiles must be a tensor or a sequence of numbers, got "
            f"{type(quantiles).__name__}"
        )
    for level in quantiles:
        _check_level("each of quantiles", level)
    if rearrange and sorted(set(quantiles)) != list(quantiles):
        raise ValueError(
            "quantiles must increase where predictions are sorted, got "
            f"{list(quantiles)}"
        )


def _check_layout(input: Tensor, target: Tensor, levels: Tensor) -> None:
    k = levels.numel()
    if input.ndim == 0 or input.shape[-1] != k:
        raise ValueError(
            f"input must have the {k} quantiles in its last axis, got the shape "
            f"{tuple(input.shape)}"
        )
    if input.shape[:-1] != target.shape:
        raise ValueError(
            f"target must have the shape of input without its last axis, "
            f"{tuple(input.shape[:-1])}, got {tuple(target.shape)}; losses do not "
            "broadcast: say what is meant with unsqueeze, squeeze or expand_as"
        )


def _check_level(name: str, level: float) -> None:
    check_number(name, level)
    if not 0 < level < 1:
        raise ValueError(f"{name} must be strictly between 0 and 1, got {level}")


def _check_beta(beta: float) -> None:
    check_number("beta", beta)
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta must be positive and finite, got {beta}")
