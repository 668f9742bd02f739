"""What an integral comes with: value, error, status, effort and the plan."""

from __future__ import annotations

import math
import warnings
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch_mlcalc.quadrature.rules import Rule


class Status(IntEnum):
    """How an integral ended, in order of severity."""

    CONVERGED = 0
    TOLERANCE_NOT_REACHED = 1
    SUSPECTED_DIVERGENT = 2
    NON_FINITE = 3


class IntegrationWarning(UserWarning):
    """Some integrals of a call did not converge; the message says what to try."""


class IntegrationError(RuntimeError):
    """The same, for ``on_failure="raise"``."""


class Estimate(NamedTuple):
    """An integral with what is known about it.

    Attributes:
        value: The integral (or its log), ``(*batch, *event)``.
        error: Estimate of the absolute error of ``value``, non-negative, the same
            shape, detached.
        status: A :class:`Status` for each integral, int64 of shape ``(*batch)``.
        n_evals: Points at which each integrand was evaluated to find the value, int64
            of shape ``(*batch)``.
        plan: The fixed rule that gave the value; replay it with ``integrate``.
    """

    value: Tensor
    error: Tensor
    status: Tensor
    n_evals: Tensor
    plan: Rule


#: Numbers of Python and of numpy.
_REAL = (int, float, np.integer, np.floating)


class Tolerance(NamedTuple):
    """Converged: ``error <= max(atol, rtol * |value|)``, or limited by rounding."""

    rtol: float
    atol: float
    #: That of every other component, a slope; None where there are none.
    grad_rtol: float | None = None

    @staticmethod
    def of(
        rtol: float | None,
        atol: float | None,
        dtype: torch.dtype,
        grad_rtol: float | None = None,
    ) -> Tolerance:
        """Settle what the caller left out: the square root of the dtype's epsilon."""
        for name, value in (("rtol", rtol), ("atol", atol), ("grad_rtol", grad_rtol)):
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, _REAL):
                raise TypeError(
                    f"{name} is a {type(value).__name__}; a number is wanted."
                )
            if not 0 <= value < math.inf:
                raise ValueError(
                    f"{name} is {value}; a finite number, 0 or more, is wanted."
                )
        if rtol is None:
            rtol = math.sqrt(torch.finfo(dtype).eps) if not atol else 0.0
        return Tolerance(float(rtol), float(atol or 0.0), grad_rtol)


def tolerance_of(
    rtol: float | None, atol: float | None, dtype: torch.dtype
) -> Tolerance:
    """As :meth:`Tolerance.of`, in less time where it has been asked for before."""
    if type(rtol) is float and atol is None:
        return _by_rtol(rtol, dtype)
    return Tolerance.of(rtol, atol, dtype)


@lru_cache(maxsize=64)
def _by_rtol(rtol: float, dtype: torch.dtype) -> Tolerance:
    return Tolerance.of(rtol, None, dtype)


_ADVICE = {
    Status.TOLERANCE_NOT_REACHED: (
        "loosen rtol/atol, raise max_evals, or pass breakpoints= where the integrand "
        "has a kink, jump or peak"
    ),
    Status.SUSPECTED_DIVERGENT: (
        "check that the integrand decays, or that its singularity is integrable"
    ),
    Status.NON_FINITE: (
        "make the integrand finite inside the domain, or pass breakpoints= at its "
        "singularities"
    ),
}


def report(
    status: npt.NDArray[Any], detail: str, on_failure: str, stacklevel: int
) -> None:
    """Warn, raise or stay silent about the integrals that did not converge."""
    if on_failure == "ignore" or not status.any():
        return
    counts = [
        f"{int((status == s).sum())} {s.name.lower().replace('_', ' ')} ({_ADVICE[s]})"
        for s in (
            Status.TOLERANCE_NOT_REACHED,
            Status.SUSPECTED_DIVERGENT,
            Status.NON_FINITE,
        )
        if (status == s).any()
    ]
    message = (
        f"{int((status > 0).sum())} of {status.size} integrals did not converge: "
        + "; ".join(counts)
        + f".{detail}"
    )
    if on_failure == "raise":
        raise IntegrationError(message)
    warnings.warn(message, IntegrationWarning, stacklevel=stacklevel)
