"""``python -m benchmarks.gpu``: the phases one after another, each with a deadline."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import benchmarks.gpu
from benchmarks.gpu.record import Record
from benchmarks.harness.places import ROOT

BUILD_SECONDS, TEST_SECONDS, OPTION_SECONDS = 120.0, 170.0, 70.0
LAST_SECONDS = 8.0  # kept for the end of a process and the table
TESTED = (
    "tests/contract",
    *(f"tests/ops/test_{name}.py" for name in ("extremes", "ops", "loss_module", "long_axis")),
    *(f"tests/gpu/test_{name}.py" for name in ("pairs", "triton", "gpu")),
)
MOST_WORKERS = 14  # of the tests: each has a context of its own on the GPU
PHASES = ("build", "tests", "options", "measure")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=benchmarks.gpu.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="directory of the results, made if need be")
    parser.add_argument("--minutes", type=float, default=8.7, help="for everything (default: %(default)s)")
    parser.add_argument("--phases", default=",".join(PHASES), help="default: %(default)s")
    parser.add_argument("--workloads", help="measure only these, by name and with commas")
    options = parser.parse_args(arguments)
    phases = options.phases.split(",")
    if unknown := set(phases) - set(PHASES):
        parser.error(f"argument --phases: must be among {PHASES}, got {sorted(unknown)}")
    run = Run(options.out, deadline=time.time() + 60 * options.minutes)
    if "build" in phases:
        run.build()
    if "tests" in phases:
        run.tests()
    if "options" in phases:
        run.options()
    if "measure" in phases:
        run.measure(options.workloads)
    record = Record.load(options.out)
    print(record.render())
    return 1 if record.failures else 0


class Run:
    """One run: what it says and finds is in ``out``, that of an earlier run there is gone."""

    def __init__(self, out: Path, deadline: float) -> None:
        self.out, self.deadline = out, deadline
        self.dry = not torch.cuda.is_available()
        out.mkdir(parents=True, exist_ok=True)
        Record(dry=self.dry).save(out)
        self.environment = dict(os.environ)
        if self.dry:  # Triton reads its variable when it is imported: hence the processes of their own
            self.environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}

    def build(self) -> None:
        """The package in place, with the tools that are there: a machine with a GPU may have no network."""
        if self.dry:
            self._note("build", "left out of a dry run")
            return
        command = ["-m", "pip", "install", "-e", ".", "--no-build-isolation", "--no-deps"]
        status = self._python("build", command, BUILD_SECONDS)
        self._note("build", "done" if status == 0 else "FAILED, see build.log", failed=status != 0)

    def tests(self) -> None:
        """Everything that is asked of the GPU backends, on the GPU; several at a time where pytest-xdist is installed."""
        environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # the tests are enough processes
        workers = min(MOST_WORKERS, os.cpu_count() or 1)
        parallel = ["-n", str(workers)] if not self.dry and importlib.util.find_spec("xdist") else []
        files = TESTED[-1:] if self.dry else TESTED
        command = ["-m", "pytest", "-v", "-p", "no:cacheprovider", *parallel, *files, "-k", "triton or cuda or test_gpu"]
        status = self._python("tests", command, TEST_SECONDS, environment)
        counts = outcomes((self.out / "tests.log").read_text(errors="replace"))
        outcome = ", ".join(f"{count} {word.lower()}" for word, count in counts.items())
        if status is None:
            outcome += "; stopped at its deadline"
        failed = status not in (0, None) or counts["FAILED"] + counts["ERROR"] > 0
        self._note("tests", outcome, failed)

    def options(self) -> None:
        """Distances, neighborhoods and the like, by themselves."""
        seconds = min(OPTION_SECONDS, self.deadline - LAST_SECONDS - time.time())
        command = ["-m", "benchmarks.gpu.options", "--out", str(self.out), "--until", str(time.time() + seconds - LAST_SECONDS)]
        status = self._python("options", command, seconds)
        outcome = "done" if status == 0 else "stopped at the deadline" if status is None else "FAILED, see options.log"
        self._note("options", outcome, failed=status not in (0, None))

    def measure(self, workloads: str | None) -> None:
        """Starts the process anew where a contender took it down, as long as that gets it further."""
        until = self.deadline - LAST_SECONDS
        command = ["-m", "benchmarks.gpu.measure", "--out", str(self.out), "--until", str(until)]
        command += ["--workloads", workloads] if workloads else []
        status: int | None = -1
        reached = -1
        while status not in (0, None) and reached < (now := len(Record.load(self.out).rows)):
            reached = now
            status = self._python("measure", command, self.deadline - time.time())
        outcome = "done" if status == 0 else "stopped at the deadline" if status is None else "FAILED, see measure.log"
        self._note("measure", outcome, failed=status not in (0, None))

    def _python(
        self, name: str, arguments: Sequence[str], seconds: float, environment: dict[str, str] | None = None
    ) -> int | None:
        """The exit status of a process whose output goes to NAME.log, or None if it was stopped for its time."""
        seconds = min(seconds, self.deadline - time.time())
        print(f"{name}: {' '.join(arguments)}", flush=True)
        with (self.out / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-u", *arguments],
                cwd=ROOT,
                env=self.environment | (environment or {}),
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=os.setpgrp,
            )
            try:
                return process.wait(timeout=max(seconds, 0.0))
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # its workers, too: they would disturb what is timed next
                    process.wait()

    def _note(self, phase: str, outcome: str, failed: bool = False) -> None:
        record = Record.load(self.out)
        record.phases[phase] = outcome
        if failed:
            record.failures.append(f"{phase}: {outcome}")
        record.save(self.out)


def outcomes(log: str) -> dict[str, int]:
    """How many tests passed and so on, from the lines of ``pytest -v``: there is no summary where it was stopped."""
    line = r"^(?:\[gw\d+\] \[ *\d+%\] {0} tests/|tests/\S+::.* {0}\b)"
    return {word: len(re.findall(line.format(word), log, re.MULTILINE)) for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")}


if __name__ == "__main__":
    sys.exit(main())
