"""Settings shared by all tests."""

import gc
from collections.abc import Generator, Iterator

import pytest
import torch

# For a GPU that may come, torch.manual_seed keeps the stack as text: a millisecond or
# two in each of more than 10 000 tests.
_there_is_one = torch.accelerator.is_available()
_seed = torch.manual_seed if _there_is_one else torch.default_generator.manual_seed


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the tests, which are there to the end, from a search for garbage.

    They and what they import are 800 000 objects; a search takes 0.3 s. It is made once
    and not eleven times while they come, and leaves them alone afterwards.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


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
