"""The formulas of the ViT-SOM paper, literally, in eager PyTorch: the ground truth of every test.

Luo & Yuan, "Simple Self-Organizing Map with Visual Transformer", IEEE SPL 2025. Written to be read, not to be fast: it holds
several B x K tensors and one of B x K x 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast.grid import Grid, wrap


def distances(z: Tensor, prototypes: Tensor, distance: str = "cosine") -> Tensor:
    """``d_ik``, (B, K) in the dtype of the inputs: "cosine" ``1 - z_i . w_k / (|z_i| |w_k|)``, "euclidean" ``|z_i - w_k|``,
    "sqeuclidean" its square, "manhattan" the sum of the absolute differences."""
    if distance == "cosine":
        return 1 - normalize(z) @ normalize(prototypes).T
    if distance == "manhattan":
        return torch.cdist(z, prototypes, p=1)
    euclidean = torch.cdist(z, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
    return euclidean.square() if distance == "sqeuclidean" else euclidean


def find_bmu(z: Tensor, prototypes: Tensor, distance: str = "cosine", k: int = 1) -> tuple[Tensor, Tensor]:
    """``b_i = argmin_k d_ik``, the lowest index on ties, and ``d_ib``: (B,) int64 and (B,). With k = 2 the nearest and the
    second nearest, (B, 2) each; NaN where there is no second one."""
    d = distances(z, prototypes, distance)
    nearest, bmu = d.min(dim=1)
    if k == 1:
        return bmu, nearest
    d = d.scatter(1, bmu[:, None], torch.inf)
    second_nearest, second = d.min(dim=1)
    second_nearest = torch.where(second_nearest.isinf() & nearest.isfinite(), torch.nan, second_nearest)
    return torch.stack([bmu, second], dim=1), torch.stack([nearest, second_nearest], dim=1)


def neighborhood_weights(
    bmu: Tensor, grid: Grid, temperature: float | Tensor, dtype: torch.dtype, neighborhood: str = "gaussian"
) -> Tensor:
    """``h_ik``, (B, K), of the grid distance ``d = |r_k - r_b|`` with b the BMU of row i."""
    # Offsets are taken and wrapped where they are exact, before the rows of a hexagonal grid move together.
    lattice = grid.lattice.to(device=bmu.device, dtype=dtype)  # [K, 2]
    offset = lattice[None, :, :] - lattice[bmu][:, None, :]  # [B, K, 2]
    return weights_of_offsets(offset, grid, temperature, neighborhood)


def weights_of_offsets(offset: Tensor, grid: Grid, temperature: float | Tensor, neighborhood: str = "gaussian") -> Tensor:
    """``h`` (...) of offsets (..., 2) on the grid's lattice from a BMU to a unit, along rows and along columns."""
    if grid.periodic:
        offset = torch.stack([wrap(offset[..., axis], extent) for axis, extent in enumerate((grid.rows, grid.cols))], dim=-1)
    squares = offset.square()  # [..., 2]
    if grid.row_pitch != 1:
        squares = torch.stack([squares[..., 0] * 0.75, squares[..., 1]], dim=-1)
    squared = squares.sum(-1)  # d^2, [...]
    if neighborhood == "bubble":
        return (squared.sqrt() <= temperature).to(squared.dtype)
    if neighborhood == "mexican_hat":
        return (1 - squared / temperature**2) * torch.exp(-squared / (2 * temperature**2))
    if neighborhood == "triangle":
        return (1 - squares.sqrt() / temperature).clamp_min(0).prod(dim=-1)
    if neighborhood == "manhattan_gaussian":
        return torch.exp(-(offset.abs().sum(-1) ** 2) / temperature**2)
    return torch.exp(-squared / (2 * temperature**2))


def som_loss(
    z: Tensor,
    prototypes: Tensor,
    grid: Grid,
    temperature: float | Tensor,
    reduction: str = "mean",
    neighborhood: str = "gaussian",
    distance: str = "cosine",
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """``L = mean over i and k of h_ik d_ik``, no gradient through b or h; returns (loss, bmu).

    ``reduction`` "batchmean" averages over the batch only, "sum" not at all, and "none" over the prototypes only. A sample of
    weight 2 counts as one that is there twice. An empty batch has loss 0.
    """
    d = distances(z, prototypes, distance)  # [B, K]
    bmu = d.detach().argmin(dim=1)  # [B]
    h = neighborhood_weights(bmu, grid, temperature, d.dtype, neighborhood)  # [B, K]
    return reduced((h * d).sum(dim=1), reduction, prototypes.shape[0], sample_weight), bmu


def reduced(losses: Tensor, reduction: str, num_prototypes: int, sample_weight: Tensor | None = None) -> Tensor:
    """The loss () of the sums over all prototypes (B,), or (B,) for "none"."""
    count: float | Tensor = max(losses.shape[0], 1)
    if sample_weight is not None:
        losses = losses * sample_weight
        count = sample_weight.sum()
        count = torch.where(count == 0, 1.0, count)  # of nothing the mean is 0
    if reduction == "none":
        return losses / num_prototypes
    total = losses.sum()
    if reduction == "sum":
        return total
    return total / (count * num_prototypes if reduction == "mean" else count)
