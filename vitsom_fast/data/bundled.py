"""The data sets that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitsom_fast.data.dataset import Dataset
from vitsom_fast.data.labels import number_labels

PHOTO_PATCH = 8  # pixels a side


def digits() -> Dataset:
    """1797 handwritten digits, 8 x 8, of 10 classes."""
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16, dtype=torch.float32, device="cpu").view(-1, 1, 8, 8)
    return Dataset("digits", images, *number_labels(classes, len(images)))


def photo_patches() -> Dataset:
    """The 8480 patches of 8 x 8 x 3 of two photographs, without labels."""
    return Dataset("photo-patches", _patches())


def _patches() -> Tensor:
    from sklearn.datasets import load_sample_images

    photos = torch.from_numpy(np.stack(load_sample_images().images)).float() / 255  # [2, 427, 640, 3]
    tiles = photos.unfold(1, PHOTO_PATCH, PHOTO_PATCH).unfold(2, PHOTO_PATCH, PHOTO_PATCH)  # [2, 53, 80, 3, 8, 8]
    return tiles.reshape(-1, 3, PHOTO_PATCH, PHOTO_PATCH)
