"""Run the benchmarks and write their tables; ``make bench`` sets up and calls this."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from inspect import signature
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peer import ROOT
from tqdm import tqdm

HERE = Path(__file__).resolve().parent

#: Modules with ``rows()``, which gives rows and may take ``quick``, and perhaps with a
#: ``TITLE``. A row has "name", "asked", "reached" and "how", and may have "met": None
#: where nothing was asked for.
SECTIONS = (
    "integrals_1d",
    "integrals_padaquad",
    "integrals_nd",
    "integrals_random",
    "densities",
    "normalizers",
    "losses",
    "losses_hazard",
    "losses_scores",
    "losses_crps",
    "losses_likelihood",
    "sgd",
    "on_gpu",
)

#: What is compared with, and where it is installed if not beside this package.
PEERS = (
    "scipy",
    "torchquad",
    "padaquad",
    "vegas",
    "scoringrules",
    "torchmetrics",
    "torchsurv",
)
JAX_PEERS = ("jax", "quadax")

ENDED_EARLY = "**ended early**"

#: A copy of this process, which has done nothing yet, is there at once.
FORK = multiprocessing.get_context("fork")


class Section(NamedTuple):
    """What a section has found, and how long it took."""

    title: str
    rows: Sequence[Mapping[str, object]]
    minutes: float
    load: float

    @property
    def ended_early(self) -> bool:
        """Whether it ended in an error, which is its last row."""
        return any(row["name"] == ENDED_EARLY for row in self.rows)

    def __str__(self) -> str:
        """The table, and below it how each of its rows came about."""
        hows = [f"{n}. {_cell(r.get('how', ''))}" for n, r in enumerate(self.rows, 1)]
        lines = [
            f"## {self.title}\n",
            f"{len(self.reached)} of {len(self.asked)} figures are reached, in "
            f"{self.minutes:.1f} minutes; load average at the end {self.load:.1f}.\n",
            "| | figure | asked | reached | met |",
            "| --- | --- | --- | --- | --- |",
            *(f"| {n} {_line(row)}" for n, row in enumerate(self.rows, 1)),
            "",
            *hows,
            "",
        ]
        return "\n".join(lines)

    @property
    def asked(self) -> list[Mapping[str, object]]:
        """The rows of which something was asked."""
        return [row for row in self.rows if row.get("met") is not None]

    @property
    def reached(self) -> list[Mapping[str, object]]:
        """Those of them that were reached."""
        return [row for row in self.asked if row["met"]]


def main() -> int:
    """Run the sections asked for; with all of them, write RESULTS.md.

    The report is on disk after every row, so that what ends a run takes nothing along.

    Returns:
        1 if a section ended early, else 0, whether or not figures were reached.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="section", help=str(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds")
    parser.add_argument("--output", type=Path, help="default: RESULTS.md beside this")
    options = parser.parse_args()
    unknown = set(options.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no such section: {', '.join(sorted(unknown))}")

    complete = not options.sections and not options.quick
    output = options.output or (HERE / "RESULTS.md" if complete else None)
    machine, found = _machine(), []
    names = options.sections or SECTIONS
    bar = tqdm(names, unit="section", disable=None)
    for number, name in enumerate(bar):
        bar.set_description(name)
        found.append(Section(name, [], 0, 0))
        for section in _section(name, options.quick):
            found[-1] = section
            if output:
                output.write_text(report(machine, found, names[number:]))
    if output:
        output.write_text(report(machine, found))
    print(summary(found))
    return int(any(section.ended_early for section in found))


def report(
    machine: str, sections: Sequence[Section], unfinished: Sequence[str] = ()
) -> str:
    """All that was found, and of which sections not all is there."""
    note = f"**Unfinished: {', '.join(unfinished)}.**\n" if unfinished else ""
    return "\n".join([machine, note, summary(sections), *map(str, sections)])


def summary(sections: Sequence[Section]) -> str:
    """How many figures were reached, which were not, and how long it all took."""
    asked = sum(len(section.asked) for section in sections)
    missed = [
        f"* {section.title}: {row['name']}: {row['reached']} ({row['asked']})"
        for section in sections
        for row in section.asked
        if not row["met"]
    ]
    minutes = sum(section.minutes for section in sections)
    lines = [
        f"{asked - len(missed)} of {asked} figures are reached, in "
        f"{minutes:.1f} minutes.",
        *(["Not reached:\n", *missed] if missed else []),
    ]
    return "\n".join(lines) + "\n"


def _section(name: str, quick: bool) -> Iterator[Section]:
    """A section as it grows, by a row at a time."""
    start = time.perf_counter()
    found: list[Mapping[str, object]] = []
    title = name.replace("_", " ").capitalize()

    def so_far() -> Section:
        minutes = (time.perf_counter() - start) / 60
        return Section(title, list(found), minutes, os.getloadavg()[0])

    for word, what in _messages(name, quick):
        if word == "title":
            title = what
            continue
        if word == "error":  # the table shows it, and the other sections go on
            what = {"name": ENDED_EARLY, "asked": "", "reached": what, "met": False}
        found.append(what)
        tqdm.write(f"{so_far().minutes:5.1f} min | {_line(what)}")
        yield so_far()
    yield so_far()


def _messages(name: str, quick: bool) -> Iterator[tuple[str, Any]]:
    """The title, the rows and perhaps the error of a section, each with a word for it.

    It has a process of its own: after all the others in theirs a step of torch's SGD on
    2 000 small tensors took 26 ms, in its own 5. Why was not measured.
    """
    receiver, sender = FORK.Pipe(duplex=False)
    child = FORK.Process(target=_work, args=(name, quick, sender))
    child.start()
    sender.close()
    try:
        while (message := receiver.recv())[0] != "end":
            if message[0] == "stopped":
                raise KeyboardInterrupt
            yield message
    except EOFError:
        child.join()
        yield "error", f"the process ended with {child.exitcode}"
    child.join()


def _work(name: str, quick: bool, sender: Connection) -> None:
    try:
        module = importlib.import_module(name)
        if hasattr(module, "TITLE"):
            sender.send(("title", module.TITLE))
        takes_quick = "quick" in signature(module.rows).parameters
        for row in module.rows(**({"quick": quick} if takes_quick else {})):
            sender.send(("row", row))
    except KeyboardInterrupt:
        sender.send(("stopped", None))
    except Exception as error:
        traceback.print_exc()
        sender.send(("error", repr(error)))
    sender.send(("end", None))


def _line(row: Mapping[str, object]) -> str:
    met = {True: "yes", False: "**no**", None: ""}[row.get("met")]
    cells = (row["name"], row["asked"], row["reached"], met)
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _machine() -> str:
    versions = [_version(name) for name in ("torch_mlcalc", "torch", "numpy", *PEERS)]
    beside = list((ROOT / ".venv-jax").glob("lib/python*/site-packages"))
    versions += [_version(name, map(str, beside)) for name in JAX_PEERS]
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


def _version(name: str, path: Iterable[str] | None = None) -> str:
    where = {} if path is None else {"path": list(path)}
    found = [d.version for d in metadata.distributions(name=name, **where)]
    return f"{name} {found[0]}" if found else f"no {name}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or "an unknown processor"


if __name__ == "__main__":
    sys.exit(main())
