"""Deformed digits: the same every time, no source in both halves, no further out of shape than is said."""

from __future__ import annotations

import pytest
import torch

from vitsom_fast.data import Dataset, Splits, digits_affine, load_splits
from vitsom_fast.data.bundled import digits
from vitsom_fast.data.digits_affine import deformed


@pytest.fixture(scope="module")
def small() -> Splits:
    return digits_affine(train=1500, test=400)


def test_no_digit_is_in_both_halves(small: Splits) -> None:
    assert small.test is not None
    sources = [set(half.groups.tolist()) for half in (small.train, small.test) if half.groups is not None]
    assert len(sources[0]) == 1437  # each at least once in 1500
    assert len(sources[1]) == 360
    assert not sources[0] & sources[1]


def test_an_image_has_the_class_of_its_source(small: Splits) -> None:
    labels = digits().labels
    assert labels is not None
    for half in (small.train, small.test):
        assert half is not None
        assert half.labels is not None
        assert torch.equal(half.labels, labels[half.groups])
        assert half.classes == tuple("0123456789")


def test_images_are_bytes_and_the_same_every_time(small: Splits) -> None:
    again = digits_affine(train=1500, test=400)
    assert torch.equal(again.train.pixels, small.train.pixels)
    assert small.train.pixels.dtype == torch.uint8
    assert small.train.pixels.shape == (1500, 1, 16, 16)
    assert not torch.equal(digits_affine(train=1500, test=1, seed=1).train.pixels, small.train.pixels)


def test_two_images_of_one_digit_differ(small: Splits) -> None:
    groups = small.train.groups
    assert groups is not None
    first, second = (groups == groups[1499]).nonzero()[:2, 0]
    assert not torch.equal(small.train.pixels[first], small.train.pixels[second])


def test_a_dot_stays_within_reach() -> None:
    """Moved by at most 2.5 pixels, 1 of bending three times over, and what turning and scaling do 6 pixels from the centre."""
    images = torch.zeros(400, 1, 28, 28)
    images[:, :, 13:15, 19:21] = 1.0
    moved = deformed(images, torch.Generator().manual_seed(0))[:, 0]
    assert moved.min() >= 0
    assert moved.max() <= 1
    row, col = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    mass = moved.sum((1, 2))
    seen = mass > 0.5
    assert seen.float().mean() > 0.9
    rows, cols = ((moved * x).sum((1, 2))[seen] / mass[seen] for x in (row, col))
    assert (rows - 13.5).abs().max() < 8.5
    assert (cols - 19.5).abs().max() < 8.5
    assert rows.std() > 0.5
    assert cols.std() > 0.5


def test_at_28_pixels_they_are_not_resized() -> None:
    assert digits_affine(28, train=2, test=1).train.image_shape == (1, 28, 28)


@pytest.mark.parametrize("name", ["side", "train", "test"])
def test_a_number_below_one_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must"):
        digits_affine(**{name: 0})


def test_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def blank(side: int) -> Splits:
        return Splits(Dataset("blank", torch.zeros(1, 1, side, side)))

    monkeypatch.setattr("vitsom_fast.data.sources.digits_affine", blank)
    for name, size, side in (
        ("digits-affine", 0, 16),
        ("digits-affine", 28, 28),
        ("digits-affine-28", 0, 28),
        ("digits-affine-28", 16, 16),
    ):
        assert load_splits(name, size).train.image_shape == (1, side, side)


# What a split is by


def test_what_is_held_out_shares_no_group(small: Splits) -> None:
    rest, apart = small.train.held_out(0.2, seed=3)
    assert len(rest) + len(apart) == 1500
    assert rest.groups is not None
    assert apart.groups is not None
    assert not set(rest.groups.tolist()) & set(apart.groups.tolist())
    assert len(set(apart.groups.tolist())) == round(0.2 * 1437)
    assert torch.equal(small.train.held_out(0.2, seed=3)[1].pixels, apart.pixels)
    assert not torch.equal(small.train.held_out(0.2, seed=4)[1].pixels[:50], apart.pixels[:50])


def test_without_groups_each_image_is_its_own() -> None:
    rest, apart = Dataset("d", torch.rand(10, 1, 2, 2), torch.arange(10)).held_out(0.3)
    assert rest.labels is not None
    assert apart.labels is not None
    assert sorted(rest.labels.tolist() + apart.labels.tolist()) == list(range(10))
    assert len(apart) == 3


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 0.01])
def test_a_share_leaves_something_on_either_side(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        Dataset("d", torch.rand(10, 1, 2, 2)).held_out(share)
