"""The loss for given BMUs in PyTorch operations that can be differentiated any number of times and ways: double backward,
forward derivatives, torch.func."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast.backends.centred import near_centre, prototype_centre
from vitsom_fast.backends.smoothing import smooth, smooth_widely, total_weight
from vitsom_fast.backends.spec import accumulation_dtype, reduction_scale
from vitsom_fast.backends.unit_rows import centre_of, unit_rows


def loss_at(
    bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, reduction: str
) -> tuple[Tensor, Tensor]:
    """The loss for given BMUs, differentiable any number of times and ways in z and the prototypes, and the attraction."""
    dtype = accumulation_dtype(z.dtype)
    z, prototypes = z.to(dtype), prototypes.to(dtype)
    if z.shape[0] == 0:
        return z.sum() + prototypes[:0].sum(), z.new_zeros(1, z.shape[1])
    centre = prototype_centre(prototypes)
    latents, delta = unit_rows(z), unit_rows(prototypes).unit - centre
    # [B, D] in the widest dtype, in which gradients of one BMU are then added up
    at_bmu = smooth(delta.to(dtype), row_factors, col_factors).to(centre.dtype)[bmu]
    # The latents are seen from a centre of their own: their pulls are what is smoothed for the gradients of the prototypes.
    middle = centre_of(latents.unit.detach())
    near, rest = near_centre(latents, middle)
    weight, shift = total_weight(row_factors, col_factors), smooth_widely(delta @ middle, row_factors, col_factors)
    total = (weight[bmu] * (1 - latents.unit @ centre) - near * shift[bmu] - (rest * at_bmu).sum(dim=1)).sum()
    loss = total.to(dtype) * reduction_scale(reduction, z.shape[0], prototypes.shape[0])
    return loss, torch.cat([at_bmu, centre[None]]).to(dtype)
