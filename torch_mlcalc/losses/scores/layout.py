"""How ensembles are laid out: which axis holds the members, checked for every score."""

from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

from torch_mlcalc.losses.reduction import Reduction, prepare_all
from torch_mlcalc.losses.validation import check_values, is_validated


class Ensemble(NamedTuple):
    """An ensemble in the layout and the dtype to compute in.

    ``members`` is ``(*, m)``, or ``(*, m, d)`` where a forecast is a vector;
    ``target`` is the same without ``m``; ``member_weight`` is ``(*, m)`` or None.
    """

    members: Tensor
    target: Tensor
    member_weight: Tensor | None
    dtype: torch.dtype


def prepare_ensemble(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    dim: int,
    member_weight: Tensor | None,
    *,
    vector: bool = False,
    validate: bool | None = None,
) -> Ensemble:
    """Check what a score of an ensemble is called with, and lay it out.

    Args:
        input: Members, along ``dim``.
        target: Observations, of the shape of ``input`` without ``dim``.
        weight: Weight of each forecast, or None.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        dim: Axis of ``input`` that holds the members.
        member_weight: Weights of the members, or None.
        vector: Whether the last axis of ``target`` holds the parts of a vector.
        validate: Whether to check the values of ``member_weight``.

    Returns:
        The ensemble, and the dtype of the result.

    Raises:
        TypeError: If an argument is no tensor or holds numbers of the wrong kind.
        ValueError: If shapes do not fit, ``dim`` is not there, or there are no members.
    """
    checks_values = is_validated(validate)
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        prepare_all({"input": input, "target": target}, None, reduction)
    axis = _axis(input, dim, vector)
    expected = input.shape[:axis] + input.shape[axis + 1 :]
    if target.shape != expected:
        raise ValueError(
            f"target must have the shape of input without its axis {dim}, which holds "
            f"the members, {tuple(expected)}, got {tuple(target.shape)}; losses do not "
            "broadcast: say what is meant with unsqueeze, squeeze or expand_as"
        )
    if input.shape[axis] == 0 or (vector and expected[-1] == 0):
        what = "member along dim" if input.shape[axis] == 0 else "part of each vector"
        raise ValueError(
            f"input must have at least one {what}, got the shape {tuple(input.shape)}"
        )
    one = input.select(axis, 0)
    observed, forecast = (
        (target.select(-1, 0), one.select(-1, 0)) if vector else (target, one)
    )
    # Looked at for their shapes and dtypes alone.
    (example, _), dtype = prepare_all(
        {"target": observed, "input": forecast}, weight, reduction
    )
    members = input.movedim(axis, -2 if vector else -1).to(example.dtype)
    if member_weight is not None:
        wanted = members.shape[: -1 if vector else None]
        kept = min(axis, len(wanted) - 1)  # the weights have no axis of parts
        member_weight = _member_weight(member_weight, wanted, kept, checks_values)
        dtype = torch.promote_types(dtype, member_weight.dtype)
        member_weight = member_weight.to(example.dtype)
    return Ensemble(members, target.to(example.dtype), member_weight, dtype)


def excess_of_fair(
    member_weight: Tensor | None, members: int, fairness: float
) -> Tensor | float:
    r"""How much more than its share in the ensemble the spread counts.

    The spread of an ensemble leaves the pairs of a member with itself out of the count
    if it is to be that of the distribution the members were drawn from:

    .. math:: f \Big(\frac{1}{1 - \sum_i w_i^2} - 1\Big) = \frac{f}{m - 1}

    the latter for equal weights, which add up to 1.

    Args:
        member_weight: Weights ``(*, m)`` that add up to 1, or None if they are equal.
        members: How many there are.
        fairness: How much of the correction to make, 0 to 1.

    Returns:
        A tensor ``(*)``, or a number without weights.

    Raises:
        ValueError: If one member alone is to be corrected.
    """
    if not fairness:
        return 0.0
    if members < 2:
        raise ValueError(
            f"input must have at least 2 members for fairness={fairness}, got "
            f"{members}; a single one has no spread to correct: use fairness=0"
        )
    if member_weight is None:
        return fairness / (members - 1)
    squares = member_weight.square().sum(-1)
    return fairness * squares / (1 - squares)


def check_fairness(fairness: float) -> None:
    """Refuse a fairness that is not between 0 and 1.

    Args:
        fairness: The caller's choice.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.
    """
    check_number("fairness", fairness)
    if not 0 <= fairness <= 1:
        raise ValueError(f"fairness must be between 0 and 1, got {fairness}")


def check_dim(dim: int) -> None:
    """Refuse an axis that is no integer.

    Args:
        dim: The caller's choice.

    Raises:
        TypeError: If it is no integer.
    """
    if not isinstance(dim, int) or isinstance(dim, bool):
        raise TypeError(f"dim must be an integer, got {type(dim).__name__}")


def check_number(name: str, value: object) -> None:
    """Refuse a setting that is no number.

    Args:
        name: Its name.
        value: The caller's choice.

    Raises:
        TypeError: If it is no number.
    """
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")


def _axis(input: Tensor, dim: int, vector: bool) -> int:
    check_dim(dim)
    least = 2 if vector else 1
    if input.ndim < least:
        raise ValueError(
            f"input must have {least} axes at least, one for the members"
            f"{' and one for the parts of each vector' if vector else ''}, got the "
            f"shape {tuple(input.shape)}"
        )
    if not -input.ndim <= dim < input.ndim:
        raise ValueError(
            f"dim must be an axis of input, which has {input.ndim}, got {dim}"
        )
    return dim % input.ndim


def _member_weight(
    member_weight: Tensor, wanted: torch.Size, axis: int, checks_values: bool
) -> Tensor:
    """Return weights ``(*, m)`` in the layout of the members."""
    if not isinstance(member_weight, Tensor):
        raise TypeError(
            f"member_weight must be a torch.Tensor, got {type(member_weight).__name__};"
            " convert with torch.as_tensor"
        )
    if member_weight.is_complex():
        raise TypeError(f"member_weight must be real, got {member_weight.dtype}")
    given = member_weight
    if member_weight.ndim > 1 and member_weight.ndim == len(wanted):
        member_weight = member_weight.movedim(axis, -1)
    if member_weight.shape not in (wanted, wanted[-1:]):
        raise ValueError(
            f"member_weight must have the shape ({wanted[-1]},), or a weight for each "
            f"member of each forecast in the layout of input, got {tuple(given.shape)}"
        )
    if checks_values:
        check_values(
            "member_weight", given, (given >= 0) & given.isfinite(), _NOT_NEGATIVE
        )
        total = member_weight.sum(-1)
        check_values(
            "the sum of member_weight over the members",
            total,
            total > 0,
            "must be positive",
        )
    return member_weight.expand(wanted)


_NOT_NEGATIVE = "must be finite and not negative"
