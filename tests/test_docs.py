"""What the pages of the site say is so: code, output, names, files."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from pages import (
    ROOT,
    blocks,
    existing_targets,
    files_named,
    linked_files,
    make_targets,
    python_blocks,
    read,
    run_code,
    words,
)

import torch_mlcalc as mlc
from torch_mlcalc import plot

DOCS = ROOT / "docs"
PAGES = read(*sorted(f"docs/{path.name}" for path in DOCS.glob("*.md")))


@pytest.fixture(scope="module")
def catalogue() -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogue", DOCS / "catalogue.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_language_that_is_checked(page: str) -> None:
    text = PAGES[page]
    assert text.count("```") == 2 * len(blocks(text))
    assert {block.language for block in blocks(text)} <= {"python", "text"}


@pytest.mark.parametrize(
    ("code", "output"), python_blocks(PAGES).values(), ids=python_blocks(PAGES)
)
def test_code_prints_what_the_page_shows(
    code: str,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run_code(code, tmp_path, monkeypatch)
    assert words(capsys.readouterr().out) == words(output)


@pytest.mark.parametrize("page", PAGES)
def test_targets_files_and_links_exist(page: str) -> None:
    text = PAGES[page]
    assert set(make_targets(text)) <= existing_targets()
    for path in files_named(text):
        assert (ROOT / path).exists(), path
    for target in linked_files(text):
        assert (DOCS / target).exists(), target


def test_every_public_name_has_one_entry(catalogue: ModuleType) -> None:
    entries = re.findall(
        r"auto(?:function|class):: torch_mlcalc\.(\S+)",
        "\n".join(catalogue.pages().values()),
    )
    wanted = set(mlc.__all__) - {"testing"}
    wanted |= {f"testing.{name}" for name in mlc.testing.__all__}
    wanted |= {f"plot.{name}" for name in plot.__all__}
    assert sorted(entries) == sorted(wanted)


def test_every_loss_is_in_the_table_of_its_family(catalogue: ModuleType) -> None:
    table = catalogue.pages()["loss_table.md"]
    functions = [name for name in mlc.losses.__all__ if name.islower()]
    assert functions
    for name in functions:
        (row,) = [row for row in table.splitlines() if f"torch_mlcalc.{name}>" in row]
        family = re.search(r"losses-(\w+)", row).group(1)
        assert f"torch_mlcalc.{name}\n" in catalogue.pages()[f"losses_{family}.md"]


def test_a_function_stands_before_its_module(catalogue: ModuleType) -> None:
    names = catalogue.families()["regression"]
    assert names.index("huber_loss") + 1 == names.index("HuberLoss")


def test_methods_are_listed_where_they_come_from(catalogue: ModuleType) -> None:
    text = catalogue.pages()["api_quadrature.md"]
    (fixed,) = re.findall(r"autoclass:: torch_mlcalc.FixedRule\n(.*)\n", text)
    assert "nodes_and_weights" in fixed
    (gauss,) = re.findall(r"autoclass:: torch_mlcalc.GaussLegendre\n(.*)\n", text)
    assert gauss == "```"


def test_pages_are_written_once(catalogue: ModuleType, tmp_path: Path) -> None:
    catalogue.write(tmp_path / "new")
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "new").iterdir()}
    assert {path.name for path in first} == set(catalogue.pages())
    catalogue.write(tmp_path / "new")
    assert first == {path: path.stat().st_mtime_ns for path in first}
