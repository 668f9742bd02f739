"""Two gloo processes: DDP and FSDP2 training equals that of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

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
    folder = tmp_path_factory.mktemp("gloo")
    processes = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(rank), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error
    files = [folder / f"{rank}.json" for rank in range(2)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


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
