"""The bi-tempered logistic loss: cross-entropy with two temperatures."""

from __future__ import annotations

import torch
from torch import Tensor

from torch_mlcalc.losses.classification.classes import (
    IGNORED,
    ClassLoss,
    check_classes,
    class_axis,
    known,
    prepare_classes,
    reduce_classes,
)
from torch_mlcalc.losses.classification.settings import check_index, check_number
from torch_mlcalc.losses.crps.common import decay
from torch_mlcalc.losses.pointwise import product
from torch_mlcalc.losses.reduction import Reduction, reduce
from torch_mlcalc.losses.validation import is_validated
from torch_mlcalc.precision import full_precision
from torch_mlcalc.special.tail import unit_nodes

#: Steps of Newton's method. It comes from one side and does not overshoot, as the power
#: mean it solves is concave. Measured in float64 over 2 to 1e5 classes, temperatures
#: from 1 + 1e-6 to 50 and logits from all equal to 1e8 apart: at rest after 8 at most.
_STEPS = 10

#: Logarithm of a probability up to which its part of the loss is an integral. It is of
#: the size of the square; the difference of two terms has the rounding error of 1.
#: With these nodes for float64 and for narrower dtypes, second derivatives too have all
#: digits; with one less not.
_NEAR = 0.5
_NODES = {torch.float64: 7}
_FEWER = 4


def bi_tempered_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = IGNORED,
    reduction: Reduction = "mean",
    t1: float = 1.0,
    t2: float = 1.0,
    *,
    validate: bool | None = None,
) -> Tensor:
    r"""Bi-tempered logistic loss, robust to wrong labels near to and far from others.

    .. math::
        \ell(x) = \sum_c q_c (\log_{t_1} q_c - \log_{t_1} p_c)
        - \frac{q_c^{2 - t_1} - p_c^{2 - t_1}}{2 - t_1}, \qquad
        p_c = \exp_{t_2}(x_c - \lambda), \quad \sum_c p_c = 1,

    .. math::
        \frac{\partial \ell}{\partial x_c} = \sum_k (p_k - q_k) p_k^{t_2 - t_1}
        \left(\delta_{ck} - \frac{p_c^{t_2}}{\sum_m p_m^{t_2}} \right)

    where :math:`\log_t u = (u^{1 - t} - 1) / (1 - t)`, :math:`\exp_t` is its inverse,
    and :math:`q` is ``target``, or 1 at the target class and 0 elsewhere. With
    :math:`t_1 < 1` the loss is bounded, with :math:`t_2 > 1` the tail of the
    probabilities is heavy; with both 1 it is :func:`cross_entropy`, without the entropy
    of the target. The normaliser :math:`\lambda(x)`, which has no formula, is found by
    Newton's method, and differentiated by the implicit function theorem: the last two
    steps carry the derivatives, exactly up to the third.

    Args:
        input: Predicted activations.
        target: Class indices; or a probability for each class, in floating point.
        weight: Weight of each class; of a target in probabilities, their mean.
        ignore_index: Class index whose elements do not count. A batch in which no
            element counts has the mean 0, and the gradient 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; ``"mean"`` divides by the sum of
            the weights of the targets that count.
        t1: Temperature :math:`t_1` of the loss, from 0 to 1.
        t2: Temperature :math:`t_2` of the probabilities, at least 1.
        validate: Whether to refuse values out of range; None for the default setting.

    Shape:
        ``input``: ``(C)``, ``(N, C)`` or ``(N, C, d1, ...)`` with C classes.
        ``target``: the same for probabilities, without C for indices.
        ``weight``: ``(C)``.

    Returns:
        The loss, of shape ``()``, or that of ``input`` without C with ``"none"``.

    Raises:
        TypeError: If an argument is no tensor or a number of the wrong kind.
        ValueError: If shapes do not fit, a setting is out of range, or ``validate``
            finds an index out of range or what are no probabilities.

    Example:
        >>> import torch_mlcalc as mlc
        >>> input, target = torch.tensor([[5.0, 0.0, 0.0]]), torch.tensor([1])
        >>> mlc.bi_tempered_loss(input, target)
        tensor(5.0134)
        >>> mlc.bi_tempered_loss(input, target, t1=0.5, t2=1.5)
        tensor(1.3223)

    References:
        Amid et al., "Robust bi-tempered logistic loss based on Bregman divergences"
        (2019), equations (5) to (9). https://arxiv.org/abs/1906.03361
    """
    _check_temperatures(t1, t2)
    check_index("ignore_index", ignore_index)
    input, target, weight, dtype = prepare_classes(
        input, target, weight, reduction, probabilities=True
    )
    if is_validated(validate):
        check_classes(input, target, ignore_index)
    axis = class_axis(input)
    log_p = log_tempered_softmax(input, t2, axis)
    power = 2 - t1
    if not target.is_floating_point():
        index = known(target, ignore_index).unsqueeze(axis)
        loss = _of_index(log_p, index, axis, power)
        return reduce_classes(loss, target, weight, ignore_index, reduction).to(dtype)
    mass = (power * log_p).exp().sum(axis) / power
    gain = product(target, _tempered(target.log(), 1 - t1))
    gain = gain - product(target, _tempered(log_p, 1 - t1))
    loss = mass + (gain - target.pow(power) / power).sum(axis)
    if weight is not None:
        with full_precision(target.device):
            weight = target.movedim(axis, -1) @ weight
    return reduce(loss, weight, reduction).to(dtype)


class BiTemperedLoss(ClassLoss):
    """Bi-tempered logistic loss: the module of :func:`bi_tempered_loss`.

    Args:
        weight: Weight of each class; a buffer.
        ignore_index: Target that does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        t1: Temperature of the loss.
        t2: Temperature of the probabilities.
        validate: Whether to refuse values out of range; None for the default setting.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = IGNORED,
        reduction: Reduction = "mean",
        t1: float = 1.0,
        t2: float = 1.0,
        *,
        validate: bool | None = None,
    ) -> None:
        """Check and keep the settings."""
        super().__init__(weight, ignore_index, reduction, validate=validate)
        _check_temperatures(t1, t2)
        self.t1 = t1
        self.t2 = t2

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of a batch."""
        return bi_tempered_loss(
            input,
            target,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.t1,
            self.t2,
            validate=self.validate,
        )

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"{super().extra_repr()}, t1={self.t1}, t2={self.t2}"


def log_tempered_softmax(input: Tensor, t2: float, axis: int) -> Tensor:
    """Return the logarithms of the probabilities with a heavy tail.

    Args:
        input: The activations.
        t2: Temperature, at least 1.
        axis: Dimension of the classes.

    Returns:
        The logarithms, of the shape of ``input``.
    """
    heaviness = t2 - 1
    if not heaviness:
        return input.log_softmax(axis)
    behind = input.detach().amax(axis, keepdim=True) - input
    # Measured from the largest activation, the normaliser is at least 0.
    normaliser = torch.zeros_like(behind.narrow(axis, 0, 1))
    with torch.no_grad():
        for _ in range(_STEPS):
            normaliser = _newton(normaliser, behind, heaviness, axis)
    normaliser = normaliser.detach()
    for _ in range(2):
        normaliser = _newton(normaliser, behind, heaviness, axis)
    return _log_p(normaliser + behind, heaviness)


def _log_p(below: Tensor, heaviness: float) -> Tensor:
    return -(heaviness * below).log1p() / heaviness


def _newton(normaliser: Tensor, behind: Tensor, heaviness: float, axis: int) -> Tensor:
    below = normaliser + behind
    log_p = _log_p(below, heaviness)
    excess = log_p.logsumexp(axis, keepdim=True)
    slopes = log_p.softmax(axis) / (1 + heaviness * below)
    step = (heaviness * excess).expm1() / heaviness
    return normaliser + step / slopes.sum(axis, keepdim=True)


def _of_index(log_p: Tensor, index: Tensor, axis: int, power: float) -> Tensor:
    """The loss of each element whose target is one class, and all digits near 0."""
    others = log_p.scatter(axis, index, -torch.inf)
    rest = others.exp().sum(axis)
    likely = rest < 0.5
    of_target = log_p.gather(axis, index).squeeze(axis)
    of_rest = torch.log1p(-torch.where(likely, rest, 0.0))
    of_target = torch.where(likely, of_rest, of_target)
    mass = (power * others).exp().sum(axis) / power
    return mass + _divergence(of_target, power)


def _divergence(log_u: Tensor, power: float) -> Tensor:
    """(u^k - 1) / k - (u^(k - 1) - 1) / (k - 1), of 1 from u."""
    # The integral of e^((k - 1) s) (e^s - 1) over s from 0 to log u, of one sign.
    near = log_u.abs() < _NEAR
    n = _NODES.get(log_u.dtype, _FEWER)
    nodes, weights = (
        t.reshape(-1, *(1,) * log_u.ndim)
        for t in unit_nodes(n, log_u.dtype, log_u.device)
    )
    width = torch.where(near, log_u, 0.0)
    s = width * nodes
    terms = weights * torch.exp((power - 1) * s) * torch.expm1(s)
    far = torch.where(near, -1.0, log_u)
    difference = _tempered(far, power) - _tempered(far, power - 1)
    return torch.where(near, width * terms.sum(0), difference)


def _tempered(log_u: Tensor, power: float) -> Tensor:
    """The tempered logarithm of u, given its logarithm: (u^power - 1) / power."""
    return decay(power * log_u) / power if power else log_u


def _check_temperatures(t1: float, t2: float) -> None:
    check_number("t1", t1, 0, 1)
    check_number("t2", t2, 1)
