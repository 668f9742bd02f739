"""Losses with an integral inside, differentiable in all that the integral depends on.

Read ``hazard.py`` for the pattern: check and promote, integrate, reduce. Rules and
settings are those of :func:`torch_mlcalc.integrate`.
"""

from torch_mlcalc.losses.integral.censoring import Censoring
from torch_mlcalc.losses.integral.expected import ExpectedLoss, expected_loss
from torch_mlcalc.losses.integral.hazard import HazardNLLLoss, hazard_nll_loss
from torch_mlcalc.losses.integral.marginal import MarginalNLLLoss, marginal_nll_loss
from torch_mlcalc.losses.integral.normalized import (
    NormalizedNLLLoss,
    normalized_nll_loss,
)
from torch_mlcalc.losses.integral.point_process import (
    PointProcessNLLLoss,
    point_process_nll_loss,
)

__all__ = [
    "Censoring",
    "ExpectedLoss",
    "HazardNLLLoss",
    "MarginalNLLLoss",
    "NormalizedNLLLoss",
    "PointProcessNLLLoss",
    "expected_loss",
    "hazard_nll_loss",
    "marginal_nll_loss",
    "normalized_nll_loss",
    "point_process_nll_loss",
]
