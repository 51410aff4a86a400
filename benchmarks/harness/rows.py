"""What the suite says of one contender, and the table of all."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.harness.contenders import Operation
from benchmarks.harness.table import Column, aligned, in_words, number
from benchmarks.harness.workloads import Workload

_FOOTNOTES = (
    "median: of rounds taken in turns within one process. x baseline: how many times as fast as the baseline (step: the eager",
    "reference; search: torch matmul and argmax). x ours: how many times as long as the fastest backend of this package takes.",
    "GFLOP/s counts the search, 2 B K D, and nothing else, for the step as well. The peak is the median of torch's fp32 matrix",
    "product of 2048 x 2048, timed in turns with the others; a better kernel, one in bf16 and one that skips work exceed it.",
    "A peer's time is its search alone: what it cannot do itself (normalise rows, build an index) is done before.",
    "memory: at the peak of one run in a process of its own, beyond inputs and gradients; 1 MB is 10^6 bytes.",
)


@dataclass(frozen=True)
class Row:
    """One contender in one operation of one workload; None is what was not measured, and ``note`` says why."""

    workload: str
    operation: str
    contender: str
    rounds: int = 0
    median_ms: float | None = None
    x_baseline: float | None = None
    x_ours: float | None = None
    gflops: float | None = None
    peak_gflops: float | None = None
    percent_of_peak: float | None = None
    floor_gflop: float | None = None
    floor_mb: float | None = None
    memory_mb: float | None = None
    note: str = ""


def fastest_of_ours(operation: Operation, seconds: Mapping[str, Sequence[float]]) -> str | None:
    """The name of this package's contender with the smallest median, None if none took part."""
    ours = [contender.name for contender in operation.contenders if contender.backend and contender.name in seconds]
    return min(ours, key=lambda name: statistics.median(seconds[name]), default=None)


def rows_of(
    operation: Operation,
    workload: Workload,
    seconds: Mapping[str, Sequence[float]],
    memory_mb: Mapping[str, float],
    notes: Mapping[str, str],
    peak: float,
) -> list[Row]:
    """A row for every contender that has times or a note, in their order; ``peak`` in FLOP/s."""
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    baseline = medians.get(operation.contenders[0].name)
    ours = medians.get(fastest_of_ours(operation, seconds) or "")
    flops, floor = workload.floor("search").flops, workload.floor(operation.name)
    rows = []
    for name in (contender.name for contender in operation.contenders):
        if name in medians:
            median = medians[name]
            rows.append(
                Row(
                    workload.name,
                    operation.name,
                    name,
                    rounds=len(seconds[name]),
                    median_ms=median * 1e3,
                    x_baseline=baseline / median if baseline else None,
                    x_ours=median / ours if ours else None,
                    gflops=flops / median / 1e9,
                    peak_gflops=peak / 1e9,
                    percent_of_peak=100 * flops / median / peak,
                    floor_gflop=floor.flops / 1e9,
                    floor_mb=floor.bytes / 1e6,
                    memory_mb=memory_mb.get(name),
                    note=notes.get(name, ""),
                )
            )
        elif name in notes:
            rows.append(Row(workload.name, operation.name, name, note=notes[name]))
    return rows


_COLUMNS: Sequence[Column] = (
    ("workload", lambda row: row.workload),
    ("operation", lambda row: row.operation),
    ("contender", lambda row: row.contender),
    ("median ms", lambda row: number(row.median_ms, 3)),
    ("x baseline", lambda row: number(row.x_baseline, 2)),
    ("x ours", lambda row: number(row.x_ours, 2)),
    ("GFLOP/s", lambda row: number(row.gflops, 1)),
    ("% of peak", lambda row: number(row.percent_of_peak, 1)),
    ("memory MB", lambda row: number(row.memory_mb, 1)),
    ("rounds", lambda row: str(row.rounds or "-")),
)


def render(rows: Sequence[Row], machine: Mapping[str, object]) -> str:
    """The table as text: the machine above it, what was not measured and what the columns mean below."""
    lines = [in_words(machine)]
    if peaks := [row.peak_gflops for row in rows if row.peak_gflops]:
        lines.append(f"peak of torch's fp32 matrix product: {min(peaks):.1f} to {max(peaks):.1f} GFLOP/s")
    lines += ["", *aligned(_COLUMNS, 3, rows, lambda row: (row.workload, row.operation)), ""]
    return "\n".join([*lines, *_notes(rows), *_FOOTNOTES])


def _notes(rows: Sequence[Row]) -> list[str]:
    """Each reason once, with all that it applies to."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.note:
            where.setdefault((row.contender, row.note), []).append(f"{row.workload} {row.operation}")
    return [f"{contender} ({', '.join(places)}): {note}" for (contender, note), places in where.items()]
