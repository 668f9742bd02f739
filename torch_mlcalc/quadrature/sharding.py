r"""One integral on several processes: who evaluates what, and how parts come together.

Every rank of a process group runs the same call. Where nodes are evaluated - blocks of
a sum, columns of a search, replicates, samples - each takes a contiguous share, and the
shares are gathered:

.. math:: I = \sum_{r=0}^{R-1} I_r, \qquad
    \log I = \log \sum_{r=0}^{R-1} e^{\log I_r}

A search gathers values and decides from all of them, so that every rank decides the
same; a sum gathers partial sums and adds them in the order of the ranks, so that every
rank has the same bits, which a backend's own reduction does not promise.

The derivative of a gathered sum is the sum of the cotangents of all ranks: a backward
pass on every rank differentiates the sum of the losses of all ranks by what this rank
evaluated. The mean over the ranks of these gradients, which is what
``DistributedDataParallel`` takes, is the gradient of the mean loss.

Before parts are gathered every rank says whether it has failed, and what it is doing:
an error on one rank, or calls that differ, end in an error on all of them.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from operator import add
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from torch_mlcalc.quadrature.estimate import IntegrationError, IntegrationWarning
from torch_mlcalc.quadrature.host import dual_level, transforming

Part = Callable[[int, int], Tensor]

_NOBODY: AbstractContextManager[None] = nullcontext()


class Share(NamedTuple):
    """What one rank evaluates of a number of items.

    An idle rank evaluates one item all the same, for its shape and for the graph, which
    ``DistributedDataParallel`` wants to meet every parameter; the value is not used.
    """

    start: int
    stop: int
    idle: bool


class Ranks:
    """The processes of one call; as a context, it tells them of an error on this one.

    Attributes:
        rank: Number of this process in the group.
        size: Number of processes.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        """Meet nobody yet.

        Args:
            group: The processes.
        """
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        # For example "cpu:gloo,cuda:nccl".
        kinds = str(dist.get_backend_config(group)).split(",")
        self._types = [kind.split(":")[0] for kind in kinds]
        self._work = "nothing yet"
        self._print = [0.0, 0.0]
        self._apart = 0.0
        self._met = True

    def __enter__(self) -> Ranks:
        """Begin a call."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Tell the others of an error that they cannot know of."""
        # What the search found is the same everywhere, and so is what is said of it.
        known = isinstance(error, (IntegrationError, IntegrationWarning))
        if self._met and isinstance(error, Exception) and not known:
            self.agree("", failed=f"{type(error).__name__}: {error}")

    def describe(
        self, words: Sequence[object], tensors: Sequence[Tensor], dtype: torch.dtype
    ) -> None:
        """Take down what this rank was called with, to compare it with the others.

        Args:
            words: Domain, rule and settings.
            tensors: Limits and args.
            dtype: That of the points.
        """
        self._work = ", ".join(_word(word) for word in words)
        if tensors:
            device = tensors[0].device
            prints = [_fingerprint(t, i).to(device) for i, t in enumerate(tensors)]
            self._print = torch.stack(prints).sum(0).tolist()
        # Ranks may have computed their args in another order of summation.
        self._apart = math.sqrt(torch.finfo(dtype).eps)

    def share(self, count: int) -> Share:
        """The items of so many that this rank evaluates."""
        start, stop = self._share(self.rank, count)
        if start == stop:
            return Share(0, min(1, count), True)
        return Share(start, stop, False)

    def _share(self, rank: int, count: int) -> tuple[int, int]:
        return rank * count // self.size, (rank + 1) * count // self.size

    def own(self, part: Part, count: int, nothing: float) -> tuple[Part, int]:
        """The part of a sum over ``count`` items that is for this rank, and its length.

        Args:
            part: Sum over a range of items.
            count: Number of items.
            nothing: Sum over no items.

        Returns:
            The same from the first item of this rank on, and the number of its items.
        """
        start, stop, idle = self.share(count)

        def shifted(first: int, last: int) -> Tensor:
            return part(start + first, start + last)

        def unused(first: int, last: int) -> Tensor:
            block = part(first, last)
            return torch.where(
                torch.zeros_like(block, dtype=torch.bool), block, nothing
            )

        return unused if idle else shifted, stop - start

    def gather(self, part: Tensor) -> list[Tensor]:
        """The part of every rank, the same shape from each, without gradients."""
        self.agree(f"a part of shape {tuple(part.shape)}, {part.dtype}")
        return self._gather(part.detach())

    def add(self, part: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Sum of the parts, with the gradient of that of this rank.

        Args:
            part: That of this rank, perhaps with a gradient.
            parts: Those of all ranks, without.

        Returns:
            The sum.
        """
        total = reduce(add, parts)
        if not (torch.is_grad_enabled() and part.requires_grad):
            return total
        summed: Tensor = _Sum.apply(part, total, self)  # type: ignore[no-untyped-call]
        return summed

    def collect(
        self, part: npt.NDArray[Any], count: int, axis: int
    ) -> npt.NDArray[Any]:
        """Put shares of ``count`` rows along an axis one after another.

        Args:
            part: What :meth:`share` gave this rank.
            count: Rows of all ranks together.
            axis: Along which they are.

        Returns:
            All rows, the same on every rank.
        """
        rows = np.moveaxis(part, axis, 0)
        longest = max(-(-count // self.size), 1)
        padded = np.zeros((longest, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        shares = [self._share(rank, count) for rank in range(self.size)]
        found = [
            every.numpy()[: stop - start]
            for (start, stop), every in zip(
                shares, self.gather(torch.from_numpy(padded)), strict=True
            )
        ]
        return np.moveaxis(np.concatenate(found), 0, axis)

    def agree(self, step: str, failed: str = "") -> None:
        """Make sure that all ranks are at the same step of the same call.

        Args:
            step: What this rank is about to do.
            failed: Why it will not, if it cannot.

        Raises:
            RuntimeError: If another rank has failed.
            ValueError: If another rank does something else.
        """
        work = f"{self._work}; {step}"
        own = [bool(failed), zlib.crc32(work.encode()), *self._print]
        header = torch.tensor(own, dtype=torch.float64, device=self._types[0])
        rows = torch.stack(self._gather(header)).tolist()
        broken = [rank for rank, row in enumerate(rows) if row[0]]
        others = [rank for rank, row in enumerate(rows) if row[1] != rows[0][1]]
        if broken or others:
            texts: list[Any] = [None] * self.size
            dist.all_gather_object(texts, failed or work, group=self.group)
            self._met = False
            if failed:
                return
            _refuse_to_go_on(texts, broken, others)
        apart = [rank for rank, row in enumerate(rows) if self._differ(row, rows[0])]
        if apart:
            self._met = False
            raise ValueError(
                f"limits or args have other values on rank {apart[0]} of process_group "
                "than on rank 0; every rank must pass the same. Broadcast them, or "
                "leave out process_group, and every rank integrates its own."
            )

    def _differ(self, row: Sequence[float], other: Sequence[float]) -> bool:
        return abs(row[2] - other[2]) > self._apart * max(row[3], other[3])

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        sent = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        if sent.device.type not in self._types:
            sent = sent.to(self._types[0])
        sent = sent.contiguous()
        parts = [torch.empty_like(sent) for _ in range(self.size)]
        # Where this does not work, there is nobody to tell of an error.
        self._met = False
        dist.all_gather(parts, sent, group=self.group)
        self._met = True
        parts = [part.to(tensor.device) for part in parts]
        if tensor.is_complex():
            return [torch.view_as_complex(part) for part in parts]
        return parts


class _Sum(torch.autograd.Function):
    """The sum over all ranks, whose derivative is that of the losses of all ranks.

    As there is one collective in the forward pass and one in the backward pass, no
    formula of plain autograd does it.
    """

    @staticmethod
    def forward(ctx: Any, part: Tensor, total: Tensor, ranks: Ranks) -> Tensor:  # noqa: ANN401
        ctx.ranks = ranks
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        grad = grads[0].contiguous()
        return ctx.ranks.add(grad, ctx.ranks._gather(grad.detach())), None, None


def ranks_of(
    group: dist.ProcessGroup | Ranks | None,
) -> AbstractContextManager[Ranks | None]:
    """The ranks of a process group, as a context; None for one process.

    Args:
        group: What the caller passed as ``process_group``, or the ranks of a call that
            this one is a part of, and that tells the others of errors.

    Returns:
        The ranks.

    Raises:
        TypeError: If it is not a process group.
        ValueError: If it cannot be used, or not here.
    """
    if group is None:
        return _NOBODY
    if isinstance(group, Ranks):
        return nullcontext(group)
    if not dist.is_available():
        raise ValueError(
            "process_group needs torch.distributed, which this build of torch lacks; "
            "leave it out."
        )
    # What new_group returns to the others is not a group, whatever its type says.
    if group is cast(object, dist.GroupMember.NON_GROUP_MEMBER):
        raise ValueError(
            "this process does not belong to process_group; call the integral only on "
            "the ranks that do."
        )
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(
            f"process_group is a {type(group).__name__}; a group of torch.distributed "
            "is wanted: torch.distributed.group.WORLD for all processes, or the result "
            "of new_group or DeviceMesh.get_group."
        )
    if transforming() or dual_level() or torch.compiler.is_compiling():
        raise ValueError(
            "process_group talks to other processes, which torch.func, forward mode "
            "and torch.compile cannot record; leave it out, or integrate outside."
        )
    try:
        ranks = Ranks(group)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "process_group is not in use (any more); call "
            "torch.distributed.init_process_group first, and pass a group made after."
        ) from error
    return _NOBODY if ranks.size == 1 else ranks


class Kept:
    """A process group in a module: copies of that share it, files do not hold it."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """Keep the group."""
        self.group = group

    def __deepcopy__(self, memo: object) -> Kept:
        """The same, as no process can have another one."""
        return self

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        """Nothing, as another process does not have it."""
        return Kept, ()


def _refuse_to_go_on(texts: list[str], broken: list[int], others: list[int]) -> None:
    if broken:
        raise RuntimeError(
            f"rank {broken[0]} of process_group failed, so that no rank has the "
            f"integral. It says: {texts[broken[0]]}"
        )
    raise ValueError(
        f"the ranks of process_group do not integrate the same. Rank 0: {texts[0]}. "
        f"Rank {others[0]}: {texts[others[0]]}. Every rank must pass the same "
        "integrand, domain, rule and settings, and a generator in the same state."
    )


def _word(value: object) -> str:
    """What is said of a setting, the same in every process."""
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_word(v) for v in value)}]"
    # Without the addresses of objects that have no other name.
    return re.sub(r" at 0x\w+", "", str(value))


def _fingerprint(tensor: Tensor, number: int) -> Tensor:
    """A weighted sum of a tensor, and what rounding errors of it are relative to."""
    values = tensor.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    values = values.to(torch.float64).flatten()
    values = torch.nan_to_num(values, nan=0.5, posinf=1.0, neginf=-1.0)
    order = torch.arange(len(values), dtype=torch.float64, device=values.device)
    values = values * torch.cos(order + number)
    return torch.stack([values.sum(), values.norm()])
