"""The figures for integrals in one dimension."""

from __future__ import annotations

from collections.abc import Iterator

import integrals_batch
import integrals_single
from figures import Row
from peer import ROOT, peer

TITLE = "Integrals in one dimension"


def rows(quick: bool = False) -> Iterator[Row]:
    """All figures; values and gradients are checked before any time counts."""
    jax = ROOT / ".venv-jax" / "bin" / "python"
    with peer(jax, "quadax_server.py") as quadax:
        yield from integrals_single.rows(quadax, quick)
        yield from integrals_batch.rows(quadax, quick)
