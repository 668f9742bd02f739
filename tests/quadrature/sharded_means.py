"""Expectations that processes share, for ``sharded_integrals``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import (
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
)

import torch_mlcalc as mlc

Solve = Callable[..., Tensor]
Function = Callable[[Tensor], Tensor]


def mean_of(
    make: Callable[[], Distribution],
    function: Function,
    rule: mlc.Rule | None = None,
    *,
    log: bool = False,
    **options: object,
) -> Solve:
    """A mean under a distribution that is made anew in every call."""
    solve = mlc.log_expectation if log else mlc.expectation
    return lambda **group: solve(function, make(), rule, **options, **group)


def cases(rate: Tensor, upper: Tensor) -> dict[str, Solve]:
    """Means by name; each takes ``process_group``.

    Args:
        rate: Three positive numbers, with a gradient.
        upper: A number, with a gradient.
    """

    def normal() -> Normal:
        return Normal(upper, rate)

    def plane() -> MultivariateNormal:
        return MultivariateNormal(upper.expand(2), torch.diag(rate[:2]))

    def mixture() -> MixtureSameFamily:
        return MixtureSameFamily(Categorical(rate), Normal(rate * upper, 0.5))

    def pair() -> Independent:
        return Independent(Normal(upper, rate[:2]), 1)

    def layer(**group: object) -> Tensor:
        return mlc.Expectation(lambda x: upper * x.cos(), **group)(normal())

    def log_layer(**group: object) -> Tensor:
        return mlc.Expectation(lambda x: upper * x, log=True, **group)(normal())

    def wide(x: Tensor) -> Tensor:
        return torch.stack([x, x * x], -1)

    return {
        "mean": mean_of(normal, torch.exp),
        "mean, blocks": mean_of(normal, torch.cos, memory=500),
        "mean, own rule": mean_of(normal, torch.exp, mlc.GaussHermite(5)),
        "mean, one node": mean_of(normal, torch.exp, mlc.GaussHermite(1)),
        "mean, vector": mean_of(normal, wide),
        "mean, log": mean_of(normal, lambda x: 900 * x, log=True),
        "mean, kink": mean_of(normal, torch.relu),
        "mean, kink, log": mean_of(normal, lambda x: -(x - 1).abs(), log=True),
        "mean, counted": mean_of(lambda: Poisson(rate), lambda n: upper * n.sqrt()),
        "mean, listed": mean_of(lambda: Categorical(rate), lambda k: upper * k**2.0),
        "mean, mixture": mean_of(mixture, torch.exp),
        "mean, plane": mean_of(plane, lambda x: x.cos().prod(-1)),
        "mean, support": mean_of(lambda: Gamma(rate, upper), torch.sqrt),
        "mean, simplex": mean_of(lambda: Dirichlet(rate + 1), lambda x: x.prod(-1)),
        "mean, other rule": mean_of(
            lambda: Laplace(upper, rate), torch.cos, mlc.DoubleExponential()
        ),
        "mean, product": mean_of(pair, lambda x: x.sin().sum(-1)),
        "mean, layer": layer,
        "mean, log layer": log_layer,
    }


class MeanModel(nn.Module):
    """The mean of a network under a distribution with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        self.loc = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))
        self.integral = mlc.Expectation(lambda x: self.net(x[..., None])[..., 0])

    def forward(self, target: Tensor) -> Tensor:
        beside = target * self.loc.square()
        mean = self.integral(Normal(self.loc, self.scale))
        return (mean - target).square() + 0.1 * beside


def faults(
    second: bool, broken: Callable[[Function, int], Function], shared: dict[str, object]
) -> dict[str, Callable[[], object]]:
    """Means that cannot be taken, by name.

    Args:
        second: Whether this is the rank with the fault.
        broken: Makes a function fail there, from some call on.
        shared: The process group, as a keyword.
    """
    loc = torch.zeros(2, dtype=torch.float64)
    normal, gamma = Normal(loc, 1.0), Gamma(loc + 2, loc + 1)
    other = Normal(loc + 0.1 * second, 1.0)
    density = mlc.NormalizedDensity(lambda x: -x.square(), mlc.RealLine())
    words = "cosine" if second else normal
    return {
        "mean": lambda: mlc.expectation(broken(torch.cos, 1), normal, **shared),
        "mean, check": lambda: mlc.expectation(broken(torch.cos, 2), normal, **shared),
        "mean, support": lambda: mlc.expectation(
            broken(torch.relu, 3), normal, **shared
        ),
        "mean, search": lambda: mlc.expectation(broken(torch.cos, 2), gamma, **shared),
        "mean, distribution": lambda: mlc.expectation(torch.cos, other, **shared),
        "mean, kind": lambda: mlc.expectation(
            torch.cos, gamma if second else normal, **shared
        ),
        "mean, no distribution": lambda: mlc.expectation(torch.cos, words, **shared),
        "mean, density": lambda: mlc.expectation(torch.cos, density, **shared),
        "mean, no convergence": lambda: mlc.expectation(
            lambda x: (x > 0.3) / (x - 0.3).abs(),
            normal,
            max_evals=500,
            on_failure="raise",
            **shared,
        ),
    }
