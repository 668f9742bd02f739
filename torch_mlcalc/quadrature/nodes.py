"""Nodes that a search on a line has kept, cell by cell, on their way into a plan."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from torch_mlcalc.quadrature.evaluator import slots
from torch_mlcalc.quadrature.pieces import Part


class Cells(NamedTuple):
    """Nodes of a plan, ``(k, *cells)``, and what places them, ``(*cells)``.

    ``cells`` is ``(m,)``, each of one integral, or ``(count, elements)``
    with as many for every integral, padded by weights of 0.
    """

    positions: Tensor
    weights: Tensor
    piece: Tensor
    low: Tensor
    high: Tensor


def make_cells(
    parts: list[Part], elements: int, *, gathers: bool
) -> list[tuple[npt.NDArray[Any], ...]]:
    """Nodes on the host: cells with equally many nodes together, ragged or padded."""
    by_length: dict[int, list[Part]] = {}
    for part in parts:
        if not part.piece.size:
            continue
        by_length.setdefault(part.positions.shape[0], []).append(part)
    groups = [
        Part(*(np.concatenate(c, axis=-1) for c in zip(*group, strict=True)))
        for group in by_length.values()
    ]
    if gathers:
        return [(g.positions, g.weights, g.piece, g.low, g.high) for g in groups]
    spare = _spares(groups, elements)
    return [_padded(group, elements, spare) for group in groups]


def _spares(
    groups: list[Part], elements: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
    """A piece of each element, and the position of one of its nodes."""
    piece, position = np.arange(elements), np.full(elements, 0.5)
    for group in groups:
        element = group.piece % elements
        piece[element] = group.piece
        position[element] = group.positions[group.positions.shape[0] // 2]
    return piece, position, np.ones(elements)


def _padded(
    group: Part, elements: int, spare: tuple[npt.NDArray[Any], ...]
) -> tuple[npt.NDArray[Any], ...]:
    element = group.piece % elements
    slot, count = slots(element, elements)
    k = group.positions.shape[0]
    piece = np.tile(spare[0], (count, 1))
    positions = np.tile(spare[1], (k, count, 1))
    weights = np.zeros((k, count, elements))
    low, high = np.zeros((count, elements)), np.ones((count, elements))
    piece[slot, element] = group.piece
    positions[:, slot, element] = group.positions
    weights[:, slot, element] = group.weights
    low[slot, element], high[slot, element] = group.low, group.high
    return positions, weights, piece, low, high
