"""The one line in which every integral ends, and its evaluation in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from torch_mlcalc.precision import is_autocast, own_casts
from torch_mlcalc.quadrature.domains import Limit
from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.quadrature.integrand import HALF
from torch_mlcalc.quadrature.one_pass import Running, clock, leaves_behind
from torch_mlcalc.quadrature.sharding import Ranks

#: Bytes of points in one block. Measured on two cores for exp(-x*x)*cos(3x)+sin(x)^2
#: at 1e7 float64 nodes: 0.14 to 0.16 s between 64 k and 256 k nodes, 0.22 s at 32 k,
#: where torch begins to use both cores, 0.30 s at 16 k, 0.64 s in one sweep
#: (temporaries leave the cache and their pages are mapped anew).
BLOCK_BYTES = 65536 * 8

#: Bytes that the graph of a block may keep. Measured for a 2x64 network in float64 on
#: one core, value and gradient of 3e5 nodes: 1.5 s and 50 MiB in all at 8 MiB, 1.3 s
#: and 106 MiB at 16 MiB, 2.0 s at 1 MiB; 1.7 s and 595 MiB in a single sweep.
GRAPH_BYTES = 8 * 2**20

#: On the host the graphs of all blocks but the first have a half of that where the
#: gradient is taken along with the sum. glibc before 2.38 rarely finds a place for an
#: aligned tensor where one of its size was freed, but does where a larger one was. With
#: 1e5, 5e5 and 1e6 nodes of that network all takes 45.5 MiB each time; 53 and 61 with
#: equal blocks of 8 MiB, 27 to 39 with equal ones of 4, in the same time.
LATER = 2

#: Bytes of graphs that are kept, if all need no more, rather than made again in the
#: backward pass, with which value and gradient of 10 000 peaks took 1.2 times as long
#: at widths of 0.02 and more, 1.45 times at 0.001 and more.
KEPT_BYTES = 8 * GRAPH_BYTES

#: All three are so many times as large on a GPU, where a block must outlast the launch
#: of its kernels. Measured on an H100 in float64: 1e7 nodes of that integrand 3.9 ms at
#: 8, 1.6 ms and 112 MiB at 32, 1.5 ms and 224 MiB at 64, 1.5 ms and 448 MiB at 128 (in
#: a sweep 0.7 ms and 229 MiB); value and gradient of 1e6 nodes of that network 25 ms,
#: 9.1 ms and 571 MiB, 6.4 ms and 1 075 MiB, 5.9 ms and 2 026 MiB (in a sweep 4.9 ms and
#: 1 953 MiB).
WIDER = 32

#: What a block needs in all over what its graph keeps, in the same measurement.
GRAPH_SHARE = 6

#: Bytes of a buffer that is made and freed before many blocks, and never written to.
#: Until one so large was freed, glibc hands the memory of each block back to the
#: kernel, which maps and clears it anew for the next one (mallopt(3),
#: M_MMAP_THRESHOLD, at most 32 MiB). Value and gradient of 1e6 nodes of that network
#: on one core took 3.5 s instead of 6.2 s.
LARGEST = 30 * 2**20

#: Arrays of the size of the points that a block holds at once: points, values, weighted
#: values and what an elementwise integrand keeps. `memory=` is divided by it.
TEMPORARIES = 8


class Sum(Protocol):
    """How weighted values are added up: as they are, or from their logs.

    Attributes:
        nothing: The sum over no nodes.
    """

    nothing: float

    def __call__(self, weights: Tensor, log_weights: Tensor, values: Tensor) -> Tensor:
        """Sum over the nodes, the first dimension."""

    def weigh(self, weights: Tensor) -> Tensor:
        """Log weights of weights, for those that use them."""

    def join(self, total: Tensor, part: Tensor) -> Tensor:
        """Sum of two partial sums."""

    def gather(self, part: Tensor, ranks: Ranks) -> Tensor:
        """Sum of the partial sums of all ranks."""

    def spread(self, sums: Tensor, rows: Tensor, elements: int) -> Tensor:
        """Sums of cells added up by the row that each belongs to."""

    def scale(self, total: Tensor, length: Limit) -> Tensor:
        """Sum times the length of the domain."""


class LinearSum:
    r""":math:`\sum_i w_i f_i`, for values of any sign."""

    nothing = 0.0

    def __call__(self, weights: Tensor, log_weights: Tensor, values: Tensor) -> Tensor:
        """Sum over the nodes, the first dimension."""
        if values.dtype != weights.dtype:
            dtype = torch.promote_types(values.dtype, weights.dtype)
            values, weights = values.to(dtype), weights.to(dtype)
        # A matrix product is faster alone, but the compiler fuses nothing into it, and
        # autocast keeps three digits of it.
        alone = not (torch.compiler.is_compiling() or is_autocast(values.device.type))
        if weights.ndim > 1 or not alone:
            return (_align(weights, values) * values).sum(0)
        if values.ndim == 1:
            return weights.dot(values)
        return (weights @ values.flatten(1)).reshape(values.shape[1:])

    def weigh(self, weights: Tensor) -> Tensor:
        """Not used."""
        return weights

    def join(self, total: Tensor, part: Tensor) -> Tensor:
        """Sum of two partial sums."""
        return total + part

    def gather(self, part: Tensor, ranks: Ranks) -> Tensor:
        """Sum of the partial sums of all ranks."""
        return ranks.add(part, ranks.gather(part))

    def spread(self, sums: Tensor, rows: Tensor, elements: int) -> Tensor:
        """Sums of cells added up by the row that each belongs to."""
        empty = sums.new_zeros(elements, *sums.shape[1:])
        return empty.index_add(0, rows, sums)

    def scale(self, total: Tensor, length: Limit) -> Tensor:
        """Sum times the length of the domain; exactly 0 where that is 0."""
        if not isinstance(length, Tensor):
            return total * length if length else _finite(total) * 0
        length = length.reshape(length.shape + (1,) * (total.ndim - length.ndim))
        # At equal limits the value is 0, and the gradient still that of the limits.
        return torch.where(length == 0, _finite(total), total) * length


class LogSum:
    r""":math:`\log \sum_i w_i e^{\ell_i}`, never leaving log space."""

    nothing = -math.inf

    def __call__(self, weights: Tensor, log_weights: Tensor, values: Tensor) -> Tensor:
        """Log-sum over the nodes, the first dimension."""
        if values.dtype != log_weights.dtype:
            dtype = torch.promote_types(values.dtype, log_weights.dtype)
            values, log_weights = values.to(dtype), log_weights.to(dtype)
        terms = _align(log_weights, values) + values
        top = _finite(terms.detach().amax(0))
        return _log(torch.exp(terms - top).sum(0), top)

    def weigh(self, weights: Tensor) -> Tensor:
        """Logs, minus infinity for a weight of 0, without a gradient there."""
        some = weights > 0
        return torch.where(some, torch.log(torch.where(some, weights, 1)), -math.inf)

    def join(self, total: Tensor, part: Tensor) -> Tensor:
        """Log-sum of two partial log-sums."""
        top = _finite(torch.maximum(total.detach(), part.detach()))
        return _log(torch.exp(total - top) + torch.exp(part - top), top)

    def gather(self, part: Tensor, ranks: Ranks) -> Tensor:
        """Log-sum of the partial log-sums of all ranks."""
        parts = torch.stack(ranks.gather(part))
        top = _finite(parts.amax(0))
        total = ranks.add(torch.exp(part - top), [*torch.exp(parts - top)])
        return _log(total, top)

    def spread(self, sums: Tensor, rows: Tensor, elements: int) -> Tensor:
        """Log-sums of cells added up by the row that each belongs to."""
        shape = (elements, *sums.shape[1:])
        index = rows.reshape(-1, *(1,) * (sums.ndim - 1)).expand_as(sums)
        lowest = sums.new_full(shape, -math.inf)
        top = _finite(lowest.scatter_reduce(0, index, sums.detach(), "amax"))
        total = sums.new_zeros(shape).index_add(0, rows, torch.exp(sums - top[rows]))
        return _log(total, top)

    def scale(self, total: Tensor, length: Limit) -> Tensor:
        """Add the log of the length of the domain; minus infinity where that is 0."""
        if not isinstance(length, Tensor):
            return total + math.log(length) if length else _finite(total) - math.inf
        length = length.reshape(length.shape + (1,) * (total.ndim - length.ndim))
        return torch.where(length == 0, _finite(total), total) + torch.log(length)


def _finite(top: Tensor) -> Tensor:
    return torch.where(top.isfinite(), top, 0)


def _log(total: Tensor, top: Tensor) -> Tensor:
    # torch.logsumexp has a gradient of nan where everything is minus infinity, which a
    # padded plan would spread to integrals that are fine.
    some = total != 0
    return torch.where(some, torch.log(torch.where(some, total, 1)) + top, -math.inf)


def _align(weights: Tensor, values: Tensor) -> Tensor:
    return weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim))


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """At least float32: sums in half precision lose all but three digits."""
    return torch.float32 if dtype in HALF else dtype


def together(part: Tensor, rule: Sum, ranks: Ranks | None) -> Tensor:
    """The sum over all nodes, of which this process has added up its own."""
    return part if ranks is None else rule.gather(part, ranks)


Spans = list[tuple[int, int]]


def sum_blocks(
    part: Callable[[int, int], Tensor],
    count: int,
    block: Block,
    rule: Sum,
    memory: int | None = None,
    ranks: Ranks | None = None,
) -> Tensor:
    """Sum ``part(start, stop)`` over blocks of a count, memory bounded by one block.

    The gradient of a single number by leaves of the graph is taken along with it.
    Otherwise, when the values turn out to need a gradient of many nodes, later blocks
    keep nothing and are evaluated again in the backward pass (non-reentrant
    checkpoint), which keeps every closed-over tensor in the graph. Transforms of
    torch.func and the compiler take neither; there every block stays.

    Args:
        part: Sum over a range of items.
        count: Number of items.
        block: How many items go into one.
        rule: How to join sums.
        memory: Bytes that the graph of a block may use.
        ranks: Processes that share the count, or None.

    Returns:
        The sum; of several processes that of this one, see :func:`together`.
    """
    if ranks is not None:
        part, count = ranks.own(part, count, rule.nothing)
    spans = _spans(0, count, block.size)
    if count <= block.unseen or torch.compiler.is_compiling():
        return _kept(part, spans, rule)
    if count > block.size and block.wider == 1:
        torch.empty(LARGEST, dtype=torch.uint8, device="cpu")
    with own_casts():
        if not torch.is_grad_enabled() or transforming() or dual_level():
            return _kept(part, spans, rule)
        return _recorded(part, count, block, rule, memory)


def _recorded(
    part: Callable[[int, int], Tensor],
    count: int,
    block: Block,
    rule: Sum,
    memory: int | None,
) -> Tensor:
    """The same with a graph, whose size the first block tells."""
    size, unseen, wider = block
    # A first, small block tells whether there is a graph, and how large it is.
    first, began, saved = max(1, unseen // 16), clock(), Saved()
    with saved_tensors_hooks(saved.pack, saved.unpack):
        value = part(0, first)
    if not value.requires_grad:
        return _kept(part, _spans(first, count, size), rule, value)
    budget = wider * GRAPH_BYTES if memory is None else memory // GRAPH_SHARE
    fits = first * budget // max(saved.bytes, 1)
    later = fits // LATER if wider == 1 else fits
    rest, largest = (max(1, min(size, n)) for n in (later, fits))
    begin = min(first + largest, count)
    spans = [(0, first), (first, begin), *_spans(begin, count, rest)]
    running, done = Running(rule.join), 1
    while (leaves := leaves_behind(value, began)) is not None:
        running.add(value, leaves)
        if done == len(spans):
            return running.total(partial(_checkpointed, part, spans, rule))
        del value  # and with it a graph, before that of the next one is made
        began = clock()
        value = part(*spans[done])
        done += 1
    if running.value is not None:
        again = partial(_checkpointed, part, spans[: done - 1], rule)
        value = rule.join(running.total(again), value)
    small = saved.bytes * count <= first * wider * KEPT_BYTES
    add = _kept if small and memory is None else _checkpointed
    # Each of these leaves its sums: twice as many took 81 MiB instead of 71 for 1000
    # integrals of a network with 2560 nodes.
    return add(part, _spans(spans[done - 1][1], count, largest), rule, value)


def _spans(start: int, stop: int, size: int) -> Spans:
    return [(i, min(i + size, stop)) for i in range(start, stop, size)]


class Saved:
    """Counts the bytes that a graph keeps, without the parameters, which are there."""

    def __init__(self) -> None:
        """Begin with none."""
        self.bytes = 0
        self.seen: set[int] = set()

    def pack(self, tensor: Tensor) -> Tensor:
        """Count what a graph is about to keep, memory that is shared only once."""
        if not tensor.is_leaf or not tensor.requires_grad:
            pointer = tensor.data_ptr()
            if pointer not in self.seen:
                self.seen.add(pointer)
                self.bytes += tensor.numel() * tensor.itemsize
        # Detached: a node that keeps its own output would never be freed.
        return tensor.detach()

    @staticmethod
    def unpack(tensor: Tensor) -> Tensor:
        """Hand it back."""
        return tensor


def _kept(
    part: Callable[[int, int], Tensor],
    spans: Spans,
    rule: Sum,
    total: Tensor | None = None,
) -> Tensor:
    for span in spans:
        block = part(*span)
        total = block if total is None else rule.join(total, block)
    assert total is not None  # noqa: S101
    return total


def _checkpointed(
    part: Callable[[int, int], Tensor],
    spans: Spans,
    rule: Sum,
    total: Tensor | None = None,
) -> Tensor:
    for span in spans:
        block = checkpoint(part, *span, use_reentrant=False)
        total = block if total is None else rule.join(total, block)
    assert total is not None  # noqa: S101
    return total


@lru_cache(maxsize=1)
def keep_freed() -> None:
    """Have glibc keep what is freed from now on, see LARGEST; once in a process."""
    torch.empty(LARGEST, dtype=torch.uint8, device="cpu")


class Block(NamedTuple):
    """How many items are evaluated together.

    Attributes:
        size: At most so many.
        unseen: So many while nobody has seen how much their graph keeps.
        wider: How many times as large a graph may be as on the host.
    """

    size: int
    unseen: int
    wider: int = 1


def block_bytes(memory: int | None, device: torch.device) -> int:
    """Bytes of points in one block on a device."""
    if memory is not None:
        return max(memory // TEMPORARIES, 1)
    return BLOCK_BYTES * (1 if device.type == "cpu" else WIDER)


def block_of(
    count: int,
    bytes_each: int,
    memory: int | None,
    device: torch.device,
    *,
    whole: bool = False,
) -> Block:
    """How many of ``count`` equal items, each of so many bytes, go into one block."""
    if whole:
        return Block(max(count, 1), max(count, 1))
    budget = block_bytes(memory, device)
    if memory is not None:
        size = _within(count, bytes_each, budget)
        return Block(size, size)
    size, unseen = (_within(count, bytes_each, b) for b in (budget, BLOCK_BYTES))
    return Block(size, unseen, budget // BLOCK_BYTES)


def _within(count: int, bytes_each: int, budget: int) -> int:
    return max(1, min(count, budget // max(bytes_each, 1)))
