r"""Losses as functions of the log-odds of the target class.

For two classes that is the logit or its negative, for many it is the lead of the logit
of the target over all others together. The probability missed, :math:`1 - p`, is
:math:`\sigma(-z)` of these log-odds, and its powers have finite derivatives where those
of :math:`1 - p` computed from :math:`p` have none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torch_mlcalc.losses.classification.classes import class_axis, known
from torch_mlcalc.losses.pointwise import product


def expected(
    input: Tensor, target: Tensor, positive: Tensor, negative: Tensor
) -> Tensor:
    """Return the loss expected for labels that are positive with a probability.

    Args:
        input: The logits.
        target: Probability of each label to be positive.
        positive: Loss if it is.
        negative: Loss if it is not.

    Returns:
        The loss of each element.
    """
    loss = product(target, positive) + product(1 - target, negative)
    # NaN where an argument is, which a product forgets; else 0.
    return loss + (input.clamp(-1, 1) + target).detach() * 0


def class_margin(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    r"""Return the log-odds :math:`x_t - \log \sum_{c \ne t} e^{x_c}` of the target.

    Args:
        input: Logits of the classes.
        target: Class indices.
        ignore_index: Target that does not count.

    Returns:
        The log-odds of each element.
    """
    axis = class_axis(input)
    index = known(target, ignore_index).unsqueeze(axis)
    others = input.scatter(axis, index, -torch.inf)
    # torch's logsumexp of nothing but infinities has a gradient of NaN.
    none = (others == -torch.inf).all(axis)
    total = others.masked_fill(none.unsqueeze(axis), 0).logsumexp(axis)
    return input.gather(axis, index).squeeze(axis) - total.masked_fill(none, -torch.inf)
