"""Densities made from functions, and expectations under any distribution."""

from torch_mlcalc.density.divergence import register_divergences
from torch_mlcalc.density.expectation import expectation, log_expectation
from torch_mlcalc.density.nodes import register_expectation_rule
from torch_mlcalc.density.normalized import NormalizedDensity

register_divergences()

__all__ = [
    "NormalizedDensity",
    "expectation",
    "log_expectation",
    "register_expectation_rule",
]
