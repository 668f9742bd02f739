"""Scrambled Sobol' points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import final

import numpy as np
import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from torch_mlcalc.quadrature.cubature.lattice import check_power_of_two
from torch_mlcalc.quadrature.cubature.replicates import (
    EqualWeights,
    ReplicatedRule,
    check_tails,
)
from torch_mlcalc.quadrature.cubature.tails import ALGEBRAIC, Tails
from torch_mlcalc.quadrature.rules import check_count

#: torch.quasirandom.SobolEngine works with 30 bits.
_BITS = SobolEngine.MAXBIT


@final
@dataclass(frozen=True)
class Sobol(ReplicatedRule):
    r"""Scrambled Sobol' points, in up to 21201 dimensions, with an error estimate.

    .. math:: Q_r = \frac{1}{n} \sum_{k=0}^{n-1} f(x_k^{(r)})

    where each replicate :math:`r` has a scrambling of its own: random linear matrices
    and a random digital shift. The integral is the mean of the replicates, its error
    half the width of their 95 % Student interval. The error falls about like
    :math:`n^{-3/2}` for smooth integrands, and faster than that of plain Monte Carlo
    for kinks and jumps too.

    With ``rtol`` or ``atol`` the points are doubled, keeping those there are, until the
    error is met or ``max_evals`` would be exceeded.

    Args:
        n: Points of each replicate, a power of two up to 2^30; those to begin with if a
            tolerance is given.
        replicates: Number of scramblings, at least 2. Fewer give a wider interval.
        tails: How infinite axes are stretched; Gaussian tails suit integrands that fall
            like a Gaussian, and are the only ones that work in many such dimensions.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If ``n`` is not a power of two up to 2^30, without which the points
            are not balanced, or ``replicates`` is less than 2.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> box = mlc.Box(torch.zeros(5), torch.ones(5))
        >>> mlc.integrate(lambda x: (x.sum(-1) - 2.5).abs(), box, mlc.Sobol(4096))
        tensor(0.52...)

    References:
        J. Matousek, "On the L2-discrepancy for anchored boxes", J. Complexity 14
        (1998), https://doi.org/10.1006/jcom.1998.0489
        A. B. Owen, "On dropping the first Sobol' point", MCQMC 2020,
        https://arxiv.org/abs/2008.08051
    """

    n: int = 1024
    replicates: int = 16
    tails: Tails = ALGEBRAIC

    def __post_init__(self) -> None:  # noqa: D105
        check_tails(self.tails)
        check_power_of_two("Sobol", self.n, 2**_BITS)
        check_count("replicates", self.replicates, 2)

    @property
    def most(self) -> int:
        """As many points as digits of theirs can tell apart."""
        return 2**_BITS

    def cube_nodes(
        self, dimension: int, seed: int, first: int, last: int
    ) -> SobolNodes:
        """Points ``first`` to ``last`` of each replicate."""
        if dimension > SobolEngine.MAXDIM:
            raise ValueError(
                f"Sobol has at most {SobolEngine.MAXDIM} dimensions, the domain has "
                f"{dimension}; use MonteCarlo."
            )
        return SobolNodes(dimension, first, last, self.replicates, seed)


@lru_cache(maxsize=64)
def _scrambled(dimension: int, seed: int, replicate: int) -> tuple[Tensor, Tensor]:
    """Direction numbers ``(30, d)`` and digital shift ``(d)`` of a replicate."""
    own = np.random.SeedSequence([seed, replicate]).generate_state(1)[0]
    # Never an inference tensor, whatever mode the first caller was in; and below vmap
    # the engine may not draw.
    with torch.inference_mode(False), torch._C._DisableFuncTorch():
        engine = SobolEngine(  # type: ignore[no-untyped-call]
            dimension, scramble=True, seed=int(own)
        )
        return engine.sobolstate.T.contiguous(), engine.shift


@lru_cache(maxsize=8)
def _first_run(dimension: int, seed: int, replicate: int, bits: int) -> Tensor:
    """The first 2^bits points of a replicate, which many blocks have in common."""
    columns, shift = _scrambled(dimension, seed, replicate)
    with torch.inference_mode(False), torch._C._DisableFuncTorch():
        run = shift[None]
        for column in columns[:bits]:
            run = torch.cat([run, run ^ column])
        return run


@final
@dataclass(frozen=True)
class SobolNodes(EqualWeights):
    """Points ``first`` to ``last`` of each replicate, one replicate after another."""

    dimension: int
    first: int
    last: int
    replicates: int
    seed: int

    @property
    def n(self) -> int:  # type: ignore[override]
        """Of all replicates together."""
        return (self.last - self.first) * self.replicates

    def points(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Points ``start`` to ``stop``."""
        count = self.last - self.first
        parts = []
        for replicate in range(start // count, (stop - 1) // count + 1):
            begin = self.first - replicate * count
            low = max(begin + start, self.first)
            high = min(begin + stop, self.last)
            parts.append(self._of_one(replicate, low, high, device))
        digits = torch.cat(parts)
        # In the middle of the 2^-30 wide cell, which is never 0 or 1.
        return (digits.to(torch.float64) + 0.5) / 2**_BITS

    def _of_one(
        self, replicate: int, start: int, stop: int, device: torch.device
    ) -> Tensor:
        """Points ``start`` to ``stop`` of one replicate, times 2^30."""
        # Point k is the shift plus (exclusive or) the direction numbers at the binary
        # digits of k. SobolEngine.draw makes points one after another only, rounds the
        # first to float32, and can return exactly 1 in float32.
        # Aligned runs of 2^bits points differ from each other by the high digits alone.
        bits = (stop - start - 1).bit_length()
        columns, _ = _scrambled(self.dimension, self.seed, replicate)
        columns = columns.to(device, non_blocking=True)
        run = _first_run(self.dimension, self.seed, replicate, bits)
        run = run.to(device, non_blocking=True)
        parts = []
        for high in range(start >> bits, ((stop - 1) >> bits) + 1):
            part = run
            for digit in range(high.bit_length()):
                if high >> digit & 1:
                    part = part ^ columns[bits + digit]
            parts.append(part)
        offset = start >> bits << bits
        return torch.cat(parts)[start - offset : stop - offset]
