"""A single integral between numbers, by the default rule, from end to end.

It takes the search of ``adaptive.py`` without what that has to ask first: whether there
is a batch, a plan to be made, a mapped dimension or another device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from torch_mlcalc.quadrature.adaptive import (
    MAX_EVALS,
    between_numbers,
    concluded,
    value_of,
)
from torch_mlcalc.quadrature.automatic import run_single
from torch_mlcalc.quadrature.domains import Extent, of_numbers
from torch_mlcalc.quadrature.estimate import tolerance_of
from torch_mlcalc.quadrature.evaluator import Evaluator
from torch_mlcalc.quadrature.host import dual_level, transforming
from torch_mlcalc.quadrature.integrand import CPU, Function, Integrand, default_device
from torch_mlcalc.quadrature.ledger import Ledger
from torch_mlcalc.quadrature.problem import Problem
from torch_mlcalc.quadrature.search import Search
from torch_mlcalc.quadrature.single import Single

#: Of points, with the rounding error of one value.
_EPSILON = {d: torch.finfo(d).eps for d in (torch.float64, torch.float32)}


def integrate_alone(
    function: Function,
    extent: Extent,
    rtol: float | None,
    atol: float | None,
    on_failure: str,
) -> Tensor | None:
    """The integral as by :func:`find` and :func:`value_of`.

    Args:
        function: The integrand, without args.
        extent: Where.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        on_failure: What to do if it does not converge.

    Returns:
        It, or None where nothing was done, because there is more to it.
    """
    dtype, device = torch.get_default_dtype(), default_device()
    epsilon = _EPSILON.get(dtype)
    # On another device its type would say so, in ten times the time.
    if epsilon is None or device is not CPU or not of_numbers(extent):
        return None
    if transforming() or dual_level():
        return None
    tolerance = tolerance_of(rtol, atol, dtype)
    pieces, home = between_numbers(extent, dtype)
    if pieces.numbers is None or not pieces.numbers.sign:
        return None
    integrand = Integrand(function, (), (), dtype, device)
    grad = torch.is_grad_enabled()
    evaluate = Evaluator(integrand, (), None, home, None, grad=grad)
    ledger = Ledger(1, tolerance, epsilon, MAX_EVALS, log=False)
    search = Search(pieces, evaluate, ledger)
    # What overflows or has no value is looked at, level by level, where it matters.
    with np.errstate(all="ignore"):
        run_single(Single.between(search, pieces.numbers), None)
    if not (evaluate.requires_grad and grad):
        value = _plain(evaluate, ledger)
        if value is not None:
            # They hold the search that holds them, and what the integrand closes over.
            ledger.nodes.clear()
            return value
    problem = Problem(integrand, extent, None)
    return value_of(concluded(problem, search, None, None, on_failure))


def _plain(evaluate: Evaluator, ledger: Ledger) -> Tensor | None:
    """The integral if it is a number that has converged."""
    plain = ledger.plain
    if plain is None or evaluate.event_shape or ledger.fault[0] or ledger.unseen[0]:
        return None
    value, error, absolute = plain
    if not error <= ledger.allowed_plain(value, absolute):
        return None
    tensor = torch.from_numpy(np.array(value))
    return tensor if tensor.dtype == evaluate.dtype else tensor.to(evaluate.dtype)
