"""Likelihoods with a latent variable integrated out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from torch_mlcalc.density.expectation import log_expectation
from torch_mlcalc.losses.integral.places import log_density, place_of
from torch_mlcalc.losses.integral.settings import (
    IntegralLoss,
    check_function,
    check_weight,
)
from torch_mlcalc.losses.reduction import Reduction, check_reduction, reduce
from torch_mlcalc.quadrature.adaptive_hermite import AdaptiveGaussHermite
from torch_mlcalc.quadrature.integrand import Function
from torch_mlcalc.quadrature.integrate import log_integrate
from torch_mlcalc.quadrature.rules import Rule


def marginal_nll_loss(
    log_likelihood: Function,
    prior: Distribution,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    args: Sequence[Any] = (),
    batch_shape: Sequence[int] | None = None,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Negative log of the evidence: a latent variable of each group integrated out.

    .. math::
        \ell = -\log \int p(y \mid z)\,p(z)\,dz, \qquad
        \frac{\partial \ell}{\partial \theta} =
        -\mathbb{E}_{z \sim p(z \mid y)}\,\partial_\theta \log p(y, z)

    (Fisher's identity), in log form throughout: groups of any size neither under- nor
    overflow.

    Args:
        log_likelihood: Function of latent values ``(n, *batch)`` and ``args`` that
            returns the log likelihood of each group, ``(n, *batch)``: sum over its
            observations.
        prior: Distribution of the latent variable: on the real line, on any other
            support, discrete (which is summed), or of several dimensions.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the groups.
        weight: Weight of each group; ``"mean"`` divides by the sum of the weights.
        args: Further arguments of the function, such as the data: tensors that begin
            with ``*batch``, or others as they are.
        batch_shape: Shape of the batch of groups; by default that to which the batch
            of the prior and args broadcast. With data ``(groups, rows)`` it is
            ``(groups,)``.
        rule: How to integrate; by default :class:`AdaptiveGaussHermite` for a prior on
            the real line, else as :func:`log_expectation` chooses.
        rtol: Wanted error of the log; adaptive rules only.
        atol: The same; the larger of the two counts.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``weight``: ``(*batch)``.

    Returns:
        The loss, of shape ``()``, or ``(*batch)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If shapes do not fit or a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> successes = torch.tensor([2.0, 9.0])  # of 10 trials in each of two groups
        >>> spread = torch.tensor(1.0, requires_grad=True)
        >>> mlc.marginal_nll_loss(
        ...     lambda z, k: torch.distributions.Binomial(10, logits=z).log_prob(k),
        ...     torch.distributions.Normal(0.0, spread),
        ...     "none",
        ...     args=(successes,),
        ... )
        tensor([2.3573, 2.7417], grad_fn=...)

    References:
        J. C. Pinheiro, D. M. Bates, "Approximations to the log-likelihood function in
        the nonlinear mixed-effects model", Journal of Computational and Graphical
        Statistics 4 (1995). https://doi.org/10.1080/10618600.1995.10474663
    """
    check_function("log_likelihood", log_likelihood)
    check_reduction(reduction)
    if not isinstance(prior, Distribution):
        raise TypeError(
            f"prior must be one of torch.distributions, got {type(prior).__name__}"
        )
    args = tuple(args)
    batch = _batch(prior, args, batch_shape)
    check_weight(weight, batch, "of the groups")
    options: dict[str, Any] = {
        "rtol": rtol,
        "atol": atol,
        "max_evals": max_evals,
        "memory": memory,
        "on_failure": on_failure,
    }
    if isinstance(rule, AdaptiveGaussHermite) or (rule is None and _on_line(prior)):
        log_evidence = _around_modes(log_likelihood, prior, args, batch, rule, options)
    else:
        log_evidence = log_expectation(
            lambda z: log_likelihood(z, *args), prior.expand(batch), rule, **options
        )
    return reduce(-log_evidence, weight, reduction)


class MarginalNLLLoss(IntegralLoss):
    """Evidence of groups: the module of :func:`marginal_nll_loss`.

    Args:
        log_likelihood: Module or function that returns the log likelihood of groups.
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        rtol: Wanted error of the log; adaptive rules only.
        atol: The same; the larger of the two counts.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"``.

    Raises:
        TypeError: If a setting is of the wrong type.
        ValueError: If a setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> class Rasch(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.difficulty = torch.nn.Parameter(torch.zeros(5))
        ...     def forward(self, ability, answers):
        ...         logits = ability[..., None] - self.difficulty
        ...         p = torch.distributions.Bernoulli(logits=logits)
        ...         return p.log_prob(answers).sum(-1)
        >>> criterion = mlc.MarginalNLLLoss(Rasch())
        >>> answers = torch.randint(2, (100, 5)).float()
        >>> ability = torch.distributions.Normal(0.0, 1.0)
        >>> criterion(ability, answers, batch_shape=(100,)).backward()
    """

    def __init__(
        self,
        log_likelihood: Function,
        rule: Rule | None = None,
        *,
        reduction: Reduction = "mean",
        rtol: float | None = None,
        atol: float | None = None,
        max_evals: int | None = None,
        memory: int | None = None,
        on_failure: str = "warn",
    ) -> None:
        """Check and keep the settings."""
        super().__init__(
            rule,
            reduction,
            rtol=rtol,
            atol=atol,
            max_evals=max_evals,
            memory=memory,
            on_failure=on_failure,
        )
        check_function("log_likelihood", log_likelihood)
        self.log_likelihood = log_likelihood

    def forward(
        self,
        prior: Distribution,
        *args: Any,  # noqa: ANN401
        batch_shape: Sequence[int] | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of groups, with the args of the likelihood.

        Returns:
            The loss.
        """
        return marginal_nll_loss(
            self.log_likelihood,
            prior,
            self.reduction,
            weight,
            args=args,
            batch_shape=batch_shape,
            rule=self.rule,
            **self.search,
        )


def _around_modes(
    log_likelihood: Function,
    prior: Distribution,
    args: tuple[Any, ...],
    batch: torch.Size,
    rule: Rule | None,
    options: dict[str, Any],
) -> Tensor:
    """Log evidence by an integral over the line."""
    # Groups that need more nodes are evaluated alone if all that differs between groups
    # is among args; a prior of each group does not come along.
    apart = () if prior.batch_shape else args

    def log_joint(z: Tensor, *rows: Any) -> Tensor:  # noqa: ANN401
        return log_likelihood(z, *(rows or args)) + log_density(prior, z)

    return log_integrate(
        log_joint,
        place_of(prior),
        rule or AdaptiveGaussHermite(),
        args=apart,
        batch_shape=batch,
        **options,
    )


def _batch(
    prior: Distribution, args: tuple[Any, ...], declared: Sequence[int] | None
) -> torch.Size:
    """Shape of the groups."""
    shapes = [tuple(prior.batch_shape)]
    if declared is None:
        shapes += [tuple(a.shape) for a in args if isinstance(a, Tensor)]
    else:
        shapes += [tuple(declared)]
    try:
        batch = torch.Size(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        raise ValueError(
            f"prior and args have batch shapes {shapes}, which do not broadcast; "
            "declare batch_shape= if data have dimensions behind that of the groups"
        ) from None
    if declared is not None and batch != tuple(declared):
        raise ValueError(
            f"batch_shape is {tuple(declared)}, but prior has {shapes[0]}, which must "
            "broadcast to it"
        )
    return batch


def _on_line(prior: Distribution) -> bool:
    """Whether a latent variable may be any number."""
    return prior.support is constraints.real
