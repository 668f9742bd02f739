r"""CRPS, the continuous ranked probability score, of forecasts.

.. math:: \int_{-\infty}^\infty (F(x) - 1\{y \le x\})^2\,dx

``normal``, ``limited``, ``location_scale``, ``bounded`` and ``counts`` hold closed
forms by family, ``truncated`` computes the one whose closed form loses its digits,
``dispatch`` says which distribution has which, ``quadrature`` integrates the others.
"""

from torch_mlcalc.losses.crps.bounded import (
    crps_beta,
    crps_exponential,
    crps_gamma,
    crps_uniform,
)
from torch_mlcalc.losses.crps.counts import crps_negative_binomial, crps_poisson
from torch_mlcalc.losses.crps.dispatch import register_crps
from torch_mlcalc.losses.crps.limited import (
    crps_censored_normal,
    crps_truncated_normal,
)
from torch_mlcalc.losses.crps.location_scale import (
    crps_laplace,
    crps_logistic,
    crps_student_t,
)
from torch_mlcalc.losses.crps.loss import CRPSLoss, crps_loss
from torch_mlcalc.losses.crps.normal import (
    crps_log_normal,
    crps_normal,
    crps_normal_mixture,
)

__all__ = [
    "CRPSLoss",
    "crps_beta",
    "crps_censored_normal",
    "crps_exponential",
    "crps_gamma",
    "crps_laplace",
    "crps_log_normal",
    "crps_logistic",
    "crps_negative_binomial",
    "crps_loss",
    "crps_normal",
    "crps_normal_mixture",
    "crps_poisson",
    "crps_student_t",
    "crps_truncated_normal",
    "crps_uniform",
    "register_crps",
]
