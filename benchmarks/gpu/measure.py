"""The measurements, in a process of their own: a kernel that takes the process down leaves what came before it.

Called by ``python -m benchmarks.gpu`` as often as it takes: a contender that was under way when the process ended is not tried
again, and cases that are finished are not repeated.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.correctness import WrongResult
from benchmarks.gpu.cases import Case, Contender, absent, contenders, plan
from benchmarks.gpu.clock import Clock, CudaClock, HostClock, Run, back_to_back, kernel_times, measured_gpu, race
from benchmarks.gpu.record import Kernel, Record, Row
from benchmarks.gpu.truth import DeviceTruth, check_repeats, poison
from benchmarks.roofline import Gpu, costs, shape_of
from vitsom_fast import available_backends

UNDER_WAY = "did not return: the process ended"

# Seconds that a case has for its rounds, and what must be left for each of the others if torch.compile is to take part.
ROUNDS, DRY_ROUNDS = 1.5, 0.02
TO_COMPILE = 7.0
TO_START = 4.0  # below this no case is begun

PROFILED = ("paper-mnist", "large", "huge")  # workloads whose kernels are listed one by one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", type=float, required=True, help="Unix time to be done by")
    parser.add_argument("--workloads", help="only these, by name and with commas")
    options = parser.parse_args()
    wanted = options.workloads.split(",") if options.workloads else None

    dry = not torch.cuda.is_available()
    device = torch.device("cpu" if dry else "cuda")
    session = Session(options.out, device, HostClock() if dry else CudaClock(device))
    cases = [case for case in plan(dry) if wanted is None or case.workload.name in wanted]
    for index, case in enumerate(cases):
        if case.name in session.record.finished:
            continue
        left = options.until - time.time()
        if left < TO_START:
            session.record.left_out[case.name] = "no time was left"
            continue
        session.compare(case, may_compile=dry or left / (len(cases) - index) > TO_COMPILE)
    session.save()
    return 0


class Session:
    """One process that measures on one device and keeps the record on disk up to date."""

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
                self._fail(row, UNDER_WAY)
        self.save()

    def save(self) -> None:
        self.record.save(self.directory)

    def compare(self, case: Case, may_compile: bool) -> None:
        """Checks everyone, then times those who were right in turns."""
        print(case.name, flush=True)
        inputs = case.inputs(self.device)
        truth = DeviceTruth(inputs)
        runs: dict[str, Run] = {}
        for contender in contenders(case, self.device):
            if self.record.row(case.name, contender.name):  # it was under way when the process ended
                continue
            row = Row(case.workload.name, case.dtype, case.operation, contender.name, note=UNDER_WAY)
            self.record.rows.append(row)
            if contender.compiled and not may_compile:
                row.note = "left out: compiling takes longer than there is time"
                continue
            self.save()
            try:
                run = self._checked(contender, case, inputs, truth)
                peak = self.clock.peak_bytes(run)
            except torch.OutOfMemoryError:
                row.note = "out of memory"
            except WrongResult as error:
                self._fail(row, f"wrong, not timed: {error}", ours=contender.ours)
            except Exception as error:
                reason = (str(error).strip().splitlines() or ["no message"])[0]
                self._fail(row, f"failed: {type(error).__name__}: {reason}", ours=contender.ours)
                self.save()
                self.clock.synchronize()  # raises if the error has taken the GPU's context down: a new process goes on
            else:
                row.note, row.memory_mb = "", None if peak is None else peak / 1e6
                runs[contender.name] = run
        del truth
        _give_back()
        self._time(case, runs)
        self.record.finished.append(case.name)
        self.save()
        del runs, inputs
        _give_back()

    def _checked(self, contender: Contender, case: Case, inputs: object, truth: DeviceTruth) -> Run:
        """The contender's run, warm, and right in its second round: the first one's outputs have been overwritten."""
        poison(self.device, 4 * (truth.z.numel() + truth.prototypes.numel()))
        run = contender.build(inputs)  # type: ignore[arg-type]
        result = run()
        first = tuple(x.clone() for x in result)
        for x in result:
            x.fill_(-1)
        second = run()
        check = truth.check_step if case.operation == "step" else truth.check_search
        check(*second)
        if contender.ours:
            check_repeats(first, second)
        return run

    def _time(self, case: Case, runs: dict[str, Run]) -> None:
        if not runs:
            return
        seconds = race(runs, self.clock, DRY_ROUNDS if self.record.dry else ROUNDS)
        rows = {name: row for name in runs if (row := self.record.row(case.name, name))}
        floor = case.floor(self.gpu) if self.gpu else None
        for name, row in rows.items():
            median = statistics.median(seconds[name])
            row.rounds, row.median_ms = len(seconds[name]), median * 1e3
            row.wall_ms = 1e3 * back_to_back(runs[name], self.clock, median, 0.02 if self.record.dry else 0.1)
            if self.gpu and floor:
                row.tflops = case.flops / median / 1e12
                row.percent_of_matmul = 100 * case.flops / median / self.gpu.bf16
                row.floor_ms, row.percent_of_floor = floor * 1e3, 100 * floor / median
        baseline = rows.get("eager" if case.operation == "step" else "matmul")
        for row in rows.values() if baseline else ():
            assert baseline and baseline.median_ms and baseline.wall_ms and row.median_ms and row.wall_ms
            row.x_baseline = baseline.median_ms / row.median_ms
            row.x_baseline_wall = baseline.wall_ms / row.wall_ms
        if self.gpu and case.workload.name in PROFILED:
            for name in runs:
                if name in ("triton", "cuda"):
                    self._profile(case, name, runs[name], self.gpu)

    def _profile(self, case: Case, name: str, run: Run, gpu: Gpu) -> None:
        """A line for each kernel; one whose name has that of a function of benchmarks/roofline.py in it gets its floor."""
        floors = {cost.kernel: cost.seconds(gpu) for cost in costs(case.operation, shape_of(case.workload, case.dtype))}
        for kernel, (launches, seconds) in kernel_times(run, self.clock).items():
            floor = next((floors[part] * 1e6 for part in floors if part in kernel), None)
            self.record.kernels.append(Kernel(case.name, name, kernel, launches, seconds * 1e6, floor))

    def _fail(self, row: Row, note: str, ours: bool = True) -> None:
        row.note = note
        failure = f"{row.case}, {row.contender}: {note}"
        if ours and failure not in self.record.failures:
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
        import triton
    except ImportError:
        return "not installed"
    return triton.__version__


def _give_back() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
