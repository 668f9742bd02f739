"""Checks for losses and layers, this package's own and those of its users."""

from torch_mlcalc.testing.comparison import GradientCheckError
from torch_mlcalc.testing.gradients import check_gradients
from torch_mlcalc.testing.optimizers import OptimizerCheckError, check_optimizer
from torch_mlcalc.testing.rules import check_rule

__all__ = [
    "GradientCheckError",
    "OptimizerCheckError",
    "check_gradients",
    "check_optimizer",
    "check_rule",
]
