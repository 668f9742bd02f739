"""Continuous ranked probability score of an ensemble, by sorting it."""

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Loss, Reduction, reduce
from torch_mlcalc.losses.scores.layout import (
    check_dim,
    check_fairness,
    excess_of_fair,
    prepare_ensemble,
)
from torch_mlcalc.losses.validation import is_validated


def ensemble_crps_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    fairness: float = 0.0,
    dim: int = -1,
    member_weight: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Continuous ranked probability score (CRPS) of an ensemble of forecasts.

    For members :math:`x_i` with weights :math:`w_i` that add up to 1 (by default
    :math:`1/m`), the observation :math:`y` and the fairness :math:`f`

    .. math::
        \ell = \sum_i w_i |x_i - y|
        - \frac{1}{2} \Big(1 - f + \frac{f}{1 - \sum_i w_i^2}\Big)
        \sum_{i, j} w_i w_j |x_i - x_j|

    * ``fairness=0``: the CRPS of the ensemble taken as a distribution,
      :math:`\int (F(x) - 1_{x \ge y})^2 dx` with its step function :math:`F`.
    * ``fairness=1``: the fair CRPS, whose mean is that of the distribution which the
      members were drawn from. It can be negative. For two members and an observation
      between them it does not depend on them.
    * between: the almost fair CRPS of Lang et al., who train with 0.95: nearly fair,
      but no member can drift away unpunished while the others are right.

    The first derivative, with :math:`g` for the factor in front of the double sum times
    two, is

    .. math::
        \frac{\partial \ell}{\partial x_i} = w_i \big( \operatorname{sign}(x_i - y)
        - g \sum_j w_j \operatorname{sign}(x_i - x_j) \big),
        \qquad
        \frac{\partial \ell}{\partial y} = -\sum_i w_i \operatorname{sign}(x_i - y)

    with :math:`\operatorname{sign} 0 = 0`, also among members that are equal; the
    second is 0. There are derivatives in ``member_weight`` as well.

    The double sum is not formed: once the members are sorted, the score is
    :math:`\sum_i (x_i - y)\, \partial \ell / \partial x_i`. No term of that is negative
    where ``fairness`` is 0, so that nothing cancels. The time is :math:`O(m \log m)`,
    the memory :math:`O(m)`. An infinite member or observation has an infinite score;
    with fairness an infinite member may have NaN, as the limit depends on the way
    there, and so may an infinite observation next to a member of weight 0.

    Args:
        input: Members.
        target: Observations.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        fairness: How far the spread is corrected for the finite ensemble, 0 to 1.
        dim: Axis of ``input`` that holds the members.
        member_weight: Weight of each member; they are divided by their sum.
        weight: Weight of each forecast; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that no ``member_weight`` is negative and that their
            sums are positive; None for what :func:`set_default_validate` has set.

    Shape:
        ``input``: ``(*, m)``, or with :math:`m \ge 1` wherever ``dim`` says;
        ``target`` and ``weight``: ``(*)``; ``member_weight``: ``(m,)`` or as ``input``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is of the wrong type.
        ValueError: If the shapes do not fit, ``fairness`` is not between 0 and 1, or is
            not 0 with a single member, or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> members, target = torch.tensor([[0.0, 1.0, 4.0]]), torch.tensor([2.0])
        >>> mlc.ensemble_crps_loss(members, target)
        tensor(0.7778)
        >>> mlc.ensemble_crps_loss(members, target, fairness=1.0)
        tensor(0.3333)

    References:
        Gneiting and Raftery, "Strictly proper scoring rules, prediction, and
        estimation" (2007), equation (21). https://doi.org/10.1198/016214506000001437

        Ferro, "Fair scores for ensemble forecasts" (2014), equation (8).
        https://doi.org/10.1002/qj.2270

        Lang et al., "AIFS-CRPS: ensemble forecasting using a model trained with a loss
        function based on the continuous ranked probability score" (2024), equation (4).
        https://arxiv.org/abs/2412.15832
    """
    check_fairness(fairness)
    members, target, member_weight, dtype = prepare_ensemble(
        input, target, weight, reduction, dim, member_weight, validate=validate
    )
    loss = _sum_over_ranks(members, target, member_weight, fairness)
    return reduce(loss, weight, reduction).to(dtype)


class EnsembleCRPSLoss(Loss):
    """Score of an ensemble: the module of :func:`ensemble_crps_loss`."""

    def __init__(
        self,
        reduction: Reduction = "mean",
        fairness: float = 0.0,
        dim: int = -1,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        check_fairness(fairness)
        check_dim(dim)
        is_validated(validate)
        self.fairness, self.dim, self.validate = fairness, dim, validate

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        member_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch; forecasts and members may have weights."""
        return ensemble_crps_loss(
            input,
            target,
            self.reduction,
            self.fairness,
            self.dim,
            member_weight,
            weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, fairness={self.fairness}, dim={self.dim}"


def _sum_over_ranks(
    members: Tensor, target: Tensor, weight: Tensor | None, fairness: float
) -> Tensor:
    """Return the errors of the sorted members times their derivatives, summed.

    The score is homogeneous of degree 1, so this is the score (Euler).

    Args:
        members: Shape ``(*, m)``.
        target: Shape ``(*)``.
        weight: Weights ``(*, m)``, or None.
        fairness: From 0 to 1.

    Returns:
        The score ``(*)``.
    """
    points, order = torch.sort(members)
    error = points - target[..., None]
    m = points.shape[-1]
    if weight is None:
        # Counts, so that their sums are exact up to 2^24 members in float32.
        mass, excess = torch.ones_like(points), excess_of_fair(None, m, fairness)
    else:
        mass, total = weight.gather(-1, order), weight.sum(-1, keepdim=True)
        excess = excess_of_fair(weight / total, m, fairness)
        if isinstance(excess, Tensor):
            excess = excess[..., None]
    below, above = _twice_the_rest(points, mass)
    lean = (above - below) / 2
    slope = torch.where(error < 0, -below, lean)
    slope = torch.where(error > 0, above, slope)
    if fairness:
        slope = slope + excess * lean
    if weight is not None:
        return (error * (mass * slope / total**2)).sum(-1)
    if fairness:
        # A member that the fair score does not depend on may be infinitely far off.
        error = error.masked_fill(slope == 0, 0)
    return (error * (slope / m**2)).sum(-1)


def _twice_the_rest(points: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Return twice the mass below and above each point; what is equal counts half.

    The point itself is among the equal ones. Above is summed from its own end: as the
    difference to the total mass it would have no digits where it is small.

    Args:
        points: Sorted, ``(*, m)``.
        mass: Weight of each.

    Returns:
        Two tensors ``(*, m)``.
    """
    below, above = mass.cumsum(-1), mass.flip(-1).cumsum(-1).flip(-1)
    first, last = _equal_points(points)
    twice_below = (below - mass).gather(-1, first) + below.gather(-1, last)
    twice_above = (above - mass).gather(-1, last) + above.gather(-1, first)
    return twice_below, twice_above


def _equal_points(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places of the first and the last point that are equal to each."""
    differs = points[..., 1:] != points[..., :-1]
    end = torch.ones_like(points[..., :1], dtype=torch.bool)
    m = points.shape[-1]
    place = torch.arange(m, device=points.device).expand_as(points)
    first = torch.where(torch.cat([end, differs], -1), place, 0).cummax(-1).values
    last = torch.where(torch.cat([differs, end], -1), place, m).flip(-1)
    return first, last.cummin(-1).values.flip(-1)
