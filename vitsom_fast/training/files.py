"""The folder of a run: its name, one writer at a time, and files that are whole or not there."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vitsom_fast.training.lock import locked

RUNS = Path("runs")
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.json"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone, made if need be.

    Raises:
        ValueError: another process holds it, or the path is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out must be a folder, got the file {str(folder)!r}")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError:
            raise ValueError(f"out {str(folder)!r} is in use by another run") from None
        yield


def new_run_folder(dataset: str, runs: Path = RUNS) -> Path:
    """``runs/NAME``, or the first of ``runs/NAME-2``, ``runs/NAME-3``, ... that does not exist; not made."""
    name = _run_name(dataset)
    candidates = itertools.chain([runs / name], (runs / f"{name}-{number}" for number in itertools.count(2)))
    return next(folder for folder in candidates if not os.path.lexists(folder))


def make_run_folder(dataset: str, runs: Path = RUNS) -> Path:
    """Make the folder that ``new_run_folder`` names; of two runs that start at once, each gets its own."""
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        folder = new_run_folder(dataset, runs)
        try:
            folder.mkdir()
        except FileExistsError:  # another run was faster
            continue
        return folder


def newest_run_folder(dataset: str, runs: Path = RUNS) -> Path:
    """The last that ``new_run_folder`` named for a data set; ``runs/NAME`` where there is none."""
    name = _run_name(dataset)
    numbered = re.compile(rf"{re.escape(name)}-(\d+)")
    matches = [numbered.fullmatch(folder.name) for folder in runs.iterdir()] if runs.is_dir() else []
    newest = max((int(match[1]) for match in matches if match), default=1)
    return runs / (name if newest == 1 else f"{name}-{newest}")


def _run_name(dataset: str) -> str:
    """The data set's name without what makes it a hidden folder, or no folder of its own (".")."""
    return Path(dataset).stem.strip(".") or "data"
