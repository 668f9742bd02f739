"""What a loss is when nothing is said, which a change would alter in silence."""

import inspect
from collections.abc import Callable

import pytest
from torch import nn

import torch_mlcalc as mlc

#: Settings beyond those that all share, where the default is not None.
DEFAULTS: dict[str, dict[str, object]] = {
    "asymmetric_loss": {"gamma_negative": 4.0, "gamma_positive": 1.0, "margin": 0.05},
    "beta_nll_loss": {"beta": 0.5, "full": False, "eps": 0.0},
    "bi_tempered_loss": {"ignore_index": -100, "t1": 1.0, "t2": 1.0},
    "binary_focal_loss": {"gamma": 2.0},
    "binary_poly_loss": {"epsilon": 1.0},
    "cauchy_loss": {"scale": 1.0},
    "charbonnier_loss": {"scale": 1.0},
    "cox_nll_loss": {"efron": True},
    "cross_entropy": {"ignore_index": -100, "label_smoothing": 0.0},
    "crps_loss": {"closed_form": True},
    "energy_score_loss": {"beta": 1.0, "fairness": 0.0, "dim": -2},
    "ensemble_crps_loss": {"fairness": 0.0, "dim": -1},
    "expectile_loss": {"expectile": 0.5},
    "focal_loss": {"ignore_index": -100, "gamma": 2.0},
    "gaussian_log_var_nll_loss": {"full": False},
    "gaussian_mixture_nll_loss": {"multivariate": False},
    "gaussian_nll_loss": {"full": False, "eps": 0.0},
    "geman_mcclure_loss": {"scale": 1.0},
    "general_robust_loss": {"alpha": 1.0, "scale": 1.0},
    "general_robust_nll_loss": {"alpha": 1.0, "scale": 1.0},
    "hellinger_loss": {"squared": True},
    "huber_loss": {"delta": 1.0},
    "integrated_quantile_loss": {"lower": 0.0, "upper": 1.0},
    "interval_score_loss": {"alpha": 0.1},
    "kl_div": {"log_target": False},
    "kl_divergence_loss": {"reverse": False},
    "linear_cross_entropy": {"ignore_index": -100, "label_smoothing": 0.0},
    "multi_margin_loss": {"p": 1, "margin": 1.0},
    "multi_quantile_loss": {"rearrange": False},
    "negative_binomial_nll_loss": {"log_input": True},
    "nll_loss": {"ignore_index": -100},
    "normalization_penalty": {"log": False, "squared": True},
    "point_process_nll_loss": {"start": 0.0, "split": False},
    "poisson_nll_loss": {"log_input": True, "full": False, "eps": 0.0},
    "poly_loss": {"ignore_index": -100, "epsilon": 1.0},
    "quantile_loss": {"quantile": 0.5},
    "smooth_l1_loss": {"beta": 1.0},
    "smooth_quantile_loss": {"quantile": 0.5, "beta": 1.0},
    "tukey_loss": {"scale": 1.0},
    "tweedie_deviance_loss": {"power": 1.5, "log_input": True},
    "variogram_score_loss": {"p": 0.5, "fairness": 0.0, "dim": -2},
    "wasserstein_1d_loss": {"p": 1.0},
    "welsch_loss": {"scale": 1.0},
}

SHARED = {"reduction": "mean", "on_failure": "warn", "args": ()}


def defaults_of(function: Callable) -> dict[str, object]:
    """The defaults by name, of what has one that is not None."""
    parameters = inspect.signature(function).parameters.values()
    found = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: value for name, value in found.items() if value is not None}


PUBLIC = {name: getattr(mlc.losses, name) for name in mlc.losses.__all__}
FUNCTIONS = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isfunction(value) and "reduction" in inspect.signature(value).parameters
}
MODULES = {
    name: value
    for name, value in PUBLIC.items()
    if inspect.isclass(value) and issubclass(value, nn.Module)
}

#: Of modules whose function has another name than theirs, as torch's own have.
NAMED = {"BCE": "binary_cross_entropy"}

#: What modules have alone; the bias of a function is a tensor, or None.
ALONE = {"plan_every": 1, "bias": False}


def function_of(name: str) -> Callable:
    for short, long in NAMED.items():
        name = name.replace(short, long)
    plain = {n.replace("_", "").removesuffix("loss"): f for n, f in FUNCTIONS.items()}
    return plain[name.lower().replace("_", "").removesuffix("loss")]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_defaults_of_a_function_are_those_of_the_table(name: str) -> None:
    found = defaults_of(FUNCTIONS[name])
    shared = {key: found.pop(key) for key in SHARED if key in found}
    assert found == DEFAULTS.get(name, {})
    assert shared == {key: SHARED[key] for key in shared}


@pytest.mark.parametrize("name", MODULES)
def test_defaults_of_a_module_are_those_of_its_function(name: str) -> None:
    known, found = ALONE | defaults_of(function_of(name)), defaults_of(MODULES[name])
    assert found == {key: known.get(key) for key in found}
