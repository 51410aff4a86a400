"""Labels of any kind, numbered."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NO_LABEL = -1

# What ``astype(str)`` makes of the missing values of Python, NumPy and pandas, and of -1.
_NO_LABEL_AS_TEXT = ("", "nan", "None", "NaT", "<NA>", "-1")


def number_labels(labels: NDArray[np.generic], count: int) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels (N,) int64 that index their sorted classes, ``NO_LABEL`` for a sample without one, and the classes' names.

    Args:
        labels: (N,) or (N, 1): text, bytes in UTF-8 or else Latin-1, numbers, truth values or dates. -1 and NaN, and as text
            what ``astype(str)`` makes of them, say that there is no label.
        count: N.

    Returns:
        (None, ()) where no sample has a label.

    Raises:
        ValueError: labels of another shape or kind; the message names them.
    """
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},) as there are {count} images, got {labels.shape}")
    if labels.dtype.kind not in "biufSUMm":
        raise ValueError(f"labels must be text, numbers or dates, got {labels.dtype}")
    if labels.dtype.kind == "S":
        labels = _decoded(labels.astype(np.bytes_))
    known = _is_label(labels)
    if not known.any():
        return None, ()
    classes, index = np.unique(labels[known], return_inverse=True)
    numbers = np.full(count, NO_LABEL, dtype=np.int64)
    numbers[known] = index
    return torch.from_numpy(numbers), tuple(_name(value) for value in classes)


def _decoded(labels: NDArray[np.bytes_]) -> NDArray[np.str_]:
    try:
        return np.char.decode(labels, "utf-8")
    except UnicodeDecodeError:
        return np.char.decode(labels, "latin-1")


def _is_label(labels: NDArray[np.generic]) -> NDArray[np.bool_]:
    if labels.dtype.kind == "U":
        return ~np.isin(labels, _NO_LABEL_AS_TEXT)
    if labels.dtype.kind in "Mm":
        return ~np.isnat(labels)
    return ~(np.isnan(labels) | (labels == NO_LABEL)) if labels.dtype.kind == "f" else np.asarray(labels != NO_LABEL)


def _name(value: np.generic) -> str:
    """As text; integers that became floats, as they do where some are missing, without their ".0"."""
    return str(int(value)) if isinstance(value, np.floating) and float(value).is_integer() else str(value)
