"""Images with their labels: bytes until a batch is needed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

_CHUNK = 1024  # images that become floats at a time


@dataclass(frozen=True)
class Dataset:
    """Images, and where there are any, labels.

    Attributes:
        pixels: (N, C, H, W) uint8, or float32 in [0, 1].
        labels: (N,) int64 that index ``classes``, -1 where an image has none; None where none has one.
        classes: their names.
        groups: (N,) int64, what each image was made from: images of one group are never in both halves of a split; None where
            every image is its own.
    """

    name: str
    pixels: Tensor
    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    @property
    def images(self) -> Tensor:
        """All of them (N, C, H, W) float32 in [0, 1]."""
        return as_floats(self.pixels)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        """The images (B, C, H, W) float32 in [0, 1] of these numbers, and their labels (B,) where there are any."""
        return as_floats(self.pixels[index]), None if self.labels is None else self.labels[index]

    def to(self, device: torch.device) -> Dataset:
        """The same on another device; bytes stay bytes."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, pixels=self.pixels.to(device), labels=labels)

    def part(self, index: Tensor) -> Dataset:
        """The images of these numbers."""
        labels, groups = (None if x is None else x[index] for x in (self.labels, self.groups))
        return replace(self, pixels=self.pixels[index], labels=labels, groups=groups)

    def resized(self, side: int) -> Dataset:
        """The same with images of ``side`` x ``side`` pixels; 0 for as they are."""
        if not side or self.image_shape[1:] == (side, side):
            return self
        sized = [_resized(part, side) for part in self.pixels.split(_CHUNK)]
        return replace(self, pixels=torch.cat(sized))

    def held_out(self, share: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """All images but for about that share, and those, for choosing settings by; no group is in both.

        Raises:
            ValueError: ``share`` is not between 0 and 1, or leaves nothing on one side.
        """
        groups = torch.arange(len(self), device="cpu") if self.groups is None else self.groups
        names = groups.unique()
        count = round(share * len(names))
        if not 0 < share < 1 or not 0 < count < len(names):
            raise ValueError(f"share must leave some of the {len(names)} groups of images on either side, got {share}")
        order = torch.randperm(len(names), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        apart = torch.isin(groups, names[order[:count]])
        return self.part((~apart).nonzero()[:, 0]), self.part(apart.nonzero()[:, 0])

    def fingerprint(self) -> str:
        """The same for the same images, be they bytes or floats: tells a resumed run whether it still sees the data that it
        began with."""
        digest = hashlib.sha256()
        for part in self.pixels.split(_CHUNK):
            digest.update(as_floats(part).contiguous().numpy().data)
        return digest.hexdigest()


class Splits(NamedTuple):
    """The images to train on, those to judge a model by once, and those to choose settings by; None where the source has
    none."""

    train: Dataset
    test: Dataset | None = None
    validation: Dataset | None = None


def as_floats(pixels: Tensor) -> Tensor:
    """float32 in [0, 1] of pixels that may be bytes."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def _resized(pixels: Tensor, side: int) -> Tensor:
    images = F.interpolate(as_floats(pixels), (side, side), mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
    return (images * 255).round().to(torch.uint8) if pixels.dtype == torch.uint8 else images
