"""Adaptive Gauss-Hermite quadrature: the rule for posteriors and random effects."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from torch_mlcalc.quadrature.contract import Block, LogSum, sum_blocks, together
from torch_mlcalc.quadrature.estimate import Status
from torch_mlcalc.quadrature.gauss import GaussHermite
from torch_mlcalc.quadrature.host import read, write
from torch_mlcalc.quadrature.integrand import Integrand, as_result
from torch_mlcalc.quadrature.ledger import ROUNDING, Amount, unlogged
from torch_mlcalc.quadrature.mode import expand, find_modes
from torch_mlcalc.quadrature.pieces import Index, Part, Pieces
from torch_mlcalc.quadrature.problem import Problem
from torch_mlcalc.quadrature.rules import Array, Rule, check_count, table
from torch_mlcalc.quadrature.search import Search

#: Numbers of nodes tried in turn, each checked by the next. Binomial likelihoods of 10
#: trials with a standard normal prior agree to 1e-8 at 32, Poisson ones at 32 or 63.
#: Two even ones share the gap around the mode, and agree on any step in it.
LADDER = (8, 15, 32, 63, 128)

#: Relative error below which everything counts as good enough: a number of nodes that
#: was asked for is used, whatever it can do.
ANY = 1e200


@final
@dataclass(frozen=True)
class AdaptiveGaussHermite(Rule):
    r"""Gauss-Hermite nodes around the mode of a log integrand, scaled by its curvature.

    .. math:: \log \int e^{\ell(x)}\,dx \approx
        \log \sum_i \frac{w_i}{\phi(z_i)} \sigma\, e^{\ell(m + \sigma z_i)}, \qquad
        \ell'(m) = 0, \quad \sigma^{-2} = -\ell''(m)

    For :func:`log_integrate` over a ``RealLine``, or a ``Box`` without any limit, with
    a posterior or joint density for every element of the batch. In several dimensions
    :math:`\sigma` is the triangular factor of the inverse of :math:`-\nabla^2 \ell`,
    and the nodes are a grid. The modes are found by Newton steps from the ``loc`` of
    the domain; where none is found, and where more nodes do not help, the rule that is
    chosen without one takes over in the scaled variables, element by element. A second
    mode that is far from the first and narrow is not seen.

    Args:
        n: Number of nodes on each axis; ``n = 1`` is the Laplace approximation. The
            gradient is that of this formula, through mode and curvature (implicit
            function theorem), exact to second order. By default as many as the
            tolerance needs, in up to 8 dimensions, found by comparing 8, 15, 32, ...
            nodes; the gradient is then that of the integral.

    Raises:
        TypeError: If ``n`` is not an integer.
        ValueError: If ``n`` is not positive.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> successes = torch.tensor([2.0, 9.0])
        >>> def log_joint(u, k):  # of 10 trials with log odds u, which is normal
        ...     log_likelihood = torch.distributions.Binomial(10, logits=u).log_prob(k)
        ...     return log_likelihood + torch.distributions.Normal(0.0, 1.0).log_prob(u)
        >>> evidence = [
        ...     mlc.log_integrate(log_joint, mlc.RealLine(), rule, args=(successes,))
        ...     for rule in (mlc.AdaptiveGaussHermite(1), mlc.AdaptiveGaussHermite())
        ... ]
        >>> evidence
        [tensor([-2.3687, -2.7517]), tensor([-2.3573, -2.7417])]

    References:
        Q. Liu, D. A. Pierce, "A note on Gauss-Hermite quadrature", Biometrika 81
        (1994), https://doi.org/10.1093/biomet/81.3.624
    """

    n: int | None = None

    def __post_init__(self) -> None:  # noqa: D105
        if self.n is not None:
            check_count("n", self.n, 1)


def check_hermite(problem: Problem, *, log: bool) -> None:
    """Refuse integrals that have no mode to be placed around."""
    lower, upper = problem.extent[:2]
    if not log:
        raise ValueError(
            "AdaptiveGaussHermite works on the log of the integrand; use log_integrate "
            "(or adapt with log=True)."
        )
    if any(isinstance(t, Tensor) for t in (lower, upper)) or (
        (lower, upper) != (-np.inf, np.inf)
    ):
        raise ValueError(
            "AdaptiveGaussHermite integrates over the whole line; use RealLine(), or "
            "change the variable of the integrand."
        )
    if problem.breakpoints is not None:
        raise ValueError(
            "breakpoints has no effect with AdaptiveGaussHermite; leave it out, or use "
            "DoubleExponential()."
        )


class Placed(NamedTuple):
    """Where the nodes of each element go, ``(elements,)``."""

    at: Array
    width: Array
    found: npt.NDArray[np.bool_]


def book(rule: AdaptiveGaussHermite, search: Search) -> Index:
    """Book every integral that the rule can do; return the others."""
    ledger, element = search.ledger, np.arange(search.pieces.elements)
    placed = _modes(search)
    if rule.n is not None:
        _book_exactly(rule.n, search, placed)
        return element[:0]
    rest = ~placed.found
    before: Array = np.full((element.size, 1), np.nan)
    todo = element[placed.found]
    for n in LADDER:
        able = ledger.affordable(todo, np.full(todo.size, n))[todo]
        rest[todo[~able]] = True
        todo = todo[able]
        log_sum = _log_sum(search, placed, n, todo)
        error = np.abs(log_sum - before[todo])
        before[todo] = log_sum
        rounding = ROUNDING * ledger.epsilon * (1 + np.abs(log_sum))
        wanted = max(ledger.tolerance.rtol, ledger.tolerance.atol)
        error = np.maximum(error, rounding)
        good = (error <= np.maximum(wanted, rounding))[:, 0]
        _add(search, placed, n, todo[good], log_sum[good], error[good])
        todo = todo[~good]
        if not todo.size:
            break
    rest[todo] = True
    return element[rest]


def _book_exactly(n: int, search: Search, placed: Placed) -> None:
    """Book all integrals with the nodes asked for; others only tell the error."""
    ledger, element = search.ledger, np.arange(search.pieces.elements)
    log_sum = _log_sum(search, placed, n, element)
    check = _log_sum(search, placed, 2 * n + 1, element)
    ledger.blame(element[~placed.found], Status.TOLERANCE_NOT_REACHED)
    ledger.blame(element[np.isnan(log_sum[:, 0])], Status.NON_FINITE)
    error = np.abs(log_sum - check)
    error[~placed.found | np.isnan(error[:, 0])] = np.inf
    _add(search, placed, n, element, log_sum, error)


def _modes(search: Search) -> Placed:
    pieces, evaluate, ledger = search.pieces, search.evaluate, search.ledger
    integrand, mark, lead = evaluate.integrand, evaluate.mark, evaluate.lead
    shape = (*lead, *integrand.batch_shape)

    def tensor(array: Array) -> Tensor:
        own = write(array.reshape(shape).copy(), mark, integrand.device)
        return own.to(integrand.dtype)[None]

    start, scale = tensor(pieces.anchors[0]), tensor(pieces.unit)
    modes = find_modes(integrand, start, scale, mark)
    ledger.n_evals += modes.steps
    columns = torch.stack([modes.at, modes.width, modes.found.to(modes.at.dtype)])
    array = read(columns, mark)
    array = np.moveaxis(array, len(lead), 0).reshape(3, -1)
    return Placed(array[0], array[1], array[2] > 0)


def _log_sum(search: Search, placed: Placed, n: int, element: Index) -> Array:
    """Log of the integral with ``n`` nodes, ``(m, 1)``."""
    if not element.size:
        return np.zeros((0, 1))
    at, width = placed.at[element], placed.width[element]
    rule = GaussHermite(n)
    values = search.evaluate(element, at + width * table(rule)[0][:, None])
    search.ledger.count(element, n)
    terms = values + rule.log_lebesgue_weights()[:, None, None]
    relative, log_unit = unlogged(terms, log=True)
    log_sum: Array = np.log(relative.sum(0)) + log_unit
    return log_sum + np.log(width)[:, None]


def _add(
    search: Search,
    placed: Placed,
    n: int,
    element: Index,
    log_sum: Array,
    error: Array,
) -> None:
    if element.size:
        one = np.ones_like(log_sum)
        search.ledger.add(element, Amount(np.stack([one, error, one]), log_sum))
        search.ledger.nodes.append(partial(_part, search.pieces, placed, n, element))


def _part(pieces: Pieces, placed: Placed, n: int, element: Index) -> Part:
    rule, unit = GaussHermite(n), pieces.unit[element]
    width = placed.width[element] / unit
    middle = (placed.at[element] - pieces.anchors[0, element]) / unit
    positions = middle + width * table(rule)[0][:, None]
    weights = np.exp(rule.log_lebesgue_weights())[:, None] * width
    return Part(element, positions, weights, *np.zeros((2, element.size)) + [[0], [1]])


def through_mode(
    rule: AdaptiveGaussHermite, integrand: Integrand, at: Tensor, found: Tensor
) -> Tensor:
    """The formula with ``n`` nodes as a function of all that the integrand depends on.

    Two Newton steps from the mode change nothing but the derivatives: the first makes
    them right to first order, the second to third.

    Args:
        rule: The rule, with a number of nodes.
        integrand: Log integrand.
        at: Modes ``(1, *batch)``, without gradients.
        found: Whether they are.

    Returns:
        Log of the integral, ``(*batch)``.
    """
    assert rule.n is not None  # noqa: S101
    for _ in range(2):
        here = expand(integrand, at)
        concave = found & (here.curvature < 0)
        step = here.slope / torch.where(concave, -here.curvature, 1)
        at = at + torch.where(concave, step, 0)
    curvature = expand(integrand, at).curvature
    width = torch.where(curvature < 0, -curvature, 1).rsqrt()
    hermite = GaussHermite(rule.n)
    shape = (-1, *(1,) * (at.ndim - 1))
    nodes = torch.tensor(table(hermite)[0], device="cpu").to(at).reshape(shape)
    weights = (
        torch.tensor(hermite.log_lebesgue_weights(), device="cpu").to(at).reshape(shape)
    )
    add = LogSum()

    def part(start: int, stop: int) -> Tensor:
        some = weights[start:stop]
        return add(some, some, integrand(at + width * nodes[start:stop]))

    block = Block(rule.n, rule.n)
    total = sum_blocks(part, rule.n, block, add, ranks=integrand.ranks)
    total = together(total, add, integrand.ranks)
    return as_result(total + width[0].log(), integrand)
