"""Energy score of an ensemble of vectors."""

import torch
from torch import Tensor

from torch_mlcalc.losses.blocks import Term, sum_over_blocks
from torch_mlcalc.losses.reduction import Loss, Reduction, reduce
from torch_mlcalc.losses.scores.layout import (
    check_dim,
    check_fairness,
    check_number,
    excess_of_fair,
    prepare_ensemble,
)
from torch_mlcalc.losses.validation import is_validated


def energy_score_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    beta: float = 1.0,
    fairness: float = 0.0,
    dim: int = -2,
    member_weight: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Energy score of an ensemble of vectors, the CRPS in several dimensions.

    For members :math:`x_i` with weights :math:`w_i` that add up to 1 (by default
    :math:`1/m`), the observation :math:`y` and the fairness :math:`f`

    .. math::
        \ell = \sum_i w_i \|x_i - y\|^\beta
        - \frac{1}{2} \Big(1 - f + \frac{f}{1 - \sum_i w_i^2}\Big)
        \sum_{i, j} w_i w_j \|x_i - x_j\|^\beta

    with the derivative :math:`\beta\, r \|r\|^{\beta - 2}` of :math:`\|r\|^\beta` and
    the second :math:`\beta \|r\|^{\beta - 2} (1 + (\beta - 2)\, r r^T / \|r\|^2)`, both
    0 where :math:`r = 0`. For vectors of one part and :math:`\beta = 1` it is
    :func:`ensemble_crps_loss`, which is faster.

    The pairs are formed block by block, and again in the backward pass, so that the
    memory is that of ``input`` or of a few blocks of 4 MiB (in ``float32``), whatever
    is more; the time is :math:`O(m^2 d)`. Under ``torch.compile`` all pairs may be
    held. Distances below about :math:`10^{-19}` of the largest error count as 0 in
    ``float32``. An infinite member gives NaN; an infinite observation an infinite
    score, whose slopes may be NaN.

    Args:
        input: Members.
        target: Observations.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        beta: Exponent of the distance, more than 0 and less than 2.
        fairness: How far the spread is corrected for the finite ensemble, 0 to 1, as in
            :func:`ensemble_crps_loss`.
        dim: Axis of ``input`` that holds the members.
        member_weight: Weight of each member; they are divided by their sum.
        weight: Weight of each forecast; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that no ``member_weight`` is negative and that their
            sums are positive; None for what :func:`set_default_validate` has set.

    Shape:
        ``input``: ``(*, m, d)``, or with :math:`m` wherever ``dim`` says; ``target``:
        ``(*, d)``; ``weight``: ``(*)``; ``member_weight``: ``(m,)`` or ``(*, m)``, the
        latter in the layout of ``input``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is of the wrong type.
        ValueError: If the shapes do not fit, ``beta`` or ``fairness`` is out of range,
            or ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> members = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]])
        >>> mlc.energy_score_loss(members, torch.zeros(2))
        tensor(0.5556)

    References:
        Gneiting and Raftery, "Strictly proper scoring rules, prediction, and
        estimation" (2007), equation (22). https://doi.org/10.1198/016214506000001437
    """
    _check_beta(beta)
    check_fairness(fairness)
    x, y, member_weight, dtype = prepare_ensemble(
        input,
        target,
        weight,
        reduction,
        dim,
        member_weight,
        vector=True,
        validate=validate,
    )
    m = x.shape[-2]
    if member_weight is None:
        share, excess = x.new_full((m,), 1 / m), excess_of_fair(None, m, fairness)
    else:
        share = member_weight / member_weight.sum(-1, keepdim=True)
        excess = excess_of_fair(share, m, fairness)
    # A power of the unit is a factor of the score, so that no square overflows.
    unit = (x - y[..., None, :]).detach().abs().amax((-2, -1))
    unit = torch.where((unit > 0) & unit.isfinite(), unit, 1)
    x, y = x / unit[..., None, None], y / unit[..., None]
    error = (share * _distance(x - y[..., None, :], beta)).sum(-1)
    pairs = sum_over_blocks(_pairs(beta), m, x.numel(), x, share)
    loss = unit**beta * (error - (1 + excess) * pairs)
    return reduce(loss, weight, reduction).to(dtype)


class EnergyScoreLoss(Loss):
    """Score of an ensemble of vectors: the module of :func:`energy_score_loss`."""

    def __init__(
        self,
        reduction: Reduction = "mean",
        beta: float = 1.0,
        fairness: float = 0.0,
        dim: int = -2,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_beta(beta)
        check_fairness(fairness)
        check_dim(dim)
        is_validated(validate)
        self.beta, self.fairness = beta, fairness
        self.dim, self.validate = dim, validate

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        member_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch; forecasts and members may have weights."""
        return energy_score_loss(
            input,
            target,
            self.reduction,
            self.beta,
            self.fairness,
            self.dim,
            member_weight,
            weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return (
            f"{super().extra_repr()}, beta={self.beta}, fairness={self.fairness}, "
            f"dim={self.dim}"
        )


def _distance(difference: Tensor, beta: float) -> Tensor:
    """Return the norm of the last axis to a power; at 0 all derivatives are 0."""
    square = difference.square().sum(-1)
    # Of NaN it is NaN.
    apart = square != 0
    return torch.where(apart, torch.where(apart, square, 1) ** (beta / 2), 0)


def _pairs(beta: float) -> Term:
    """Return the term of the sum over pairs, of each of them once."""

    def term(begin: int, end: int, x: Tensor, share: Tensor) -> tuple[Tensor]:
        # A block of members with itself, where each pair is met twice, and with those
        # after it.
        block, others = x[..., begin:end, None, :], x[..., None, begin:, :]
        distance = _distance(block - others, beta)
        count = torch.ones_like(distance[..., 0, :])
        count[..., : end - begin] = 0.5
        inner = (distance * (count * share[..., begin:])[..., None, :]).sum(-1)
        return ((share[..., begin:end] * inner).sum(-1),)

    return term


def _check_beta(beta: float) -> None:
    check_number("beta", beta)
    if not 0 < beta < 2:
        raise ValueError(
            f"beta must be more than 0 and less than 2, got {beta}; from 2 on other "
            "forecasts than the right one are best as well"
        )
