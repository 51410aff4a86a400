"""Products with the matrix G of the neighborhood in PyTorch operations: small matrix products along each axis of the grid."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast.backends.products import may_be_rounded
from vitsom_fast.backends.unit_rows import widest


def smooth(x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """G x for x (K, D) and the separable terms of G, (terms, R, R) and (terms, C, C)."""
    (_, rows, _), (_, cols, _) = row_factors.shape, col_factors.shape
    width, dtype = x.shape[1], x.dtype
    if may_be_rounded(x):  # not in fp64, which takes no longer than this has to be right
        x, row_factors, col_factors = (each.to(torch.float64) for each in (x, row_factors, col_factors))
    terms = []
    for row_factor, col_factor in zip(row_factors, col_factors, strict=True):
        along_cols = col_factor @ x.reshape(rows, cols, width)  # [rows, cols, D]
        terms.append((row_factor @ along_cols.view(rows, cols * width)).view(rows * cols, width))
    return (terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)).to(dtype)


def smooth_widely(x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """G x for one number of each unit (K,), in the widest dtype."""
    return smooth(x[:, None], row_factors.to(x.dtype), col_factors.to(x.dtype))[:, 0]


def total_weight(row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """n = G 1, (K,), in the widest dtype."""
    dtype = widest(row_factors)
    row_sums, col_sums = row_factors.sum(dim=2, dtype=dtype), col_factors.sum(dim=2, dtype=dtype)  # [terms, R], [terms, C]
    return (row_sums.T @ col_sums).flatten()
