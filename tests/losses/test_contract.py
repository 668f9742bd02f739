"""What every public loss of tensors promises, over one table of all of them.

The numbers of each are compared with exact ones in the tests of its family; here is
what the losses have in common, so that none of them can be left out.
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import torch_mlcalc as mlc

DOUBLE = torch.float64
REDUCTIONS = ("none", "mean", "sum")

# torch writes its forward-mode rules in TorchScript, which it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")


class Loss(NamedTuple):
    """How a loss is called: a batch of three, whose tensors have it in front."""

    #: By name, in order; what is whole is an index, a count or a flag.
    tensors: dict[str, Any]
    settings: dict[str, Any] = {}
    module: type[nn.Module] | None = None
    #: Argument and value that validate=True refuses, and what it then says.
    wrong: dict[str, tuple[Any, str]] = {}
    #: Weights are of the classes, or there are none.
    of_classes: bool = False
    #: Tensors that belong to all of the batch.
    shared: tuple[str, ...] = ()
    #: Tensors that have no derivative.
    still: tuple[str, ...] = ()
    #: Whether elements can be had one at a time.
    alone: bool = True


X, Y, POSITIVE, SHARES = [0.3, -1.1, 2.0], [0.1, 0.6, 1.2], [0.6, 1.5, 2.2], [0.2, 0.7]
SHARE = [0.2, 0.9, 0.6]
TABLE = [[0.3, -1.1, 2.0], [1.4, 0.2, -0.7], [-0.4, 0.9, 0.5]]
COUNTS = [0.0, 2.0, 5.0]
NEGATIVE = (-0.5, "must")


def pair(module: type[nn.Module], **settings: object) -> Loss:
    return Loss({"input": X, "target": Y}, settings, module)


def binary(module: type[nn.Module], logits: list[float] = X, **wrong: object) -> Loss:
    wrong["target"] = (1.5, "must be from 0 to 1")
    return Loss({"input": logits, "target": SHARE}, {}, module, wrong)


def classes(
    module: type[nn.Module], input: list[list[float]] = TABLE, **settings: object
) -> Loss:
    tensors = {"input": input, "target": [0, 2, 1]}
    wrong = {"target": (3, "must be from 0 to 2")}
    return Loss(tensors, settings, module, wrong, of_classes=True)


def crps(*names: str, **more: Any) -> Loss:  # noqa: ANN401
    """A closed form; scales and the like are positive, and locations are numbers."""
    numbers = {
        "loc": X, "scale": POSITIVE, "rate": POSITIVE, "concentration": POSITIVE,
        "concentration1": POSITIVE, "concentration0": Y, "df": [1.5, 3.0, 8.0],
        "low": [-1.0, 0.0, 0.5], "high": POSITIVE, "lower": [-1.0, -2.0, -0.5],
        "upper": [1.0, 0.5, 3.0], "total_count": POSITIVE, "probs": SHARE,
    }  # fmt: skip
    bad = {
        **dict.fromkeys(("loc", "low", "lower", "target"), (torch.nan, "must not be")),
        **dict.fromkeys(("high", "upper"), (-9.0, "must be above")),
        "probs": (1.5, "must be strictly between 0 and 1"),
    }
    tensors = {name: numbers[name] for name in names}
    tensors["target"] = more.pop("target", Y)
    wrong = {name: bad.get(name, (-0.5, "must be")) for name in tensors}
    return Loss(tensors, wrong=wrong, **more)


def likelihood(module: type[nn.Module], third: str = "", **more: Any) -> Loss:  # noqa: ANN401
    tensors = {"input": X, "target": more.pop("target", Y)}
    if third:
        tensors[third] = more.pop("numbers", POSITIVE)
    return Loss(tensors, more.pop("settings", {}), module, **more)


MEMBERS = [[[0.3, -1.1], [1.4, 0.2], [-0.4, 0.9]]] * 2 + [[[0.1, 1.0], [2, 3], [0, 1]]]
OBSERVED = [[0.1, 0.4], [1.0, 0.2], [-1.0, 2.0]]
LEVELS = (0.1, 0.5, 0.9)
VAR = {"var": NEGATIVE}

LOSSES: dict[str, Loss] = {
    "mse_loss": pair(mlc.MSELoss),
    "l1_loss": pair(mlc.L1Loss),
    "huber_loss": pair(mlc.HuberLoss, delta=0.7),
    "smooth_l1_loss": pair(mlc.SmoothL1Loss, beta=0.7),
    "log_cosh_loss": pair(mlc.LogCoshLoss),
    "quantile_loss": pair(mlc.QuantileLoss, quantile=0.2),
    "smooth_quantile_loss": pair(mlc.SmoothQuantileLoss, quantile=0.2, beta=0.3),
    "expectile_loss": pair(mlc.ExpectileLoss, expectile=0.2),
    "charbonnier_loss": pair(mlc.CharbonnierLoss, scale=0.7),
    "cauchy_loss": pair(mlc.CauchyLoss, scale=0.7),
    "geman_mcclure_loss": pair(mlc.GemanMcClureLoss, scale=0.7),
    "welsch_loss": pair(mlc.WelschLoss, scale=0.7),
    "tukey_loss": pair(mlc.TukeyLoss, scale=2.0),
    "general_robust_loss": pair(mlc.GeneralRobustLoss, alpha=0.5, scale=0.7),
    "general_robust_nll_loss": pair(mlc.GeneralRobustNLLLoss, alpha=0.5, scale=0.7),
    "binary_cross_entropy": binary(
        mlc.BCELoss, [0.3, 0.8, 0.5], input=(1.5, "must be from 0 to 1")
    ),
    "binary_cross_entropy_with_logits": binary(mlc.BCEWithLogitsLoss),
    "binary_focal_loss": binary(mlc.BinaryFocalLoss),
    "binary_poly_loss": binary(mlc.BinaryPolyLoss),
    "asymmetric_loss": binary(mlc.AsymmetricLoss),
    "soft_margin_loss": Loss(
        {"input": X, "target": [1.0, -1.0, 1.0]},
        {},
        mlc.SoftMarginLoss,
        {"target": (0.5, "must be 1 or -1")},
    ),
    "kl_div": Loss(
        {"input": [-0.3, -1.1, -2.0], "target": SHARE},
        {},
        mlc.KLDivLoss,
        {"input": (0.5, "must be log-prob"), "target": (1.5, "must be from 0 to 1")},
    ),
    "cross_entropy": classes(mlc.CrossEntropyLoss, label_smoothing=0.1),
    "nll_loss": classes(mlc.NLLLoss),
    "focal_loss": classes(mlc.FocalLoss, gamma=0.5),
    "poly_loss": classes(mlc.PolyLoss),
    "bi_tempered_loss": classes(mlc.BiTemperedLoss, t1=0.8, t2=1.3),
    "multi_margin_loss": classes(mlc.MultiMarginLoss, p=2),
    "linear_cross_entropy": Loss(
        {
            "input": TABLE,
            "linear_weight": [*TABLE, [0.1, 0.2, 0.3]],
            "target": [0, 2, 3],
        },
        wrong={"target": (4, "must be from 0 to 3")},
        of_classes=True,
        shared=("linear_weight",),
    ),
    "gaussian_nll_loss": likelihood(mlc.GaussianNLLLoss, "var", wrong=VAR),
    "beta_nll_loss": likelihood(mlc.BetaNLLLoss, "var", wrong=VAR),
    "gaussian_log_var_nll_loss": likelihood(
        mlc.GaussianLogVarNLLLoss,
        "log_var",
        numbers=X,
        wrong={"log_var": (torch.nan, "must be finite")},
    ),
    "student_t_nll_loss": likelihood(
        mlc.StudentTNLLLoss, "scale", wrong={"scale": NEGATIVE, "df": NEGATIVE}
    )._replace(
        tensors={"input": X, "target": Y, "scale": POSITIVE, "df": [3.0, 1.0, 9.0]}
    ),
    "poisson_nll_loss": likelihood(
        mlc.PoissonNLLLoss,
        target=COUNTS,
        settings={"full": True},
        still=("target",),
        wrong={"target": NEGATIVE, "input": (torch.nan, "must be finite")},
    ),
    "negative_binomial_nll_loss": likelihood(
        mlc.NegativeBinomialNLLLoss,
        "dispersion",
        target=COUNTS,
        still=("target",),
        wrong={"target": NEGATIVE, "dispersion": NEGATIVE},
    ),
    "tweedie_deviance_loss": likelihood(
        mlc.TweedieDevianceLoss,
        target=COUNTS,
        still=("target",),
        wrong={"target": NEGATIVE},
    ),
    "gaussian_mixture_nll_loss": Loss(
        {"input": TABLE, "target": Y, "log_scale": TABLE, "logits": TABLE},
        {},
        mlc.GaussianMixtureNLLLoss,
        {"log_scale": (torch.nan, "must"), "logits": (torch.nan, "must")},
    ),
    "cox_nll_loss": Loss(
        {"input": X, "time": [1.0, 3.0, 2.0], "event": [1, 0, 1]},
        {},
        mlc.CoxNLLLoss,
        {"time": (torch.nan, "must be finite"), "event": (2, "must be 0 or 1")},
        still=("time",),
        alone=False,
    ),
    "crps_normal": crps("loc", "scale"),
    "crps_laplace": crps("loc", "scale"),
    "crps_logistic": crps("loc", "scale"),
    "crps_log_normal": crps("loc", "scale"),
    "crps_student_t": crps("df", "loc", "scale"),
    "crps_gamma": crps("concentration", "rate"),
    "crps_beta": crps("concentration1", "concentration0", target=SHARE),
    "crps_exponential": crps("rate"),
    "crps_uniform": crps("low", "high"),
    "crps_poisson": crps("rate", target=COUNTS, still=("target",)),
    "crps_negative_binomial": crps(
        "total_count", "probs", target=COUNTS, still=("target",)
    ),
    "crps_truncated_normal": crps("loc", "scale", "lower", "upper"),
    "crps_censored_normal": crps("loc", "scale", "lower", "upper"),
    "crps_normal_mixture": Loss(
        {
            "probs": [[0.2, 0.3, 0.5]] * 3,
            "loc": TABLE,
            "scale": [POSITIVE, SHARE, Y],
            "target": Y,
        },
        wrong={"probs": (1.5, "must"), "scale": NEGATIVE},
        # Which are to sum to 1.
        still=("probs",),
    ),
    "ensemble_crps_loss": Loss(
        {"input": TABLE, "target": Y}, {"fairness": 1.0}, mlc.EnsembleCRPSLoss
    ),
    "energy_score_loss": Loss(
        {"input": MEMBERS, "target": OBSERVED}, {"fairness": 1.0}, mlc.EnergyScoreLoss
    ),
    "variogram_score_loss": Loss(
        {"input": MEMBERS, "target": OBSERVED}, {}, mlc.VariogramScoreLoss
    ),
    "interval_score_loss": Loss(
        {"input": [[-1.0, 0.3], [0.7, 2.0], [0.5, 0.9]], "target": Y},
        {"alpha": 0.1},
        mlc.IntervalScoreLoss,
        {"input": (-9.0, "must not be negative")},
    ),
    "multi_quantile_loss": Loss(
        {"input": TABLE, "target": Y}, {"quantiles": LEVELS}, mlc.MultiQuantileLoss
    ),
}

#: Of functions, distributions and samples: tests/losses/integral and test_crps_loss.py.
OF_FUNCTIONS = {
    "alpha_divergence_loss", "chi2_loss", "cramer_loss", "crps_loss", "expected_loss",
    "hazard_nll_loss", "hellinger_loss", "integrated_quantile_loss",
    "jensen_shannon_loss", "kl_divergence_loss", "marginal_nll_loss",
    "normalization_penalty", "normalized_nll_loss", "point_process_nll_loss",
    "total_variation_loss", "wasserstein_1d_loss",
}  # fmt: skip

names = pytest.mark.parametrize("name", LOSSES)


def draw(name: str, dtype: torch.dtype = DOUBLE) -> dict[str, Tensor]:
    found = {}
    for key, values in LOSSES[name].tensors.items():
        is_whole = not torch.tensor(values).is_floating_point()
        found[key] = torch.tensor(values, dtype=None if is_whole else dtype)
    return found


def call(name: str, tensors: dict[str, Any], **more: object) -> Tensor:
    loss: Callable[..., Tensor] = getattr(mlc, name)
    return loss(**tensors, **{**LOSSES[name].settings, **more})


def test_every_loss_is_here() -> None:
    functions = {n for n in mlc.losses.__all__ if n[0].islower()}
    functions -= {"register_crps", "set_default_validate"}
    assert set(LOSSES) | OF_FUNCTIONS == functions


@names
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_reductions_are_those_of_the_elements(name: str, dtype: torch.dtype) -> None:
    tensors, close = draw(name, dtype), torch.testing.assert_close
    elements = call(name, tensors, reduction="none")
    assert elements.shape == (3,)
    assert elements.dtype == dtype
    exact = call(name, draw(name), reduction="none")
    close(elements, exact.to(dtype), rtol=1e-4, atol=1e-5)
    close(call(name, tensors, reduction="sum"), elements.sum())
    if name == "cox_nll_loss":
        # Its mean is over the events, and its weights are in the sums of those at risk.
        return
    close(call(name, tensors), elements.mean())
    if LOSSES[name].of_classes:
        return
    weight = torch.tensor([0.5, 2.0, 1.25], dtype=dtype)
    weighted = elements * weight
    close(call(name, tensors, weight=weight, reduction="none"), weighted)
    close(call(name, tensors, weight=weight, reduction="sum"), weighted.sum())
    close(call(name, tensors, weight=weight), weighted.sum() / weight.sum())


@names
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_rounded_once(name: str, dtype: torch.dtype) -> None:
    half = draw(name, dtype)
    wide = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    found, wanted = call(name, half), call(name, wide)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted.to(dtype), rtol=0, atol=0)


# Its weights are no part of what is differentiated.
@pytest.mark.parametrize("name", [name for name in LOSSES if name != "beta_nll_loss"])
def test_first_and_second_derivatives_are_those_of_the_loss(name: str) -> None:
    tensors = draw(name)
    still = LOSSES[name].still
    by = [k for k, v in tensors.items() if v.is_floating_point() and k not in still]

    def loss(*values: Tensor) -> Tensor:
        return call(name, {**tensors, **dict(zip(by, values, strict=True))})

    inputs = tuple(tensors[key].requires_grad_() for key in by)
    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(loss, inputs, fast_mode=True)


def rows(
    name: str, tensors: dict[str, Tensor], index: int | slice
) -> dict[str, Tensor]:
    shared = LOSSES[name].shared
    return {k: v if k in shared else v[index] for k, v in tensors.items()}


@names
def test_no_batch_and_an_empty_one(name: str) -> None:
    tensors = draw(name)
    empty = rows(name, tensors, slice(0, 0))
    assert call(name, empty, reduction="none").shape == (0,)
    assert call(name, empty, reduction="sum").item() == 0
    mean = call(name, empty)
    assert mean.isnan() or (name == "cox_nll_loss" and mean.item() == 0)
    if LOSSES[name].alone:
        alone = call(name, rows(name, tensors, 0), reduction="none")
        elements = call(name, tensors, reduction="none")
        assert alone.shape == ()
        torch.testing.assert_close(alone, elements[0])


@names
def test_nan_is_never_forgotten(name: str) -> None:
    tensors = draw(name)
    for key in [k for k, v in tensors.items() if v.is_floating_point()]:
        spoilt = tensors[key].clone()
        spoilt.view(-1)[0] = torch.nan
        elements = call(name, {**tensors, key: spoilt}, reduction="none")
        assert elements[0].isnan(), key
        assert call(name, {**tensors, key: spoilt}).isnan(), key


@pytest.mark.parametrize(
    "name", [n for n, loss in LOSSES.items() if loss.of_classes and n[:5] != "multi"]
)
def test_batch_in_which_no_element_counts(name: str) -> None:
    tensors = draw(name)
    tensors["input"].requires_grad_()
    tensors["target"] = torch.full((3,), -100)
    for reduction in REDUCTIONS:
        loss = call(name, tensors, reduction=reduction)
        assert (loss == 0).all()
        (slope,) = torch.autograd.grad(loss.sum(), tensors["input"])
        assert (slope == 0).all()


@names
def test_what_cannot_be_is_refused(name: str) -> None:
    tensors = draw(name)
    for key in [k for k in tensors if k not in LOSSES[name].shared]:
        with pytest.raises(ValueError, match="must have|must be"):
            call(name, {**tensors, key: tensors[key][:-1]})
        wanted = "(a torch.Tensor|a number or a tensor), got list"
        with pytest.raises(TypeError, match=f"{key} must be {wanted}"):
            call(name, {**tensors, key: tensors[key].tolist()})
    whole = {key: value.long() for key, value in tensors.items()}
    crossed = {k: v.to(torch.complex128) for k, v in tensors.items()}
    for wrong in (whole, crossed):
        if name == "l1_loss" and wrong is crossed:
            continue
        with pytest.raises(TypeError):
            call(name, wrong)
    with pytest.raises(ValueError, match="reduction must be"):
        call(name, tensors, reduction="average")


CLASSES = [name for name, loss in LOSSES.items() if loss.of_classes]

#: Settings that cannot be, beyond those that the tests of each family try: a loss, one
#: of its settings, a value.
IMPOSSIBLE: list[tuple[str, str, Any]] = [
    *((name, "weight", [1.0, 1.0, 1.0]) for name in CLASSES),
    *((name, "ignore_index", 1.0) for name in CLASSES if name != "multi_margin_loss"),
    ("cross_entropy", "label_smoothing", 1.5),
    ("linear_cross_entropy", "label_smoothing", -0.1),
    ("focal_loss", "gamma", -1.0),
    ("poly_loss", "epsilon", math.inf),
    ("poly_loss", "epsilon", [1.0, math.inf]),
    ("bi_tempered_loss", "t1", 1.5),
    ("bi_tempered_loss", "t2", 0.5),
    ("multi_margin_loss", "p", 3),
    ("multi_margin_loss", "margin", math.nan),
    ("binary_cross_entropy_with_logits", "pos_weight", [1.0, 1.0, 1.0]),
    ("binary_focal_loss", "gamma", -1.0),
    ("binary_focal_loss", "alpha", 1.5),
    ("binary_poly_loss", "epsilon", "1"),
    ("asymmetric_loss", "gamma_negative", -1.0),
    ("asymmetric_loss", "gamma_positive", -1.0),
    ("asymmetric_loss", "margin", -0.1),
    ("kl_div", "log_target", 1),
    ("ensemble_crps_loss", "fairness", 1.5),
    ("energy_score_loss", "fairness", 1.5),
    ("energy_score_loss", "beta", 2.5),
    ("variogram_score_loss", "fairness", 1.5),
    ("variogram_score_loss", "p", 0.0),
]


@pytest.mark.parametrize(("name", "setting", "value"), IMPOSSIBLE, ids=str)
def test_settings_are_refused_by_functions_and_modules(
    name: str, setting: str, value: object
) -> None:
    tensors, cls = draw(name), LOSSES[name].module
    settings = {k: v for k, v in LOSSES[name].settings.items() if k != setting}
    if name == "linear_cross_entropy":
        cls = partial(mlc.LinearCrossEntropyLoss, 3, 4)
    for make in (partial(call, name, tensors), partial(cls, **settings)):
        with pytest.raises((ValueError, TypeError), match=rf"{setting}\S* must"):
            make(**{setting: value})


@names
def test_values_are_refused_where_that_is_asked_for(name: str) -> None:
    tensors = draw(name)
    wrong = LOSSES[name].wrong
    if "validate" not in inspect.signature(getattr(mlc, name)).parameters:
        assert not wrong
        return
    usual = call(name, tensors, validate=True)
    torch.testing.assert_close(usual, call(name, tensors), rtol=0, atol=0)
    with pytest.raises(TypeError, match="validate must be"):
        call(name, tensors, validate="yes")
    _, settings, cls, *_ = LOSSES[name]
    # Levels of quantiles are looked at when the module is made, and are all there is.
    checks = cls and "validate" in inspect.signature(cls).parameters
    assert checks or cls in (None, mlc.MultiQuantileLoss)
    if checks:
        module = cls(**settings, validate=True)
        assert "validate=True" in repr(module)
        assert "validate" not in repr(cls(**settings))
        torch.testing.assert_close(module(*tensors.values()), usual)
        with pytest.raises(TypeError, match="validate must be"):
            cls(**settings, validate="yes")
    for key, (value, message) in wrong.items():
        bad = {**tensors, key: tensors[key].clone()}
        bad[key].view(-1)[-1] = value
        with pytest.raises(ValueError, match=message):
            call(name, bad, validate=True)
        if checks:
            with pytest.raises(ValueError, match=message):
                module(*bad.values())


@pytest.mark.parametrize("name", [n for n, loss in LOSSES.items() if loss.module])
def test_module_is_the_function_and_survives_what_modules_do(name: str) -> None:
    _, settings, cls, *_ = LOSSES[name]
    tensors = draw(name)
    for reduction in REDUCTIONS:
        module = cls(**settings, reduction=reduction)
        wanted = call(name, tensors, reduction=reduction)
        fresh = cls(**settings, reduction=reduction)
        fresh.load_state_dict(module.state_dict())
        others = copy.deepcopy(module), pickle.loads(pickle.dumps(module)), fresh
        for one in (module, *others, copy.deepcopy(module).to(DOUBLE)):
            found = one(*tensors.values())
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-7)
            assert repr(one) == repr(module)
        assert f"reduction='{reduction}'" in repr(module)
    with pytest.raises(ValueError, match="reduction must be"):
        cls(**settings, reduction="average")
