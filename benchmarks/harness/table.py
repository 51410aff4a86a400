"""Rows of any dataclass as a table to read and as a CSV to keep."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from io import StringIO
from pathlib import Path
from typing import Any

# Title and text of one column.
Column = tuple[str, Callable[[Any], str]]


def aligned(columns: Sequence[Column], words: int, rows: Sequence[Any], group: Callable[[Any], object]) -> list[str]:
    """A line for each row below that of the titles, with a rule where the group changes; the first columns are ``words``, the
    others numbers."""
    cells = [[title for title, _ in columns], *([cell(row) for _, cell in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines, previous = [], None
    for line, row in zip(cells, [None, *rows], strict=True):
        if row is not None and group(row) != previous:
            previous = group(row)
            lines.append("-" * (sum(widths) + 2 * len(widths) - 2))
        text = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        text[:words] = [cell.ljust(width) for cell, width in zip(line[:words], widths[:words], strict=True)]
        lines.append("  ".join(text))
    return lines


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def in_words(machine: Mapping[str, object]) -> str:
    """The machine as the line above a table."""
    return ", ".join(f"{name.replace('_', ' ')}: {value}" for name, value in machine.items())


def write_csv(path: Path, rows: Sequence[Any], machine: Mapping[str, object], row_type: type | None = None) -> None:
    """Rows of one dataclass, each with the machine it was measured on: rows of several files can be laid side by side.

    ``row_type`` is that dataclass, to be named where there may be no rows yet.
    """
    text = StringIO()
    writer = csv.DictWriter(text, [*(field.name for field in fields(row_type or rows[0])), *machine], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in asdict(row).items()}
        writer.writerow({**values, **machine})
    write_whole(path, text.getvalue())


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows as ``write_csv`` wrote them, every value as text; what was not measured is empty."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_whole(path: Path, text: str) -> None:
    """At once: whoever reads it, and whenever this is killed, finds a whole file."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(text, newline="")
    unfinished.replace(path)
