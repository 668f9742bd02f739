"""Two gloo processes: DDP and FSDP2 training equals that of one process."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gloo import run_in_processes

PROGRAM = Path(__file__).with_name("distributed_training.py")

#: The names of its table of cases; the last test says that none is missing.
NAMES = (
    "ddp",
    "ddp with views of buckets, flat",
    "ddp, Polyak",
    "fsdp",
    "fsdp, foreach",
    "fsdp, Armijo",
    "mixed",
    "mixed, foreach",
)
Results = dict[str, dict[str, list[float]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """Run all cases in two processes, which takes long to start."""
    return run_in_processes(PROGRAM, 2, tmp_path_factory.mktemp("gloo"))


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(name: str, results: list[Results]) -> None:
    first, second = (each["found"][name] for each in results)
    assert first == second
    alone = torch.tensor(results[0]["alone"][name], dtype=torch.float64)
    # The mean of two halves is rounded otherwise than the mean of the whole.
    found = torch.tensor(first, dtype=torch.float64)
    torch.testing.assert_close(found, alone, rtol=1e-11, atol=1e-14)


def test_every_case_is_looked_at(results: list[Results]) -> None:
    assert tuple(results[0]["found"]) == NAMES
