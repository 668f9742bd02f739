"""Every loss on a device, by name: its value and gradients belong there too.

``WAITING`` are those that search or read, which makes the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Gamma, Gumbel, Laplace, Normal, Uniform

import torch_mlcalc as mlc

DOUBLE = torch.float64


class Make:
    """Makes tensors on a device, and knows those that get gradients."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.leaves: list[Tensor] = []

    def _tensor(self, values: tuple[float, ...], dtype: torch.dtype | None) -> Tensor:
        host = torch.tensor(values, dtype=dtype, device="cpu")
        return host.to(self.device, non_blocking=True)

    def __call__(self, *values: float) -> Tensor:
        """Numbers with a gradient."""
        tensor = self._tensor(values, DOUBLE)
        self.leaves.append(tensor.requires_grad_())
        return tensor

    def still(self, *values: float) -> Tensor:
        """Numbers without one, or whole numbers, or truth values."""
        dtype = DOUBLE if isinstance(values[0], float) else None
        return self._tensor(values, dtype)

    def table(self, rows: int, columns: int) -> Tensor:
        """A table with a gradient."""
        numbers = [((7 * i * i + 3 * i) % 11 - 5) / 4 for i in range(rows * columns)]
        return self(*numbers).reshape(rows, columns)


Call = Callable[[Make], Tensor]


def pair(loss: Callable[..., Tensor], **settings: object) -> Call:
    """A loss of two vectors, with weights."""
    return lambda t: loss(
        t(0.5, -1.0, 3.0),
        t.still(0.2, 1.0, 2.5),
        weight=t.still(1.0, 2.0, 0.5),
        **settings,
    )


def chances(loss: Callable[..., Tensor], **settings: object) -> Call:
    return lambda t: loss(t(0.5, 0.1, 0.8), t.still(1.0, 0.0, 0.3), **settings)


def classes(loss: Callable[..., Tensor], **settings: object) -> Call:
    """A loss of three classes, one target of which is ignored where that exists."""
    return lambda t: loss(t.table(4, 3), t.still(0, 2, 1, 1), **settings)


def counts(loss: Callable[..., Tensor], *more: float, **settings: object) -> Call:
    return lambda t: loss(
        t(0.5, 1.0, 1.5),
        t.still(0.0, 2.0, 7.0),
        *(t(v, v, v) for v in more),
        **settings,
    )


def score(loss: Callable[..., Tensor], *parameters: float) -> Call:
    """A closed form: parameters, then the target."""
    return lambda t: loss(*(t(p, 1.1 * p) for p in parameters), t.still(0.3, 0.6))


def members(loss: Callable[..., Tensor], **settings: object) -> Call:
    return lambda t: loss(
        t.table(4, 6).reshape(2, 6, 2), t.still(0.1, 0.2, -0.3, 1.0).reshape(2, 2),
        **settings,
    )  # fmt: skip


def between(loss: Callable[..., Tensor], **settings: object) -> Call:
    """A divergence of two normal distributions."""
    return lambda t: loss(
        Normal(t(0.0, 1.0), t(1.0, 2.0)), Normal(t(0.5, 0.5), t(1.5, 1.0)), **settings
    )


def samples(loss: Callable[..., Tensor], **settings: object) -> Call:
    """Of samples that differ: which of two alike is lower, a sort may choose."""
    return lambda t: loss(
        t(0.5, -1.0, 0.1, 0.7, 2.0).outer(t.still(1.0, 0.9)),
        t(0.9, -1.4, 0.3, 1.7, 0.4).outer(t.still(1.0, 1.2)),
        **settings,
    )


def log_hazard(time: Tensor, slope: Tensor) -> Tensor:
    return slope * time - 1


def hazard(t: Make) -> Tensor:
    slope, time, event = t(0.5, 0.2), t.still(1.0, 2.0), t.still(1, 0)
    return mlc.hazard_nll_loss(log_hazard, time, event, args=(slope,))


def hazard_interval(t: Make) -> Tensor:
    return mlc.hazard_nll_loss(
        log_hazard,
        t.still(1.0, 2.0),
        t.still(3, 3),
        upper=t.still(1.5, 3.0),
        entry=t.still(0.1, 0.0),
        args=(t(0.5, 0.2),),
    )


def point_process(t: Make) -> Tensor:
    slope, times = t(0.3), t.still(0.5, 1.0, 1.7)
    return mlc.point_process_nll_loss(lambda x: slope * x, times, 2.0)


def marginal(t: Make) -> Tensor:
    y = t.still(0.3, -1.0)
    return mlc.marginal_nll_loss(
        lambda z, y: -((y - z) ** 2), Normal(t(0.0, 0.2), t(1.0, 0.5)), args=(y,)
    )


def normalized(t: Make) -> Tensor:
    rate = t(1.0, 2.0)
    return mlc.normalized_nll_loss(
        lambda x, r: -r * x**2, t.still(0.3, 0.5), mlc.RealLine(), args=(rate,)
    )


def penalty(t: Make) -> Tensor:
    rate = t(1.0, 2.0)
    return mlc.normalization_penalty(
        lambda x, r: torch.exp(-r * x), mlc.HalfLine(), args=(rate,)
    )


def expected(t: Make) -> Tensor:
    return mlc.expected_loss(
        mlc.HuberLoss(reduction="none"),
        t(0.3, 0.5),
        Normal(t(0.0, 0.2), t(1.0, 0.5)),
        kinks=(-1.0, 1.0),
    )


def integrated_quantile(t: Make) -> Tensor:
    scale = t(1.0, 2.0)
    return mlc.integrated_quantile_loss(
        lambda tau, s: s * torch.log(tau / (1 - tau)), t.still(0.3, 0.5), args=(scale,)
    )


def crps_of(make: Callable[[Make], object], **settings: object) -> Call:
    return lambda t: mlc.crps_loss(make(t), t.still(0.3, 0.6), **settings)


def linear(t: Make) -> Tensor:
    return mlc.linear_cross_entropy(
        t.table(4, 3),
        t.table(5, 3),
        t.still(0, 4, 2, 1),
        linear_bias=t(0.1, 0.2, 0.3, 0.4, 0.5),
    )


def mixture(t: Make) -> Tensor:
    return mlc.gaussian_mixture_nll_loss(
        t.table(4, 3), t.still(0.1, 0.5, -1.0, 2.0), t.table(4, 3) / 3, t.table(4, 3)
    )


def cox(t: Make) -> Tensor:
    return mlc.cox_nll_loss(
        t(0.1, 0.5, -1.0, 0.7), t.still(1.0, 2.0, 2.0, 3.0), t.still(1, 1, 1, 0)
    )


def shares(t: Make) -> Tensor:
    return mlc.cross_entropy(t.table(4, 3), t.table(4, 3).detach().softmax(-1))


def divergence(t: Make) -> Tensor:
    return mlc.kl_div(t.table(4, 3), t.table(4, 3).detach().softmax(-1))


LOSSES: dict[str, Call] = {
    **{
        name: pair(getattr(mlc, name))
        for name in (
            "mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "log_cosh_loss",
            "quantile_loss", "charbonnier_loss", "cauchy_loss", "geman_mcclure_loss",
            "welsch_loss", "tukey_loss", "general_robust_loss",
            "general_robust_nll_loss", "smooth_quantile_loss", "expectile_loss",
        )
    },
    "general_robust_nll_loss, tensors": lambda t: mlc.general_robust_nll_loss(
        t(0.5, -1.0), t.still(0.2, 1.0), alpha=t(0.5, 1.7), scale=t(1.0, 2.0)
    ),
    "binary_cross_entropy": chances(mlc.binary_cross_entropy),
    "binary_cross_entropy_with_logits": chances(mlc.binary_cross_entropy_with_logits),
    "binary_focal_loss": chances(mlc.binary_focal_loss),
    "binary_poly_loss": chances(mlc.binary_poly_loss),
    "asymmetric_loss": chances(mlc.asymmetric_loss),
    "soft_margin_loss": lambda t: mlc.soft_margin_loss(
        t(0.5, 0.1, 0.8), t.still(1.0, -1.0, 1.0)
    ),
    "kl_div": divergence,
    **{
        name: classes(getattr(mlc, name))
        for name in ("cross_entropy", "nll_loss", "focal_loss", "poly_loss")
    },
    "bi_tempered_loss": classes(mlc.bi_tempered_loss, t1=0.8, t2=1.3),
    "multi_margin_loss": classes(mlc.multi_margin_loss),
    "cross_entropy, probabilities": shares,
    "linear_cross_entropy": linear,
    "gaussian_nll_loss": counts(mlc.gaussian_nll_loss, 0.7),
    "gaussian_log_var_nll_loss": counts(mlc.gaussian_log_var_nll_loss, 0.7),
    "beta_nll_loss": counts(mlc.beta_nll_loss, 0.7),
    "student_t_nll_loss": counts(mlc.student_t_nll_loss, 0.7, 3.0),
    "poisson_nll_loss": counts(mlc.poisson_nll_loss, full=True),
    "negative_binomial_nll_loss": counts(mlc.negative_binomial_nll_loss, 0.7),
    "tweedie_deviance_loss": counts(mlc.tweedie_deviance_loss),
    "gaussian_mixture_nll_loss": mixture,
    "crps_normal": score(mlc.crps_normal, 0.5, 1.0),
    "crps_laplace": score(mlc.crps_laplace, 0.5, 1.0),
    "crps_logistic": score(mlc.crps_logistic, 0.5, 1.0),
    "crps_log_normal": score(mlc.crps_log_normal, 0.5, 1.0),
    "crps_student_t": score(mlc.crps_student_t, 3.0, 0.5, 1.0),
    "crps_gamma": score(mlc.crps_gamma, 2.0, 1.0),
    "crps_beta": score(mlc.crps_beta, 2.0, 1.5),
    "crps_exponential": score(mlc.crps_exponential, 1.5),
    "crps_uniform": score(mlc.crps_uniform, 0.2, 1.0),
    "crps_poisson": counts(mlc.crps_poisson),
    "crps_negative_binomial": lambda t: mlc.crps_negative_binomial(
        t(2.0, 3.5), t(0.3, 0.6), t.still(0.0, 4.0)
    ),
    "crps_normal_mixture": lambda t: mlc.crps_normal_mixture(
        t.table(2, 3).softmax(-1), t.table(2, 3), t.table(2, 3).exp(),
        t.still(0.3, 0.6),
    ),
    "crps_truncated_normal": lambda t: mlc.crps_truncated_normal(
        t(0.5, 1.0), t(1.0, 0.7), t(-1.0, -2.0), t(2.0, 3.0), t.still(0.3, 0.6)
    ),
    "crps_censored_normal": lambda t: mlc.crps_censored_normal(
        t(0.5, 1.0), t(1.0, 0.7), t(-1.0, -2.0), t(2.0, 3.0), t.still(0.3, 0.6)
    ),
    # A distribution of torch that looks at its arguments waits.
    "crps_loss": crps_of(
        lambda t: Normal(t(0.5, 1.0), t(1.0, 2.0), validate_args=False)
    ),
    "ensemble_crps_loss": lambda t: mlc.ensemble_crps_loss(
        t.table(2, 6), t.still(0.1, 0.7), fairness=1.0
    ),
    "energy_score_loss": members(mlc.energy_score_loss),
    "variogram_score_loss": members(mlc.variogram_score_loss),
    "interval_score_loss": lambda t: mlc.interval_score_loss(
        t(-1.0, 1.0, 0.5, 2.0).reshape(2, 2), t.still(0.3, 0.2), alpha=0.1
    ),
    "multi_quantile_loss": lambda t: mlc.multi_quantile_loss(
        t.table(4, 3), t.still(0.1, 0.5, -1.0, 2.0), (0.1, 0.5, 0.9)
    ),
}  # fmt: skip

WAITING: dict[str, Call] = {
    "cox_nll_loss": cox,
    "crps_loss, search": crps_of(lambda t: Gumbel(t(0.5, 1.0), t(1.0, 2.0)), rtol=1e-6),
    "crps_loss, threshold": crps_of(
        lambda t: Normal(t(0.5, 1.0), t(1.0, 2.0)), threshold_weight=torch.sigmoid
    ),
    "alpha_divergence_loss": between(mlc.alpha_divergence_loss, alpha=0.5),
    # It diverges where the input is much narrower than the target.
    "chi2_loss": lambda t: mlc.chi2_loss(
        Normal(t(0.0, 1.0), t(1.0, 2.0)), Normal(t(0.5, 0.5), t(1.2, 1.0))
    ),
    "hellinger_loss": between(mlc.hellinger_loss),
    "jensen_shannon_loss": between(mlc.jensen_shannon_loss),
    "kl_divergence_loss": between(mlc.kl_divergence_loss),
    "kl_divergence_loss, half line": lambda t: mlc.kl_divergence_loss(
        Gamma(t(2.0, 3.0), t(1.0, 2.0)), Gamma(t(2.5, 1.0), t(1.0, 1.0))
    ),
    "total_variation_loss": lambda t: mlc.total_variation_loss(
        Uniform(t(0.0, 0.2), t(1.0, 2.0)), Laplace(t(0.5, 0.5), t(1.0, 1.0))
    ),
    "cramer_loss": between(mlc.cramer_loss),
    "wasserstein_1d_loss": between(mlc.wasserstein_1d_loss),
    "cramer_loss, samples": samples(mlc.cramer_loss),
    "wasserstein_1d_loss, samples": samples(mlc.wasserstein_1d_loss, p=2.0),
    "expected_loss": expected,
    "hazard_nll_loss": hazard,
    "hazard_nll_loss, intervals": hazard_interval,
    "integrated_quantile_loss": integrated_quantile,
    "marginal_nll_loss": marginal,
    "normalization_penalty": penalty,
    "normalized_nll_loss": normalized,
    "point_process_nll_loss": point_process,
}
