"""Two views of an image should have the same latent: the term that lets a latent forget where and how large a shape is."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

NCE_TEMPERATURE = 0.1


def info_nce(first: Tensor, second: Tensor, temperature: float = NCE_TEMPERATURE) -> Tensor:
    """The mean over all 2 B latents of ``-log(exp(s_ij / t) / sum_{k != i} exp(s_ik / t))`` with s the cosine similarity and j
    the other view of i (NT-Xent: Chen et al. 2020, equation 1); log(2 B - 1) by chance.

    Args:
        first, second: latents (B, D) of two views of the same images, in the same order.
        temperature: t.
    """
    unit = F.normalize(torch.cat([first, second]))  # [2 B, D]
    scores = unit @ unit.T / temperature  # [2 B, 2 B]
    scores = scores.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -math.inf)
    return F.cross_entropy(scores, torch.arange(len(unit), device=unit.device).roll(len(first)))


def affine_views(
    images: Tensor, *, degrees: float = 20.0, shift: float = 0.1, scale: tuple[float, float] = (0.8, 1.25)
) -> Tensor:
    """Every image (B, C, H, W), turned, scaled and moved at random about its centre; outside of it there is 0.

    The random numbers are those of the CPU whatever the device, so that a run that is resumed goes on with the same.

    Args:
        degrees: the largest turn, either way.
        shift: the largest move along each axis, as a share of the image.
        scale: the smallest and the largest factor, drawn evenly in their logarithm.
    """
    angle, size, right, down = torch.rand(4, len(images), dtype=torch.float32, device="cpu")  # [B] each, in [0, 1)
    angle = (2 * angle - 1) * math.radians(degrees)
    size = torch.exp(math.log(scale[0]) + size * math.log(scale[1] / scale[0]))
    cos, sin = angle.cos() / size, angle.sin() / size
    right, down = (2 * shift * (2 * x - 1) for x in (right, down))  # an image is 2 long here
    rows = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(-1, 2, 3)  # where each pixel comes from
    grid = F.affine_grid(rows.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
