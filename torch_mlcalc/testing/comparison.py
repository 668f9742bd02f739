"""One comparison and one error message for every check."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class GradientCheckError(AssertionError):
    """A check of :func:`check_gradients` failed.

    The message says which check, which element of which input or parameter, which two
    numbers, and how far apart they may be.
    """


class Bound(NamedTuple):
    """How far apart two tensors may be, element by element, and by which rule."""

    allowed: Tensor
    rule: str


def within(expected: Tensor, *, atol: float, rtol: float) -> Bound:
    """Return the bound of :func:`torch.allclose`."""
    return Bound(
        atol + rtol * expected.abs(), f"atol={atol:.3g} + rtol={rtol:.3g} * |second|"
    )


def compare(
    check: str,
    actual: tuple[str, Tensor],
    expected: tuple[str, Tensor],
    bound: Bound,
    describe: Callable[[tuple[int, ...]], str],
    hint: str = "",
) -> None:
    """Refuse two tensors that differ by more than a bound.

    Args:
        check: Name of the check.
        actual: Where the first tensor comes from, and the tensor.
        expected: Where the second comes from, and the tensor.
        bound: How far apart they may be.
        describe: Names the element at an index.
        hint: What to look at, if the check knows.

    Raises:
        GradientCheckError: If an element differs by more; shown is the worst one.
    """
    (source, first), (reference, second) = actual, expected
    error = (first - second).abs()
    # Equal infinities agree although their difference is NaN, and so do two NaNs.
    agree = (first == second) | (first.isnan() & second.isnan())
    wrong = ~agree & ~(error <= bound.allowed)
    if not wrong.any():
        return
    excess = torch.where(wrong, error / bound.allowed, -1.0).nan_to_num(math.inf)
    worst = torch.unravel_index(excess.argmax(), excess.shape)
    index = tuple(int(i) for i in worst)
    a, b = first[index].item() + 0.0, second[index].item() + 0.0  # no negative zeros
    raise GradientCheckError(
        f"{check} failed: {describe(index)} is {a:.9g} by {source} but {b:.9g} by "
        f"{reference}. They differ by {error[index].item():.3g}, allowed is "
        f"{bound.allowed[index].item():.3g} ({bound.rule}); {int(wrong.sum())} of "
        f"{wrong.numel()} such numbers differ by too much, this one by most.{hint}"
    )


def element(name: str, index: tuple[int, ...]) -> str:
    """Return the name of one element of a named tensor."""
    return f"{name}{list(index)}" if index else name


@contextmanager
def reported(check: str) -> Iterator[None]:
    """Report whatever is raised in a check as the failure of that check.

    Args:
        check: Name of the check, which is also the argument that turns it off.

    Yields:
        Nothing.

    Raises:
        GradientCheckError: If anything was raised.
    """
    try:
        yield
    except GradientCheckError:
        raise
    except Exception as error:
        raise GradientCheckError(
            f"{check} failed: {type(error).__name__}: {error}\n"
            f"If this is not meant to work, turn the check off with {check}=False."
        ) from error
