"""Rows of a comparison, kept on disk as they come, so that one that was stopped goes on; and the table that they make."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from vitsom_fast.atomic import write_atomically
from vitsom_fast.messages import one_line
from vitsom_fast.reproduction.published import Published

_FILE, _TABLE, _FIGURE = "results.json", "table.md", "model_size.png"


class Results:
    """The rows in a folder; each is of a model, a size (of the map, or of the training half) and a seed, made under
    ``settings``, of which "seeds" may be others when it goes on.

    Attributes:
        settings: those that the folder was begun with: a seed that is added has the time that each had then.

    Raises:
        ValueError: the folder holds rows of other settings, or a file that cannot be read; the message names it.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings))
        self.rows: list[dict[str, Any]] = []
        if (folder / _FILE).exists():
            kept, self.rows = _read(folder / _FILE)
            if {**kept, "seeds": 0} != {**self.settings, "seeds": 0}:
                raise ValueError(f"out {str(folder)!r} holds results of other settings: take another folder")
            self.settings |= kept

    def has(self, model: str, seed: int) -> bool:
        """Whether the rows of a model and a seed are there."""
        return any(row["model"] == model and row["seed"] == seed for row in self.rows)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the rows of a model and a seed."""
        self.rows += rows
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"settings": self.settings, "rows": self.rows}
        write_atomically(self.folder / _FILE, json.dumps(content, indent=1).encode())

    def write_table(self, text: str) -> Path:
        """Keep the table, too; returns its path."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / _TABLE, text.encode())
        return self.folder / _TABLE

    def write_figure(self, figure: Figure) -> None:
        """And the figure of sizes and scores."""
        picture = BytesIO()
        figure.savefig(picture, format="png")
        write_atomically(self.folder / _FIGURE, picture.getvalue())


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The settings and the rows in a file."""
    try:
        kept = json.loads(path.read_text())
        settings, rows = kept["settings"], kept["rows"]
        if not (settings.keys() and all({"model", "size", "seed"} <= row.keys() for row in rows)):
            raise ValueError("it must hold settings, and rows with a model, a size and a seed each")
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as error:
        raise ValueError(f"results {str(path)!r} cannot be read ({one_line(error)}): take another folder") from error
    return settings, rows


def table(
    rows: Sequence[dict[str, Any]], columns: dict[str, str], published: Sequence[Published], score: str, notes: Sequence[str]
) -> str:
    """Markdown: a line for each model and size, of the mean and the standard deviation over seeds, and the paper's below.

    Args:
        columns: fields of the rows, and the headings for them.
        score: heading of what the paper reports.
    """
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["size"]), []).append(row)
    lines = [_line(["model", "size", "seeds", *columns.values()]), _line(["---"] * (3 + len(columns)))]
    for (model, size), group in groups.items():
        lines.append(_line([model, size, str(len(group)), *(_cell([row.get(name) for row in group]) for name in columns)]))
    lines += ["", f"As published, on other data and after 500 epochs (Luo & Yuan 2025): {score}", ""]
    lines += [_line(["model", "data", score, "parameters"]), _line(["---"] * 4)]
    for each in published:
        deviation = "" if each.deviation is None else f" ± {each.deviation:.3f}"
        lines.append(_line([each.model, each.data, f"{each.score:.3f}{deviation}", each.parameters]))
    return "\n".join([*lines, "", *notes, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None and not math.isnan(value)]
    if not known:
        return "-"
    mean = statistics.fmean(known)
    digits = 0 if all(isinstance(value, int) for value in known) else 3 if mean < 1.0005 else 1 if mean < 1000 else 0
    text = f"{mean:.{digits}f}"
    return text if len(known) < 2 or len(set(known)) == 1 else f"{text} ± {statistics.stdev(known):.{digits}f}"
