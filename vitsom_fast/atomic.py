"""Files that are whole or not there, whenever the process ends."""

from __future__ import annotations

import errno
import os
from pathlib import Path

# What file systems answer that have nothing to sync (VirtualBox shares, old CIFS, some FUSE), or no folder to open.
_NOTHING_TO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EISDIR}


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that after a crash at any moment it holds either what it did before or all of ``data``.

    A temporary file beside it reaches the disk first, then takes its name in one step, then the folder reaches the disk.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a run that was killed, or a link of somebody else
    try:
        with open(temporary, "xb") as file:  # "x" never follows a link
            file.write(data)
            file.flush()
            _sync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk, Ctrl-C
        temporary.unlink(missing_ok=True)
        raise
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
