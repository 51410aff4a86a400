"""Arrays out of an .npz file, whoever wrote it and whatever has happened to it since."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitsom_fast.messages import one_line


def read_npz(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, NDArray[np.generic]]:
    """Arrays by their names: one of the required ones at least, and those of the optional ones that the file holds. Nothing in
    it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read; the message says why.
    """
    if not path.is_file():
        raise FileNotFoundError("it is no file" if path.exists() else "there is no such file")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no .npz file, or a part of one")
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            if not any(name in archive for name in required):
                raise ValueError(f"it must hold an array {' or '.join(map(repr, required))}, got {sorted(archive.files)}")
            return {name: _read_array(archive, name) for name in {*required, *optional} if name in archive}
    except ValueError:
        raise
    except Exception as error:  # NumPy, zipfile and its decompressors fail in a dozen ways on a damaged or foreign file
        raise ValueError(f"it cannot be read ({one_line(error)})") from error


def _read_array(archive: np.lib.npyio.NpzFile, name: str) -> NDArray[np.generic]:
    try:
        array = archive[name]
    except ValueError as error:
        hint = f": save text as {name}.astype(str), numbers as {name}.astype(float)" if "Object arrays" in str(error) else ""
        raise ValueError(f"{name}: {error}{hint}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} must be an array that NumPy saved, got {len(array)} bytes of something else")
    return array
