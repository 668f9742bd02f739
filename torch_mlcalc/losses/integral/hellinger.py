"""Members of the alpha family of divergences that have names of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from torch_mlcalc.losses.integral.alpha import alpha_term
from torch_mlcalc.losses.integral.compare import (
    PairLoss,
    Search,
    compare,
    prepare_pair,
)
from torch_mlcalc.losses.integral.settings import reduce_to
from torch_mlcalc.losses.reduction import Reduction
from torch_mlcalc.quadrature.rules import Rule


def chi2_loss(
    input: Distribution,
    target: Distribution,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Chi-squared divergence.

    .. math:: \chi^2 = \int \frac{(p - q)^2}{q}\,dx = \int \frac{p^2}{q}\,dx - 1

    of the target :math:`p` from the input :math:`q`, twice :math:`D_2` of
    :func:`alpha_divergence_loss`. It is infinite where the tails of the target are too
    heavy for the input, and then reported as an integral that does not converge. The
    derivative of the integrand by :math:`q` is :math:`1 - (p / q)^2`, the second
    :math:`2 p^2 / q^3`.

    Args:
        input: A continuous distribution of one number, mostly a model :math:`q`.
        target: Another, mostly what is to be learnt, :math:`p`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch.
        weight: Weight of each pair; ``"mean"`` divides by the sum of the weights.
        rule: How to integrate; by default chosen as :func:`integrate` does.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``input``, ``target`` and ``weight``: a batch ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If batches differ, a distribution is discrete or multivariate, or a
            setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.chi2_loss(Normal(0.0, 2.0), Normal(1.0, 1.0))
        tensor(0.7440)

    References:
        F. Liese, I. Vajda, "On divergences and informations in statistics and
        information theory" (2006). https://doi.org/10.1109/TIT.2006.881731
    """
    pair = prepare_pair(input, target, weight, reduction)
    search = Search(rule, rtol, atol, max_evals, memory, on_failure)
    loss = 2 * compare(
        lambda log_p, log_q: alpha_term(log_p, log_q, 2.0),
        pair,
        search,
        uncovered=True,
    )
    return reduce_to(loss, weight, reduction, pair.dtype)


def hellinger_loss(
    input: Distribution,
    target: Distribution,
    reduction: Reduction = "mean",
    weight: Tensor | None = None,
    *,
    squared: bool = True,
    rule: Rule | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_evals: int | None = None,
    memory: int | None = None,
    on_failure: str = "warn",
) -> Tensor:
    r"""Squared Hellinger distance, or the distance itself.

    .. math::
        H^2 = \tfrac12 \int (\sqrt{p} - \sqrt{q})^2\,dx = 1 - \int \sqrt{p\,q}\,dx,
        \qquad 0 \le H \le 1

    The derivative of the first integrand by :math:`q`, with its factor, is
    :math:`\frac12 (1 - \sqrt{p / q})`, the second :math:`\frac14 \sqrt{p / q^3}`. The
    distance :math:`H` has an infinite slope where the two are equal.

    Args:
        input: A continuous distribution of one number, mostly a model :math:`q`.
        target: Another, mostly what is to be learnt, :math:`p`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the batch.
        weight: Weight of each pair; ``"mean"`` divides by the sum of the weights.
        squared: Whether to return the square.
        rule: How to integrate; by default chosen as :func:`integrate` does.
        rtol: Wanted relative error; adaptive rules only.
        atol: Wanted absolute error; adaptive rules only.
        max_evals: Points that each integral may use.
        memory: Bytes that a block of points may use.
        on_failure: ``"warn"``, ``"raise"`` or ``"ignore"`` what did not converge.

    Shape:
        ``input``, ``target`` and ``weight``: a batch ``(*)``, the same.

    Returns:
        The loss, of shape ``()``, or ``(*)`` with ``"none"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If batches differ, a distribution is discrete or multivariate, or a
            setting does not exist.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.hellinger_loss(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(0.1492)

    References:
        F. Liese, I. Vajda, "On divergences and informations in statistics and
        information theory" (2006). https://doi.org/10.1109/TIT.2006.881731
    """
    pair = prepare_pair(input, target, weight, reduction)
    search = Search(rule, rtol, atol, max_evals, memory, on_failure)
    loss = 0.25 * compare(
        lambda log_p, log_q: alpha_term(log_p, log_q, 0.5),
        pair,
        search,
        uncovered=False,
    )
    loss = loss if squared else loss.sqrt()
    return reduce_to(loss, weight, reduction, pair.dtype)


class Chi2Loss(PairLoss):
    """Chi-squared divergence: the module of :func:`chi2_loss`.

    Args:
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        **search: Tolerances and limits, as for the function.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.Chi2Loss()(Normal(0.0, 2.0), Normal(1.0, 1.0))
        tensor(0.7440)
    """

    function = staticmethod(chi2_loss)


class HellingerLoss(PairLoss):
    """Hellinger distance: the module of :func:`hellinger_loss`.

    Args:
        rule: How to integrate.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        squared: Whether to return the square.
        **search: Tolerances and limits, as for the function.

    Example:
        >>> import torch, torch_mlcalc as mlc
        >>> Normal = torch.distributions.Normal
        >>> mlc.HellingerLoss(squared=False)(Normal(0.0, 1.0), Normal(1.0, 2.0))
        tensor(0.3863)
    """

    function = staticmethod(hellinger_loss)

    def __init__(
        self,
        rule: Rule | None = None,
        reduction: Reduction = "mean",
        *,
        squared: bool = True,
        **search: Any,  # noqa: ANN401
    ) -> None:
        """Check and keep the settings."""
        super().__init__(rule, reduction, **search)
        self.squared = squared

    def options(self) -> dict[str, Any]:
        """Return the settings beyond those that all share."""
        return {"squared": self.squared}
