"""quadax, compiled, for the benchmark; runs where JAX is and torch is not."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import jax_twin
import numpy as np
import quadax
from peer import ROOT, clock, serve

jax.config.update("jax_enable_x64", True)
jax_twin.install()
sys.path.insert(0, str(ROOT / "tests"))
import problems  # noqa: E402  (the twin comes first)

PLAIN = {p.name: p for p in problems.PROBLEMS}
LOG = {p.name: p for p in problems.LOG_PROBLEMS}
DIVERGENT = {p.name: p for p in problems.DIVERGENT}


def _integrand(name: str) -> Callable[[Any, Any], Any]:
    """f(x, theta) on JAX arrays; a log problem is exponentiated, as quadax needs."""
    if name in DIVERGENT:
        function = DIVERGENT[name].integrand
        return lambda x, t: jax_twin.array_of(function(jax_twin.Tensor(x)))
    if name in LOG:
        function = LOG[name].log_integrand
        return lambda x, t: jnp.exp(_values(function, x, t))
    return lambda x, t: _values(PLAIN[name].integrand, x, t)


def _values(function: Callable[..., Any], x: Any, t: Any) -> Any:
    return jax_twin.array_of(function(jax_twin.Tensor(x), jax_twin.Tensor(t)))


def at(name: str, points: list[float]) -> list[list[float]]:
    """Values and derivatives in theta of an integrand, for comparison with torch's."""
    function = jax.value_and_grad(_integrand(name), argnums=1)
    pairs = jax.vmap(function, (0, None))(jnp.array(points), _theta(name))
    return [column.tolist() for column in pairs]


def _row(name: str) -> Any:
    return (PLAIN | LOG | DIVERGENT)[name]


def _theta(name: str) -> Any:
    return jnp.asarray(getattr(_row(name), "theta", 0.0))


@cache
def _compiled(name: str, rtol: float, gradient: bool) -> tuple[Callable, float]:
    """The integral as a compiled function of theta, and the seconds that took."""
    row, integrand = _row(name), _integrand(name)

    def solve(theta: Any) -> Any:
        interval = jnp.array([row.lower, row.upper])
        value, info = quadax.quadgk(
            integrand, interval, (theta,), epsabs=0.0, epsrel=rtol
        )
        return value, (info.neval, info.status)

    if gradient:
        solve = jax.value_and_grad(solve, has_aux=True)
    start = time.perf_counter()
    function = jax.jit(solve).lower(_theta(name)).compile()
    return function, time.perf_counter() - start


def solve(name: str, rtol: float, gradient: bool) -> dict[str, Any]:
    """One integral with what quadax says about it."""
    function, seconds = _compiled(name, rtol, gradient)
    result = jax.device_get(function(_theta(name)))
    (value, (n_evals, status)), slope = result if gradient else (result, np.nan)
    return {
        "value": float(value),
        "gradient": float(slope),
        "n_evals": int(n_evals),
        "converged": int(status) == 0,
        "compile_s": seconds,
    }


def time_solve(name: str, rtol: float, gradient: bool, calls: int) -> float:
    """Seconds per integral."""
    function, _ = _compiled(name, rtol, gradient)
    theta = _theta(name)
    return clock(lambda: jax.block_until_ready(function(theta)), calls)


def _peak(x: Any, centre: Any, width: Any) -> Any:
    return jnp.exp(-0.5 * ((x - centre) / width) ** 2)


@cache
def _compiled_peaks(
    method: str, path: str, rtol: float, gradient: bool
) -> tuple[Callable, list[Any], float]:
    centre, width = map(jnp.asarray, np.load(path))
    integrator = getattr(quadax, method)
    # The default of tanhsinh cannot be differentiated in reverse below vmap.
    options = {"adjoint": quadax.LeibnizAdjoint()} if method == "tanhsinh" else {}
    interval = jnp.array([0.0, 1.0])

    def one(centre: Any, width: Any) -> Any:
        pair = (centre, width)
        return integrator(_peak, interval, pair, epsabs=0.0, epsrel=rtol, **options)[0]

    def total(centre: Any, width: Any) -> Any:
        values = jax.vmap(one)(centre, width)
        return values.sum(), values

    function = jax.value_and_grad(total, (0, 1), has_aux=True) if gradient else total
    start = time.perf_counter()
    compiled = jax.jit(function).lower(centre, width).compile()
    return compiled, [centre, width], time.perf_counter() - start


def peaks(
    method: str, path: str, rtol: float, gradient: bool, results: str
) -> dict[str, Any]:
    """Solve the peaks in the file and save values (and gradients)."""
    function, arguments, seconds = _compiled_peaks(method, path, rtol, gradient)
    result = jax.device_get(function(*arguments))
    rows = [result[0][1], *result[1]] if gradient else [result[1]]
    np.save(results, np.stack(rows))
    return {"compile_s": seconds}


def time_peaks(method: str, path: str, rtol: float, gradient: bool) -> float:
    """Seconds for all peaks in the file."""
    function, arguments, _ = _compiled_peaks(method, path, rtol, gradient)
    return clock(lambda: jax.block_until_ready(function(*arguments)), 1)


def versions() -> dict[str, str]:
    """What runs here."""
    return {"jax": jax.__version__, "quadax": quadax.__version__}


if __name__ == "__main__":
    functions = (at, solve, time_solve, peaks, time_peaks, versions)
    serve({function.__name__: function for function in functions})
