"""Many integrals in one call, a short rule, long rules, a network as integrand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
import workloads
from figures import Row, Timed, as_time, figure
from peer import Call
from timing import extra_memories, keeping, medians, timer
from torch import Tensor

COUNT = 10_000
#: Of so many peaks, one goes into the loop of scipy.integrate.quad.
EVERY = 50

#: Methods of quadax, with a gradient or without, where quadgk takes twice as long as
#: quadts. Another, tanhsinh, is wrong by 200 at widths of 1e-3 and takes 14 times
#: as long.
QUADAX = {False: ("quadts",), True: ("quadgk", "quadts")}

#: Nodes that torchquad's Boole needs to be right, of 201, 401, 1001, 2001 and 4001.
BOOLE_NODES = {1e-3: 4001, 2e-2: 201}


def rows(quadax: Call, quick: bool) -> Iterator[Row]:
    """All figures, from the quickest to measure to the slowest."""
    yield from _short(quick)
    yield from _replayed(quick)
    yield from _long(quick)
    yield from _network(quick)
    for narrowest in BOOLE_NODES:
        for gradient in (False, True):
            yield from _peaks(quadax, narrowest, gradient, quick)


# --- peaks ----------------------------------------------------------------------------


def _peaks(quadax: Call, narrowest: float, gradient: bool, quick: bool) -> list[Row]:
    centre, width = workloads.peak_parameters(COUNT, narrowest)
    settings = {"count": COUNT, "narrowest": narrowest, "gradient": gradient}
    settings["n"] = BOOLE_NODES[narrowest]
    methods = ("mlc", "torchquad")
    calls = {method: workloads.peaks(method, **settings) for method in methods}
    calls["scipy loop"] = workloads.scipy_peaks(
        centre[::EVERY], width[::EVERY], gradient
    )
    timers, found = keeping(calls)
    loop = timers["scipy loop"]
    timers["scipy loop"] = lambda count: EVERY * loop(count)
    # Where the peaks are wide it is the same: blocks of nodes of 10 000 integrals.
    memory = {}
    if narrowest == min(BOOLE_NODES):
        memory = _memory_of("peaks", methods, {"count": 10}, **settings)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.save(place / "peaks.npy", torch.stack((centre, width)).numpy())
        compiled = _add_quadax(quadax, place, gradient, found, timers, memory)
        seconds = medians(timers, 1 if quick else 3)
    exact = _exact(centre, width)
    errors = {}
    for method, values in found.items():
        few = slice(None, None, EVERY if method == "scipy loop" else 1)
        errors[method] = _peak_error(values, [e[few] for e in exact], width[few])
    timed = Timed(seconds, errors, 10 * workloads.PEAK_RTOL)
    return _peak_rows(timed, memory, compiled, narrowest, gradient)


def _memory_of(
    prepare: str, methods: Sequence[str], warm_up: dict[str, int], **settings: object
) -> dict[str, float]:
    variants = [{"method": method, **settings} for method in methods]
    found = extra_memories("workloads", prepare, variants, warm_up=warm_up)
    return dict(zip(methods, found, strict=True))


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
    found: dict[str, Sequence[Tensor]],
    timers: dict[str, Callable[[int], float]],
    memory: dict[str, float],
) -> str:
    """Add quadax's methods; say what compiling took."""
    compiled = []
    for method in QUADAX[gradient]:
        call = partial(
            quadax,
            method=method,
            path=str(place / "peaks.npy"),
            rtol=workloads.PEAK_RTOL,
            gradient=gradient,
        )
        name, results = f"quadax {method}", str(place / f"{method}.npy")
        about = call("peaks", results=results)
        found[name] = [torch.tensor(column) for column in np.load(results)]
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
    if "mlc" not in memory:
        return [row]
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


def _replayed(quick: bool) -> list[Row]:
    found = []
    for count, name in ((0, "one integral"), (1000, "1000 integrals")):
        pairs = {m: workloads.replay(m, count) for m in ("mlc", "bare")}
        errors = {m: float((c() / e - 1).abs().max()) for m, (c, e) in pairs.items()}
        clocks = {m: timer(call) for m, (call, _) in pairs.items()}
        timed = Timed(medians(clocks, 5 if quick else 25), errors, 1e-8)
        row = timed.ratio(f"a replayed plan of {name}", "mlc", "bare", most=3)
        found.append({**row, "asked": "", "met": None})
    return found


def _long(quick: bool) -> list[Row]:
    n, floor = 10**7, "integrand alone, in blocks"
    methods = ("mlc", "single sweep", "torchquad", floor)
    timers, found = keeping({m: workloads.long(m, n) for m in methods})
    seconds = medians(timers, 3 if quick else 7)
    errors = {m: abs(float(value) / workloads.WAVES - 1) for m, value in found.items()}
    memory = _memory_of("long", methods, {"n": 100}, n=n)
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
    methods = ("mlc", "plain autograd", "torchquad")
    timers, found = keeping({m: workloads.network(m, n) for m in methods})
    # A call takes seconds.
    seconds = medians(timers, 2)
    truth = found["plain autograd"]
    errors = {m: _network_error(found[m], truth) for m in methods}
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
    measure = partial(extra_memories, "workloads", "network", warm_up={"n": 1000})
    sizes = (10**5, 10**6) if quick else (10**5, 10**6, 10**7)
    ours = [{"method": "mlc", "n": size} for size in sizes]
    rivals = ("plain autograd", "torchquad")
    # Large blocks go back to the kernel when they are freed, so that what is left is
    # what is needed at one time, without the gaps that glibc keeps between blocks.
    mapped = {"MALLOC_MMAP_THRESHOLD_": "65536"}
    # Beside each other, as nothing is timed; threads that wait leave the cores alone.
    beside = {"OMP_WAIT_POLICY": "PASSIVE"}
    with ThreadPoolExecutor() as pool:
        trimmed = pool.submit(measure, ours, environ=beside | mapped)
        theirs = measure(
            [{"method": method, "n": n} for method in rivals], environ=beside
        )
        kept = measure(ours, environ=beside)
    pairs = zip(rivals, theirs, strict=True)
    said = ", ".join(f"{method} {value:.0f} MiB" for method, value in pairs)
    name = "2x64 network: extra memory"
    return [
        _flat(name, sizes, kept, f"at {n:.0e} nodes: {said}"),
        _flat(
            f"{name}, without what malloc keeps",
            sizes,
            trimmed.result(),
            ", ".join(f"{key}={value}" for key, value in mapped.items()),
        ),
    ]


def _flat(name: str, sizes: Sequence[int], found: Sequence[float], how: str) -> Row:
    pairs = zip(sizes, found, strict=True)
    return figure(
        name,
        "flat within 20 % from 1e5 to 1e7 nodes, below 100 MiB",
        ", ".join(f"{size:.0e} nodes {value:.0f} MiB" for size, value in pairs),
        max(found) <= 1.2 * min(found) and max(found) < 100,
        how,
    )
