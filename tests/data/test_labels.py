"""Labels of every kind that arrays of labels come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitsom_fast.data.labels import number_labels
from vitsom_fast.training import load_dataset

# By name: the labels of three samples, and the name of each one's class, None for no label.
KINDS: dict[str, tuple[Any, list[str | None]]] = {
    "text": (np.array(["dog", "cat", "dog"]), ["dog", "cat", "dog"]),
    "bytes": (np.array([b"cat", b"dog", b"cat"]), ["cat", "dog", "cat"]),
    "UTF-8": (np.array(["\u732b".encode(), b"dog", b"dog"]), ["\u732b", "dog", "dog"]),
    "Latin-1": (np.array(["caf\u00e9".encode("latin-1"), b"tea", b"tea"]), ["caf\u00e9", "tea", "tea"]),
    "a column": (np.array([[5], [3], [5]]), ["5", "3", "5"]),
    "NaN": (np.array([0.0, np.nan, 2.0]), ["0", None, "2"]),
    "fractions": (np.array([0.5, -1.0, 0.25]), ["0.5", None, "0.25"]),
    "half precision": (np.array([0.5, np.nan, 0.25], dtype=np.float16), ["0.5", None, "0.25"]),
    "-1": (np.array([7, -1, 7]), ["7", None, "7"]),
    "unsigned": (np.array([7, 255, 7], dtype=np.uint8), ["7", "255", "7"]),
    "objects as text": (np.array(["cat", None, float("nan")], dtype=object).astype(str), ["cat", None, None]),
    "-1 as text": (np.array(["", "b", "-1"]), [None, "b", None]),
    "missing dates as text": (np.array(["2020-01-02", "NaT", "<NA>"]), ["2020-01-02", None, None]),
    "truth values": (np.array([True, False, True]), ["True", "False", "True"]),
    "dates": (np.array(["2020-01-02", "NaT", "2020-01-01"], dtype="datetime64[D]"), ["2020-01-02", None, "2020-01-01"]),
    "large ids": (np.array([10**8, 3, 10**8]), ["100000000", "3", "100000000"]),
    "big-endian": (np.array([1, 2, 1], dtype=">i8"), ["1", "2", "1"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_kind(kind: str) -> None:
    labels, expected = KINDS[kind]
    numbers, classes = number_labels(labels, 3)
    assert numbers is not None
    assert numbers.dtype == torch.int64
    assert [None if number == -1 else classes[number] for number in numbers.tolist()] == expected
    assert sorted(classes) == sorted({name for name in expected if name is not None})


def test_classes_are_sorted_as_the_labels_are() -> None:
    assert number_labels(np.array([10, 9, 100]), 3)[1] == ("9", "10", "100")


def test_no_label_at_all_is_as_no_labels() -> None:
    assert number_labels(np.array([-1, -1]), 2) == (None, ())


@pytest.mark.parametrize("shape", [(2, 3), (1, 2), (3,), ()], ids=str)
def test_labels_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"labels must have shape \(2,\)"):
        number_labels(np.zeros(shape), 2)


@pytest.mark.parametrize("dtype", [complex, [("a", int)]], ids=str)
def test_labels_of_another_kind_are_named(dtype: Any) -> None:
    with pytest.raises(ValueError, match="labels must be text, numbers or dates"):
        number_labels(np.zeros(2, dtype), 2)


def test_objects_are_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "pandas.npz"
    np.savez(path, images=np.zeros((2, 4, 4)), labels=np.array(["cat", "dog"], dtype=object))
    with pytest.raises(ValueError, match=r"labels.*labels\.astype\(str\)"):
        load_dataset(str(path))
