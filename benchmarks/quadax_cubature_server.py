"""quadax's compiled cubature on Genz's families; runs where JAX is and torch is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import jax
import jax.numpy as jnp
import quadax
from peer import serve
from timing import timer

jax.config.update("jax_enable_x64", True)

Array = jax.Array

#: A tenth of a second to a second, after which a row is given up.
REGIONS = 500

#: In the order of the table of problems, which the benchmark compares point by point.
FAMILIES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "oscillatory": lambda x, a, u: jnp.cos(2 * jnp.pi * u[0] + (a * x).sum()),
    "product_peak": lambda x, a, u: (1 / (a**-2.0 + (x - u) ** 2)).prod(),
    "corner_peak": lambda x, a, u: (1 + (a * x).sum()) ** -(len(x) + 1.0),
    "gaussian": lambda x, a, u: jnp.exp(-((a * (x - u)) ** 2).sum()),
    "continuous": lambda x, a, u: jnp.exp(-(a * jnp.abs(x - u)).sum()),
    "discontinuous": lambda x, a, u: jnp.where(
        (x[0] <= u[0]) & (x[1] <= u[1]), jnp.exp((a * x).sum()), 0.0
    ),
}


def _integrand(x: Array, a: Array, u: Array, family: Array) -> Array:
    return jax.lax.switch(family.astype(int), list(FAMILIES.values()), x, a, u)


@cache
def _program(dimension: int) -> Callable[..., tuple[Array, Array]]:
    """One program for all families and tolerances: each takes 10 seconds to compile."""
    cube = jnp.array([[0.0, 1.0]] * dimension)

    def solve(a: Array, u: Array, family: Array, rtol: Array) -> tuple[Array, Array]:
        value, info = quadax.cubegm(
            _integrand,
            cube,
            (a, u, family),
            epsabs=0.0,
            epsrel=rtol,
            max_nregion=REGIONS,
        )
        return value, info.status

    a, one = jnp.ones(dimension), jnp.ones(())
    return jax.jit(solve).lower(a, a, one, one).compile()


def _inputs(
    family: str, a: Sequence[float], u: Sequence[float], rtol: float
) -> tuple[Array, ...]:
    index = float(list(FAMILIES).index(family))
    return jnp.array(a), jnp.array(u), jnp.asarray(index), jnp.asarray(rtol)


def at(
    family: str, a: Sequence[float], u: Sequence[float], points: list[list[float]]
) -> list[float]:
    """Values of an integrand, to compare with torch's."""
    a, u, index, _ = _inputs(family, a, u, 0.0)
    return jax.vmap(_integrand, (0, None, None, None))(
        jnp.array(points), a, u, index
    ).tolist()


def solve(
    family: str, a: Sequence[float], u: Sequence[float], rtol: float
) -> dict[str, object]:
    """One integral with what quadax says about it."""
    value, status = _program(len(a))(*_inputs(family, a, u, rtol))
    return {"value": float(value), "converged": int(status) == 0}


def time_solve(
    family: str, a: Sequence[float], u: Sequence[float], rtol: float, calls: int
) -> float:
    """Seconds per integral."""
    program, inputs = _program(len(a)), _inputs(family, a, u, rtol)
    return timer(lambda: jax.block_until_ready(program(*inputs)))(calls)


if __name__ == "__main__":
    serve(at, solve, time_solve)
