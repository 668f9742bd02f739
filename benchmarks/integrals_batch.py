"""Many integrals in one call, a short rule, long rules, a network as integrand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import workloads
from figures import Row, Timed, as_time, figure
from peer import Call
from timing import extra_memory, medians, timer
from torch import Tensor

COUNT = 10_000
#: Of so many peaks, one goes into the loop of scipy.integrate.quad.
EVERY = 50

#: Nodes that torchquad's Boole needs to be right, of 201, 401, 1001, 2001 and 4001.
BOOLE_NODES = {1e-3: 4001, 2e-2: 201}


def rows(quadax: Call, quick: bool) -> Iterator[Row]:
    """All figures, from the quickest to measure to the slowest."""
    yield from _short(quick)
    yield from _long(quick)
    yield from _network(quick)
    for narrowest in BOOLE_NODES:
        for gradient in (False, True):
            yield from _peaks(quadax, narrowest, gradient, quick)


# --- peaks ----------------------------------------------------------------------------


def _peaks(quadax: Call, narrowest: float, gradient: bool, quick: bool) -> list[Row]:
    centre, width = workloads.peak_parameters(COUNT, narrowest)
    exact = _exact(centre, width)
    settings = {"count": COUNT, "narrowest": narrowest, "gradient": gradient}
    settings["n"] = BOOLE_NODES[narrowest]
    errors, timers, memory = {}, {}, {}
    for method in ("mlc", "torchquad"):
        call = workloads.peaks(method, **settings)
        errors[method] = _peak_error(call(), exact, width)
        timers[method] = timer(call)
        memory[method] = extra_memory(
            "workloads", "peaks", warm_up={"count": 10}, method=method, **settings
        )
    loop = workloads.scipy_peaks(centre[::EVERY], width[::EVERY], gradient)
    sampled = tuple(e[::EVERY] for e in exact)
    errors["scipy loop"] = _peak_error(loop(), sampled, width[::EVERY])
    timers["scipy loop"] = lambda calls: EVERY * timer(loop)(calls)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "peaks.npy", torch.stack((centre, width)).numpy())
        compiled = _add_quadax(
            quadax, place, gradient, exact, width, errors, timers, memory
        )
        seconds = medians(timers, 1 if quick else 3)
    timed = Timed(seconds, errors, 10 * workloads.PEAK_RTOL)
    return _peak_rows(timed, memory, compiled, narrowest, gradient)


def _exact(centre: Tensor, width: Tensor) -> tuple[Tensor, ...]:
    centre, width = centre.clone().requires_grad_(), width.clone().requires_grad_()
    values = workloads.exact_peaks(centre, width)
    gradients = torch.autograd.grad(values.sum(), (centre, width))
    return (values.detach(), *gradients)


def _peak_error(
    found: Sequence[Tensor], exact: Sequence[Tensor], width: Tensor
) -> float:
    """Largest error of any element: of values relative, of gradients to value / width.

    The gradient by the centre of a peak well inside is 0 but for the tails.
    """
    scales = (exact[0], exact[0] / width, exact[0] / width)
    return max(
        float(((f - e).abs() / s).max())
        for f, e, s in zip(found, exact, scales, strict=False)
    )


def _add_quadax(
    quadax: Call,
    place: Path,
    gradient: bool,
    exact: Sequence[Tensor],
    width: Tensor,
    errors: dict[str, float],
    timers: dict[str, Callable[[int], float]],
    memory: dict[str, float],
) -> str:
    """Add quadax's methods; say what compiling took."""
    compiled = []
    # Another, tanhsinh, is wrong by 200 at widths of 1e-3 and takes 14 times as long.
    for method in ("quadgk", "quadts"):
        call = partial(
            quadax,
            method=method,
            path=str(place / "peaks.npy"),
            rtol=workloads.PEAK_RTOL,
            gradient=gradient,
        )
        name, results = f"quadax {method}", str(place / f"{method}.npy")
        about = call("peaks", results=results)
        found = [torch.tensor(column) for column in np.load(results)]
        errors[name] = _peak_error(found, exact, width)
        memory[name] = about["memory"]
        timers[name] = lambda calls, call=call: call("time_peaks", calls=calls)
        compiled.append(f"{name} {as_time(about['compile_s'])}")
    return "compiled before: " + ", ".join(compiled)


def _peak_rows(
    timed: Timed,
    memory: dict[str, float],
    compiled: str,
    narrowest: float,
    gradient: bool,
) -> list[Row]:
    what = "forward and backward" if gradient else "forward"
    name = f"{COUNT} peaks of widths {narrowest:g} to 1, rtol 1e-6, {what}"
    rival = timed.fastest_right("mlc")
    row = timed.ratio(name, rival, "mlc", least=5 if gradient else 4)
    row["how"] += f"; scipy loop timed on one peak of {EVERY}; {compiled}"
    return [
        row,
        figure(
            f"{name}: extra memory",
            "below 200 MiB",
            f"{memory['mlc']:.0f} MiB",
            memory["mlc"] < 200,
            ", ".join(f"{m} {v:.0f} MiB" for m, v in memory.items()),
        ),
    ]


# --- fixed rules ----------------------------------------------------------------------


def _short(quick: bool) -> list[Row]:
    prepared = "mlc, rule and domain made before"
    methods = ("mlc", prepared, "bare", "torchquad")
    calls = {m: workloads.short(m) for m in methods}
    errors = {m: abs(float(c()) / workloads.BELL - 1) for m, c in calls.items()}
    rounds = 5 if quick else 25
    seconds = medians({m: timer(c) for m, c in calls.items()}, rounds)
    timed = Timed(seconds, errors, 1e-14)
    return [
        timed.ratio("one rule of 32 nodes", "mlc", "bare", most=3),
        timed.ratio("one rule of 32 nodes", prepared, "bare", most=3),
        timed.ratio("one rule of 32 nodes", "torchquad", "mlc", least=10),
    ]


def _long(quick: bool) -> list[Row]:
    n, floor = 10**7, "integrand alone, in blocks"
    methods = ("mlc", "single sweep", "torchquad", floor)
    calls = {m: workloads.long(m, n) for m in methods}
    errors = {m: abs(float(c()) / workloads.WAVES - 1) for m, c in calls.items()}
    seconds = medians({m: timer(c) for m, c in calls.items()}, 3 if quick else 7)
    memory = {
        m: extra_memory("workloads", "long", warm_up={"n": 100}, method=m, n=n)
        for m in calls
    }
    # The trapezoidal rule's own error here is (10 / n)^2 / 12 times a small difference.
    timed = Timed(seconds, errors, 100 / n**2)
    name = f"{n:.0e} nodes of exp(-x^2) cos 3x + sin(x)^2"
    return [
        timed.ratio(name, "single sweep", "mlc", least=3),
        timed.ratio(name, "torchquad", "mlc", least=5),
        # What no rule can do without; the rest is placing the nodes.
        {**timed.ratio(name, "mlc", floor, most=1), "asked": "", "met": None},
        figure(
            f"{name}: extra memory",
            "below 64 MiB",
            f"{memory['mlc']:.0f} MiB",
            memory["mlc"] < 64,
            ", ".join(f"{m} {v:.0f} MiB" for m, v in memory.items()),
        ),
    ]


# --- a network ------------------------------------------------------------------------


def _network(quick: bool) -> list[Row]:
    n = 10**5 if quick else 10**6
    calls = {m: workloads.network(m, n) for m in ("mlc", "plain autograd", "torchquad")}
    truth = calls["plain autograd"]()
    errors = {m: _network_error(c(), truth) for m, c in calls.items()}
    seconds = medians({m: timer(c) for m, c in calls.items()}, 3)
    timed = Timed(seconds, errors, 1e-10)
    name = f"2x64 network, {n:.0e} nodes, forward and backward"
    return [
        timed.ratio(name, "mlc", "plain autograd", most=1),
        timed.ratio(name, "mlc", "torchquad", most=1),
        *_network_memory(n, quick),
    ]


def _network_error(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    return max(
        float((f - t).abs().max() / t.abs().max())
        for f, t in zip(found, truth, strict=True)
    )


def _network_memory(n: int, quick: bool) -> list[Row]:
    measure = partial(extra_memory, "workloads", "network", warm_up={"n": 1000})
    sizes = (10**5, 10**6) if quick else (10**5, 10**6, 10**7)
    theirs = {m: measure(method=m, n=n) for m in ("plain autograd", "torchquad")}
    beside = ", ".join(f"{m} {v:.0f} MiB" for m, v in theirs.items())
    # Large blocks go back to the kernel when they are freed, so that what is left is
    # what is needed at one time, without the gaps that glibc keeps between blocks.
    mapped = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    name = "2x64 network: extra memory"
    return [
        _flat(name, measure, sizes, f"at {n:.0e} nodes: {beside}"),
        _flat(
            f"{name}, without what malloc keeps",
            partial(measure, environ=mapped),
            sizes,
            ", ".join(f"{key}={value}" for key, value in mapped.items()),
        ),
    ]


def _flat(
    name: str, measure: Callable[..., float], sizes: Sequence[int], how: str
) -> Row:
    ours = {size: measure(method="mlc", n=size) for size in sizes}
    spread = max(ours.values()) / min(ours.values())
    return figure(
        name,
        "flat within 20 % from 1e5 to 1e7 nodes, below 100 MiB",
        ", ".join(f"{size:.0e} nodes {v:.0f} MiB" for size, v in ours.items()),
        spread <= 1.2 and max(ours.values()) < 100,
        how,
    )
