"""Images and labels out of arrays: layouts, ranges, .npz files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitsom_fast.data.dataset import Dataset, Splits
from vitsom_fast.data.labels import number_labels
from vitsom_fast.data.npz import read_npz

LAYOUTS = ("NHWC", "NCHW")
_MOST_COLOURS = 4  # red, green, blue, alpha

# Images and labels to train on, for the test and for validation; where MedMNIST has other names, also by those.
_NAMES = (("images", "labels"), ("test_images", "test_labels"), ("val_images", "val_labels"))
_OF_MEDMNIST = (("train_images", "train_labels"), *_NAMES[1:])


def load_npz(path: Path) -> Splits:
    """The images in an .npz file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold what it should; the message says what was expected.
    """
    try:
        names = [name for pair in (*_NAMES, *_OF_MEDMNIST) for name in pair]
        arrays = read_npz(path, ("images", "train_images"), optional=(*names, "layout"))
        return _splits(path.stem, arrays)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"dataset {str(path)!r}: {error}") from None
    except (ValueError, MemoryError) as error:
        raise ValueError(f"dataset {str(path)!r} cannot be used: {error}") from error


def _splits(name: str, arrays: dict[str, NDArray[np.generic]]) -> Splits:
    layout = str(arrays.get("layout", ""))
    pairs = [pair for pair in (_NAMES if "images" in arrays else _OF_MEDMNIST) if pair[0] in arrays]
    pixels = {pair: _checked_images(arrays.pop(pair[0]), layout) for pair in pairs}
    labels = numbered_together([(arrays.get(pair[1]), len(pixels[pair])) for pair in pairs])
    parts = {pair[0]: Dataset(name, pixels[pair], *own) for pair, own in zip(pairs, labels, strict=True)}
    shapes = {part.image_shape for part in parts.values()}
    if len(shapes) > 1:
        raise ValueError(f"images of all halves must have one shape, got {sorted(shapes)}")
    return Splits(parts[pairs[0][0]], parts.get("test_images"), parts.get("val_images"))


def numbered_together(
    labels: list[tuple[NDArray[np.generic] | None, int]],
) -> list[tuple[Tensor | None, tuple[str, ...]]]:
    """Of the labels and the number of images of each half, what ``number_labels`` makes of them, by the classes of all."""
    there = [(array[:, 0] if array.shape == (count, 1) else array, count) for array, count in labels if array is not None]
    for array, count in there:
        if array.shape != (count,):
            number_labels(array, count)  # which says what is wrong
    if not there:
        return [(None, ()) for _ in labels]
    numbers, classes = number_labels(np.concatenate([array for array, _ in there]), sum(count for _, count in there))
    if numbers is None:
        return [(None, ()) for _ in labels]
    parts = iter(numbers.split([count for _, count in there]))
    return [(None if array is None else next(parts), classes) for array, _ in labels]


def _checked_images(images: NDArray[np.generic], layout: str) -> Tensor:
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(f"images must have shape (N, H, W) or (N, H, W, C), none of them 0, got {images.shape}")
    if layout not in ("", *LAYOUTS):
        raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}")
    if not layout and _looks_channels_first(images.shape):
        raise ValueError(
            f"images of shape {images.shape} look like (N, C, H, W) where (N, H, W, C) is expected: save"
            " images.transpose(0, 2, 3, 1), or say which of the two they are with layout='NCHW' or layout='NHWC' in the file"
        )
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images must be uint8 or floats, got {images.dtype}")
    if images.dtype != np.uint8 and not (images.min() >= 0 and images.max() <= 1):  # false for NaN, too
        raise ValueError(f"images of floats must be finite and in [0, 1], got {images.min()} to {images.max()}")
    if images.ndim == 3:
        images = images[:, None]
    elif layout != "NCHW":
        images = np.moveaxis(images, -1, 1)
    return torch.from_numpy(np.ascontiguousarray(images, dtype=np.uint8 if images.dtype == np.uint8 else np.float32))


def _looks_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the last of four dimensions is more than colours take, and the second is the smallest of the three."""
    return len(shape) == 4 and shape[3] > _MOST_COLOURS and shape[1] < min(shape[2:])
