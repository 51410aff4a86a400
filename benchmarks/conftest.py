"""The options of a benchmark run, the comparison as a fixture, and the table at its end."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.harness import machine
from benchmarks.harness.clock import HostClock, race
from benchmarks.harness.contenders import OPERATIONS, Operation, checked
from benchmarks.harness.memory import peak_in_new_process
from benchmarks.harness.places import RESULTS
from benchmarks.harness.rows import Row, fastest_of_ours, render, rows_of
from benchmarks.harness.table import write_csv
from benchmarks.harness.workloads import TINY, WORKLOADS, Workload

_rows = pytest.StashKey[list[Row]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("vitsom_fast benchmarks")
    group.addoption("--full", action="store_true", help="all workloads, not only the small set")
    group.addoption("--record", metavar="NAME", help="write the results to benchmarks/results/NAME.csv")
    group.addoption("--contenders", metavar="NAME,...", help="only these (default: all), for example eager,matmul,cpu")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_rows] = []
    config.option.benchmark_quiet = True  # one table is enough: pytest-benchmark's knows of one contender only
    record = config.getoption("--record")
    if record and not re.fullmatch(r"[\w.-]+", record):
        raise pytest.UsageError(f"--record must be a plain file name (letters, digits, '.', '-', '_'), got {record!r}")
    known = {contender.name for operation in OPERATIONS.values() for contender in operation.contenders}
    if unknown := (_wanted(config) or known) - known:
        raise pytest.UsageError(f"--contenders must be among {sorted(known)}, got {sorted(unknown)}")


def _wanted(config: pytest.Config) -> set[str] | None:
    names = config.getoption("--contenders")
    return set(names.split(",")) if names else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "workload" in metafunc.fixturenames:
        full = metafunc.config.getoption("--full")
        workloads = [workload for workload in WORKLOADS.values() if full or workload.default]
        metafunc.parametrize("workload", workloads, ids=lambda workload: workload.name)


@pytest.fixture
def compare(benchmark: Any, pytestconfig: pytest.Config) -> Callable[[Operation, Workload], None]:
    """Checks, times and weighs every contender, and leaves a row of the table for each.

    The ``benchmark`` fixture has the fastest of this package once more, and the whole comparison as ``extra_info``.
    """
    capture: Any = pytestconfig.pluginmanager.get_plugin("capturemanager")

    def compare(operation: Operation, workload: Workload) -> None:
        def say(what: str) -> None:
            with capture.global_and_fixture_disabled():  # a run takes minutes: show where it is
                print(f"\n{workload.name} {operation.name}: {what}", end="", flush=True)

        wanted = _wanted(pytestconfig)
        invited = [contender for contender in operation.contenders if wanted is None or contender.name in wanted]
        notes = {contender.name: reason for contender in invited if (reason := contender.absent(workload))}
        present = [contender for contender in invited if contender.name not in notes]
        for name, reason in notes.items():
            say(f"skipping {name}: {reason}")
        if not present:
            pytest.skip(f"no contender of the {operation.name} on {workload.name}")

        say("building the inputs")
        runs, remarks = checked(operation, present, workload.inputs(), say)
        for name, remark in remarks.items():
            say(f"{name} {remark}")
        notes |= remarks
        memory_mb = {}
        for name in runs if workload is not TINY else ():  # a few kB would show nothing
            say(f"memory of {name}")
            try:
                memory_mb[name] = peak_in_new_process(workload.name, operation.name, name)
            except RuntimeError as error:
                notes[name] = str(error)
        say(f"timing {', '.join(runs)} in turns")
        peak_matmul, flops = machine.peak_matmul()
        with_peers = any(contender.peer for contender in present)
        seconds = race({**runs, "peak": peak_matmul}, HostClock(), pause=0.005 if with_peers else 0.0)
        peak = flops / statistics.median(seconds.pop("peak"))

        rows = rows_of(operation, workload, seconds, memory_mb, notes, peak)
        pytestconfig.stash[_rows].extend(rows)
        benchmark.group = f"{workload.name} {operation.name}"
        benchmark.extra_info["contenders"] = {row.contender: vars(row) for row in rows}
        fastest = fastest_of_ours(operation, seconds) or min(seconds)
        benchmark.extra_info["timed"] = fastest
        benchmark.pedantic(runs[fastest], rounds=len(seconds[fastest]))

    return compare


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    unsorted = config.stash[_rows]
    rows = sorted(unsorted, key=lambda row: list(WORKLOADS).index(row.workload))
    if not rows:
        return
    description = machine.describe()
    terminalreporter.section("vitsom_fast benchmarks")
    terminalreporter.write_line(render(rows, description))
    if record := config.getoption("--record"):
        path = RESULTS / f"{record}.csv"
        write_csv(path, rows, description)
        terminalreporter.write_line(f"recorded in {path}")
