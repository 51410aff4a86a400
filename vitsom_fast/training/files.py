"""The folder of a run: its name, one writer at a time, and files that are whole or not there."""

from __future__ import annotations

import errno
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

# What file systems answer that have nothing to sync (VirtualBox shares, old CIFS, some FUSE), or no folder to open.
_NOTHING_TO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EISDIR}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that after a crash at any moment it holds either what it did before or all of ``data``.

    A temporary file beside it reaches the disk first, then takes its name in one step, then the folder reaches the disk.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a run that was killed, or a link of somebody else
    with open(temporary, "xb") as file:  # "x" never follows a link
        file.write(data)
        file.flush()
        _sync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NOTHING_TO_SYNC:
            raise


def _sync_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:  # Windows, or a folder that may be written but not listed
        if error.errno not in _NOTHING_TO_SYNC:
            raise
        return
    try:
        _sync(handle)
    finally:
        os.close(handle)


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
