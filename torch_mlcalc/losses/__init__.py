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

from torch_mlcalc.losses.crps import (
    CRPSLoss,
    crps_beta,
    crps_censored_normal,
    crps_exponential,
    crps_gamma,
    crps_laplace,
    crps_log_normal,
    crps_logistic,
    crps_loss,
    crps_negative_binomial,
    crps_normal,
    crps_normal_mixture,
    crps_poisson,
    crps_student_t,
    crps_uniform,
    register_crps,
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
    "CRPSLoss",
    "HuberLoss",
    "L1Loss",
    "LogCoshLoss",
    "MSELoss",
    "QuantileLoss",
    "SmoothL1Loss",
    "crps_beta",
    "crps_censored_normal",
    "crps_exponential",
    "crps_gamma",
    "crps_laplace",
    "crps_log_normal",
    "crps_logistic",
    "crps_loss",
    "crps_negative_binomial",
    "crps_normal",
    "crps_normal_mixture",
    "crps_poisson",
    "crps_student_t",
    "crps_uniform",
    "huber_loss",
    "l1_loss",
    "log_cosh_loss",
    "mse_loss",
    "quantile_loss",
    "register_crps",
    "set_default_validate",
    "smooth_l1_loss",
]
