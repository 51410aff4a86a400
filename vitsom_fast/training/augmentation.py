"""Training images changed at random: crops, mirror images, RandAugment, rectangles of noise.

All random numbers are those of the CPU, whose state a checkpoint holds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vitsom_fast.models.presets import Augmentation
from vitsom_fast.training.rand_augment import rand_augment

_ERASED = (0.02, 1 / 3)  # of the area: the smallest and the largest rectangle
_ERASED_RATIO = (0.3, 3.3)  # of its height to its width


def augmented(images: Tensor, how: Augmentation) -> Tensor:
    """Images (B, C, H, W) in [0, 1], each changed on its own."""
    if how.horizontal_flip or how.resize_scale != (1.0, 1.0) or how.resize_ratio != (1.0, 1.0):
        images = crop_and_flip(images, how)
    if how.random_operations:
        images = rand_augment(images, how.random_operations)
    return erase(images, how.erase) if how.erase else images


def crop_and_flip(images: Tensor, how: Augmentation) -> Tensor:
    """A rectangle of each image, of a share of its area and a ratio of its sides drawn evenly (the ratio in its logarithm),
    stretched to the whole and, for a share of them, mirrored."""
    count = len(images)
    area = _uniform(count, *how.resize_scale)
    root = _uniform(count, *map(math.log, how.resize_ratio)).div(2).exp()
    width, height = ((area.sqrt() * each).clamp(max=1.0) for each in (root, 1 / root))  # shares of the image's own
    across, down = ((1 - side) * _uniform(count, -1.0, 1.0) for side in (width, height))  # where their middle is, in [-1, 1]
    mirrored = torch.where(torch.rand(count, dtype=torch.float32, device="cpu") < how.horizontal_flip, -width, width)
    nothing = torch.zeros(count, dtype=torch.float32, device="cpu")
    places = torch.stack([mirrored, nothing, across, nothing, height, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(places.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def erase(images: Tensor, share: float) -> Tensor:
    """A rectangle of noise, a pixel each, in a share of the images (Zhong et al. 2020)."""
    count, _, rows, cols = images.shape
    chosen = torch.rand(count, dtype=torch.float32, device="cpu") < share
    area = _uniform(count, *_ERASED) * rows * cols
    root = _uniform(count, *map(math.log, _ERASED_RATIO)).div(2).exp()
    inside = chosen.view(-1, 1, 1)
    for axis, (length, side) in enumerate(((rows, area.sqrt() * root), (cols, area.sqrt() / root))):
        side = side.round().clamp(1, length)
        first = (torch.rand(count, dtype=torch.float32, device="cpu") * (length - side + 1)).floor()
        place = torch.arange(length, device="cpu")
        band = (place >= first[:, None]) & (place < (first + side)[:, None])  # [B, length]
        inside = inside & (band[:, :, None] if axis == 0 else band[:, None])
    noise = torch.rand(images.shape, dtype=torch.float32, device="cpu").to(images)
    return torch.where(inside[:, None].to(images.device), noise, images)


def _uniform(count: int, least: float, most: float) -> Tensor:
    return least + (most - least) * torch.rand(count, dtype=torch.float32, device="cpu")
