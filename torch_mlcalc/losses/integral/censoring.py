"""Survival times as they are observed: what is known of each, and when."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.losses.validation import check_values


class Censoring(IntEnum):
    """What is known of a time to an event, with the codes of ``Surv`` in R.

    True and False of a boolean ``event`` are ``EVENT`` and ``RIGHT``.
    """

    #: It had not happened until ``time``.
    RIGHT = 0
    #: It happened at ``time``.
    EVENT = 1
    #: It happened before ``time``.
    LEFT = 2
    #: It happened between ``time`` and ``upper``.
    INTERVAL = 3


class Subjects(NamedTuple):
    """Times in the dtype to compute in, and what is known of each."""

    entry: Tensor
    time: Tensor
    upper: Tensor
    event: Tensor
    left: Tensor
    interval: Tensor
    coded: bool

    @property
    def beyond(self) -> Tensor:
        """A time after ``entry``, where nothing can go wrong with the hazard."""
        later = torch.where(self.time > self.entry, self.time, self.entry + 1)
        return later.detach()


def prepare_subjects(
    time: Tensor,
    event: Tensor,
    upper: Tensor | None,
    entry: Tensor | None,
    weight: Tensor | None,
    reduction: Reduction,
) -> tuple[Subjects, torch.dtype]:
    """Check and promote what the loss is called with; also the dtype of the result."""
    times = {"time": time, "entry": entry, "upper": upper}
    given = {name: value for name, value in times.items() if value is not None}
    promoted, dtype = prepare_all(given, weight, reduction)
    known = dict(zip(given, promoted, strict=True))
    if not isinstance(event, Tensor):
        raise TypeError(
            f"event must be a torch.Tensor, got {type(event).__name__}; convert with "
            "torch.as_tensor"
        )
    if event.is_floating_point() or event.is_complex():
        raise TypeError(
            f"event must hold booleans or the integer codes of Censoring, got "
            f"{event.dtype}; convert with .bool()"
        )
    if event.shape != time.shape:
        raise ValueError(
            f"event must have the shape of time, {tuple(time.shape)}, got "
            f"{tuple(event.shape)}"
        )
    start = known["time"]
    zero = torch.zeros_like(start)
    # As numbers: the compiler would compare a tensor with a member of an enumeration
    # by identity.
    coded = event.dtype != torch.bool
    end = known.get("upper", torch.full_like(start, math.inf))
    subjects = Subjects(
        known.get("entry", zero),
        start,
        end,
        event == Censoring.EVENT.value,
        event == Censoring.LEFT.value,
        (event == Censoring.INTERVAL.value) & (end < math.inf),
        coded,
    )
    return subjects, dtype


def check_subjects(
    subjects: Subjects,
    time: Tensor,
    event: Tensor,
    upper: Tensor | None,
    entry: Tensor | None,
) -> None:
    """Refuse times out of order, and codes that do not exist."""
    check_values("time", time, time.isfinite() & (time >= 0), "must be finite and >= 0")
    if entry is not None:
        check_values("entry", entry, entry >= 0, "must not be negative")
    ordered = subjects.entry <= subjects.time
    check_values("time", time, ordered, "must not be before entry")
    codes = event.to(torch.int64)
    valid = (codes >= Censoring.RIGHT) & (codes <= Censoring.INTERVAL)
    check_values("event", codes, valid, "must be a code of Censoring, from 0 to 3")
    between = codes == Censoring.INTERVAL
    if upper is not None:
        after = (subjects.upper > subjects.time) | ~between
        check_values("upper", upper, after, "must be after time")
    else:
        check_values("event", codes, ~between, "needs upper for Censoring.INTERVAL")
