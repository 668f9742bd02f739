"""Losses with an integral inside, differentiable in all that the integral depends on.

Read ``hazard.py`` for the pattern: check and promote, integrate, reduce. Rules and
settings are those of :func:`torch_mlcalc.integrate`.
"""

from torch_mlcalc.losses.integral.censoring import Censoring
from torch_mlcalc.losses.integral.hazard import HazardNLLLoss, hazard_nll_loss

__all__ = [
    "Censoring",
    "HazardNLLLoss",
    "hazard_nll_loss",
]
