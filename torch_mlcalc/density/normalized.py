"""A torch distribution made from any unnormalised log density."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from torch_mlcalc.density import means
from torch_mlcalc.density.cdf import Quantiles
from torch_mlcalc.density.normalizer import find_plan, find_steep_plan, log_normalizer
from torch_mlcalc.density.peaks import NEAR, Peaks
from torch_mlcalc.density.solid import cdf, mode
from torch_mlcalc.density.support import (
    check_tensor,
    contains,
    support_of,
)
from torch_mlcalc.density.transport import Transport, can_transport
from torch_mlcalc.density.unnormalized import Unnormalized
from torch_mlcalc.quadrature.adaptive_hermite import AdaptiveGaussHermite
from torch_mlcalc.quadrature.contract import accumulator
from torch_mlcalc.quadrature.cubature.box import Solid
from torch_mlcalc.quadrature.domains import Domain
from torch_mlcalc.quadrature.host import (
    readable,
    transforming,
)
from torch_mlcalc.quadrature.integrand import check_function
from torch_mlcalc.quadrature.plan import Plan
from torch_mlcalc.quadrature.problem import Breakpoints
from torch_mlcalc.quadrature.rules import Rule


class NormalizedDensity(Unnormalized):
    r"""The distribution whose log density is a given function, up to a constant.

    .. math:: p(x) = \frac{e^{\ell(x)}}{Z}, \qquad Z = \int e^{\ell(x)}\,dx

    The function may be a network; with ``args`` the density is conditional, and one
    call normalises a whole minibatch. All is differentiable in whatever the function
    depends on. The nodes of the normaliser and all that is without gradient are kept
    until a tensor that the function reaches is written to. On a line so are the values
    at all nodes (of a batch, if the function has parameters such as a network): means,
    entropy and distribution function evaluate only what their errors ask for beyond.
    Of a Gauss-Legendre or Clenshaw-Curtis rule, and of any other whose sum is the
    integral of the polynomial through its up to 1025 nodes, the distribution function
    is that of the polynomial. Of other fixed rules, of :class:`AdaptiveGaussHermite`
    and of runs of more nodes it has the nodes that the default rule finds, since these
    have no interpolant that is good enough: over a normal density that of a posterior
    diverges, from 4e-4 with 16 nodes to 6e-2 with 64.

    Args:
        log_unnormalized: Function of points ``(n, *batch)`` and ``args`` that returns
            the log density up to a constant, ``(n, *batch)``. Apart from tensors,
            nothing that it depends on may change.
        domain: The support. On a :class:`Box` points are ``(n, *batch, d)``, and there
            are no quantiles. Samples are there in up to 6 dimensions.
        rule: How to integrate; by default chosen as :func:`log_integrate` does.
        args: Further arguments of the function, such as features.
        batch_shape: Shape of the batch, if it is not that to which limits and args
            broadcast. Args must begin with it and may have dimensions behind it.
        breakpoints: Where the density has kinks, jumps or peaks; see
            :func:`integrate`.
        rtol: Wanted error of the log normaliser; by default 1.5e-8. In ``float32``
            it is 3e-4, and 1e-4 in several dimensions.
        atol: The same; the larger of the two counts.
        grad_rtol: Wanted relative error of the gradient of the log normaliser, where
            one is recorded. By default it is 1.5e-8 on a line (3e-4 in ``float32``)
            if the gradient is found to grow towards a finite end, as a logarithm does;
            otherwise nobody looks.
        max_evals: Points that each density may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` densities that cannot be
            normalised.
        validate_args: Whether values are checked to be in the support, as in torch.

    Shape:
        ``batch_shape`` and ``event_shape`` as in :mod:`torch.distributions`.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument has a value or shape that does not fit.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> stiffness = torch.tensor([1.0, 4.0], requires_grad=True)
        >>> p = mlc.NormalizedDensity(
        ...     lambda x, k: -k * x**2 / 2, mlc.RealLine(), args=(stiffness,)
        ... )
        >>> p.log_prob(torch.zeros(2))
        tensor([-0.9189, -0.2258], grad_fn=...)
        >>> p.stddev
        tensor([1.0000, 0.5000], grad_fn=...)
        >>> p.rsample((3,)).shape
        torch.Size([3, 2])

    References:
        M. Figurnov, S. Mohamed, A. Mnih, "Implicit Reparameterization Gradients",
        NeurIPS 2018, equation 5, https://arxiv.org/abs/1805.08498
    """

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The domain, its ends included."""
        return support_of(self.domain)

    @property
    def log_normalizer(self) -> Tensor:
        """Log of the integral of the unnormalised density, ``(*batch)``."""
        return self._memory.recall("log normalizer", partial(log_normalizer, self))

    @property
    def status(self) -> Tensor:
        """:class:`Status` of each normaliser, ``(*batch)``; 0 with a fixed rule."""
        plan = self._plan
        if not isinstance(plan, Plan):
            return torch.zeros(self.batch_shape, dtype=torch.int64, device=self.device)
        return plan.status

    @property
    def _plan(self) -> Rule:
        """The nodes of the normaliser."""
        if self.rule is not None and self.rule.fixed:
            return self.rule
        looks = self._grad_rtol is not None
        plan = self._memory.recall("plan", partial(find_plan, self), value=looks)
        line = not self.event_shape and not isinstance(self.rule, AdaptiveGaussHermite)
        if looks or not line or not torch.is_grad_enabled():
            return plan
        make = partial(find_steep_plan, self, plan)
        return self._memory.recall("steep plan", make)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log of the density; minus infinity outside of the support.

        Args:
            value: Where, ``(*sample, *batch, *event)``.

        Returns:
            Log densities ``(*sample, *batch)``.

        Raises:
            TypeError: If the value is not a tensor.
            ValueError: If a value is outside of the support and values are validated,
                or the shape does not fit.
        """  # noqa: DOC502
        self._check(value)
        points = self._points(value)
        log_z = self.log_normalizer
        inside = contains(self.support, points)
        here = inside.reshape(inside.shape + (1,) * len(self.event_shape))
        home = points.detach().new_zeros(()) if bool(self.event_shape) else self._home
        values = self._log_density(torch.where(here, points, home))
        values = torch.where(inside, values, -math.inf) - log_z
        shape = value.shape[: value.ndim - len(self.event_shape)]
        return values.reshape(torch.broadcast_shapes(shape, self.batch_shape))

    @property
    def _quantiles(self) -> Quantiles:
        make = partial(Quantiles.of, self)
        return self._memory.recall("quantiles", make, value=False)

    @property
    def _transport(self) -> Transport:
        if not can_transport(self.domain):
            raise NotImplementedError(
                f"a density in {self.event_shape[0]} dimensions has no samples and no "
                "mode: a grid of it would be too coarse. Its log_prob, normaliser and "
                "expectations are there."
            )
        make = partial(Transport.of, self)
        return self._memory.recall("transport", make, value=False)

    @property
    def _placed(self) -> tuple[Domain, Breakpoints | None]:
        """The domain with nodes around the mass, which the log form has found."""
        if self._fixed or isinstance(self.domain, Solid) or transforming():
            return self.domain, self.breakpoints
        peaks = self._memory.recall("peaks", partial(Peaks.of, self), value=False)
        near = NEAR if self._known.keeps else 1.0
        return peaks.place(self.domain, self.breakpoints, near)

    def cdf(self, value: Tensor) -> Tensor:
        """Probability of values up to the given ones, with gradients in both.

        In several dimensions it is that of the part of the support that is below the
        value on every axis, an integral of its own for every value.

        Args:
            value: Where, ``(*sample, *batch, *event)``.

        Returns:
            Probabilities ``(*sample, *batch)``.

        Raises:
            TypeError: If the value is not a tensor.
            ValueError: If a value is outside of the support and values are validated.
            NotImplementedError: On a simplex, or a box with limits that are functions.
        """  # noqa: DOC502
        self._check(value)
        points = self._points(value)
        sample = value.shape[: value.ndim - len(self.event_shape)]
        shape = torch.broadcast_shapes(sample, self.batch_shape)
        if self.event_shape:
            return cdf(self, points).reshape(shape)
        return self._quantiles.cdf(self, points).reshape(shape)

    def icdf(self, value: Tensor) -> Tensor:
        """Quantiles: the inverse of :meth:`cdf`, with gradients.

        Args:
            value: Probabilities, ``(*sample, *batch)``.

        Returns:
            Points of that shape, nan for what is not in [0, 1].

        Raises:
            TypeError: If the value is not a tensor.
            ValueError: If a probability is not in [0, 1] and values are validated.
            NotImplementedError: In several dimensions, where many points have the same
                probability, as for the distributions of torch.
        """
        check_tensor(value)
        if self.event_shape:
            raise NotImplementedError(
                "a density in several dimensions has no icdf: many points have the "
                "same probability. To draw samples use rsample."
            )
        if self._validate_args and readable(value):
            if not bool(((value >= 0) & (value <= 1)).all()):
                raise ValueError(
                    f"icdf got probabilities from {value.min().item()} to "
                    f"{value.max().item()}; they must be in [0, 1]."
                )
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        points = self._points(value)
        return self._quantiles.icdf(self, points).reshape(shape)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        r"""Draw by the inverse cdf of uniform numbers, with the right gradient.

        .. math:: \frac{dx}{d\theta} = - \frac{\partial F(x) / \partial \theta}{p(x)}

        In several dimensions one coordinate after another is drawn from its
        distribution given those before (Rosenblatt's map), on the cube that the domain
        is a map of; its densities are Legendre series on a grid of nodes.

        Args:
            sample_shape: How many, in front of the batch.

        Returns:
            Samples ``(*sample_shape, *batch, *event)``.

        Raises:
            NotImplementedError: In more than 6 dimensions.
        """  # noqa: DOC502
        shape = torch.Size(sample_shape) + self.batch_shape
        cube = self.domain.dimension if isinstance(self.domain, Solid) else None
        last = () if cube is None else (cube,)
        # In bfloat16 there are 256 numbers from 1/2 to 1, and as many quantiles.
        wide = accumulator(self.dtype)
        uniform = torch.rand((*shape, *last), dtype=wide, device=self.device)
        # Never 0, whose quantile may be minus infinity.
        uniform = uniform.clamp(min=torch.finfo(wide).tiny)
        uniform = uniform.reshape((math.prod(sample_shape), *self.batch_shape, *last))
        if cube is None:
            drawn = self._quantiles.icdf(self, uniform)
        else:
            drawn = self._transport.draw(self, uniform)
        return drawn.reshape((*shape, *self.event_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw without gradients.

        Args:
            sample_shape: How many, in front of the batch.

        Returns:
            Samples ``(*sample_shape, *batch, *event)``.
        """
        with torch.no_grad():
            return self.rsample(sample_shape)

    def expectation(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        r"""Mean of a function, :math:`\int f(x)\,p(x)\,dx`.

        Args:
            f: Function of points ``(n, *batch, *event)`` that returns a number for each
                or an array, ``(n, *batch, *shape)``.

        Returns:
            The mean ``(*batch, *shape)``, with the gradients of ``f`` as well.

        Raises:
            TypeError: If ``f`` is not a function of points.
            ValueError: If its values have another shape.
        """  # noqa: DOC502
        check_function(f)
        return means.mean_of(self, lambda x, _: f(x))

    @property
    def mean(self) -> Tensor:
        """Mean; nan where it does not exist."""
        return self._memory.recall("mean", partial(means.mean, self))

    @property
    def variance(self) -> Tensor:
        """Variance; infinite where it does not exist."""
        return self._memory.recall("variance", partial(means.variance, self))

    @property
    def mode(self) -> Tensor:
        """The point of highest density, also at an end of the support."""
        if self.event_shape:
            return mode(self, self._transport)
        return self._memory.recall("mode", lambda: self._quantiles.mode(self))

    def entropy(self) -> Tensor:
        r"""Differential entropy :math:`-\int p \log p`.

        Returns:
            The entropy, ``(*batch)``.
        """
        return self._memory.recall("entropy", partial(means.entropy, self))

    def expand(
        self, batch_shape: Sequence[int], _instance: Distribution | None = None
    ) -> NormalizedDensity:
        """The same densities, repeated along new dimensions of the batch.

        Args:
            batch_shape: The new batch shape, to which the present one broadcasts.

        Returns:
            Another density.

        Raises:
            NotImplementedError: For a subclass.
        """
        if type(self) is not NormalizedDensity:
            raise NotImplementedError(
                f"{type(self).__name__} must define an expand of its own."
            )
        batch, old = tuple(batch_shape), len(self.batch_shape)

        def expanded(arg: object) -> object:
            if not isinstance(arg, Tensor) or arg.ndim == 0:
                return arg
            own = arg.shape[min(arg.ndim, old) :]
            lead = (1,) * (len(batch) - min(arg.ndim, old))
            return arg.reshape(lead + tuple(arg.shape)).expand(batch + tuple(own))

        return NormalizedDensity(
            self.log_unnormalized,
            self.domain,
            self.rule,
            args=tuple(expanded(arg) for arg in self.args),
            batch_shape=batch,
            breakpoints=self.breakpoints,
            grad_rtol=self._grad_rtol,
            memory=self._block,
            validate_args=self._validate_args,
            **self._search,
        )

    def __repr__(self) -> str:
        """Domain and shapes; the function can be anything."""
        shown = [f"domain={self.domain}", f"batch_shape={tuple(self.batch_shape)}"]
        if self.rule is not None:
            shown.append(f"rule={self.rule}")
        return f"NormalizedDensity({', '.join(shown)})"
