"""quadax, compiled, for the benchmark; runs where JAX is and torch is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax_twin
import numpy as np
import quadax
from peer import ROOT, serve
from timing import high_water, timer

jax.config.update("jax_enable_x64", True)
jax_twin.install()
sys.path.insert(0, str(ROOT / "tests"))
import problems  # noqa: E402  (the twin comes first)

Array = jax.Array
Function = Callable[..., Array]

ROWS = (*problems.PROBLEMS, *problems.LOG_PROBLEMS, *problems.DIVERGENT)
BY_NAME = {row.name: row for row in ROWS}


class Program(NamedTuple):
    """A compiled program and its input."""

    run: Callable[..., object]
    input: tuple[Array, ...]
    compile_s: float

    def __call__(self) -> object:
        """Run it to the end."""
        return jax.block_until_ready(self.run(*self.input))


# --- the table of problems ------------------------------------------------------------


def _integrand(row: object) -> Function:
    """f(x, theta) on JAX arrays; a log problem is exponentiated, as quadax needs."""

    def values(x: Array, theta: Array) -> Array:
        points, theta = jax_twin.Tensor(x), jax_twin.Tensor(theta)
        if isinstance(row, problems.Divergent):
            return jax_twin.array_of(row.integrand(points))
        if isinstance(row, problems.LogProblem):
            return jnp.exp(jax_twin.array_of(row.log_integrand(points, theta)))
        return jax_twin.array_of(row.integrand(points, theta))

    return values


def _theta(row: object) -> Array:
    return jnp.asarray(getattr(row, "theta", 0.0))


def at(name: str, points: list[float]) -> list[list[float]]:
    """Values of an integrand and its derivatives in theta, to compare with torch's."""
    row = BY_NAME[name]
    function = jax.value_and_grad(_integrand(row), argnums=1)
    pairs = jax.vmap(function, (0, None))(jnp.array(points), _theta(row))
    return [column.tolist() for column in pairs]


def _quadgk(
    integrand: Function, interval: Array, args: tuple[Array, ...], rtol: float
) -> tuple[Array, tuple[Array, Array]]:
    value, info = quadax.quadgk(integrand, interval, args, epsabs=0.0, epsrel=rtol)
    return value, (info.neval, info.status)


@cache
def _program(rtol: float) -> tuple[Callable[..., object], float]:
    """One program for all rows, and the seconds it took to compile.

    To compile each row takes 5 to 20 seconds, hours in all. Here the integrand begins
    with a switch; ``alone=True`` shows what that costs.
    """
    branches = [_integrand(row) for row in ROWS]

    def integrand(x: Array, theta: Array, index: Array) -> Array:
        return jax.lax.switch(index.astype(int), branches, x, theta)

    def solve(theta: Array, interval: Array, index: Array) -> object:
        return _quadgk(integrand, interval, (theta, index), rtol)

    return _compile(solve, (jnp.zeros(()), jnp.zeros(2), jnp.zeros(())))


def _compile(
    function: Callable[..., object], example: tuple[Array, ...]
) -> tuple[Callable[..., object], float]:
    start = time.perf_counter()
    compiled = jax.jit(function).lower(*example).compile()
    return compiled, time.perf_counter() - start


@cache
def _problem(name: str, rtol: float, gradient: bool, alone: bool) -> Program:
    row = BY_NAME[name]
    theta, interval = _theta(row), jnp.array([row.lower, row.upper])
    if not alone:
        run, seconds = _program(rtol)
        index = jnp.asarray(float(ROWS.index(row)))
        return Program(run, (theta, interval, index), seconds)

    def solve(theta: Array, interval: Array) -> object:
        return _quadgk(_integrand(row), interval, (theta,), rtol)

    if gradient:
        solve = jax.value_and_grad(solve, has_aux=True)
    run, seconds = _compile(solve, (theta, interval))
    return Program(run, (theta, interval), seconds)


def solve(name: str, rtol: float, gradient: bool, alone: bool) -> dict[str, object]:
    """One integral with what quadax says about it; a gradient only if alone."""
    program = _problem(name, rtol, gradient, alone)
    result = jax.device_get(program())
    (value, (n_evals, status)), slope = result if gradient else (result, np.nan)
    return {
        "value": float(value),
        "gradient": float(slope),
        "converged": int(status) == 0,
        "n_evals": int(n_evals),
        "compile_s": program.compile_s,
    }


def time_solve(
    name: str, rtol: float, gradient: bool, alone: bool, calls: int
) -> float:
    """Seconds per integral."""
    return timer(_problem(name, rtol, gradient, alone))(calls)


# --- peaks ----------------------------------------------------------------------------

#: The faster way to differentiate, by trial: the default of quadgk takes 7 times as
#: long. For quadts its default is the faster one.
ADJOINTS = {"quadgk": quadax.LeibnizAdjoint()}


def _peak(x: Array, centre: Array, width: Array) -> Array:
    return jnp.exp(-0.5 * ((x - centre) / width) ** 2)


@cache
def _peak_program(
    method: str, count: int, rtol: float, gradient: bool
) -> tuple[Callable[..., object], float]:
    """One program for peaks of all widths, and the seconds it took to compile."""
    options = {"adjoint": ADJOINTS[method]} if gradient and method in ADJOINTS else {}
    interval = jnp.array([0.0, 1.0])

    def one(centre: Array, width: Array) -> Array:
        value, _ = getattr(quadax, method)(
            _peak, interval, (centre, width), epsabs=0.0, epsrel=rtol, **options
        )
        return value

    function = jax.vmap(jax.value_and_grad(one, (0, 1)) if gradient else one)
    return _compile(function, (jnp.zeros(count), jnp.zeros(count)))


@cache
def _peaks(method: str, path: str, rtol: float, gradient: bool) -> Program:
    centre, width = map(jnp.asarray, np.load(path))
    run, seconds = _peak_program(method, len(centre), rtol, gradient)
    return Program(run, (centre, width), seconds)


def peaks(
    method: str, path: str, rtol: float, gradient: bool, results: str
) -> dict[str, float]:
    """Integrate the peaks in a file; save values, and gradients by centre and width."""
    program = _peaks(method, path, rtol, gradient)
    kept: list[object] = []
    # The first call, so that nothing is left over from an earlier one.
    memory = high_water(lambda: kept.append(program()))
    value, slopes = jax.device_get(kept[0]) if gradient else (kept[0], ())
    np.save(results, np.stack([value, *slopes]))
    return {"compile_s": program.compile_s, "memory": memory}


def time_peaks(
    method: str, path: str, rtol: float, gradient: bool, calls: int
) -> float:
    """Seconds for all peaks in a file."""
    return timer(_peaks(method, path, rtol, gradient))(calls)


def versions() -> dict[str, str]:
    """What runs here."""
    return {"jax": jax.__version__, "quadax": quadax.__version__}


if __name__ == "__main__":
    serve(at, solve, time_solve, peaks, time_peaks, versions)
