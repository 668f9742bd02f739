"""The torch functions that the table of problems uses, acting on JAX arrays.

``tests/problems.py`` is written for torch. In a process without torch, ``install()``
puts this module in its place, so that quadax integrates the very same functions; the
benchmark compares them point by point with torch's before any timing.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


class Tensor:
    """A JAX array with the operators and methods of a torch tensor."""

    def __init__(self, array: Array) -> None:  # noqa: D107
        self.array = array

    def __getattr__(self, name: str) -> Callable[..., Tensor]:  # noqa: D105
        if name not in FUNCTIONS:
            raise AttributeError(f"{name} has no twin in JAX yet; add it to FUNCTIONS.")
        return lambda *args, **options: FUNCTIONS[name](self, *args, **options)


def array_of(value: Tensor | Array | float) -> Array | float:
    """The JAX array inside a twin; anything else as it is."""
    return value.array if isinstance(value, Tensor) else value


def _lifted(function: Callable[..., Array]) -> Callable[..., Tensor]:
    def call(*args: Tensor | float, **options: float) -> Tensor:
        return Tensor(function(*map(array_of, args), **options))

    return call


def _reflected(function: Callable[..., Array]) -> Callable[..., Tensor]:
    return _lifted(lambda right, left: function(left, right))


FUNCTIONS = {
    name: _lifted(function)
    for name, function in {
        "abs": jnp.abs,
        "atan": jnp.arctan,
        "clamp": jnp.clip,
        "cos": jnp.cos,
        "cosh": jnp.cosh,
        "exp": jnp.exp,
        "exp2": jnp.exp2,
        "expm1": jnp.expm1,
        "floor": jnp.floor,
        "log": jnp.log,
        "log1p": jnp.log1p,
        "logaddexp": jnp.logaddexp,
        "maximum": jnp.maximum,
        "ones_like": jnp.ones_like,
        "relu": jax.nn.relu,
        "rsqrt": jax.lax.rsqrt,
        "sigmoid": jax.nn.sigmoid,
        "sign": jnp.sign,
        "sin": jnp.sin,
        "sqrt": jnp.sqrt,
        "tan": jnp.tan,
        "where": jnp.where,
    }.items()
}
globals().update(FUNCTIONS)

for _name in ("add", "sub", "mul", "truediv", "pow"):
    _function = getattr(operator, _name)
    setattr(Tensor, f"__{_name}__", _lifted(_function))
    setattr(Tensor, f"__r{_name}__", _reflected(_function))
for _name in ("neg", "lt", "le", "gt", "ge"):
    setattr(Tensor, f"__{_name}__", _lifted(getattr(operator, _name)))


def install() -> None:
    """Be ``torch`` for the rest of this process."""
    sys.modules["torch"] = sys.modules[__name__]
