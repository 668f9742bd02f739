"""What each process of ``test_sharding`` runs: integrals that processes share, as JSON.

Every case is integrated by this process alone and by all of them together; every fault
must end in an error on all of them, after which they still work together.
"""

from __future__ import annotations

import copy
import datetime
import io
import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import sharded_means
import torch
import torch.distributed as dist
import torchquad
from torch import Tensor, nn

import torch_mlcalc as mlc

Solve = Callable[..., Tensor]

DOUBLE = torch.float64
RATE = torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE, requires_grad=True)
UPPER = torch.tensor(1.5, dtype=DOUBLE, requires_grad=True)


def wave(x: Tensor, rate: Tensor) -> Tensor:
    return torch.exp(-rate * x) * torch.cos(3 * x)


def log_well(x: Tensor, rate: Tensor) -> Tensor:
    return -rate * x**2 - x**4


def bump(x: Tensor) -> Tensor:
    return torch.exp(-UPPER * x.square().sum(-1))


def log_bump(x: Tensor) -> Tensor:
    return -UPPER * x.square().sum(-1)


def spin(x: Tensor) -> Tensor:
    return torch.exp(1j * UPPER * x.sum(-1))


def box(dimension: int) -> mlc.Box:
    return mlc.Box(0.0, UPPER.expand(dimension))


def of_wave(rule: mlc.Rule | None = None, **options: object) -> Solve:
    return partial(
        mlc.integrate, wave, mlc.Interval(0, UPPER), rule, args=(RATE,), **options
    )


def of_well(rule: mlc.Rule | None = None) -> Solve:
    return partial(mlc.log_integrate, log_well, mlc.RealLine(), rule, args=(RATE,))


def of_bump(dimension: int, rule: mlc.Rule | None = None, **options: object) -> Solve:
    return partial(mlc.integrate, bump, box(dimension), rule, **options)


def of_log_bump(dimension: int, rule: mlc.Rule) -> Solve:
    return partial(mlc.log_integrate, log_bump, box(dimension), rule)


def value_of_estimate(**group: object) -> Tensor:
    found = [
        mlc.integrate_with_error(wave, mlc.Interval(0, UPPER), args=(RATE,), **group),
        mlc.log_integrate_with_error(log_well, mlc.RealLine(), args=(RATE,), **group),
    ]
    assert all((each.status == 0).all() for each in found)
    return torch.stack([each.value for each in found])


def replay(**group: object) -> Tensor:
    plan = mlc.adapt(bump, box(2), audit=True, **group)
    return mlc.integrate(bump, box(2), plan, **group)


def closure_of_batch(**group: object) -> Tensor:
    return mlc.integrate(
        lambda x: wave(x, RATE), mlc.Interval(0, UPPER), batch_shape=(3,), **group
    )


def long_sum(**group: object) -> Tensor:
    """So many nodes that their gradient is taken block by block."""
    rule = mlc.Trapezoid(150_001)
    unit = mlc.Interval(0, torch.ones((), dtype=DOUBLE))
    return mlc.integrate(lambda x: torch.exp(-UPPER * x), unit, rule, **group)


def generated(**group: object) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return of_bump(3, mlc.MonteCarlo(1003), generator=generator)(**group)


def second_order(group: dist.ProcessGroup | None) -> list[float]:
    """Two derivatives of the square of an integral, averaged over the ranks."""
    value = of_bump(2, mlc.Product(mlc.GaussLegendre(5)))(process_group=group)
    (first,) = torch.autograd.grad(value.square(), UPPER, create_graph=True)
    (second,) = torch.autograd.grad(first, UPPER)
    found = torch.stack([first.detach(), second])
    if group is not None:
        dist.all_reduce(found, group=group)
        found /= dist.get_world_size(group)
    return numbers(found)


#: Everything that can be shared, by name; each takes ``process_group``.
CASES: dict[str, Solve] = {
    "fixed": of_wave(mlc.GaussLegendre(64)),
    "fixed, one node": of_wave(mlc.GaussLegendre(1)),
    "fixed, uneven": of_wave(mlc.GaussLegendre(7)),
    "fixed, breakpoints": of_wave(mlc.GaussLegendre(9), breakpoints=[0.3, 1.0]),
    "fixed, numbers": partial(
        mlc.integrate, lambda x: UPPER * x.double(), mlc.Interval(0, 1), mlc.Simpson(9)
    ),
    "fixed, log": of_well(mlc.GaussHermite(33)),
    "fixed, half": partial(
        mlc.integrate,
        lambda x: (UPPER * x).bfloat16(),
        mlc.Interval(0, torch.ones((), dtype=torch.bfloat16)),
        mlc.GaussLegendre(8),
    ),
    "long sum": long_sum,
    "search": of_wave(),
    "search, log": of_well(),
    "search, whole batch": closure_of_batch,
    "search, singular": partial(
        mlc.integrate, lambda x: UPPER * torch.log(x), mlc.Interval(0, UPPER)
    ),
    "search, complex": partial(
        mlc.integrate, lambda x: torch.exp(1j * UPPER * x), mlc.Interval(0, UPPER)
    ),
    "estimates": value_of_estimate,
    "modes": of_well(mlc.AdaptiveGaussHermite()),
    "modes, 3 nodes": of_well(mlc.AdaptiveGaussHermite(3)),
    "product": of_bump(3, mlc.Product(mlc.GaussLegendre(7))),
    "sparse": of_bump(3, mlc.SparseGrid(4)),
    "regions": of_bump(2, mlc.GenzMalik(), rtol=1e-6),
    "regions, log": of_log_bump(2, mlc.GenzMalik()),
    "tensor": of_bump(3),
    "plan": replay,
    "lattice": of_bump(3, mlc.Lattice(512)),
    "lattice, blocks": of_bump(3, mlc.Lattice(512, replicates=2), memory=40_000),
    "Sobol, log": of_log_bump(3, mlc.Sobol(512)),
    "Monte Carlo": generated,
    "torchquad": of_bump(2, mlc.Torchquad(torchquad.VEGAS(), 3000)),
    "VEGAS": of_bump(3, mlc.Vegas(1001, warmup=2, iterations=2)),
    "VEGAS, log": of_log_bump(3, mlc.Vegas(1001, warmup=2, iterations=2)),
    "VEGAS, complex": partial(
        mlc.integrate, spin, box(2), mlc.Vegas(1001, warmup=2, iterations=2)
    ),
    **sharded_means.cases(RATE, UPPER),
}

#: Cases whose shares are uneven or empty in three processes.
OF_THREE = (
    "fixed",
    "fixed, one node",
    "search",
    "modes, 3 nodes",
    "lattice, blocks",
    "VEGAS, log",
    "mean, one node",
    "mean, counted",
)


def numbers(tensor: Tensor) -> list[float]:
    tensor = tensor.detach()
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.double().flatten().tolist()


def run(solve: Solve, group: dist.ProcessGroup | None) -> dict[str, list[float]]:
    """The value and the gradient of the sum of its squares, averaged over the ranks."""
    value = solve(process_group=group)
    total = value.abs().square().double().sum()
    slopes = torch.autograd.grad(total, (RATE, UPPER), materialize_grads=True)
    flat = torch.cat([s.flatten() for s in slopes])
    if group is not None:
        dist.all_reduce(flat, group=group)
        flat /= dist.get_world_size(group)
    return {"value": numbers(value), "gradient": numbers(flat)}


class Model(nn.Module):
    """An integral of a network, whose last layer is also used beside it."""

    def __init__(self, rule: mlc.Rule | None, log: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        domain = mlc.Interval(0, torch.tensor(2.0, dtype=DOUBLE))
        self.integral = mlc.Integral(
            lambda x: self.net(x[..., None])[..., 0], domain, rule, log=log
        )

    def forward(self, target: Tensor) -> Tensor:
        beside = self.net[2].weight.square().sum()
        return (self.integral() - target).square() + 0.1 * target * beside


MODELS: dict[str, Callable[[], nn.Module]] = {
    "fixed": partial(Model, mlc.GaussLegendre(33), False),
    "fixed, one node": partial(Model, mlc.GaussLegendre(1), False),
    "long sum": partial(Model, mlc.Trapezoid(100_001), False),
    "search": partial(Model, None, False),
    "log": partial(Model, mlc.GaussLegendre(33), True),
    "mean": sharded_means.MeanModel,
}


def trained(name: str, group: dist.ProcessGroup | None, targets: Tensor) -> list[float]:
    """Gradients of the mean loss, of which each rank has its own part."""
    model = MODELS[name]()
    if group is None:
        torch.stack([model(target) for target in targets]).mean().backward()
    else:
        model.integral.process_group = group
        parallel = nn.parallel.DistributedDataParallel(model, process_group=group)
        parallel(targets[dist.get_rank(group)]).backward()
    return [n for p in model.parameters() for n in numbers(p.grad)]


class Broken:
    """A function that fails on one rank, from some call on."""

    def __init__(self, function: Callable[..., Tensor], fails: bool, call: int) -> None:
        self.function = function
        self.left = call if fails else sys.maxsize

    def __call__(self, *args: Tensor) -> Tensor:
        self.left -= 1
        if self.left <= 0:
            raise ZeroDivisionError("the integrand is broken")
        return self.function(*args)


def faults(rank: int, group: dist.ProcessGroup) -> dict[str, Callable[[], object]]:
    """Calls that cannot work; rank 1 has the fault unless the name says otherwise."""
    second = rank == 1
    shared = {"process_group": group}
    unit = mlc.Interval(0, torch.ones((), dtype=DOUBLE))

    def broken(call: int) -> Broken:
        return Broken(torch.exp, second, call)

    def step(x: Tensor) -> Tensor:
        return (x > 0.3) / (x - 0.3).abs()

    def graph(x: Tensor) -> Tensor:
        return Broken(wave, second, 1)(x, UPPER) if recorded() else wave(x, UPPER)

    recorded = torch.is_grad_enabled
    return {
        "integrand": lambda: mlc.integrate(broken(1), unit, mlc.Simpson(9), **shared),
        "integrand, first rank": lambda: mlc.integrate(
            Broken(torch.exp, rank == 0, 1), unit, mlc.Simpson(9), **shared
        ),
        "integrand, in a search": lambda: mlc.integrate(
            Broken(torch.sqrt, second, 3), unit, **shared
        ),
        "integrand, with gradients": lambda: mlc.integrate(graph, unit, **shared),
        "integrand, at the mode": lambda: mlc.log_integrate(
            Broken(lambda x: -(x**4) - x**2, second, 2),
            mlc.RealLine(),
            mlc.AdaptiveGaussHermite(3),
            **shared,
        ),
        "integrand, in VEGAS": lambda: mlc.integrate(
            Broken(bump, second, 3), box(2), mlc.Vegas(100), **shared
        ),
        "argument": lambda: mlc.integrate(
            torch.exp, unit, rtol=-1.0 if second else None, **shared
        ),
        "shape": lambda: mlc.integrate(
            lambda x: torch.stack([x] * (2 + second), -1),
            unit,
            mlc.Simpson(9),
            **shared,
        ),
        "rule": lambda: mlc.integrate(
            torch.exp, unit, mlc.Simpson(11 if second else 9), **shared
        ),
        "args": lambda: mlc.integrate(
            wave, unit, mlc.Simpson(9), args=(RATE + 0.1 * second,), **shared
        ),
        "limits": lambda: mlc.integrate(
            torch.exp, mlc.Interval(0, UPPER + second), mlc.Simpson(9), **shared
        ),
        "generator": lambda: mlc.integrate(
            bump,
            box(2),
            mlc.MonteCarlo(100),
            generator=torch.Generator().manual_seed(rank),
            **shared,
        ),
        "no convergence": lambda: mlc.integrate(
            step, unit, max_evals=200, on_failure="raise", **shared
        ),
        "grad_rtol": lambda: mlc.integrate(
            lambda x: wave(x, UPPER), unit, grad_rtol=1e-3, **shared
        ),
        "vmap": lambda: torch.func.vmap(
            lambda u: mlc.integrate(torch.exp, mlc.Interval(0, u), **shared)
        )(torch.ones(2)),
        "forward mode": lambda: torch.func.jvp(
            lambda u: mlc.integrate(torch.exp, mlc.Interval(0, u), **shared),
            (torch.ones(()),),
            (torch.ones(()),),
        ),
        **sharded_means.faults(
            second, lambda function, call: Broken(function, second, call), shared
        ),
    }


def error_of(fault: Callable[[], object]) -> str:
    try:
        fault()
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fault_and_after(fault: Callable[[], object], group: dist.ProcessGroup) -> list[Any]:
    """The error, and whether the ranks then still integrate together."""
    error = error_of(fault)
    unit = mlc.Interval(0, 1)
    area = mlc.integrate(torch.cos, unit, mlc.GaussLegendre(9), process_group=group)
    return [error, float(area)]


def unequal_noise(rank: int, group: dist.ProcessGroup) -> float:
    """Args that differ by rounding are the same."""
    args = (RATE.detach() * (1 + rank * 1e-15),)
    value = mlc.integrate(wave, mlc.Interval(0, UPPER), args=args, process_group=group)
    return float(value.sum())


def copies(layer: nn.Module, group: dist.ProcessGroup) -> list[bool]:
    """Whether a copy of a layer has its group, and one from a file has none."""
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    return [
        copy.deepcopy(layer).process_group is group,
        loaded.process_group is None,
        "process_group" in repr(layer) and "process_group" not in repr(loaded),
    ]


def points(group: dist.ProcessGroup) -> dict[str, list[int]]:
    """How many points this process evaluates, with others and alone."""
    rules: dict[str, tuple[mlc.Domain, mlc.Rule | None]] = {
        "one node": (mlc.Interval(0, 1), mlc.GaussLegendre(1)),
        "fixed": (mlc.Interval(0, 1), mlc.GaussLegendre(101)),
        "search": (mlc.Interval(0, 1), None),
        "singular": (mlc.HalfLine(), mlc.DoubleExponential()),
        "regions": (mlc.Box(0.0, 1.0, dimension=2), mlc.GenzMalik()),
        "lattice": (mlc.Box(0.0, 1.0, dimension=2), mlc.Lattice(512)),
        "VEGAS": (mlc.Box(0.0, 1.0, dimension=2), mlc.Vegas(1001, warmup=2)),
    }
    seen: list[int] = []

    def peak(x: Tensor) -> Tensor:
        seen.append(x.numel())
        return torch.exp(-x.square())

    def solid_peak(x: Tensor) -> Tensor:
        seen.append(x.numel() // 2)
        return torch.exp(-100 * x.square().sum(-1))

    found: dict[str, list[int]] = {}
    for name, (domain, rule) in rules.items():
        for shared in (group, None):
            seen.clear()
            function = solid_peak if isinstance(domain, mlc.Box) else peak
            mlc.integrate(function, domain, rule, process_group=shared)
            found.setdefault(name, []).append(sum(seen))
    for shared in (group, None):
        seen.clear()
        normal = torch.distributions.Normal(torch.zeros(40), 1.0)
        mlc.expectation(peak, normal, mlc.GaussHermite(32), process_group=shared)
        found.setdefault("mean", []).append(sum(seen))
    return found


def collectives(group: dist.ProcessGroup) -> dict[str, int]:
    """How often this process talks to the other in a call."""
    square = mlc.Box(0.0, 1.0, dimension=2)
    calls: dict[str, tuple[Any, mlc.Domain, mlc.Rule]] = {
        "fixed": (torch.exp, mlc.Interval(0, 1), mlc.Simpson(9)),
        "3 iterations": (bump, square, mlc.Vegas(200, warmup=1, iterations=3)),
        "5 iterations": (bump, square, mlc.Vegas(200, warmup=1, iterations=5)),
    }
    found = {}
    for name, call in calls.items():
        with patch.object(dist, "all_gather", wraps=dist.all_gather) as spy:
            mlc.integrate(*call, process_group=group, on_failure="ignore")
        found[name] = spy.call_count
    return found


TARGETS = torch.tensor([0.3, -1.2], dtype=DOUBLE)


def of_one() -> dict[str, Any]:
    """What a process finds without the others."""
    return {
        "alone": {name: run(solve, None) for name, solve in CASES.items()},
        "trained alone": {name: trained(name, None, TARGETS) for name in MODELS},
    }


def of_pair(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    layers = (
        mlc.Integral(torch.exp, mlc.Interval(0, 1), process_group=group),
        mlc.Expectation(torch.exp, process_group=group),
    )
    table = faults(rank, group)
    return {
        "shared": {name: run(solve, group) for name, solve in CASES.items()},
        "trained": {name: trained(name, group, TARGETS) for name in MODELS},
        "second order": [second_order(group), second_order(None)],
        "noise": unequal_noise(rank, group),
        "copies": [copies(layer, group) for layer in layers],
        "points": points(group),
        "collectives": collectives(group),
        "faults": {name: fault_and_after(table[name], group) for name in table},
    }


def of_three(rank: int, group: dist.ProcessGroup) -> dict[str, Any]:
    table = faults(rank, group)
    chosen = ("integrand", "args", "integrand, in a search")
    return {
        "shared": {name: run(CASES[name], group) for name in OF_THREE},
        "faults": {name: fault_and_after(table[name], group) for name in chosen},
    }


def refused(group: object) -> str:
    return error_of(
        lambda: mlc.integrate(torch.exp, mlc.Interval(0, 1), process_group=group)
    )


def main(rank: int, folder: Path) -> None:
    """Integrate in two of three processes, then in all, then in the first."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=3,
        timeout=datetime.timedelta(seconds=100),
    )
    pair, first = dist.new_group([0, 1]), dist.new_group([0])
    results: dict[str, Any] = {"pair": of_pair(rank, pair) if rank < 2 else {}}
    world = dist.group.WORLD
    results["three"] = of_three(rank, world)
    results["first"] = refused(first)
    dist.barrier()
    dist.destroy_process_group()
    results["destroyed"] = refused(world)
    if rank == 0:
        results["pair"] |= of_one()
    (folder / f"{rank}.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
