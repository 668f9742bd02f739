"""What the pages of the site say is so: code, output, names, files."""

from __future__ import annotations

import ast
import importlib.util
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
import torch.nn.functional as F
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
from torch import Tensor, nn

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
    public = {"plot": plot, **{name: getattr(mlc, name) for name in mlc.__all__}}
    parts = {n: thing for n, thing in public.items() if isinstance(thing, ModuleType)}
    wanted = [f"{n}.{name}" for n, part in parts.items() for name in part.__all__]
    wanted += public.keys() - parts.keys()
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


# ---- what the pages say besides ------------------------------------------------------


def imported(part: Path) -> set[str]:
    """Other parts of the package that a file, or those of a folder, import anywhere."""
    found = set()
    for path in part.rglob("*.py") if part.is_dir() else [part]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                found |= set(re.findall(r"^torch_mlcalc\.(\w+)", node.module))
    return found - {part.name, "precision"}


def test_parts_import_what_the_page_says_and_never_back() -> None:
    page = PAGES["docs/design.md"]
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page, re.MULTILINE)
    package = Path(mlc.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    assert {part for part, _ in rows} == folders
    above: set[str] = set()
    for part, cell in rows:
        stated = set(re.findall(r"`(\w+)`", cell))
        assert imported(package / part) == stated, part
        assert stated <= above, part
        above.add(part)
    families = [p for p in (package / "losses").iterdir() if p.name != "__pycache__"]
    with_others = {path.name for path in families if imported(path) - {"losses"}}
    assert with_others == {"classification", "crps", "integral", "robust"}


def test_files_on_the_way_of_a_call_exist() -> None:
    page = blocks(PAGES["docs/design.md"])
    (way,) = (block.content for block in page if block.language == "text")
    files = set(re.findall(r"\b\w+\.py\b", way))
    assert len(files) > 20
    for name in files:
        assert list((ROOT / "torch_mlcalc" / "quadrature").rglob(name)), name


def test_the_checked_loss_is_sound_without_detach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (check,) = (
        code for code, _ in python_blocks(PAGES).values() if "relative_error" in code
    )
    run_code(check.replace(".detach()", ""), tmp_path, monkeypatch)
    assert capsys.readouterr().out == ""


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


def test_autocast_makes_an_adaptive_rule_divide() -> None:
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 1))

    def points(enabled: bool, rtol: float | None = None) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            found = mlc.integrate_with_error(
                lambda x: net(x[..., None])[..., 0], mlc.Interval(0, 1), rtol=rtol
            )
        return found.n_evals.item()

    assert "`rtol=3e-2`" in PAGES["docs/precision.md"]
    assert points(True) > 200 * points(False)
    assert points(True, 3e-2) < 50 * points(False)


def test_a_network_in_float64_needs_limits_that_are() -> None:
    net = nn.Linear(1, 1).double()

    def integral(end: float | Tensor) -> Tensor:
        return mlc.integrate(lambda x: net(x[..., None])[..., 0], mlc.Interval(0, end))

    with pytest.raises(RuntimeError, match="mat1 and mat2 must have the same dtype"):
        integral(1.0)
    assert integral(torch.tensor(1.0, dtype=torch.float64)).dtype == torch.float64


def migrations(title: str) -> list[tuple[str, str]]:
    """Calls in the two columns of a table of docs/migration.md."""
    page = PAGES["docs/migration.md"].split(f"## From {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w.*?)`.*? \| `(.*?)`.*? \|$", page, re.MULTILINE)
    return [row for row in rows if row[0].endswith(")")]


def of_two(x: Tensor) -> Tensor:
    return x[..., 0] * x[..., 1]


#: What the calls of SciPy and ours are written with.
GIVEN = {
    "a": 0.5,
    "b": 2.0,
    "c": 0.9,
    "p": 0.7,
    # Of floats, arrays and tensors.
    "f": lambda x, p=1.5: x**2 * 2.0 ** (-p * x),
    "g": of_two,
    "h": lambda y, x: x * y,
    "k": lambda x: x[0] * x[1],
}


@pytest.mark.parametrize(("theirs", "ours"), migrations("scipy.integrate"))
def test_calls_of_scipy_and_ours_give_the_same(theirs: str, ours: str) -> None:
    samples = np.linspace(0, 1, 5)
    theirs_alone = {**vars(scipy.integrate), "np": np, "x": samples, "y": samples**3}
    # Without points of its own it draws others in each run, some 1e-3 off.
    halton = scipy.stats.qmc.Halton(2, rng=0)
    theirs_alone["qmc_quad"] = partial(scipy.integrate.qmc_quad, qrng=halton)
    wanted = eval(theirs, {**theirs_alone, **GIVEN})
    x = torch.as_tensor(samples)
    found = eval(ours, {**vars(mlc), **GIVEN, "math": math, "x": x, "y": x**3})
    for name in ("integral", "estimate"):
        wanted = getattr(wanted, name, wanted)
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    found = getattr(found, "value", found)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_the_table_of_scipy_is_tried() -> None:
    assert len(migrations("scipy.integrate")) == 12


def test_the_call_of_torchquad_and_ours_give_the_same() -> None:
    calls = [row for row in migrations("torchquad") if "integration_domain" in row[0]]
    ((theirs, ours),) = calls
    torchquad = pytest.importorskip("torchquad")
    wanted = eval(theirs, {**vars(torchquad), "f": lambda x: x[:, 0].exp()})
    found = eval(ours, {**vars(mlc), "f": torch.exp})
    torch.testing.assert_close(found, torch.as_tensor(wanted), rtol=1e-6, atol=0)


def test_the_call_of_gpytorch_and_ours_give_the_same() -> None:
    ((theirs, ours),) = migrations("GPyTorch's quadrature")
    quadratures = pytest.importorskip("gpytorch.utils.quadrature")
    given = {"Normal": torch.distributions.Normal, "f": torch.sigmoid}
    given |= {"m": torch.tensor([0.0, 2.0]), "s": torch.tensor([1.0, 0.5])}
    wanted = eval(theirs, {**vars(quadratures), **given})
    torch.testing.assert_close(eval(ours, {**vars(mlc), **given}), wanted)
