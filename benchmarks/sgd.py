"""Steps of SGD against the best of torch's loop, foreach and fused: ratios of medians.

Run ``python benchmarks/sgd.py``; ``--quick`` takes fewer rounds and smaller tensors.
In every round each method has a burst of steps in turn, after one that is not timed,
so that a disturbance of the machine meets all of them alike. No time counts before
three steps of the method have given the numbers of torch's loop.
"""

from __future__ import annotations

import argparse
import operator
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.optim.fused import MIN_ELEMENTS

TITLE = "SGD"
Row = dict[str, Any]
Options = dict[str, Any]

#: Bytes that a step has to read and write for each parameter.
BYTES = {"plain": 12, "momentum": 20}
MOMENTUM = {"plain": 0.0, "momentum": 0.9}
TORCH: dict[str, Options] = {
    "torch loop": dict(foreach=False),
    "torch foreach": dict(foreach=True),
    "torch fused": dict(fused=True),
}


def one_large(quick: bool) -> list[tuple[int, ...]]:
    """Shape of one tensor that no cache holds."""
    return [(2_000_000 if quick else 20_000_000,)]


def resnet50(quick: bool) -> list[tuple[int, ...]]:
    """Shapes of the 161 parameters of ResNet-50, in its order."""
    shapes: list[tuple[int, ...]] = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            for kernel, n_in, n_out in (
                (1, channels, width),
                (3, width, width),
                (1, width, 4 * width),
            ):
                shapes += [(n_out, n_in, kernel, kernel), (n_out,), (n_out,)]
            if block == 0:
                shapes += [(4 * width, channels, 1, 1), (4 * width,), (4 * width,)]
            channels = 4 * width
    shapes += [(1000, 2048), (1000,)]
    if len(shapes) != 161:
        raise AssertionError(f"ResNet-50 has 161 parameters, not {len(shapes)}")
    return shapes


def many_small(quick: bool) -> list[tuple[int, ...]]:
    """Shapes of many tensors that a cache holds together."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(16, 1025, (2000,), generator=generator)
    return [(size,) for size in sizes.tolist()]


#: Shapes, most times the time of torch's best (large) or least times faster (small).
WORKLOADS: dict[str, tuple[Callable[[bool], list[tuple[int, ...]]], Options]] = {
    "one tensor of 20 M": (one_large, {"default": ("at most", 1.05)}),
    "161 tensors of ResNet-50": (resnet50, {"default": ("at most", 1.05)}),
    "2000 tensors of 16 to 1024": (
        many_small,
        {"default": ("at least", 3), "flat": ("at least", 8)},
    ),
}


#: What bounds the time of a method from below, and how it is made.
FLOORS = {"default": "bare kernels", "flat": "flat loops"}


def make_params(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """Return parameters with gradients, the same values at each call."""
    generator = torch.Generator().manual_seed(1)
    params = []
    for shape in shapes:
        param = torch.randn(shape, generator=generator).requires_grad_()
        param.grad = torch.randn(shape, generator=generator)
        params.append(param)
    return params


def kernel(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor]
) -> Callable[[], None]:
    """The fastest kernel on lists made beforehand, with no Python around."""
    factor = torch.tensor(0.9)
    large = all(param.numel() >= MIN_ELEMENTS for param in params)

    def step() -> None:
        if buffers and (large or torch.get_num_threads() == 1):
            _fused(params, grads, buffers, 0.9)
        elif not buffers and not large and torch.get_num_threads() == 1:
            _fused(params, grads, buffers, 0.0)
        else:
            if buffers:
                torch._foreach_mul_(buffers, factor)
                torch._foreach_add_(buffers, grads)
            torch._foreach_add_(params, buffers or grads, alpha=-1e-3)

    return torch.no_grad()(step)


def _fused(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], momentum: float
) -> None:
    torch._fused_sgd_(
        params,
        grads,
        buffers,
        weight_decay=0,
        momentum=momentum,
        lr=1e-3,
        dampening=0,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


def bare_floor(params: list[Tensor], momentum: float) -> Callable[[], None]:
    """What no step of separate tensors can do without: a kernel for each of them."""
    grads = [param.grad for param in params if param.grad is not None]
    return kernel(params, grads, [grad.clone() for grad in grads] if momentum else [])


def flat_floor(params: list[Tensor], momentum: float) -> Callable[[], None]:
    """What no flat step can do without: a few C loops and one kernel.

    Any gradient may be missing, any gradient and momentum may be another tensor than
    at the step before, and all of them and the parameters may be elsewhere in memory,
    which only looking at each shows; and autograd has to be told what has changed.
    """
    optimizer = mlc.SGD(params, lr=1e-3, momentum=momentum, flat=True)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    grads = [param.grad for param in params]
    states = list(optimizer.state.values())
    buffers = [state["momentum_buffer"] for state in states]
    blocks = [
        torch.empty(0).set_(tensors[0].untyped_storage())
        for tensors in (params, grads, buffers)
        if tensors
    ]
    tensors = [*params, *grads, *buffers]
    places = list(map(Tensor.data_ptr, tensors))
    gradient = operator.attrgetter("grad")
    buffer = operator.itemgetter("momentum_buffer")
    update = kernel(blocks[:1], blocks[1:2], blocks[2:])

    def step() -> None:
        same = (
            all(map(operator.is_, map(gradient, params), grads))
            and all(map(operator.is_, map(buffer, states), buffers))
            and list(map(Tensor.data_ptr, tensors)) == places
        )
        if not same:
            raise AssertionError("the floor is that of a step at which nothing moved")
        update()
        torch.autograd.graph.increment_version(params)

    return step


def make_steps(
    shapes: list[tuple[int, ...]], kind: str, ours: list[str]
) -> dict[str, Callable[[], object]]:
    """Return a step of each method, each with tensors of its own, checked."""
    options = dict(lr=1e-3, momentum=MOMENTUM[kind])
    reference = make_params(shapes)
    loop = torch.optim.SGD(reference, **options, foreach=False)
    for _ in range(3):
        loop.step()
    steps: dict[str, Callable[[], object]] = {}
    methods = [(name, torch.optim.SGD, more) for name, more in TORCH.items()]
    methods += [(name, mlc.SGD, dict(flat=name == "flat")) for name in ours]
    for name, cls, more in methods:
        params = make_params(shapes)
        optimizer = cls(params, **options, **more)
        if name == "flat":
            # Gradients become views of the block; the values are put back.
            grads = [param.grad for param in params]
            optimizer.zero_grad(set_to_none=False)
            for param, grad in zip(params, grads, strict=True):
                param.grad.copy_(grad)
        for _ in range(3):
            optimizer.step()
        for param, expected in zip(params, reference, strict=True):
            torch.testing.assert_close(param, expected, rtol=1e-6, atol=1e-6)
        steps[name] = optimizer.step
    return steps


def medians(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each step; they take turns."""
    calls = {}
    for name, step in steps.items():
        step()
        start = time.perf_counter()
        step()
        # Bursts of some 20 milliseconds.
        calls[name] = max(1, round(0.02 / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()
            start = time.perf_counter()
            for _ in range(calls[name]):
                step()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return {name: statistics.median(times) for name, times in seconds.items()}


def measure(
    name: str, kind: str, quick: bool, rounds: int
) -> tuple[dict[str, float], dict[str, float], int]:
    """Return the medians, the floor and copy times among them, and all elements."""
    make, figures = WORKLOADS[name]
    shapes = make(quick)
    steps = make_steps(shapes, kind, list(figures))
    total = sum(torch.Size(shape).numel() for shape in shapes)
    extra: dict[str, Callable[[], object]] = {}
    if "flat" in figures:
        extra[FLOORS["default"]] = bare_floor(make_params(shapes), MOMENTUM[kind])
        extra[FLOORS["flat"]] = flat_floor(make_params(shapes), MOMENTUM[kind])
    source, target = torch.ones(total), torch.zeros(total)
    extra["copy"] = lambda: target.copy_(source)
    times = medians({**steps, **extra}, rounds)
    return {k: times[k] for k in steps}, {k: times[k] for k in extra}, total


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run with a number of threads, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def rows(quick: bool = False) -> list[Row]:
    """Every figure asked for: its name, what was asked, what was reached, and how."""
    found: list[Row] = []
    rounds = 3 if quick else 15
    for number in (1, 2):
        for name in WORKLOADS:
            for kind in MOMENTUM:
                with threads(number):
                    measured = measure(name, kind, quick, rounds)
                found += _rows(f"{name}, {kind}, threads {number}", name, *measured)
    return found


def _rows(
    label: str,
    workload: str,
    times: dict[str, float],
    extra: dict[str, float],
    total: int,
) -> list[Row]:
    best = min(TORCH, key=times.__getitem__)
    kind = "momentum" if "momentum" in label else "plain"
    all_times = {**times, **extra}
    listed = ", ".join(f"{k} {t * 1e3:.3g} ms" for k, t in all_times.items())
    found = []
    for method, (word, figure) in WORKLOADS[workload][1].items():
        # A copy moves 8 bytes for each element.
        share = BYTES[kind] / 8 * extra["copy"] / times[method]
        ratio = times[method] / times[best]
        speed = f"{share:.0%} of the copy bandwidth"
        if word == "at least":
            reached, met = f"{1 / ratio:.2f} times faster", 1 / ratio >= figure
            asked = f"at least {figure} times faster than the best of torch"
        else:
            reached, met = f"{ratio:.2f}", ratio <= figure
            asked = f"at most {figure} times the best of torch"
        found.append(
            {
                "name": f"{label}: {method}",
                "asked": asked,
                "reached": reached,
                "met": met,
                "how": f"against {best}; {speed}; {listed}",
            }
        )
    found += [
        {
            "name": f"{label}: most that {method} can reach",
            "asked": "",
            "reached": f"{times[best] / extra[floor]:.2f} times faster",
            "met": None,
            "how": f"{floor}, with nothing around them, against {best}",
        }
        for method, floor in FLOORS.items()
        if floor in extra
    ]
    return found


def main() -> None:
    """Print a table of all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    for row in rows(parser.parse_args().quick):
        met = {True: "yes", False: "NO", None: ""}[row["met"]]
        sys.stdout.write(
            f"{row['name']:56s} {row['asked']:52s} {row['reached']:>20s} {met:>4s}\n"
            f"    {row['how']}\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
