"""Scores of forecasts that are more than a number: ensembles, intervals, quantiles.

Where the members of an ensemble are is said once, by ``dim``: the axis of ``input``
that holds them. Without it ``input`` has the shape of ``target``, and that is the shape
of the loss, but for the last axis of ``target`` where a forecast is a vector. The ends
of intervals and the quantiles of several levels are in the last axis of ``input``.
"""

from torch_mlcalc.losses.scores.energy import EnergyScoreLoss, energy_score_loss
from torch_mlcalc.losses.scores.ensemble import EnsembleCRPSLoss, ensemble_crps_loss
from torch_mlcalc.losses.scores.interval import IntervalScoreLoss, interval_score_loss
from torch_mlcalc.losses.scores.quantiles import (
    ExpectileLoss,
    MultiQuantileLoss,
    SmoothQuantileLoss,
    expectile_loss,
    multi_quantile_loss,
    smooth_quantile_loss,
)
from torch_mlcalc.losses.scores.variogram import (
    VariogramScoreLoss,
    variogram_score_loss,
)

__all__ = [
    "EnergyScoreLoss",
    "EnsembleCRPSLoss",
    "ExpectileLoss",
    "IntervalScoreLoss",
    "MultiQuantileLoss",
    "SmoothQuantileLoss",
    "VariogramScoreLoss",
    "energy_score_loss",
    "ensemble_crps_loss",
    "expectile_loss",
    "interval_score_loss",
    "multi_quantile_loss",
    "smooth_quantile_loss",
    "variogram_score_loss",
]
