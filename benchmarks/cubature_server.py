"""scipy.integrate.cubature on torch tensors, for the benchmark.

SciPy takes tensors only if ``SCIPY_ARRAY_API=1`` is set before its import, for the
whole process; hence a process of its own.
"""

from __future__ import annotations

import sys

import torch
from peer import ROOT, serve
from scipy.integrate import cubature
from timing import timer

sys.path.insert(0, str(ROOT / "tests"))
from problems import PROBLEMS  # noqa: E402

torch.set_default_dtype(torch.float64)
#: A fifth of the default, with which the rows that never converge take 2 minutes each.
MAX_SUBDIVISIONS = 2000

BY_NAME = {row.name: row for row in PROBLEMS}


def _integral(name: str, rtol: float, theta: torch.Tensor) -> object:
    row = BY_NAME[name]
    limits = torch.tensor([row.lower]), torch.tensor([row.upper])
    return cubature(
        lambda x: row.integrand(x[:, 0], theta),
        *limits,
        rtol=rtol,
        atol=0.0,
        max_subdivisions=MAX_SUBDIVISIONS,
    )


def _run(name: str, rtol: float, gradient: bool) -> tuple[object, float]:
    theta = torch.tensor(BY_NAME[name].theta, requires_grad=gradient)
    result = _integral(name, rtol, theta)
    if not gradient:
        return result, float("nan")
    (slope,) = torch.autograd.grad(result.estimate, theta)
    return result, float(slope)


def solve(name: str, rtol: float, gradient: bool) -> dict[str, object]:
    """One integral with what SciPy says about it."""
    result, slope = _run(name, rtol, gradient)
    return {
        "value": float(result.estimate.detach()),
        "gradient": slope,
        "converged": result.status == "converged",
    }


def time_solve(name: str, rtol: float, gradient: bool, calls: int) -> float:
    """Seconds per integral."""
    return timer(lambda: _run(name, rtol, gradient))(calls)


if __name__ == "__main__":
    serve(solve, time_solve)
