"""The baseline: a batch SOM on the samples themselves, with Euclidean distances and no encoder."""

from __future__ import annotations

from torch import Tensor

from vitsom_fast.functional import batch_update
from vitsom_fast.grid import Grid
from vitsom_fast.initialization import principal_plane
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
    prototypes = principal_plane(x, grid)
    for epoch in range(epochs):
        prototypes, _ = batch_update(x, prototypes, grid, temperature(epoch), distance="sqeuclidean")
    return prototypes + centre
