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
from torch import nn

import torch_mlcalc as mlc

PAGES = read("README.md", "CONTRIBUTING.md")
README = PAGES["README.md"]


def python_blocks() -> dict[str, tuple[str, str]]:
    return blocks_of(PAGES)


def section(title: str) -> str:
    """What is below a heading, up to the next of its level or a higher one."""
    (level,) = re.findall(rf"^(#+) {title}$", README, re.MULTILINE)
    after = re.split(rf"^{level} {title}$", README, flags=re.MULTILINE)[1]
    return re.split(rf"^#{{2,{len(level)}}} ", after, flags=re.MULTILINE)[0]


def in_table(title: str) -> list[str]:
    """Names and files in the rows of the tables of a section."""
    rows = re.findall(r"^\| .*? \|$", section(title), re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([\w./]+)`", row)]


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


def contributed(word: str, run: Callable[[str], ModuleType]) -> ModuleType:
    """The module that CONTRIBUTING writes for a loss, a rule or a domain."""
    (code,) = (
        code
        for name, (code, _) in python_blocks().items()
        if "CONTRIBUTING" in name and word in code
    )
    assert len(code.splitlines()) <= 30
    return run(code)


def test_the_loss_in_contributing_is_right(run: Callable[[str], ModuleType]) -> None:
    loss = contributed("overshoot_loss", run).OvershootLoss()
    input = torch.tensor([3.0, -1.0, 1.5], requires_grad=True)
    target = torch.tensor([1.0, 1.0, 1.0])
    weight = torch.tensor([1.0, 2.0, 1.0])
    assert loss(input, target).item() == pytest.approx(4.25 / 3)
    assert loss(input, target, weight).item() == pytest.approx(4.25 / 4)
    mlc.testing.check_gradients(loss, (input, target, weight))


def test_the_rule_in_contributing_is_right(run: Callable[[str], ModuleType]) -> None:
    rule = contributed("Midpoint", run).Midpoint
    for n in (1, 2, 7):
        mlc.testing.check_rule(rule(n))
    with pytest.raises(ValueError, match="n is 0"):
        rule(0)
    upper = torch.tensor([1.0, 2.0], dtype=torch.float64)
    value = mlc.integrate(torch.exp, mlc.Interval(0, upper), rule(2000))
    torch.testing.assert_close(value, upper.expm1(), rtol=1e-6, atol=0)


def test_the_domain_in_contributing_is_right(run: Callable[[str], ModuleType]) -> None:
    around = contributed("Around", run).Around
    centre = torch.tensor([0.3, 2.0], dtype=torch.float64, requires_grad=True)
    radius = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    for rule in (None, mlc.GaussLegendre(16)):
        value = mlc.integrate(torch.exp, around(centre, radius), rule)
        exact = 2 * centre.exp() * radius.sinh()
        torch.testing.assert_close(value, exact)
        slopes = torch.autograd.grad(value.sum(), (centre, radius))
        wanted = torch.autograd.grad(exact.sum(), (centre, radius))
        torch.testing.assert_close(slopes, wanted)
    density = mlc.NormalizedDensity(torch.zeros_like, around(centre, radius))
    torch.testing.assert_close(density.mean, centre)
    with pytest.raises(ValueError, match="radius is -1; it must be positive"):
        around(0.0, -1)


def test_the_table_of_patients_is_what_the_example_finds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples")
    example = importlib.import_module("mixed_model")
    groups, published = example.load("toenail")
    rows = re.findall(r"^\| .*? \| (-6.*?) \| (.*?) ?\|$", README, re.MULTILINE)
    assert len(rows) == 3
    assert len(groups.trials) == 294
    for (likelihood, sigma), nodes in zip(rows, (1, None), strict=False):
        found = example.fit(groups, nodes)
        # Another processor rounds otherwise, on the way to a maximum.
        assert found.log_likelihood == pytest.approx(float(likelihood), abs=2e-8)
        assert found.sigma == pytest.approx(float(sigma), abs=1e-4)
    assert float(rows[2][0]) == published["log likelihood"]


def test_the_comparison_is_that_of_the_results() -> None:
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    found = re.findall(
        r"\| rtol 1e-8 on (\d+) integrals: .*? \| .*? \| right on ([\d.]+ %); claims "
        r"success and is wrong on (\d+), and on (\d+) of (\d+) divergent ones",
        results,
    )
    assert len(found) == 4
    for i, row in enumerate(("right, and", "says so, and is", "says so of"), 1):
        (cells,) = re.findall(rf"^\| {row} .*? \| (.*) \|$", README, re.MULTILINE)
        shown = [cell.strip("* ") for cell in cells.split("|")]
        assert shown == [method[i] for method in found], row
    known, _, _, _, divergent = found[0]
    assert f"On {known} integrals" in README
    assert f"on {divergent} that" in README


def test_every_loss_is_in_the_table_once() -> None:
    modules = {
        name
        for name in mlc.losses.__all__
        if isinstance(getattr(mlc, name), type)
        and issubclass(getattr(mlc, name), nn.Module)
    }
    names = in_table("Losses")
    assert len(names) == len(set(names))
    assert modules <= set(names)


def test_closed_forms_are_counted() -> None:
    closed = [n for n in mlc.losses.__all__ if n.startswith("crps_")]
    closed.remove("crps_loss")
    assert f"in closed form for {len(closed)} families" in README


def test_every_example_is_in_the_table_once() -> None:
    scripts = [
        f"examples/{path.name}"
        for path in (ROOT / "examples").glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    ]
    assert sorted(in_table("Examples")) == sorted(scripts)


NAMES = [
    name
    for name in in_table("What is inside")
    if "/" not in name and not name.startswith("torch.")
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_the_tables_can_be_imported(name: str) -> None:
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
    (version,) = re.findall(r"Python [\d. and]+ and torch ([\d.]+),", README)
    assert f"torch=={version}" in pins
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (minimum,) = re.findall(r"They need Python ([\d.]+) or newer", README)
    assert f'requires-python = ">={minimum}"' in project
