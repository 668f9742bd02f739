"""Running totals of a batch of integrals while an adaptive rule works on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.estimate import Status, Tolerance
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.pieces import Index, Part
from torch_mlcalc.quadrature.rules import Array

#: QUADPACK's factor for the rounding error of a sum: no estimate is believed below so
#: many epsilons of the integral of |f| (Piessens et al., QUADPACK, 1983, section 3.4).
ROUNDING = 50.0


@dataclass
class Amount:
    """Contributions to integrals: ``exp(log_unit) * value``, and likewise the others.

    All are ``(m, events)``. ``log_unit`` is 0 except in the log form, where values are
    the exponentials of what the integrand returned, less their largest.
    """

    value: Values
    error: Array
    absolute: Array
    log_unit: Array

    def take(self, index: Index | npt.NDArray[Any]) -> Amount:
        """Some of the contributions."""
        return Amount(
            self.value[index],
            self.error[index],
            self.absolute[index],
            self.log_unit[index],
        )


def unlogged(values: npt.NDArray[Any], *, log: bool) -> tuple[Array, Array]:
    """Values relative to the largest of each column, and the log of that."""
    if not log:
        return values, np.zeros(values.shape[1:])
    log_unit = values.max(0)
    with np.errstate(invalid="ignore"):
        relative = np.exp(values - log_unit)
    return np.where(np.isneginf(log_unit), 0, relative), log_unit


def join(amounts: list[Amount]) -> Amount:
    """Contributions one after another."""
    return Amount(
        np.concatenate([a.value for a in amounts]),
        np.concatenate([a.error for a in amounts]),
        np.concatenate([a.absolute for a in amounts]),
        np.concatenate([a.log_unit for a in amounts]),
    )


class Ledger:
    """Totals, effort and faults of each integral; contributions are only added.

    Attributes:
        total: The sum of what was added, ``(elements, events)``.
        n_evals: Points evaluated, ``(elements,)``.
        fault: Worst :class:`Status` that a rule found evidence for, ``(elements,)``.
        unseen: Integrals over unbounded domains of which every value was exactly 0.
        parts: Nodes that the totals were made of.
        expected: Rough amounts of what was set aside; they only tell how large the
            integrals are.
        bad_point: An integral and a point where its integrand was not finite.
    """

    def __init__(
        self,
        elements: int,
        tolerance: Tolerance,
        epsilon: float,
        max_evals: int,
        *,
        log: bool,
    ) -> None:
        """Begin with nothing.

        Args:
            elements: Number of integrals.
            tolerance: When an integral counts as converged.
            epsilon: Relative rounding error of one value.
            max_evals: Points that each integral may use.
            log: Whether values are logs.
        """
        self.tolerance = tolerance
        self.epsilon = epsilon
        self.max_evals = max_evals
        self.log = log
        self.elements = elements
        self.total: Amount | None = None
        self.n_evals = np.zeros(elements, dtype=np.int64)
        self.fault = np.zeros(elements, dtype=np.int64)
        self.unseen = np.zeros(elements, dtype=bool)
        self.parts: list[Part] = []
        self.expected: list[tuple[Index, Amount]] = []
        self.bad_point: tuple[int, float] | None = None

    def add(self, element: Index, amount: Amount) -> None:
        """Add contributions for good."""
        self.total = self.with_open(element, amount)

    def with_open(self, element: Index, amount: Amount) -> Amount:
        """Totals as if the contributions had been added."""
        return self._sum([(element, amount)])

    def with_expected(self, element: Index, amount: Amount) -> Amount:
        """Totals with the contributions and with what is expected besides."""
        return self._sum([(element, amount), *self.expected])

    def _sum(self, entries: list[tuple[Index, Amount]]) -> Amount:
        if self.total is not None:
            entries = [(np.arange(self.elements), self.total), *entries]
        if len(entries) == 1:
            return _sum_by(*entries[0], self.elements, log=self.log)
        element = np.concatenate([e for e, _ in entries])
        amount = join([a for _, a in entries])
        return _sum_by(element, amount, self.elements, log=self.log)

    def allowed(self, total: Amount) -> Array:
        """Error at which an integral with this total counts as converged."""
        size = np.abs(total.value)
        if self.log:
            # An absolute error of the log is a relative error of the integral.
            wanted = max(self.tolerance.rtol, self.tolerance.atol) * size
        else:
            wanted = np.maximum(self.tolerance.atol, self.tolerance.rtol * size)
        return np.maximum(wanted, self.rounding(total) * (1 + 1e-3))

    def rounding(self, amount: Amount) -> Array:
        """Error that rounding alone explains."""
        epsilon = self.epsilon * ROUNDING
        if self.log:
            # A log of size L is itself rounded to L epsilon.
            logs = np.where(np.isfinite(amount.log_unit), amount.log_unit, 0)
            return epsilon * (1 + np.abs(logs)) * amount.absolute
        return epsilon * amount.absolute

    def blame(self, element: Index, status: Status) -> None:
        """Record evidence against some integrals."""
        np.maximum.at(self.fault, element, int(status))


def _sum_by(element: Index, amount: Amount, elements: int, *, log: bool) -> Amount:
    events = amount.value.shape[1]
    log_unit = np.zeros((elements, events))
    if log:
        log_unit[:] = -np.inf
        np.maximum.at(log_unit, element, amount.log_unit)
        with np.errstate(invalid="ignore"):
            factor = np.exp(amount.log_unit - log_unit[element])
        factor[np.isneginf(amount.log_unit)] = 0
        columns = [
            amount.value * factor,
            amount.error * factor,
            amount.absolute * factor,
        ]
    else:
        columns = [amount.value, amount.error, amount.absolute]
    if elements == 1:
        sums = [c.sum(0, keepdims=True) for c in columns]
    else:
        sums = []
        for column in columns:
            out = np.zeros((elements, events), dtype=column.dtype)
            np.add.at(out, element, column)
            sums.append(out)
    return Amount(sums[0], sums[1], sums[2], log_unit)


def status_of(ledger: Ledger) -> npt.NDArray[Any]:
    """The final :class:`Status` of each integral, ``(elements,)``."""
    total = ledger.total
    if total is None:
        return ledger.fault
    converged = (total.error <= ledger.allowed(total)).all(1) & ~ledger.unseen
    converged &= ledger.fault < Status.NON_FINITE
    missed = np.maximum(ledger.fault, int(Status.TOLERANCE_NOT_REACHED))
    return np.where(converged, int(Status.CONVERGED), missed)
