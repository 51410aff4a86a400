"""A lock on a folder that ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = ".vitsom-fast.lock"

# What file systems without locks answer: Lustre mounted without flock, NFS without its lock daemon, some FUSE.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK, errno.EBADF}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone, by a file in it that is gone afterwards; without a lock where the system has none.

    Raises:
        BlockingIOError: another process holds it.
    """
    handle = _locked_file(folder / LOCK)
    try:
        yield
    finally:
        # The name goes before the lock does: who opened the file in between sees that its name is gone.
        (folder / LOCK).unlink(missing_ok=True)
        os.close(handle)


def _locked_file(path: Path) -> int:
    while True:
        # NFS refuses an exclusive lock on a file that is open for reading only. A link is not followed.
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _lock(handle)
            if _is_named(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner removed it in the meantime


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False
