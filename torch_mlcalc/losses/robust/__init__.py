"""Robust losses: Barron's family, its likelihood, and the shapes that have a name."""

from torch_mlcalc.losses.robust.fixed import (
    CauchyLoss,
    CharbonnierLoss,
    GemanMcClureLoss,
    TukeyLoss,
    WelschLoss,
    cauchy_loss,
    charbonnier_loss,
    geman_mcclure_loss,
    tukey_loss,
    welsch_loss,
)
from torch_mlcalc.losses.robust.general import (
    GeneralRobustLoss,
    GeneralRobustNLLLoss,
    general_robust_loss,
    general_robust_nll_loss,
)

__all__ = [
    "CauchyLoss",
    "CharbonnierLoss",
    "GemanMcClureLoss",
    "GeneralRobustLoss",
    "GeneralRobustNLLLoss",
    "TukeyLoss",
    "WelschLoss",
    "cauchy_loss",
    "charbonnier_loss",
    "geman_mcclure_loss",
    "general_robust_loss",
    "general_robust_nll_loss",
    "tukey_loss",
    "welsch_loss",
]
