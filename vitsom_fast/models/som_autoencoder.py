"""An autoencoder and a map on its latents, trained together: ``L = L_nn + gamma L_som``."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models.consistency import affine_views, info_nce
from vitsom_fast.models.map_model import MapModel
from vitsom_fast.models.step import Step


class ViTSOMOutput(NamedTuple):
    """The two halves of ``L = L_nn + gamma * L_som``, both 0-dim, and the BMU of every image, (B,) int64."""

    reconstruction_loss: Tensor
    som_loss: Tensor
    bmu: Tensor


class SOMAutoencoder(MapModel):
    """Clustering as DESOM (Forest et al. 2019) and ViT-SOM (Luo & Yuan 2025) do it; the autoencoder makes the difference.

    Args:
        reconstruction_beta: pixels count by their absolute error as in the paper, but by ``error ** 2 / (2 beta)`` below beta.
        squared_error: pixels count by the square of their error instead.
        consistency: weight of ``info_nce`` between the latents of two ``affine_views`` of each image. With it the map sees both
            views, and both are decoded to the image itself.

    Raises:
        ValueError: ``som`` is not of the autoencoder's ``latent_dim``.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        som: FusedSOMLoss,
        *,
        reconstruction_beta: float = 0.0,
        squared_error: bool = False,
        consistency: float = 0.0,
    ) -> None:
        super().__init__(autoencoder, som)
        self.reconstruction_beta = reconstruction_beta
        self.squared_error = squared_error
        self.consistency = consistency

    def forward(self, images: Tensor, temperature: float | Tensor) -> ViTSOMOutput:
        """The reconstruction loss, a mean over pixels, and the SOM loss of images (B, C, H, W)."""
        latents = self.encode(images)  # [B, D]
        reconstruction = self._error(self.below.decode(latents), images)
        som_loss, bmu = self.som(latents, temperature, return_bmu=True)
        return ViTSOMOutput(reconstruction, som_loss, bmu)

    def losses(self, images: Tensor, labels: Tensor | None, step: Step) -> dict[str, Tensor]:
        """As ``step.Model`` says: "reconstruction_loss", "som_loss" and, where it has a weight, "consistency_loss"."""
        if self.consistency == 0:
            reconstruction, som, _ = self(images, step.temperature)
            return {"loss": reconstruction + step.gamma * som, "reconstruction_loss": reconstruction, "som_loss": som}
        latents = self.encode(torch.cat([affine_views(images), affine_views(images)]))  # [2 B, D]
        reconstruction = self._error(self.below.decode(latents), torch.cat([images, images]))
        som = self.som(latents, step.temperature)
        first, second = latents.chunk(2)
        consistency = info_nce(first, second)
        return {
            "loss": reconstruction + step.gamma * som + self.consistency * consistency,
            "reconstruction_loss": reconstruction,
            "som_loss": som,
            "consistency_loss": consistency,
        }

    def _error(self, decoded: Tensor, images: Tensor) -> Tensor:
        if self.squared_error:
            return F.mse_loss(decoded, images)
        return F.smooth_l1_loss(decoded, images, beta=self.reconstruction_beta)
