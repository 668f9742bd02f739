"""Rules with random nodes: how many points they need, and how far they get.

    python benchmarks/integrals_random.py

Errors are those against closed forms; in 100 dimensions root mean squares over seeds.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torchquad
from torch import Tensor

import torch_mlcalc as mlc

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from problems_nd import genz_sum  # noqa: E402

Row = dict[str, object]
D = torch.float64
SEEDS = 8


def row(name: str, asked: str, reached: str, met: bool | None, how: str) -> Row:
    """One figure; ``met`` is None where nothing was asked for."""
    return {"name": name, "asked": asked, "reached": reached, "met": met, "how": how}


def unit_box(dimension: int) -> mlc.Box:
    """The unit cube in double precision."""
    return mlc.Box(torch.zeros(dimension, dtype=D), torch.ones(dimension, dtype=D))


def rms(function: Callable[[Tensor], Tensor], exact: float, rule: mlc.Rule) -> float:
    """Root mean square over seeds of the relative error in 100 dimensions."""
    errors = []
    for seed in range(SEEDS):
        generator = torch.Generator().manual_seed(seed)
        value = mlc.integrate(function, unit_box(DIMENSION), rule, generator=generator)
        errors.append(float(value) / exact - 1)
    return math.sqrt(sum(e * e for e in errors) / SEEDS)


# --- 100 dimensions ----------------------------------------------------------------

DIMENSION = 100


def _normal(u: Tensor) -> Tensor:
    return torch.special.ndtri(u)


def asian(u: Tensor) -> Tensor:
    """The mean of a stock price on 100 dates, volatility 0.2, no rate, in a year."""
    step = math.sqrt(1 / DIMENSION)
    path = _normal(u).cumsum(-1) * step
    date = torch.arange(1, DIMENSION + 1, dtype=u.dtype) / DIMENSION
    return torch.exp(0.2 * path - 0.02 * date).mean(-1)


def cosine(u: Tensor) -> Tensor:
    """Every coordinate matters equally."""
    return torch.cos(_normal(u).sum(-1) / math.sqrt(DIMENSION))


def exponential(u: Tensor) -> Tensor:
    """Likewise, and far from linear."""
    return torch.exp(_normal(u).sum(-1) / math.sqrt(DIMENSION))


#: Integrand, expectation, and whether the figure is asked of it: a lattice gains less
#: where all hundred coordinates matter equally.
GAUSSIAN = {
    "mean of a stock price": (asian, 1.0, True),
    "cos of the normed sum": (cosine, math.exp(-0.5), False),
    "exp of the normed sum": (exponential, math.exp(0.5), False),
}


def gaussian_rows() -> list[Row]:
    """Points of plain Monte Carlo over those of a lattice at equal error."""
    found = []
    for name, (function, exact, asked) in GAUSSIAN.items():
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(50_000, DIMENSION, dtype=D, generator=generator).clamp(
            1e-16, 1 - 1e-16
        )
        deviation = float(function(points).std()) / exact
        parts, best = [], 0.0
        for n in (2**10, 2**12):
            error = rms(function, exact, mlc.Lattice(n, 4))
            ratio = (deviation / error) ** 2 / (4 * n)
            parts.append(f"{4 * n} points: error {error:.1e}, ratio {ratio:.0f}")
            best = ratio
        found.append(
            row(
                f"d = 100 Gaussian expectation, {name}: evaluations MC / lattice",
                "at least 100" if asked else "for comparison",
                f"{best:.0f}",
                best >= 100 if asked else None,
                f"standard deviation {deviation:.3g} of one point; " + "; ".join(parts),
            )
        )
    return found


# --- torchquad's published sum of three Genz functions -----------------------------


def published_rows() -> list[Row]:
    """The sum in 10 dimensions."""
    integrand, closed_form = genz_sum(10)
    exact = float(closed_form())
    found = []
    for rule in (None, mlc.Lattice(2**14, 16), mlc.Sobol(2**14, 16)):
        rtol = None if rule else 1e-4
        start = time.perf_counter()
        estimate = mlc.integrate_with_error(integrand, unit_box(10), rule, rtol=rtol)
        seconds = time.perf_counter() - start
        error = abs(float(estimate.value) / exact - 1)
        found.append(
            row(
                "d = 10 sum of three Genz functions, "
                + (type(rule).__name__ if rule else "default call, rtol 1e-4"),
                "better than 4.8e-4",
                f"{error:.1e}",
                error < 4.8e-4,
                f"relative error, {int(estimate.n_evals)} points in {seconds:.2f} s; "
                f"error stated {float(estimate.error) / exact:.1e}",
            )
        )
    return found


# --- kinks and jumps ---------------------------------------------------------------


def kinked(dimension: int) -> tuple[Callable[[Tensor], Tensor], float]:
    """Genz's continuous family, difficulty 10 in all."""
    rate, place = 10 / dimension, 0.37

    def function(x: Tensor) -> Tensor:
        return torch.exp(-rate * (x - place).abs().sum(-1))

    one = (2 - math.exp(-rate * place) - math.exp(-rate * (1 - place))) / rate
    return function, one**dimension


def jumping(dimension: int) -> tuple[Callable[[Tensor], Tensor], float]:
    """Genz's discontinuous family: exp up to 0.7 on the first two axes, else 0."""
    rate, edge = 3 / dimension, 0.7

    def function(x: Tensor) -> Tensor:
        inside = (x[..., :2] < edge).all(-1)
        return torch.where(inside, torch.exp(rate * x.sum(-1)), 0.0)

    def part(upper: float) -> float:
        return math.expm1(rate * upper) / rate

    return function, part(edge) ** 2 * part(1.0) ** (dimension - 2)


def rough_rows() -> list[Row]:
    """Scrambled Sobol' against Monte Carlo and torchquad on as many points."""
    found = []
    for family, make in (("kinked", kinked), ("discontinuous", jumping)):
        for dimension in (2, 3, 5, 8):
            function, exact = make(dimension)
            n = 2**22
            start = time.perf_counter()
            estimate = mlc.integrate_with_error(
                function, unit_box(dimension), mlc.Sobol(n // 4, 4)
            )
            seconds = time.perf_counter() - start
            error = abs(float(estimate.value) / exact - 1)
            plain = mlc.integrate(function, unit_box(dimension), mlc.MonteCarlo(n))
            theirs = torchquad.Simpson().integrate(
                function,
                dimension,
                _odd_power(n, dimension),
                torch.tensor([[0.0, 1.0]] * dimension, dtype=D),
            )
            found.append(
                row(
                    f"{family} Genz, d = {dimension}: scrambled Sobol', 2^22 points",
                    "near 1e-6",
                    f"{error:.1e}",
                    error < 5e-6,
                    f"in {seconds * 1e3:.0f} ms, stated "
                    f"{float(estimate.error) / exact:.1e}; Monte Carlo "
                    f"{abs(float(plain) / exact - 1):.1e}, "
                    f"torchquad's Simpson {abs(float(theirs) / exact - 1):.1e}",
                )
            )
    return found


def _odd_power(n: int, dimension: int) -> int:
    """The largest power of an odd number up to n."""
    side = int(n ** (1 / dimension) + 1e-9)
    return (side - 1 + side % 2) ** dimension


def rows() -> Iterator[Row]:
    """All figures."""
    yield from gaussian_rows()
    yield from published_rows()
    yield from rough_rows()


def main() -> None:
    """Print them."""
    for each in rows():
        mark = {True: "met", False: "NOT MET", None: ""}[each["met"]]
        print(f"{each['name']}\n    asked {each['asked']}: {each['reached']} {mark}")
        print(f"    {each['how']}")


if __name__ == "__main__":
    main()
