"""Where what is smooth on both sides of a kink meets, in plain numbers.

Points next to a kink tell its place to their distance, and the continuations of both
sides to its fifth power: nearly always that is enough without a closer look.
"""

from __future__ import annotations

from torch_mlcalc.quadrature.rules import Array

#: Points on either side of a kink that are carried on to where both meet, and how many
#: times the last term of that must be less than the angle.
BESIDE, SHARP = 5, 10.0

#: Steps of the secant method to there.
SECANTS = 4

#: Those of order 0 to 4 at the first of :data:`BESIDE` values.
Differences = tuple[float, ...]


def meeting(
    at: Array, values: Array, second: Array, top: int, enough: float
) -> float | None:
    """Carry on both sides of the largest second difference to where they meet.

    Args:
        at: Places on the line.
        values: The integrand there.
        second: Its second differences.
        top: Which is the largest.
        enough: How much either side may be wrong.

    Returns:
        The place, or None where they do not meet in a sharp angle.
    """
    if not BESIDE <= top < len(second) - BESIDE:
        return None
    # It is between the middle of these points and one of the others, at which the next
    # difference is larger.
    right = int(second[top + 1] > second[top - 1])
    for after in (top + 1 + right, top + 2 - right):
        near: list[float] = values[after - BESIDE : after + BESIDE].tolist()
        left = _differences(near[BESIDE - 1 :: -1])
        step = _crossing(left, _differences(near[BESIDE:]), enough)
        if step is not None:
            return _by_cubic(at[after - 2 : after + 2].tolist(), step)
    return None


def _crossing(left: Differences, right: Differences, enough: float) -> float | None:
    """Part of the step between two points at which what is left and right is equal."""
    before, x = 0.0, 1.0
    here, there = left[0] - _carried(right, x), _carried(left, x) - right[0]
    unsure = _rest(left) + _rest(right)
    if here * there > 0 or unsure > min(enough, abs(there - here) / SHARP):
        return None
    for _ in range(SECANTS):
        if here == there:
            break
        before, x = x, x - there * (x - before) / (there - here)
        here, there = there, _gap(left, right, x)
    return x if 0 <= x <= 1 else None


def _differences(values: list[float]) -> Differences:
    """Those of growing order at the first of :data:`BESIDE` values."""
    a, b, c, d, e = values
    return a, a - b, a - 2 * b + c, a - 3 * (b - c) - d, a - 4 * (b + d) + 6 * c + e


def _carried(differences: Differences, x: float) -> float:
    """A polynomial with these, so many steps before the first of its points."""
    a, b, c, d, e = differences
    return a + x * (b + (x + 1) / 2 * (c + (x + 2) / 3 * (d + (x + 3) / 4 * e)))


def _rest(differences: Differences) -> float:
    """Size of the next difference, if they fall at the pace of the last ones."""
    before, last, next_ = map(abs, differences[2:])
    if not (before and last):
        return max(last, next_)
    fall = min(max(last / before, next_ / last), 1.0)
    return last * fall * fall


def _gap(left: Differences, right: Differences, x: float) -> float:
    return _carried(left, x) - _carried(right, 1 - x)


def _by_cubic(at: list[float], x: float) -> float:
    """The place so many steps after the second of four points, by a cubic."""
    a, b, c, d = at
    inner = (x + 1) * (x - 2) / 2 * ((x - 1) * b - x * c)
    return inner + x * (x - 1) / 6 * ((x + 1) * d - (x - 2) * a)
