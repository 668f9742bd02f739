"""A single integral over a box of numbers, from end to end in plain numbers.

A smooth function of two variables takes 0.13 ms instead of the 0.49 of the way by
``engine.py``, which goes on where more is needed than a few rules on the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import BLOCK_BYTES, keep_freed
from torch_mlcalc.quadrature.cubature.along import Probe
from torch_mlcalc.quadrature.cubature.box import Box
from torch_mlcalc.quadrature.cubature.climbed import (
    FEW,
    Climbed,
    Sum,
    Terms,
    sums_of_one,
)
from torch_mlcalc.quadrature.cubature.fitted import fit
from torch_mlcalc.quadrature.cubature.found import MAX_EVALS
from torch_mlcalc.quadrature.cubature.ladder import (
    FITTED,
    MOST_AXES,
    stage_of,
)
from torch_mlcalc.quadrature.cubature.leap import leap
from torch_mlcalc.quadrature.cubature.look import Look, look_first
from torch_mlcalc.quadrature.cubature.parts import (
    Fitted,
    between,
    climb_parts,
    cut_places,
)
from torch_mlcalc.quadrature.cubature.single_kinks import find_kinks_single
from torch_mlcalc.quadrature.estimate import tolerance_of
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import SMALL, dual_level, transforming
from torch_mlcalc.quadrature.integrand import (
    CPU,
    Function,
    ask,
    checked,
    default_device,
)
from torch_mlcalc.quadrature.rules import Array

#: Of limits and of values.
KNOWN = (torch.float64, torch.float32)

#: Bytes of points in one call of the integrand. With those of a block of a long sum
#: peaks of 60,000 points in 5 and 8 dimensions take 1.1 to 1.2 times as long, in more
#: calls; with four times as many, kinks in 8 take 1.3 times, and others no less.
CALL = 2 * BLOCK_BYTES

_ONES, _DONE = np.ones(SMALL), Climbed(1, done=True)

#: Lower and upper limits.
Corners = tuple[tuple[float, ...], tuple[float, ...]]


class Attempt(NamedTuple):
    """The integral, or else where it stands after so many points."""

    value: Tensor | None
    begun: Climbed
    spent: int


def attempt_at_once(
    function: Function, box: Box, rtol: float | None, atol: float | None
) -> Attempt | None:
    """Take the first rules, by the decisions of the search.

    A gradient flows through the values of the last of them.

    Args:
        function: The integrand, without args.
        box: Where.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Returns:
        How it ended, or None where nothing was done, because there is more to it.
    """
    d, dtype = box.dimension, torch.get_default_dtype()
    if not 2 <= d <= MOST_AXES or dtype not in KNOWN or transforming() or dual_level():
        return None
    corners = box.corners
    if corners is None:
        return None
    device = default_device()
    # To ask for the type makes a string of it.
    if device is not CPU and device.type != "cpu":
        return None
    # In a fresh process half of 3 ms for 24,000 points were page faults.
    keep_freed()
    tolerance, epsilon = tolerance_of(rtol, atol, dtype), torch.finfo(dtype).eps
    terms = Terms(d, tolerance, epsilon)
    low, span, volume = _placed(corners, dtype)
    cube = _Cube(function, low, span)
    probe = Probe(cube, terms, volume, MAX_EVALS, CALL // (8 * d))
    return (_look if FITTED.get(d) == 1 else _climb)(cube, probe)


@dataclass(eq=False)
class _Cube:
    """The integrand on the cube, which remembers its last values.

    Attributes:
        function: The integrand.
        low: Lower corner of the box, None of the unit cube.
        span: Its sides.
        values: What the function returned last.
    """

    function: Function
    low: Tensor | None
    span: Tensor
    values: Tensor | None = None

    def __call__(self, points: Array) -> Values | None:
        """The values on the host, or None where they are not plain finite numbers."""
        # An integrand may write to its points, so those of tables are not writable.
        x = torch.from_numpy(points if points.flags.writeable else points.copy("K"))
        if self.span.dtype != torch.float64:
            x = x.to(self.span.dtype)
        if self.low is not None:
            x = torch.addcmul(self.low, self.span, x)
        values = ask(self.function, x)
        if not (
            isinstance(values, Tensor)
            and values.dtype in KNOWN
            and values.shape == (len(points),)
        ):
            values = checked(values, x, points.shape[1])
            if values.ndim != 1 or values.dtype not in KNOWN:
                return None
        self.values = values
        if not values.is_cpu:
            return None
        own = values.detach() if values.requires_grad else values
        numbers: Values = own.numpy()
        if values.dtype != torch.float64:
            numbers = numbers.astype(float)
        return numbers if _is_finite(numbers) else None

    def result(self, value: float, weights: Callable[[], Array]) -> Tensor:
        """The integral, with the gradient that the last values carry."""
        values, dtype = self.values, torch.get_default_dtype()
        assert values is not None  # noqa: S101
        if values.dtype != dtype:
            dtype = torch.promote_types(values.dtype, dtype)
        if not (values.requires_grad and torch.is_grad_enabled()):
            number = np.array(value, np.float64 if dtype.itemsize == 8 else np.float32)
            return torch.from_numpy(number)
        own = torch.from_numpy(weights())
        return (values[-len(own) :] * own).sum().to(dtype)


def _is_finite(values: Values) -> bool:
    """Whether all are finite."""
    # Three quarters of the time of the sum itself; numpy's library divides longer ones
    # among threads.
    if len(values) <= SMALL:
        return math.isfinite(values.dot(_ONES[: len(values)]))
    return math.isfinite(np.add.reduce(values))


def _climb(cube: _Cube, probe: Probe) -> Attempt:
    """The first tensor rules, and then a fitted one."""
    terms, begun = probe.terms, Climbed(1)
    d = terms.dimension
    while True:
        stage = stage_of(begun.step, d, first=begun.before is None)
        values = probe(stage.table.nodes)
        if values is None:
            return Attempt(None, begun, probe.spent)
        sums = sums_of_one(stage, values, probe.volume, terms.epsilon)
        # Where every value is 0 nothing was seen.
        if not sums[-1].absolute:
            return Attempt(None, begun, probe.spent)
        begun = begun.judged(sums, terms)
        if begun.done:
            own = stage.table.weights[-(stage.size**d) :]
            value = cube.result(sums[-1].value, partial(np.multiply, own, probe.volume))
            return Attempt(value, begun, probe.spent)
        if begun.left or begun.steep or begun.step == FITTED.get(d):
            begun = begun.seen(stage, values)
            if not begun.steep:
                break
            few = _limit(cube, probe)
            begun, found = leap(probe, begun)
            if found is not None:
                return _ended(cube, probe, found)
            if begun.left or begun.fitted:
                begun = begun._replace(fitted=begun.fitted and not few)
                return Attempt(None, begun, probe.spent)
    assert begun.before is not None and begun.base is not None  # noqa: S101
    if d in FITTED:
        return _fit(cube, probe, begun, begun.before, begun.base)
    return _cut(cube, probe, begun, begun.before, begun.base)


def _cut(cube: _Cube, probe: Probe, begun: Climbed, seen: Sum, base: Array) -> Attempt:
    """Tensor rules on the parts between kinks."""
    _limit(cube, probe)
    kinks = find_kinks_single(probe, base, seen, list(range(len(base))))
    if kinks is None or kinks.none:
        return Attempt(None, begun, probe.spent)
    found = climb_parts(probe, between(cut_places(kinks.places)))
    if found is None:
        return Attempt(None, begun, probe.spent)
    return _ended(cube, probe, found)


def _look(cube: _Cube, probe: Probe) -> Attempt | None:
    """The rule of Genz and Malik on the whole, and then a fitted one."""
    look = look_first(probe)
    if look is None:
        return None
    if look.settled:
        return _symmetric(cube, probe, look)
    few = _limit(cube, probe)
    found = fit(probe, look.total, look.base, look.looked, look.lines)
    if found is None:
        # Of a graph nothing is known to those who did not make it.
        known = Climbed(1) if few else Climbed(1, fitted=True, whole=look.values)
        return Attempt(None, known, probe.spent)
    if found.sizes is None and len(found.regions.owner) == 1:
        return _symmetric(cube, probe, look)
    return _ended(cube, probe, found)


def _symmetric(cube: _Cube, probe: Probe, look: Look) -> Attempt:
    """With the integral by the rule of Genz and Malik."""
    nodes, weights = look.table
    assert cube.values is not None  # noqa: S101
    # A graph of its nodes alone takes less than that of all points.
    if cube.values.requires_grad and len(cube.values) != len(nodes):
        cube(nodes)
    own = partial(np.multiply, weights, probe.volume)
    value = cube.result(look.total.value, own)
    return Attempt(value, _DONE, probe.spent)


def _limit(cube: _Cube, probe: Probe) -> bool:
    """Leave to the search what would make a large graph, block by block."""
    few = cube.values is not None and cube.values.requires_grad
    if few:
        probe.budget, probe.block = FEW, FEW
    return few


def _fit(cube: _Cube, probe: Probe, begun: Climbed, seen: Sum, base: Array) -> Attempt:
    """A fitted rule; where more is needed the search goes on."""
    few = _limit(cube, probe)
    found = fit(probe, seen, base)
    if found is None:
        return Attempt(None, begun._replace(fitted=not few), probe.spent)
    return _ended(cube, probe, found)


def _ended(cube: _Cube, probe: Probe, found: Fitted) -> Attempt:
    """With the integral, of which the last values are all that it is made of."""
    value = sum(found.columns[0].tolist())
    result = cube.result(value, lambda: found.weights * probe.volume)
    return Attempt(result, _DONE, probe.spent)


@lru_cache(maxsize=64)
def _placed(
    corners: Corners, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor, float]:
    """Corner, sides and volume of a box; no corner of the unit cube."""
    low, high = map(np.array, corners)
    with torch.inference_mode(False):
        corner, span = (
            torch.tensor(low, dtype=dtype, device="cpu"),
            torch.tensor(high - low, dtype=dtype, device="cpu"),
        )
    whole = not low.any() and bool((high == 1).all())
    return None if whole else corner, span, float((high - low).prod())
