"""Where prototypes begin: on the plane of the data's largest variances, at some of the data, or at random around their mean."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitsom_fast.grid import Grid

METHODS = ("pca", "sample", "random")

# The smaller side of the data up to which their covariance is taken apart as a whole: 128 MB in fp64.
_MOST_EXACT = 4096


def initial_prototypes(x: Tensor, grid: Grid, method: str, generator: torch.Generator | None = None) -> Tensor:
    """(K, D) in the dtype of x (N, D), N at least 1, on its device.

    "pca": the plane of the first two principal components through the mean, one standard deviation each way, the long side of
    the map along the first; no randomness. "sample": rows of x, each once as far as there are enough. "random": normal, of the
    mean and the standard deviation of each feature.
    """
    if method == "pca":
        centre = x.mean(dim=0)
        return principal_plane(x - centre, grid) + centre
    device = torch.device("cpu") if generator is None else generator.device
    if method == "sample":
        rounds = -(-grid.num_prototypes // len(x))
        order = torch.cat([torch.randperm(len(x), generator=generator, device=device) for _ in range(rounds)])
        return x[order[: grid.num_prototypes].to(x.device)].clone()
    noise = torch.randn(grid.num_prototypes, x.shape[1], generator=generator, device=device)
    return x.mean(dim=0) + x.std(dim=0, correction=0) * noise.to(x)


def principal_plane(x: Tensor, grid: Grid) -> Tensor:
    """(K, D) on the plane of the first two principal components of x (N, D), whose mean is 0."""
    return plane_along(principal_axes(x), grid)


def plane_along(largest: Tensor, grid: Grid) -> Tensor:
    """(K, D): one step of each of the principal components (<= 2, D) each way, the long side of the map along the first."""
    axes = largest.new_zeros(2, largest.shape[1])
    # The sign of an axis is arbitrary: the largest entry counts as positive.
    largest = largest * largest.gather(1, largest.abs().argmax(1, keepdim=True)).sign()
    axes[: largest.shape[0]] = largest
    if grid.rows < grid.cols:
        axes = axes.flip(0)
    places = [torch.linspace(-1, 1, size, dtype=axes.dtype, device=axes.device) * (size > 1) for size in (grid.rows, grid.cols)]
    row, col = torch.meshgrid(*places, indexing="ij")
    return torch.stack([row.flatten(), col.flatten()], dim=1) @ axes


def principal_axes(x: Tensor) -> Tensor:
    """(<= 2, D): the first two principal components of x (N, D), whose mean is 0, the larger first, as long as their standard
    deviations. Never D x D numbers where there are fewer samples than features; of large data they are found by iteration."""
    size = x.abs().amax()
    if not 0 < size < math.inf:
        return torch.zeros_like(x[:2])
    return _axes_of(x / size) * size  # squares of any data fit then


def _axes_of(x: Tensor) -> Tensor:
    count, dim = x.shape
    if min(count, dim) > _MOST_EXACT:
        with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(0)
            _, values, vectors = torch.svd_lowrank(x, q=8, niter=8)
        return (vectors * values).T[:2] / count**0.5
    if count < dim:  # D x D could be 90 GB where the data are 4 MB
        _, vectors = torch.linalg.eigh(x @ x.T)  # ascending
        return vectors.T.flip(0)[:2] @ x / count**0.5
    return axes_of_covariance(x.T @ x / count)


def axes_of_covariance(covariance: Tensor) -> Tensor:
    """(<= 2, D): the first two principal components of data of this covariance (D, D), as long as their standard deviations."""
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    return (vectors * values.clamp_min(0).sqrt()).T.flip(0)[:2]
