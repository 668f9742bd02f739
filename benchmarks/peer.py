"""Peers that run in a process, and an environment, of their own.

A peer is a script that calls ``serve`` with its functions. The benchmark starts it with
``Peer`` and calls them by name; arguments and results are JSON, floats as written by
``repr``. So peers with other requirements (JAX) or other global switches (SciPy's
``SCIPY_ARRAY_API``) are timed in turn with everything else, on the same machine in the
same minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Peer:
    """A running peer, as a context manager."""

    def __init__(
        self, python: str | Path, script: str, environ: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            [str(python), str(ROOT / "benchmarks" / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environ or {})},
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def call(self, function: str, /, **arguments: Any) -> Any:
        """Run a function of the peer and return its result.

        Raises:
            RuntimeError: If the function raised, or the peer has ended.
        """
        self._process.stdin.write(json.dumps([function, arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended during {function}({arguments})")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Answer calls on standard input until it is closed."""
    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            name, arguments = json.loads(line)
            try:
                answer = {"result": functions[name](**arguments)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def clock(call: Callable[[], Any], calls: int) -> float:
    """Seconds per call, over so many calls in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
