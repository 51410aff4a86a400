"""Rows of an .npy file, read slice by slice: it may be larger than the memory, and the address space, of the process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


class NpyRows:
    """What ``SOM`` takes as something that can be sliced by rows. Nothing in the file is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no .npy file of rows of numbers, or it is shorter than it says.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        with open(self._path, "rb") as file:
            try:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                self.shape, self._is_by_column, self.dtype = read(file)
            except ValueError as error:
                raise ValueError(f"{str(path)!r} must be an .npy file: {error}") from error
            self._start = file.tell()
        if len(self.shape) != 2 or self.dtype.kind not in "iufb":
            raise ValueError(f"{str(path)!r} must hold rows (N, D) of numbers, got {self.shape} {self.dtype}")
        self._row = self.shape[1] * self.dtype.itemsize
        if self._path.stat().st_size < self._start + self.shape[0] * self._row:
            raise ValueError(f"{str(path)!r} must hold {self.shape[0]} rows of {self._row} bytes, got a shorter file")

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        count = max(0, stop - start)
        if self._is_by_column:
            return np.stack([self._read(column * self.shape[0] + start, count) for column in range(self.shape[1])], axis=1)
        return self._read(start * self.shape[1], count * self.shape[1]).reshape(-1, self.shape[1])

    def _read(self, start: int, count: int) -> NDArray[Any]:
        return np.fromfile(self._path, self.dtype, count, offset=self._start + start * self.dtype.itemsize)
