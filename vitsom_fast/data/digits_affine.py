"""digits-affine: scikit-learn's digits, bent out of shape, and many of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vitsom_fast.data.bundled import digits
from vitsom_fast.data.dataset import Dataset, Splits

SIDE = 28  # pixels of the images that are deformed
TRAIN, TEST = 20000, 4000
_TEST_SOURCES = 360  # of the 1797 digits
_CHUNK = 2000

_DEGREES = 20.0
_SCALE = (0.8, 1.15)
_ASPECT = (0.9, 1.1)
_SHEAR = 0.15
_SHIFT = 2.5  # pixels
_ELASTIC = 1.0  # pixels: the largest root mean square of the displacements
_SMOOTHNESS = 4.0  # pixels: standard deviation of the Gaussian that smooths them
_THRESHOLD = (0.3, 0.6)
_SLOPE = 10.0


def digits_affine(side: int = 16, train: int = TRAIN, test: int = TEST, seed: int = 0) -> Splits:
    """Random deformations of the digits, the same for the same arguments: turned by up to 20 degrees, scaled by 0.8 to 1.15,
    stretched, sheared, moved by up to 2.5 of 28 pixels, bent elastically, with thin or thick strokes.

    360 digits are the sources of the test images, the other 1437 of the training images; ``groups`` names them.

    Args:
        side: pixels a side.
        train, test: how many of each.
        seed: of the random numbers.

    Raises:
        ValueError: a number below 1.
    """
    for name, number in (("side", side), ("train", train), ("test", test)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    source = digits()
    assert source.labels is not None
    base = F.pad(F.interpolate(source.images, size=(20, 20), mode="bicubic", align_corners=False).clamp(0, 1), (4, 4, 4, 4))
    generator = torch.Generator("cpu").manual_seed(1000 + seed)
    order = torch.randperm(len(base), generator=generator, device="cpu")
    halves = []
    for sources, count in ((order[_TEST_SOURCES:], train), (order[:_TEST_SOURCES], test)):
        rounds = [torch.randperm(len(sources), generator=generator, device="cpu") for _ in range(-(-count // len(sources)))]
        chosen = sources[torch.cat(rounds)][:count]
        images = [_resized(deformed(base[part], generator), side) for part in chosen.split(_CHUNK)]
        pixels = (torch.cat(images) * 255).round().to(torch.uint8)
        halves.append(Dataset("digits-affine", pixels, source.labels[chosen], source.classes, chosen))
    return Splits(*halves)


def deformed(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random deformation of each image (N, 1, 28, 28) in [0, 1]."""
    count = len(images)

    def uniform(least: float, most: float) -> Tensor:
        return least + (most - least) * torch.rand(count, generator=generator, dtype=torch.float32, device="cpu")  # [N]

    angle, scale, shear = uniform(-_DEGREES, _DEGREES) * math.pi / 180, uniform(*_SCALE), uniform(-_SHEAR, _SHEAR)
    aspect, right, down = uniform(*_ASPECT), uniform(-_SHIFT, _SHIFT), uniform(-_SHIFT, _SHIFT)
    cos, sin = angle.cos(), angle.sin()
    half = SIDE / 2  # pixels of a unit of the grid
    across = [cos / (scale * aspect), (-sin + shear * cos) / scale, right / half]
    along = [sin / (scale * aspect), (cos + shear * sin) / scale, down / half]
    places = F.affine_grid(torch.stack([*across, *along], dim=1).view(-1, 2, 3), list(images.shape), align_corners=False)
    bend = _smooth(torch.randn(count, 2, SIDE, SIDE, generator=generator, dtype=torch.float32, device="cpu"))
    bend = bend / bend.square().mean((1, 2, 3), keepdim=True).sqrt()
    bend = bend * (_ELASTIC * uniform(0.0, 1.0)).view(-1, 1, 1, 1) / half
    moved = F.grid_sample(images, places + bend.permute(0, 2, 3, 1), align_corners=False)
    threshold = uniform(*_THRESHOLD).view(-1, 1, 1, 1)
    white, black = torch.sigmoid(-_SLOPE * threshold), torch.sigmoid(_SLOPE * (1 - threshold))
    return ((torch.sigmoid(_SLOPE * (moved - threshold)) - white) / (black - white)).clamp(0, 1)


def _smooth(field: Tensor) -> Tensor:
    """A field (N, 2, H, W) after a Gaussian along each axis."""
    reach = int(3 * _SMOOTHNESS)
    weight = torch.exp(-(torch.arange(-reach, reach + 1, dtype=torch.float32, device="cpu") ** 2) / (2 * _SMOOTHNESS**2))
    weight = (weight / weight.sum()).view(1, 1, -1, 1).expand(2, 1, -1, 1)
    field = F.conv2d(field, weight, padding=(reach, 0), groups=2)
    return F.conv2d(field, weight.mT, padding=(0, reach), groups=2)


def _resized(images: Tensor, side: int) -> Tensor:
    if side == SIDE:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
