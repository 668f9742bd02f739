"""What all scores have in common, each against its formula summed by brute force."""

from __future__ import annotations

import pytest
import torch
from scores_checks import (
    DTYPES,
    Case,
    check_empty,
    check_gradient_dtypes,
    check_half_is_rounded_once,
    check_inputs_are_left,
    check_module,
    check_reductions,
    check_refusals,
    check_single,
    check_values_are_not_looked_at,
)
from test_ensemble_crps import double_sum
from test_multivariate_scores import all_pairs, all_parts
from test_quantiles import EXPECTILE, SMOOTH, pinball

from torch_mlcalc.losses import (
    EnergyScoreLoss,
    EnsembleCRPSLoss,
    ExpectileLoss,
    IntervalScoreLoss,
    MultiQuantileLoss,
    SmoothQuantileLoss,
    VariogramScoreLoss,
    energy_score_loss,
    ensemble_crps_loss,
    expectile_loss,
    interval_score_loss,
    multi_quantile_loss,
    smooth_quantile_loss,
    variogram_score_loss,
)

LEVELS = [0.125, 0.5, 0.75]
PAIRS = torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.5], [1.0, 1.0, 0.0]])

CASES = {
    "crps": Case(
        EnsembleCRPSLoss(),
        ensemble_crps_loss,
        {},
        ((4, 3, 7), (4, 3), (4, 3)),
        double_sum,
    ),
    "crps(0.95)": Case(
        EnsembleCRPSLoss(fairness=0.95),
        ensemble_crps_loss,
        {"fairness": 0.95},
        ((5, 7), (5,), (5,)),
        lambda x, y: double_sum(x, y, fairness=0.95),
    ),
    "energy": Case(
        EnergyScoreLoss(),
        energy_score_loss,
        {},
        ((4, 5, 6, 3), (4, 5, 3), (4, 5)),
        all_pairs,
    ),
    "energy(1.5)": Case(
        EnergyScoreLoss(beta=1.5, fairness=1.0),
        energy_score_loss,
        {"beta": 1.5, "fairness": 1.0},
        ((4, 6, 3), (4, 3), (4,)),
        lambda x, y: all_pairs(x, y, 1.5, 1.0),
    ),
    "variogram": Case(
        VariogramScoreLoss(),
        variogram_score_loss,
        {},
        ((4, 5, 6, 3), (4, 5, 3), (4, 5)),
        all_parts,
    ),
    "variogram(1)": Case(
        VariogramScoreLoss(p=1.0, fairness=0.5, pair_weight=PAIRS),
        variogram_score_loss,
        {"p": 1.0, "fairness": 0.5, "pair_weight": PAIRS},
        ((4, 6, 3), (4, 3), (4,)),
        lambda x, y: all_parts(x, y, 1.0, 0.5, PAIRS),
    ),
    "interval": Case(
        IntervalScoreLoss(alpha=0.25),
        interval_score_loss,
        {"alpha": 0.25},
        ((9, 7, 2), (9, 7), (9, 7)),
        lambda x, y: 8 * (pinball(x[..., 0], y, 0.125) + pinball(x[..., 1], y, 0.875)),
    ),
    "multi_quantile": Case(
        MultiQuantileLoss(LEVELS),
        multi_quantile_loss,
        {"quantiles": LEVELS},
        ((9, 7, 3), (9, 7), (9, 7)),
        lambda x, y: sum(pinball(x[..., i], y, q) for i, q in enumerate(LEVELS)) / 3,
    ),
    "smooth_quantile": Case(
        SmoothQuantileLoss(quantile=SMOOTH[0], beta=SMOOTH[1]),
        smooth_quantile_loss,
        {"quantile": SMOOTH[0], "beta": SMOOTH[1]},
        ((9, 7), (9, 7), (9, 7)),
        lambda x, y: (
            SMOOTH[1] * ((x - y) / SMOOTH[1]).exp().log1p() - SMOOTH[0] * (x - y)
        ),
    ),
    "expectile": Case(
        ExpectileLoss(expectile=EXPECTILE),
        expectile_loss,
        {"expectile": EXPECTILE},
        ((9, 7), (9, 7), (9, 7)),
        lambda x, y: (
            (1 - EXPECTILE) * (x - y).relu() ** 2 + EXPECTILE * (y - x).relu() ** 2
        ),
    ),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_reductions_are_those_of_the_formula(case: Case, dtype: torch.dtype) -> None:
    check_reductions(case, dtype)


@cases
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precisions_are_rounded_once(case: Case, dtype: torch.dtype) -> None:
    check_half_is_rounded_once(case, dtype)


@cases
def test_mixed_dtypes_promote_and_gradients_keep_theirs(case: Case) -> None:
    check_gradient_dtypes(case)


@cases
def test_module_is_the_function_and_is_copied_pickled_and_moved(case: Case) -> None:
    check_module(case)


@cases
def test_values_are_never_looked_at(case: Case) -> None:
    check_values_are_not_looked_at(case)


@cases
def test_inputs_are_left_as_they_were(case: Case) -> None:
    check_inputs_are_left(case)


@cases
def test_no_batch_and_empty_inputs_work(case: Case) -> None:
    check_single(case)
    check_empty(case)


@cases
def test_bad_input_is_refused(case: Case) -> None:
    check_refusals(case)
