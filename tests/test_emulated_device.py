"""On an emulated device the package gives the same numbers, and mixes nothing up.

Unlike ``test_device``, whose tensors have no numbers, this sees adaptive rules and all
losses; unlike ``test_gpu``, it needs no GPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from device_calls import FIXED, PLANS, SEARCHED
from device_losses import LOSSES, WAITING

import torch_mlcalc as mlc

PROGRAM = Path(__file__).with_name("emulated_device.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("emulated") / "results.json"
    found = subprocess.run(
        [sys.executable, str(PROGRAM), str(path)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [*FIXED, *PLANS, *SEARCHED, *LOSSES, *WAITING])
def test_values_and_gradients_are_those_of_the_host(
    name: str, results: dict[str, Any]
) -> None:
    # By the same kernels, but for single integrals, which the host adds up with numpy.
    assert results["compared"][name] == {
        "there": True,
        "apart": pytest.approx(0, abs=1e-12),
    }


@pytest.mark.parametrize("name", [*FIXED, *LOSSES])
def test_the_host_waits_for_nothing(name: str, results: dict[str, Any]) -> None:
    assert results["waits"][name] == []


def test_plans_are_applied_without_waiting(results: dict[str, Any]) -> None:
    assert len(results["plans wait"]) == 8
    assert not any(results["plans wait"].values()), results["plans wait"]


def test_plans_move_with_their_layer(results: dict[str, Any]) -> None:
    assert results["layer"] == {"there": True, "apart": pytest.approx(0, abs=1e-6)}


def test_sgd_steps_there(results: dict[str, Any]) -> None:
    for found in results["training"]:
        assert found == {"there": True, "apart": pytest.approx(0, abs=1e-6)}


def test_the_device_refuses_and_tells(results: dict[str, Any]) -> None:
    assert "got a tensor on the host" in results["mixed"]
    kinds = [name.split(".")[1] for name in results["reading"]]
    assert kinds == ["copy_", "_to_copy", "_local_scalar_dense", "index"]


def test_every_loss_is_tried() -> None:
    tried = {name.split(",")[0] for name in (*LOSSES, *WAITING)}
    others = {"register_crps", "set_default_validate"}
    assert {name for name in mlc.losses.__all__ if name.islower()} - others <= tried
