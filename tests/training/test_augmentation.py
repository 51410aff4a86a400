"""Training images changed at random: each operation is what its formula says, and nothing leaves its range."""

from __future__ import annotations

import pytest
import torch

from vitsom_fast.models.presets import OF_CLASSIFICATION, Augmentation
from vitsom_fast.training.augmentation import augmented, crop_and_flip, erase
from vitsom_fast.training.rand_augment import OPERATIONS, rand_augment


def test_nothing_to_do_changes_nothing() -> None:
    images = torch.rand(3, 3, 8, 8)
    assert augmented(images, Augmentation()) is images


@pytest.mark.parametrize("shape", [(20, 3, 16, 16), (20, 1, 9, 12)])
def test_images_stay_images(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    before = images.clone()
    changed = augmented(images, OF_CLASSIFICATION)
    assert torch.equal(images, before)
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert (changed != images).flatten(1).any(1).float().mean() > 0.9


def test_the_random_numbers_are_those_of_the_cpu() -> None:
    images, state = torch.rand(9, 3, 8, 8), torch.get_rng_state()
    first = augmented(images, OF_CLASSIFICATION)
    torch.set_rng_state(state)
    assert torch.equal(augmented(images, OF_CLASSIFICATION), first)


def test_a_whole_crop_is_the_image_or_its_mirror_image() -> None:
    images = torch.rand(40, 3, 8, 8)
    found = crop_and_flip(images, Augmentation(0.5))
    same, mirrored = ((found - each).abs().amax((1, 2, 3)) < 1e-4 for each in (images, images.flip(3)))
    assert (same | mirrored).all()
    assert 5 < same.sum() < 35


def test_a_crop_is_a_rectangle_of_the_image() -> None:
    """On an image whose values are its coordinates, a crop's corners are those of the rectangle."""
    row, col = torch.meshgrid(torch.linspace(-1, 1, 101), torch.linspace(-1, 1, 101), indexing="ij")
    images = torch.stack([row, col]).expand(300, 2, 101, 101)
    found = crop_and_flip(images, Augmentation(0.0, (0.25, 0.5), (0.75, 4 / 3)))
    height = (found[:, 0, -1, 50] - found[:, 0, 0, 50]) / 2
    width = (found[:, 1, 50, -1] - found[:, 1, 50, 0]) / 2
    area, ratio = height * width, width / height
    assert 0.22 < area.min() < 0.3
    assert 0.45 < area.max() < 0.52
    assert 0.7 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.4


def test_a_rectangle_of_noise_in_a_share_of_the_images() -> None:
    images = torch.full((200, 3, 20, 30), 2.0)  # no noise is that
    erased = (erase(images, 0.25) != 2).all(1)  # [B, H, W]
    hit = erased.flatten(1).any(1)
    assert 20 < hit.sum() < 90
    for mask in erased[hit]:
        rows, cols = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].all()
        assert 0.01 < mask.float().mean() < 0.4


IMAGE = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])


@pytest.mark.parametrize(
    ("name", "amount", "expected"),
    [
        ("identity", 1.0, [[0.0, 0.25], [0.5, 1.0]]),
        ("brightness", -0.5, [[0.0, 0.1375], [0.275, 0.55]]),
        ("contrast", -1.0, [[0.39375, 0.41875], [0.44375, 0.49375]]),
        ("solarize", 0.5, [[0.0, 0.25], [0.5, 0.0]]),
        ("posterize", 1.0, [[0.0, 48 / 255], [112 / 255, 240 / 255]]),
        ("autocontrast", 0.3, [[0.0, 0.25], [0.5, 1.0]]),
        ("equalize", 0.3, [[0.0, 1 / 3], [2 / 3, 1.0]]),
    ],
)
def test_an_operation_is_that_of_its_formula(name: str, amount: float, expected: list[list[float]]) -> None:
    found = OPERATIONS[name](IMAGE, torch.tensor([amount]))[0, 0]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_half_a_turn_and_a_move() -> None:
    images = torch.rand(1, 1, 20, 20)
    moved = OPERATIONS["translate_x"](images, torch.tensor([1 / 9]))  # 0.1 of half the width: 1 pixel
    torch.testing.assert_close(moved[..., :-1], images[..., 1:], rtol=0, atol=1e-4)
    moved = OPERATIONS["translate_y"](images, torch.tensor([-1 / 9]))
    torch.testing.assert_close(moved[:, :, 1:], images[:, :, :-1], rtol=0, atol=1e-4)
    turned = OPERATIONS["rotate"](images, torch.tensor([3.0]))  # 90 degrees
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), rtol=0, atol=1e-4)


def test_each_image_has_operations_of_its_own() -> None:
    images = torch.rand(1, 3, 8, 8).expand(40, 3, 8, 8)
    assert len({tuple(image.flatten().tolist()) for image in rand_augment(images, 2)}) > 20
