"""Densities, expectations and evidence: the figures asked for beside those reached.

Values and gradients are compared with closed forms; a time counts only after both.
Ratios are medians of those of neighbouring runs, which take turns on one thread, by
the time that the thread has had: what else the machine does is not in it.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from figures import Row, figure
from torch import Tensor, nn

import torch_mlcalc as mlc

TITLE = "Densities, expectations and evidence"

ROOT = Path(__file__).resolve().parents[1]
DOUBLE = torch.float64

Array = npt.NDArray[np.float64]
Call = Callable[[], tuple[Tensor, ...]]


def rows(*, quick: bool = False) -> Iterator[Row]:
    """All figures."""
    yield normalisers(DOUBLE, 1e-8)
    yield normalisers(torch.float32, 1e-5)
    yield scores()
    yield several_dimensions(DOUBLE, 1e-6)
    yield several_dimensions(torch.float32, 1e-5)
    yield smooth_expectation()
    yield from many_expectations(3 if quick else 15)
    yield network(5 if quick else 61)
    yield evaluations()
    yield toenail(1 if quick else 5)


def worst_of(name: str, asked: float, errors: dict[str, float], how: str) -> Row:
    """A figure for the largest of several errors."""
    worst = max(errors, key=errors.__getitem__)
    return figure(
        name,
        f"{asked:.0e}",
        f"{errors[worst]:.1e} ({worst})",
        # Also false for nan.
        errors[worst] <= asked,
        how,
    )


def ratio_of(
    name: str, ours: Call, theirs: Call, runs: int, asked: str, how: str,
    *, most: float = 0.0, least: float = 0.0, tolerance: float,
) -> Row:  # fmt: skip
    """A figure for the time of ours over that of theirs, or of theirs over ours.

    Args:
        name: What is compared.
        ours: Returns a value and gradients.
        theirs: Returns the same.
        runs: Pairs of runs.
        asked: The figure asked for.
        how: What was done.
        most: What ours may take at most, in units of theirs.
        least: What theirs takes at least, in units of ours.
        tolerance: By how much value and gradients may differ, relative to the largest.
    """
    (value, *slopes), (wanted, *exact) = ours(), theirs()
    size = max(float(slope.abs().max()) for slope in exact)
    errors = [float((value - wanted).detach().abs() / wanted.detach().abs())]
    # A slope can be 0 up to rounding, such as that by a constant of a log density.
    errors += [
        float((a - b).abs().max()) / size for a, b in zip(slopes, exact, strict=True)
    ]
    found = ratio(ours, theirs, runs) ** (1 if most else -1)
    right = max(errors) <= tolerance
    return figure(
        name,
        asked,
        f"{found:.2f}" if right else "wrong, so no time counts",
        right and (found <= most if most else found >= least),
        f"{how}; value and gradients differ by {max(errors):.0e} at most",
    )


def ratio(ours: Call, theirs: Call, runs: int) -> float:
    """Median of the ratios of neighbouring runs, of which each is first in turn."""
    threads, ratios = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for i in range(runs):
        seconds = {}
        for call in (ours, theirs) if i % 2 else (theirs, ours):
            start = time.thread_time()
            call()
            seconds[call] = time.thread_time() - start
        ratios.append(seconds[ours] / seconds[theirs])
    torch.set_num_threads(threads)
    return statistics.median(ratios)


def _tests() -> Any:  # noqa: ANN401
    sys.path.insert(0, str(ROOT / "tests"))
    from density import test_normalized

    return test_normalized


def normalisers(dtype: torch.dtype, asked: float) -> Row:
    """Log Z of the test table in one dimension."""
    errors = {}
    for case in _tests().CASES:
        limits = [
            v.to(dtype) if isinstance(v, Tensor) else v
            for v in vars(case.domain).values()
        ]
        # 1e4 +- 0.01 has no room in single precision.
        if case.name != "narrow and far" or dtype == DOUBLE:
            p = mlc.NormalizedDensity(case.log_density, type(case.domain)(*limits))
            errors[case.name] = abs(p.log_normalizer.item() - case.log_z)
    return worst_of(
        f"log Z in one dimension, {str(dtype)[6:]}",
        asked,
        errors,
        f"largest absolute error of {len(errors)} densities, default settings",
    )


def scores() -> Row:
    """Gradient of log Z against the exact mean score."""
    errors = {}
    for family in _tests().SCORES:
        for member in family.members:
            theta = torch.tensor(member, dtype=DOUBLE, requires_grad=True)
            p = mlc.NormalizedDensity(
                family.log_density, family.domain, args=theta.unbind(0)
            )
            (score,) = torch.autograd.grad(p.log_normalizer, theta)
            (exact,) = torch.autograd.grad(family.log_z(*theta.unbind(0)), theta)
            error = (score - exact).norm() / exact.norm()
            errors[f"{family.name} {member}"] = error.item()
    return worst_of(
        "gradient of log Z in one dimension",
        1e-8,
        errors,
        f"largest error of {len(errors)} densities, relative to the exact mean score, "
        "default settings",
    )


def several_dimensions(dtype: torch.dtype, asked: float) -> Row:
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
                lambda x, a=inverse: -((x @ a.to(x)) * x).sum(-1) / 2,
                log_z.item(),
            )
        )
    errors = {}
    for name, d, log_density, log_z in cases:
        box = mlc.Box(torch.full((d,), -math.inf, dtype=dtype), math.inf)
        p = mlc.NormalizedDensity(log_density, box, on_failure="ignore")
        errors[name] = abs(p.log_normalizer.item() - log_z)
    return worst_of(
        f"log Z in 2 to 5 dimensions, {str(dtype)[6:]}",
        asked,
        errors,
        "largest absolute error, default settings: "
        + ", ".join(f"{name} {error:.0e}" for name, error in errors.items()),
    )


def smooth_expectation() -> Row:
    """32 nodes under a normal distribution, with the gradient by its location."""
    errors = {}
    s = 1.2**2
    for name, f, exact in (
        ("exp", torch.exp, lambda m: torch.exp(m + s / 2)),
        ("cos", torch.cos, lambda m: torch.cos(m) * math.exp(-s / 2)),
        ("sixth power", lambda x: x**6, lambda m: sum(
            math.comb(6, k) * m ** (6 - k) * s ** (k / 2) * c
            for k, c in ((0, 1), (2, 1), (4, 3), (6, 15)))),
    ):  # fmt: skip
        m = torch.tensor(0.3, dtype=DOUBLE, requires_grad=True)
        p = torch.distributions.Normal(m, 1.2)
        values = mlc.expectation(f, p, mlc.GaussHermite(32)), exact(m)
        slopes = [torch.autograd.grad(value, m)[0] for value in values]
        for kind, (ours, wanted) in (("value", values), ("gradient", slopes)):
            errors[f"{kind}, {name}"] = abs(ours.item() / wanted.item() - 1)
    return worst_of(
        "expectation of a smooth function, 32 nodes",
        1e-12,
        errors,
        "largest relative error of value and gradient: exp, cos, x^6 under N(0.3, 1.2)",
    )


def many_expectations(runs: int) -> Iterator[Row]:
    """1e5 normal distributions in one call."""
    torch.manual_seed(0)
    loc = torch.randn(100_000)
    p = torch.distributions.Normal(loc, 0.5)
    z, w = (torch.tensor(t) for t in mlc.GaussHermite(32).nodes_and_weights())
    nodes = (loc + 0.5 * z[:, None]).float()
    weights = w[:, None].float()

    def f(x: Tensor) -> Tensor:
        return torch.log1p(torch.exp(torch.sin(x)))

    def plain() -> tuple[Tensor, ...]:
        return (f(nodes),)

    exact = (f(nodes) * weights).sum(0)
    for label, rule in (
        ("checked default", None),
        ("GaussHermite(32)", mlc.GaussHermite(32)),
    ):

        def ours(rule: mlc.Rule | None = rule) -> tuple[Tensor, ...]:
            return (mlc.expectation(f, p, rule),)

        error = float((ours()[0] - exact).abs().max())
        found = ratio(ours, plain, runs)
        yield figure(
            f"1e5 distributions in one call, over evaluating f on 32 nodes: {label}",
            "under 3",
            f"{found:.2f}" if error < 1e-5 else "wrong, so no time counts",
            error < 1e-5 and found < 3,
            f"median of {runs} ratios, f = log(1 + exp(sin x)), float32, error "
            f"{error:.0e}",
        )


def make_network() -> tuple[nn.Sequential, Callable[[Tensor, Tensor], Tensor]]:
    """A network with two layers of 64 units, and the energy that it gives."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
    )

    def energy(y: Tensor, features: Tensor) -> Tensor:
        x = torch.cat([y[..., None], features.expand(*y.shape, 2)], -1)
        return net(x)[..., 0]

    return net, energy


def network(runs: int) -> Row:
    """1000 conditional densities of a 2x64 network, forward and backward."""
    net, energy = make_network()
    features, y = torch.randn(1000, 2), torch.rand(1000)
    rule = mlc.GaussLegendre(32)
    nodes, weights = (torch.tensor(t).float() for t in rule.nodes_and_weights())
    t, log_weights = nodes[:, None].expand(-1, 1000), weights.log()[:, None]

    def step(loss: Tensor) -> tuple[Tensor, ...]:
        net.zero_grad()
        loss.backward()
        return loss.detach(), *(q.grad.clone() for q in net.parameters())

    def ours() -> tuple[Tensor, ...]:
        p = mlc.NormalizedDensity(
            energy, mlc.Interval(-1, 1), rule, args=(features,), batch_shape=(1000,)
        )
        return step(-p.log_prob(y).mean())

    def plain() -> tuple[Tensor, ...]:
        log_z = (energy(t, features) + log_weights).logsumexp(0)
        return step((log_z - energy(y[None], features)[0]).mean())

    return ratio_of(
        "1000 densities of a 2x64 network, over plain autograd on the same nodes",
        ours,
        plain,
        runs,
        "at most 1",
        f"median of {runs} ratios, forward and backward, 32 nodes, float32, one thread",
        most=1.0,
        tolerance=1e-4,
    )


def evaluations() -> Row:
    """How often the network of 100 densities is evaluated at the same point."""
    net, energy = make_network()
    net.double()
    features = torch.randn(100, 2, dtype=DOUBLE)
    seen: list[Array] = []

    def log_density(y: Tensor, features: Tensor) -> Tensor:
        columns = y, *(c.expand_as(y) for c in features.unbind(-1))
        seen.append(torch.stack(columns, -1).reshape(-1, 3).numpy())
        return energy(y, features)

    p = mlc.NormalizedDensity(
        log_density, mlc.Interval(-3, 3), args=(features,), batch_shape=(100,)
    )
    counts, every = {}, 0
    with torch.no_grad():
        for name in ("log_normalizer", "mean", "variance", "entropy"):
            found = getattr(p, name)
            _ = found() if callable(found) else found
            counts[name] = sum(map(len, seen)) - every
            every += counts[name]
    twice = every - len(np.unique(np.concatenate(seen), axis=0))
    return figure(
        "one set of nodes for Z, mean, variance and entropy: evaluations made twice",
        "0",
        f"{twice}",
        twice == 0,
        "per density, of a 2x64 network on an interval: "
        + ", ".join(f"{name} {count / 100:.0f}" for name, count in counts.items()),
    )


def toenail(runs: int) -> Row:
    """Value and gradient of the toenail likelihood, against a loop over patients."""
    sys.path.insert(0, str(ROOT / "examples"))
    import mixed_model

    groups, _ = mixed_model.load("toenail")
    start = torch.tensor([-1.6, -0.16, -0.39, -0.14, 4.0], dtype=DOUBLE)
    theta = start.requires_grad_()
    rule = mlc.AdaptiveGaussHermite(25)

    def together() -> tuple[Tensor, ...]:
        value = mixed_model.log_likelihood(groups, theta, 25)
        return value, torch.autograd.grad(value, theta)[0]

    def loop() -> tuple[Tensor, ...]:
        total = torch.zeros((), dtype=DOUBLE)
        for i in range(len(groups.trials)):
            one = mixed_model.Groups(*(t[i] for t in groups))
            total = total + mlc.log_integrate(
                lambda z, one=one: one.log_joint(z, theta[:-1], theta[-1]),
                mlc.RealLine(torch.zeros((), dtype=DOUBLE)),
                rule,
            )
        return total, torch.autograd.grad(total, theta)[0]

    return ratio_of(
        "toenail, value and gradient: a loop over patients over one call",
        together,
        loop,
        runs,
        "at least 10",
        f"median of {runs} ratios, AdaptiveGaussHermite(25), 294 patients",
        least=10.0,
        tolerance=1e-10,
    )


if __name__ == "__main__":
    for line in rows():
        print(f"{line['name']}\n    asked {line['asked']}, reached {line['reached']}")
        print(f"    met {line['met']}; {line['how']}")
