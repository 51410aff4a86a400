"""The baseline: a batch SOM on the samples themselves, with Euclidean distances and no encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast.functional import batch_update
from vitsom_fast.grid import Grid
from vitsom_fast.schedules import exponential_decay


def fit_plain_som(x: Tensor, grid: Grid, *, epochs: int = 50, t_max: float | None = None, t_min: float = 0.5) -> Tensor:
    """Prototypes (K, D) of a batch SOM (Kohonen 2001, section 3.6) on x (N, D), N at least 1; no randomness.

    Memory: O(N D + K D), and of the smaller of N x N and D x D once.

    Every epoch finds the BMU of all samples and moves each prototype to the mean of the samples, weighted by the Gaussian
    neighborhood of their BMUs. The prototypes start on the plane of the first two principal components, long side of the map
    along the first.

    Args:
        t_max, t_min: neighborhood radius at the first and the last epoch; ``t_max`` is half the longer side of the map if None.
    """
    temperature = exponential_decay(max(grid.rows, grid.cols, 2) / 2 if t_max is None else t_max, t_min, epochs)
    centre = x.mean(0)
    x = x - centre  # far from the origin, sums would cancel
    prototypes = _principal_plane(x, grid)
    for epoch in range(epochs):
        prototypes, _ = batch_update(x, prototypes, grid, temperature(epoch), distance="sqeuclidean")
    return prototypes + centre


def _principal_plane(x: Tensor, grid: Grid) -> Tensor:
    """(K, D) on the plane of the first two principal components of x (N, D), whose mean is 0."""
    axes = torch.zeros(2, x.shape[1], dtype=x.dtype, device=x.device)
    largest = _principal_axes(x)
    # The sign of an eigenvector is arbitrary: the largest entry counts as positive.
    largest = largest * largest.gather(1, largest.abs().argmax(1, keepdim=True)).sign()
    axes[: largest.shape[0]] = largest
    if grid.rows < grid.cols:
        axes = axes.flip(0)
    row, col = torch.meshgrid(
        *(torch.linspace(-1, 1, size, dtype=x.dtype, device=x.device) for size in (grid.rows, grid.cols)), indexing="ij"
    )
    return torch.stack([row.flatten(), col.flatten()], dim=1) @ axes


def _principal_axes(x: Tensor) -> Tensor:
    """(<= 2, D): the first two principal components of x (N, D), the larger first, as long as their standard deviations."""
    count, dim = x.shape
    if count < dim:  # a sample has more features than there are samples: D x D could be 90 GB where the data are 4 MB
        _, vectors = torch.linalg.eigh(x @ x.T)  # ascending
        return vectors.T.flip(0)[:2] @ x / count**0.5
    values, vectors = torch.linalg.eigh(x.T @ x / count)
    return (vectors * values.clamp_min(0).sqrt()).T.flip(0)[:2]
