"""Losses with exact derivatives: functions hold the maths, modules the settings.

What all of them share:

* **Shapes** of ``input``, ``target`` and ``weight`` are equal; nothing is broadcast.
* **dtypes** are promoted as ``input - target`` is; at least one must be floating-point.
  ``float16`` and ``bfloat16`` are computed in ``float32`` and rounded once, at the end;
  under autocast, as in torch, the loss stays ``float32``.
* **reduction** is ``"none"``, ``"mean"`` or ``"sum"``. torch's ``size_average`` and
  ``reduce``, deprecated there, are not carried.
* **weight** multiplies each element's loss, and ``"mean"`` divides by the sum of the
  weights. Integer counts and boolean masks are weights too. Their values are not looked
  at, since that would stall a GPU: negative weights count as they are, weights that sum
  to zero give NaN or infinity, and a zero weight does not hide an infinite loss.
* **Values** out of range are refused with ``validate=True``, and are not looked at
  otherwise: see :func:`set_default_validate`.
* **Empty** tensors have the sum 0 and the mean NaN.
* **Infinite** residuals give an infinite loss and the limit of each derivative; NaN,
  which is also the residual of two equal infinities, gives a NaN loss.
"""

from torch_mlcalc.losses.integral import (
    AlphaDivergenceLoss,
    Censoring,
    Chi2Loss,
    CramerLoss,
    ExpectedLoss,
    HazardNLLLoss,
    HellingerLoss,
    IntegratedQuantileLoss,
    JensenShannonLoss,
    KLDivergenceLoss,
    MarginalNLLLoss,
    NormalizationPenalty,
    NormalizedNLLLoss,
    PointProcessNLLLoss,
    TotalVariationLoss,
    Wasserstein1DLoss,
    alpha_divergence_loss,
    chi2_loss,
    cramer_loss,
    expected_loss,
    hazard_nll_loss,
    hellinger_loss,
    integrated_quantile_loss,
    jensen_shannon_loss,
    kl_divergence_loss,
    marginal_nll_loss,
    normalization_penalty,
    normalized_nll_loss,
    point_process_nll_loss,
    total_variation_loss,
    wasserstein_1d_loss,
)
from torch_mlcalc.losses.regression import (
    HuberLoss,
    L1Loss,
    LogCoshLoss,
    MSELoss,
    QuantileLoss,
    SmoothL1Loss,
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    quantile_loss,
    smooth_l1_loss,
)
from torch_mlcalc.losses.validation import set_default_validate

__all__ = [
    "AlphaDivergenceLoss",
    "Censoring",
    "Chi2Loss",
    "CramerLoss",
    "ExpectedLoss",
    "HazardNLLLoss",
    "HellingerLoss",
    "HuberLoss",
    "IntegratedQuantileLoss",
    "JensenShannonLoss",
    "KLDivergenceLoss",
    "L1Loss",
    "LogCoshLoss",
    "MSELoss",
    "MarginalNLLLoss",
    "NormalizationPenalty",
    "NormalizedNLLLoss",
    "PointProcessNLLLoss",
    "QuantileLoss",
    "SmoothL1Loss",
    "TotalVariationLoss",
    "Wasserstein1DLoss",
    "alpha_divergence_loss",
    "chi2_loss",
    "cramer_loss",
    "expected_loss",
    "hazard_nll_loss",
    "hellinger_loss",
    "huber_loss",
    "integrated_quantile_loss",
    "jensen_shannon_loss",
    "kl_divergence_loss",
    "l1_loss",
    "log_cosh_loss",
    "marginal_nll_loss",
    "mse_loss",
    "normalization_penalty",
    "normalized_nll_loss",
    "point_process_nll_loss",
    "quantile_loss",
    "set_default_validate",
    "smooth_l1_loss",
    "total_variation_loss",
    "wasserstein_1d_loss",
]
