"""The folder of a run: files that are whole or not there, and one writer at a time."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUNS = Path("runs")
CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.json"
_TEMPORARY = ".tmp"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that after a crash at any moment it holds either what it did before or all of ``data``.

    A temporary file beside it reaches the disk first, then takes its name in one step, then the folder reaches the disk.
    """
    temporary = path.with_name(f".{path.name}{_TEMPORARY}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone, made if need be, without the temporary files of a run that was killed.

    Raises:
        ValueError: another process holds it, or the path is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out must be a folder, got the file {str(folder)!r}")
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        for leftover in folder.glob(f".*{_TEMPORARY}"):
            leftover.unlink()
        yield


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """A lock that ends with the process, however it ends; none where the system has no flock."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise ValueError(f"out {str(folder)!r} is in use by another run") from None
    try:
        yield
    finally:
        os.close(handle)


def new_run_folder(dataset: str, runs: Path = RUNS) -> Path:
    """``runs/NAME``, or the first of ``runs/NAME-2``, ``runs/NAME-3``, ... that does not exist; not made."""
    name = Path(dataset).stem
    candidates = itertools.chain([runs / name], (runs / f"{name}-{number}" for number in itertools.count(2)))
    return next(folder for folder in candidates if not folder.exists())


def newest_run_folder(dataset: str, runs: Path = RUNS) -> Path:
    """The last that ``new_run_folder`` named for a data set; ``runs/NAME`` where there is none."""
    name = Path(dataset).stem
    numbers = [1]
    for folder in runs.glob(f"{name}-*"):
        if match := re.fullmatch(rf"{re.escape(name)}-(\d+)", folder.name):
            numbers.append(int(match[1]))
    return runs / (name if max(numbers) == 1 else f"{name}-{max(numbers)}")
