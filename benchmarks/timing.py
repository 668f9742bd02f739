"""Medians of calls that take turns, and the memory that a call needs."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Runs a call so many times and returns the seconds per call; a peer in another
#: process has its own clock.
Timer = Callable[[int], float]


def timer(call: Callable[[], object]) -> Timer:
    """The clock of a call in this process."""

    def clock(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls

    return clock


def medians(
    timers: Mapping[str, Timer], rounds: int = 9, burst: float = 0.02
) -> dict[str, float]:
    """Median seconds per call of each.

    In every round each has a burst of calls, so that a disturbance of the machine meets
    all of them alike. A burst lasts about ``burst`` seconds, or one call. What takes
    seconds, and ten times as long as the fastest, is called once.
    """
    once = {}
    for name, clock in timers.items():
        first = clock(1)
        # The first call may have set things up; a long one has not only done that.
        once[name] = first if first > 50 * burst else clock(1)
    hopeless = max(50 * burst, 10 * min(once.values()))
    seconds = {name: [each] for name, each in once.items() if each > hopeless}
    turns = {name: timers[name] for name in timers if name not in seconds}
    seconds.update({name: [] for name in turns})
    for _ in range(rounds):
        for name, clock in turns.items():
            seconds[name].append(clock(max(1, round(burst / once[name]))))
    return {name: statistics.median(seconds[name]) for name in timers}


def keeping(
    calls: Mapping[str, Callable[[], Any]],
) -> tuple[dict[str, Timer], dict[str, Any]]:
    """The clocks of calls, and what each of them has last returned.

    So what takes seconds need not be called once more to see whether it is right.
    """
    results: dict[str, Any] = {}

    def kept(name: str) -> Timer:
        return timer(lambda: results.__setitem__(name, calls[name]()))

    return {name: kept(name) for name in calls}, results


def extra_memory(
    module: str,
    prepare: str,
    *,
    warm_up: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
    **settings: object,
) -> float:
    """MiB that the call ``module.prepare(**settings)()`` needs beyond what was there.

    In a fresh process, because in an old one a call reuses what earlier calls left to
    the allocator and so seems to need less. The kernel's own high-water mark of the
    resident set (VmHWM), reset just before the call, misses no short peak, as a thread
    that looks now and then would. A small call first, with the settings in ``warm_up``
    put in, loads the libraries and starts the threads that every call needs.
    """
    return extra_memories(
        module, prepare, [settings], warm_up=warm_up, environ=environ
    )[0]


def extra_memories(
    module: str,
    prepare: str,
    variants: Sequence[Mapping[str, object]],
    *,
    warm_up: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
) -> list[float]:
    """That of several calls, whose processes are forked from one that has torch."""
    requests = [[variant, {**variant, **warm_up}] for variant in variants]
    answer = subprocess.run(
        [sys.executable, Path(__file__), json.dumps([module, prepare, requests])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environ or {})},
    )
    if answer.returncode:
        raise RuntimeError(answer.stderr.strip().splitlines()[-1])
    return [float(line) for line in answer.stdout.splitlines()[-len(variants) :]]


def high_water(call: Callable[[], object]) -> float:
    """MiB by which the resident set rises during a call, at its highest."""
    # Freed memory that the allocator still holds would be used without being counted.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"the kernel does not tell {key}")


def _main() -> None:
    module, prepare, requests = json.loads(sys.argv[1])
    # Only imported: what has computed has threads, which a fork does not take along.
    prepare_call = getattr(importlib.import_module(module), prepare)
    for settings, warm_up in requests:
        child = os.fork()
        if not child:
            prepare_call(**warm_up)()
            print(high_water(prepare_call(**settings)), flush=True)
            return
        if os.waitpid(child, 0)[1]:
            raise SystemExit(1)


if __name__ == "__main__":
    _main()
