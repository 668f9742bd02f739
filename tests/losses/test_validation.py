"""The setting of whether losses look at values, and the check that they share."""

from collections.abc import Iterator

import pytest
import torch

import torch_mlcalc as mlc
from torch_mlcalc.losses.validation import check_values, is_validated


@pytest.fixture(autouse=True)
def default() -> Iterator[None]:
    yield
    mlc.set_default_validate(False)


def test_values_are_not_checked_by_default() -> None:
    assert not is_validated(None)


def test_the_setting_is_what_none_means() -> None:
    mlc.set_default_validate(True)
    assert is_validated(None)
    assert not is_validated(False)
    mlc.set_default_validate(False)
    assert is_validated(True)


@pytest.mark.parametrize("value", [1, "yes"])
def test_a_flag_is_a_bool(value: object) -> None:
    with pytest.raises(TypeError, match="validate must be True, False or None"):
        is_validated(value)
    with pytest.raises(TypeError, match="validate must be True, False or None"):
        mlc.set_default_validate(value)


def test_the_first_value_out_of_range_is_named() -> None:
    value = torch.tensor([[1.0, 2.0], [-3.0, -4.0]])
    check_values("scale", value, value > -5, "must exceed -5")
    with pytest.raises(ValueError, match=r"scale must be .* -3.0 at \[1, 0\] \(2 of 4"):
        check_values("scale", value, value > 0, "must be positive")


def test_a_single_value_has_no_place() -> None:
    value = torch.tensor(-1.0)
    with pytest.raises(ValueError, match=r"must be positive, got -1.0 \(1 of 1\)"):
        check_values("scale", value, value > 0, "must be positive")
