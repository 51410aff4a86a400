"""ViT-SOM: the autoencoder and the map on its latents, trained together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models.vit import ViTAutoencoder


class ViTSOMOutput(NamedTuple):
    """The two halves of ``L = L_nn + gamma * L_som``, both 0-dim, and the BMU of every image, (B,) int64."""

    reconstruction_loss: Tensor
    som_loss: Tensor
    bmu: Tensor


class ViTSOM(nn.Module):
    """A ``ViTAutoencoder`` with a ``FusedSOMLoss`` on its latents (Luo & Yuan 2025, clustering).

    Args:
        reconstruction_beta: pixels count by their absolute error as in the paper, but by ``error ** 2 / (2 beta)`` below beta.

    Raises:
        ValueError: ``som`` is not of the autoencoder's ``latent_dim``.
    """

    def __init__(self, autoencoder: ViTAutoencoder, som: FusedSOMLoss, *, reconstruction_beta: float = 0.0) -> None:
        super().__init__()
        if som.dim != autoencoder.latent_dim:
            raise ValueError(f"som must have dim {autoencoder.latent_dim}, the autoencoder's latent_dim, got {som.dim}")
        self.autoencoder = autoencoder
        self.som = som
        self.reconstruction_beta = reconstruction_beta

    def forward(self, images: Tensor, temperature: float | Tensor) -> ViTSOMOutput:
        """The reconstruction loss, a mean over pixels, and the SOM loss of images (B, C, H, W)."""
        latents = self.autoencoder.encode(images)  # [B, D]
        reconstruction = F.smooth_l1_loss(self.autoencoder.decode(latents), images, beta=self.reconstruction_beta)
        som_loss, bmu = self.som(latents, temperature, return_bmu=True)
        return ViTSOMOutput(reconstruction, som_loss, bmu)

    @torch.no_grad()
    def decode_prototypes(self, chunk: int = 1024) -> Tensor:
        """(K, C, H, W): the image that every prototype stands for, ``chunk`` of them decoded at a time."""
        length = self.autoencoder.latent_dim**0.5  # of every latent
        latents = F.normalize(self.som.prototypes) * length  # [K, D]
        return torch.cat([self.autoencoder.decode(part) for part in latents.split(chunk)])
