"""Gauss rules as tensors, and rules that check them next to their ends."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.gauss import GaussJacobi, GaussLaguerre, GaussLegendre
from torch_mlcalc.quadrature.host import kept
from torch_mlcalc.quadrature.rules import Array, FixedRule, table

#: How near to an end a check looks, or the epsilon of its dtype. There, and not at the
#: end, a function has a value; with a weight of 1/15 smooth means change by 1e-11.
NEAR = 1e-10


class Check(int):
    """A number of nodes that only check those of another rule.

    A Gauss rule does not see a step between an end and its first node, where there are
    4 % of an exponential distribution for 32 nodes: P(x > 0.02) was 1. One that checks
    it therefore has a node at the end, as those of Radau and Lobatto.
    """


def log_table(
    family: type[FixedRule], n: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Nodes and logs of weights as tensors, made once."""
    checks = isinstance(n, Check) and family in _WITH_ENDS
    return _log_table(family, int(n), checks, dtype, device)


@kept()
def _log_table(
    family: type[FixedRule],
    n: int,
    checks: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    if checks:
        nodes, weights = _WITH_ENDS[family](n, max(NEAR, torch.finfo(dtype).eps))
    else:
        nodes, weights = table(family(n))  # type: ignore[call-arg]
    return (
        torch.tensor(nodes, dtype=dtype, device=device),
        torch.tensor(np.log(weights), dtype=dtype, device=device),
    )


def _radau_laguerre(n: int, near: float) -> tuple[Array, Array]:
    r"""Radau's rule against :math:`e^{-z}`: an end at 0, of weight :math:`1 / n`."""
    z, w = table(GaussLaguerre(n - 1, 1.0))
    return np.append(near, z), np.append(1 / n, w / z)


def _lobatto_legendre(n: int, near: float) -> tuple[Array, Array]:
    r"""Lobatto's rule on [-1, 1]: ends of weight :math:`2 / (n (n - 1))`."""
    z, w = table(GaussJacobi(n - 2, 1.0, 1.0))
    end = 2 / (n * (n - 1))
    inner = w * (4 / 3) / (1 - z * z)
    return np.concatenate([[near - 1], z, [1 - near]]), np.array([end, *inner, end])


_WITH_ENDS = {GaussLaguerre: _radau_laguerre, GaussLegendre: _lobatto_legendre}
