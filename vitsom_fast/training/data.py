"""The data sets that a run can name: images and, where there are any, labels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

from vitsom_fast.training.labels import number_labels
from vitsom_fast.training.npz import read_npz

BUNDLED = ("digits", "photo-patches")
PHOTO_PATCH = 8  # pixels a side
LAYOUTS = ("NHWC", "NCHW")
_MOST_COLOURS = 4  # red, green, blue, alpha


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W) float32 in [0, 1]; labels (N,) int64 that index ``classes``, -1 where an image has none, or None
    where none has one; and a name."""

    name: str
    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """The same for the same images: tells a resumed run whether it still sees the data that it began with."""
        return hashlib.sha256(self.images.contiguous().numpy().data).hexdigest()


def load_dataset(name: str) -> Dataset:
    """A data set by name.

    Args:
        name: "digits" (scikit-learn's 1797 handwritten digits, 8 x 8, 10 classes), "photo-patches" (the 8480 patches of
            8 x 8 x 3 of its two sample photographs, no labels), or the path of an .npz file with

            - ``images``, (N, H, W) or (N, H, W, C), uint8 or floats in [0, 1];
            - ``labels``, if known: (N,) or (N, 1) text, bytes, numbers or dates, -1 or NaN where an image has none;
            - ``layout``, if need be: "NCHW" for images (N, C, H, W), "NHWC" to insist where images look like these, as they do
              where the last dimension is above 4 and the second is smaller than the two after it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown name, or a file that does not hold what it should; the message says what was expected.
    """
    if name == "digits":
        pixels, classes = load_digits(return_X_y=True)
        images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        return Dataset(name, images, *number_labels(classes, len(images)))
    if name == "photo-patches":
        return Dataset(name, _photo_patches())
    if not name.endswith(".npz"):
        raise ValueError(f"dataset must be one of {BUNDLED} or the path of an .npz file, got {name!r}")
    return _load_npz(Path(name))


def _photo_patches() -> Tensor:
    photos = torch.from_numpy(np.stack(load_sample_images().images)).float() / 255  # [2, 427, 640, 3]
    tiles = photos.unfold(1, PHOTO_PATCH, PHOTO_PATCH).unfold(2, PHOTO_PATCH, PHOTO_PATCH)  # [2, 53, 80, 3, 8, 8]
    return tiles.reshape(-1, 3, PHOTO_PATCH, PHOTO_PATCH)


def _load_npz(path: Path) -> Dataset:
    try:
        arrays = read_npz(path, "images", optional=("labels", "layout"))
        images = _checked_images(arrays.pop("images"), str(arrays.get("layout", "")))
        labels = number_labels(arrays["labels"], len(images)) if "labels" in arrays else (None, ())
    except FileNotFoundError as error:
        raise FileNotFoundError(f"dataset {str(path)!r}: {error}") from None
    except (ValueError, MemoryError) as error:
        raise ValueError(f"dataset {str(path)!r} cannot be used: {error}") from error
    return Dataset(path.stem, images, *labels)


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
    if images.dtype != np.uint8:
        return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
    pixels = np.empty(images.shape, dtype=np.float32)
    return torch.from_numpy(np.divide(images, 255, out=pixels, dtype=np.float32))


def _looks_channels_first(shape: tuple[int, ...]) -> bool:
    """Whether the last of four dimensions is more than colours take, and the second is the smallest of the three."""
    return len(shape) == 4 and shape[3] > _MOST_COLOURS and shape[1] < min(shape[2:])
