"""Steps of SGD against the best of torch's loop, foreach and fused.

Run ``python benchmarks/sgd.py``; ``--quick`` takes fewer rounds and smaller tensors.
No time counts before three steps of the method have given the numbers of torch's loop.

First torch's three bodies take turns, and the fastest becomes the rival. Then ours and
the rival take turns in rounds of their own, in changing order, and the figure is the
median of the ratios of the rounds. (The least of three noisy medians is below that of
the fastest, so that ours would seem slower than it is.)

All work on the same parameters, gradients and momentum, for two copies of them are not
equally fast: the same step on six copies of 20 M numbers took 10.6 to 12.0 ms. Only
``flat``, which moves its parameters, has a copy of its own.
"""

from __future__ import annotations

import argparse
import functools
import operator
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

import torch_mlcalc as mlc
from torch_mlcalc.optim.fused import MIN_ELEMENTS
from torch_mlcalc.optim.gathered import Gathered, blocks_of
from torch_mlcalc.optim.options import Numbers
from torch_mlcalc.optim.partition import unchanged

TITLE = "SGD"
Row = dict[str, Any]
Options = dict[str, Any]
Step = Callable[[], object]
Shapes = list[tuple[int, ...]]

#: Bytes that a step has to read and write for each parameter.
BYTES = {"plain": 12, "momentum": 20}
MOMENTUM = {"plain": 0.0, "momentum": 0.9}
TORCH: dict[str, Options] = {
    "torch loop": dict(foreach=False),
    "torch foreach": dict(foreach=True),
    "torch fused": dict(fused=True),
}
METHODS: dict[str, tuple[type[torch.optim.Optimizer], Options]] = {
    **{name: (torch.optim.SGD, options) for name, options in TORCH.items()},
    "default": (mlc.SGD, {}),
    "flat": (mlc.SGD, {"flat": True}),
}


def one_large(quick: bool) -> Shapes:
    """Shape of one tensor that no cache holds."""
    return [(2_000_000 if quick else 20_000_000,)]


def resnet50(quick: bool) -> Shapes:
    """Shapes of the 161 parameters of ResNet-50, in its order."""
    shapes: Shapes = [(64, 3, 7, 7), (64,), (64,)]
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


def many_small(quick: bool) -> Shapes:
    """Shapes of many tensors that a cache holds together."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(16, 1025, (2000,), generator=generator)
    return [(size,) for size in sizes.tolist()]


#: Shapes, most times the time of torch's best (large) or least times faster (small).
WORKLOADS: dict[str, tuple[Callable[[bool], Shapes], Options]] = {
    "one tensor of 20 M": (one_large, {"default": ("at most", 1.05)}),
    "161 tensors of ResNet-50": (resnet50, {"default": ("at most", 1.05)}),
    "2000 tensors of 16 to 1024": (
        many_small,
        {"default": ("at least", 3), "flat": ("at least", 8)},
    ),
}


#: How much a step looks at beside its kernel: nothing, as one compiled for just these
#: lists might; what no step can be without; all that can have changed.
NOTHING, GRADIENTS, EVERYTHING = range(3)

#: What bounds the time of a method from below, and how much it looks at.
FLOORS: dict[str, tuple[str, int]] = {
    "kernel alone on lists made beforehand": ("default", NOTHING),
    "gradients read, kernel": ("default", GRADIENTS),
    "gradients read, all tensors checked, autograd told, kernel": (
        "default",
        EVERYTHING,
    ),
    "kernel alone on one block": ("flat", NOTHING),
    "gradients read, autograd told, kernel": ("flat", GRADIENTS),
    "gradients read, all tensors in their places, autograd told, kernel": (
        "flat",
        EVERYTHING,
    ),
}


def make_params(shapes: Shapes) -> list[Tensor]:
    """Return parameters with gradients, the same values at each call."""
    generator = torch.Generator().manual_seed(1)
    params = []
    for shape in shapes:
        param = torch.randn(shape, generator=generator).requires_grad_()
        param.grad = torch.randn(shape, generator=generator)
        params.append(param)
    return params


def kernel(params: list[Tensor], grads: list[Tensor], buffers: list[Tensor]) -> Step:
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


def default_floor(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor], looks: int
) -> Step:
    """What no step can do without: a look at each gradient, and the kernel.

    If it looks at everything, also a look at each momentum buffer, for another one may
    be in its place, at the shape and strides of each tensor, which torch's fused kernel
    pairs by their place in memory, and a word to autograd for each parameter, which
    that kernel does not say. Other kernels do both themselves; but where momentum is
    one block, whether its parts are still in it has to be looked at.

    All is done part by part, because that is faster: what was looked at is in the cache
    when the kernel comes to it.
    """
    gathers = bool(buffers) and torch.get_num_threads() > 1
    everything = list(range(len(params)))
    if gathers:
        places = blocks_of(everything, params)
    else:
        places = [everything[i : i + 256] for i in everything[::256]]
    lists = [each for each in (params, grads, buffers) if each]
    make = _gathered_part if gathers else _plain_part
    parts = []
    for where in places:
        own = [[each[i] for i in where] for each in lists]
        held = own[2] if buffers else []
        parts.append((held, [{"momentum_buffer": each} for each in held], make(*own)))
    gradient = operator.attrgetter("grad")
    momentum = operator.itemgetter("momentum_buffer")

    def step() -> None:
        for held, states, (params, grads, fits, update, tells) in parts:
            if looks == EVERYTHING:
                same = fits(list(map(gradient, params))) and all(
                    map(operator.is_, map(momentum, states), held)
                )
            else:
                same = looks == NOTHING or all(
                    map(operator.is_, map(gradient, params), grads)
                )
            if not same:
                raise AssertionError("the floor is that of a step like the one before")
            update()
            if looks == EVERYTHING and tells:
                torch.autograd.graph.increment_version(params)

    return step


class _Part(NamedTuple):
    """Some parameters: what to look at, what to do, and whether autograd is told."""

    params: list[Tensor]
    grads: list[Tensor]
    fits: Callable[[list[Tensor]], bool]
    update: Step
    tells: bool


def _plain_part(
    params: list[Tensor], grads: list[Tensor], *buffers: list[Tensor]
) -> _Part:
    update = kernel(params, grads, *(buffers or [[]]))
    if torch.get_num_threads() > 1:
        same = functools.partial(map, operator.is_, grads)
        return _Part(params, grads, lambda found: all(same(found)), update, False)
    params_fit, grads_fit = unchanged(params), unchanged(grads)

    def fits(found: list[Tensor]) -> bool:
        # Momentum is of the shapes and strides of the gradients.
        return params_fit(params) and all(map(grads_fit, (found, *buffers)))

    return _Part(params, grads, fits, update, True)


def _gathered_part(
    params: list[Tensor], grads: list[Tensor], buffers: list[Tensor]
) -> _Part:
    numbers = Numbers(1e-3, 0.9, 0, 0, False, False, False)
    # It moves them, which those of other steps must not be.
    buffers = [buffer.clone() for buffer in buffers]
    body = Gathered(buffers)
    call = functools.partial(body, params, grads, buffers, numbers)

    def fits(found: list[Tensor]) -> bool:
        return all(map(operator.is_, found, grads)) and body.holds(buffers)

    return _Part(params, grads, fits, torch.no_grad()(call), False)


def flat_floor(params: list[Tensor], momentum: float, looks: int) -> Step:
    """What no flat step can do without: a few C loops and one kernel.

    Any gradient may be missing or another tensor than at the step before, and autograd
    has to be told what has changed. If it looks at everything: any momentum may be
    another tensor too, and all of them and the parameters may be elsewhere in memory,
    which only looking at each shows.
    """
    optimizer = mlc.SGD(params, lr=1e-3, momentum=momentum, flat=True)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    grads = [param.grad for param in params]
    states = list(optimizer.state.values())
    buffers = [state["momentum_buffer"] for state in states]
    lists = [each for each in (params, grads, buffers) if each]
    blocks = [torch.empty(0).set_(each[0].untyped_storage()) for each in lists]
    parts = []
    for start in range(0, len(params), 256):
        own = [each[start : start + 256] for each in lists]
        places = [list(map(Tensor.data_ptr, each)) for each in own]
        parts.append((own[0], own[1:], states[start : start + 256], own, places))
    readers = (operator.attrgetter("grad"), operator.itemgetter("momentum_buffer"))
    update = kernel(blocks[:1], blocks[1:2], blocks[2:])

    def step() -> None:
        for params, found, states, tensors, places in parts if looks else ():
            same = all(map(operator.is_, map(readers[0], params), found[0]))
            if looks == EVERYTHING:
                for held in found[1:]:
                    same &= all(map(operator.is_, map(readers[1], states), held))
                for each, where in zip(tensors, places, strict=True):
                    same &= list(map(Tensor.data_ptr, each)) == where
            if not same:
                raise AssertionError("the floor is that of a step where nothing moved")
            torch.autograd.graph.increment_version(params)
        update()

    return step


# --- steps --------------------------------------------------------------------------


def make_step(
    name: str, params: list[Tensor], momentum: float, buffers: list[Tensor]
) -> Step:
    """A step of a method, with momentum in the given buffers if there are any."""
    cls, options = METHODS[name]
    optimizer = cls(params, lr=1e-3, momentum=momentum, **options)
    if name == "flat":
        # Gradients become views of the block; the values are put back.
        grads = [param.grad for param in params]
        optimizer.zero_grad(set_to_none=False)
        for param, grad in zip(params, grads, strict=True):
            param.grad.copy_(grad)
    for param, buffer in zip(params, buffers, strict=False):
        optimizer.state[param]["momentum_buffer"] = buffer
    return optimizer.step


def copied(params: list[Tensor]) -> list[Tensor]:
    """Parameters and gradients of the same values elsewhere in memory."""
    copies = [param.detach().clone().requires_grad_() for param in params]
    for copy, param in zip(copies, params, strict=True):
        copy.grad = param.grad.clone()
    return copies


def after_three_steps(name: str, params: list[Tensor], momentum: float) -> list[Tensor]:
    """Copies of the parameters, after three steps from where they are."""
    params = copied(params)
    step = make_step(name, params, momentum, [])
    for _ in range(3):
        step()
    return [param.detach() for param in params]


def make_steps(shapes: Shapes, kind: str, ours: Sequence[str]) -> dict[str, Step]:
    """Checked steps of all methods, and the floors of those that have one."""
    momentum = MOMENTUM[kind]
    params = make_params(shapes)
    grads = [param.grad for param in params if param.grad is not None]
    buffers = [grad.clone() for grad in grads] if momentum else []
    steps = {
        name: make_step(name, params, momentum, buffers)
        for name in (*TORCH, *ours)
        if name != "flat"
    }
    if "flat" in ours:
        steps["flat"] = make_step("flat", copied(params), momentum, [])
        for name, (method, looks) in FLOORS.items():
            if method == "flat":
                steps[name] = flat_floor(copied(params), momentum, looks)
            else:
                steps[name] = default_floor(params, grads, buffers, looks)
    # What each finds out at first has to lie in memory before the checks leave holes:
    # in those, 2000 checks of shapes were 20 % slower than side by side.
    for step in steps.values():
        step()
    truth = after_three_steps("torch loop", params, momentum)
    for name in ("torch foreach", "torch fused", *ours):
        found = after_three_steps(name, params, momentum)
        torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-6)
    return steps


# --- times --------------------------------------------------------------------------


def times(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round; who is first changes from round to round.

    In a round each has one call that is not timed, then a burst of about 30 ms.
    """
    calls = {}
    for name, step in steps.items():
        step()
        start = time.perf_counter()
        step()
        calls[name] = max(2, round(0.03 / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for _ in range(rounds):
        for name in names:
            steps[name]()
            start = time.perf_counter()
            for _ in range(calls[name]):
                steps[name]()
            seconds[name].append((time.perf_counter() - start) / calls[name])
        names.reverse()
    return seconds


class Ratio(NamedTuple):
    """Quartiles of the ratios of two times that took turns, and the median times."""

    low: float
    median: float
    high: float
    ours: float
    theirs: float

    @classmethod
    def of(cls, ours: Step, theirs: Step, rounds: int) -> Ratio:
        """Measure both."""
        both = times({"ours": ours, "theirs": theirs}, rounds)
        pairs = zip(both["ours"], both["theirs"], strict=True)
        quartiles = statistics.quantiles([a / b for a, b in pairs], n=4)
        return cls(*quartiles, *map(statistics.median, both.values()))

    @property
    def inverse(self) -> Ratio:
        """How many times faster ours is."""
        ratios = (1 / self.high, 1 / self.median, 1 / self.low)
        return Ratio(*ratios, self.theirs, self.ours)

    def __str__(self) -> str:
        """The median, then the quartiles."""
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Run with a number of threads, then with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def rows(quick: bool = False) -> Iterator[Row]:
    """Every figure asked for: its name, what was asked, what was reached, and how."""
    for number in (1, 2):
        for name in WORKLOADS:
            for kind in MOMENTUM:
                with threads(number):
                    yield from list(measure(name, kind, quick))


def measure(workload: str, kind: str, quick: bool) -> Iterator[Row]:
    """The rows of one list of parameters, with momentum or without."""
    choosing, rounds = (3, 3) if quick else (7, 15)
    make, figures = WORKLOADS[workload]
    shapes = make(quick)
    steps = make_steps(shapes, kind, list(figures))
    total = sum(torch.Size(shape).numel() for shape in shapes)
    source, target = torch.ones(total), torch.zeros(total)
    others = {name: steps[name] for name in TORCH}
    others["copy"] = lambda: target.copy_(source)
    medians = {k: statistics.median(t) for k, t in times(others, choosing).items()}
    best = min(TORCH, key=medians.__getitem__)
    label = f"{workload}, {kind}, threads {torch.get_num_threads()}"
    listed = ", ".join(f"{k} {t * 1e3:.3g} ms" for k, t in medians.items())

    def bandwidth(seconds: float) -> str:
        # A copy moves 8 bytes for each element.
        share = BYTES[kind] / 8 * medians["copy"] / seconds
        speed = BYTES[kind] * total / seconds / 1e9
        return f"{speed:.1f} GB/s, {share:.0%} of the bandwidth of a copy"

    for method, (word, asked) in figures.items():
        ratio = Ratio.of(steps[method], steps[best], rounds)
        reached = bandwidth(ratio.ours)
        if word == "at least":
            ratio = ratio.inverse
        met = ratio.median <= asked if word == "at most" else ratio.median >= asked
        yield {
            "name": f"{label}: {method}",
            "asked": f"{word} {asked} times "
            + (
                "the best of torch" if word == "at most" else "faster than torch's best"
            ),
            "reached": str(ratio) + ("" if word == "at most" else " times faster"),
            "met": met,
            "how": f"{rounds} rounds against {best}; {reached}; chosen in {choosing} "
            f"rounds of {listed}",
        }
    for floor, (method, _) in FLOORS.items():
        if floor in steps:
            ratio = Ratio.of(steps[floor], steps[best], rounds)
            share = Ratio.of(steps[floor], steps[method], rounds).median
            yield {
                "name": f"{label}: bound of {method}: {floor}",
                "asked": "",
                "reached": f"{ratio.inverse} times faster",
                "met": None,
                "how": f"with nothing around it, against {best}; "
                f"{bandwidth(ratio.ours)}; {share:.0%} of the time of {method}, in "
                "turns with it",
            }


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
