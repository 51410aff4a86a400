"""A process that checks cases: with an instruction set of its own, and apart, so that a crash or a hang is one more result."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from soak.cases import Case
from soak.checks import Failure, failures

TIME_LIMIT = 120.0  # seconds of one case; what a case takes is milliseconds


COMMAND = (sys.executable, str(Path(__file__).with_name("fuzz.py")), "--worker")


class Worker:
    """``isa`` caps the CPU kernels ("": the widest that there are); ``command`` answers as ``serve`` does."""

    def __init__(self, isa: str = "", command: Sequence[str] = COMMAND) -> None:
        self.command = command
        self.environment = {
            **os.environ,
            "VITSOM_CPU_ISA": isa,
            "MALLOC_PERTURB_": "165",  # glibc fills what it hands out and takes back
            "OMP_WAIT_POLICY": "passive",  # more threads than cores must not spin
        }
        self.process: subprocess.Popen[str] | None = None

    def failures(self, case: Case) -> list[Failure]:
        if self.process is None:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(
                self.command, env=self.environment, stdin=pipe, stdout=pipe, text=True, start_new_session=True
            )
        answer = self._ask(self.process, json.dumps(asdict(case)))
        if answer:
            return [Failure(*found) for found in json.loads(answer)]
        status = self.process.poll()
        self.close()
        return (
            [Failure("hang", f"no answer in {TIME_LIMIT:.0f} s")] if status is None else [Failure("crash", f"status {status}")]
        )

    @staticmethod
    def _ask(process: subprocess.Popen[str], question: str) -> str:
        """The answer; "" if the process ended or took too long."""
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(question + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            process.wait()
            return ""
        ready, _, _ = select.select([process.stdout], [], [], TIME_LIMIT)
        answer = process.stdout.readline() if ready else ""
        if ready and not answer:
            process.wait()
        return answer

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve() -> None:
    """The other side: a case a line, its failures a line."""
    for line in sys.stdin:
        print(json.dumps(failures(Case.from_json(json.loads(line)))), flush=True)
