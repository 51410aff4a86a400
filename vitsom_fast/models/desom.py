"""DESOM: a dense autoencoder and the map on its latents."""

from __future__ import annotations

from vitsom_fast.models.som_autoencoder import SOMAutoencoder
from vitsom_fast.models.spec import ModelSpec


class DESOM(SOMAutoencoder):
    """A ``DenseAutoencoder`` of 500-500-2000-10 with a ``FusedSOMLoss`` on its latents (Forest et al. 2019)."""


def desom_as_configured(image_shape: tuple[int, int, int], grid: tuple[int, int] = (8, 8)) -> ModelSpec:
    """As the ViT-SOM paper's code configures its rival: L1 on pixels, and the map of ViT-SOM (cosine, Gaussian, mean). Trained
    with T from 8 to 0.1, gamma 0.001, batches of 128, 60 epochs of Adam at 1e-3."""
    return ModelSpec("desom", image_shape, grid=grid, latent_dim=10)


def desom_as_first_published(image_shape: tuple[int, int, int], grid: tuple[int, int] = (8, 8)) -> ModelSpec:
    """Squared errors; squared Euclidean distances, weights ``exp(-d^2 / T^2)`` of the Manhattan distance on the grid, summed
    over prototypes and averaged over the batch. Trained with T from 10 to 0.1 and gamma 0.001."""
    return ModelSpec(
        "desom",
        image_shape,
        grid=grid,
        latent_dim=10,
        distance="sqeuclidean",
        neighborhood="manhattan_gaussian",
        reduction="batchmean",
        squared_error=True,
    )
