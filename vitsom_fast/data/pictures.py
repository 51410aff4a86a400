"""Pictures as files and as Pillow has them, to bytes of one shape; folders of them by class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitsom_fast.data.dataset import Dataset, Splits
from vitsom_fast.messages import one_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_TRAIN, _TEST, _VALIDATION = ("train", "training"), ("test",), ("val", "valid", "validation")


def load_folder(folder: Path, image_size: int = 0) -> Splits:
    """Pictures in folders that are named after their classes: ``FOLDER/CLASS/*.png``, or such below ``FOLDER/train``,
    ``FOLDER/test`` and ``FOLDER/validation``.

    Args:
        image_size: pixels a side to resize them to; 0 where all have one size already.

    Raises:
        FileNotFoundError: there are none.
        ValueError: one cannot be read, or they differ in size.
    """
    names = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    halves = [next((names[name] for name in each if name in names), None) for each in (_TRAIN, _TEST, _VALIDATION)]
    roots = halves if halves[0] else [folder, None, None]
    files = [_files(root) if root else [] for root in roots]
    if not files[0]:
        raise FileNotFoundError(f"dataset {str(folder)!r}: there are no pictures in folders of classes in it")
    every = [path for half in files for path in half]
    pixels = read_pictures(every, image_size)
    classes = tuple(sorted({path.parent.name for path in every}))  # also "None" and "-1", which are no labels elsewhere
    number = {name: index for index, name in enumerate(classes)}
    labels = torch.tensor([number[path.parent.name] for path in every], dtype=torch.int64, device="cpu")
    counts = [len(half) for half in files if half]
    both = zip(pixels.split(counts), labels.split(counts), strict=True)
    found = iter(Dataset(folder.name, part, own, classes) for part, own in both)
    train, test, validation = (next(found) if half else None for half in files)
    assert train is not None
    return Splits(train, test, validation)


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*/*") if path.suffix.lower() in SUFFIXES)


def read_pictures(paths: Sequence[Path], image_size: int = 0, channels: int = 0) -> Tensor:
    """(N, C, H, W) uint8 of picture files.

    Args:
        image_size: pixels a side to resize them to; 0 where all have one size already.
        channels: 1 or 3; 0 for that of the first picture: 1 if it is grey.

    Raises:
        FileNotFoundError, ValueError: one cannot be read, or they differ in size; the message names it.
    """

    def opened() -> Iterable[Image.Image]:
        for path in paths:
            try:
                with Image.open(path) as picture:
                    picture.load()
                    yield picture
            except FileNotFoundError:
                raise FileNotFoundError(f"picture {str(path)!r}: there is no such file") from None
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(f"picture {str(path)!r} cannot be read: {one_line(error)}") from error

    return to_bytes(opened(), len(paths), image_size, channels, names=[str(path) for path in paths])


def to_bytes(
    pictures: Iterable[Image.Image], count: int, image_size: int = 0, channels: int = 0, names: Sequence[Any] | None = None
) -> Tensor:
    """(N, C, H, W) uint8 of pictures, one held at a time; arguments and errors as those of ``read_pictures``."""
    pixels = np.empty((0, 0, 0, 0), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        if number == 0:
            channels = channels or (1 if picture.mode in ("1", "L", "F") or picture.mode[0] == "I" else 3)
        try:
            array = _array(picture, image_size, channels)  # [H, W, C]
        except ValueError as error:
            raise ValueError(f"picture {names[number] if names else number!r} cannot be used: {error}") from error
        if number == 0:
            pixels = np.empty((count, *array.shape), dtype=np.uint8)
        if array.shape != pixels.shape[1:]:
            name = names[number] if names else number
            raise ValueError(
                f"picture {name!r} has {array.shape[0]} x {array.shape[1]} pixels where others have {pixels.shape[1]} x"
                f" {pixels.shape[2]}: give an image_size to resize them to"
            )
        pixels[number] = array
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 1)))


def _array(picture: Image.Image, image_size: int, channels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    picture = _of_bytes(picture).convert("L" if channels == 1 else "RGB")
    if image_size and picture.size != (image_size, image_size):
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    array = np.asarray(picture, dtype=np.uint8)
    return array[:, :, None] if channels == 1 else array


def _of_bytes(picture: Image.Image) -> Image.Image:
    """Grey of 16 bits, 0 to 65535, and floats, 0 to 1, as grey of 8 bits: Pillow would cut them off at 255.

    Raises:
        ValueError: numbers out of that range.
    """
    if picture.mode[0] not in "IF":
        return picture
    largest = 1.0 if picture.mode == "F" else 65535.0
    numbers = np.asarray(picture, dtype=np.float64)
    if not (numbers.min() >= 0 and numbers.max() <= largest):  # false for NaN, too
        raise ValueError(f"its numbers must be from 0 to {largest:g}, got {numbers.min():g} to {numbers.max():g}")
    return Image.fromarray(np.rint(numbers * (255 / largest)).astype(np.uint8))
