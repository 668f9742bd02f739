"""Normalisers: gradients in several dimensions, and the memory of many at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from figures import Row, figure
from timing import extra_memory
from torch import Tensor, nn

import torch_mlcalc as mlc

TITLE = "Normalisers: gradients in several dimensions, memory"

DOUBLE = torch.float64
COUNT = 1000
#: Nodes of each density, from what fills a block; 64 take half as much.
NODES = (320, 2560)
#: glibc keeps what is freed, unless told not to: 80 to 120 MiB where 60 are in use.
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def rows() -> Iterator[Row]:
    """Both figures."""
    yield _slopes()
    yield _memory()


# --- gradients ------------------------------------------------------------------------


def banana(x: Tensor, s: Tensor) -> Tensor:
    """Z is proportional to 1 / sqrt(s)."""
    return -(x[..., 0] ** 2) / 2 - 2 * s * (x[..., 1] - x[..., 0] ** 2) ** 2


def funnel(x: Tensor, s: Tensor) -> Tensor:
    """Z is proportional to 1 / sqrt(s)."""
    narrow = torch.exp(-x[..., 0])
    return -(x[..., 0] ** 2) / 2 - x[..., 0] / 2 - s * x[..., 1] ** 2 * narrow / 2


def mixture(x: Tensor, s: Tensor) -> Tensor:
    """Two peaks; Z is proportional to 1 / s."""
    peaks = [-s * ((x - centre) ** 2).sum(-1) for centre in (1.5, -1.5)]
    return torch.logaddexp(*peaks)


def correlated(x: Tensor, s: Tensor) -> Tensor:
    """A normal distribution; Z is proportional to s^(-d/2)."""
    d = x.shape[-1]
    precision = torch.linalg.inv(0.5 * torch.eye(d, dtype=DOUBLE) + 0.5)
    return -s * ((x @ precision) * x).sum(-1) / 2


#: Log density, dimension, and the power of s in Z.
DENSITIES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int, float]] = {
    "banana": (banana, 2, -0.5),
    "funnel": (funnel, 2, -0.5),
    "mixture": (mixture, 2, -1.0),
    **{f"correlated normal, d = {d}": (correlated, d, -d / 2) for d in (2, 3, 4, 5)},
}


def _slope_error(log_density: Callable[..., Tensor], d: int, power: float) -> float:
    s = torch.tensor(1.3, dtype=DOUBLE, requires_grad=True)
    box = mlc.Box(torch.full((d,), -math.inf, dtype=DOUBLE), math.inf)
    density = mlc.NormalizedDensity(
        lambda x: log_density(x, s), box, on_failure="ignore"
    )
    (slope,) = torch.autograd.grad(density.log_normalizer, s)
    return abs(slope.item() / (power / 1.3) - 1)


def _slopes() -> Row:
    errors = {name: _slope_error(*case) for name, case in DENSITIES.items()}
    worst = max(errors, key=errors.__getitem__)
    return figure(
        "gradient of log Z in 2 to 5 dimensions",
        "1e-6",
        f"{errors[worst]:.1e} ({worst})",
        errors[worst] <= 1e-6,
        "relative to the exact mean score, default settings: "
        + ", ".join(f"{name} {error:.0e}" for name, error in errors.items()),
    )


# --- memory ---------------------------------------------------------------------------


def prepare(method: str, nodes: int) -> Callable[[], Tensor]:
    """A training step of a network of which every input has a density of its own."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(
        nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    )
    features, y = torch.randn(COUNT, 2), torch.rand(COUNT)
    rule = mlc.GaussLegendre(nodes)
    table = [torch.tensor(a, dtype=torch.float32) for a in rule.nodes_and_weights()]
    points, log_weights = table[0][:, None].expand(-1, COUNT), table[1].log()[:, None]

    def energy(y: Tensor, features: Tensor) -> Tensor:
        x = torch.cat([y[..., None], features.expand(*y.shape, 2)], -1)
        return net(x)[..., 0]

    def ours() -> Tensor:
        density = mlc.NormalizedDensity(
            energy, mlc.Interval(-1, 1), rule, args=(features,), batch_shape=(COUNT,)
        )
        return -density.log_prob(y).mean()

    def plain() -> Tensor:
        log_z = (energy(points, features) + log_weights).logsumexp(0)
        return (log_z - energy(y[None], features)[0]).mean()

    def call() -> Tensor:
        net.zero_grad()
        loss = {"ours": ours, "plain autograd": plain}[method]()
        loss.backward()
        return loss.detach()

    return call


def _memory() -> Row:
    losses = [prepare(m, NODES[0])() for m in ("ours", "plain autograd")]
    same = bool((losses[0] - losses[1]).abs() < 1e-5)
    needed = {
        method: [
            extra_memory(
                "normalizers",
                "prepare",
                warm_up={"nodes": 4},
                environ=RETURNED,
                **settings,
            )
            for settings in ({"method": method, "nodes": n} for n in NODES)
        ]
        for method in ("ours", "plain autograd")
    }
    first, last = needed["ours"]
    return figure(
        f"{COUNT} densities of a 2x64 network, forward and backward: memory",
        f"that of a block: from {NODES[0]} to {NODES[1]} nodes at most 20 % more",
        f"{first:.0f} MiB and {last:.0f} MiB",
        same and last <= 1.2 * first,
        "where malloc returns what is freed; "
        + "; ".join(
            f"{method} " + ", ".join(f"{mib:.0f} MiB" for mib in found)
            for method, found in needed.items()
        ),
    )
