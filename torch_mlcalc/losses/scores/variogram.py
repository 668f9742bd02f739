"""Variogram score of an ensemble of vectors."""

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


def variogram_score_loss(
    input: Tensor,
    target: Tensor,
    reduction: Reduction = "mean",
    p: float = 0.5,
    fairness: float = 0.0,
    dim: int = -2,
    pair_weight: Tensor | None = None,
    member_weight: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Variogram score of an ensemble of vectors, which sees how their parts correlate.

    For members :math:`x_k` with weights :math:`w_k` that add up to 1 (by default
    :math:`1/m`), the observation :math:`y` and weights :math:`h_{ij}` of the pairs of
    parts (by default 1)

    .. math::
        \ell = \sum_{i, j} h_{ij} \big( |y_i - y_j|^p - v_{ij} \big)^2,
        \qquad v_{ij} = \sum_k w_k |x_{ki} - x_{kj}|^p

    With the fairness :math:`f` the variance of the finite ensemble is taken off,

    .. math::
        - f \sum_{i, j} h_{ij}\, \frac{\sum_k w_k^2}{1 - \sum_k w_k^2}
        \sum_k w_k \big( |x_{ki} - x_{kj}|^p - v_{ij} \big)^2

    and for :math:`f = 1` the mean score is that of the distribution which the members
    were drawn from. The derivative of :math:`|r|^p` is
    :math:`p |r|^{p - 1} \operatorname{sign} r`, and the second
    :math:`p (p - 1) |r|^{p - 2}`; where :math:`r = 0` and they are infinite, 0 takes
    their place.

    The pairs are formed block by block, and again in the backward pass, so that the
    memory is that of ``input`` or of a few blocks of 4 MiB (in ``float32``), whatever
    is more; the time is :math:`O(m d^2)`. Under ``torch.compile`` all pairs may be
    held. An infinite member gives NaN; an infinite part of an observation an infinite
    score, whose slopes are infinite or NaN, and several of one sign give NaN.

    Args:
        input: Members.
        target: Observations.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        p: Exponent of the differences, positive.
        fairness: How far the variance of the finite ensemble is taken off, 0 to 1.
        dim: Axis of ``input`` that holds the members.
        pair_weight: Weight of each pair of parts.
        member_weight: Weight of each member; they are divided by their sum.
        weight: Weight of each forecast; ``"mean"`` divides by the sum of the weights.
        validate: Whether to check that no ``member_weight`` is negative and that their
            sums are positive; None for what :func:`set_default_validate` has set.

    Shape:
        ``input``: ``(*, m, d)``, or with :math:`m` wherever ``dim`` says; ``target``:
        ``(*, d)``; ``weight``: ``(*)``; ``pair_weight``: ``(d, d)``; ``member_weight``:
        ``(m,)`` or ``(*, m)``, the latter in the layout of ``input``.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor, complex, or none is floating-point, or a
            setting is of the wrong type.
        ValueError: If the shapes do not fit, ``p`` or ``fairness`` is out of range, or
            ``reduction`` is none of the three.

    Example:
        >>> import torch_mlcalc as mlc
        >>> members = torch.tensor([[0.0, 1.0], [4.0, 0.0]])
        >>> mlc.variogram_score_loss(members, torch.zeros(2))
        tensor(4.5000)

    References:
        Scheuerer and Hamill, "Variogram-based proper scoring rules for probabilistic
        forecasts of multivariate quantities" (2015), equation (6).
        https://doi.org/10.1175/MWR-D-14-00269.1
    """
    _check_p(p)
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
    m, d = x.shape[-2:]
    if member_weight is None:
        share = x.new_full((m,), 1 / m)
        more = excess_of_fair(None, m, fairness)
    else:
        share = member_weight / member_weight.sum(-1, keepdim=True)
        more = excess_of_fair(share, m, fairness)
    excess = x.new_zeros(()) + more
    tensors = [x, y, share, excess]
    if pair_weight is not None:
        tensors.append(_pair_weight(pair_weight, d, x.dtype))
    loss = sum_over_blocks(_pairs(p, fairness), d, x.numel(), *tensors)
    return reduce(loss, weight, reduction).to(dtype)


class VariogramScoreLoss(Loss):
    """Score of an ensemble of vectors: the module of :func:`variogram_score_loss`.

    ``pair_weight`` is a buffer, which ``.to()`` moves and ``state_dict`` holds.
    """

    pair_weight: Tensor | None

    def __init__(
        self,
        reduction: Reduction = "mean",
        p: float = 0.5,
        fairness: float = 0.0,
        dim: int = -2,
        pair_weight: Tensor | None = None,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        _check_p(p)
        check_fairness(fairness)
        check_dim(dim)
        is_validated(validate)
        if pair_weight is not None:
            pair_weight = _pair_weight(pair_weight, None, pair_weight.dtype)
        self.p, self.fairness = p, fairness
        self.dim, self.validate = dim, validate
        self.register_buffer("pair_weight", pair_weight)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        member_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of a batch; forecasts and members may have weights."""
        return variogram_score_loss(
            input,
            target,
            self.reduction,
            self.p,
            self.fairness,
            self.dim,
            self.pair_weight,
            member_weight,
            weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        pairs = self.pair_weight
        shown = "" if pairs is None else f", pair_weight={tuple(pairs.shape)}"
        return (
            f"{super().extra_repr()}, p={self.p}, fairness={self.fairness}, "
            f"dim={self.dim}{shown}"
        )


def _variogram(values: Tensor, p: float, begin: int, end: int) -> Tensor:
    """Return powers of the differences between a block of parts and all from it on."""
    difference = values[..., begin:end, None] - values[..., None, begin:]
    if p == 2:
        return difference.square()
    size = difference.abs()
    # Of NaN it is NaN.
    apart = size != 0
    return torch.where(apart, torch.where(apart, size, 1) ** p, 0)


def _pairs(p: float, fairness: float) -> Term:
    """Return the term of the sum over pairs of parts, whose two orders are one."""

    def term(
        begin: int,
        end: int,
        x: Tensor,
        y: Tensor,
        share: Tensor,
        excess: Tensor,
        pairs: Tensor | None = None,
    ) -> tuple[Tensor]:
        members, share = _variogram(x, p, begin, end), share[..., None, None]
        mean = (share * members).sum(-3)
        seen = _variogram(y, p, begin, end)
        # A part does not differ from itself, be it infinite.
        same = torch.eye(*seen.shape[-2:], dtype=torch.bool, device=seen.device)
        loss = (seen.masked_fill(same, 0) - mean).square()
        if fairness:
            spread = (share * (members - mean[..., None, :, :]).square()).sum(-3)
            loss = loss - excess[..., None, None] * spread
        if pairs is None:
            pairs = x.new_ones((x.shape[-1],) * 2)
        # Pairs within the block are met in both orders.
        within = pairs[begin:end, begin:end]
        beyond = pairs[begin:end, end:] + pairs[end:, begin:end].mT
        return ((torch.cat([within, beyond], -1) * loss).sum((-2, -1)),)

    return term


def _check_p(p: float) -> None:
    check_number("p", p)
    if not 0 < p < float("inf"):
        raise ValueError(f"p must be positive and finite, got {p}")


def _pair_weight(pair_weight: Tensor, d: int | None, dtype: torch.dtype) -> Tensor:
    if not isinstance(pair_weight, Tensor):
        raise TypeError(
            f"pair_weight must be a torch.Tensor, got {type(pair_weight).__name__}"
        )
    shape = tuple(pair_weight.shape)
    if len(shape) != 2 or shape[0] != shape[1] or d not in (None, shape[0]):
        wanted = "square" if d is None else f"of the shape ({d}, {d})"
        raise ValueError(f"pair_weight must be {wanted}, got the shape {shape}")
    return pair_weight.to(dtype)
