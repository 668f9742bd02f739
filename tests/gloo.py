"""Runs a program in several processes, for tests of what they do together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def run_in_processes(program: Path, count: int, folder: Path) -> list[Any]:
    """Start a program once for each rank, and read what each has found.

    Args:
        program: Takes a rank and a folder, and writes ``<rank>.json`` there.
        count: Number of processes.
        folder: Where they meet.

    Returns:
        The content of the files by rank.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, str(program), str(rank), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, error in zip(processes, errors, strict=True):
        assert process.returncode == 0, error
    files = [folder / f"{rank}.json" for rank in range(count)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]
