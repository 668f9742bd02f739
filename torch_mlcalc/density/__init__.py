"""Densities made from functions, and expectations under any distribution."""

from torch_mlcalc.density.divergence import register_divergences
from torch_mlcalc.density.normalized import NormalizedDensity

register_divergences()

__all__ = ["NormalizedDensity"]
