"""The formulas of the ViT-SOM paper, literally, in eager PyTorch: the ground truth of every test.

Luo & Yuan, "Simple Self-Organizing Map with Visual Transformer", IEEE SPL 2025. Written to be read, not to be fast: it holds
several B x K tensors and one of B x K x 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast.grid import Grid, wrap


def distances(z: Tensor, prototypes: Tensor) -> Tensor:
    """``d_ik = 1 - z_i . w_k / (|z_i| |w_k|)``, (B, K) in the dtype of the inputs."""
    return 1 - normalize(z) @ normalize(prototypes).T


def find_bmu(z: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """``b_i = argmin_k d_ik``, the lowest index on ties, and ``d_ib``: (B,) int64 and (B,)."""
    distance, bmu = distances(z, prototypes).min(dim=1)
    return bmu, distance


def neighborhood_weights(bmu: Tensor, grid: Grid, temperature: float | Tensor, dtype: torch.dtype) -> Tensor:
    """``h_ik = exp(-|r_k - r_b|^2 / (2 T^2))`` with b the BMU of row i, (B, K)."""
    # Offsets are taken and wrapped where they are exact, before the rows of a hexagonal grid move together.
    lattice = grid.lattice.to(device=bmu.device, dtype=dtype)  # [K, 2]
    offset = lattice[None, :, :] - lattice[bmu][:, None, :]  # [B, K, 2]
    if grid.periodic:
        offset = torch.stack([wrap(offset[..., axis], extent) for axis, extent in enumerate((grid.rows, grid.cols))], dim=-1)
    if grid.row_pitch != 1:
        offset = torch.stack([offset[..., 0] * grid.row_pitch, offset[..., 1]], dim=-1)
    return torch.exp(-offset.square().sum(-1) / (2 * temperature**2))


def som_loss(
    z: Tensor, prototypes: Tensor, grid: Grid, temperature: float | Tensor, reduction: str = "mean"
) -> tuple[Tensor, Tensor]:
    """``L = mean over i and k of h_ik d_ik``, no gradient through b or h; returns (loss, bmu).

    ``reduction`` "batchmean" averages over the batch only and "sum" not at all. An empty batch has loss 0.
    """
    d = distances(z, prototypes)  # [B, K]
    bmu = d.detach().argmin(dim=1)  # [B]
    h = neighborhood_weights(bmu, grid, temperature, d.dtype)  # [B, K]
    total = (h * d).sum()
    batch = max(z.shape[0], 1)
    count = {"mean": batch * prototypes.shape[0], "batchmean": batch, "sum": 1}[reduction]
    return total / count, bmu
