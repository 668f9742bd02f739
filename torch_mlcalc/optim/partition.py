"""Which body updates which parameters, found once and checked at every step."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import Parameter

from torch_mlcalc.optim.foreach import foreach_
from torch_mlcalc.optim.fused import (
    MAX_ELEMENTS_OF_ADDITION,
    MIN_ELEMENTS,
    fused_,
    is_safe,
)
from torch_mlcalc.optim.gathered import Gathered, blocks_of
from torch_mlcalc.optim.options import Formula, Numbers
from torch_mlcalc.optim.update import update_, update_compensated_

Tensors: TypeAlias = list[Tensor]
Grads: TypeAlias = list[Tensor | None]
States: TypeAlias = Mapping[Tensor, dict[str, Any]]
Body: TypeAlias = Callable[[Tensors, Tensors, Tensors, Numbers], None]
Key: TypeAlias = tuple[Any, ...]
Check: TypeAlias = Callable[[Sequence[Any]], bool]

#: Tensors on a CPU that are looked at, then updated, before others are: what was looked
#: at is in the cache then. A step of 2000 small vectors with momentum took 7.1 ms in
#: parts of 256, 7.5 in parts of 64 or 512, and 8.6 when all were looked at first.
_TENSORS_OF_PART = 256

#: Dtypes with fewer bits than float32, whose updates can be compensated.
_LOW_PRECISION = (torch.float16, torch.bfloat16)


_grad = operator.attrgetter("grad")
_buffer = operator.itemgetter("momentum_buffer")


class Settings(NamedTuple):
    """What the choice of a body depends on, apart from the tensors."""

    has_momentum: bool
    is_plain: bool
    is_addition: bool
    foreach: bool | None
    fused: bool | None
    compensated: bool
    threads: bool

    @classmethod
    def of(cls, group: dict[str, Any], formula: Formula) -> Settings:
        """Take the settings from a parameter group and its formula."""
        return cls(
            bool(formula.momentum != 0),
            formula.is_plain(),
            formula.is_addition(),
            group["foreach"],
            group["fused"],
            group["compensated"],
            # The compiler would break the graph here, and compile for each parameter.
            not torch.compiler.is_compiling() and torch.get_num_threads() > 1,
        )


class Partition:
    """The parameters of one group, divided among the bodies.

    Finding out what suits a tensor costs several microseconds, so that it is done once.
    Each step then makes sure that all is as it was: the same parameters, the same
    momentum buffers, the same gradients missing, and every tensor of the same type,
    dtype, device, shape and strides. All this is looked at part by part, each part just
    before its update: a first look at everything would be another way through memory.
    """

    def __init__(
        self, group: dict[str, Any], grads: Grads, state: States, formula: Formula
    ) -> None:
        """Divide the parameters of a group.

        Args:
            group: The group.
            grads: Gradients of its parameters.
            state: The state of the optimizer.
            formula: The options of the group.
        """
        self._params = list(group["params"])
        self._settings = Settings.of(group, formula)
        self._absent = []
        # Momentum that begins makes another body possible.
        self._begins = False
        positions: dict[Key, list[int]] = {}
        occurrences = Counter(map(id, self._params))
        for i, (param, grad) in enumerate(zip(self._params, grads, strict=True)):
            if grad is None:
                self._absent.append(i)
                continue
            buffer = None
            if self._settings.has_momentum:
                buffer = state.get(param, {}).get("momentum_buffer")
                self._begins |= buffer is None
            key = _body_for(self._settings, param, grad, buffer)
            if occurrences[id(param)] > 1:  # torch just warns; its turns are in order.
                key = (one_by_one,)
            positions.setdefault(key, []).append(i)
        self._alone = positions.pop((one_by_one,), [])
        self._parts = [
            _Part(key, where, self._params, grads, state, self._settings)
            for key, where in _in_blocks(positions, self._params)
        ]

    def still_fits(
        self, group: dict[str, Any], grads: Grads | None, formula: Formula
    ) -> bool:
        """Return whether nothing has changed but, perhaps, what a part looks at.

        That the state of each parameter is the same dict is for the caller to see, for
        all groups at once.

        Args:
            group: The group.
            grads: Gradients of its parameters, ``None`` for those in ``.grad``.
            formula: The options of the group.
        """
        params = group["params"]
        return (
            not self._begins
            and len(params) == len(self._params)
            and all(params[i] is self._params[i] for i in self._alone)
            and all(params[i] is self._params[i] for i in self._absent)
            and all(self._grad(i, grads) is None for i in self._absent)
            and self._settings == Settings.of(group, formula)
        )

    def step(
        self,
        params: Tensors,
        grads: Grads | None,
        state: States,
        formula: Formula,
        *,
        is_new: bool,
    ) -> Grads:
        """Update every parameter that has a gradient, as long as the tensors fit.

        Args:
            params: Parameters of the group.
            grads: Their gradients, never written to; ``None`` for those in ``.grad``,
                which are then read part by part as well.
            state: The state of the optimizer.
            formula: The options of the group.
            is_new: Whether the division has just been made, so that all of them fit.

        Returns:
            Nothing if all were updated; else the gradients of those that were not, and
            ``None`` for the others.
        """
        for i in self._alone:
            grad = self._grad(i, grads)
            if grad is not None:
                one_by_one(self._params[i], grad, state, formula, self._settings)
        if not self._parts:
            return []
        numbers = formula.as_numbers()
        for k, part in enumerate(self._parts):
            if not part.step(params, grads, numbers, is_new):
                left = {i for each in self._parts[k:] for i in each.positions}
                grads = list(map(_grad, params)) if grads is None else grads
                return [grad if i in left else None for i, grad in enumerate(grads)]
        return []

    def _grad(self, i: int, grads: Grads | None) -> Tensor | None:
        return self._params[i].grad if grads is None else grads[i]


class _Part:
    """Parameters of one group that one body updates."""

    def __init__(
        self,
        key: Key,
        positions: list[int],
        params: Tensors,
        grads: Grads,
        state: States,
        settings: Settings,
    ) -> None:
        self.positions = positions
        self._select = _selector(positions)
        self._params = [params[i] for i in positions]
        held = settings.has_momentum
        self._states = [state[p] for p in self._params] if held else []
        self._buffers = list(map(_buffer, self._states))
        body = key[0]
        # An addition takes those as well, but to a view, and on a CPU is the same call
        # for each.
        is_sum = body is foreach_ and settings.is_addition
        takes_all = is_sum and not any(
            p.device.type != "cpu" or p.storage_offset() for p in self._params
        )
        own = list(self._select(grads))
        self._grads_fit = (of_types if takes_all else unchanged)(own)
        self._checks: list[tuple[Check, Tensors]] = []
        # The others look at what they are given, but for sparse gradients.
        if body is fused_:
            self._checks.append((unchanged(self._params), self._params))
            if self._buffers:
                # One check is less to fetch from memory than two, and mostly fits both.
                fits_both = self._grads_fit(self._buffers)
                check = self._grads_fit if fits_both else unchanged(self._buffers)
                self._checks.append((check, self._buffers))
        elif body is Gathered:
            body = Gathered(self._buffers)
            self._checks = [(body.holds, self._buffers)]
        self._body: Body = body

    def step(
        self, params: Tensors, grads: Grads | None, numbers: Numbers, is_new: bool
    ) -> bool:
        """Update the parameters if they, and what goes with them, are as they were."""
        if not is_new and not self._are_the_same(params):
            return False
        if grads is None:
            own: list[Any] = list(map(_grad, self._params))
        else:
            own = list(self._select(grads))
        fits = is_new or (
            self._grads_fit(own) and all(check(found) for check, found in self._checks)
        )
        if fits:
            self._body(self._params, own, self._buffers, numbers)
        return fits

    def _are_the_same(self, params: Tensors) -> bool:
        found = buffers_of(self._states)
        return all(map(operator.is_, self._select(params), self._params)) and all(
            map(operator.is_, found, self._buffers)
        )


def _selector(positions: list[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """Return what takes the entries at some positions out of a list."""
    start, stop = positions[0], positions[-1] + 1
    if len(positions) == stop - start:
        return operator.itemgetter(slice(start, stop))
    return operator.itemgetter(*positions)


def buffers_of(states: Sequence[Mapping[str, Any]]) -> Grads:
    """Return the momentum buffers in the states of some parameters.

    Args:
        states: The states, of which some may have none.
    """
    try:
        return list(map(_buffer, states))
    except KeyError:
        return [held.get("momentum_buffer") for held in states]


def one_by_one(
    param: Tensor, grad: Tensor, state: States, formula: Formula, settings: Settings
) -> None:
    """Update one parameter by the reference, or by the compensated formula.

    Args:
        param: The parameter.
        grad: Its gradient.
        state: The state of the optimizer.
        formula: The options of the group.
        settings: Its other options.
    """
    if settings.compensated and param.dtype in _LOW_PRECISION:
        update_compensated_(param, grad, state[param], formula)
    else:
        update_(param, grad, state[param] if settings.has_momentum else {}, formula)


def _body_for(
    settings: Settings, param: Tensor, grad: Tensor, buffer: Tensor | None
) -> Key:
    """Return the body for a parameter, and what else its companions must share."""
    alone = (one_by_one,)
    # The reference makes the first buffer, so that the others always find one.
    if not settings.is_plain or (settings.has_momentum and buffer is None):
        return alone
    loop = settings.foreach is False and not settings.fused
    if loop or (settings.compensated and param.dtype in _LOW_PRECISION):
        return alone
    tensors = [tensor for tensor in (param, grad, buffer) if tensor is not None]
    if any(t.layout != torch.strided or t.dtype != param.dtype for t in tensors):
        return alone
    # Kernels for lists refuse tensors whose memory has the sign or conjugate of them.
    if any(t.is_neg() or t.is_conj() for t in tensors):
        return alone
    key = (type(grad), param.dtype, param.device)
    plain = type(param) in (Tensor, Parameter) and type(grad) is Tensor
    if plain and _may_be_fused(settings, param) and is_safe(param, grad, buffer):
        return (fused_, *key)
    if plain and _may_be_gathered(settings, param) and is_safe(param, grad, buffer):
        return (Gathered, *key)
    # Subclasses such as DTensor have kernels for lists too, which pay off where it is
    # expensive to launch one.
    if plain or settings.foreach or param.device.type != "cpu":
        return (foreach_, *key)
    return alone


def _may_be_fused(settings: Settings, param: Tensor) -> bool:
    if settings.foreach or settings.fused is False:
        return False
    if settings.fused:
        return True
    if param.device.type != "cpu":
        # Of 20 M elements with momentum on an H100 0.15 ms instead of 0.24, of an
        # addition 0.093 instead of 0.089.
        return not settings.is_addition
    if settings.is_addition:
        return not settings.threads and param.numel() <= MAX_ELEMENTS_OF_ADDITION
    return not settings.threads or param.numel() >= MIN_ELEMENTS


def _may_be_gathered(settings: Settings, param: Tensor) -> bool:
    small = param.dim() == 1 and param.numel() < MIN_ELEMENTS
    return small and settings.has_momentum and settings.threads and not settings.foreach


def _in_blocks(
    positions: dict[Key, list[int]], params: Tensors
) -> Iterator[tuple[Key, list[int]]]:
    """Yield keys and positions, those on a CPU divided into blocks."""
    for (body, *key), where in positions.items():
        if body is Gathered:
            blocks = blocks_of(where, params)
        elif params[where[0]].device.type == "cpu":
            starts = range(0, len(where), _TENSORS_OF_PART)
            blocks = [where[start : start + _TENSORS_OF_PART] for start in starts]
        else:
            blocks = [where]
        for block in blocks:
            is_single = body is Gathered and len(block) == 1
            yield (foreach_ if is_single else body, *key), block


def unchanged(tensors: Sequence[Any]) -> Check:
    """Return a check that as many other tensors are like these, but for their values.

    Compared are type, dtype, device, layout, shape and strides, by the code with which
    torch.compile revalidates what it has compiled: 0.1 microseconds a tensor, where
    looking at the same attributes from Python takes 0.6.

    Args:
        tensors: What later tensors must be like.
    """
    try:
        guard = torch._C._dynamo.guards.TensorGuards(
            *tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None
        )
    except (AttributeError, TypeError):  # Private to torch, so it may go.
        wanted = list(map(_likeness, tensors))
        return lambda found: list(map(_likeness, found)) == wanted
    check: Callable[..., bool] = guard.check
    return lambda found: check(*found)


def of_types(tensors: Sequence[Any]) -> Check:
    """Return a check that other tensors are of the same types.

    Args:
        tensors: What later tensors must be like.
    """
    types = set(map(type, tensors))
    return lambda found: types.issuperset(map(type, found))


def _likeness(tensor: Tensor | None) -> tuple[object, ...]:
    if tensor is None or tensor.layout != torch.strided:
        return (type(tensor),)
    kind = (type(tensor), tensor.dtype, tensor.device)
    return (*kind, tensor.shape, tensor.stride())
