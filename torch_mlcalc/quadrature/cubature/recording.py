"""Nodes and weights of torchquad's integrators, through their public ``integrate``.

An integrator asks the integrand for values and returns a weighted sum of them. So the
points it asks for are the nodes, and the derivatives of what it returns by the values
are the weights: one way for grids, Monte Carlo and VEGAS, and it never gets hold of
values that the caller will see or differentiate.
"""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import (
    temporarily_clear_interpreter_stack as clear,
)
from torch._functorch.pyfunctorch import (
    temporarily_restore_interpreter_stack as restore,
)

from torch_mlcalc.quadrature.rules import Array


class Recorded(NamedTuple):
    """What an integrator did on the unit cube, in float64.

    Attributes:
        nodes: Where it evaluated to some effect, ``(n, d)``.
        weights: What the values there count, ``(n,)``; their sum is about 1.
        used: Which of all the points that it evaluated these are.
        deviation: Standard deviation of its result, 0 if it states none; larger by
            ``sqrt(chi2 / dof)`` where iterations disagree.
    """

    nodes: Array
    weights: Array
    used: Array
    deviation: float


def ones(points: Array) -> Array:
    """An integrand, for integrators that do the same with every one."""
    return np.ones(len(points))


def record(
    integrator: Any,  # noqa: ANN401
    dimension: int,
    n: int,
    options: Callable[[], dict[str, Any]],
    integrand: Callable[[Array], Array] = ones,
) -> Recorded:
    """Run an integrator on the unit cube and see what it does.

    Args:
        integrator: The torchquad integrator.
        dimension: Dimension of the cube.
        n: Number of points to ask for.
        options: What makes further arguments of its ``integrate``, which may seed.
        integrand: Function of points ``(m, d)`` with float64 values ``(m,)``; the same
            transforms of torch.func are active as outside.

    Returns:
        Nodes, weights and deviation.
    """
    recording = torch.is_grad_enabled()
    points: list[Array] = []
    values: list[Tensor] = []

    def observed(x: Tensor) -> Tensor:
        points.append(x.numpy().copy())
        with restore(transforms), torch.set_grad_enabled(recording):
            value = integrand(points[-1])
        values.append(torch.from_numpy(value.copy()).requires_grad_())
        # A copy: GaussLegendre multiplies what it gets in place.
        return values[-1] * 1

    # VEGAS would keep hold of the integrand.
    integrator = copy.copy(integrator)
    with _alone() as transforms:
        further = options()
        if "return_error" in inspect.signature(integrator.integrate).parameters:
            further["return_error"] = True
        domain = torch.tensor(
            [[0.0, 1.0]] * dimension, dtype=torch.float64, device="cpu"
        )
        result = integrator.integrate(
            observed, dimension, n, integration_domain=domain, **further
        )
        total = getattr(result, "integral", result)
        gradients = torch.autograd.grad(total, values, allow_unused=True)
        weights = [
            np.zeros(len(p)) if g is None else g.numpy()
            for p, g in zip(points, gradients, strict=True)
        ]
        nodes, weight = np.concatenate(points), np.concatenate(weights)
        used = weight != 0
        return Recorded(nodes[used], weight[used], used, _deviation(result))


def _deviation(result: Any) -> float:  # noqa: ANN401
    """What it states, widened as the Particle Data Group does."""
    if not hasattr(result, "sdev"):
        return 0.0
    spread = float(result.chi2) / result.dof if result.dof else 1.0
    return float(result.sdev) * math.sqrt(max(1.0, spread))


@contextmanager
def _alone() -> Iterator[list[Any]]:
    """Nothing of the caller's modes reaches inside, and no seed gets out."""
    with (
        clear() as transforms,
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.device("cpu"),
        # A sampler may still seed or draw from the global generator.
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        # VEGAS formats and compares its results, which carry a gradient here, and
        # GaussLegendre copies its weights in a way that torch would have otherwise.
        for known in ("Converting a tensor with requires_", "To copy construct from"):
            warnings.filterwarnings("ignore", message=known)
        yield transforms
