"""What pages of documentation hold, and how their code is run."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Block(NamedTuple):
    """A fenced block: its language and what it holds."""

    language: str
    content: str


def read(*names: str) -> dict[str, str]:
    """Pages by name."""
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in names}


def blocks(page: str) -> list[Block]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(*fence) for fence in fences]


def python_blocks(pages: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return code and output by name; the block after the code is its output."""
    found = {}
    for name, page in pages.items():
        pairs = itertools.pairwise([*blocks(page), Block("", "")])
        for i, (code, after) in enumerate(pairs):
            if code.language == "python":
                output = after.content if after.language == "text" else ""
                found[f"{name}[{i}]"] = (code.content, output)
    return found


def words(text: str) -> list[str]:
    """Split at white space, since the pages wrap long lines."""
    return text.split()


def run_code(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    # A file and a module, for torch.compile looks up both.
    script = folder / "code_of_a_page.py"
    script.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(script.stem, script)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, script.stem, module)
    spec.loader.exec_module(module)
    return module


def make_targets(page: str) -> list[str]:
    return re.findall(r"(?:^ {4}|`)make (\w+)", page, re.MULTILINE)


def existing_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^(\w+):", makefile, re.MULTILINE))


def files_named(page: str) -> list[str]:
    return re.findall(
        r"(?:[\w.]+/)+\w+\.py\b|(?<!/)\b[A-Z]+\.md\b|\b\w+\.t(?:xt|oml)\b", page
    )


def linked_files(page: str) -> list[str]:
    """Targets of links within the repository, without their anchors."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page)
    return [target for target in targets if "://" not in target]
