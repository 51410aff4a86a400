"""SOM-VAE: discrete latents that are the prototypes of a map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitsom_fast.grid import Grid
from vitsom_fast.loss import FusedSOMLoss
from vitsom_fast.models.map_model import MapModel
from vitsom_fast.models.step import Step

ALPHA, BETA = 1.0, 0.9


class SOMVAE(MapModel):
    """An autoencoder whose latents are drawn to their prototype, and whose prototypes, with those beside them, are drawn to the
    latents (Fortuin et al. 2019, equations 1 to 3, without its Markov model).

    With z_e the latent, z_q its nearest prototype and N(z_q) the prototypes up, down, left and right of that::

        L = |x - x^(z_q)|^2 + |x - x^(z_e)|^2 + alpha |z_e - z_q|^2 + beta mean over {z_q} and N(z_q) of |sg[z_e] - .|^2

    each a mean over pixels or features. There is no radius: a neighborhood is always the four units beside one. The temperature
    and the gamma of a step have no part in it.

    Args:
        som: the map, with squared Euclidean distances; its own loss is not used.
        alpha, beta: weights of the commitment and of the map.

    Raises:
        ValueError: ``som`` is of another size or distance.
    """

    def __init__(self, autoencoder: nn.Module, som: FusedSOMLoss, *, alpha: float = ALPHA, beta: float = BETA) -> None:
        super().__init__(autoencoder, som)
        if som.distance not in ("sqeuclidean", "euclidean"):
            raise ValueError(f"som must have the distance 'sqeuclidean' for a SOM-VAE, got {som.distance!r}")
        self.alpha, self.beta = alpha, beta
        self.register_buffer("near", units_and_neighbours(som.grid), persistent=False)
        self.near: Tensor

    def losses(self, images: Tensor, labels: Tensor | None, step: Step) -> dict[str, Tensor]:
        """As ``step.Model`` says: "reconstruction_loss" of both latents together, "commitment_loss" and "som_loss"."""
        latents = self.encode(images)  # [B, D]
        bmu, _ = self.som.find_bmu(latents)
        prototypes = self.som.prototypes
        nearest = prototypes[bmu]  # [B, D]
        both = self.below.decode(torch.cat([latents, nearest]))
        reconstruction = F.mse_loss(both[: len(images)], images) + F.mse_loss(both[len(images) :], images)
        commitment = F.mse_loss(latents, nearest)
        near = self.near[bmu]  # [B, 5], -1 beyond the edge
        there = near >= 0
        apart = (latents.detach()[:, None] - prototypes[near.clamp_min(0)]).square().mean(dim=2)  # [B, 5]
        som = (apart * there).sum() / there.sum()
        return {
            "loss": reconstruction + self.alpha * commitment + self.beta * som,
            "reconstruction_loss": reconstruction,
            "commitment_loss": commitment,
            "som_loss": som,
        }


def units_and_neighbours(grid: Grid) -> Tensor:
    """(K, 5) int64: each unit, and those up, down, left and right of it; -1 beyond the edge of a plane."""
    row, col = torch.meshgrid(*(torch.arange(size, device="cpu") for size in (grid.rows, grid.cols)), indexing="ij")
    units = []
    for down, right in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)):
        other_row, other_col = row + down, col + right
        inside = (other_row >= 0) & (other_row < grid.rows) & (other_col >= 0) & (other_col < grid.cols)
        unit = other_row % grid.rows * grid.cols + other_col % grid.cols
        units.append((unit if grid.periodic else unit.where(inside, -torch.ones_like(unit))).flatten())
    return torch.stack(units, dim=1)
