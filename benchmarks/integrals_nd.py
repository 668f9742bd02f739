"""Deterministic rules in several dimensions, beside scipy, torchquad and vegas.

    python benchmarks/integrals_nd.py [--quick]

Every call that is timed has been checked first: the value against a closed form to the
tolerance, the gradient to ten times that. Everything runs in one thread, peers in turns
with us, once each. torchquad is given the smallest of many node counts that is right,
which its user would not know.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torchquad
from scipy import integrate as scipy_integrate
from torch import Tensor

import torch_mlcalc as mlc

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from problems_nd import DIFFICULTIES, FAMILIES, Problem, genz, genz_sum  # noqa: E402

try:
    import vegas
except ImportError:
    vegas = None

Row = dict[str, object]
D = torch.float64

#: Node counts on each axis that torchquad is tried with.
COUNTS = (2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50, 64, 80, 100, 150, 200, 300)
#: Largest number of points of a peer, and how long it may take.
MOST, PATIENCE = 4_000_000, 4.0


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


def ours(problem: Problem, rtol: float) -> tuple[float, bool, bool]:
    """Seconds, whether the value is right and known to be, and the gradient."""
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
    call = lambda: mlc.integrate(  # noqa: E731
        lambda x: problem.integrand(x, *problem.theta),
        problem.domain,
        rtol=rtol,
        on_failure="ignore",
    )
    return seconds(call), right, fine


def peers(problem: Problem, rtol: float) -> Iterator[tuple[str, float]]:
    """Seconds of each peer that gets the value right."""
    exact = float(problem.value())

    def right(value: float) -> bool:
        return abs(value - exact) <= rtol * abs(exact)

    yield "scipy", _scipy(problem, rtol, right)
    yield "torchquad", _torchquad(problem, right)
    if vegas is not None:
        yield "vegas", _vegas(problem, right)


def _scipy(problem: Problem, rtol: float, right: Callable[[float], bool]) -> float:
    theta = problem.theta

    def f(x: np.ndarray) -> np.ndarray:
        return problem.integrand(torch.from_numpy(x), *theta).numpy()

    d, best = problem.dimension, math.inf
    rules = ["genz-malik"] if d > 3 else ["genz-malik", "gk21"]
    for rule in rules:
        call = lambda rule=rule: scipy_integrate.cubature(  # noqa: E731
            f,
            [0.0] * d,
            [1.0] * d,
            rule=rule,
            rtol=rtol,
            atol=0,
            max_subdivisions=3000,
        )
        start = time.perf_counter()
        result = call()
        once = time.perf_counter() - start
        if result.status == "converged" and right(float(result.estimate)):
            best = min(best, once if once > 0.3 else seconds(call))
    return best


def _torchquad(problem: Problem, right: Callable[[float], bool]) -> float:
    d, best = problem.dimension, math.inf
    domain = [[0.0, 1.0]] * d

    def f(x: Tensor) -> Tensor:
        return problem.integrand(x, *problem.theta)

    grids = (torchquad.GaussLegendre(), torchquad.Boole(), torchquad.Simpson())
    for integrator in grids:
        for n in COUNTS:
            if n**d > MOST or (integrator is not grids[0] and (n < 5 or n % 4 != 1)):
                continue
            call = lambda n=n, g=integrator: g.integrate(  # noqa: E731
                f, dim=d, N=n**d, integration_domain=domain, backend="torch"
            )
            start = time.perf_counter()
            value = float(call())
            once = time.perf_counter() - start
            if right(value):
                best = min(best, once if once > 0.3 else seconds(call))
                break
            if once > PATIENCE or once > 4 * best:
                break
    return best


def _vegas(problem: Problem, right: Callable[[float], bool]) -> float:
    theta = problem.theta

    @vegas.lbatchintegrand
    def f(x: np.ndarray) -> np.ndarray:
        return problem.integrand(torch.from_numpy(np.ascontiguousarray(x)), *theta)

    for count in (1_000, 10_000, 100_000, 1_000_000):

        def call(count: int = count) -> float:
            map_ = vegas.Integrator([[0.0, 1.0]] * problem.dimension)
            return float(map_(f, nitn=10, neval=count).mean)

        start = time.perf_counter()
        value = call()
        once = time.perf_counter() - start
        if right(value):
            return once
        if once > PATIENCE:
            break
    return math.inf


def genz_rows(quick: bool) -> list[Row]:
    """Share of rows on which the default call converges, is right, and is fastest."""
    table, grid = [], []
    for d in (2, 3) if quick else (2, 3, 5, 8):
        for family in FAMILIES:
            for difficulty in DIFFICULTIES[:1] if quick else DIFFICULTIES:
                for rtol in (1e-3, 1e-6) if d <= 5 else (1e-3,):
                    grid.append((genz(family, d, difficulty), rtol))
    right = sloped = faster = twice = 0
    how = []
    for problem, rtol in grid:
        own, value, gradient = ours(problem, rtol)
        right, sloped = right + value, sloped + gradient
        others = dict(peers(problem, rtol))
        best = min(others.values())
        faster += own <= best
        twice += own > 2 * best
        shown = ", ".join(f"{k} {v * 1e3:.3g}" for k, v in others.items())
        mark = "" if value and gradient else " WRONG"
        line = f"{problem.name} {rtol:g}: {own * 1e3:.3g} ms; {shown}{mark}"
        how.append(line)
        print(line, file=sys.stderr, flush=True)
    n = len(grid)
    names = "scipy.integrate.cubature, torchquad" + (", vegas" if vegas else "")
    note = f"{n} rows, medians in one thread; {names}"
    table += [
        row("Genz rows right", f"{n}", f"{right}", right == n, note),
        row("Genz gradients right", f"{n}", f"{sloped}", sloped == n, note),
        row(
            "Genz rows faster than every peer",
            "90 %",
            f"{100 * faster / n:.0f} %",
            faster >= 0.9 * n,
            note,
        ),
        row("Genz rows over 2 times slower", "0", f"{twice}", twice == 0, note),
    ]
    return table


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
    rule = mlc.Product(mlc.GaussLegendre(14))
    exact = math.sin(30) * (2 * math.sin(5)) ** 6
    call = lambda: mlc.integrate(lambda x: torch.sin(x.sum(-1)), box, rule)  # noqa: E731
    error = abs(float(call()) / exact - 1)
    taken = seconds(call, 1)
    return row(
        "sine of the sum over [0, 10]^6",
        "1e-9 in 1 s",
        f"{error:.1e} in {taken:.2f} s",
        error < 1e-9 and taken < 1,
        "Product(GaussLegendre(14)), 7,529,536 nodes, one thread",
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


def rows(quick: bool = False) -> list[Row]:
    """All figures."""
    before, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    try:
        torch.set_num_threads(1)
        found = [sine_row(), *sum_rows(), batch_row(), training_row()]
        found += genz_rows(quick)
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)
    return found


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
