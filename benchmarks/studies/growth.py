"""Time and memory against the size of the map: B = 4096, D = 192, from 16 x 16 to 512 x 512 prototypes.

python -m benchmarks.studies.growth --record NAME                writes benchmarks/results/NAME-growth.csv
python -m benchmarks.studies.growth --organised --record NAME    writes benchmarks/results/NAME-growth-organised.csv

With ``--organised`` it is the search alone, of photo patches on maps that are fitted to such, and not random data.
Every contender goes on until a run takes more than 60 s or does not fit into memory. Each point is measured in a process of
its own, whose first run gives the memory; the points of one size follow each other, so that whatever else the machine does
meanwhile falls on all. The BMUs of 64 rows are checked at every point; the suite checks all of a step's results, at its sizes.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from benchmarks.harness import machine
from benchmarks.harness.clock import Run
from benchmarks.harness.contenders import OPERATIONS, SEARCH, TIME_LIMIT, Contender
from benchmarks.harness.correctness import Truth
from benchmarks.harness.memory import peak_beyond_inputs
from benchmarks.harness.places import RESULTS, ROOT
from benchmarks.harness.table import write_csv
from benchmarks.harness.workloads import Inputs, MapSettings, Workload, organised_map

SIDES = (16, 32, 64, 128, 256, 512)
_SPARE = 10**9  # bytes that are left to the rest of the machine


@dataclass(frozen=True)
class Point:
    """One contender on one size of the map; where it ends, ``note`` says why and nothing is measured."""

    operation: str
    contender: str
    rows: int
    cols: int
    rounds: int = 0
    median_ms: float | None = None
    memory_mb: float | None = None
    note: str = ""


def workload_of(side: int, organised: bool = False) -> Workload:
    """At 128 and 256 this is `large` and `huge`, or `large-organised` and `huge-organised`."""
    return Workload(f"{side} x {side}", 4096, side, side, 192, 16.0, organised=organised)


def measure(operation_name: str, contender: Contender, side: int, organised: bool = False, seconds: float = 2.0) -> Point:
    """A point, in a process that has run nothing else: at least 3 rounds, or 1 where these take more than 10 times ``seconds``.

    Raises:
        WrongResult: some BMU is not the nearest prototype.
    """
    _fail_rather_than_swap()
    inputs = workload_of(side, organised).inputs()
    memory_mb, run = peak_beyond_inputs(replace(contender, build=lambda inputs: _within_limit(contender.build(inputs))), inputs)
    _check_some(run, inputs)
    times: list[float] = []
    while sum(times) < seconds or (len(times) < 3 and sum(times) < 10 * seconds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return Point(operation_name, contender.name, side, side, len(times), 1e3 * statistics.median(times), memory_mb)


def _within_limit(run: Run) -> Run:
    """The run, in which SIGALRM ends the process after the time limit, wherever it is."""

    def limited() -> tuple[Tensor, ...]:
        signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
        result = run()
        signal.setitimer(signal.ITIMER_REAL, 0)
        return result

    return limited


def _check_some(run: Run, inputs: Inputs) -> None:
    bmu = next(x for x in run() if x.dim() == 1)
    rows = slice(None, None, len(inputs.z) // 64)
    Truth(inputs._replace(z=inputs.z[rows])).check_search(bmu[rows])


def _fail_rather_than_swap() -> None:
    """What would take all of the machine's memory is refused it: an exception in this process, and no other is killed."""
    free = machine.available_memory()
    if free is None:
        return
    with suppress(OSError, ValueError):
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + free - _SPARE,) * 2)


def measure_in_new_process(operation: str, contender: Contender, side: int, organised: bool = False) -> Point:
    """As ``measure``, or a point that says why there is none."""
    if reason := contender.absent(workload_of(side, organised)):
        return Point(operation, contender.name, side, side, note=reason)
    command = [sys.executable, "-m", "benchmarks.studies.growth", "--point", operation, contender.name, str(side)]
    command += ["--organised"] if organised else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Point(**json.loads(done.stdout.splitlines()[-1]))
    return Point(operation, contender.name, side, side, note=_reason(done.returncode, done.stderr))


def _reason(status: int, stderr: str) -> str:
    if status == -signal.SIGALRM:
        return f"more than {TIME_LIMIT:.0f} s"
    last_line = (stderr.strip().splitlines() or [f"exit status {status}"])[-1]
    if status == -signal.SIGKILL or any(word in last_line for word in ("alloc", "memory", "Memory")):
        return "out of memory"
    return last_line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/results/NAME-growth.csv")
    parser.add_argument("--organised", action="store_true", help="the search of photo patches on maps fitted to such")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="of the square maps")
    parser.add_argument("--contenders", metavar="NAME,...", help="only these, for example eager,matmul,cpu")
    parser.add_argument(
        "--point", nargs=3, metavar=("OPERATION", "CONTENDER", "SIDE"), help="one point, as JSON, from this process"
    )
    arguments = parser.parse_args()
    if arguments.point:
        operation, name, side = arguments.point
        (contender,) = (contender for contender in OPERATIONS[operation].contenders if contender.name == name)
        print(json.dumps(asdict(measure(operation, contender, int(side), arguments.organised))))
        return
    wanted = arguments.contenders.split(",") if arguments.contenders else None
    points = list(_grow(arguments.sides, wanted, arguments.organised))
    if arguments.record:
        path = RESULTS / f"{arguments.record}-growth{'-organised' if arguments.organised else ''}.csv"
        write_csv(path, points, machine.describe())
        print(f"recorded in {path}")


def _grow(sides: Iterable[int], wanted: list[str] | None, organised: bool = False) -> Iterable[Point]:
    going = [
        (operation.name, contender)
        for operation in ([SEARCH] if organised else OPERATIONS.values())
        for contender in operation.contenders
        if wanted is None or contender.name in wanted
    ]
    sides = sorted(sides)
    with tqdm(total=len(going) * len(sides), unit="point") as progress:
        for done, side in enumerate(sides, start=1):
            if organised:  # once, and where its memory is not that of a contender
                progress.set_description(f"{side} x {side} fitting the map")
                organised_map(MapSettings(side, side))
            for operation, contender in list(going):
                progress.set_description(f"{side} x {side} {operation} {contender.name}")
                point = measure_in_new_process(operation, contender, side, organised)
                progress.update()
                if point.note:
                    going.remove((operation, contender))
                    progress.update(len(sides) - done)
                    progress.write(f"{operation} {contender.name} ends at {side} x {side}: {point.note}")
                yield point


if __name__ == "__main__":
    main()
