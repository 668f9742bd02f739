"""Nodes and weights of torchquad's integrators, through their public ``integrate``.

An integrator asks the integrand for values and returns a weighted sum of them. So the
points it asks for are the nodes, and the derivative of what it returns by the values are
the weights: one way for grids, Monte Carlo and VEGAS, and it never gets hold of values
that the caller will see or differentiate.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Recorded(NamedTuple):
    """What an integrator did on the unit cube, in float64.

    Attributes:
        nodes: Where it evaluated, ``(n, d)``.
        weights: What the values count, ``(n,)``; their sum is about 1.
        deviation: Standard deviation of its result, 0 if it states none.
    """

    nodes: Tensor
    weights: Tensor
    deviation: float


def record(
    integrator: Any,  # noqa: ANN401
    dimension: int,
    n: int,
    options: dict[str, Any],
    integrand: Callable[[Tensor], Tensor] = lambda points: torch.ones(len(points)),
) -> Recorded:
    """Run an integrator on the unit cube and see what it does.

    Args:
        integrator: The torchquad integrator.
        dimension: Dimension of the cube.
        n: Number of points to ask for.
        options: Further arguments of its ``integrate``.
        integrand: Function of points ``(m, d)``; linear rules do the same for every one.

    Returns:
        Nodes with a weight other than 0, and their weights.
    """
    points: list[Tensor] = []
    values: list[Tensor] = []

    def observed(x: Tensor) -> Tensor:
        with torch.no_grad():
            value = integrand(x.detach()).to(torch.float64)
        points.append(x.detach().clone())
        values.append(value.requires_grad_())
        # A copy: GaussLegendre multiplies what it gets in place.
        return value * 1

    if "return_error" in inspect.signature(integrator.integrate).parameters:
        options = {**options, "return_error": True}
    # A generator of the integrator's own may still seed the global one.
    with (
        torch.inference_mode(False),
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        torch.enable_grad(),
    ):
        domain = torch.tensor([[0.0, 1.0]] * dimension, dtype=torch.float64)
        result = integrator.integrate(
            observed, dimension, n, integration_domain=domain, **options
        )
        total = getattr(result, "integral", result)
        deviation = float(getattr(result, "sdev", 0.0))
        gradients = torch.autograd.grad(total, values, allow_unused=True)
    weights = [
        torch.zeros(len(p), dtype=torch.float64) if g is None else g
        for p, g in zip(points, gradients, strict=True)
    ]
    nodes, weight = torch.cat(points).to(torch.float64), torch.cat(weights)
    used = weight != 0
    return Recorded(nodes[used], weight[used], deviation)
