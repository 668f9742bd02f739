"""Evaluating nodes without gradients, for rules that look at the results."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import Block, LinearSum, LogSum, sum_blocks
from torch_mlcalc.quadrature.cubature.chart import Chart
from torch_mlcalc.quadrature.cubature.nodes import Nodes, block_of_nodes
from torch_mlcalc.quadrature.cubature.pulled import mapped_over
from torch_mlcalc.quadrature.estimate import Tolerance
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.host import frozen, read, transforming, unrecorded, write
from torch_mlcalc.quadrature.integrand import Integrand
from torch_mlcalc.quadrature.rules import Array
from torch_mlcalc.quadrature.sharding import Ranks

#: Seed of a call without a generator.
DEFAULT_SEED = 0


@dataclass(eq=False)
class Sampler:
    """The integrals of one call, to be evaluated at nodes of a rule's choice.

    Attributes:
        integrand: The function with its args.
        chart: The map from the unit cube.
        log: Whether values are logs.
        tolerance: When an integral has converged; None if none was asked for.
        max_evals: Points that each integral may use.
        memory: Bytes that one block may use.
        generator: What the caller seeded the rule with.
        lead: Sizes of the mapped dimensions of vmap, outermost first.
        mark: A tensor mapped over these dimensions, or None without them.
        event_shape: Trailing dimensions of the values; known after the first call.
        dtype: Dtype of the integrals; known after the first call.
        requires_grad: Whether the values carry a gradient; likewise.
    """

    integrand: Integrand
    chart: Chart
    log: bool
    tolerance: Tolerance | None
    max_evals: int
    memory: int | None
    generator: torch.Generator | None
    lead: tuple[int, ...] = field(default=(), init=False)
    mark: Tensor | None = field(default=None, init=False)
    event_shape: tuple[int, ...] = field(default=(), init=False)
    dtype: torch.dtype = field(default=torch.float64, init=False)
    requires_grad: bool = field(default=False, init=False)
    _fresh: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        """Find out over what vmap maps."""
        self.lead, self.mark = mapped_over(self.integrand, self.chart)

    @property
    def dimension(self) -> int:
        """Dimension of the cube."""
        return self.chart.dimension

    @property
    def ranks(self) -> Ranks | None:
        """Processes that share the nodes, or None."""
        return self.integrand.ranks

    @cached_property
    def elements(self) -> int:
        """Number of integrals, the mapped dimensions of vmap included."""
        return math.prod(self.lead) * math.prod(self.integrand.batch_shape)

    @property
    def events(self) -> int:
        """Number of values of one integrand; known after the first call."""
        return math.prod(self.event_shape)

    def seed(self) -> int:
        """A new seed from the generator, or always the same one without."""
        if self.generator is None:
            return DEFAULT_SEED
        # Below vmap a random draw is refused; this one is the same for all mapped
        # elements, which is what is wanted.
        with torch._C._DisableFuncTorch():
            draw = torch.randint(
                2**62, (), generator=self.generator, device=self.generator.device
            )
        if self.ranks is not None:
            self.ranks.agree(f"{int(draw)} drawn from generator")
        return int(draw)

    @property
    def shows(self) -> bool:
        """Whether the caller wants running estimates on a bar."""
        return hasattr(self.integrand.function, "show")

    def show(self, value: Values, error: Array) -> None:
        """Write a running estimate on the bar, if the caller wants one."""
        show = getattr(self.integrand.function, "show", None)
        if show is not None:
            first = f"{value.flat[0]:.6g} +- {error.flat[0]:.1g}"
            show(first if value.size == 1 else f"{first} and {value.size - 1} more")

    def sums(self, nodes: Nodes, replicates: int = 1) -> Values:
        """The integral by each replicate: the first ``n / replicates`` nodes and so on.

        Args:
            nodes: Whose weights sum to 1 over all replicates together.
            replicates: Into how many equal parts the nodes are divided.

        Returns:
            Estimates of the integral (or of its log) by each part alone,
            ``(replicates, elements, events)``.
        """
        count = nodes.n // replicates
        block = block_of_nodes(nodes.n, self.integrand, self.memory)
        if count <= block.size:
            host = self._short(nodes, count, block.size, replicates)
        else:
            host = self._long(nodes, count, block, replicates)
        return host + math.log(replicates) if self.log else host * replicates

    def _short(self, nodes: Nodes, count: int, size: int, replicates: int) -> Values:
        """Several replicates in a block; processes share the replicates."""
        first, last = 0, replicates
        if self.ranks is not None:
            first, last, _ = self.ranks.share(replicates)
        each = max(size // count, 1)
        parts = [
            self._replicates(nodes, count, i, min(i + each, last))
            for i in range(first, last, each)
        ]
        host = np.concatenate(parts)
        return host if self.ranks is None else self.ranks.collect(host, replicates, 0)

    def _long(self, nodes: Nodes, count: int, block: Block, replicates: int) -> Values:
        """Several blocks in a replicate; processes share the nodes of each."""
        parts = [
            self._replicate(nodes, i * count, (i + 1) * count, block)
            for i in range(replicates)
        ]
        host = np.concatenate(parts)
        if self.ranks is None:
            return host
        every = np.stack([p.numpy() for p in self.ranks.gather(torch.from_numpy(host))])
        return np.logaddexp.reduce(every) if self.log else every.sum(0)

    def shared_values(self, u: Array) -> Values:
        """As :meth:`values`, of nodes that several processes share."""
        if self.ranks is None:
            return self.values(u)
        start, stop, _ = self.ranks.share(len(u))
        return self.ranks.collect(self.values(u[start:stop]), len(u), 0)

    def values(self, u: Array) -> Values:
        """The integrand times the Jacobian, or the sum of their logs.

        Args:
            u: Nodes in the unit cube, ``(n, d)`` or ``(n, elements, d)``.

        Returns:
            Values ``(n, elements, events)``.
        """
        n, lead = u.shape[0], len(self.lead)
        if u.ndim == 3:
            u = u.reshape(n, *self.lead, *self.integrand.batch_shape, -1)
            if lead:
                u = np.ascontiguousarray(np.moveaxis(u, 0, lead))
            nodes = write(u, self.mark, self.chart.device)
        else:
            nodes = torch.as_tensor(u, device=self.chart.device)
        with self._recording():
            points, density = self.chart(nodes.to(self.chart.dtype), log=self.log)
            values = self._call(points)
            if density is not None:
                events = values.ndim - points.ndim + 1
                density = density.reshape(density.shape + (1,) * events)
                values = values + density if self.log else values * density
        array = read(values, self.mark)
        if lead:
            array = np.moveaxis(array, lead, 0)
        return self._times_volume(array.reshape(n, self.elements, self.events))

    @cached_property
    def volume(self) -> Array:
        """Signed volumes of the domains, or their logs, ``(elements,)``."""
        one = torch.ones(self.chart.batch_shape, device=self.chart.device)
        if self.log:
            one = one - 1
        with frozen():
            scaled = self.chart.scale(one, log=self.log)
        volume = read(scaled, self.mark)
        return np.broadcast_to(volume, (*self.lead, *one.shape)).reshape(-1)

    @cached_property
    def empty(self) -> Array:
        """Which integrals are over a domain of no volume, ``(elements,)``."""
        return self.volume == (-np.inf if self.log else 0)

    @cached_property
    def _any_empty(self) -> bool:
        return bool(self.empty.any())

    def _times_volume(self, values: Values) -> Values:
        """As ``chart.scale``, in a fraction of the time."""
        if self._any_empty:
            # 0 times an infinite integrand is 0.
            blank = self.empty[:, None] & ~np.isfinite(values)
            values = np.where(blank, 0, values)
        with np.errstate(over="ignore", invalid="ignore"):
            volume = self.volume[:, None]
            return values + volume if self.log else values * volume

    def _recording(self) -> AbstractContextManager[None]:
        # The first call is made in the caller's grad mode: it tells whether a gradient
        # will be wanted at all, also of closed-over tensors.
        if self._fresh and torch.is_grad_enabled():
            return self._first()
        return frozen() if transforming() else unrecorded(alone=False)

    @contextmanager
    def _first(self) -> Iterator[None]:
        with frozen(), torch.enable_grad():
            yield

    def _call(self, points: Tensor) -> Tensor:
        values = self.integrand(points.to(self.integrand.dtype))
        if self._fresh:
            self.event_shape = tuple(values.shape[points.ndim - 1 :])
            self.dtype = self.integrand.result_dtype(values)
            # Points, if a limit is a function that closes over what needs a gradient.
            self.requires_grad = values.requires_grad or points.requires_grad
            self._fresh = False
        return values

    def _replicates(self, nodes: Nodes, count: int, start: int, stop: int) -> Values:
        """Several short replicates in one call."""
        add = LogSum() if self.log else LinearSum()
        with self._recording():
            placed = nodes.block(start * count, stop * count, self.chart, log=self.log)
            points, weights = placed
            assert weights is not None  # noqa: S101
            values = self._call(points)
            values = values.reshape(stop - start, count, *values.shape[1:])
            weights = weights.reshape(stop - start, count, *weights.shape[1:])
            # Replicates go behind the batch, where they pass for events.
            behind = len(self.integrand.batch_shape) + 1
            values = values.movedim(0, behind)
            weights = weights.movedim(0, -1)
            if weights.ndim == 2:
                weights = weights.reshape(count, *(1,) * (behind - 1), stop - start)
            total = add(weights, weights, values)
            scaled = self.chart.scale(total, log=self.log)
        behind -= 1
        return self._host(scaled.movedim(behind, -1))

    def _replicate(self, nodes: Nodes, start: int, stop: int, block: Block) -> Values:
        """One long replicate, block by block."""
        add = LogSum() if self.log else LinearSum()

        def part(first: int, last: int) -> Tensor:
            placed = nodes.block(start + first, start + last, self.chart, log=self.log)
            points, weights = placed
            assert weights is not None  # noqa: S101
            return add(weights, weights, self._call(points)).detach()

        with self._recording():
            total = sum_blocks(part, stop - start, block, add, ranks=self.ranks)
            scaled = self.chart.scale(total, log=self.log)
        return self._host(scaled.unsqueeze(-1))

    def _host(self, moved: Tensor) -> Values:
        """``(*batch, *event, k)`` on the device to ``(k, elements, events)``."""
        array = np.moveaxis(read(moved, self.mark), -1, 0)
        return array.reshape(array.shape[0], self.elements, self.events)
