"""Peers that run in a process, and an environment, of their own.

A peer is a script that calls ``serve`` with its functions. The benchmark starts it with
``Peer`` and calls them by name; arguments and results are JSON. So peers with other
requirements (JAX) or other global switches (SciPy's ``SCIPY_ARRAY_API``) are timed in
turn with everything else, on the same machine in the same minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: Calls a function of the peer: its name, and its arguments by name.
Call = Callable[..., Any]


@contextlib.contextmanager
def peer(
    python: str | Path, script: str, environ: Mapping[str, str] | None = None
) -> Iterator[Call]:
    """Start a peer, give a function that calls it, and end it.

    The given function raises RuntimeError if the peer's raised, or if it has ended.
    """
    process = subprocess.Popen(
        [str(python), str(ROOT / "benchmarks" / script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environ or {})},
    )

    def call(function: str, /, **arguments: object) -> object:
        process.stdin.write(json.dumps([function, arguments]) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{script} ended during {function}({arguments}).")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{script}: {answer['error']}")
        return answer["result"]

    try:
        yield call
    finally:
        process.stdin.close()
        process.wait()


def serve(*functions: Callable[..., Any]) -> None:
    """Answer calls on standard input until it is closed."""
    by_name = {function.__name__: function for function in functions}
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            name, arguments = json.loads(line)
            try:
                answer = {"result": by_name[name](**arguments)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
