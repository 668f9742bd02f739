"""The wheel, built as it would be published, has everything and works on its own."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "torch_mlcalc"


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution, and the wheel from that."""
    folder = tmp_path_factory.mktemp("dist")
    # The build backend is installed and pinned: nothing is fetched.
    run("-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (found,) = folder.glob("*.whl")
    return found


def test_it_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    own = {name for name in names if ".dist-info/" not in name}
    files = (path for path in PACKAGE.rglob("*") if path.is_file())
    there = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if "__pycache__" not in path.parts
    }
    assert own == there
    data = {Path(name).name for name in own if not name.endswith(".py")}
    assert data == {"py.typed", "lattice_vector.json"}
    rest = {name.split(".dist-info/")[1] for name in names - own}
    assert rest == {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}


def test_it_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    install = ["install", "--no-deps", "--no-index", "--target", folder, wheel]
    run("-m", "pip", "--disable-pip-version-check", *install)
    result = run(
        ROOT / "tests" / "wheel_smoke.py",
        folder,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert f"works from {folder}" in result.stdout
    assert not result.stderr
