"""Losses with an integral inside, differentiable in all that the integral depends on.

Read ``hazard.py`` for the pattern: check and promote, integrate, reduce. Rules and
settings are those of :func:`torch_mlcalc.integrate`.
"""

from torch_mlcalc.losses.integral.alpha import (
    AlphaDivergenceLoss,
    KLDivergenceLoss,
    alpha_divergence_loss,
    kl_divergence_loss,
)
from torch_mlcalc.losses.integral.censoring import Censoring
from torch_mlcalc.losses.integral.expected import ExpectedLoss, expected_loss
from torch_mlcalc.losses.integral.hazard import HazardNLLLoss, hazard_nll_loss
from torch_mlcalc.losses.integral.hellinger import (
    Chi2Loss,
    HellingerLoss,
    chi2_loss,
    hellinger_loss,
)
from torch_mlcalc.losses.integral.marginal import MarginalNLLLoss, marginal_nll_loss
from torch_mlcalc.losses.integral.normalized import (
    NormalizedNLLLoss,
    normalized_nll_loss,
)
from torch_mlcalc.losses.integral.penalty import (
    NormalizationPenalty,
    normalization_penalty,
)
from torch_mlcalc.losses.integral.pinball import (
    IntegratedQuantileLoss,
    integrated_quantile_loss,
)
from torch_mlcalc.losses.integral.point_process import (
    PointProcessNLLLoss,
    point_process_nll_loss,
)
from torch_mlcalc.losses.integral.transport import (
    CramerLoss,
    Wasserstein1DLoss,
    cramer_loss,
    wasserstein_1d_loss,
)
from torch_mlcalc.losses.integral.variation import (
    JensenShannonLoss,
    TotalVariationLoss,
    jensen_shannon_loss,
    total_variation_loss,
)

__all__ = [
    "AlphaDivergenceLoss",
    "Censoring",
    "Chi2Loss",
    "CramerLoss",
    "ExpectedLoss",
    "HazardNLLLoss",
    "HellingerLoss",
    "IntegratedQuantileLoss",
    "JensenShannonLoss",
    "KLDivergenceLoss",
    "MarginalNLLLoss",
    "NormalizationPenalty",
    "NormalizedNLLLoss",
    "PointProcessNLLLoss",
    "TotalVariationLoss",
    "Wasserstein1DLoss",
    "alpha_divergence_loss",
    "chi2_loss",
    "cramer_loss",
    "expected_loss",
    "hazard_nll_loss",
    "hellinger_loss",
    "integrated_quantile_loss",
    "jensen_shannon_loss",
    "kl_divergence_loss",
    "marginal_nll_loss",
    "normalization_penalty",
    "normalized_nll_loss",
    "point_process_nll_loss",
    "total_variation_loss",
    "wasserstein_1d_loss",
]
