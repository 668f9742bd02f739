"""Plans in several dimensions: what a search found, frozen into a fixed rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from torch_mlcalc.quadrature.cubature.nodes import Nodes
from torch_mlcalc.quadrature.cubature.tails import Tails
from torch_mlcalc.quadrature.plan import Plan


@final
@dataclass(frozen=True, eq=False, repr=False)
class NodesPlan(Plan):
    """The nodes of a random rule, as it drew them.

    Attributes:
        nodes: The nodes.
        tails: How they are stretched over infinite axes.
    """

    cubic = True

    nodes: Nodes
    tails: Tails
    batch_shape: tuple[int, ...]
    error: Tensor
    status: Tensor
    n_evals: Tensor

    @property
    def n(self) -> int:
        """Number of nodes, the same for every integral."""
        return self.nodes.n

    def __repr__(self) -> str:
        """Size only."""
        return f"Plan(n={self.n}, batch_shape={self.batch_shape})"

    def to(self, device: torch.device | str) -> NodesPlan:
        """The same plan on another device."""
        return replace(
            self,
            nodes=self.nodes.to(device),
            error=self.error.to(device),
            status=self.status.to(device),
            n_evals=self.n_evals.to(device),
        )

    def _parts(self) -> dict[str, Any]:
        return {
            "nodes": self.nodes.state(),
            "tails": self.tails.value,
            "batch_shape": self.batch_shape,
            "error": self.error,
            "status": self.status,
            "n_evals": self.n_evals,
        }

    @classmethod
    def _from_parts(cls, parts: dict[str, Any]) -> NodesPlan:
        own = {
            "nodes": Nodes.from_state(parts["nodes"]),
            "tails": Tails(parts["tails"]),
            "batch_shape": tuple(parts["batch_shape"]),
        }
        return cls(**{**parts, **own})
