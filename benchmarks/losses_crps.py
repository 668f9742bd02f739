"""CRPS of gamma forecasts, value and gradient: truth first, then time.

    python benchmarks/losses_crps.py

Values and gradients of a sample are compared with mpmath, all values with the integral
that defines the score; scoringrules has the value only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import mpmath as mp
import numpy as np
import scoringrules
import torch
from figures import Row, Timed, figure
from timing import medians, timer
from torch import Tensor

import torch_mlcalc as mlc

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "losses"))
import crps_truth

TITLE = "CRPS"

#: Figure asked for: right to this in value and both gradients.
TOLERANCE = 1e-8


def rows(quick: bool = False) -> Iterator[Row]:
    """The figures of 1 000 gamma forecasts."""
    forecasts = gamma_forecasts(1000)
    value, *slopes = scored(*forecasts)
    sample = range(0, 1000, 100 if quick else 20)
    errors = [
        max(against_mpmath(t, forecasts, k, i) for k in sample)
        for i, t in enumerate((value, *slopes))
    ]
    whole = against_quadrature(value, forecasts)
    yield figure(
        "CRPS of 1 000 gamma forecasts, value and both gradients in one call",
        f"{TOLERANCE:.0e}",
        f"value {errors[0]:.1e}, concentration {errors[1]:.1e}, rate {errors[2]:.1e}",
        max(errors) <= TOLERANCE,
        f"largest relative error in {len(sample)} of them, against mpmath; shapes 0.01 "
        "to 100, scale 0.01 to 100",
    )
    yield figure(
        "the same values, all of them",
        f"{TOLERANCE:.0e}",
        f"{whole:.1e}",
        whole <= TOLERANCE,
        "largest relative difference to the integral, rtol=1e-10",
    )
    yield from timed(forecasts, value, errors, quick)


def gamma_forecasts(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Concentrations, rates, and observations around their means."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(3, count, generator=generator, dtype=torch.float64)
    concentration, rate, factor = 10 ** (4 * draws - 2)
    return concentration, rate, concentration / rate * factor**0.5


def scored(concentration: Tensor, rate: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Values and gradients."""
    parameters = [t.clone().requires_grad_() for t in (concentration, rate)]
    value = mlc.crps_gamma(*parameters, target, "none")
    return value.detach(), *torch.autograd.grad(value.sum(), parameters)


def against_mpmath(
    found: Tensor, forecasts: tuple[Tensor, ...], k: int, which: int
) -> float:
    """Relative error of a value (0) or of a derivative by a parameter (1, 2)."""
    with mp.workdps(40):
        point = [mp.mpf(t[k].item()) for t in forecasts]
        if which == 0:
            exact = crps_truth.gamma(*point)
        else:
            step = point[which - 1] * mp.mpf(10) ** -11
            ends = []
            for sign in (1, -1):
                moved = list(point)
                moved[which - 1] += sign * step
                ends.append(crps_truth.gamma(*moved))
            exact = (ends[0] - ends[1]) / (2 * step)
        return float(abs((mp.mpf(found[k].item()) - exact) / exact))


def against_quadrature(value: Tensor, forecasts: tuple[Tensor, ...]) -> float:
    """Largest relative difference to the score by integration."""
    concentration, rate, target = forecasts
    integral = mlc.crps_loss(
        torch.distributions.Gamma(concentration, rate),
        target,
        "none",
        closed_form=False,
        rtol=1e-10,
    )
    return ((integral - value) / value).abs().max().item()


def timed(
    forecasts: tuple[Tensor, ...], value: Tensor, errors: list[float], quick: bool
) -> list[Row]:
    """Next to the value alone by scoringrules, on one thread."""
    concentration, rate, target = (t.numpy() for t in forecasts)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = medians(
            {
                "value": timer(lambda: mlc.crps_gamma(*forecasts, "none")),
                "value and gradient": timer(lambda: scored(*forecasts)),
                "scoringrules, value": timer(
                    lambda: scoringrules.crps_gamma(target, concentration, rate)
                ),
            },
            rounds=3 if quick else 9,
        )
    finally:
        torch.set_num_threads(threads)
    theirs = np.asarray(scoringrules.crps_gamma(target, concentration, rate))
    off = ((torch.as_tensor(theirs) - value) / value).abs().max().item()
    result = Timed(
        seconds,
        {
            "value": errors[0],
            "value and gradient": max(errors),
            "scoringrules, value": off,
        },
        TOLERANCE,
    )
    how = "; ".join(map(result.described, seconds))
    ratio = seconds["value and gradient"] / seconds["scoringrules, value"]
    return [
        figure(
            "value and both gradients / value by scoringrules, which has no gradient",
            "",
            f"{ratio:.1f}",
            None,
            f"1 000 gamma forecasts, one thread: {how}",
        )
    ]


if __name__ == "__main__":
    for row in rows("--quick" in sys.argv):
        print(row)
