"""What a search leaves, whichever rule it used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from torch import Tensor

from torch_mlcalc.quadrature.checks import Settings
from torch_mlcalc.quadrature.cubature.problem import SolidProblem
from torch_mlcalc.quadrature.cubature.sampler import Sampler
from torch_mlcalc.quadrature.evaluator import Evaluator, Values
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.rules import Array

#: Points that one integral may use by default.
MAX_EVALS = 10_000_000

Freeze = Callable[[Tensor, Tensor, Tensor], Plan]


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found, on the host; see :class:`Outcome` for the arrays.

    ``freeze`` makes the plan from error, status and n_evals as tensors. ``formula`` is
    the value as a function of what the places of the nodes depend on, if it is that.
    """

    problem: SolidProblem
    settings: Settings
    log: bool
    probe: Sampler | Evaluator
    value: Values
    error: Array
    status: npt.NDArray[Any]
    n_evals: npt.NDArray[Any]
    freeze: Freeze
    formula: Callable[[], Tensor] | None = None
