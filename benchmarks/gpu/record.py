"""What a run has found so far, on disk from the first moment: results.json to go on from, results.csv and table.txt to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.harness.table import Column, aligned, in_words, number, write_csv, write_whole

FOOTNOTES = (
    "median: CUDA events around one run, the L2 flushed and all launches queued, contenders in turns; launches have no gaps.",
    "wall: runs one after another, launching included. x base: how many times as fast as eager (step) or matmul (search).",
    "TFLOP/s counts the search, 2 B K D, and nothing else. % matmul: of the bf16 matrix product of this GPU. % floor: that of",
    "benchmarks/gpu/roofline.py at the rates measured here, over the median. MB: 10^6 bytes beyond inputs and gradients.",
)
DRY_RUN = "DRY RUN: no GPU here, and no figure below is one of a GPU."


@dataclass
class Row:
    """One contender in one operation of one workload; None is what was not measured, and ``note`` says why."""

    workload: str
    dtype: str
    operation: str
    contender: str
    rounds: int = 0
    median_ms: float | None = None
    wall_ms: float | None = None
    x_baseline: float | None = None
    x_baseline_wall: float | None = None
    tflops: float | None = None
    percent_of_matmul: float | None = None
    floor_ms: float | None = None
    percent_of_floor: float | None = None
    memory_mb: float | None = None
    note: str = ""

    @property
    def case(self) -> str:
        return f"{self.workload} {self.dtype} {self.operation}"


@dataclass
class Kernel:
    """One kernel of one run of a contender: how often it is launched, its time, and its floor if it has one on paper."""

    case: str
    contender: str
    kernel: str
    launches: float
    microseconds: float
    floor_microseconds: float | None = None


@dataclass
class Record:
    """Everything there is to say about a run; ``failures`` are what it must not end well with."""

    machine: dict[str, str | int | float] = field(default_factory=dict)
    dry: bool = False
    phases: dict[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    kernels: list[Kernel] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)  # cases
    left_out: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, directory: Path) -> Record:
        """What ``save`` left there, or a new record."""
        path = directory / "results.json"
        if not path.exists():
            return cls()
        values = json.loads(path.read_text())
        rows = [Row(**entry) for entry in values.pop("rows")]
        kernels = [Kernel(**entry) for entry in values.pop("kernels")]
        return cls(**values, rows=rows, kernels=kernels)

    def save(self, directory: Path) -> None:
        write_whole(directory / "results.json", json.dumps(asdict(self), indent=1))
        write_whole(directory / "table.txt", self.render() + "\n")
        write_csv(directory / "results.csv", self.rows, self.machine, Row)

    def row(self, case: str, contender: str) -> Row | None:
        return next((row for row in self.rows if (row.case, row.contender) == (case, contender)), None)

    def render(self) -> str:
        """The table, with the machine above it and what is missing below."""
        lines = [DRY_RUN] if self.dry else []
        lines += [in_words(self.machine)]
        lines += [f"{name}: {outcome}" for name, outcome in self.phases.items()]
        lines += ["", *aligned(_COLUMNS, 4, self.rows, _case)]
        if self.kernels:
            lines += ["", "Kernels of one run", *aligned(_KERNEL_COLUMNS, 3, self.kernels, _case)]
        lines += ["", *(f"{row.case}, {row.contender}: {row.note}" for row in self.rows if row.note)]
        lines += [f"{what}: {why}" for what, why in self.left_out.items()]
        lines += [f"FAILED: {failure}" for failure in self.failures]
        return "\n".join([*lines, *FOOTNOTES])


_COLUMNS: Sequence[Column] = (
    ("workload", lambda row: row.workload),
    ("dtype", lambda row: row.dtype),
    ("operation", lambda row: row.operation),
    ("contender", lambda row: row.contender),
    ("median ms", lambda row: number(row.median_ms, 4)),
    ("x base", lambda row: number(row.x_baseline, 2)),
    ("wall ms", lambda row: number(row.wall_ms, 4)),
    ("x base", lambda row: number(row.x_baseline_wall, 2)),
    ("TFLOP/s", lambda row: number(row.tflops, 1)),
    ("% matmul", lambda row: number(row.percent_of_matmul, 1)),
    ("% floor", lambda row: number(row.percent_of_floor, 1)),
    ("MB", lambda row: number(row.memory_mb, 1)),
    ("rounds", lambda row: str(row.rounds or "-")),
)

_KERNEL_COLUMNS: Sequence[Column] = (
    ("case", lambda one: one.case),
    ("contender", lambda one: one.contender),
    ("kernel", lambda one: one.kernel[:60]),
    ("launches", lambda one: f"{one.launches:g}"),
    ("us", lambda one: f"{one.microseconds:.1f}"),
    ("floor us", lambda one: number(one.floor_microseconds, 1)),
)


def _case(row: Row | Kernel) -> str:
    return row.case
