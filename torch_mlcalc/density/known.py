"""The log density at points where somebody has asked for it already."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_mlcalc.quadrature.host import dual_level, read, transforming
from torch_mlcalc.quadrature.integrand import Function, Integrand
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.testing.captured import find_captured

if TYPE_CHECKING:
    from torch_mlcalc.density.unnormalized import Unnormalized

Keys = npt.NDArray[np.complex128]
Mask = npt.NDArray[np.bool_]

#: Points that are kept, of 24 bytes each.
MOST = 2**21

#: Numbers that a density must depend on for a batch of it to be looked up. To ask 1000
#: densities at 160 nodes takes 16 ms, to look them up in the course of an entropy 120;
#: a network with 16 parameters takes 60, one with two layers of 64 units 210.
LEAST = 32


class Known:
    """A log density that remembers its values, for functions on a line.

    Searches for the normaliser, for means and for the distribution function ask for it
    at many of the same points, since all begin with the same cells: what is new in one
    is where its own error estimate wanted more. Where a gradient of the density is
    recorded, it is evaluated, and remembered for the others.

    Attributes:
        args: What to pass behind the points: with batched arguments of the density
            their row numbers first, so that any rows of the batch can be asked for.
    """

    def __init__(self, integrand: Integrand) -> None:
        """Begin with no points.

        Args:
            integrand: The log density.
        """
        self.integrand = integrand
        self.args = integrand.args
        self.by_row = any(isinstance(a, Tensor) and a.ndim for a in integrand.args)
        batch = integrand.batch_shape
        self.elements = math.prod(batch)
        self._by_pairs = self.by_row and self.elements > 1
        if self.by_row:
            index = torch.arange(self.elements, device=integrand.device)
            self.args = (index.reshape(batch), *integrand.args)
        self.keeps = self.elements > 0 and (
            self.elements == 1 or _size(integrand) >= LEAST
        )
        self._keys: Keys = np.empty(0, complex)
        self._values: Array = np.empty(0)
        self._new: list[tuple[Keys, Array]] = []
        self._count = 0
        self._requires_grad: bool | None = None
        self._dtype = integrand.dtype

    def at(self, points: Tensor) -> Tensor:
        """The log density at points ``(n, *batch)`` of all elements."""
        return self(points, *self.args)

    def __call__(self, points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        """The log density, looked up or evaluated.

        Args:
            points: Where, ``(n, *batch)``, or ``(n, m)`` with rows of ``args``.
            args: The attribute of this name, or rows of it.

        Returns:
            Values of the shape of the points.
        """
        rows, own = (args[0], args[1:]) if self.by_row else (None, args)
        if self._hidden():
            return self.integrand.function(points, *own)
        keys = self._keys_of(points, rows)
        if points.requires_grad or self._wants_graph(points, own):
            return self._evaluated(points, own, keys)
        values, missing = self._look_up(keys)
        if missing.all() and not self._by_pairs:
            return self._evaluated(points, own, keys)
        if self._by_pairs and missing.any():
            new, place = np.unique(keys[missing], return_inverse=True)
            if new.size == keys.size:
                return self._evaluated(points, own, keys)
            values[missing] = self._at_pairs(new)[place]
        elif missing.any():
            some = missing.any(0)
            found = self._evaluated(points[torch.from_numpy(some)], own, keys[:, some])
            values[:, some] = _columns(found)
        tensor = torch.from_numpy(values.T).to(points.device, self._dtype)
        return tensor.reshape(points.shape)

    def record(self, points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        """The same by evaluation, for the first search of all."""
        rows, own = (args[0], args[1:]) if self.by_row else (None, args)
        if self._hidden():
            return self.integrand.function(points, *own)
        return self._evaluated(points, own, self._keys_of(points, rows))

    def remember(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        """Take down what somebody has evaluated without a gradient."""
        if self.keeps:
            self._requires_grad = False
            for points, values in pairs:
                self._note(self._keys_of(points, None), values)

    @property
    def has_graph(self) -> bool:
        """Whether it is known that the density has a gradient."""
        return self._requires_grad is True

    def _hidden(self) -> bool:
        """Whether values are not to be seen, or not worth it."""
        shown = self.keeps and not torch.compiler.is_compiling()
        return not shown or transforming() or dual_level()

    def _wants_graph(self, points: Tensor, args: tuple[Any, ...]) -> bool:
        """Whether a gradient is recorded that the density has."""
        if not torch.is_grad_enabled():
            return False
        if self._requires_grad is None:
            values = self.integrand.function(points[:1], *args)
            self._requires_grad = isinstance(values, Tensor) and values.requires_grad
        return self._requires_grad

    @staticmethod
    def _keys_of(points: Tensor, rows: Tensor | None) -> Keys:
        """Element and point in one number; complex ones are in order.

        Returns:
            Keys ``(m, n)``, nearly in order: to look up 130,000 takes 3 ms, and 32 ms
            as ``(n, m)``.
        """
        x = _columns(points)
        element = np.arange(len(x)) if rows is None else read(rows).reshape(-1)
        # Part by part: 1j times infinity is not a number.
        keys: Keys = np.empty(x.shape, complex)
        keys.real, keys.imag = element[:, None], x
        return keys

    def _evaluated(self, points: Tensor, args: tuple[Any, ...], keys: Keys) -> Tensor:
        """Call the density, and remember what it says."""
        values = self.integrand.function(points, *args)
        if not isinstance(values, Tensor) or values.shape != points.shape:
            return values  # to be refused by who asked
        if torch.is_grad_enabled():
            self._requires_grad = values.requires_grad
        self._note(keys, values)
        return values

    def _note(self, keys: Keys, values: Tensor) -> None:
        self._dtype = values.dtype
        if self._count < MOST:
            self._new.append((keys.ravel(), _columns(values).ravel()))
            self._count += keys.size

    def _at_pairs(self, keys: Keys) -> Array:
        """Values of single points of single rows of the batch."""
        # As in a search: rows must never pass for the whole batch.
        spare = int(keys.size == self.elements)
        every = np.append(keys, keys[:spare])
        integrand, device = self.integrand, self.integrand.device
        rows = torch.from_numpy(every.real.astype(np.int64)).to(device)
        x = torch.from_numpy(every.imag.copy()).to(device, integrand.dtype)
        own = tuple(integrand.rows(arg, rows) for arg in integrand.args)
        return read(self._evaluated(x[None], own, every[:, None]))[0, : keys.size]

    def _look_up(self, keys: Keys) -> tuple[Array, Mask]:
        """The values that are known, and which of them are not."""
        if self._new:
            columns = [(self._keys, self._values), *self._new]
            every, values = (np.concatenate(c) for c in zip(*columns, strict=True))
            self._keys, first = np.unique(every, return_index=True)
            self._values, self._new = values[first], []
            self._count = self._keys.size
        if not self._keys.size:
            return np.empty(keys.shape), np.ones(keys.shape, bool)
        place = np.searchsorted(self._keys, keys).clip(max=self._keys.size - 1)
        return self._values[place], self._keys[place] != keys


class Heard:
    """A log density that takes down values that have no gradient, and no copies."""

    def __init__(self, function: Function) -> None:
        """Begin with nothing."""
        self.function = function
        self.pairs: list[tuple[Tensor, Tensor]] = []
        self._count = 0

    def __call__(self, points: Tensor, *args: Any) -> Tensor:  # noqa: ANN401
        """The log density."""
        if transforming() or dual_level() or torch.compiler.is_compiling():
            return self.function(points, *args)
        version = points._version
        values = self.function(points, *args)
        usual = isinstance(values, Tensor) and values.shape == points.shape
        kept = usual and points._version == version and self._count < MOST
        if kept and not values.requires_grad:
            self.pairs.append((points, values))
            self._count += values.numel()
        return values


def _columns(tensor: Tensor) -> Array:
    """The numbers of a tensor ``(n, *batch)`` as ``(m, n)``."""
    array: Array = read(tensor)
    return np.ascontiguousarray(array.reshape(len(array), math.prod(array.shape[1:])).T)


def _size(integrand: Integrand) -> int:
    """How many numbers a density depends on, of which each element has its own."""
    found = find_captured({"density": integrand.function, "args": integrand.args})
    batch, size = integrand.batch_shape, 0
    for tensor in found.tensors.values():
        own = batch and tuple(tensor.shape[: len(batch)]) == batch
        size += tensor.numel() // (math.prod(batch) if own else 1)
    return size


def integrand_of(density: Unnormalized) -> Integrand:
    """The log density as an integrand."""
    return Integrand(
        density.log_unnormalized,
        density.args,
        tuple(density.batch_shape),
        density.dtype,
        density.device,
        density.event_shape[0] if density.event_shape else 0,
    )
