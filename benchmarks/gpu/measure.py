"""The measurements, in a process of their own: a kernel that takes the process down leaves what came before it.

Called by ``python -m benchmarks.gpu`` as often as it takes: a contender that was under way when the process ended is not tried
again, and cases that are finished are not repeated.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.cases import Case, absent, contenders, plan
from benchmarks.gpu.rates import MOST_ROUNDS, kernel_times, measured_gpu
from benchmarks.gpu.record import Kernel, Record, Row
from benchmarks.gpu.roofline import Gpu, costs, shape_of
from benchmarks.harness import machine
from benchmarks.harness.clock import Clock, Run, back_to_back, clock_of, race
from benchmarks.harness.contenders import OPERATIONS, Contender
from benchmarks.harness.correctness import Truth, WrongResult, check_repeats, poison
from benchmarks.harness.workloads import Inputs
from vitsom_fast import available_backends

UNDER_WAY = "did not return: the process ended"

# Seconds that a case has for its rounds, and a contender for its wall time; and the fewest rounds of either.
ROUNDS, WALL, FEWEST = 1.5, 0.1, 3
ROUNDS_DRY, WALL_DRY, FEWEST_DRY = 0.02, 0.02, 1
# Seconds that must be left for each of the other cases if torch.compile is to take part.
TO_COMPILE = 7.0
TO_START = 4.0  # below this no case is begun

PROFILED = ("paper-mnist", "large", "huge")  # workloads whose kernels are listed one by one


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True, help="Unix time to be done by")
    parser.add_argument("--workloads", help="only these, by name and with commas")
    options = parser.parse_args(arguments)
    wanted = options.workloads.split(",") if options.workloads else None

    dry = not torch.cuda.is_available()
    device = torch.device("cpu" if dry else "cuda")
    session = Session(options.out, device, clock_of(device))
    cases = [case for case in plan(dry) if wanted is None or case.workload.name in wanted]
    for index, case in enumerate(cases):
        if case.name in session.record.finished:
            continue
        left = options.until - time.time()
        if left < TO_START:
            session.record.left_out[case.name] = "no time was left"
            continue
        session.compare(case, may_compile=left / (len(cases) - index) > TO_COMPILE)
    session.save()


class Session:
    """What one process measures on one device; it keeps the record on disk up to date."""

    def __init__(self, directory: Path, device: torch.device, clock: Clock) -> None:
        self.directory, self.device, self.clock = directory, device, clock
        self.record = Record.load(directory)
        self.record.dry = device.type == "cpu"
        self.gpu = None if self.record.dry else measured_gpu(clock, device)
        self.record.machine = describe(self.gpu)
        names = [*(name for name in available_backends() if name not in ("reference", "cpu")), "fastersom"]
        self.record.left_out |= {name: reason for name in names if (reason := absent(name, device))}
        for row in self.record.rows:
            if row.note == UNDER_WAY:
                self._report(row)
        self.save()

    def save(self) -> None:
        self.record.save(self.directory)

    def compare(self, case: Case, may_compile: bool) -> None:
        """Checks everyone, then times those who were right in turns."""
        print(case.name, flush=True)
        try:
            inputs = case.inputs(self.device)
        except (ImportError, OSError) as error:  # the photographs come with scikit-learn
            self.record.left_out[case.name] = f"no inputs: {error}"
            return
        truth = Truth(inputs)
        runs: dict[str, Run] = {}
        for contender in contenders(case, self.device):
            row = self.record.row(case.name, contender.name)
            if row is None:
                row = Row(case.workload.name, case.dtype, case.operation, contender.name)
                self.record.rows.append(row)
            elif row.note:  # by an earlier process
                continue
            if contender.compiled and not may_compile:
                row.note = "left out: compiling takes longer than there is time"
                continue
            row.note = UNDER_WAY
            self.save()
            try:
                run = self._checked(contender, case, inputs, truth)
                peak = None if contender.graphed else self.clock.peak_bytes(run)  # a graph has its memory already
            except torch.OutOfMemoryError:
                row.note = "out of memory"
                _give_back()
            except Exception as error:
                self._fail([row], error, contender.ours)
            else:
                row.note, row.memory_mb = "", None if peak is None else peak / 1e6
                runs[contender.name] = run
        del truth
        _give_back()
        rows = [row for name in runs if (row := self.record.row(case.name, name))]
        try:
            self._time(case, runs, rows)
        except Exception as error:
            self._fail(rows, error)
        if self.gpu and case.workload.name in PROFILED:
            for name in ("triton", "cuda"):
                if name in runs:
                    self._profile(case, name, runs[name], self.gpu)
        self.record.finished.append(case.name)
        self.save()
        del runs, inputs
        _give_back()

    def _checked(self, contender: Contender, case: Case, inputs: Inputs, truth: Truth) -> Run:
        """The contender's run, warm, and right in its second round: the first one's outputs have been overwritten."""
        poison(self.device, 4 * (truth.z.numel() + truth.prototypes.numel()))
        run = contender.build(inputs)
        result = run()
        first = tuple(x.clone() for x in result)
        for x in result:
            x.fill_(-1)
        second = run()
        OPERATIONS[case.operation].check(truth, *second)
        if contender.ours:
            check_repeats(first, second)
        return run

    def _time(self, case: Case, runs: dict[str, Run], rows: list[Row]) -> None:
        """Fills in the rows, one for each run."""
        if not runs:
            return
        budget, wall_budget, fewest = (ROUNDS_DRY, WALL_DRY, FEWEST_DRY) if self.record.dry else (ROUNDS, WALL, FEWEST)
        seconds = race(runs, self.clock, budget, fewest, MOST_ROUNDS)
        medians = [statistics.median(seconds[name]) for name in runs]
        walls = [
            back_to_back(run, self.clock, median, wall_budget, fewest)
            for run, median in zip(runs.values(), medians, strict=True)
        ]
        baseline = rows[0].contender in ("eager", "matmul")
        for row, median, wall in zip(rows, medians, walls, strict=True):
            row.rounds, row.median_ms, row.wall_ms = len(seconds[row.contender]), median * 1e3, wall * 1e3
            if baseline:
                row.x_baseline, row.x_baseline_wall = medians[0] / median, walls[0] / wall
            if self.gpu:
                floor = case.floor(self.gpu)
                row.tflops = case.flops / median / 1e12
                row.percent_of_matmul = 100 * case.flops / median / self.gpu.bf16
                row.floor_ms, row.percent_of_floor = floor * 1e3, 100 * floor / median

    def _profile(self, case: Case, name: str, run: Run, gpu: Gpu) -> None:
        """A line for each kernel; one whose name begins as a function of benchmarks/gpu/roofline.py gets its floor."""
        floors = {cost.kernel: cost.seconds(gpu) for cost in costs(case.operation, shape_of(case.workload, case.dtype))}
        try:
            kernels = kernel_times(run, self.clock)
        except RuntimeError as error:  # a profiler that the machine does not let work is no reason to lose the times
            self.record.left_out[f"kernels of {case.name}, {name}"] = str(error)
            return
        for kernel, (launches, seconds) in kernels.items():
            floor = next((floors[part] * 1e6 for part in floors if kernel.startswith(part)), None)
            self.record.kernels.append(Kernel(case.name, name, kernel, launches, seconds * 1e6, floor))

    def _fail(self, rows: list[Row], error: Exception, ours: bool = True) -> None:
        """Says it in the rows and, of this package, at the end. Raises where the error has taken the GPU's context down: then
        a new process goes on."""
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        for row in rows:
            row.note = f"wrong: {reason}" if isinstance(error, WrongResult) else f"failed: {type(error).__name__}: {reason}"
            if ours:
                self._report(row)
        self.save()
        self.clock.synchronize()

    def _report(self, row: Row) -> None:
        failure = f"{row.case}, {row.contender}"
        if failure not in self.record.failures:
            self.record.failures.append(failure)


def describe(gpu: Gpu | None) -> dict[str, str | int | float]:
    """GPU, driver, rates measured and versions; without a GPU the host."""
    described: dict[str, str | int | float] = dict(machine.describe())
    if gpu is not None:
        properties = torch.cuda.get_device_properties(0)
        described = {
            "gpu": properties.name,
            "multiprocessors": properties.multi_processor_count,
            "gpu_memory_gb": round(properties.total_memory / 1e9),
            "driver": _driver(),
            "cuda": str(torch.version.cuda or torch.version.hip),
            "copy_tb_s": round(gpu.bandwidth / 1e12, 3),
            "bf16_matmul_tflops": round(gpu.bf16 / 1e12, 1),
            **described,
        }
    return {**described, "triton": _triton()}


def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _triton() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
