"""Losses, steps and integrals on a GPU, beside torch's; nothing where there is none.

    python benchmarks/run.py on_gpu --output RESULTS_GPU.md

A clock waits for the device before and after a burst of calls. Value and gradient of
each call are compared with torch's before; nothing was asked of the ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import sgd
import torch
from figures import Row, Timed, figure
from losses import LAYER, TWINS
from timing import Timer, medians
from torch import Tensor, nn
from torch.nn import functional as F

import torch_mlcalc as mlc

TITLE = "On a GPU"

GPU = torch.device("cuda")
Call = Callable[[], Tensor]


def rows(quick: bool = False) -> Iterator[Row]:
    """What was reached: its name, nothing asked, the ratio, and how."""
    if not torch.cuda.is_available():
        yield figure("there is none here", "", "nothing", None, "not measured")
        return
    name = torch.cuda.get_device_name()
    for size in (1000,) if quick else (1000, 10_000_000):
        for twin in TWINS:
            yield _ratio(f"{twin}, {size:.0e} elements", _losses(twin, size), "torch")
    yield _ratio("linear cross-entropy", _linear(), "unfused")
    for workload, (shapes, _) in sgd.WORKLOADS.items():
        for kind, momentum in sgd.MOMENTUM.items():
            for ours in ("default", "flat"):
                steps = _steps(shapes(quick), momentum, ours)
                what = f"SGD, {workload}, {kind}: {ours}"
                yield _ratio(what, steps, *sgd.TORCH, ours=ours)
    yield _ratio("GaussLegendre(32), 100 integrals", _line(), "the sum alone")
    yield _ratio("Product(GaussLegendre(10)), d = 3", _box(), "the sum alone")
    yield _ratio("2x64 network, 1e6 nodes, d = 3", _network(), "plain autograd")
    yield figure("measured on", "", name, None, f"torch {torch.__version__}")


def gpu_timer(call: Callable[[], object]) -> Timer:
    """The clock of a call, which waits for the device."""

    def clock(calls: int) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    return clock


def _ratio(
    name: str, calls: Mapping[str, Call], *rivals: str, ours: str = "ours"
) -> Row:
    """Time and memory of ours over those of the best of the rivals that is right."""
    found = {method: call().detach().double() for method, call in calls.items()}
    truth = found[rivals[0]]
    errors = {
        method: float((value - truth).abs().max() / truth.abs().max())
        for method, value in found.items()
    }
    seconds = medians({method: gpu_timer(call) for method, call in calls.items()})
    # Gradients by 1e6 nodes, added up in float32 in another order, differ by 1e-4.
    timed = Timed(seconds, errors, tolerance=1e-3)
    best = timed.fastest_right(ours)
    memory = {method: f"{_memory(calls[method]):.0f} MiB" for method in (ours, best)}
    ratio = seconds[ours] / seconds[best]
    how = "; ".join(map(timed.described, seconds))
    room = ", ".join(f"{method} {size}" for method, size in memory.items())
    reached = f"{ratio:.2f}" if timed.is_right(ours) else "wrong, so no time counts"
    return figure(f"{name}: ours / {best}", "", reached, None, f"{how}; {room}")


def _memory(call: Call) -> float:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _gradient(value: Callable[[], Tensor], *leaves: Tensor) -> Call:
    """Forward and backward; gives both."""

    def call() -> Tensor:
        found = value()
        slopes = torch.autograd.grad(found.sum(), leaves)
        return torch.cat([found.reshape(-1), *(s.reshape(-1) for s in slopes)])

    return call


def _losses(twin: str, size: int) -> dict[str, Call]:
    name, settings, draw = TWINS[twin]
    torch.manual_seed(0)
    input, target = (each.to(GPU) for each in draw(size))
    input.requires_grad_()

    def of(library: object) -> Call:
        module = getattr(library, name)(**settings)

        def call() -> Tensor:
            input.grad = None
            module(input, target).backward()
            return input.grad

        return call

    return {"ours": of(mlc), "torch": of(nn)}


def _linear() -> dict[str, Call]:
    torch.manual_seed(0)
    n, features, classes = LAYER.values()
    input = torch.randn(n, features, device=GPU, requires_grad=True)
    weight = (torch.randn(classes, features, device=GPU) / 16).requires_grad_()
    target = torch.randint(0, classes, (n,), device=GPU)
    leaves = input, weight
    unfused = lambda: F.cross_entropy(F.linear(input, weight), target)  # noqa: E731
    return {
        "ours": _gradient(
            lambda: mlc.linear_cross_entropy(input, weight, target), *leaves
        ),
        "unfused": _gradient(unfused, *leaves),
    }


def _steps(shapes: sgd.Shapes, momentum: float, ours: str) -> dict[str, Call]:
    """Steps of each method on parameters of its own, with gradients of 1."""
    calls: dict[str, Call] = {}
    for method in (*sgd.TORCH, ours):
        cls, options = sgd.METHODS[method]
        params = [p.detach().to(GPU) for p in sgd.make_params(shapes)]
        params = [p.requires_grad_() for p in params]
        optimizer = cls(params, lr=1e-3, momentum=momentum, **options)
        for _ in range(2):
            optimizer.zero_grad(set_to_none=False)
            sum(p.sum() for p in params).backward()
            optimizer.step()

        def call(
            step: Callable[[], object] = optimizer.step, first: Tensor = params[0]
        ) -> Tensor:
            step()
            return first

        calls[method] = call
    return calls


def _line() -> dict[str, Call]:
    rate = torch.linspace(1, 2, 100, device=GPU, requires_grad=True)
    f = lambda x, r: torch.exp(-r * x)  # noqa: E731
    rule, unit = mlc.GaussLegendre(32), mlc.Interval(0, 1)
    nodes, weights = _on_unit(rule)
    nodes = nodes[:, None]
    return {
        "ours": _gradient(lambda: mlc.integrate(f, unit, rule, args=(rate,)), rate),
        "the sum alone": _gradient(lambda: weights @ f(nodes, rate), rate),
    }


def _on_unit(rule: mlc.GaussLegendre) -> tuple[Tensor, Tensor]:
    nodes, weights = (torch.tensor(a, device=GPU) for a in rule.nodes_and_weights())
    return (nodes.float() + 1) / 2, weights.float() / 2


def _grid(rule: mlc.GaussLegendre) -> tuple[Tensor, Tensor]:
    nodes, weights = (torch.cartesian_prod(x, x, x) for x in _on_unit(rule))
    return nodes, weights.prod(-1)


def _box() -> dict[str, Call]:
    rate = torch.linspace(1, 2, 10, device=GPU, requires_grad=True)
    f = lambda x, r: torch.exp(-r * x.square().sum(-1))  # noqa: E731
    axis = mlc.GaussLegendre(10)
    rule, box = mlc.Product(axis), mlc.Box(0.0, 1.0, dimension=3)
    nodes, weights = _grid(axis)
    nodes = nodes[:, None]
    return {
        "ours": _gradient(lambda: mlc.integrate(f, box, rule, args=(rate,)), rate),
        "the sum alone": _gradient(lambda: weights @ f(nodes, rate), rate),
    }


def _network() -> dict[str, Call]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    ).to(GPU)
    f = lambda x: net(x)[..., 0]  # noqa: E731
    axis = mlc.GaussLegendre(100)
    nodes, weights = _grid(axis)
    box = mlc.Box(torch.zeros(3, device=GPU), torch.ones(3, device=GPU))
    leaves = tuple(net.parameters())
    return {
        "ours": _gradient(lambda: mlc.integrate(f, box, mlc.Product(axis)), *leaves),
        "plain autograd": _gradient(lambda: weights @ f(nodes), *leaves),
    }
