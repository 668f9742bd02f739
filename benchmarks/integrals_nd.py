"""The default call in several dimensions, beside scipy, torchquad, vegas and quadax.

    python benchmarks/integrals_nd.py [--quick]

Every call that is timed has been checked first: the value against a closed form to the
tolerance, the gradient to ten times that. Everything runs in one thread, all in turns.
torchquad is given the smallest of many node counts that is right, which its user would
not know; a peer that takes 3 times as long as we do has lost the row and is not waited
for. quadax is compiled before, in the environment that ``make bench`` sets up for it.
Beside all stands what the integrand alone takes in torch, at the points we need.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torchquad
from peer import ROOT, Call, peer
from scipy import integrate as scipy_integrate
from timing import Timer, medians, timer
from torch import Tensor

import torch_mlcalc as mlc

sys.path.insert(0, str(ROOT / "tests"))
from problems_nd import DIFFICULTIES, FAMILIES, Problem, genz, genz_sum  # noqa: E402

try:
    import vegas
except ImportError:
    vegas = None

Row = dict[str, object]
JAX = ROOT / ".venv-jax" / "bin" / "python"
D = torch.float64

#: Node counts on each axis that torchquad is tried with.
COUNTS = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 150, 200, 300)
COUNTS_4 = (5, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257)

#: Largest number of points of a peer. One that took so many times as long as we do has
#: lost, and is not waited for.
MOST, LOST = 4_000_000, 3.0

#: Draws of a random peer all of which must be right: off by twice the tolerance in the
#: mean square it is right in every third, and 17 times as fast as with enough points.
DRAWS = 3


def row(name: str, asked: str, reached: str, met: bool | None, how: str) -> Row:
    """One figure; ``met`` is None where nothing was asked for."""
    return {"name": name, "asked": asked, "reached": reached, "met": met, "how": how}


def seconds(call: Callable[[], object], rounds: int = 5) -> float:
    """Median time of a call; a slow one is made once."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        if times[0] > 0.3:
            break
    return statistics.median(times)


# --- the Genz families --------------------------------------------------------------


class Ours(NamedTuple):
    """The default call on one problem.

    Attributes:
        clock: Its clock.
        alone: That of the integrand alone, on as many points in as many calls.
        right: Whether the value is right and known to be.
        sloped: Whether the gradient is right.
    """

    clock: Timer
    alone: Timer
    right: bool
    sloped: bool


def ours(problem: Problem, rtol: float) -> Ours:
    """The default call, checked."""
    theta = tuple(t.clone().requires_grad_() for t in problem.theta)
    estimate = mlc.integrate_with_error(
        lambda x: problem.integrand(x, *theta),
        problem.domain,
        rtol=rtol,
        on_failure="ignore",
    )
    exact = problem.value()
    right = bool((estimate.value - exact).abs() <= rtol * exact.abs())
    right &= int(estimate.status) == mlc.Status.CONVERGED
    slopes = torch.autograd.grad(estimate.value, theta, allow_unused=True)
    fine = True
    if problem.differentiable:
        for found, wanted in zip(slopes, problem.gradient(), strict=True):
            size = wanted.abs().max() + exact.abs()
            fine &= bool((found - wanted).abs().max() <= 10 * rtol * size)
    sizes: list[int] = []

    def integrand(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return problem.integrand(x, *problem.theta)

    def call(f: Callable[[Tensor], Tensor]) -> Tensor:
        return mlc.integrate(f, problem.domain, rtol=rtol, on_failure="ignore")

    call(integrand)
    points = torch.rand(max(sizes), problem.dimension, dtype=D)
    plain = lambda x: problem.integrand(x, *problem.theta)  # noqa: E731
    alone = timer(lambda: [plain(points[:n]) for n in sizes])
    return Ours(timer(lambda: call(plain)), alone, right, fine)


@dataclass(frozen=True)
class Rivals:
    """The peers on one problem: each has a clock if its value is right in time.

    Attributes:
        problem: The integral.
        rtol: Tolerance.
        patience: Seconds after which a peer has lost.
    """

    problem: Problem
    rtol: float
    patience: float

    def is_right(self, value: float) -> bool:
        """Whether the time for it counts."""
        exact = float(self.problem.value())
        return abs(value - exact) <= self.rtol * abs(exact)

    def first_right(
        self, calls: Iterable[Callable[[], float]], draws: int = 1
    ) -> Timer | None:
        """The clock of the first call that is right, if none before takes too long."""
        for call in calls:
            start = time.perf_counter()
            values = [call() for _ in range(draws)]
            taken = (time.perf_counter() - start) / draws
            if all(map(self.is_right, values)):
                return timer(call)
            if taken > self.patience:
                return None
        return None

    def clocks(self, quadax: Call | None) -> dict[str, Timer]:
        """All that are right."""
        found = {
            "scipy Genz-Malik": self.first_right(self._scipy("genz-malik")),
            "torchquad Gauss": self.first_right(
                self._torchquad(torchquad.GaussLegendre(), COUNTS)
            ),
            "torchquad Boole": self.first_right(
                self._torchquad(torchquad.Boole(), COUNTS_4)
            ),
            "torchquad Simpson": self.first_right(
                self._torchquad(torchquad.Simpson(), COUNTS_4)
            ),
        }
        if self.problem.dimension <= 3:
            found["scipy gk21"] = self.first_right(self._scipy("gk21"))
        if vegas is not None:
            found["vegas"] = self.first_right(self._vegas(), DRAWS)
        if quadax is not None:
            found["quadax"] = self._quadax(quadax)
        return {name: clock for name, clock in found.items() if clock}

    def _scipy(self, rule: str) -> Iterator[Callable[[], float]]:
        theta, d = self.problem.theta, self.problem.dimension

        def f(x: np.ndarray) -> np.ndarray:
            return self.problem.integrand(torch.from_numpy(x), *theta).numpy()

        def call(most: int) -> float:
            result = scipy_integrate.cubature(
                f,
                [0.0] * d,
                [1.0] * d,
                rule=rule,
                rtol=self.rtol,
                atol=0,
                max_subdivisions=most,
            )
            return float(result.estimate) if result.status == "converged" else math.nan

        return (partial(call, most) for most in (30, 300, 3000))

    def _torchquad(
        self, integrator: object, counts: Sequence[int]
    ) -> Iterator[Callable[[], float]]:
        d = self.problem.dimension

        def f(x: Tensor) -> Tensor:
            return self.problem.integrand(x, *self.problem.theta)

        def call(n: int) -> float:
            domain = [[0.0, 1.0]] * d
            return float(
                integrator.integrate(
                    f, dim=d, N=n**d, integration_domain=domain, backend="torch"
                )
            )

        return (partial(call, n) for n in counts if n**d <= MOST)

    def _vegas(self) -> Iterator[Callable[[], float]]:
        theta = self.problem.theta

        @vegas.lbatchintegrand
        def f(x: np.ndarray) -> np.ndarray:
            points = torch.from_numpy(np.ascontiguousarray(x))
            return self.problem.integrand(points, *theta)

        random = np.random.default_rng(0).random

        def call(count: int) -> float:
            map_ = vegas.Integrator(
                [[0.0, 1.0]] * self.problem.dimension, ran_array_generator=random
            )
            return float(map_(f, nitn=10, neval=count).mean)

        return (partial(call, count) for count in (1_000, 10_000, 100_000, 1_000_000))

    def _quadax(self, quadax: Call) -> Timer | None:
        options = {**_named(self.problem), "rtol": self.rtol}
        start = time.perf_counter()
        answer = quadax("solve", **options)
        taken = time.perf_counter() - start
        if not (answer["converged"] and self.is_right(answer["value"])):
            return None
        # The first call of a dimension compiles.
        if taken > self.patience and quadax("time_solve", **options, calls=1) > (
            self.patience
        ):
            return None
        return lambda calls: quadax("time_solve", **options, calls=calls)


def _named(problem: Problem) -> dict[str, object]:
    """A problem as the other process knows it."""
    a, *rest = (t.tolist() for t in problem.theta)
    family = problem.name.split("-")[0]
    return {"family": family, "a": a, "u": rest[0] if rest else a}


def check_twins(quadax: Call, problems: Iterable[Problem]) -> None:
    """Refuse to go on if a function is another one in JAX."""
    generator = torch.Generator().manual_seed(0)
    for problem in problems:
        x = torch.rand(20, problem.dimension, generator=generator, dtype=D)
        here = problem.integrand(x, *problem.theta)
        there = torch.tensor(quadax("at", **_named(problem), points=x.tolist()))
        if not torch.allclose(here, there, rtol=1e-9, atol=0):
            raise AssertionError(f"{problem.name} is another function in JAX.")


def genz_grid(quick: bool) -> list[tuple[Problem, float]]:
    """Problems and tolerances."""
    grid = []
    for d in (2, 3) if quick else (2, 3, 5, 8):
        difficulties = DIFFICULTIES[:1] if quick else DIFFICULTIES
        for family in FAMILIES:
            for difficulty in difficulties:
                for rtol in (1e-3, 1e-6) if d <= 5 else (1e-3,):
                    grid.append((genz(family, d, difficulty), rtol))
    return grid


def genz_rows(quick: bool, quadax: Call | None) -> list[Row]:
    """Share of rows on which the default call converges, is right, and is fastest."""
    grid = genz_grid(quick)
    if quadax is not None:
        check_twins(quadax, [problem for problem, _ in grid])
    right = sloped = faster = hopeless = 0
    slower: list[str] = []
    over: list[float] = []
    for problem, rtol in grid:
        own = ours(problem, rtol)
        right, sloped = right + own.right, sloped + own.sloped
        once = min(own.clock(1), own.clock(1))
        clocks = Rivals(problem, rtol, max(LOST * once, 0.02)).clocks(quadax)
        mine_too = {"ours": own.clock, "integrand": own.alone}
        times = medians({**mine_too, **clocks}, 5 if once < 0.02 else 1, burst=0.004)
        mine, alone = times.pop("ours"), times.pop("integrand")
        rivals = times or {"nobody": math.inf}
        best = min(rivals, key=rivals.__getitem__)
        faster += mine <= rivals[best]
        hopeless += alone > rivals[best]
        over.append(mine / alone)
        ratio = mine / rivals[best]
        slower += [f"{problem.name} {rtol:g}: {ratio:.1f} ({best})"] * (ratio > 2)
        shown = ", ".join(f"{k} {v * 1e3:.3g}" for k, v in rivals.items())
        mark = "" if own.right and own.sloped else " WRONG"
        line = f"{problem.name} {rtol:g}: {mine * 1e3:.3g} ms, integrand alone "
        line += f"{alone * 1e3:.3g}; {shown}{mark}"
        print(line, file=sys.stderr, flush=True)
    n = len(grid)
    names = ["scipy.integrate.cubature", "torchquad"]
    names += ["vegas"] * (vegas is not None) + ["quadax"] * (quadax is not None)
    note = f"{n} rows, medians in one thread; {', '.join(names)}"
    alone_note = "at the same number of points in the same number of calls; " + note
    return [
        row("Genz rows right", f"{n}", f"{right}", right == n, note),
        row("Genz gradients right", f"{n}", f"{sloped}", sloped == n, note),
        row(
            "Genz rows faster than every peer",
            "90 %",
            f"{100 * faster / n:.0f} %",
            faster >= 0.9 * n,
            note,
        ),
        row(
            "Genz rows over 2 times slower",
            "0",
            f"{len(slower)}",
            not slower,
            "; ".join(slower) or note,
        ),
        row(
            "Genz rows on which a peer is faster than our integrand alone",
            "",
            f"{hopeless}",
            None,
            alone_note,
        ),
        row(
            "Genz rows: our time over that of the integrand alone",
            "",
            f"median {statistics.median(over):.1f}, at most {max(over):.1f}",
            None,
            alone_note,
        ),
    ]


# --- single figures -----------------------------------------------------------------


def sum_rows() -> list[Row]:
    """Torchquad's published sum of three families."""
    found = []
    for d, most, evals in ((3, 8.3e-12, 1_000_000), (6, 2.9e-5, 2_400_000)):
        f, exact = genz_sum(d)
        box = mlc.Box(torch.zeros(d, dtype=D), torch.ones(d, dtype=D))
        estimate = mlc.integrate_with_error(f, box, rtol=1e-13 if d == 3 else 1e-6)
        error, n = float((estimate.value - exact()).abs()), int(estimate.n_evals)
        found.append(
            row(
                f"sum of three Genz functions, d = {d}",
                f"{most:.1e} with {evals:.1e} points",
                f"{error:.1e} with {n:.1e}",
                error < most and n < evals,
                "default rule, against the closed form",
            )
        )
    return found


def sine_row() -> Row:
    """The sine of the sum over [0, 10]^6."""
    box = mlc.Box(torch.zeros(6, dtype=D), torch.full((6,), 10.0, dtype=D))
    exact = math.sin(30) * (2 * math.sin(5)) ** 6
    call = lambda: mlc.integrate_with_error(  # noqa: E731
        lambda x: torch.sin(x.sum(-1)), box, rtol=1e-9
    )
    estimate = call()
    error = abs(float(estimate.value) / exact - 1)
    taken = seconds(call, 1)
    return row(
        "sine of the sum over [0, 10]^6",
        "1e-9 in 1 s",
        f"{error:.1e} in {taken:.2f} s",
        error < 1e-9 and taken < 1,
        f"default rule, {int(estimate.n_evals)} nodes, one thread",
    )


def batch_row() -> Row:
    """A thousand different integrals in one call, against a loop over scipy."""
    generator = torch.Generator().manual_seed(0)
    a = 0.5 + 4 * torch.rand(1000, 3, generator=generator, dtype=D)

    def f(x: Tensor, a: Tensor) -> Tensor:
        return torch.exp(-(a * x).square().sum(-1))

    box = mlc.Box(0.0, 1.0, dimension=3)
    call = lambda: mlc.integrate(  # noqa: E731
        f, box, args=(a,), batch_shape=(1000,), rtol=1e-4
    )
    exact = (math.sqrt(math.pi) / (2 * a) * torch.erf(a)).prod(-1)
    right = bool(((call() - exact).abs() <= 1e-4 * exact).all())

    def one(i: int) -> float:
        own = a[i].numpy()
        return scipy_integrate.cubature(
            lambda x: np.exp(-((own * x) ** 2).sum(-1)),
            [0.0] * 3,
            [1.0] * 3,
            rule="genz-malik",
            rtol=1e-4,
        ).estimate

    loop = 50 * seconds(lambda: [one(i) for i in range(0, 1000, 50)], 3)
    ratio = loop / seconds(call)
    return row(
        "1000 integrals in 3 dimensions",
        "50 times faster than a loop over scipy",
        f"{ratio:.0f} times",
        right and ratio >= 50,
        "rtol=1e-4, checked to 1e-4; every 50th for scipy",
    )


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)]
    return torch.nn.Sequential(*layers).double()


def _training_step(which: str, queue: multiprocessing.Queue) -> None:
    """Forward and backward through 1e6 nodes: seconds, MiB, value and slope."""
    torch.set_num_threads(1)
    network = _network()
    f = lambda x: network(x)[..., 0]  # noqa: E731

    def step(n: int) -> Tensor:
        if which == "ours":
            box = mlc.Box(torch.zeros(3, dtype=D), torch.ones(3, dtype=D))
            value = mlc.integrate(f, box, mlc.Product(mlc.GaussLegendre(n)))
        else:
            value = torchquad.GaussLegendre().integrate(
                f, 3, n**3, torch.tensor([[0.0, 1.0]] * 3, dtype=D), backend="torch"
            )
        network.zero_grad()
        value.backward()
        return value

    step(10)
    before = _peak()
    start = time.perf_counter()
    value = step(100)
    taken = time.perf_counter() - start
    slope = float(network[0].weight.grad.sum())
    queue.put((taken, _peak() - before, float(value), slope))


def _peak() -> float:
    """Largest resident memory so far, in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def training_row() -> Row:
    """A training step through a million nodes, against torchquad."""
    context = multiprocessing.get_context("spawn")
    results = {}
    for which in ("ours", "torchquad"):
        queue = context.Queue()
        process = context.Process(target=_training_step, args=(which, queue))
        process.start()
        results[which] = queue.get()
        process.join()
    (t1, m1, v1, s1), (t2, m2, v2, s2) = results["ours"], results["torchquad"]
    same = abs(v1 / v2 - 1) < 1e-9 and abs(s1 / s2 - 1) < 1e-9
    return row(
        "training step, network, 1e6 nodes in 3 dimensions",
        "memory of a block, time not above torchquad",
        f"{m1:.0f} MiB in {t1:.2f} s; torchquad {m2:.0f} MiB in {t2:.2f} s",
        same and t1 <= t2 and m1 < 100,
        "same nodes, values and slopes equal to 1e-9, one thread",
    )


def rows(quick: bool = False) -> Iterator[Row]:
    """All figures."""
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    try:
        torch.set_num_threads(1)
        yield sine_row()
        yield from sum_rows()
        yield batch_row()
        yield training_row()
        # One thread for the compiled program too.
        one = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
        place = peer(JAX, "quadax_cubature_server.py", one)
        with place if JAX.exists() else nullcontext() as quadax:
            yield from genz_rows(quick, quadax)
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="easy rows only")
    for found in rows(parser.parse_args().quick):
        met = {True: "met", False: "NOT MET", None: ""}[found["met"]]
        print(f"{found['name']}: {found['asked']} | {found['reached']} {met}")
        print(f"    {found['how']}")


if __name__ == "__main__":
    main()
