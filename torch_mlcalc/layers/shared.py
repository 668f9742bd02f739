"""What layers have in common that several processes may call together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from torch_mlcalc.quadrature.sharding import Kept

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Shared(nn.Module):
    """A layer that several processes may call together."""

    def __init__(self, process_group: ProcessGroup | None) -> None:
        """Keep the group."""
        super().__init__()
        self._kept = Kept(process_group)

    @property
    def process_group(self) -> ProcessGroup | None:
        """Processes that share the points."""
        return self._kept.group

    @process_group.setter
    def process_group(self, group: ProcessGroup | None) -> None:
        self._kept = Kept(group)
