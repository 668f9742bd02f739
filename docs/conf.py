"""Settings of Sphinx; every warning is an error, and nothing is fetched."""

from __future__ import annotations

import sys
from pathlib import Path
from pkgutil import resolve_name
from typing import TypeVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import catalogue  # noqa: E402 (they are beside this file)
import pictures  # noqa: E402

import torch_mlcalc as mlc  # noqa: E402

project = "torch_mlcalc"
author = "The torch_mlcalc authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "generated/loss_table.md"]
html_theme = "furo"
html_title = "torch_mlcalc"
html_copy_source = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

nitpicky = True


#: Short names in signatures, and what they stand for.
SHORT = {
    "Tensor": "torch.Tensor",
    "Axes": "matplotlib.axes.Axes",
    "Distribution": "torch.distributions.Distribution",
    "ProcessGroup": "torch.distributed.ProcessGroup",
}

#: Libraries that are not linked.
OTHERS = ("collections", "matplotlib", "numpy", "torch")

#: Types of the package that have no page: what they are is said where they are used.
UNSEEN = (
    "Breakpoints",
    "Function",
    "Loss",
    "torch_mlcalc.optim.step_size.Along",
    "torch_mlcalc.quadrature.domains.Extent",
)


def of_others(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.Element | None:
    """Leave a reference to another library as it is, if there is such a thing.

    Other libraries are not linked, for that takes the network; a name that does not
    exist stays the error that it is.

    Returns:
        What to show, or None to warn.
    """
    target = SHORT.get(node["reftarget"], node["reftarget"])
    if target in UNSEEN:
        return text
    if target in mlc.__all__:  # in an annotation of a part with names of its own
        where = node["refdoc"], app.builder, "class", f"torch_mlcalc.{target}"
        return env.domains.python_domain.resolve_xref(env, *where, node, text)
    try:
        found = resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return None
    if isinstance(found, TypeVar):
        return text
    return text if target.split(".")[0] in OTHERS else None


def write(_app: Sphinx) -> None:
    """Write the pages and pictures that are made from the code."""
    catalogue.write(HERE / "generated")
    pictures.draw(HERE / "generated")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("builder-inited", write)
    app.connect("missing-reference", of_others)
