"""Data and random numbers are the same whatever the user's default dtype and device are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from vitsom_fast.data import Dataset, digits_affine
from vitsom_fast.models import affine_views, class_of_units
from vitsom_fast.models.blocks import DropPath
from vitsom_fast.models.presets import OF_CLASSIFICATION
from vitsom_fast.training.augmentation import augmented

IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MADE: dict[str, Callable[[], Tensor]] = {
    "digits_affine": lambda: digits_affine(16, train=2, test=1).train.pixels,
    "affine_views": lambda: affine_views(IMAGES),
    "augmented": lambda: augmented(IMAGES, OF_CLASSIFICATION),
    "drop_path": lambda: DropPath(0.5)(IMAGES.flatten(2)),
    "held_out": lambda: Dataset("d", IMAGES).held_out(0.5)[1].pixels,
    "classes": lambda: class_of_units(torch.zeros(1, dtype=torch.int64, device="cpu"), torch.full((1,), -1, device="cpu"), 3),
}


@pytest.mark.parametrize("name", MADE)
def test_defaults_of_the_user_change_nothing(name: str) -> None:
    state = torch.get_rng_state()
    expected = MADE[name]()
    torch.set_default_dtype(torch.float64)
    try:
        torch.set_rng_state(state)
        with torch.device("meta"):
            found = MADE[name]()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype
