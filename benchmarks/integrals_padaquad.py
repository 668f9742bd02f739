"""Next to padaquad: the table of problems one at a time, and many peaks in one call.

It is another package for adaptive integrals of torch functions with gradients, for
finite intervals. A vector of integrals has one mesh for all, which starts at random.
"""

from __future__ import annotations

import contextlib
import io
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import torch
import workloads
from figures import Row, Timed, as_time, figure
from integrals_table import (
    GRADIENT_RTOL,
    PROBLEMS,
    RTOL,
    Answer,
    Problem,
    mlc_answer,
    mlc_call,
)
from timing import medians, timer
from torch import Tensor

TITLE = "Integrals in one dimension next to padaquad"

COUNT = 10_000
WIDTHS = (1e-3, 2e-2)
METHODS = ("mlc", "padaquad")


def rows(quick: bool = False) -> Iterator[Row]:
    """Success on the table, times of what both get right, many peaks at once."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield from _single(quick)
        for narrowest in WIDTHS:
            for gradient in (False, True):
                yield _peaks(narrowest, gradient, quick)
    finally:
        torch.set_default_dtype(before)


def _solve(
    integrand: Callable[[Tensor], Tensor], lower: float, upper: float, rtol: float
) -> tuple[Tensor, bool]:
    """The integral with its graph, and whether padaquad says that it converged."""
    from padaquad import integrate

    # Without `max_batch` it looks for the most that memory holds, a second in every
    # call; of 50, 200, 1000, 2000 and 20 000 its peaks below are fastest with 200.
    # `take_gradient` would write to `.grad` of the parameters.
    with contextlib.redirect_stdout(io.StringIO()):
        result = integrate(
            integrand,
            mesh_init=torch.tensor([lower]),
            mesh_final=torch.tensor([upper]),
            atol=0.0,
            rtol=rtol,
            error_norm="max",
            take_gradient=False,
            max_batch=200,
        )
    return result.integral, bool(result.converged)


# --- one at a time --------------------------------------------------------------------


def _call(row: Problem, gradient: bool) -> Callable[[], Tensor]:
    theta = torch.tensor(row.theta, requires_grad=gradient)

    def call() -> Tensor:
        value, _ = _solve(lambda x: row.integrand(x, theta), row.lower, row.upper, RTOL)
        return torch.autograd.grad(value.sum(), theta)[0] if gradient else value

    return call


def _answer(row: Problem) -> Answer:
    theta = torch.tensor(row.theta, requires_grad=True)
    try:
        value, converged = _solve(
            lambda x: row.integrand(x, theta), row.lower, row.upper, RTOL
        )
    except (AssertionError, ValueError):  # one of its own, an infinite value at an end
        return Answer(math.nan, False)
    slope = float(torch.autograd.grad(value.sum(), theta)[0])
    return Answer(value.item(), converged, 0, slope)


def _single(quick: bool) -> Iterator[Row]:
    every = PROBLEMS[:: 4 if quick else 1]
    finite = [row for row in every if math.isfinite(row.upper - row.lower)]
    theirs = {row.name: _answer(row) for row in finite}
    right = [row for row in finite if theirs[row.name].is_right(row)]
    false = [
        row.name for row in finite if theirs[row.name].converged and row not in right
    ]
    refused = sum(math.isnan(found.value) for found in theirs.values())
    yield figure(
        f"rtol 1e-8 on {len(every)} integrals: padaquad",
        "",
        f"right on {100 * len(right) / len(every):.1f} %",
        None,
        f"takes no infinite limits ({len(every) - len(finite)}); ends in an error on "
        f"{refused} others, of which most are infinite at an end; falsely claimed: "
        + (", ".join(false) or "none"),
    )
    ours = {row.name: mlc_answer(row) for row in right}
    both = [row for row in right if ours[row.name].is_right(row)]
    yield _times(both, gradient=False, quick=quick)
    sloped = [
        row
        for row in both
        if theirs[row.name].has_right_gradient(row)
        and ours[row.name].has_right_gradient(row)
    ]
    yield _times(sloped, gradient=True, quick=quick)


def _times(some: Sequence[Problem], gradient: bool, quick: bool) -> Row:
    found, timed = [], some[:: 4 if quick else 2]
    for row in timed:
        clocks = {
            "mlc": timer(mlc_call(row, gradient)),
            "padaquad": timer(_call(row, gradient)),
        }
        # An assertion of its own fails now and then on what it has just integrated; the
        # row says how often.
        with suppress(AssertionError):
            found.append(medians(clocks, rounds=3, burst=0.005))
    ratio = statistics.median(times["mlc"] / times["padaquad"] for times in found)
    middle = {m: statistics.median(times[m] for times in found) for m in METHODS}
    what = "forward and backward" if gradient else "forward"
    return figure(
        f"single integrals, {what}: torch_mlcalc / padaquad",
        "at most 1",
        f"{ratio:.2f} (median)",
        ratio <= 1,
        f"{len(found)} integrals on which both are right (gradients to "
        f"{GRADIENT_RTOL:g}), {len(timed) - len(found)} more ended in an assertion of "
        "padaquad's; medians "
        + ", ".join(f"{method} {as_time(middle[method])}" for method in METHODS),
    )


# --- many at once ---------------------------------------------------------------------


def _padaquad_peaks(narrowest: float, gradient: bool) -> Callable[[], tuple]:
    centre, width = workloads.peak_parameters(COUNT, narrowest)
    centre.requires_grad_(gradient)
    width.requires_grad_(gradient)

    def call() -> tuple[Tensor, ...]:
        values, _ = _solve(
            lambda x: workloads.peak(x, centre, width), 0.0, 1.0, workloads.PEAK_RTOL
        )
        if not gradient:
            return (values,)
        return (values, *torch.autograd.grad(values.sum(), (centre, width)))

    return call


def _peaks(narrowest: float, gradient: bool, quick: bool) -> Row:
    calls = {
        "mlc": workloads.peaks("mlc", COUNT, narrowest, gradient),
        "padaquad": _padaquad_peaks(narrowest, gradient),
    }
    centre, width = (
        t.requires_grad_() for t in workloads.peak_parameters(COUNT, narrowest)
    )
    values = workloads.exact_peaks(centre, width)
    exact = (values, *torch.autograd.grad(values.sum(), (centre, width)))
    # Gradients relative to value / width: by the centre of a peak well inside it is 0.
    sizes = (values, values / width, values / width)
    errors = {
        method: max(
            float(((f - e).abs() / size).max().detach())
            for f, e, size in zip(call(), exact, sizes, strict=False)
        )
        for method, call in calls.items()
    }
    clocks = {method: timer(call) for method, call in calls.items()}
    # A call takes seconds on the narrow ones.
    rounds = 1 if quick or narrowest < 1e-2 else 3
    timed = Timed(medians(clocks, rounds), errors, 10 * workloads.PEAK_RTOL)
    what = "forward and backward" if gradient else "forward"
    return timed.ratio(
        f"{COUNT} peaks of widths {narrowest:g} to 1, rtol 1e-6, {what}",
        "padaquad",
        "mlc",
        least=5 if gradient else 4,
    )
