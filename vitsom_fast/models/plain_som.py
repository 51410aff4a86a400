"""The baseline: a batch SOM on the samples themselves, with Euclidean distances and no encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast import backends
from vitsom_fast.backends.compose import batch_update
from vitsom_fast.grid import Grid
from vitsom_fast.schedules import exponential_decay

# Distances held at a time: 16 M are 64 MB in fp32.
_CHUNK = 1 << 24


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
    backend = backends.get(backends.resolve("auto", backends.Spec(x.device, x.dtype)))
    for epoch in range(epochs):
        factors = grid.neighborhood(temperature(epoch), device=x.device, dtype=x.dtype)
        prototypes = batch_update(backend, x, euclidean_bmu(x, prototypes), prototypes, factors.rows, factors.cols)
    return prototypes + centre


def euclidean_bmu(x: Tensor, prototypes: Tensor) -> Tensor:
    """(N,) int64: the prototype nearest to each row of x (N, D), never with a full N x K matrix."""
    centre = prototypes.mean(0)  # far from the origin, x . w - |w|^2 / 2 would cancel
    prototypes = prototypes - centre
    half_square = prototypes.square().sum(1) / 2  # [K]
    step = max(1, _CHUNK // max(prototypes.shape))
    return torch.cat([((rows - centre) @ prototypes.T - half_square).argmax(1) for rows in x.split(step)])


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
