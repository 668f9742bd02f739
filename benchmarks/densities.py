"""Densities, expectations and evidence: the figures asked for beside those reached.

    python benchmarks/densities.py

Values are compared with closed forms first; times are medians of alternating runs in
one process, and given as ratios.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import torch_mlcalc as mlc

ROOT = Path(__file__).resolve().parents[1]
DOUBLE = torch.float64

Row = dict[str, str]


def rows() -> list[Row]:
    """All figures, each with what was asked, what was reached, and how."""
    found = []
    for measure in (
        normalisers,
        normalisers_single,
        scores,
        several_dimensions,
        smooth_expectation,
        many_expectations,
        network,
        toenail,
    ):
        found += measure()
    return found


def row(name: str, asked: str, reached: str, how: str) -> Row:
    """One line of the report."""
    return {"name": name, "asked": asked, "reached": reached, "how": how}


def ratio(ours: Callable[[], object], theirs: Callable[[], object], runs: int) -> float:
    """Median time of ours over median time of theirs, taken in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    ours(), theirs()  # noqa: B018
    for _ in range(runs):
        for which, call in zip(times, (ours, theirs), strict=True):
            start = time.perf_counter()
            call()
            which.append(time.perf_counter() - start)
    return statistics.median(times[0]) / statistics.median(times[1])


def _cases() -> list[Any]:
    sys.path.insert(0, str(ROOT / "tests"))
    from density.test_normalized import CASES

    return CASES


def normalisers() -> list[Row]:
    """Log Z of the test table in one dimension."""
    errors = {
        c.name: abs(
            mlc.NormalizedDensity(c.log_density, c.domain).log_normalizer.item()
            - c.log_z
        )
        for c in _cases()
    }
    worst = max(errors, key=lambda k: errors[k])
    return [
        row(
            "log Z in one dimension, float64",
            "1e-8",
            f"{errors[worst]:.1e} ({worst})",
            f"largest error of {len(errors)} densities, default settings",
        )
    ]


def normalisers_single() -> list[Row]:
    """The same in single precision."""
    errors = {}
    for c in _cases():
        values = vars(c.domain).values()
        limits = [v.float() if isinstance(v, Tensor) else v for v in values]
        if c.name != "narrow and far":
            p = mlc.NormalizedDensity(c.log_density, type(c.domain)(*limits))
            errors[c.name] = abs(p.log_normalizer.item() - c.log_z)
    worst = max(errors, key=lambda k: errors[k])
    return [
        row(
            "log Z in one dimension, float32",
            "1e-5",
            f"{errors[worst]:.1e} ({worst})",
            "largest absolute error, default settings",
        )
    ]


def scores() -> list[Row]:
    """Gradient of log Z against the exact mean score."""
    errors = []
    k = torch.tensor([0.01, 1.0, 1e4], dtype=DOUBLE, requires_grad=True)
    for log_density, exact in (
        (lambda x, k: -k * x * x / 2, lambda k: -1 / (2 * k)),
        (lambda x, k: -k * x.abs(), lambda k: -1 / k),
        (lambda x, k: -torch.log1p(k * x * x), lambda k: -1 / (2 * k)),
    ):
        p = mlc.NormalizedDensity(log_density, mlc.RealLine(), args=(k,))
        (score,) = torch.autograd.grad(p.log_normalizer.sum(), k)
        wanted = exact(k.detach())
        errors.append(((score - wanted) / wanted).abs().max().item())
    return [
        row(
            "gradient of log Z",
            "1e-8",
            f"{max(errors):.1e}",
            "largest relative error: normal, Laplace, Cauchy, scales 1e-2 to 1e4",
        )
    ]


def several_dimensions() -> list[Row]:
    """Log Z of densities in 2 to 5 dimensions by default settings."""
    cases: list[tuple[str, int, Callable[[Tensor], Tensor], float]] = [
        ("banana", 2, lambda x: -(x[..., 0] ** 2) / 2
         - 2 * (x[..., 1] - x[..., 0] ** 2) ** 2, math.log(math.pi)),
        ("funnel", 2, lambda x: -(x[..., 0] ** 2) / 2 - x[..., 0] / 2
         - x[..., 1] ** 2 * torch.exp(-x[..., 0]) / 2, math.log(2 * math.pi)),
        ("mixture", 2, lambda x: torch.logaddexp(
            -((x - 1.5) ** 2).sum(-1), -((x + 1.5) ** 2).sum(-1)),
         math.log(2 * math.pi)),
    ]  # fmt: skip
    for d in (2, 3, 4, 5):
        inverse = torch.linalg.inv(0.5 * torch.eye(d, dtype=DOUBLE) + 0.5)
        log_z = d / 2 * math.log(2 * math.pi) - torch.linalg.slogdet(inverse)[1] / 2
        cases.append(
            (
                f"correlated normal, d = {d}",
                d,
                lambda x, a=inverse: -((x @ a) * x).sum(-1) / 2,
                log_z.item(),
            )
        )
    found = []
    for name, d, log_density, log_z in cases:
        box = mlc.Box(torch.full((d,), -math.inf, dtype=DOUBLE), math.inf)
        try:
            p = mlc.NormalizedDensity(log_density, box, on_failure="ignore")
            error = f"{abs(p.log_normalizer.item() - log_z):.1e}"
        except (TypeError, NotImplementedError) as reason:
            error = f"none: {reason}"
        found.append(row(f"log Z, {name}", "1e-6", error, "default settings"))
    return found


def smooth_expectation() -> list[Row]:
    """32 nodes under a normal distribution."""
    p = torch.distributions.Normal(torch.tensor(0.3, dtype=DOUBLE), 1.2)
    s = 1.2**2
    errors = [
        abs(mlc.expectation(f, p, mlc.GaussHermite(32)).item() / exact - 1)
        for f, exact in (
            (torch.exp, math.exp(0.3 + s / 2)),
            (torch.cos, math.cos(0.3) * math.exp(-s / 2)),
            (lambda x: x**6, sum(
                math.comb(6, k) * 0.3 ** (6 - k) * s ** (k / 2) * c
                for k, c in ((0, 1), (2, 1), (4, 3), (6, 15)))),
        )
    ]  # fmt: skip
    return [
        row(
            "expectation of a smooth function, 32 nodes",
            "1e-12",
            f"{max(errors):.1e}",
            "largest relative error: exp, cos, x^6 under N(0.3, 1.2)",
        )
    ]


def many_expectations() -> list[Row]:
    """1e5 normal distributions in one call."""
    torch.manual_seed(0)
    loc = torch.randn(100_000)
    p = torch.distributions.Normal(loc, 0.5)
    nodes = (loc + 0.5 * torch.randn(32, 1)).contiguous()

    def f(x: Tensor) -> Tensor:
        return torch.log1p(torch.exp(torch.sin(x)))

    value = mlc.expectation(f, p)
    exact = mlc.expectation(f, p, mlc.GaussHermite(100))
    assert (value - exact).abs().max() < 1e-5
    return [
        row(
            "1e5 distributions in one call, over evaluating f on 32 nodes",
            "< 3",
            f"{ratio(run, lambda: f(nodes), 7):.2f} ({label})",
            "ratio of medians, f = log(1 + exp(sin x)), float32",
        )
        for label, run in (
            ("checked default", lambda: mlc.expectation(f, p)),
            ("GaussHermite(32)", lambda: mlc.expectation(f, p, mlc.GaussHermite(32))),
        )
    ]


def network() -> list[Row]:
    """1000 conditional densities of a 2x64 network, forward and backward."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    )
    features, y = torch.randn(1000, 2), torch.rand(1000)
    rule = mlc.GaussLegendre(32)
    nodes = mlc.GaussLegendre(32).nodes_and_weights()
    t = torch.tensor(nodes[0]).float()[:, None].expand(-1, 1000)
    w = torch.tensor(nodes[1]).float().log()[:, None]

    def energy(y: Tensor, features: Tensor) -> Tensor:
        x = torch.cat([y[..., None], features.expand(*y.shape, 2)], -1)
        return net(x)[..., 0]

    def ours() -> Tensor:
        p = mlc.NormalizedDensity(
            energy, mlc.Interval(-1, 1), rule, args=(features,), batch_shape=(1000,)
        )
        loss = -p.log_prob(y).mean()
        loss.backward()
        return loss

    def plain() -> Tensor:
        log_z = (energy(t, features) + w).logsumexp(0)
        loss = (log_z - energy(y[None], features)[0]).mean()
        loss.backward()
        return loss

    assert abs(ours().item() - plain().item()) < 1e-5
    return [
        row(
            "1000 densities of a 2x64 network, over plain autograd on the same nodes",
            "<= 1",
            f"{ratio(ours, plain, 9):.2f}",
            "ratio of medians, forward and backward, 32 nodes, float32",
        )
    ]


def toenail() -> list[Row]:
    """Value and gradient of the toenail likelihood, against a loop over patients."""
    sys.path.insert(0, str(ROOT / "examples"))
    import mixed_model

    groups, _ = mixed_model.load("toenail")
    start = torch.tensor([-1.6, -0.16, -0.39, -0.14, 4.0], dtype=DOUBLE)
    theta = start.requires_grad_()
    rule = mlc.AdaptiveGaussHermite(25)

    def together() -> tuple[Tensor, Tensor]:
        value = mixed_model.log_likelihood(groups, theta, 25)
        return value, torch.autograd.grad(value, theta)[0]

    def loop() -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=DOUBLE)
        for i in range(len(groups.trials)):
            one = mixed_model.Groups(*(t[i] for t in groups))
            total = total + mlc.log_integrate(
                lambda z, one=one: one.log_joint(z, theta[:-1], theta[-1]),
                mlc.RealLine(torch.zeros((), dtype=DOUBLE)),
                rule,
            )
        return total, torch.autograd.grad(total, theta)[0]

    for a, b in zip(together(), loop(), strict=True):
        torch.testing.assert_close(a, b)
    return [
        row(
            "toenail, value and gradient, loop over patients over one call",
            ">= 10",
            f"{1 / ratio(together, loop, 3):.0f}",
            "ratio of medians, AdaptiveGaussHermite(25), 294 patients",
        )
    ]


if __name__ == "__main__":
    for line in rows():
        print(f"{line['name']}\n    asked {line['asked']}, reached {line['reached']}")
        print(f"    {line['how']}")
