"""Negative log-likelihoods as losses, a file for each family of distributions.

``remainders.py`` has what cancels in the textbook forms of several of them: logarithms
of numbers near 1 and of gamma functions, with every digit.
"""

from torch_mlcalc.losses.likelihood.gaussian import (
    BetaNLLLoss,
    GaussianLogVarNLLLoss,
    GaussianNLLLoss,
    beta_nll_loss,
    gaussian_log_var_nll_loss,
    gaussian_nll_loss,
)

__all__ = [
    "BetaNLLLoss",
    "GaussianLogVarNLLLoss",
    "GaussianNLLLoss",
    "beta_nll_loss",
    "gaussian_log_var_nll_loss",
    "gaussian_nll_loss",
]
