"""What the README and CONTRIBUTING say is so: code, output, names, commands, files."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from pages import (
    ROOT,
    blocks,
    existing_targets,
    files_named,
    linked_files,
    make_targets,
    read,
    run_code,
    words,
)
from pages import python_blocks as blocks_of
from torch import Tensor
from tqdm import tqdm

import torch_mlcalc as mlc

PAGES = read("README.md", "CONTRIBUTING.md")
README = PAGES["README.md"]


def python_blocks() -> dict[str, tuple[str, str]]:
    return blocks_of(PAGES)


def names_in_table() -> list[str]:
    rows = re.findall(r"^\| (`.*?) \|", README.split("## What is inside")[1], re.M)
    return [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    def run(code: str) -> ModuleType:
        return run_code(code, tmp_path, monkeypatch)

    return run


def test_every_block_is_of_a_language_that_is_checked() -> None:
    for page in PAGES.values():
        assert page.count("```") == 2 * len(blocks(page))
        assert {block.language for block in blocks(page)} <= {"python", "text"}


@pytest.mark.parametrize(
    ("code", "output"), python_blocks().values(), ids=python_blocks()
)
def test_code_prints_what_the_page_shows(
    code: str,
    output: str,
    run: Callable[[str], ModuleType],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(code)
    assert words(capsys.readouterr().out) == words(output)


def test_the_squared_error_is_misled_as_stated(
    run: Callable[[str], ModuleType],
) -> None:
    fit = next(code for code, _ in python_blocks().values() if "HuberLoss" in code)
    code = fit.replace("HuberLoss(delta=0.1)", "MSELoss()").replace("lr=0.5", "lr=0.1")
    intercept = run(code).model.bias.item()
    assert f"the intercept would be {intercept:.2f}." in README


def test_the_checked_loss_is_sound_without_detach(
    run: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    check = next(code for code, _ in python_blocks().values() if "detach" in code)
    run(check.replace(".detach()", ""))
    assert capsys.readouterr().out == ""


def test_the_loss_in_contributing_is_right(
    run: Callable[[str], ModuleType],
) -> None:
    ((code, _),) = (
        block for name, block in python_blocks().items() if "CONTRIBUTING" in name
    )
    assert len(code.splitlines()) <= 30
    loss = run(code).OvershootLoss()
    input = torch.tensor([3.0, -1.0, 1.5], requires_grad=True)
    target = torch.tensor([1.0, 1.0, 1.0])
    weight = torch.tensor([1.0, 2.0, 1.0])
    assert loss(input, target).item() == pytest.approx(4.25 / 3)
    assert loss(input, target, weight).item() == pytest.approx(4.25 / 4)
    mlc.testing.check_gradients(loss, (input, target, weight))


def test_table_of_digits_is_what_the_example_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = importlib.import_module("linear_regression")
    bar = tqdm(disable=True)
    example.print_table([example.fit(p, bar) for p in example.load_problems().values()])
    printed = capsys.readouterr().out.splitlines()
    shown = next(b for b in blocks(README) if b.language == "text").content.splitlines()
    assert len(printed) == len(shown) == 15
    assert printed[:2] + printed[-2:] == shown[:2] + shown[-2:]
    for ours, theirs in zip(shown[2:-2], printed[2:-2], strict=True):
        # Name, condition number of the basis, steps, digits after each refinement. What
        # is left out is all rounding, and another processor rounds otherwise.
        columns = (0, 2, 3, 6, 7)
        assert [ours.split()[i] for i in columns] == [
            theirs.split()[i] for i in columns
        ]


def hessian_vector_product(loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    x = torch.tensor([0.5, 2.0])
    gradient = torch.func.grad(lambda x: loss(x, torch.zeros_like(x)))
    return torch.func.jvp(gradient, (x,), (torch.ones_like(x),))[1]


# torch writes its forward-mode rules in TorchScript, which it has deprecated.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["mse_loss", "huber_loss"])
def test_hessian_vector_products_fail_in_torch_alone(name: str) -> None:
    assert hessian_vector_product(getattr(mlc, name)).isfinite().all()
    with pytest.raises(RuntimeError):
        hessian_vector_product(getattr(F, name))


def test_torch_weights_its_losses_as_stated() -> None:
    input, target, weight = torch.tensor([1.0, 3.0]), torch.zeros(2), torch.ones(2) * 2
    ratio = {
        name: getattr(F, name)(input, target, weight=weight)
        / getattr(mlc, name)(input, target, weight=weight)
        for name in ("mse_loss", "l1_loss", "huber_loss")
    }
    assert ratio == {"mse_loss": 1, "l1_loss": 1, "huber_loss": 2}
    with pytest.raises(TypeError, match="weight"):
        F.smooth_l1_loss(input, target, weight=weight)


def test_smooth_l1_overflows_in_torch_alone() -> None:
    residual, target = torch.tensor([1e24]), torch.zeros(1)
    ours = mlc.smooth_l1_loss(residual, target, beta=1e25)
    assert ours.item() == pytest.approx(5e22)
    assert F.smooth_l1_loss(residual, target, beta=1e25).isinf()


def test_every_public_name_is_in_the_table_once() -> None:
    names = names_in_table()
    assert len(names) == len(set(names))
    assert {name.partition(".")[0] for name in names} == set(mlc.__all__)
    in_testing = {name for name in names if name.startswith("testing.")}
    assert in_testing == {f"testing.{name}" for name in mlc.testing.__all__}


@pytest.mark.parametrize("name", names_in_table())
def test_every_name_in_the_table_can_be_imported(name: str) -> None:
    attrgetter(name)(mlc)


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = set(make_targets(PAGES[page]))
    assert {"example", "test"} <= targets <= existing_targets()


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_exists(page: str) -> None:
    paths = files_named(PAGES[page])
    assert paths
    for path in [*paths, *linked_files(PAGES[page])]:
        assert (ROOT / path).exists(), path


def test_versions_are_those_that_are_pinned() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (version,) = re.findall(r"Python [\d.]+ and torch ([\d.]+),", README)
    assert f"torch=={version}" in pins
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (minimum,) = re.findall(r"They need Python ([\d.]+) or newer", README)
    assert f'requires-python = ">={minimum}"' in project
