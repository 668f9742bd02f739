r"""Partial likelihood of Cox's proportional hazards model, in O(n log n).

The risk set of an event holds who has entered before and not left before it: an
interval of the subjects in the order of their times. A segment tree over that order has
a node for each dyadic interval. Each subject adds its risk to the at most two nodes of
a level that make up the events it is at risk for, and the sum over a risk set is that
of the nodes above its event. So nothing is ever subtracted, as it would be from running
sums, and each node has a scale of its own: log risks of 1e4 beside -1e4 keep their
digits, with late entry and in strata alike.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.losses.likelihood.checks import (
    check_finite,
    check_flag,
    check_tensor,
)
from torch_mlcalc.losses.reduction import Loss, Reduction, prepare_all
from torch_mlcalc.losses.validation import check_values, is_validated


def cox_nll_loss(
    input: Tensor,
    time: Tensor,
    event: Tensor,
    *,
    entry: Tensor | None = None,
    strata: Tensor | None = None,
    efron: bool = True,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    validate: bool | None = None,
) -> Tensor:
    r"""Negative logarithm of Cox's partial likelihood.

    Each event at a time :math:`t` is compared with the risk set :math:`R(t)` of those
    who have entered before :math:`t` and have not left before it. Of the :math:`d`
    events :math:`D` at one time, in Efron's approximation for ties, the
    :math:`l`-th, :math:`l = 0, \dots, d - 1`, has the loss

    .. math::
        \ell = -\eta + \log \Bigl(\sum_{j \in R(t)} e^{\eta_j}
            - \frac ld \sum_{j \in D} e^{\eta_j}\Bigr)

    and in Breslow's, with ``efron=False``, that of :math:`l = 0`. The derivative by
    :math:`\eta_i` is minus 1 for the event itself, plus the share of :math:`i` in the
    sum for each of the sums it is part of. Who has no event has no loss, only a part
    in those of others.

    The whole takes :math:`O(n \log n)`, also with ``entry`` and ``strata``, and log
    risks may be as large as they like. Without events the loss is 0, and so is its
    gradient. A time, event, entry or stratum that is NaN has no place in the order, and
    makes the loss NaN.

    Args:
        input: Predicted logarithms :math:`\eta` of the relative risks.
        time: Times of the event or of the end of observation, of any real dtype; they
            are compared in it, and never rounded.
        event: 1 or True for an event, 0 or False for the end of observation.
        entry: Times from which subjects are under observation, exclusive; None for
            ever.
        strata: Numbers of the groups that have a baseline hazard of their own each.
        efron: Whether ties are treated as Efron's approximation does, or Breslow's.
        reduction: ``"none"`` for the loss of each event in its place, ``"sum"``, or
            ``"mean"`` over the events.
        weight: Case weight of each subject. It multiplies the loss of an event and the
            risk in the sums, so that with Breslow's ties a weight of 2 is a subject
            that is there twice; the events at one time share their mean weight in
            Efron's. ``"mean"`` divides by the sum of the weights of the events.
        validate: Whether to check that log risks and times are finite, events 0 or 1,
            and entries before the times; None for the setting of
            :func:`set_default_validate`.

    Shape:
        ``input`` and all others: ``(n,)``.

    Returns:
        The loss, of shape ``()``, or ``(n,)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type, complex, or ``input`` is not
            floating-point.
        ValueError: If the shapes differ or are not one-dimensional, ``reduction`` is
            none of the three, or a checked value is out of range.

    Example:
        >>> import torch_mlcalc as mlc
        >>> log_risk = torch.tensor([0.0, 1e4, -1e4], requires_grad=True)
        >>> time, event = torch.tensor([3, 2, 1]), torch.tensor([True, True, False])
        >>> loss = mlc.cox_nll_loss(log_risk, time, event, reduction="sum")
        >>> loss
        tensor(0., grad_fn=<SumBackward0>)

    References:
        Cox, "Partial likelihood" (1975). https://doi.org/10.1093/biomet/62.2.269
        Efron, "The efficiency of Cox's likelihood function for censored data" (1977).
        https://doi.org/10.1080/01621459.1977.10480613
        Therneau and Grambsch, "Modeling Survival Data" (2000), sections 3.3 and 3.7,
        for ties and weights.
    """
    check_flag("efron", efron)
    given = {"time": time, "event": event, "entry": entry, "strata": strata}
    columns = {name: value for name, value in given.items() if value is not None}
    _check_columns(input, columns)
    (log_risk,), dtype = prepare_all({"input": input}, weight, reduction)
    if is_validated(validate):
        _check_values(log_risk, time, event, entry)
    weights = torch.ones_like(log_risk) if weight is None else weight.to(log_risk.dtype)
    is_event = event != 0
    sets = _risk_sets(time.detach(), entry, strata)
    loss = _losses(log_risk, weights, is_event, sets, efron, reduction == "none")
    loss = loss * _known(columns, loss)
    if reduction != "none":
        loss = loss.sum()
    if reduction == "mean":
        total = torch.where(is_event, weights, 0).sum()
        loss = loss / torch.where(total == 0, 1, total)
    return loss.to(dtype)


class CoxNLLLoss(Loss):
    """Cox's partial likelihood: the module of :func:`cox_nll_loss`."""

    def __init__(
        self,
        *,
        efron: bool = True,
        reduction: Reduction = "mean",
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(reduction)
        check_flag("efron", efron)
        is_validated(validate)
        self.efron, self.validate = efron, validate

    def forward(
        self,
        input: Tensor,
        time: Tensor,
        event: Tensor,
        entry: Tensor | None = None,
        strata: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of subjects, who may have a case weight each."""
        return cox_nll_loss(
            input,
            time,
            event,
            entry=entry,
            strata=strata,
            efron=self.efron,
            reduction=self.reduction,
            weight=weight,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"efron={self.efron}, {super().extra_repr()}"


class _RiskSets(NamedTuple):
    """Who is at risk for which events, by places in the order of strata and times."""

    order: Tensor  # subjects by place
    first: Tensor  # first place of each place's stratum and time
    lower: Tensor  # of each subject: the places it is at risk for
    upper: Tensor


class _Sums(NamedTuple):
    """Sums of risks as ``total * exp(largest)``; the largest has no gradient."""

    largest: Tensor
    total: Tensor


def _risk_sets(time: Tensor, entry: Tensor | None, strata: Tensor | None) -> _RiskSets:
    dtype = time.dtype
    if entry is not None:
        dtype = torch.promote_types(dtype, entry.dtype)
    times = time.to(dtype).sort().values
    rank = torch.searchsorted(times, time.to(dtype).contiguous())
    stratum = torch.zeros_like(rank)
    if strata is not None:
        # Of booleans torch has no searchsorted.
        strata = strata.detach().to(torch.promote_types(strata.dtype, torch.uint8))
        strata = strata.contiguous()
        stratum = torch.searchsorted(strata.sort().values, strata)
    # One number that orders by stratum, then by time; ties have the same.
    base = stratum * (len(time) + 1)
    keys, order = (base + rank).sort()
    start = base
    if entry is not None:
        entered = entry.detach().to(dtype).contiguous()
        start = base + torch.searchsorted(times, entered, right=True)
    return _RiskSets(
        order,
        torch.searchsorted(keys, keys),
        torch.searchsorted(keys, start),
        torch.searchsorted(keys, base + rank, right=True),
    )


def _losses(
    log_risk: Tensor,
    weight: Tensor,
    is_event: Tensor,
    sets: _RiskSets,
    efron: bool,
    alone: bool,
) -> Tensor:
    """Return the loss of each subject, or one that has the same sum."""
    at_risk = _sums_at_risk(log_risk, weight, sets)
    eta, w, happens = (each[sets.order] for each in (log_risk, weight, is_event))
    total, mean_weight = at_risk.total, w
    if efron:
        number = torch.zeros_like(w).index_add(0, sets.first, happens.to(w.dtype))
        number = number[sets.first].clamp(min=1)
        before = happens.cumsum(0) - happens.long()
        share = (before - before[sets.first]) / number
        died = torch.where(happens, w, 0)
        tied = _scaled_sums(eta, died, happens, sets.first, len(eta))
        scale = (tied.largest[sets.first] - at_risk.largest).clamp(max=0).exp()
        total = total - share * tied.total[sets.first] * scale
        mean_weight = torch.zeros_like(w).index_add(0, sets.first, died)[sets.first]
        mean_weight = mean_weight / number
    # A total of NaN counts, and makes the loss NaN.
    counts = happens & ~(total <= 0)
    log_sum = torch.where(counts, total, 1).log()
    # Of events at one time these weights sum to 0, so that in a sum a number that all
    # have may be taken away; what is left of a large one would be its rounding.
    place = eta if alone else eta - at_risk.largest
    loss = mean_weight * (log_sum + (at_risk.largest - eta)) + (mean_weight - w) * place
    loss = torch.where(counts, loss, 0)
    return loss[sets.order.argsort()]


def _sums_at_risk(log_risk: Tensor, weight: Tensor, sets: _RiskSets) -> _Sums:
    """Return the sum over the risk set of each place."""
    n = len(log_risk)
    levels = max(n - 1, 0).bit_length()
    nodes, subjects = _covering_nodes(sets.lower, sets.upper, levels)
    node_sums = _scaled_sums(
        log_risk[subjects], weight[subjects], nodes > 0, nodes, 2 << levels
    )
    # From the root down, each node takes over the sum of those above it.
    largest, total = (each[1:2] for each in node_sums)
    for level in range(1, levels + 1):
        own = [each[1 << level : 2 << level] for each in node_sums]
        above = [each.repeat_interleave(2) for each in (largest, total)]
        largest = torch.maximum(own[0], above[0])
        total = own[1] * (own[0] - largest).exp()
        total = total + above[1] * (above[0] - largest).exp()
    return _Sums(largest[:n], total[:n])


def _covering_nodes(lower: Tensor, upper: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Return the nodes that make up the interval of each subject, and the subjects.

    Node 1 is the root, ``2 i`` and ``2 i + 1`` are below ``i``, and places are the
    nodes from ``2 ** levels`` on; node 0 is nobody's.
    """
    left, right = lower + (1 << levels), upper + (1 << levels)
    found = []
    for _ in range(levels + 1):
        takes = (left < right) & (left % 2 == 1)
        found.append(torch.where(takes, left, 0))
        left = left + takes.long()
        takes = (left < right) & (right % 2 == 1)
        right = right - takes.long()
        found.append(torch.where(takes, right, 0))
        left, right = left // 2, right // 2
    nodes = torch.stack(found)
    subjects = torch.arange(nodes.shape[1], device=nodes.device).expand_as(nodes)
    if torch.compiler.is_compiling():
        # Shapes must not depend on values there; some three quarters are node 0.
        return nodes.flatten(), subjects.flatten()
    return nodes[nodes > 0], subjects[nodes > 0]


def _scaled_sums(
    log_risk: Tensor, weight: Tensor, counts: Tensor, group: Tensor, n_groups: int
) -> _Sums:
    """Return the sums of ``weight * exp(log_risk)`` where ``counts``, by groups."""
    lowest = torch.finfo(log_risk.dtype).min
    values = torch.where(counts, log_risk.detach(), lowest)
    largest = values.new_full((n_groups,), lowest).scatter_reduce(
        0, group, values, "amax"
    )
    # What does not count is put at the largest, so that its risk cannot overflow.
    scaled = torch.where(counts, log_risk - largest[group], 0).exp()
    risks = torch.where(counts, weight, 0) * scaled
    return _Sums(largest, torch.zeros_like(largest).index_add(0, group, risks))


def _known(columns: dict[str, Tensor], like: Tensor) -> Tensor:
    """Return 1, or NaN where one is that a sort would give a place to all the same."""
    missing = [x.isnan().any() for x in columns.values() if x.is_floating_point()]
    known = like.new_ones(())
    return known.masked_fill(torch.stack(missing).any(), math.nan) if missing else known


def _check_columns(input: Tensor, columns: dict[str, Tensor]) -> None:
    for name, value in {"input": input, **columns}.items():
        check_tensor(name, value)
        if value.dim() != 1:
            raise ValueError(
                f"{name} must have one dimension, that of the subjects, got "
                f"{tuple(value.shape)}"
            )
        if value.shape != input.shape:
            raise ValueError(
                f"{name} must have the shape of input, {tuple(input.shape)}, got "
                f"{tuple(value.shape)}"
            )
        if value.is_complex():
            raise TypeError(f"{name} must be real, got {value.dtype}")


def _check_values(
    log_risk: Tensor, time: Tensor, event: Tensor, entry: Tensor | None
) -> None:
    check_finite("input", log_risk)
    check_finite("time", time)
    check_values("event", event, (event == 0) | (event == 1), "must be 0 or 1")
    if entry is not None:
        check_values("entry", entry, entry < time, "must be before time")
