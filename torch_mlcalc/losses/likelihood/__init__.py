"""Negative log-likelihoods as losses, a file for each family of distributions.

``remainders.py`` has what cancels in the textbook forms of several of them: logarithms
of numbers near 1 and of gamma functions, with every digit.
"""

from torch_mlcalc.losses.likelihood.cox import (
    CoxNLLLoss,
    cox_nll_loss,
)
from torch_mlcalc.losses.likelihood.gaussian import (
    BetaNLLLoss,
    GaussianLogVarNLLLoss,
    GaussianNLLLoss,
    beta_nll_loss,
    gaussian_log_var_nll_loss,
    gaussian_nll_loss,
)
from torch_mlcalc.losses.likelihood.mixture import (
    GaussianMixtureNLLLoss,
    gaussian_mixture_nll_loss,
)
from torch_mlcalc.losses.likelihood.negative_binomial import (
    NegativeBinomialNLLLoss,
    negative_binomial_nll_loss,
)
from torch_mlcalc.losses.likelihood.poisson import (
    PoissonNLLLoss,
    poisson_nll_loss,
)
from torch_mlcalc.losses.likelihood.student_t import (
    StudentTNLLLoss,
    student_t_nll_loss,
)
from torch_mlcalc.losses.likelihood.tweedie import (
    TweedieDevianceLoss,
    tweedie_deviance_loss,
)

__all__ = [
    "BetaNLLLoss",
    "CoxNLLLoss",
    "GaussianLogVarNLLLoss",
    "GaussianMixtureNLLLoss",
    "GaussianNLLLoss",
    "NegativeBinomialNLLLoss",
    "PoissonNLLLoss",
    "StudentTNLLLoss",
    "TweedieDevianceLoss",
    "beta_nll_loss",
    "cox_nll_loss",
    "gaussian_log_var_nll_loss",
    "gaussian_mixture_nll_loss",
    "gaussian_nll_loss",
    "negative_binomial_nll_loss",
    "poisson_nll_loss",
    "student_t_nll_loss",
    "tweedie_deviance_loss",
]
