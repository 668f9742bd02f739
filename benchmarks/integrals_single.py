"""Single integrals: the table of problems, one at a time, against the peers."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from figures import Row, as_time, figure
from integrals_table import (
    DIVERGENT,
    GRADIENT_RTOL,
    LOG_PROBLEMS,
    PROBLEMS,
    ROWS,
    RTOL,
    Answer,
    LogProblem,
    Problem,
    cubature_answer,
    floor_call,
    mlc_answer,
    mlc_call,
    quad_answer,
    quadax_answer,
    tanhsinh_answer,
    twin_error,
)
from peer import Call, peer
from timing import Timer, medians, timer

Answers = dict[str, Answer]
#: Seconds of the methods that are right on a row.
Times = dict[str, float]


def rows(quadax: Call, quick: bool) -> Iterator[Row]:
    """Success and honesty on the whole table, times, evaluations, the log form."""
    _check_twins(quadax)
    answers = {
        "torch_mlcalc": _answers(mlc_answer),
        "scipy quad": _answers(quad_answer),
        "scipy tanhsinh": _answers(tanhsinh_answer),
        "quadax quadgk": _answers(partial(quadax_answer, quadax)),
    }
    for name, found in answers.items():
        yield _success(name, found)
    yield _evaluations(answers["torch_mlcalc"], answers["scipy quad"])
    yield from _log_form(answers)
    yield from _times(answers["torch_mlcalc"], answers["quadax quadgk"], quadax, quick)


def _answers(method: Callable[..., Answer]) -> Answers:
    return {row.name: method(row) for row in ROWS}


def _check_twins(quadax: Call) -> None:
    for row in ROWS:
        error = twin_error(quadax, row)
        # Rounding of exp(t log x) and the like; the worst row has 3e-11.
        if not error < 1e-9:
            raise AssertionError(f"{row.name} is another function in JAX: {error}.")


# --- success and honesty --------------------------------------------------------------


def _success(name: str, answers: Answers) -> Row:
    convergent = (*PROBLEMS, *LOG_PROBLEMS)
    good = [
        row
        for row in convergent
        if answers[row.name].converged and answers[row.name].is_right(row)
    ]
    false = [
        row.name
        for row in ROWS
        if answers[row.name].converged and not answers[row.name].is_right(row)
    ]
    divergent = sum(answers[row.name].converged for row in DIVERGENT)
    wrong = len(false) - divergent
    share = len(good) / len(convergent)
    ours = name == "torch_mlcalc"
    return figure(
        f"rtol 1e-8 on {len(convergent)} integrals: {name}",
        "converged and right on 95 %, honest on the rest" if ours else "",
        f"right on {100 * share:.1f} %; claims success and is wrong on {wrong}, "
        f"and on {divergent} of {len(DIVERGENT)} divergent ones",
        (share >= 0.95 and not false) if ours else None,
        "falsely claimed: " + (", ".join(false) or "none"),
    )


def _evaluations(ours: Answers, theirs: Answers) -> Row:
    counted = [
        (ours[row.name].n_evals, theirs[row.name].n_evals)
        for row in PROBLEMS
        if ours[row.name].is_right(row) and theirs[row.name].is_right(row)
    ]
    ratio = statistics.median(a / b for a, b in counted)
    total = sum(a for a, _ in counted) / sum(b for _, b in counted)
    return figure(
        "evaluations against QUADPACK's (scipy quad)",
        "at most 1.5",
        f"{ratio:.2f} (median)",
        ratio <= 1.5,
        f"{len(counted)} integrals on which both are right; ratio of sums {total:.2f}",
    )


# --- times ----------------------------------------------------------------------------


def _times(ours: Answers, theirs: Answers, quadax: Call, quick: bool) -> list[Row]:
    good = [
        row
        for row in PROBLEMS
        if ours[row.name].is_right(row) and ours[row.name].has_right_gradient(row)
    ]
    both = [row for row in good if theirs[row.name].is_right(row)]
    every = 4 if quick else 1
    # 5 to 20 seconds of compiling for each.
    alone = both[:: 80 if quick else 50]
    found: list[Times] = []
    with peer(
        sys.executable, "cubature_server.py", {"SCIPY_ARRAY_API": "1"}
    ) as cubature:
        for number, row in enumerate(good[::every]):
            timers = _timers_of_ours(row)
            if row in both:
                timers["quadax"] = _remote(quadax, row, gradient=False, alone=False)
            if row in alone:
                timers |= _timers_alone(quadax, row)
            # It takes up to a second.
            if number % 6 == 0:
                timers |= _timers_of_cubature(cubature, row)
            found.append(medians(timers, 3, burst=0.005))
    return [
        _compare(found, "mlc", "quadax", 1, "forward"),
        _compare(found, "mlc", "quadax alone", 1, "forward, each row compiled alone"),
        _compare(
            found, "mlc backward", "quadax alone backward", 1, "forward and backward"
        ),
        _floor(found, "floor", "the integrand alone"),
        _floor(found, "sums", "the integrand with its sums, and no decisions"),
        _compare(found, "mlc", "cubature", 1 / 5, "forward"),
        _compare(
            found, "mlc backward", "cubature backward", 1 / 5, "forward and backward"
        ),
        _compile_time(quadax, alone),
    ]


def _timers_of_ours(row: Problem) -> dict[str, Timer]:
    return {
        "mlc": timer(mlc_call(row, gradient=False)),
        "mlc backward": timer(mlc_call(row, gradient=True)),
        "floor": timer(floor_call(row, sums=False)),
        "sums": timer(floor_call(row, sums=True)),
    }


def _timers_alone(quadax: Call, row: Problem) -> dict[str, Timer]:
    answer = quadax_answer(quadax, row, gradient=True, alone=True)
    if not answer.is_right(row):
        return {}
    timers = {"quadax alone": _remote(quadax, row, gradient=False, alone=True)}
    if answer.has_right_gradient(row):
        timers["quadax alone backward"] = _remote(
            quadax, row, gradient=True, alone=True
        )
    return timers


def _timers_of_cubature(cubature: Call, row: Problem) -> dict[str, Timer]:
    answer = cubature_answer(cubature, row, gradient=True)
    if not answer.is_right(row):
        return {}
    timers = {"cubature": _remote(cubature, row, gradient=False)}
    if answer.has_right_gradient(row):
        timers["cubature backward"] = _remote(cubature, row, gradient=True)
    return timers


def _remote(call: Call, row: Problem, **settings: bool) -> Timer:
    return lambda calls: call(
        "time_solve", name=row.name, rtol=RTOL, calls=calls, **settings
    )


def _compare(
    found: Sequence[Times], ours: str, theirs: str, most: float, what: str
) -> Row:
    pairs = [(t[ours], t[theirs]) for t in found if theirs in t]
    ratio = statistics.median(a / b for a, b in pairs)
    wins = sum(a <= most * b for a, b in pairs)
    a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
    peer_name = theirs.split()[0]
    return figure(
        f"single integrals, {what}: torch_mlcalc / {peer_name}",
        f"at most {most:g}",
        f"{ratio:.2f} (median)",
        ratio <= most,
        f"{len(pairs)} integrals on which both are right (gradients to "
        f"{GRADIENT_RTOL:g}), met on {wins} of them; medians {as_time(a)} and "
        f"{as_time(b)}",
    )


def _floor(found: Sequence[Times], name: str, what: str) -> Row:
    """What part of the times no search could be without."""
    both = [t for t in found if "quadax" in t]
    ours = statistics.median(t["mlc"] / t[name] for t in both)
    theirs = statistics.median(t["quadax"] / t[name] for t in both)
    floor = as_time(statistics.median(t[name] for t in both))
    return figure(
        f"floor: {what}, same nodes, same calls: torch_mlcalc / floor",
        "",
        f"{ours:.2f} (median)",
        None,
        f"{len(both)} integrals; median of the floor {floor}; quadax / floor "
        f"{theirs:.2f} (median)",
    )


def _compile_time(quadax: Call, alone: Sequence[Problem]) -> Row:
    seconds = {
        gradient: statistics.median(
            quadax("solve", name=row.name, rtol=RTOL, gradient=gradient, alone=True)[
                "compile_s"
            ]
            for row in alone
        )
        for gradient in (False, True)
    }
    return figure(
        "compiling, not counted in the times: quadax",
        "",
        f"{as_time(seconds[False])}; with gradient {as_time(seconds[True])}",
        None,
        f"median of {len(alone)} integrals; this package compiles nothing",
    )


# --- the log form ---------------------------------------------------------------------


def _log_form(answers: dict[str, Answers]) -> list[Row]:
    names = ("plus_1000", "tilt_1000", "mises_2000")
    return [
        _log_figure(row, answers) for row in LOG_PROBLEMS if row.name.endswith(names)
    ]


def _log_figure(row: LogProblem, answers: dict[str, Answers]) -> Row:
    ours = answers["torch_mlcalc"][row.name]
    error = abs(ours.value - row.log_value)
    slope_error = abs(ours.gradient / row.log_gradient - 1)
    said = [
        f"{name} {found[row.name].value:g}"
        + (", claiming success" if found[row.name].converged else "")
        for name, found in answers.items()
        if name != "torch_mlcalc"
    ]
    return figure(
        f"log form: {row.name}",
        "value and gradient to 1e-10",
        f"{error:.0e}, gradient {slope_error:.0e}",
        ours.converged and max(error, slope_error) <= 1e-10,
        "; ".join(said),
    )
