"""Nodes of distributions: Gauss rules, products, enumeration, by an open registry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from scipy import special
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Exponential,
    Geometric,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
    TransformedDistribution,
    Uniform,
)

from torch_mlcalc.density.tables import Check, log_table
from torch_mlcalc.density.wide import widened
from torch_mlcalc.precision import full_precision
from torch_mlcalc.quadrature.gauss import GaussHermite, GaussLaguerre, GaussLegendre
from torch_mlcalc.quadrature.host import read
from torch_mlcalc.quadrature.rules import Array, FixedRule


class Nodes(NamedTuple):
    """Where to evaluate a function to average it under a distribution.

    Attributes:
        points: ``(n, *batch, *event)``.
        log_weights: Logs of weights that sum to 1, ``(n, *batch)`` or ``(n, 1, ...)``;
            those of counts in float64.
    """

    points: Tensor
    log_weights: Tensor

    @property
    def dtype(self) -> torch.dtype:
        """That of means of what is no wider: of the points, unless they are classes."""
        points = self.points
        return points.dtype if points.is_floating_point() else self.log_weights.dtype


Make = Callable[..., Nodes]
M = TypeVar("M", bound=Make)


@dataclass(frozen=True)
class Entry:
    """How a kind of distribution makes its nodes.

    Attributes:
        make: Function of a distribution and a number of nodes.
        exact: Whether the nodes are all values there are, whatever the number.
        rule: The rule that the nodes are from, if it is one.
    """

    make: Make
    exact: bool
    rule: type[FixedRule] | None


_registry: dict[type[Distribution], Entry] = {}

#: Nodes of a product over independent dimensions, at most.
MOST = 200_000

#: Probability on each side that a sum over infinitely many values leaves out.
TAIL = 1e-20


class NoNodes(NotImplementedError):
    """A distribution has no nodes, although its kind may have some."""


def register_expectation_rule(
    kind: type[Distribution],
    *,
    exact: bool = False,
    rule: type[FixedRule] | None = None,
) -> Callable[[M], M]:
    """Tell :func:`expectation` where to evaluate under a kind of distribution.

    Args:
        kind: A class of distributions; its subclasses are included.
        exact: Whether the nodes are all values there are, so that there is nothing to
            check.
        rule: Class of the rule whose nodes they are: an instance passed to
            :func:`expectation` then says how many.

    Returns:
        A decorator for a function ``(distribution, n)`` that returns points
        ``(n, *batch, *event)`` and logs of weights ``(n, *batch)`` that sum to 1, both
        with the gradients of the parameters; ``n`` is a number of nodes, a hint if
        ``exact``. The mean has the dtype of the points, if they are not integers.

    Raises:
        TypeError: If ``kind`` is not a class of distributions.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> class Coin(torch.distributions.Distribution):  # -1 or 1
        ...     arg_constraints = {}
        >>> @mlc.register_expectation_rule(Coin, exact=True)
        ... def coin_nodes(coin, n):
        ...     return torch.tensor([-1.0, 1.0]), torch.tensor([0.5, 0.5]).log()
        >>> mlc.expectation(lambda x: (1 + x) ** 2, Coin(validate_args=False))
        tensor(2.)
    """
    if not (isinstance(kind, type) and issubclass(kind, Distribution)):
        raise TypeError(
            f"kind is {kind!r}; a class of torch.distributions is wanted, for example "
            "Normal."
        )

    def register(make: M) -> M:
        _registry[kind] = Entry(make, exact, rule)
        return make

    return register


def entry_of(distribution: Distribution) -> Entry | None:
    """The entry of the nearest class that has one."""
    for kind in type(distribution).__mro__:
        if kind in _registry:
            return _registry[kind]
    return None


def nodes_of(distribution: Distribution, n: int) -> Nodes:
    """Nodes of a distribution that is part of another one."""
    entry = entry_of(distribution)
    if entry is None:
        raise NoNodes(type(distribution).__name__)
    return Nodes(*entry.make(distribution, n))


def is_exact(distribution: Distribution) -> bool:
    """Whether the nodes of a distribution are all its values."""
    while isinstance(distribution, (Independent, TransformedDistribution)):
        distribution = distribution.base_dist
    if isinstance(distribution, MixtureSameFamily):
        return is_exact(distribution.component_distribution)
    entry = entry_of(distribution)
    return entry is not None and entry.exact


def _gauss(family: type[FixedRule], n: int, like: Tensor) -> Nodes:
    shape = (-1, *(1,) * like.ndim)
    nodes, logs = log_table(family, n, like.dtype, like.device)
    return Nodes(nodes.reshape(shape), logs.reshape(shape))


@register_expectation_rule(Normal, rule=GaussHermite)
def _normal(p: Normal, n: int) -> Nodes:
    z, w = _gauss(GaussHermite, n, p.loc)
    return Nodes(p.loc + p.scale * z, w)


@register_expectation_rule(Uniform, rule=GaussLegendre)
def _uniform(p: Uniform, n: int) -> Nodes:
    z, w = _gauss(GaussLegendre, n, p.low)
    return Nodes(p.low + (p.high - p.low) * (1 + z) / 2, w - math.log(2))


@register_expectation_rule(Exponential, rule=GaussLaguerre)
def _exponential(p: Exponential, n: int) -> Nodes:
    z, w = _gauss(GaussLaguerre, n, p.rate)
    return Nodes(z / p.rate, w)


@register_expectation_rule(Laplace, rule=GaussLaguerre)
def _laplace(p: Laplace, n: int) -> Nodes:
    # Two exponential distributions back to back: nothing is lost at the kink.
    z, w = _gauss(GaussLaguerre, n, p.loc)
    both = torch.cat([-z.flip(0), z])
    return Nodes(p.loc + p.scale * both, torch.cat([w.flip(0), w]) - math.log(2))


@register_expectation_rule(MultivariateNormal, rule=GaussHermite)
def _multivariate_normal(p: MultivariateNormal, n: int) -> Nodes:
    d = p.loc.shape[-1]
    z, w = _gauss(GaussHermite, _per_dimension(n, d), p.loc[..., 0])
    grid = _grid(z.flatten(), d)
    shape = (-1, *(1,) * (p.loc.ndim - 1))
    logs = _grid(w.flatten(), d).sum(-1).reshape(shape)
    grid = grid.reshape((*shape, d))
    return Nodes(of_standard_normal(p, grid), logs)


def of_standard_normal(p: MultivariateNormal, z: Tensor) -> Tensor:
    """Points of a normal distribution from those of the standard one."""
    with full_precision(z.device):
        return p.loc + (p.scale_tril @ z[..., None])[..., 0]


def nodes_per_axis(n: int, d: int) -> int:
    """At most ``n`` nodes on each of ``d`` axes, so that a product is within bounds."""
    return min(n, int(MOST ** (1 / max(d, 1)) + 1e-9))


def _per_dimension(n: int, d: int) -> int:
    if nodes_per_axis(4, d) < 4:
        raise NoNodes(
            f"a product rule in {d} dimensions has too many nodes; draw samples, or "
            "pass an n-dimensional rule to integrate."
        )
    return nodes_per_axis(n, d)


def _grid(row: Tensor, d: int) -> Tensor:
    """All ``d``-tuples of the entries of a row, ``(n ** d, d)``."""
    return torch.cartesian_prod(*[row] * d).reshape(-1, d)


@register_expectation_rule(Independent)
def _independent(p: Any, n: int) -> Nodes:  # noqa: ANN401
    if p.reinterpreted_batch_ndims == 0:
        return nodes_of(p.base_dist, n)
    if p.reinterpreted_batch_ndims > 1 or p.base_dist.event_shape:
        raise NoNodes("Independent over several dimensions")
    d = p.event_shape[0]
    points, logs = nodes_of(p.base_dist, _per_dimension(n, d))
    points, logs = torch.broadcast_tensors(points, logs)
    index = _grid(torch.arange(len(points), device=points.device), d)
    if len(index) > MOST:
        raise NoNodes(f"a product of {len(index)} nodes is too much")
    column = torch.arange(d, device=points.device)
    # (n, *batch, d) to (n^d, *batch, d): dimension j takes node index[:, j].
    points = points.movedim(-1, 1)[index, column].movedim(1, -1)
    logs = logs.movedim(-1, 1)[index, column].movedim(1, -1)
    return Nodes(points, logs.sum(-1))


@register_expectation_rule(TransformedDistribution)
def _transformed(p: TransformedDistribution, n: int) -> Nodes:
    points, logs = nodes_of(p.base_dist, n)
    for transform in p.transforms:
        points = transform(points)
    extra = len(p.event_shape) - len(p.base_dist.event_shape)
    if extra > 0:
        raise NoNodes("a transform that joins dimensions of the batch")
    return Nodes(points, logs)


@register_expectation_rule(MixtureSameFamily)
def _mixture(p: MixtureSameFamily, n: int) -> Nodes:
    points, logs = nodes_of(p.component_distribution, n)
    if isinstance(n, Check):
        points, logs = _unlike(p, n, points, logs)
    share = p.mixture_distribution.logits
    share = share - share.logsumexp(-1, keepdim=True)
    logs = (logs + share).expand(len(points), *p.batch_shape, share.shape[-1])
    component = 1 + len(p.batch_shape)
    # Components become more nodes.
    points = points.expand(*logs.shape, *p.event_shape)
    return Nodes(
        points.movedim(component, 1).flatten(0, 1), logs.movedim(-1, 1).flatten(0, 1)
    )


def _unlike(p: MixtureSameFamily, n: Check, points: Tensor, logs: Tensor) -> Nodes:
    """The same for a check, with one node fewer for every second component."""
    # Components that mirror each other, as N(-1, 1) and N(1, 1) do, add up to 1/2 on
    # both sides of any step near the middle, by whatever rule they share.
    fewer, fewer_logs = nodes_of(p.component_distribution, Check(n - 1))
    missing = len(points) - len(fewer)
    fewer = torch.cat([fewer, fewer[:1].expand(missing, *fewer.shape[1:])])
    none = torch.full_like(fewer_logs[:1], -math.inf)
    fewer_logs = torch.cat([fewer_logs, none.expand(missing, *none.shape[1:])])
    count = p.mixture_distribution.logits.shape[-1]
    second = torch.arange(count, device=points.device) % 2 == 1
    behind = second.reshape(count, *(1,) * len(p.event_shape))
    return Nodes(
        torch.where(behind, fewer, points), torch.where(second, fewer_logs, logs)
    )


@register_expectation_rule(Bernoulli, exact=True)
@register_expectation_rule(Categorical, exact=True)
@register_expectation_rule(OneHotCategorical, exact=True)
def _enumerated(p: Distribution, n: int) -> Nodes:
    values = p.enumerate_support(expand=True)
    return Nodes(values, p.log_prob(values))


@register_expectation_rule(Binomial, exact=True)
def _binomial(p: Binomial, n: int) -> Nodes:
    trials = p.total_count
    shape = (-1, *(1,) * trials.ndim)
    count = int(read(trials).max(initial=0)) + 1
    values = torch.arange(count, dtype=torch.float64, device=trials.device)
    values = values.reshape(shape)
    inside = values <= trials
    values = torch.where(inside, values, trials.to(values.dtype))
    logs = torch.where(inside, widened(p).log_prob(values), -math.inf)
    return Nodes(values.to(trials.dtype), logs)


@register_expectation_rule(Poisson, exact=True)
def _poisson(p: Poisson, n: int) -> Nodes:
    rate = read(p.rate)
    wide = widened(p)
    return _summed(wide, p.rate, rate, lambda k: special.xlogy(k, k / rate) - k + rate)


@register_expectation_rule(Geometric, exact=True)
def _geometric(p: Geometric, n: int) -> Nodes:
    # Before p.probs, which it keeps in its own precision if it was given logits.
    wide = widened(p)
    probs = read(wide.probs)
    return _summed(wide, p.probs, *_failures(np.ones_like(probs), 1 - probs))


@register_expectation_rule(NegativeBinomial, exact=True)
def _negative_binomial(p: NegativeBinomial, n: int) -> Nodes:
    wide = widened(p)
    total, probs = torch.broadcast_tensors(wide.total_count, wide.probs)
    return _summed(wide, p.total_count, *_failures(read(total), read(probs)))


def _failures(total: Array, probs: Array) -> tuple[Array, Callable[[Array], Array]]:
    """Mean, and Chernoff exponent, of what happens with ``probs`` before ``total``."""

    def exponent(k: Array) -> Array:
        share = k / (k + total)
        stop = total * np.log((1 - share) / (1 - probs))
        return special.xlogy(k, share / probs) + stop

    return total * probs / (1 - probs), exponent


def _summed(
    p: Distribution, like: Tensor, mean: Array, exponent: Callable[[Array], Array]
) -> Nodes:
    r"""All values but those in the tails, by the Chernoff bound.

    .. math:: P(X \ge k) \le e^{-I(k)} \text{ above the mean, } P(X \le k) \le
        e^{-I(k)} \text{ below}

    Args:
        p: The distribution, in double precision.
        like: A parameter, whose dtype and device the nodes have.
        mean: Means.
        exponent: The function I.

    Returns:
        Values from the shortest window that holds all batch elements' own.

    Raises:
        ValueError: If there are too many.

    References:
        M. Mitzenmacher, E. Upfal, "Probability and Computing", 2nd ed., Cambridge
        University Press 2017, chapter 4.
    """
    enough = -math.log(TAIL)
    inside, low, high = mean, np.zeros_like(mean), mean + 1
    while (exponent(high) < enough).any():
        high = np.where(exponent(high) < enough, 2 * high + enough, high)
    top = inside
    for _ in range(64):
        middle = (top + high) / 2
        far = exponent(middle) >= enough
        top, high = np.where(far, top, middle), np.where(far, middle, high)
        middle = (low + inside) / 2
        far = exponent(middle) >= enough
        low, inside = np.where(far, middle, low), np.where(far, inside, middle)
    # What vmap maps over has one window for all, as the others do not see it.
    mapped = tuple(range(low.ndim - len(p.batch_shape)))
    low, high = np.floor(low).min(mapped), high.max(mapped)
    count = int((high - low).max(initial=0)) + 2
    if count > 50 * MOST:
        raise ValueError(
            f"{type(p).__name__} has {count} values that matter; that is too many to "
            "sum. Use a continuous approximation such as Normal."
        )
    steps = np.arange(count).reshape(-1, *(1,) * low.ndim)
    values = torch.as_tensor(low + steps, device="cpu").to(like.device)
    return Nodes(values.to(like.dtype), p.log_prob(values))
