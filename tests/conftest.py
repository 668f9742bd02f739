"""Settings shared by all tests."""

from collections.abc import Iterator

import pytest
import torch

# For a GPU that may come, torch.manual_seed keeps the stack as text: a millisecond or
# two in each of more than 10 000 tests.
_there_is_one = torch.accelerator.is_available()
_seed = torch.manual_seed if _there_is_one else torch.default_generator.manual_seed


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    _seed(0)


@pytest.fixture
def double() -> Iterator[None]:
    """Double precision by default, as long as a test runs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
