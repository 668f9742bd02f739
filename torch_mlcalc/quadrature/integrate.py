"""The functions that people call: integrals, their logs and their errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from torch_mlcalc.quadrature.alone import integrate_alone
from torch_mlcalc.quadrature.checks import (
    FAILURES,
    Settings,
    check,
    refuse_endless,
    refuse_fixed,
    refuse_tolerance,
)
from torch_mlcalc.quadrature.cubature import known
from torch_mlcalc.quadrature.cubature.at_once import attempt_at_once
from torch_mlcalc.quadrature.cubature.box import Box, Solid
from torch_mlcalc.quadrature.domains import Domain, HalfLine, Interval, Line, RealLine
from torch_mlcalc.quadrature.engine import engine_of, shared
from torch_mlcalc.quadrature.estimate import Estimate
from torch_mlcalc.quadrature.fixed import apply_at_once
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.line_plan import LinePlan
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.problem import Breakpoints
from torch_mlcalc.quadrature.rules import FixedRule, Rule
from torch_mlcalc.quadrature.sharding import ranks_of
from torch_mlcalc.quadrature.slopes import search

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

#: To ask whether one of them is a Line takes ten times as long.
_LINES = (Interval, RealLine, HalfLine)


def _by_known_nodes(integrand: Function, domain: Domain, rule: Rule) -> Tensor | None:
    """The integral by a rule that has been placed before; None if it has not."""
    if isinstance(domain, Line):
        if isinstance(rule, FixedRule):
            return apply_at_once(rule, domain.extent, integrand)
        if isinstance(rule, LinePlan):
            return rule.apply_at_once(domain.extent, integrand)
        return None
    return known.apply_at_once(rule, cast("Solid", domain), integrand)


def integrate(
    integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    grad_rtol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    generator: torch.Generator | None = None,
    on_failure: str = "warn",
    progress: bool = False,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    r"""Integrate a function over a domain, for a whole batch of integrals at once.

    .. math:: I = \int_a^b f(x, \theta)\,dx

    The gradient flows to everything the integrand depends on - closed-over tensors,
    ``args``, the limits, the breakpoints - and can be differentiated again.

    Args:
        integrand: Function of the points and ``args``. It gets points of shape
            ``(n, *batch)`` on a line, ``(n, *batch, d)`` on a :class:`Box`, and
            returns ``(n, *batch, *event)``. Points may be a view that is expanded, or
            has its coordinates one after another in memory: write ``x.reshape(-1)``,
            not ``x.view(-1)``, and ``x.clone()`` before writing to them.
        domain: Where to integrate.
        rule: How; by default adaptive Gauss-Kronrod on finite intervals, and
            double-exponential at singular or infinite ends. In several dimensions
            tensor Gauss rules, then Genz-Malik subdivision; a lattice above eight, to
            ``rtol=1e-4`` if nothing else is asked for.
        args: Further arguments of the integrand. Adaptive rules then evaluate only the
            rows of the batch that have not converged, so batched tensors are better
            passed than closed over.
        batch_shape: Shape of the batch, if it is not that to which limits and args
            broadcast. Args must begin with it and may have dimensions behind it.
        breakpoints: Where the integrand has kinks, jumps or peaks: a list of numbers or
            tensors, or a tensor ``(k,)`` or ``(k, *batch)``; on a Box a list of these,
            or None, for each axis. Those outside of the limits have no effect.
        rtol: Wanted relative error; by default the square root of the dtype's epsilon
            (0 if ``atol`` is given). Adaptive rules only.
        atol: Wanted absolute error: either of the two is enough. Adaptive rules only.
        grad_rtol: Wanted relative error of the gradient, in its own direction; by
            default nobody looks, and nodes are chosen for the value alone. Adaptive
            rules only; costs a second search, with two backward passes for each point.
        max_evals: Points that each integral may use. A rule or plan that is known to
            need more is refused, and so is a fixed one of more than 1e9 nodes unless
            this allows it. An adaptive rule is used once in any case, on a line with at
            most 105 points of a finite piece, and its last step is not broken off.
        memory: Bytes that a block of points with its values may use, about; by
            default a block fits the cache.
        generator: What seeds a random rule, or the choice of nodes in many dimensions;
            without one, the same call gives the same bits. Random rules only.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` integrals that did not
            converge.
        progress: Whether to show a bar that counts points (needs tqdm).
        process_group: Processes that share the points, all of which make this call;
            :data:`torch.distributed.group.WORLD` for all there are, None for this one
            alone. Each has the same result, but of the gradient only what comes from
            its own points: the mean over the processes is the gradient of their mean
            loss. ``DistributedDataParallel`` takes that mean; a bare model has to.

    Shape:
        Limits broadcast to ``(*batch)``. Returns ``(*batch, *event)``.

    Returns:
        The integral, in the dtype of the limits, else of the args, else torch's
        default.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> rate = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> value = mlc.integrate(
        ...     lambda x, rate: torch.exp(-rate * x), mlc.HalfLine(), args=(rate,)
        ... )
        >>> value
        tensor([1.0000, 0.5000], grad_fn=...)
        >>> torch.autograd.grad(value.sum(), rate)
        (tensor([-1.0000, -0.2500]),)

    References:
        P. J. Davis, P. Rabinowitz, "Methods of Numerical Integration", 2nd ed.,
        Academic Press 1984.
    """
    attempt = None
    if (
        (grad_rtol is None and memory is None and generator is None)
        and (batch_shape is None and breakpoints is None and process_group is None)
        and (type(args) is tuple and not args and max_evals is None and not progress)
        and (callable(integrand) and not torch.compiler.is_compiling())
    ):
        value = None
        if rule is None and type(domain) in _LINES and on_failure in FAILURES:
            extent = cast("Line", domain).extent
            value = integrate_alone(integrand, extent, rtol, atol, on_failure)
        elif rule is None and type(domain) is Box and on_failure in FAILURES:
            attempt = attempt_at_once(integrand, domain, rtol, atol)
            value = attempt.value if attempt else None
        elif rule is not None and on_failure == "warn" and rtol is atol is None:
            value = _by_known_nodes(integrand, domain, rule)
        if value is not None:
            return value
    settings = Settings(rtol, atol, max_evals, memory, on_failure, generator, grad_rtol)
    with (
        ranks_of(process_group) as ranks,
        check(integrand, domain, rule, settings, progress) as call,
    ):
        engine = engine_of(domain, rule)
        problem = engine.pose(call, domain, args, batch_shape, breakpoints)
        if attempt is not None:
            problem = problem._replace(begun=attempt.begun, spent=attempt.spent)
        problem = shared(problem, ranks, domain, rule, settings, log=False)
        if rule is not None and rule.fixed:
            refuse_tolerance(rule, settings)
            if max_evals is not None and isinstance(rule, Plan):
                refuse_endless(rule, rule.n, max_evals)
            return engine.apply_rule(problem, rule, settings, log=False)
        if grad_rtol is not None:
            return search(engine, problem, rule, settings, log=False).value
        return engine.value_of(engine.find(problem, rule, settings, log=False))


def integrate_with_error(
    integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    grad_rtol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    generator: torch.Generator | None = None,
    on_failure: str = "warn",
    progress: bool = False,
    process_group: ProcessGroup | None = None,
) -> Estimate:
    """Integrate, and say how far the result can be trusted; see :func:`integrate`.

    Args:
        integrand: As for :func:`integrate`, and so are the others.
        domain: Where to integrate.
        rule: None or an adaptive rule.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        breakpoints: Where to split.
        rtol: Wanted relative error.
        atol: Wanted absolute error.
        grad_rtol: Wanted relative error of the gradient.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        generator: What seeds a random rule.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        progress: Whether to show a bar.
        process_group: Processes that share the points.

    Returns:
        Value, error, status, number of evaluations and plan.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit, or the rule
            is fixed and so has no error estimate.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> estimate = mlc.integrate_with_error(torch.exp, mlc.Interval(0, 1))
        >>> estimate.value, mlc.Status(int(estimate.status)).name
        (tensor(1.7183), 'CONVERGED')
    """
    settings = Settings(rtol, atol, max_evals, memory, on_failure, generator, grad_rtol)
    with (
        ranks_of(process_group) as ranks,
        check(integrand, domain, rule, settings, progress) as call,
    ):
        refuse_fixed(rule)
        engine = engine_of(domain, rule)
        problem = engine.pose(call, domain, args, batch_shape, breakpoints)
        problem = shared(problem, ranks, domain, rule, settings, log=False)
        if grad_rtol is not None:
            return search(engine, problem, rule, settings, log=False)
        return engine.estimate_of(engine.find(problem, rule, settings, log=False))


def log_integrate(
    log_integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    grad_rtol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    generator: torch.Generator | None = None,
    on_failure: str = "warn",
    progress: bool = False,
    process_group: ProcessGroup | None = None,
) -> Tensor:
    r"""Log of the integral of a positive function that is given by its log.

    .. math:: \log Z = \log \int_a^b e^{\ell(x, \theta)}\,dx

    Nothing is exponentiated but differences to the largest value, so the log may be
    near 1e5 or -1e5 even in float32.

    Args:
        log_integrand: Function that returns the log; minus infinity for 0.
        domain: Where to integrate, with ``lower <= upper``.
        rule: As for :func:`integrate`, and so are the others. Without one, densities
            over all of space in up to 8 dimensions are taken for normal ones if they
            are, by grids as those of :class:`AdaptiveGaussHermite`, unless a look
            elsewhere finds more.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        breakpoints: Where to split.
        rtol: Wanted error of the log, which is the relative error of the integral.
        atol: The same; the larger of the two counts.
        grad_rtol: Wanted relative error of the gradient.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        generator: What seeds a random rule.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        progress: Whether to show a bar.
        process_group: Processes that share the points.

    Returns:
        The log of the integral; its gradient is the mean of the gradient of the log
        under the normalised density.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> mlc.log_integrate(lambda x: 1000 - x * x / 2, mlc.RealLine())
        tensor(1000.9189)
    """
    settings = Settings(rtol, atol, max_evals, memory, on_failure, generator, grad_rtol)
    with (
        ranks_of(process_group) as ranks,
        check(log_integrand, domain, rule, settings, progress) as call,
    ):
        engine = engine_of(domain, rule)
        problem = engine.pose(call, domain, args, batch_shape, breakpoints)
        problem = shared(problem, ranks, domain, rule, settings, log=True)
        engine.refuse_reversed(problem)
        if rule is not None and rule.fixed:
            refuse_tolerance(rule, settings)
            if max_evals is not None and isinstance(rule, Plan):
                refuse_endless(rule, rule.n, max_evals)
            return engine.apply_rule(problem, rule, settings, log=True)
        if grad_rtol is not None:
            return search(engine, problem, rule, settings, log=True).value
        return engine.value_of(engine.find(problem, rule, settings, log=True))


def log_integrate_with_error(
    log_integrand: Function,
    domain: Domain,
    rule: Rule | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    breakpoints: Breakpoints | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    grad_rtol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    generator: torch.Generator | None = None,
    on_failure: str = "warn",
    progress: bool = False,
    process_group: ProcessGroup | None = None,
) -> Estimate:
    """Log of an integral, and the error of the log; see :func:`log_integrate`.

    Args:
        log_integrand: As for :func:`log_integrate`, and so are the others.
        domain: Where to integrate.
        rule: None or an adaptive rule.
        args: Further arguments of the integrand.
        batch_shape: Shape of the batch.
        breakpoints: Where to split.
        rtol: Wanted error of the log.
        atol: The same; the larger of the two counts.
        grad_rtol: Wanted relative error of the gradient.
        max_evals: Points that each integral may use.
        memory: Bytes that a block may use.
        generator: What seeds a random rule.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.
        progress: Whether to show a bar.
        process_group: Processes that share the points.

    Returns:
        Value, error, status, number of evaluations and plan.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit, or the rule
            is fixed and so has no error estimate.
        IntegrationError: If an integral did not converge and ``on_failure="raise"``.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> estimate = mlc.log_integrate_with_error(
        ...     lambda x: -x * x / 2, mlc.RealLine()
        ... )
        >>> estimate.value, bool(estimate.error < 1e-3)
        (tensor(0.9189), True)
    """
    settings = Settings(rtol, atol, max_evals, memory, on_failure, generator, grad_rtol)
    with (
        ranks_of(process_group) as ranks,
        check(log_integrand, domain, rule, settings, progress) as call,
    ):
        refuse_fixed(rule)
        engine = engine_of(domain, rule)
        problem = engine.pose(call, domain, args, batch_shape, breakpoints)
        problem = shared(problem, ranks, domain, rule, settings, log=True)
        engine.refuse_reversed(problem)
        if grad_rtol is not None:
            return search(engine, problem, rule, settings, log=True)
        return engine.estimate_of(engine.find(problem, rule, settings, log=True))
