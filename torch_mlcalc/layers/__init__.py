"""Integrals as layers of a model."""

from torch_mlcalc.layers.antiderivative import Antiderivative
from torch_mlcalc.layers.expectation import Expectation
from torch_mlcalc.layers.integral import Integral, LogNormalizer

__all__ = ["Antiderivative", "Expectation", "Integral", "LogNormalizer"]
