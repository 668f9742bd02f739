"""The table of problems: how each method solves a row, and whether it is right."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from peer import ROOT, Call
from scipy import integrate as scipy_integrate
from torch import Tensor

import torch_mlcalc as mlc

sys.path.insert(0, str(ROOT / "tests"))
from problems import (  # noqa: E402
    DIVERGENT,
    LOG_PROBLEMS,
    PROBLEMS,
    Divergent,
    LogProblem,
    Problem,
)

RTOL = 1e-8

Row = Problem | LogProblem | Divergent
ROWS: tuple[Row, ...] = (*PROBLEMS, *LOG_PROBLEMS, *DIVERGENT)

#: A gradient is right if it is to this: the tolerance is one on the value.
GRADIENT_RTOL = 1e-5


class Answer(NamedTuple):
    """What a method says about an integral; of a log problem, about the log."""

    value: float
    converged: bool
    n_evals: int = 0
    gradient: float = math.nan

    def is_right(self, row: Row) -> bool:
        """Within ten times the tolerance, or twice what float64 points can attain."""
        if isinstance(row, Divergent):
            return False
        tolerance = max(10 * RTOL, 2 * row.attainable)
        if isinstance(row, LogProblem):
            return abs(self.value - row.log_value) <= tolerance
        return abs(self.value - row.value) <= tolerance * abs(row.value)

    def has_right_gradient(self, row: Problem) -> bool:
        """To ``GRADIENT_RTOL``, or twice what float64 points can attain."""
        tolerance = max(GRADIENT_RTOL, 2 * row.attainable)
        return abs(self.gradient - row.gradient) <= tolerance * abs(row.gradient)


def mlc_answer(row: Row) -> Answer:
    """The default rule of this package."""
    theta = torch.tensor(getattr(row, "theta", 0.0), requires_grad=True)
    domain = mlc.Interval(row.lower, row.upper)
    options = {"rtol": RTOL, "on_failure": "ignore"}
    if isinstance(row, LogProblem):
        estimate = mlc.log_integrate_with_error(
            lambda x: row.log_integrand(x, theta), domain, **options
        )
    else:
        estimate = mlc.integrate_with_error(_integrand(row, theta), domain, **options)
    gradient = math.nan
    if estimate.value.requires_grad:
        gradient = float(torch.autograd.grad(estimate.value, theta)[0])
    converged = int(estimate.status) == mlc.Status.CONVERGED
    value = float(estimate.value.detach())
    return Answer(value, converged, int(estimate.n_evals), gradient)


def mlc_call(row: Problem, gradient: bool) -> Callable[[], Tensor]:
    """The same as the call that is timed."""
    theta = torch.tensor(row.theta, requires_grad=gradient)

    def call() -> Tensor:
        value = mlc.integrate(
            lambda x: row.integrand(x, theta),
            mlc.Interval(row.lower, row.upper),
            rtol=RTOL,
        )
        return torch.autograd.grad(value, theta)[0] if gradient else value

    return call


def floor_call(row: Problem, sums: bool) -> Callable[[], None]:
    """The integrand alone, at the nodes of :func:`mlc_call`, in as many calls.

    With sums, each call has also what no search in torch could be without: its nodes
    come from the host, and a product with the weights of value, error, absolute value
    and distance from the mean goes back to it.
    """
    theta, calls = torch.tensor(row.theta), []

    def integrand(x: Tensor) -> Tensor:
        calls.append((x.numpy().copy(), x.clone(), torch.ones(4, len(x))))
        return row.integrand(x, theta)

    mlc.integrate(integrand, mlc.Interval(row.lower, row.upper), rtol=RTOL)

    def call() -> None:
        for nodes, points, weights in calls:
            if sums:
                values = row.integrand(torch.from_numpy(nodes.copy()), theta)
                torch.mv(weights, values).tolist()
            else:
                row.integrand(points, theta)

    return call


def quad_answer(row: Row) -> Answer:
    """scipy.integrate.quad, which claims success if it has no message."""
    integrand = _integrand(row, torch.tensor(getattr(row, "theta", 0.0)))
    value, _, info, *message = scipy_integrate.quad(
        lambda x: float(integrand(torch.tensor(x))),
        row.lower,
        row.upper,
        epsabs=0.0,
        epsrel=RTOL,
        full_output=True,
    )
    return Answer(_logged(row, value), not message, info["neval"])


def tanhsinh_answer(row: Row) -> Answer:
    """scipy.integrate.tanhsinh."""
    integrand = _integrand(row, torch.tensor(getattr(row, "theta", 0.0)))
    # It warns of its own differences of infinities.
    with np.errstate(all="ignore"):
        result = scipy_integrate.tanhsinh(
            lambda x: integrand(torch.as_tensor(x)).numpy(),
            row.lower,
            row.upper,
            atol=0.0,
            rtol=RTOL,
        )
    value = _logged(row, float(result.integral))
    return Answer(value, bool(result.success), int(result.nfev))


def quadax_answer(
    call: Call, row: Row, gradient: bool = False, alone: bool = False
) -> Answer:
    """Quadgk of quadax, compiled alone or in one program with all rows."""
    answer = call("solve", name=row.name, rtol=RTOL, gradient=gradient, alone=alone)
    value = _logged(row, answer["value"])
    return Answer(value, answer["converged"], answer["n_evals"], answer["gradient"])


def cubature_answer(call: Call, row: Problem, gradient: bool) -> Answer:
    """scipy.integrate.cubature on torch tensors."""
    answer = call("solve", name=row.name, rtol=RTOL, gradient=gradient)
    return Answer(answer["value"], answer["converged"], 0, answer["gradient"])


def _integrand(row: Row, theta: Tensor) -> Callable[[Tensor], Tensor]:
    """f(x); that of a log problem is exponentiated, which is what the peers need."""
    if isinstance(row, Divergent):
        return row.integrand
    if isinstance(row, LogProblem):
        return lambda x: row.log_integrand(x, theta).exp()
    return lambda x: row.integrand(x, theta)


def _logged(row: Row, value: float) -> float:
    if not isinstance(row, LogProblem):
        return value
    return math.log(value) if value > 0 else -math.inf


# --- the same integrands in JAX -------------------------------------------------------

#: Fractions of the range at which the twins are compared; none hits a kink or a step.
_FRACTIONS = (0.0137, 0.11, 0.237, 0.391, 0.523, 0.677, 0.859, 0.9731)


def twin_error(call: Call, row: Row) -> float:
    """Largest relative difference to JAX, of the integrand and its theta-derivative."""
    points = torch.tensor([_point(row, fraction) for fraction in _FRACTIONS])
    theta = torch.full_like(points, getattr(row, "theta", 0.0), requires_grad=True)
    values = _integrand(row, theta)(points)
    slopes = torch.zeros_like(points)
    if values.requires_grad:
        (slopes,) = torch.autograd.grad(values.sum(), theta)
    theirs = torch.tensor(call("at", name=row.name, points=points.tolist()))
    ours = torch.stack((values.detach(), slopes))
    difference = (ours - theirs).abs()
    # exp(1000) is infinite for both, and its derivative may be inf or nan.
    difference[~ours.isfinite() & ~theirs.isfinite()] = 0
    scale = ours.abs().nan_to_num().amax(1, keepdim=True) + 1e-300
    return float((difference / scale).max())


def _point(row: Row, fraction: float) -> float:
    if math.isfinite(row.lower) and math.isfinite(row.upper):
        return row.lower + fraction * (row.upper - row.lower)
    if math.isfinite(row.lower):
        return row.lower + fraction / (1 - fraction)
    if math.isfinite(row.upper):
        return row.upper - fraction / (1 - fraction)
    return math.tan(math.pi * (fraction - 0.5))
