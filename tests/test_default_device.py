"""A default device of the caller's is for what the caller makes, not for our tables.

Under ``torch.set_default_device("cuda")`` inputs on another device, and what a search
works out on the host, must stay where they are. The default here is ``meta``, whose
tensors have no numbers: whatever is made there by mistake cannot go unnoticed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from device_calls import CPU, FIXED, PLANS, SEARCHED, trained
from device_losses import LOSSES, WAITING, Make

import torch_mlcalc as mlc

CALLS = {**FIXED, **PLANS, **SEARCHED}
PACKAGE = Path(mlc.__file__).parent


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """The default device is one without numbers."""
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", CALLS)
def test_integrals_stay_with_their_inputs(name: str) -> None:
    value = CALLS[name](CPU)
    assert value.device == CPU
    value.sum().backward()
    assert value.isfinite().all()


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("name", [*LOSSES, *WAITING])
def test_losses_stay_with_their_inputs(name: str) -> None:
    make = Make(CPU)
    value = {**LOSSES, **WAITING}[name](make)
    slopes = torch.autograd.grad(value, make.leaves, materialize_grads=True)
    assert all(t.device == CPU and t.isfinite().all() for t in (value, *slopes))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"flat": True}], ids=str)
def test_sgd_steps_where_the_parameters_are(options: dict[str, bool]) -> None:
    assert trained(CPU, **options).device == CPU


#: What makes a tensor of numbers where nothing is said of a device.
MAKERS = "tensor zeros ones empty full arange linspace eye rand randn randint randperm"

#: What is left to the default on purpose: what the caller's numbers are made of.
LEFT = {
    ("integrand.py", "torch.empty(0)"),  # asks where the default is
    ("hazard.py", "torch.as_tensor(breakpoints)"),  # a buffer, as torch's modules do
}


def unsaid(file: Path) -> Iterator[tuple[str, str]]:
    """Calls in a file that make a tensor on the default device."""
    for call in ast.walk(ast.parse(file.read_text())):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        made = call.func.attr in {*MAKERS.split(), "as_tensor"}
        said = any(keyword.arg == "device" for keyword in call.keywords)
        if made and not said and ast.unparse(call.func.value) == "torch":
            yield file.name, ast.unparse(call)


def test_every_tensor_that_is_made_says_where() -> None:
    found = {call for file in PACKAGE.rglob("*.py") for call in unsaid(file)}
    assert found == LEFT
