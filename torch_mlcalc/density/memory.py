"""What a density has found out, kept until a tensor that it depends on changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.testing.captured import find_captured

T = TypeVar("T")


class Memory:
    """Results by name, forgotten when a tensor is replaced or written to.

    So they are when it begins or ceases to require a gradient.

    Known are the tensors that the given objects reach: args, limits, parameters of
    modules, closures, globals. Every in-place write, such as that of an optimiser, has
    raised the version counter of its tensor. Within a transform of torch.func or
    forward mode tensors are wrapped, and nothing is kept.
    """

    def __init__(self, *roots: object) -> None:
        """Begin with nothing.

        Args:
            roots: What results depend on.
        """
        self._roots = {str(i): root for i, root in enumerate(roots)}
        self._tensors: list[Tensor] = []
        self._versions: list[tuple[int, bool]] = []
        self._results: dict[str, Any] = {}

    def recall(self, name: str, make: Callable[[], T], *, value: bool = True) -> T:
        """The result of this name, made if it is not known or out of date.

        Args:
            name: Which.
            make: How to make it.
            value: Whether it is a value, which has a gradient if one is recorded;
                nodes have none.

        Returns:
            The result.
        """
        if transforming() or dual_level():
            return make()
        # What was made without a gradient is no answer where one is wanted; what was
        # made where one was recorded, and has none, is one anywhere.
        recorded = f"{name}, gradient recorded"
        key = recorded if value and torch.is_grad_enabled() else name
        if key in self._results or recorded in self._results:
            self._forget_if_changed()
        if recorded in self._results:
            return self._results[recorded]
        if key not in self._results:
            result = make()
            if getattr(result, "requires_grad", False):
                # Its graph can be used once; the next call needs one of its own.
                return result
            self._forget_if_changed()
            self._results[key] = result
        return self._results[key]

    def knows(self, name: str) -> bool:
        """Whether there is a result of this name that was made without a gradient."""
        if name in self._results and not (transforming() or dual_level()):
            self._forget_if_changed()
        return name in self._results

    def _forget_if_changed(self) -> None:
        # Walking through a network of three layers takes a millisecond: only where
        # something is kept.
        found = find_captured(self._roots)
        tensors = [*found.tensors.values(), *found.computed.values()]
        versions = [
            (-1 if t.is_inference() else t._version, t.requires_grad) for t in tensors
        ]
        same = len(tensors) == len(self._tensors) and versions == self._versions
        if not same or any(
            a is not b for a, b in zip(tensors, self._tensors, strict=True)
        ):
            self._tensors, self._versions, self._results = tensors, versions, {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Memory:
        """A copy of the roots that knows nothing yet."""
        from copy import deepcopy

        return Memory(*(deepcopy(root, memo) for root in self._roots.values()))
