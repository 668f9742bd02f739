"""What updates the groups of an optimiser, and what it knows of their tensors."""

import operator
from typing import Any, TypeAlias

from torch import Tensor

from torch_mlcalc.optim.flat import FlatGroup
from torch_mlcalc.optim.options import Formula
from torch_mlcalc.optim.partition import Partition
from torch_mlcalc.optim.update import unscaled

Grads: TypeAlias = list[Tensor | None]
Groups: TypeAlias = list[dict[str, Any]]
State: TypeAlias = dict[Any, Any]

_grad = operator.attrgetter("grad")


class Bodies:
    """A partition or blocks for each group, kept from step to step while they fit."""

    def __init__(self) -> None:
        """Begin without knowing anything: the next step looks."""
        self.partitions: dict[int, Partition] = {}
        self._flat_groups: dict[int, FlatGroup] = {}
        self._states: list[dict[str, Any]] = []

    def update(
        self,
        groups: Groups,
        state: State,
        grads: list[Grads] | None,
        scale: Tensor | None,
        factor: float,
    ) -> None:
        """Update all groups, by what is in ``.grad`` unless gradients are given.

        Args:
            groups: Parameter groups.
            state: State of each parameter.
            grads: Gradients of each group, or None.
            scale: What they are to be divided by.
            factor: Of the learning rate.
        """
        self._look_for_states(state)
        for i, group in enumerate(groups):
            params, formula = group["params"], Formula.of(group, factor)
            own = grads[i] if grads is not None else None
            if group["flat"]:
                self._update_flat(groups, i, state, own, scale, formula)
                continue
            self._flat_groups.pop(i, None)
            if own is None and scale is not None:
                own = list(map(_grad, params))
            if own is not None:
                own = unscaled(own, scale)
            known = self.partitions.get(i)
            if known is not None and known.still_fits(group, own, formula):
                own = known.step(params, own, state, formula, is_new=False)
                if not own:
                    continue
            own = list(map(_grad, params)) if own is None else own
            new = self.partitions[i] = Partition(group, own, state, formula)
            new.step(params, own, state, formula, is_new=True)

    def _update_flat(
        self,
        groups: Groups,
        i: int,
        state: State,
        grads: Grads | None,
        scale: Tensor | None,
        formula: Formula,
    ) -> None:
        """Update a flat group; at once if all is where it was."""
        group, known = groups[i], self._flat_groups.get(i)
        if grads is None:
            if scale is None and known is not None and known.repeat(group, formula):
                return
            grads = list(map(_grad, group["params"]))
        self._flat_group(groups, i).step(group, grads, scale, state, formula)

    def _look_for_states(self, state: State) -> None:
        """Drop what was found out if the state of a parameter is another dict."""
        states, known = state.values(), self._states
        if len(states) != len(known) or not all(map(operator.is_, states, known)):
            self.partitions.clear()
            for flat_group in self._flat_groups.values():
                flat_group.forget_state()
            self._states = list(states)

    def move_into_blocks(self, groups: Groups) -> list[FlatGroup]:
        """Return the blocks of all groups that are flat."""
        flat = [i for i, group in enumerate(groups) if group["flat"]]
        return [self._flat_group(groups, i, vectors=True) for i in flat]

    def _flat_group(self, groups: Groups, i: int, vectors: bool = False) -> FlatGroup:
        """Return the blocks of a group, made anew if its parameters are elsewhere."""
        params = groups[i]["params"]
        flat_group = self._flat_groups.get(i)
        if flat_group is None or not flat_group.still_fits(params, vectors):
            others = [p for k, g in enumerate(groups) if k != i for p in g["params"]]
            flat_group = self._flat_groups[i] = FlatGroup(params, others)
        return flat_group
