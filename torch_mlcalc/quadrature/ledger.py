"""Running totals of a batch of integrals while an adaptive rule works on them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.estimate import Status, Tolerance
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.pieces import Index, Nodes
from torch_mlcalc.quadrature.rules import Array

#: QUADPACK's factor for the rounding error of a sum: no estimate is believed below so
#: many epsilons of the integral of |f| (Piessens et al., QUADPACK, 1983, section 3.4).
ROUNDING = 50.0


class Amount(NamedTuple):
    """Contributions to integrals: ``exp(log_unit) * value``, and likewise the others.

    All are ``(m, events)``. ``log_unit`` is None except in the log form, where values
    are the exponentials of what the integrand returned, less their largest.
    """

    value: Values
    error: Array
    absolute: Array
    log_unit: Array | None

    def take(self, index: Index | npt.NDArray[Any]) -> Amount:
        """Some of the contributions."""
        return Amount(*(None if c is None else c[index] for c in self))  # type: ignore[arg-type]


def unlogged(values: npt.NDArray[Any], *, log: bool) -> tuple[Array, Array | None]:
    """Values relative to the largest of each column, and the log of that."""
    if not log:
        return values, None
    log_unit = values.max(0)
    relative = np.exp(values - log_unit)
    return np.where(np.isneginf(log_unit), 0, relative), log_unit


def factor_between(unit: Array | None, other: Array | None) -> Array | float:
    """What turns an amount in one log unit into one in another; 0 of an empty one."""
    if unit is None or other is None:
        return 1.0
    return np.where(np.isneginf(unit), 0.0, np.exp(unit - other))


def join(amounts: list[Amount]) -> Amount:
    """Contributions one after another."""
    return Amount(
        *(
            None if columns[0] is None else np.concatenate(columns)
            for columns in zip(*amounts, strict=True)
        )  # type: ignore[arg-type]
    )


def sum_by(element: Index, column: npt.NDArray[Any], elements: int) -> Values:
    """Sums ``(elements, events)`` of the rows ``(m, events)`` of each element."""
    if elements == 1:
        return column.sum(0, keepdims=True)
    if column.dtype.kind == "c":
        real = sum_by(element, column.real, elements)
        return real + 1j * sum_by(element, column.imag, elements)
    events = column.shape[1]
    if events != 1:
        element = (element[:, None] * events + np.arange(events)).ravel()
    sums = np.bincount(element, column.ravel(), elements * events)
    return sums.reshape(elements, events)


class Ledger:
    """Totals, effort and faults of each integral; contributions are only added.

    Attributes:
        total: The sum of what was added, ``(elements, events)``.
        n_evals: Points evaluated, ``(elements,)``.
        fault: Worst :class:`Status` that a rule found evidence for, ``(elements,)``.
        unseen: Integrals over unbounded domains of which every value was exactly 0.
        nodes: What the totals were made of.
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
        self.nodes: list[Nodes] = []
        self.expected: list[tuple[Index, Amount]] = []
        self.bad_point: tuple[int, float] | None = None

    def count(self, element: Index, points: int) -> None:
        """Note that so many points were evaluated for each entry of ``element``."""
        if self.elements == 1:
            self.n_evals += points * element.size
        else:
            self.n_evals += points * np.bincount(element, minlength=self.elements)

    def affordable(self, element: Index, points: int) -> npt.NDArray[np.bool_]:
        """Which integrals can pay for so many points for each entry of ``element``."""
        cost = points * np.bincount(element, minlength=self.elements)
        return self.n_evals + cost <= self.max_evals

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
            return self._sum_by(*entries[0])
        element = np.concatenate([e for e, _ in entries])
        return self._sum_by(element, join([a for _, a in entries]))

    def _sum_by(self, element: Index, amount: Amount) -> Amount:
        if amount.log_unit is None:
            value, error, absolute = (
                sum_by(element, c, self.elements) for c in amount[:3]
            )
            return Amount(value, error, absolute, None)
        log_unit = np.full((self.elements, amount.value.shape[1]), -np.inf)
        np.maximum.at(log_unit, element, amount.log_unit)
        factor = factor_between(amount.log_unit, log_unit[element])
        value, error, absolute = (
            sum_by(element, c * factor, self.elements) for c in amount[:3]
        )
        return Amount(value, error, absolute, log_unit)

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
        if amount.log_unit is None:
            return epsilon * amount.absolute
        # A log of size L is itself rounded to L epsilon.
        logs = np.where(np.isfinite(amount.log_unit), amount.log_unit, 0)
        return epsilon * (1 + np.abs(logs)) * amount.absolute

    def blame(self, element: Index, status: Status) -> None:
        """Record evidence against some integrals."""
        if element.size:
            np.maximum.at(self.fault, element, int(status))


def status_of(ledger: Ledger) -> npt.NDArray[Any]:
    """The final :class:`Status` of each integral, ``(elements,)``."""
    total = ledger.total
    if total is None:
        return ledger.fault
    converged = (total.error <= ledger.allowed(total)).all(1) & ~ledger.unseen
    converged &= ledger.fault < Status.NON_FINITE
    missed = np.maximum(ledger.fault, int(Status.TOLERANCE_NOT_REACHED))
    return np.where(converged, int(Status.CONVERGED), missed)
