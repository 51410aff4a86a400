"""FusedSOMLoss: the map as a module that owns its prototypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitsom_fast import backends
from vitsom_fast.functional import DISTANCES, DTYPES, REDUCTIONS, check_choice, find_bmu, som_loss
from vitsom_fast.grid import NEIGHBORHOODS, Grid


class FusedSOMLoss(nn.Module):
    """The SOM half of ViT-SOM: add ``gamma * loss(z, temperature)`` to the loss of any encoder.

    Args:
        grid_size: (rows, cols) of the map.
        dim: D, the number of features of a (flattened) latent.
        topology: "rectangular" or "hexagonal".
        periodic: join opposite edges of the map (a torus).
        distance: "cosine".
        neighborhood: "gaussian".
        reduction: "mean" over samples and prototypes (ViT-SOM), "batchmean" (sum over prototypes: DESOM) or "sum".
        backend: "auto" takes the fastest that serves the device and dtype; see ``available_backends``.
        device, dtype: of the prototypes.

    Attributes:
        prototypes: nn.Parameter (K, dim) with K = rows * cols; unit ``k = row * cols + col``.
        grid: the ``Grid``.

    Raises:
        TypeError, ValueError: an argument of the wrong type or value; the message names it.
    """

    def __init__(
        self,
        grid_size: tuple[int, int],
        dim: int,
        *,
        topology: str = "rectangular",
        periodic: bool = False,
        distance: str = "cosine",
        neighborhood: str = "gaussian",
        reduction: str = "mean",
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(grid_size, (tuple, list)) or len(grid_size) != 2:
            raise ValueError(f"grid_size must be (rows, cols), got {grid_size!r}")
        if isinstance(dim, bool) or not isinstance(dim, int) or dim < 1:
            raise ValueError(f"dim must be an int of at least 1, got {dim!r}")
        if dtype is not None and dtype not in DTYPES:
            raise TypeError(f"dtype must be one of {DTYPES}, got {dtype!r}")
        check_choice("distance", distance, DISTANCES)
        check_choice("neighborhood", neighborhood, NEIGHBORHOODS)
        check_choice("reduction", reduction, REDUCTIONS)
        check_choice("backend", backend, ("auto", *backends.NAMES))
        self.grid = Grid(*grid_size, topology=topology, periodic=periodic)
        self.dim = dim
        self.distance = distance
        self.neighborhood = neighborhood
        self.reduction = reduction
        self.backend = backend
        self.prototypes = nn.Parameter(torch.empty(self.grid.num_prototypes, dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random directions of length about 1; the cosine distance sees the direction only, its gradient 1 / length."""
        nn.init.normal_(self.prototypes, std=self.dim**-0.5)

    def forward(self, z: Tensor, temperature: float | Tensor, *, return_bmu: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of latents z (B, dim) or (B, ...) at a neighborhood radius T; with ``return_bmu`` also the BMUs (B,)."""
        loss, bmu = som_loss(
            z,
            self.prototypes,
            self.grid,
            temperature,
            distance=self.distance,
            neighborhood=self.neighborhood,
            reduction=self.reduction,
            backend=self.backend,
        )
        return (loss, bmu) if return_bmu else loss

    def find_bmu(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """BMU (B,) int64 and distance (B,) of every latent; not differentiable."""
        return find_bmu(z, self.prototypes, distance=self.distance, backend=self.backend)

    def extra_repr(self) -> str:
        return (
            f"grid_size=({self.grid.rows}, {self.grid.cols}), dim={self.dim}, topology={self.grid.topology!r},"
            f" periodic={self.grid.periodic}, distance={self.distance!r}, neighborhood={self.neighborhood!r},"
            f" reduction={self.reduction!r}, backend={self.backend!r}"
        )
