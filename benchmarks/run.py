"""Run the benchmarks and write their tables; ``make bench`` sets up and calls this."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Mapping
from importlib import metadata
from inspect import signature
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent

#: Modules with ``rows() -> list[dict]``, which may take ``quick``, and perhaps a
#: ``TITLE``; one that is not there is left out. A row has "name", "asked", "reached",
#: "how", and may have "met": None where nothing was asked for.
SECTIONS = (
    "integrals_1d",
    "integrals_nd",
    "integrals_random",
    "densities",
    "losses",
    "losses_hazard",
    "losses_scores",
    "losses_crps",
    "losses_likelihood",
    "sgd",
)

ENDED_EARLY = "**ended early**"


def main() -> int:
    """Run the sections asked for; with all of them, write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=str(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument("--output", type=Path, help="default: RESULTS.md beside this")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")

    report = [_machine()]
    for name in options.sections or SECTIONS:
        if (HERE / f"{name}.py").exists():
            report.append(_section(name, options.quick))
    complete = not options.sections and not options.quick
    output = options.output or (HERE / "RESULTS.md" if complete else None)
    if output:
        output.write_text("\n".join(report))
    return int(any(ENDED_EARLY in section for section in report))


def _section(name: str, quick: bool) -> str:
    start = time.perf_counter()
    # Whatever the section before has set; each sets what it needs.
    torch.set_default_dtype(torch.float32)
    module = importlib.import_module(name)
    options = {"quick": quick} if "quick" in signature(module.rows).parameters else {}
    lines = [
        f"## {getattr(module, 'TITLE', name.replace('_', ' ').capitalize())}\n",
        "| figure | asked | reached | met | how |",
        "| --- | --- | --- | --- | --- |",
    ]
    try:
        for row in module.rows(**options):
            lines.append(_line(row))
            print(lines[-1], flush=True)
    except Exception as error:  # the table shows it, and the other sections go on
        traceback.print_exc()
        lines.append(f"| {ENDED_EARLY} | | {_cell(repr(error))} | **no** | |")
    minutes = (time.perf_counter() - start) / 60
    lines.append(f"\nThis section took {minutes:.1f} minutes.\n")
    return "\n".join(lines)


def _line(row: Mapping[str, object]) -> str:
    met = {True: "yes", False: "**no**", None: ""}[row.get("met")]
    cells = (row["name"], row["asked"], row["reached"], met, row["how"])
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _machine() -> str:
    packages = ("torch_mlcalc", "torch", "numpy", "scipy", "torchquad")
    versions = [f"{name} {metadata.version(name)}" for name in packages]
    return (
        "# Results of `make bench`\n\n"
        f"{_processor()}, {torch.get_num_threads()} threads; "
        f"{platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, {', '.join(versions)}. "
        # Others on the machine distort ratios too: with threads waiting for each other,
        # 16 k cosines took 0.4 ms on one thread and 40 ms on two, at a load of 9.
        f"Load average at the start {os.getloadavg()[0]:.1f}. "
        "Times are medians of calls that took turns; ratios are of such medians.\n"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or "an unknown processor"


if __name__ == "__main__":
    sys.exit(main())
