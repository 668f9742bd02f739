"""Scores of forecasts that are more than a number: ensembles, intervals, quantiles.

Where the members of an ensemble are is said once, by ``dim``: the axis of ``input``
that holds them. Without it ``input`` has the shape of ``target``, and that is the shape
of the loss, but for the last axis of ``target`` where a forecast is a vector.
"""

from torch_mlcalc.losses.scores.ensemble import EnsembleCRPSLoss, ensemble_crps_loss

__all__ = [
    "EnsembleCRPSLoss",
    "ensemble_crps_loss",
]
