"""Parameters, gradients and momentum of a group as views of contiguous blocks."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from torch_mlcalc.optim.foreach import foreach_
from torch_mlcalc.optim.fused import fused_, is_safe
from torch_mlcalc.optim.movable import check_movable
from torch_mlcalc.optim.options import Formula
from torch_mlcalc.optim.partition import buffers_of, unchanged
from torch_mlcalc.optim.update import unscaled, update_

Tensors: TypeAlias = list[Tensor]
Grads: TypeAlias = list[Tensor | None]
States: TypeAlias = Mapping[Tensor, dict[str, Any]]

# Each parameter starts at a multiple of 64 bytes, as if torch had allocated it.
_ALIGNMENT = 64

#: Parameters that are looked at, with all that belongs to them, before others are, so
#: that it stays in the cache: a step of 2000 small ones took 3.8 ms, and 4.3 in one go.
_PARAMS_OF_PART = 256

_grad = operator.attrgetter("grad")


class FlatGroup:
    """The parameters of one group in blocks, one for each dtype and device."""

    def __init__(self, params: Tensors, others: Tensors) -> None:
        """Move parameters into blocks.

        Args:
            params: Parameters. They stay the same objects, at another place in memory.
            others: Parameters of other groups, which may not be in the same memory.

        Raises:
            ValueError: If one cannot be moved without a change elsewhere.
        """
        self.params = list(params)
        check_movable(self.params, others)
        positions: dict[tuple[object, ...], list[int]] = {}
        for i, param in enumerate(self.params):
            positions.setdefault((param.dtype, param.device), []).append(i)
        self._blocks = [
            (where, _Block([self.params[i] for i in where]))
            for where in positions.values()
        ]

    def still_fits(self, params: Tensors, vectors: bool = False) -> bool:
        """Return whether these are the parameters, where they were put.

        Args:
            params: Parameters of the group.
            vectors: Whether to look at the size and stride of a vector even if no
                gradient was copied at the last step, which takes far longer.
        """
        return (
            len(params) == len(self.params)
            and all(map(operator.is_, params, self.params))
            and all(block.is_in_place(vectors) for _, block in self._blocks)
        )

    def zero_grad(self) -> None:
        """Set all gradients to zero, and let them be views of blocks from now on."""
        for _, block in self._blocks:
            block.zero_grad()

    def forget_state(self) -> None:
        """Look for every momentum buffer at the next step, for one is another."""
        for _, block in self._blocks:
            block.forget_state()

    def repeat(self, group: dict[str, Any], formula: Formula) -> bool:
        """Update every parameter, if all is where a step before left it.

        Args:
            group: The group.
            formula: The options of the group.

        Returns:
            Whether all is; nothing is updated otherwise.
        """
        params, blocks = group["params"], self._blocks
        if len(params) != len(self.params):
            return False
        found = []
        for where, block in blocks:
            own = params if len(blocks) == 1 else [params[i] for i in where]
            grads = block.steady(own, formula)
            if grads is None:
                return False
            found.append(grads)
        for (_, block), grads in zip(blocks, found, strict=True):
            block.update_all(group, grads, formula)
        return True

    def step(
        self,
        group: dict[str, Any],
        grads: Grads,
        scale: Tensor | None,
        state: States,
        formula: Formula,
    ) -> None:
        """Update every parameter that has a gradient.

        Args:
            group: The group.
            grads: Gradients of its parameters, never written to.
            scale: By how much they are too large.
            state: The state of the optimizer.
            formula: The options of the group.
        """
        for where, block in self._blocks:
            everything = len(where) == len(grads)
            selected = grads if everything else [grads[i] for i in where]
            block.step(group, selected, scale, state, formula)


class _Layout:
    """Where tensors have been put, and with which strides."""

    def __init__(self, tensors: Tensors) -> None:
        self._places = list(map(Tensor.data_ptr, tensors))
        # What has been transposed is where it was; a vector cannot be. One of other
        # strides or another size can, which is looked for less often.
        self._wide = [i for i, tensor in enumerate(tensors) if tensor.dim() > 1]
        self._same_strides = unchanged([tensors[i] for i in self._wide])
        self._all_the_same = unchanged(tensors)

    def is_of(self, tensors: Tensors, vectors: bool = False) -> bool:
        if list(map(Tensor.data_ptr, tensors)) != self._places:
            return False
        if vectors:
            return self._all_the_same(tensors)
        return self._same_strides([tensors[i] for i in self._wide])


class _Views:
    """A block, and a view of it for each parameter that others may hold."""

    def __init__(self, block: Tensor, params: Tensors, starts: list[int]) -> None:
        self.block = block
        self._layouts = [
            (param.shape, param.stride(), start)
            for param, start in zip(params, starts, strict=False)
        ]
        self.tensors = [block.as_strided(*layout) for layout in self._layouts]
        self._layout = _Layout(self.tensors)

    def are(self, found: Iterable[Tensor | None]) -> bool:
        """Return whether these are the views, none of whose ``.data`` was replaced."""
        same = all(map(operator.is_, found, self.tensors))
        return same and self._layout.is_of(self.tensors)

    def at(self, i: int) -> Tensor:
        """Return a view that is as it was made, if need be another one."""
        view, made = self.tensors[i], self.block.as_strided(*self._layouts[i])
        if view.data_ptr() != made.data_ptr() or view.stride() != made.stride():
            self.tensors[i] = made
        return self.tensors[i]

    def moved_out(self, tensor: Tensor) -> Tensor:
        """Return what may be copied to a view: dense, and elsewhere in memory."""
        if tensor.is_sparse:
            return tensor.to_dense()
        here = self.block.untyped_storage().data_ptr()
        return tensor.clone() if tensor.untyped_storage().data_ptr() == here else tensor


class _Part:
    """Some parameters, with their gradients and momentum in the places for them."""

    def __init__(self, *lists: Tensors, states: list[dict[str, Any]]) -> None:
        self._lists = lists
        self._layouts = list(map(_Layout, lists))
        self._states = states

    def is_of(self, params: Tensors) -> bool:
        """Return whether these are the parameters, and all with them is as it was."""
        found: tuple[Iterable[Tensor | None], ...] = (
            params,
            map(_grad, params),
            buffers_of(self._states),
        )
        return all(
            all(map(operator.is_, tensors, known)) and layout.is_of(known)
            for tensors, known, layout in zip(
                found, self._lists, self._layouts, strict=False
            )
        )


class _Block:
    """Parameters of one dtype and device, their gradients and momentum."""

    def __init__(self, params: Tensors) -> None:
        self.params = params
        step = max(_ALIGNMENT // params[0].element_size(), 1)
        sizes = [-(-param.numel() // step) * step for param in params]
        self._starts = list(itertools.accumulate(sizes, initial=0))
        # Between the parameters are zeros, and zeros they remain. What is made within
        # torch.inference_mode() could not be trained outside of it.
        with torch.inference_mode(False):
            self._values = params[0].new_zeros(self._starts[-1], requires_grad=False)
        # Gradients that are views, and copies of others. Never one for both: the caller
        # may have kept a view, which no step may write to.
        self._lent: _Views | None = None
        self._copied: _Views | None = None
        self._momentum: _Views | None = None
        # Of all parameters, once each has its momentum in the block.
        self._states: list[dict[str, Any]] = []
        # All that a step without momentum looks at, and one with it.
        self._parts: dict[bool, list[_Part]] = {}
        self._copies_grads = False
        views = _Views(self._values, params, self._starts).tensors
        for param, view in zip(params, views, strict=True):
            view.copy_(param.detach())
            param.data = view
        self._layout = _Layout(params)
        self._may_be_fused = is_safe(self._values, self._values, None)

    def _new_views(self, dtype: torch.dtype | None = None) -> _Views:
        with torch.inference_mode(False):
            block = torch.zeros_like(self._values, dtype=dtype)
        return _Views(block, self.params, self._starts)

    def is_in_place(self, vectors: bool) -> bool:
        return self._layout.is_of(self.params, vectors or self._copies_grads)

    def zero_grad(self) -> None:
        self._lent = self._lent or self._new_views()
        for i, param in enumerate(self.params):
            grad = param.grad
            was_lent = grad is self._lent.tensors[i]
            view = self._lent.at(i)
            if grad is None or grad is view:
                continue
            # Somebody else's memory stays theirs, such as the buckets of DDP.
            if was_lent or (grad.layout == torch.strided and not grad._is_view()):
                param.grad = view
            else:
                param.grad = torch.zeros_like(grad)
        self._lent.block.zero_()

    def step(
        self,
        group: dict[str, Any],
        grads: Grads,
        scale: Tensor | None,
        state: States,
        formula: Formula,
    ) -> None:
        self._copies_grads = False
        values, present = self._gather(grads)
        fresh = [False] * len(present)
        if formula.momentum != 0:
            fresh = self._gather_momentum(state, present)
        if not (self._copies_grads or any(fresh)):
            self._remember_parts(formula)
        runs = self._runs(present, fresh)
        if scale is not None:
            values = values / scale.reshape(()).to(values.device)
        for run in runs:
            self._update(group, values, run, formula)
        changed = self.params
        if not all(present):
            self._update_others(unscaled(grads, scale), present, state, formula)
            changed = list(itertools.compress(self.params, present))
        # In place is what happened to these, and backward passes must know.
        torch.autograd.graph.increment_version(changed)

    def _remember_parts(self, formula: Formula) -> None:
        """Let the next step look at all that this one found in its place."""
        has_momentum = bool(formula.momentum != 0)
        if self._lent is None or has_momentum in self._parts:
            return
        lists = [self.params, self._lent.tensors]
        if has_momentum and self._momentum is not None:
            lists.append(self._momentum.tensors)
        slices = [
            slice(i, i + _PARAMS_OF_PART)
            for i in range(0, len(self.params), _PARAMS_OF_PART)
        ]
        states = self._states if has_momentum else []
        self._parts[has_momentum] = [
            _Part(*(tensors[own] for tensors in lists), states=states[own])
            for own in slices
        ]

    def steady(self, params: Tensors, formula: Formula) -> Tensor | None:
        """Return the block of all gradients, if everything is as it was.

        Versions are counted up on the way, for those are not updated just if the step
        that then has to look at everything fails.
        """
        parts = self._parts.get(bool(formula.momentum != 0), [])
        for k, part in enumerate(parts):
            own = params[k * _PARAMS_OF_PART : (k + 1) * _PARAMS_OF_PART]
            if not part.is_of(own):
                self._parts.clear()
                return None
            torch.autograd.graph.increment_version(own)
        return self._lent.block if self._lent is not None and parts else None

    def update_all(
        self, group: dict[str, Any], values: Tensor, formula: Formula
    ) -> None:
        """Update the whole block by the gradients in another."""
        self._update(group, values, (0, self._starts[-1], False), formula)

    def _update_others(
        self, grads: Grads, present: list[bool], state: States, formula: Formula
    ) -> None:
        """Update the parameters whose gradients are of another type or dtype."""
        for param, grad, done in zip(self.params, grads, present, strict=True):
            if grad is not None and not done:
                held = state[param] if formula.momentum != 0 else {}
                update_(param, grad, held, formula)

    def forget_state(self) -> None:
        self._states = []
        self._parts.clear()

    def _gather(self, grads: Grads) -> tuple[Tensor, list[bool]]:
        """Return all gradients as one block, and which of them it holds."""
        if self._lent is not None and self._lent.are(grads):
            return self._lent.block, [True] * len(grads)
        self._copies_grads = True
        self._copied = self._copied or self._new_views()
        block, views = self._copied.block, self._copied.tensors
        dtype = block.dtype
        present = [
            g is not None and g.layout == torch.strided and g.dtype == dtype
            for g in grads
        ]
        chosen = [i for i, is_present in enumerate(present) if is_present]
        if chosen:
            targets, sources = [views[i] for i in chosen], [grads[i] for i in chosen]
            torch._foreach_copy_(targets, sources)  # type: ignore[arg-type]
        return block, present

    def _gather_momentum(self, state: States, present: list[bool]) -> list[bool]:
        """Copy buffers that are not views; return which steps are the first."""
        if self._buffers_are_in_place():
            return [False] * len(present)
        states = [state.get(param, {}) for param in self.params]
        entries = [held.get("momentum_buffer") for held in states]
        momentum = self._allocate_momentum(entries)
        fresh = [entry is None for entry in entries]
        views = [momentum.at(i) for i in range(len(entries))]
        moved = [
            None if entry is None or entry is view else momentum.moved_out(entry)
            for entry, view in zip(entries, views, strict=True)
        ]
        for i, (source, view) in enumerate(zip(moved, views, strict=True)):
            if source is not None:
                view.copy_(source)
            if not fresh[i] or present[i]:
                state[self.params[i]]["momentum_buffer"] = view
        held = [] if any(fresh) else [state[param] for param in self.params]
        self._states = held
        return fresh

    def _buffers_are_in_place(self) -> bool:
        views, states = self._momentum, self._states
        return bool(states) and views is not None and views.are(buffers_of(states))

    def _allocate_momentum(self, entries: list[Tensor | None]) -> _Views:
        dtype = self._values.dtype
        for entry in entries:
            if entry is not None:
                dtype = torch.promote_types(dtype, entry.dtype)
        if self._momentum is None or self._momentum.block.dtype != dtype:
            self._momentum = self._new_views(dtype)
        return self._momentum

    def _runs(
        self, present: list[bool], fresh: list[bool]
    ) -> list[tuple[int, int, bool]]:
        """Return the longest stretches of the block to update alike."""
        if all(present) and not any(fresh):
            return [(0, self._starts[-1], False)]
        runs = []
        flags = zip(present, fresh, strict=True)
        for (is_present, is_fresh), group in itertools.groupby(
            enumerate(flags), operator.itemgetter(1)
        ):
            where = [i for i, _ in group]
            if is_present:
                runs.append(
                    (self._starts[where[0]], self._starts[where[-1] + 1], is_fresh)
                )
        return runs

    def _update(
        self,
        group: dict[str, Any],
        grads: Tensor,
        run: tuple[int, int, bool],
        formula: Formula,
    ) -> None:
        start, stop, is_fresh = run
        param, grad = self._values[start:stop], grads[start:stop]
        held: dict[str, Any] = {}
        buffers = []
        if self._momentum is not None and formula.momentum != 0:
            buffers = [self._momentum.block[start:stop]]
            held = {} if is_fresh else {"momentum_buffer": buffers[0]}
        loop = group["foreach"] is False and not group["fused"]
        same = all(buffer.dtype == param.dtype for buffer in buffers)
        simple = loop or formula.is_addition()
        if is_fresh or simple or not same:
            update_(param, grad, held, formula)
            if is_fresh:
                buffers[0].copy_(held["momentum_buffer"])
        elif group["foreach"] or not self._may_be_fused:
            foreach_([param], [grad], buffers, formula.as_numbers())
        else:
            fused_([param], [grad], buffers, formula.as_numbers())
