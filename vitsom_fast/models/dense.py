"""The dense autoencoder of DESOM and, here, of SOM-VAE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast.models.blocks import initialize_linear_

HIDDEN = (500, 500, 2000)


class DenseAutoencoder(nn.Module):
    """Images through layers of 500, 500 and 2000 features to a few, and back (Forest et al. 2019; Xie et al. 2016).

    Args:
        image_shape: (C, H, W) of the images.
        latent_dim: D.
        hidden: features of the layers in between.
        normalize: bring every latent to mean 0 and length sqrt(D).

    Raises:
        ValueError: a size below 1.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        *,
        latent_dim: int = 10,
        hidden: Sequence[int] = HIDDEN,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        for name, sizes in (("latent_dim", (latent_dim,)), ("hidden", hidden), ("image_shape", image_shape)):
            if min(sizes) < 1:
                raise ValueError(f"{name} must be at least 1, got {sizes}")
        self.image_shape, self.latent_dim, self.normalize = image_shape, latent_dim, normalize
        sizes = (prod(image_shape), *hidden, latent_dim)
        self.encoder = _layers(sizes)
        self.decoder = _layers(sizes[::-1])
        initialize_linear_(self)

    @property
    def latent_length(self) -> float:
        """That of every latent of a model that normalises them; else of latents whose features have variance 1."""
        return self.latent_dim**0.5

    def encode(self, images: Tensor) -> Tensor:
        """Latents (B, D) of images (B, C, H, W)."""
        latents = self.encoder(images.flatten(1))
        return F.layer_norm(latents, (self.latent_dim,)) if self.normalize else latents

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, C, H, W) of latents (B, D)."""
        return self.decoder(latents).unflatten(1, self.image_shape)


def _layers(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers from size to size, with a ReLU between two."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
