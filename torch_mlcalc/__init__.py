"""Calculus for PyTorch training: exact losses, a hand-written SGD, integrals."""

from torch_mlcalc import testing
from torch_mlcalc.losses import (
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
from torch_mlcalc.optim import SGD

__all__ = [
    "SGD",
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
    "testing",
]
