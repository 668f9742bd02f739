"""Running totals of a batch of integrals while an adaptive rule works on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torch_mlcalc.quadrature.estimate import Status, Tolerance
from torch_mlcalc.quadrature.evaluator import Values
from torch_mlcalc.quadrature.pieces import Index, Nodes, chosen
from torch_mlcalc.quadrature.rules import Array

#: QUADPACK's factor for the rounding error of a sum: no estimate is believed below so
#: many epsilons of the integral of |f| (Piessens et al., QUADPACK, 1983, section 3.4).
ROUNDING = 50.0


#: A slope less than this of the integral of its absolute value has cancelled: what is
#: left of it is not asked to have as many digits as its parts (see slopes.py).
CANCELS = 1e-3


class Amount(NamedTuple):
    """Contributions to integrals: ``exp(log_unit)`` times the three columns.

    Attributes:
        columns: Value, error, and integral of the absolute value, ``(3, m, events)``.
        log_unit: ``(m, events)``, None except in the log form. There values are the
            exponentials of what the integrand returned, less their largest.
    """

    columns: Values
    log_unit: Array | None

    @property
    def value(self) -> Values:
        """Contribution to each integral."""
        return self.columns[0]

    @property
    def error(self) -> Array:
        """Estimate of its error."""
        return self.columns[1].real

    @property
    def absolute(self) -> Array:
        """Integral of the absolute value."""
        return self.columns[2].real

    def take(self, index: npt.NDArray[Any]) -> Amount:
        """Some of the contributions."""
        unit = self.log_unit
        columns = chosen(self.columns, index, 1)
        return Amount(columns, None if unit is None else chosen(unit, index, 0))


def unlogged(values: npt.NDArray[Any], *, log: bool) -> tuple[Array, Array | None]:
    """Values relative to the largest of each column, and the log of that."""
    if not log:
        return values, None
    log_unit = values.max(0)
    return np.exp(values - np.where(np.isneginf(log_unit), 0, log_unit)), log_unit


def factor_between(unit: Array | None, other: Array | None) -> Array | float:
    """What turns an amount in one log unit into one in another; 0 of an empty one."""
    if unit is None or other is None:
        return 1.0
    with np.errstate(invalid="ignore"):  # of two empty ones
        return np.where(np.isneginf(unit), 0.0, np.exp(unit - other))


def join(amounts: Sequence[Amount]) -> Amount:
    """Contributions one after another."""
    units = [a.log_unit for a in amounts if a.log_unit is not None]
    return Amount(
        np.concatenate([a.columns for a in amounts], 1),
        np.concatenate(units) if units else None,
    )


def sum_by(element: Index, columns: npt.NDArray[Any], elements: int) -> Values:
    """Sums ``(*, elements, events)`` over the rows ``(*, m, events)`` of each."""
    if elements == 1:
        return np.add.reduce(columns, -2, keepdims=True)
    if columns.dtype.kind == "c":
        real = sum_by(element, columns.real, elements)
        return real + 1j * sum_by(element, columns.imag, elements)
    *front, m, events = columns.shape
    if events != 1:
        element = (element[:, None] * events + np.arange(events)).ravel()
    sums = [
        np.bincount(element, column, elements * events)
        for column in columns.reshape(-1, m * events)
    ]
    return np.stack(sums).reshape(*front, elements, events)


#: Value, error and integral of the absolute value of a single real integral.
Plain = tuple[float, float, float]


class Ledger:
    """Totals, effort and faults of each integral; contributions are only added.

    Attributes:
        n_evals: Points evaluated, ``(elements,)``.
        fault: Worst :class:`Status` that a rule found evidence for, ``(elements,)``.
        unseen: Integrals over unbounded domains of which every value was exactly 0,
            at first on one piece; see :meth:`note_seen`.
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
        self._total: Amount | None = None
        #: What was added in plain numbers and is not in the total yet.
        self._plain: Plain | None = None
        self.n_evals = np.zeros(elements, dtype=np.int64)
        self.fault = np.zeros(elements, dtype=np.int64)
        self.unseen = np.zeros(elements, dtype=bool)
        self.nodes: list[Nodes] = []
        self.expected: list[tuple[Index, Amount]] = []
        self.bad_point: tuple[int, object] | None = None

    @property
    def total(self) -> Amount | None:
        """The sum of what was added, ``(elements, events)``; None before that."""
        if self._plain is not None:
            columns = np.array(self._plain).reshape(3, 1, 1)
            self._plain = None
            if self._total is not None:
                columns = self._total.columns + columns
            self._total = Amount(columns, None)
        return self._total

    def count(self, element: Index, points: int) -> None:
        """Note that so many points were evaluated for each entry of ``element``."""
        if self.elements == 1:
            self.n_evals += points * element.size
        else:
            self.n_evals += points * np.bincount(element, minlength=self.elements)

    @property
    def left(self) -> int:
        """Points that every integral may still use."""
        return max(self.max_evals - int(self.n_evals.max(initial=0)), 0)

    def affordable(self, element: Index, points: Index) -> npt.NDArray[Any]:
        """Which integrals can pay for so many points for each entry of ``element``."""
        cost = np.bincount(element, points, self.elements)
        return self.n_evals + cost <= self.max_evals

    def add(self, element: Index, amount: Amount) -> None:
        """Add contributions for good."""
        total = self.total
        if self.elements > 1 or element.size > 1 or amount.log_unit is not None:
            self._total = self.with_open(element, amount)
        elif total is None:
            self._total = amount
        else:
            self._total = Amount(total.columns + amount.columns, None)

    def add_plain(self, value: float, error: float, absolute: float) -> None:
        """Add plain numbers to the only integral for good."""
        if self._plain is not None:
            total, settled, size = self._plain
            value, error, absolute = total + value, settled + error, size + absolute
        self._plain = value, error, absolute

    def with_open(self, element: Index, amount: Amount) -> Amount:
        """Totals as if the contributions had been added."""
        return self._sum([(element, amount)])

    def with_expected(self, element: Index, amount: Amount) -> Amount:
        """Totals with the contributions and with what is expected besides."""
        return self._sum([(element, amount), *self.expected])

    def _sum(self, entries: list[tuple[Index, Amount]]) -> Amount:
        total = self.total
        if total is not None:
            entries = [(np.arange(self.elements), total), *entries]
        if len(entries) == 1:
            return self._sum_by(*entries[0])
        element = np.concatenate([e for e, _ in entries])
        return self._sum_by(element, join([a for _, a in entries]))

    def _sum_by(self, element: Index, amount: Amount) -> Amount:
        columns, unit = amount
        if unit is None:
            return Amount(sum_by(element, columns, self.elements), None)
        log_unit = np.full((self.elements, unit.shape[1]), -np.inf)
        np.maximum.at(log_unit, element, unit)
        columns = columns * factor_between(unit, log_unit[element])
        return Amount(sum_by(element, columns, self.elements), log_unit)

    def allowed(self, total: Amount) -> Array:
        """Error at which an integral with this total counts as converged."""
        size, (rtol, atol, slope) = np.abs(total.value), self.tolerance
        if slope is not None:
            wanted = np.maximum(atol, rtol * size)
            parts = np.maximum(size, CANCELS * total.absolute)
            wanted[:, 1::2] = slope * parts[:, 1::2]
            return np.maximum(wanted, self.rounding(total) * (1 + 1e-3))
        if self.log:
            # An absolute error of the log is a relative error of the integral.
            wanted = max(rtol, atol) * size
        else:
            wanted = np.maximum(atol, rtol * size) if atol else rtol * size
        limit = np.maximum(wanted, self.rounding(total) * (1 + 1e-3))
        # Logs so large that rounding leaves them no digits never converge.
        return np.minimum(limit, size) if self.log else limit

    @property
    def plain(self) -> Plain | None:
        """The total, if it is a single real number with error and absolute value."""
        if self._plain is not None and self._total is None:
            return self._plain
        total, slopes = self.total, self.tolerance.grad_rtol
        if self.log or slopes is not None or total is None:
            return None
        columns = total.columns
        if columns.size != 3 or columns.dtype != float:
            return None
        ((value,),), ((error,),), ((absolute,),) = columns.tolist()
        return value, error, absolute

    def allowed_plain(self, value: float, absolute: float) -> float:
        """What :meth:`allowed` says of plain numbers."""
        rtol, atol, _ = self.tolerance
        floor = ROUNDING * self.epsilon * absolute * (1 + 1e-3)
        return max(atol, rtol * abs(value), floor)

    def rounding(self, amount: Amount) -> Array:
        """Error that rounding alone explains."""
        epsilon = self.epsilon * ROUNDING
        if amount.log_unit is None:
            return epsilon * amount.absolute
        # A log of size L is itself rounded to L epsilon.
        logs = np.where(np.isfinite(amount.log_unit), amount.log_unit, 0)
        return epsilon * (1 + np.abs(logs)) * amount.absolute

    def note_seen(self) -> None:
        """An integral that was seen on one piece may well be empty on another."""
        total = self.total
        if total is not None:
            self.unseen &= ~total.absolute.any(1)

    def blame(self, element: Index, status: Status) -> None:
        """Record evidence against some integrals."""
        if element.size:
            np.maximum.at(self.fault, element, int(status))


def status_of(ledger: Ledger) -> npt.NDArray[Any]:
    """The final :class:`Status` of each integral, ``(elements,)``."""
    total = ledger.total
    if total is None:
        return ledger.fault
    plain = ledger.plain
    if plain is not None and not (ledger.fault[0] or ledger.unseen[0]):
        value, error, absolute = plain
        if error <= ledger.allowed_plain(value, absolute):
            return ledger.fault
    converged = (total.error <= ledger.allowed(total)).all(1) & ~ledger.unseen
    converged &= ledger.fault < Status.NON_FINITE
    missed = np.maximum(ledger.fault, int(Status.TOLERANCE_NOT_REACHED))
    return np.where(converged, int(Status.CONVERGED), missed)
