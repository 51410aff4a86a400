"""Where rows come from: an array, a tensor, a sparse matrix, anything that can be sliced by rows, or chunks that come again."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitsom_fast.backends.centred import slices
from vitsom_fast.estimator import ranks
from vitsom_fast.estimator.read_ahead import read_ahead

Chunk = tuple[Tensor, "Tensor | None"]


class Work(Protocol):
    """What is to be known of all rows, as totals that chunks of rows are added to."""

    def totals(self) -> list[Tensor]: ...

    def add(self, totals: list[Tensor], x: Tensor, weight: Tensor | None) -> None: ...


class Rows:
    """Rows of ``dim`` features, fp32 or fp64 (``dtype``), as chunks on one device. ``length`` is None where nobody knows it
    before they were all read."""

    length: int | None = None

    def __init__(self, dim: int, dtype: torch.dtype, device: torch.device, weight: Tensor | None, missing: str) -> None:
        self.dim, self.dtype, self.device, self.weight, self.missing = dim, dtype, device, weight, missing

    def add_up(self, work: Work, size: int) -> list[Tensor]:
        """The totals of all rows, those of other ranks too; ``size`` rows are computed with at a time."""
        totals = work.totals()
        for x, weight in self.chunks(size):
            work.add(totals, x, weight)
        return ranks.add_up(totals)

    def map(self, function: Callable[[Tensor], Tensor], size: int) -> NDArray[Any]:
        """What a function makes of every chunk of rows, one after the other, as an array."""
        found, start = np.empty(0), 0
        for x, _ in self.chunks(size):
            part = function(x).cpu().numpy()
            stop = start + len(part)
            if start == 0:
                found = np.empty((self.length or stop, *part.shape[1:]), dtype=part.dtype)
            if stop > len(found):  # in place: parts that wait for the last one would hold the memory of chunks between them
                found.resize((stop + stop // 4, *part.shape[1:]), refcheck=False)
            found[start:stop] = part
            start = stop
        if start < len(found):
            found.resize((start, *found.shape[1:]), refcheck=False)
        return found

    def chunks(self, size: int) -> Iterator[Chunk]:
        """Rows (B, dim) with weights (B,) fp64 or None, B at most ``size`` and at least 1."""
        start, weight = 0, None
        for block in self._blocks(size):
            for part in slices(len(block), size):
                rows = block[part]
                stop = start + len(rows)
                if self.weight is not None:
                    if stop > len(self.weight):
                        raise ValueError(f"sample_weight must have a number for each row of X, got {len(self.weight)}")
                    weight = self.weight[start:stop].to(self.device)
                if stop > start:
                    yield rows.to(self.device), weight
                start = stop
        if self.weight is not None and start < len(self.weight):
            raise ValueError(f"sample_weight must have shape ({start},), a number for each row of X, got ({len(self.weight)},)")

    def first(self, count: int) -> Tensor:
        """(at most count, dim): rows at the beginning."""
        return next(self.chunks(count), (torch.empty(0, self.dim, dtype=self.dtype, device=self.device), None))[0]

    def _blocks(self, size: int) -> Iterator[Tensor]:
        raise NotImplementedError


class TensorRows(Rows):
    """In memory, as they are: nothing is copied but the chunk at hand."""

    def __init__(self, x: Tensor, device: torch.device, weight: Tensor | None, missing: str) -> None:
        super().__init__(x.shape[1], x.dtype, device, weight, missing)
        self._x, self.length = x, len(x)

    def _blocks(self, size: int) -> Iterator[Tensor]:
        yield self._x


class SlicedRows(Rows):
    """Of whatever has a shape and can be sliced: a file larger than memory, a sparse matrix. Slices are read ahead."""

    def __init__(self, x: Any, device: torch.device, weight: Tensor | None, missing: str) -> None:
        dtype = torch.float64 if np.result_type(getattr(x, "dtype", float), np.float32) == np.float64 else torch.float32
        super().__init__(x.shape[1], dtype, device, weight, missing)
        self._x, self.length = x, x.shape[0]

    def _blocks(self, size: int) -> Iterator[Tensor]:
        assert self.length is not None
        starts = range(0, self.length, size)
        return read_ahead(self._slice(start, size) for start in starts)

    def _slice(self, start: int, size: int) -> Tensor:
        rows = as_rows(self._x[start : start + size], self)
        if isinstance(self._x, np.memmap):
            rows = rows.clone()  # of memory that is given back
            _give_back(self._x)
        return rows


def _give_back(x: np.memmap) -> None:
    """The pages that were read of a file, which would count as this process's memory until it runs out. What was written to a
    copy is in none."""
    mapped: Any = getattr(x, "_mmap", None)
    if x.mode in ("r", "r+") and hasattr(mapped, "madvise"):
        mapped.madvise(mmap.MADV_DONTNEED)


class ChunkRows(Rows):
    """Of an iterable of chunks that begins anew each time it is asked for."""

    def __init__(self, x: Iterable[Any], device: torch.device, weight: Tensor | None, missing: str) -> None:
        self._x = x
        for chunk in x:
            first = as_tensor(chunk)
            break
        else:
            raise ValueError("X must be an iterable of at least one chunk of rows, got none")
        super().__init__(first.shape[1], first.dtype, device, weight, missing)

    def _blocks(self, size: int) -> Iterator[Tensor]:
        return read_ahead(as_rows(chunk, self) for chunk in self._x)


def as_rows(chunk: Any, rows: Rows) -> Tensor:
    """A chunk as rows (B, D) in their dtype, checked: it comes from where nobody has looked at it as a whole.

    Raises:
        ValueError: another shape, or a number that is not finite; a NaN may stand for one that is missing.
    """
    x = as_tensor(chunk).to(rows.dtype)
    if x.shape[1] != rows.dim:
        raise ValueError(f"X must have chunks of {rows.dim} features as the first one has, got {tuple(x.shape)}")
    check_finite(x, rows.missing)
    return x


def check_finite(x: Tensor, missing: str) -> None:
    """Raises the ValueError that says what is not finite in x (B, D)."""
    if x.sum().isfinite():
        return
    is_wrong = x.isinf() if missing == "ignore" else ~x.isfinite()
    if is_wrong.any():
        row, feature = is_wrong.nonzero()[0].tolist()
        hint = "" if missing == "ignore" or x[row, feature].isinf() else "; missing='ignore' leaves out what is NaN"
        raise ValueError(f"X must be finite, got {x[row, feature].item()} in feature {feature} of a row{hint}")


def as_tensor(chunk: Any) -> Tensor:
    """Rows (B, D) of a chunk, fp32 or fp64: a tensor, an array, a sparse matrix, a table, the columns of one by name, or a
    batch of a data loader, whose first entry it is.

    Raises:
        TypeError: a tensor that is not dense.
        ValueError: it has not two dimensions, or numbers that are not real.
    """
    if isinstance(chunk, (tuple, list)) and len(chunk) and getattr(chunk[0], "ndim", 0) == 2:
        chunk = chunk[0]
    if isinstance(chunk, dict):
        chunk = np.column_stack([np.asarray(column) for column in chunk.values()])
    if hasattr(chunk, "toarray"):  # sparse
        chunk = chunk.toarray()
    if isinstance(chunk, Tensor) and (chunk.layout is not torch.strided or chunk.is_nested):
        raise TypeError(f"X must be a dense tensor, got layout {chunk.layout}{' of a nested tensor' * chunk.is_nested}")
    x = chunk.detach() if isinstance(chunk, Tensor) else from_numpy(np.asarray(chunk))
    if x.dim() != 2 or x.shape[1] < 1:
        raise ValueError(f"X must have rows of at least one feature, (N, D), got shape {tuple(x.shape)}")
    if x.is_complex():
        raise ValueError(f"X must be of real numbers, got {x.dtype}")
    return x if x.dtype in (torch.float32, torch.float64) else x.to(_float_of(x.dtype))


def from_numpy(x: NDArray[Any]) -> Tensor:
    """The array as a tensor of the same memory, where that can be. Nobody writes to it."""
    if x.dtype.kind not in "biuf":
        x = x.astype(np.float64)  # numbers that are objects
    if not x.dtype.isnative or x.dtype.kind in "b" or x.dtype.itemsize > 8 or (x.dtype.kind == "u" and x.dtype.itemsize > 1):
        x = x.astype(np.float64)
    if any(stride < 0 for stride in x.strides):
        x = np.ascontiguousarray(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(x)


def _float_of(dtype: torch.dtype) -> torch.dtype:
    """fp32 where it holds the numbers of a dtype, else fp64."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16, torch.uint8, torch.int8, torch.int16) else torch.float64
