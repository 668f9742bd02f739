"""Losses of the residual ``r = input - target``.

Each docstring states the first and the second derivative in ``input``; those in
``target`` are the same with the sign of ``r``. ``r`` is rounded to its dtype, so it
overflows where ``input - target`` does.
"""

from torch_mlcalc.losses.regression.huber import (
    HuberLoss,
    SmoothL1Loss,
    huber_loss,
    smooth_l1_loss,
)
from torch_mlcalc.losses.regression.residual import (
    L1Loss,
    LogCoshLoss,
    MSELoss,
    QuantileLoss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    quantile_loss,
)

__all__ = [
    "HuberLoss",
    "L1Loss",
    "LogCoshLoss",
    "MSELoss",
    "QuantileLoss",
    "SmoothL1Loss",
    "huber_loss",
    "l1_loss",
    "log_cosh_loss",
    "mse_loss",
    "quantile_loss",
    "smooth_l1_loss",
]
