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

from torch_mlcalc.losses import EnsembleCRPSLoss, ensemble_crps_loss

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
