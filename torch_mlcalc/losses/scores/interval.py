"""Interval score of a prediction interval."""

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Loss, Reduction, prepare_all, reduce
from torch_mlcalc.losses.scores.layout import check_number
from torch_mlcalc.losses.validation import check_values, is_validated


def interval_score_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    alpha: float = 0.1,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Interval (Winkler) score of a central prediction interval.

    For the interval from :math:`l` to :math:`u` that is to hold the observation
    :math:`y` with probability :math:`1 - \alpha`

    .. math::
        \ell = (u - l) + \frac{2}{\alpha} \max(l - y, 0)
        + \frac{2}{\alpha} \max(y - u, 0)

    .. math::
        \frac{\partial \ell}{\partial l} = \frac{2}{\alpha} 1_{y < l} - 1, \qquad
        \frac{\partial \ell}{\partial u} = 1 - \frac{2}{\alpha} 1_{y > u}

    and the second derivatives are 0. It is smallest on average for the quantiles of
    levels :math:`\alpha / 2` and :math:`1 - \alpha / 2`, being :math:`2 / \alpha` times
    the sum of their quantile losses.

    Args:
        input: Lower and upper end of each interval.
        target: Observations.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        alpha: Probability of an observation outside, more than 0 and less than 1.
        weight: Weight of each interval; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that no lower end is above the upper one; None for
            what :func:`set_default_validate` has set.

    Shape:
        ``input``: ``(*, 2)``; ``target`` and ``weight``: ``(*)``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is of the wrong type.
        ValueError: If the shapes do not fit, ``alpha`` is not between 0 and 1, or
            ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> intervals = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
        >>> mlc.interval_score_loss(intervals, torch.tensor([1.0, 3.0]), "none")
        tensor([ 2., 22.])

    References:
        Gneiting and Raftery, "Strictly proper scoring rules, prediction, and
        estimation" (2007), equation (43). https://doi.org/10.1198/016214506000001437
    """
    _check_alpha(alpha)
    lower, upper, target, dtype = _prepare(input, target, weight, reduction)
    if is_validated(validate):
        check_values(
            "the upper end minus the lower one",
            upper - lower,
            ~(upper < lower),
            "must not be negative",
        )
    outside = (lower - target).relu() + (target - upper).relu()
    loss = (upper - lower) + 2 / alpha * outside
    return reduce(loss, weight, reduction).to(dtype)


class IntervalScoreLoss(Loss):
    """Score of a prediction interval: the module of :func:`interval_score_loss`."""

    def __init__(
        self,
        reduction: Reduction = "mean",
        alpha: float = 0.1,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_alpha(alpha)
        is_validated(validate)
        self.alpha, self.validate = alpha, validate

    def forward(
        self, input: Tensor, target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Return the loss of a batch, whose intervals may have a weight each."""
        return interval_score_loss(
            input,
            target,
            self.reduction,
            self.alpha,
            weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, alpha={self.alpha}"


def _prepare(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: Reduction
) -> tuple[Tensor, Tensor, Tensor, torch.dtype]:
    if isinstance(input, Tensor) and isinstance(target, Tensor):
        if input.shape != (*target.shape, 2):
            raise ValueError(
                f"target must have the shape of input without its last axis of 2, got "
                f"{tuple(target.shape)} and {tuple(input.shape)}; lower and upper ends "
                "are put together with torch.stack((lower, upper), -1)"
            )
        lower, upper = input.unbind(-1)
    else:  # for prepare_all to refuse
        lower = upper = input
    tensors = {"target": target, "input": lower, "upper": upper}
    (target, lower, upper), dtype = prepare_all(tensors, weight, reduction)
    return lower, upper, target, dtype


def _check_alpha(alpha: float) -> None:
    check_number("alpha", alpha)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be strictly between 0 and 1, got {alpha}")
