"""The figures for integrals in one dimension; values and gradients are checked first."""

from __future__ import annotations

from typing import Any

import integrals_batch as batch
import torch
from timing import extra_memory, medians, timer

TITLE = "Integrals in one dimension"

Row = dict[str, Any]


def rows(quick: bool = False) -> list[Row]:
    """All figures."""
    return [*_short(quick), *_long(quick)]


def _short(quick: bool) -> list[Row]:
    methods = ("mlc", "mlc, rule and domain made before", "bare", "torchquad")
    exact = 0.7468241328124271
    errors = {m: abs(float(batch.short(m)()) - exact) / exact for m in methods}
    rounds = 5 if quick else 25
    seconds = medians({m: timer(batch.short(m)) for m in methods}, rounds)
    return [
        _ratio(
            "32 fixed nodes against the bare sum", "mlc", "bare", seconds, errors, 3
        ),
        _ratio(
            "the same, rule and domain made before",
            "mlc, rule and domain made before",
            "bare",
            seconds,
            errors,
            3,
        ),
        _ratio("32 fixed nodes", "torchquad", "mlc", seconds, errors, -10),
    ]


def _long(quick: bool) -> list[Row]:
    n = 10**6 if quick else 10**7
    methods = ("mlc", "single sweep", "torchquad")
    errors = {
        m: abs(float(batch.long(m, n)()) - batch.WAVES) / batch.WAVES for m in methods
    }
    timers = {m: timer(batch.long(m, n)) for m in methods}
    seconds = medians(timers, 3 if quick else 7)
    memory = {
        m: extra_memory("integrals_batch", "long", warm_up={"n": 100}, method=m, n=n)
        for m in methods
    }
    name = f"{n:.0e} nodes of exp(-x^2) cos 3x + sin^2 x"
    return [
        _ratio(name, "single sweep", "mlc", seconds, errors, -3),
        _ratio(name, "torchquad", "mlc", seconds, errors, -5),
        {
            "name": f"{name}, extra memory",
            "asked": "below 64 MiB",
            "reached": ", ".join(f"{m} {memory[m]:.0f} MiB" for m in methods),
            "met": memory["mlc"] < 64,
            "how": "high-water mark of a fresh process",
        },
    ]


def _ratio(
    name: str,
    above: str,
    below: str,
    seconds: dict[str, float],
    errors: dict[str, float],
    asked: float,
) -> Row:
    """A ratio of two times: at most ``asked``, or at least if that is negative."""
    ratio = seconds[above] / seconds[below]
    right = max(errors[above], errors[below]) < 1e-12
    return {
        "name": f"{name}: {above} / {below}",
        "asked": f"at least {-asked}" if asked < 0 else f"at most {asked}",
        "reached": f"{ratio:.2f}",
        "met": right and (ratio >= -asked if asked < 0 else ratio <= asked),
        "how": "; ".join(
            f"{m}: {1e6 * seconds[m]:.0f} us, error {errors[m]:.0e}"
            for m in (above, below)
        ),
    }


if __name__ == "__main__":
    torch.set_default_dtype(torch.float64)
    for row in rows(quick=True):
        print(row)
