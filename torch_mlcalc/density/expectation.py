"""Expectations of functions under distributions, by the rule that suits each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
)

from torch_mlcalc.density.nodes import (
    Nodes,
    NoNodes,
    entry_of,
    is_exact,
    nodes_per_axis,
)
from torch_mlcalc.density.normalized import NormalizedDensity
from torch_mlcalc.density.over_support import over_support
from torch_mlcalc.density.placed import has_box
from torch_mlcalc.density.tables import Check
from torch_mlcalc.quadrature.checks import (
    Settings,
    check_generator,
    check_settings,
)
from torch_mlcalc.quadrature.contract import (
    LinearSum,
    LogSum,
    accumulator,
    block_of,
    sum_blocks,
    together,
)
from torch_mlcalc.quadrature.estimate import Tolerance, report
from torch_mlcalc.quadrature.host import frozen, read
from torch_mlcalc.quadrature.integrand import HALF, Function
from torch_mlcalc.quadrature.rules import FixedRule, Rule
from torch_mlcalc.quadrature.sharding import Ranks, ranks_of

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: Nodes in one dimension. For cos, exp and the logistic function of a standard normal
#: variable 16 are right to 1e-15; for log(exp(x) + exp(-x)), whose poles are near, 16
#: to 7e-6 and 32 to 3e-8.
NODES = 32

#: Nodes that check these. Two even rules share the gap around the mean, a fifth of a
#: normal distribution, and agree on any step in it: P(x > 0.1) was 0.5.
CHECK = 15

#: Bytes of a block by default. Measured for 1e5 distributions and 32 nodes on two busy
#: cores, over f on all nodes at once: 1.6 with one block, 1.9 with 16 MiB and 14 with
#: blocks of one row, which fit the cache but keep the threads waiting for each other.
MEMORY = 2**28


def expectation(
    integrand: Function,
    distribution: Distribution,
    rule: Rule | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    generator: torch.Generator | None = None,
    on_failure: str = "warn",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    r"""Mean of a function under a distribution.

    .. math:: \mathbb{E}_{x \sim p} f(x) = \int f(x)\,p(x)\,dx
        \quad\text{or}\quad \sum_x f(x)\,p(x)

    Normal, log-normal, uniform, exponential and Laplace distributions have Gauss rules,
    checked by half as many nodes; so have products (``Independent``), multivariate
    normal ones and mixtures of these. Bernoulli, categorical and binomial ones are
    enumerated; Poisson, geometric and negative binomial ones summed but for tails of
    1e-20. What the Gauss rule does not get right, and any other distribution, is
    integrated over its ``support`` with its ``log_prob``, a mixture component by
    component. Where that of torch
    cancels for large parameters it is taken in ``float64``; the function gets points in
    the dtype of the parameters.

    Gamma, beta, F and inverse gamma variables are averaged over their logs or log
    odds, which keep all digits of parameters up to 1e12. Their values end where numbers
    do, and a mean that what is beyond would change is reported with what is missing:
    of a Beta distribution with a concentration of 0.1 a part of 2.6e-2 is nearer to 1
    than any number, and the mean of :math:`\log(1 - x)` is 0.3 off; with 0.3 it is 7e-5
    and with 0.4 7e-7. With ``concentration1`` and ``concentration0`` exchanged and the
    log of ``x`` nothing is missing. What oscillates far out under a heavy tail, such as
    the cosine under a Cauchy distribution, is reported as well; it is right to 2e-6 by
    default and to 4e-8 with ``max_evals=1_000_000``.

    Args:
        integrand: Function of points ``(n, *batch, *event)`` that returns
            ``(n, *batch, *shape)``.
        distribution: A ``torch.distributions.Distribution``.
        rule: A fixed rule, used as it is, or an adaptive rule for the integral over the
            support; by default chosen as above.
        rtol: Wanted relative error; by default the square root of the dtype's epsilon
            (0 if ``atol`` is given).
        atol: Wanted absolute error: either of the two is enough.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use; by default 256 MiB.
        generator: What seeds a random rule; without one, the same call gives the same
            bits.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.
        process_group: Processes that share the points, all of which make this call, as
            for :func:`integrate`. A :class:`NormalizedDensity` has its own points.

    Shape:
        Returns ``(*batch_shape, *shape)``.

    Returns:
        The mean, with gradients in the parameters of the distribution and in whatever
        the function depends on; in the place of a jump they are had from
        :func:`expected_loss` with ``kinks``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If nothing is known about the distribution, or a setting does not
            fit.
        IntegrationError: If it did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mu = torch.tensor([0.0, 1.0], requires_grad=True)
        >>> cost = mlc.expectation(torch.exp, torch.distributions.Normal(mu, 1.0))
        >>> cost
        tensor([1.6487, 4.4817], grad_fn=...)
        >>> torch.autograd.grad(cost.sum(), mu)
        (tensor([1.6487, 4.4817]),)

    References:
        NIST Digital Library of Mathematical Functions, section 3.5(v),
        https://dlmf.nist.gov/3.5
    """
    settings = Settings(rtol, atol, max_evals, memory, on_failure, generator)
    with ranks_of(process_group) as ranks:
        return _expect(integrand, distribution, rule, settings, ranks, log=False)


def log_expectation(
    log_integrand: Function,
    distribution: Distribution,
    rule: Rule | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    generator: torch.Generator | None = None,
    on_failure: str = "warn",
    process_group: ProcessGroup | None = None,
) -> Tensor:
    r"""Log of the mean of a positive function that is given by its log.

    .. math:: \log \mathbb{E}_{x \sim p}\, e^{g(x)}

    Args:
        log_integrand: Function that returns the log; minus infinity for 0.
        distribution: As for :func:`expectation`, and so are the others.
        rule: How to integrate.
        rtol: Wanted error of the log.
        atol: The same; the larger of the two counts.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        generator: What seeds a random rule.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        process_group: Processes that share the points.

    Returns:
        The log of the mean, which never leaves log space.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If nothing is known about the distribution.
        IntegrationError: If it did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.log_expectation(
        ...     lambda x: 1000 * x, torch.distributions.Bernoulli(torch.tensor(0.5))
        ... )
        tensor(999.3068)
    """
    settings = Settings(rtol, atol, max_evals, memory, on_failure, generator)
    with ranks_of(process_group) as ranks:
        return _expect(log_integrand, distribution, rule, settings, ranks, log=True)


def _expect(
    function: Function,
    distribution: Distribution,
    rule: Rule | None,
    settings: Settings,
    ranks: Ranks | None,
    *,
    log: bool,
) -> Tensor:
    _check(function, distribution, rule, settings)
    if isinstance(distribution, NormalizedDensity):
        _refuse_to_share(distribution, ranks)
    entry = entry_of(distribution)
    own = (
        isinstance(rule, FixedRule)
        and entry is not None
        and (entry.rule is not None and isinstance(rule, entry.rule))
    )
    if entry is None or not (rule is None or own):
        return over_support(function, distribution, rule, settings, ranks, log=log)
    n = rule.n if isinstance(rule, FixedRule) else NODES
    try:
        nodes = Nodes(*entry.make(distribution, n))
        _describe(distribution, rule, nodes, settings, ranks, log=log)
        value = _sum(function, distribution, nodes, settings, ranks, log=log)
        if own or is_exact(distribution):
            return value
        with frozen():
            # A product in many dimensions has fewer already: it is checked by one less.
            most = nodes_per_axis(n, distribution.event_shape.numel())
            fewer = Nodes(*entry.make(distribution, Check(min(CHECK, most - 1))))
            check = _sum(function, distribution, fewer, settings, ranks, log=log)
    except NoNodes as reason:
        if distribution.event_shape and not has_box(distribution):
            raise ValueError(
                f"no nodes for {distribution}: {reason}. Pass a smaller problem, or "
                "average samples."
            ) from None
        return over_support(function, distribution, rule, settings, ranks, log=log)
    missed = _missed(value.detach(), check, settings, log=log)
    if not (read(missed) > 0).any():
        return value
    advice = _no_other_rule(distribution, most)
    if advice:
        where = read(missed).reshape(distribution.batch_shape.numel(), -1).max(1)
        report(where.astype(int), advice, settings.on_failure, stacklevel=4)
        return value
    other = over_support(function, distribution, rule, settings, ranks, log=log)
    return torch.where(missed, other, value)


def _no_other_rule(distribution: Distribution, most: int) -> str:
    """What to do where there is none, or in so many dimensions a worse one."""
    if distribution.event_shape and not has_box(distribution):
        return (
            " A product of Gauss rules is all there is for this distribution; average "
            "samples, or integrate over a Box with breakpoints."
        )
    if most > CHECK + 1:
        return ""
    return (
        " A product of Gauss rules has few nodes on each axis in so many dimensions; "
        "pass rule=Lattice(2**16, tails=Tails.GAUSSIAN), or average samples."
    )


def _describe(
    distribution: Distribution,
    rule: Rule | None,
    nodes: Nodes,
    settings: Settings,
    ranks: Ranks | None,
    *,
    log: bool,
) -> None:
    """Take down the call, for ranks to see that they make the same one."""
    if ranks is None:
        return
    kind = type(distribution).__name__
    words = [f"a mean under {kind}, rule {rule}, log={log}"]
    alike = settings._replace(memory=None)._asdict().items()
    words += [f"{name}={value}" for name, value in alike if value is not None]
    # Outermost nodes tell location and scale; a look at all takes as long as the sum.
    ranks.describe(words, [nodes.points[[0, -1]], nodes.log_weights], nodes.dtype)


def _refuse_to_share(density: NormalizedDensity, ranks: Ranks | None) -> None:
    if ranks is not None:
        raise ValueError(
            "process_group shares the points of one integral, but a NormalizedDensity "
            "keeps its own on every process; leave out process_group, or integrate "
            "with density.log_prob by integrate(..., process_group=...)."
        )


def _missed(value: Tensor, check: Tensor, settings: Settings, *, log: bool) -> Tensor:
    """Which means fewer nodes do not confirm."""
    tolerance = Tolerance.of(settings.rtol, settings.atol, value.real.dtype)
    if log:
        allowed = torch.full_like(value, max(tolerance.rtol, tolerance.atol))
    else:
        allowed = (tolerance.rtol * value.abs()).clamp(min=tolerance.atol)
    # Means that are 0 by symmetry agree to rounding, which is that of the terms.
    allowed = allowed + 64 * torch.finfo(value.real.dtype).eps * value.abs().clamp(
        min=1
    )
    return ~((value - check).abs() <= allowed)


def _sum(
    function: Function,
    distribution: Distribution,
    nodes: Nodes,
    settings: Settings,
    ranks: Ranks | None,
    *,
    log: bool,
) -> Tensor:
    """Weighted sum over nodes, in blocks."""
    points, log_weights = nodes
    count, events = len(points), len(distribution.event_shape)
    wide = accumulator(nodes.dtype)
    log_weights = log_weights.to(accumulator(log_weights.dtype))
    if log_weights.numel() == count:
        # The same for the whole batch: a matrix product.
        log_weights = log_weights.reshape(count)
    weights = log_weights if log else log_weights.exp()
    add = LogSum() if log else LinearSum()

    def part(start: int, stop: int) -> Tensor:
        some = points[start:stop]
        values = function(some)
        if not isinstance(values, Tensor):
            raise TypeError(
                f"the integrand returned {type(values).__name__}; a tensor is wanted."
            )
        shape = some.shape[: some.ndim - events]
        if values.shape[: len(shape)] != shape:
            raise ValueError(
                f"the integrand got points of shape {tuple(some.shape)} and returned "
                f"shape {tuple(values.shape)}; {tuple(shape)} is wanted, or that with "
                "dimensions behind."
            )
        if not (values.is_floating_point() or values.is_complex()):
            values = values.to(wide)
        total = add(weights[start:stop], log_weights[start:stop], values)
        # Weights may be in double precision for their own sake.
        return total.to(torch.promote_types(values.dtype, wide))

    width = max(1, points[0].numel()) * points.element_size()
    device = points[0].device
    block = block_of(count, width, settings.memory or MEMORY, device)
    total = sum_blocks(part, count, block, add, ranks=ranks)
    total = together(total, add, ranks)
    return total.to(nodes.dtype) if nodes.dtype in HALF else total


def _check(
    function: object, distribution: object, rule: object, settings: Settings
) -> None:
    if not callable(function):
        raise TypeError(
            f"integrand is a {type(function).__name__}; a function of the points is "
            "wanted, for example lambda x: x**2."
        )
    if not isinstance(distribution, Distribution):
        raise TypeError(
            f"distribution is a {type(distribution).__name__}; a distribution of torch "
            "is wanted, for example torch.distributions.Normal(0.0, 1.0)."
        )
    known = check_settings(rule, settings)
    if settings.generator is not None:
        check_generator(settings.generator, known, otherwise=False)
