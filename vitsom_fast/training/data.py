"""The data sets that a run can name: images and, where there are any, labels."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

BUNDLED = ("digits", "photo-patches")
PHOTO_PATCH = 8  # pixels a side


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W) float32 in [0, 1], labels (N,) int64 that index ``classes`` or None, and a name."""

    name: str
    images: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """The same for the same images: tells a resumed run whether it still sees the data that it began with."""
        return hashlib.sha256(self.images.numpy().tobytes()).hexdigest()


def load_dataset(name: str) -> Dataset:
    """A data set by name.

    Args:
        name: "digits" (scikit-learn's 1797 handwritten digits, 8 x 8, 10 classes), "photo-patches" (the 8480 patches of
            8 x 8 x 3 of its two sample photographs, no labels), or the path of an .npz file with ``images``, (N, H, W) or
            (N, H, W, C), uint8 or floats in [0, 1], and optionally ``labels``, (N,) of any kind that NumPy sorts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown name, or a file that does not hold what it should; the message says what was expected.
    """
    if name == "digits":
        pixels, classes = load_digits(return_X_y=True)
        images = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)
        return Dataset(name, images, *_checked_labels(classes, len(images)))
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
    if not path.is_file():
        raise FileNotFoundError(f"dataset {str(path)!r}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "images" not in arrays:
                raise ValueError(f"it must hold an array 'images', got {sorted(arrays)}")
            images = _checked_images(arrays["images"])
            labels = _checked_labels(arrays["labels"], len(images)) if "labels" in arrays else (None, ())
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"dataset {str(path)!r} cannot be used: {error}") from error
    return Dataset(path.stem, images, *labels)


def _checked_images(images: NDArray[np.generic]) -> Tensor:
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(f"images must have shape (N, H, W) or (N, H, W, C), none of them 0, got {images.shape}")
    if images.dtype == np.uint8:
        pixels = images.astype(np.float32) / 255
    elif np.issubdtype(images.dtype, np.floating):
        pixels = images.astype(np.float32)
    else:
        raise ValueError(f"images must be uint8 or floats, got {images.dtype}")
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN, too
        raise ValueError(f"images of floats must be finite and in [0, 1], got {pixels.min()} to {pixels.max()}")
    channels_last = pixels[..., None] if pixels.ndim == 3 else pixels
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(channels_last, -1, 1)))


def _checked_labels(labels: NDArray[np.generic], count: int) -> tuple[Tensor, tuple[str, ...]]:
    if labels.shape != (count,):
        raise ValueError(f"labels must have shape ({count},) as there are {count} images, got {labels.shape}")
    classes, index = np.unique(labels, return_inverse=True)
    return torch.from_numpy(index.astype(np.int64)), tuple(str(name) for name in classes)
