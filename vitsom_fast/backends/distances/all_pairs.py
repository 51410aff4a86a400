"""The distances of all pairs of a few rows and all units, over the features that a row has: NaN stands for one it has not."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast.backends.unit_rows import EPS


def all_pairs(x: Tensor, v: Tensor, distance: str) -> Tensor:
    """(B, K) in their dtype, fp64 where digits count, of rows x (B, D) and units v (K, D), both as seen from near by: squared
    distances are differences of squares."""
    known = ~x.isnan()
    if known.all():
        if distance == "cosine":
            return (1 - _units(x) @ _units(v).T).clamp_(0, 2)
        if distance == "manhattan":
            return torch.cdist(x, v, p=1)
        # Differences where there are few of them: of equal rows the distance is 0 then.
        mode = "donot_use_mm_for_euclid_dist" if x.shape[1] <= 32 else "use_mm_for_euclid_dist_if_necessary"
        nearest = torch.cdist(x, v, compute_mode=mode)
        return nearest if distance == "euclidean" else nearest.square_()
    filled, mask = torch.where(known, x, 0.0), known.to(x.dtype)
    if distance == "manhattan":
        return (torch.cdist(filled, v, p=1) - (1 - mask) @ v.abs().T).clamp_min_(0)
    lengths = mask @ v.square().T  # [B, K]: of the units, over the features of the row
    if distance == "cosine":
        return (1 - _units(filled) @ v.T / lengths.sqrt_().clamp_min_(EPS)).clamp_(0, 2)
    squared = (lengths + filled.square().sum(dim=1, keepdim=True) - 2 * filled @ v.T).clamp_min_(0)
    return squared.sqrt_() if distance == "euclidean" else squared


def _units(x: Tensor) -> Tensor:
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(EPS)
