"""The baseline: a batch SOM on the samples themselves, with Euclidean distances and no encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast.backends.torch_ops import smooth
from vitsom_fast.grid import Grid
from vitsom_fast.schedules import exponential_decay

# Distances held at a time: 16 M are 64 MB in fp32.
_CHUNK = 1 << 24


def fit_plain_som(x: Tensor, grid: Grid, *, epochs: int = 50, t_max: float | None = None, t_min: float = 0.5) -> Tensor:
    """Prototypes (K, D) of a batch SOM (Kohonen 2001, section 3.6) on x (N, D), N at least 1; no randomness.

    Every epoch finds the BMU of all samples and moves each prototype to the mean of the samples, weighted by the Gaussian
    neighborhood of their BMUs. The prototypes start on the plane of the first two principal components, long side of the map
    along the first.

    Args:
        t_max, t_min: neighborhood radius at the first and the last epoch; ``t_max`` is half the longer side of the map if None.
    """
    temperature = exponential_decay(max(grid.rows, grid.cols, 2) / 2 if t_max is None else t_max, t_min, epochs)
    prototypes = _principal_plane(x, grid)
    for epoch in range(epochs):
        bmu = euclidean_bmu(x, prototypes)
        factors = grid.neighborhood(temperature(epoch), device=x.device, dtype=x.dtype)
        pulled = x.new_zeros(grid.num_prototypes, x.shape[1] + 1)  # sums of the samples, and their number in the last column
        pulled.index_add_(0, bmu, torch.cat([x, x.new_ones(x.shape[0], 1)], dim=1))
        spread = smooth(pulled, factors.rows, factors.cols)
        total, weight = spread[:, :-1], spread[:, -1:]
        # A unit that no sample reaches (its weight underflows) stays where it is.
        prototypes = torch.where(weight > 1e-12, total / weight.clamp_min(1e-12), prototypes)
    return prototypes


def euclidean_bmu(x: Tensor, prototypes: Tensor) -> Tensor:
    """(N,) int64: the prototype nearest to each row of x (N, D), never with a full N x K matrix."""
    half_square = prototypes.square().sum(1) / 2  # [K]
    step = max(1, _CHUNK // prototypes.shape[0])
    return torch.cat([(rows @ prototypes.T - half_square).argmax(1) for rows in x.split(step)])


def _principal_plane(x: Tensor, grid: Grid) -> Tensor:
    mean = x.mean(0)
    values, vectors = torch.linalg.eigh((x - mean).T @ (x - mean) / x.shape[0])  # ascending
    axes = torch.zeros(2, x.shape[1], dtype=x.dtype, device=x.device)
    largest = (vectors * values.clamp_min(0).sqrt()).T.flip(0)[:2]  # [<= 2, D], first the larger
    # The sign of an eigenvector is arbitrary: the largest entry counts as positive.
    largest = largest * largest.gather(1, largest.abs().argmax(1, keepdim=True)).sign()
    axes[: largest.shape[0]] = largest
    if grid.rows < grid.cols:
        axes = axes.flip(0)
    row, col = torch.meshgrid(
        torch.linspace(-1, 1, grid.rows, dtype=x.dtype), torch.linspace(-1, 1, grid.cols, dtype=x.dtype), indexing="ij"
    )
    return mean + torch.stack([row.flatten(), col.flatten()], dim=1).to(x.device) @ axes
