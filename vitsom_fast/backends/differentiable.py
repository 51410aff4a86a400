"""The loss for given BMUs in PyTorch operations that can be differentiated any number of times and ways: double backward,
forward derivatives, torch.func."""

from __future__ import annotations

from torch import Tensor

from vitsom_fast.backends.distances.losses import cosine_losses
from vitsom_fast.backends.spec import accumulation_dtype, reduction_scale


def loss_at(
    bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor]:
    """The cosine loss for given BMUs, differentiable in z and the prototypes, and the attraction."""
    dtype = accumulation_dtype(z.dtype)
    z, prototypes = z.to(dtype), prototypes.to(dtype)
    if z.shape[0] == 0:
        return z.sum() + prototypes[:0].sum(), z.new_zeros(1, z.shape[1])
    losses, attraction = cosine_losses(bmu, z, prototypes, row_factors, col_factors)
    scale = reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    return losses.sum().to(dtype) * scale, attraction.to(dtype)
