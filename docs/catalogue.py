"""The pages that are made from the code: the API reference, and the losses.

Names come from the ``__all__`` of each part, losses are sorted by the file or folder
below ``torch_mlcalc/losses`` that holds them. Whoever adds a name has its page.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import torch_mlcalc as mlc
import torch_mlcalc.plot

#: Titles of parts with a page that are not their names; losses have pages of their own.
PART_TITLES = {
    "density": "Densities and expectations",
    "optim": "Optimiser",
    "plot": "Pictures",
    "quadrature": "Integrals",
    "special": "Special functions",
    "testing": "Checks",
}

#: Titles of families that are not their names.
TITLES = {
    "crps": "Continuous ranked probability score",
    "integral": "Losses that are integrals",
    "scores": "Scores of forecasts",
    "validation": "Checks of values",
}

#: Methods that torch and the package call, not people.
INNER = (
    "apply",
    "extra_repr",
    "get_extra_state",
    "nodes",
    "nodes_between",
    "refuse_log",
    "run",
    "set_extra_state",
    "settings",
)


def write(folder: Path) -> None:
    """Write all pages; those that have not changed stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of every page by its name."""
    found = {"loss_table.md": _loss_table()}
    for family, names in families().items():
        module = importlib.import_module(f"torch_mlcalc.losses.{family}")
        head = [f"(losses-{family})=", f"# {_title(family)}", _summary(module)]
        found[f"losses_{family}.md"] = "\n\n".join([*head, _entries(names)])
    for part in parts():
        module = importlib.import_module(f"torch_mlcalc.{part}")
        title = PART_TITLES.get(part, part.capitalize())
        # Some parts keep their names to themselves.
        flat = set(module.__all__) <= set(mlc.__all__)
        entries = _entries([n if flat else f"{part}.{n}" for n in module.__all__])
        found[f"api_{part}.md"] = "\n\n".join([f"# {title}", _summary(module), entries])
    return found


def parts() -> list[str]:
    """The folders and files of the package with public names, but for the losses."""
    found = [module.name for module in pkgutil.iter_modules(mlc.__path__)]
    return [
        part
        for part in found
        if part != "losses"
        and hasattr(importlib.import_module(f"torch_mlcalc.{part}"), "__all__")
    ]


def families() -> dict[str, list[str]]:
    """Names of losses by family, a function before its module."""
    found: dict[str, list[str]] = {}
    for name in mlc.losses.__all__:
        module = getattr(mlc.losses, name).__module__
        family = module.removeprefix("torch_mlcalc.losses.").split(".")[0]
        found.setdefault(family, []).append(name)
    return {
        family: sorted(found[family], key=lambda name: (_key(name), name[0].isupper()))
        for family in sorted(found, key=lambda family: (family == "validation", family))
    }


def _key(name: str) -> str:
    """The same for ``mse_loss`` and ``MSELoss``."""
    return name.replace("_", "").lower()


def _title(family: str) -> str:
    return TITLES.get(family, family.replace("_", " ").capitalize())


def _summary(thing: object) -> str:
    """First paragraph of a docstring, in Markdown."""
    text = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(text.split()).replace("``", "`")


def _loss_table() -> str:
    rows = ["| family | losses |", "| --- | --- |"]
    for family, names in families().items():
        functions = [name for name in names if not name[0].isupper()]
        keys = {_key(name) for name in functions}
        alone = [name for name in names if _key(name) not in keys]
        links = ", ".join(
            f"{{py:obj}}`{name} <torch_mlcalc.{name}>`" for name in functions + alone
        )
        rows.append(f"| [{_title(family)}](#losses-{family}) | {links} |")
    return "\n".join(rows) + "\n"


def _entries(names: list[str]) -> str:
    return "\n\n".join(_entry(name) for name in names) + "\n"


def _entry(name: str) -> str:
    thing: Any = mlc
    for word in name.split("."):
        thing = getattr(thing, word)
    lines = ["```{eval-rst}", f".. autofunction:: torch_mlcalc.{name}", "```"]
    if inspect.isclass(thing):
        lines[1] = f".. autoclass:: torch_mlcalc.{name}"
        own = [member for member in vars(thing) if _is_shown(thing, member)]
        lines[2:2] = [f"   :members: {', '.join(own)}"] if own else []
    return "\n".join(lines)


def _is_shown(cls: type, member: str) -> bool:
    """Whether a class has it first, with a docstring, for people to call."""
    ours = [c for c in cls.__mro__[1:] if c.__module__.startswith("torch_mlcalc.")]
    return (
        not member.startswith("_")
        and member not in INNER
        and hasattr(vars(cls)[member], "__get__")  # methods and properties
        and bool(inspect.getdoc(getattr(cls, member)))
        and not any(member in vars(c) for c in ours)
    )
