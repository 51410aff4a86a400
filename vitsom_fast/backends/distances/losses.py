"""The loss of each sample for its BMU, ``L_i = sum_k h_ik d_ik``, differentiable in the latents and the prototypes any number
of times and ways. No gradient runs through the BMUs or the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vitsom_fast.backends.centred import near_centre, poison, prototype_centre
from vitsom_fast.backends.distances import squared_euclidean
from vitsom_fast.backends.distances.tiles import tiled_losses
from vitsom_fast.backends.smoothing import smooth, smooth_widely, total_weight
from vitsom_fast.backends.unit_rows import centre_of, unit_rows, widest

if TYPE_CHECKING:
    from vitsom_fast.backends.compose import Primitives


def sample_losses(
    own: Primitives,
    bmu: Tensor,
    z: Tensor,
    prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    distance: str,
    backend_of_pairs: str | None = None,
) -> Tensor:
    """(B,) in the widest dtype, of latents z (B, D), prototypes (K, D) and BMUs (B,); the backend ``own`` sums and smooths, and
    the operators of ``backend_of_pairs``, None: PyTorch's, go through all pairs where a distance does not factorise."""
    if z.shape[0] == 0:  # no sample pulls, not even on a prototype that is not finite
        return z.sum(dim=1, dtype=widest(z)) + prototypes[:0].sum(dtype=widest(z))
    if distance == "cosine":  # in a dtype that autocast, which may be on in the backward pass, leaves as it is
        wide = [x.to(widest(z)) for x in (z, prototypes, row_factors, col_factors)]
        return cosine_losses(bmu, *wide)[0]
    if distance == "sqeuclidean":
        return squared_euclidean.losses(own, bmu, z, prototypes, row_factors, col_factors)
    return tiled_losses(bmu, z, prototypes, row_factors, col_factors, distance, backend_of_pairs) + poison(z, prototypes)


def cosine_losses(
    bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor
) -> tuple[Tensor, Tensor]:
    """Losses (B,), and the attraction (B + 1, D) as ``compose.som_forward`` returns it, both in the widest dtype."""
    centre = prototype_centre(prototypes)
    latents, delta = unit_rows(z), unit_rows(prototypes).unit - centre
    # [B, D] in the widest dtype, in which gradients of one BMU are then added up
    at_bmu = smooth(delta.to(z.dtype), row_factors, col_factors).to(centre.dtype)[bmu]
    # The latents are seen from a centre of their own: their pulls are what is smoothed for the gradients of the prototypes.
    middle = centre_of(latents.unit.detach())
    near, rest = near_centre(latents, middle)
    weight, shift = total_weight(row_factors, col_factors), smooth_widely(delta @ middle, row_factors, col_factors)
    losses = weight[bmu] * (1 - latents.unit @ centre) - near * shift[bmu] - (rest * at_bmu).sum(dim=1)
    return losses, torch.cat([at_bmu, centre[None]])
