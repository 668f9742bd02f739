"""Whether losses look at the values they are given: one setting, stated here.

Shapes, dtypes and settings are always checked. Values are not unless asked for, since
one comparison whose result the host needs stalls a GPU and breaks a compiled graph.
Every loss that has a range to check takes ``validate``: True or False, or None for the
setting of :func:`set_default_validate`, which is False until it is called.
"""

import torch
from torch import Tensor

_default_validate = False


def set_default_validate(validate: bool) -> None:
    """Set whether losses called with ``validate=None`` check the values they get.

    The setting is the package's own and holds for the process. It does not depend on
    ``python -O``.

    Args:
        validate: Whether to check.

    Raises:
        TypeError: If ``validate`` is no bool.

    Example:
        >>> import torch_mlcalc as mlc
        >>> mlc.set_default_validate(True)
        >>> mlc.set_default_validate(False)
    """
    global _default_validate
    _check_flag(validate)
    _default_validate = validate


def is_validated(validate: bool | None) -> bool:
    """Return whether to check values: ``validate``, or the setting where it is None.

    Args:
        validate: What the caller of the loss asked for.

    Returns:
        Whether values are checked.

    Raises:
        TypeError: If ``validate`` is neither a bool nor None.
    """
    if validate is None:
        return _default_validate
    _check_flag(validate)
    return validate


def check_values(name: str, value: Tensor, valid: Tensor, wanted: str) -> None:
    """Refuse a tensor of which an element is out of range.

    Args:
        name: Name of the argument.
        value: The argument.
        valid: Which of its elements are in range, of the shape of ``value``.
        wanted: What was wanted, as in "must be positive".

    Raises:
        ValueError: If an element is not valid; the first one is named.
    """
    if bool(valid.all()):
        return
    index = tuple(int(i) for i in torch.nonzero(~valid)[0])
    first = value[index].item()
    count = int((~valid).sum())
    where = f" at {list(index)}" if index else ""
    raise ValueError(
        f"{name} {wanted}, got {first}{where} ({count} of {valid.numel()})"
    )


def _check_flag(validate: object) -> None:
    if not isinstance(validate, bool):
        raise TypeError(
            f"validate must be True, False or None, got {type(validate).__name__}"
        )
