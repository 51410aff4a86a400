"""RandAugment: a few operations an image, drawn from a list, at one strength (Cubuk et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

STRENGTH = 0.9  # of 1, as in the common setting "9 of 10"

_GREY = (0.299, 0.587, 0.114)  # of red, green and blue


def rand_augment(images: Tensor, operations: int, strength: float = STRENGTH) -> Tensor:
    """Images (B, C, H, W) in [0, 1] after ``operations`` of ``OPERATIONS`` each, drawn with replacement, with random signs."""
    images = images.clone()
    names = list(OPERATIONS)
    for _ in range(operations):
        chosen = torch.randint(len(names), (len(images),), device="cpu")
        sign = 2 * torch.randint(2, (len(images),), device="cpu") - 1
        for number, name in enumerate(names):
            index = (chosen == number).nonzero()[:, 0].to(images.device)
            if len(index):
                amount = (strength * sign).to(images)[index]
                images[index] = OPERATIONS[name](images[index], amount).clamp(0, 1)
    return images


def _warped(images: Tensor, xx: Tensor, xy: Tensor, x: Tensor, yx: Tensor, yy: Tensor, y: Tensor) -> Tensor:
    places = torch.stack([xx, xy, x, yx, yy, y], dim=1).view(-1, 2, 3)
    return F.grid_sample(images, F.affine_grid(places, list(images.shape), align_corners=False), align_corners=False)


def _rotate(images: Tensor, amount: Tensor) -> Tensor:
    angle, none = amount * math.radians(30), torch.zeros_like(amount)
    return _warped(images, angle.cos(), -angle.sin(), none, angle.sin(), angle.cos(), none)


def _shear_x(images: Tensor, amount: Tensor) -> Tensor:
    one, none = torch.ones_like(amount), torch.zeros_like(amount)
    return _warped(images, one, 0.3 * amount, none, none, one, none)


def _shear_y(images: Tensor, amount: Tensor) -> Tensor:
    one, none = torch.ones_like(amount), torch.zeros_like(amount)
    return _warped(images, one, none, none, 0.3 * amount, one, none)


def _translate_x(images: Tensor, amount: Tensor) -> Tensor:
    one, none = torch.ones_like(amount), torch.zeros_like(amount)
    return _warped(images, one, none, 0.9 * amount, none, one, none)


def _translate_y(images: Tensor, amount: Tensor) -> Tensor:
    one, none = torch.ones_like(amount), torch.zeros_like(amount)
    return _warped(images, one, none, none, none, one, 0.9 * amount)


def _blend(images: Tensor, other: Tensor, amount: Tensor) -> Tensor:
    """From ``other`` at an amount of -1 to as far beyond the images at 1."""
    return other + (1 + 0.9 * amount.view(-1, 1, 1, 1)) * (images - other)


def _brightness(images: Tensor, amount: Tensor) -> Tensor:
    return _blend(images, torch.zeros_like(images), amount)


def _contrast(images: Tensor, amount: Tensor) -> Tensor:
    return _blend(images, _grey(images).mean((2, 3), keepdim=True).expand_as(images), amount)


def _colour(images: Tensor, amount: Tensor) -> Tensor:
    return _blend(images, _grey(images).expand_as(images), amount)


def _sharpness(images: Tensor, amount: Tensor) -> Tensor:
    weight = images.new_tensor([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    channels = images.shape[1]
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    smooth = F.conv2d(padded, weight.expand(channels, 1, 3, 3), groups=channels)
    return _blend(images, smooth, amount)


def _posterize(images: Tensor, amount: Tensor) -> Tensor:
    levels = 2.0 ** (8 - 4 * amount.abs().round()).view(-1, 1, 1, 1)
    return (images * 255 * levels / 256).floor() * 256 / levels / 255


def _solarize(images: Tensor, amount: Tensor) -> Tensor:
    return torch.where(images >= 1 - amount.abs().view(-1, 1, 1, 1), 1 - images, images)


def _autocontrast(images: Tensor, amount: Tensor) -> Tensor:
    least, most = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(most > least, (images - least) / (most - least).clamp_min(1e-6), images)


def _equalize(images: Tensor, amount: Tensor) -> Tensor:
    """Each channel's values in place of their ranks, evenly from 0 to 1."""
    flat = images.flatten(2)
    ordered = flat.sort(dim=2).values
    below = torch.searchsorted(ordered, flat.contiguous()).to(images)
    above = torch.searchsorted(ordered, flat.contiguous(), right=True).to(images)
    return ((below + above - 1) / (2 * max(flat.shape[2] - 1, 1))).view_as(images)


def _grey(images: Tensor) -> Tensor:
    """(B, 1, H, W)."""
    if images.shape[1] != len(_GREY):
        return images.mean(dim=1, keepdim=True)
    return (images * images.new_tensor(_GREY).view(1, -1, 1, 1)).sum(dim=1, keepdim=True)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "identity": lambda images, amount: images,
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "brightness": _brightness,
    "contrast": _contrast,
    "colour": _colour,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
