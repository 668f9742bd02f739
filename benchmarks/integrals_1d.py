"""The figures for integrals in one dimension."""

from __future__ import annotations

import contextlib

import integrals_batch
import integrals_single
from figures import Row
from peer import ROOT, peer

TITLE = "Integrals in one dimension"


def rows(quick: bool = False) -> list[Row]:
    """All figures; values and gradients are checked before any time counts."""
    with contextlib.ExitStack() as peers:
        jax = ROOT / ".venv-jax" / "bin" / "python"
        quadax = peers.enter_context(peer(jax, "quadax_server.py"))
        return [
            *integrals_single.rows(quadax, quick),
            *integrals_batch.rows(quadax, quick),
        ]
