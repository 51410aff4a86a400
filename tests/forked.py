"""Runs of pytest in processes of their own that have their imports already: those take longer than many a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

import pytest


class Forks:
    """A process that imports PyTorch and forks before any thread runs, in memory that is never zero by luck."""

    def __init__(self) -> None:
        # glibc fills what it allocates with 0xfe: about -1.7e38 as a float, far out of range as an index.
        # More threads than there are cores must not spin.
        environment = {**os.environ, "MALLOC_PERTURB_": "1", "OMP_WAIT_POLICY": "passive"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, __file__], env=environment, stdin=pipe, stdout=pipe, text=True)

    def check(self, *arguments: str, **environment: str) -> None:
        """AssertionError where pytest ends badly with these, or runs no test."""
        assert self._process.stdin
        assert self._process.stdout
        asked = [["-q", "-x", "-p", "no:cacheprovider", *arguments], environment]
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        status, output = json.loads(self._process.stdout.readline())
        assert status == 0, output[-4000:]
        assert " passed" in output

    def close(self) -> None:
        self._process.communicate()


def _run(arguments: list[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """The exit status, below zero for a signal, and what was printed."""
    with tempfile.TemporaryFile() as printed:
        child = os.fork()
        if child == 0:
            os.environ.update(environment)
            for stream in (0, 1, 2):
                os.dup2(printed.fileno(), stream)
            status: Any = 70
            try:
                status = pytest.main(arguments)
            finally:
                sys.stdout.flush()
                os._exit(int(status))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        printed.seek(0)
        return status, printed.read().decode(errors="replace")


def main() -> None:
    """The other side: a run a line, what came of it a line."""
    import torch._dynamo  # noqa: F401 (what a few of the tests compile with)

    for line in sys.stdin:
        print(json.dumps(_run(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
