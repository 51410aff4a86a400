"""What a compiler made of one kernel for one GPU, and a table of such rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One kernel as compiled for one target; None is what could not be counted."""

    kernel: str  # "module.function"
    target: str
    config: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix_instructions: int | None  # tensor-core products
    compile_seconds: float
    global_loads_16: int | None = None  # instructions that load 16 bytes a thread: from global memory, and from shared
    shared_loads_16: int | None = None


_TITLES = ("registers", "spilled", "shared", "matrix", "LDG.128", "LDS.128", "seconds")


def table(rows: Sequence[Row]) -> str:
    """The rows as text, the worst of each kernel and target first."""
    lines = [f"{'kernel':18} {'target':7} {' '.join(f'{title:>9}' for title in _TITLES)}  configuration"]
    for row in sorted(rows, key=lambda row: (row.kernel, row.target, -row.registers)):
        counts = (row.registers, row.spilled_bytes, row.shared_bytes, row.matrix_instructions)
        cells = [_cell(count) for count in (*counts, row.global_loads_16, row.shared_loads_16)]
        name = row.kernel.rpartition(".")[2].removesuffix("_kernel")
        lines.append(f"{name:18} {row.target:7} {' '.join(cells)} {row.compile_seconds:9.2f}  {row.config}")
    return "\n".join(lines)


def _cell(count: int | None) -> str:
    return f"{'-' if count is None else count:>9}"
