"""Losses under the squared Euclidean distance, which factorises as the cosine does.

With x and v the latents and prototypes as seen from a common centre, ``L_i = n_b |x_i|^2 - 2 x_i . (G v)_b + (G |v|^2)_b`` for
the BMU b of sample i and n = G 1. For the gradients g of these, ``dz_i = 2 g_i (n_b x_i - (G v)_b)`` and
``dw_k = 2 ((G c)_k v_k - (G A)_k)``, with A and c the sums of g x and of g over the samples of each BMU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vitsom_fast.backends import transforms
from vitsom_fast.backends.centred import pieces
from vitsom_fast.backends.smoothing import smooth, smooth_widely, total_weight
from vitsom_fast.backends.unit_rows import centre_of, widest

if TYPE_CHECKING:
    from vitsom_fast.backends.compose import Primitives


def losses(own: Primitives, bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """(B,) in the widest dtype, of z (B, D) and prototypes (K, D) in the accumulation dtype; ``own`` sums and smooths."""
    if torch.compiler.is_compiling() or transforms.is_at_work():
        return _differentiable(bmu, z, prototypes, row_factors, col_factors)
    return _Losses.apply(z, prototypes, bmu, row_factors, col_factors, own)


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, prototypes: Tensor, bmu: Tensor, row_factors: Tensor, col_factors: Tensor, own: Primitives
    ) -> Tensor:
        centre, wide = _centre(prototypes), widest(z)
        seen = _with_squares(prototypes, centre)  # [K, width]
        at_bmu = own.smooth(seen, row_factors, col_factors)[bmu]  # [B, width]
        weight = total_weight(row_factors, col_factors)[bmu]  # [B]
        ctx.save_for_backward(z, prototypes, bmu, row_factors, col_factors, at_bmu)
        ctx.own = own
        result = weight.new_empty(z.shape[0])
        for part in pieces(z):
            x, attraction = z[part].to(wide) - centre, at_bmu[part].to(wide)
            along = (x * attraction[:, : z.shape[1]]).sum(dim=1)
            result[part] = weight[part] * x.square().sum(dim=1) - 2 * along + attraction[:, z.shape[1]]
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, prototypes, bmu, row_factors, col_factors, at_bmu = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # someone differentiates the gradient
            z, prototypes = z.view_as(z), prototypes.view_as(prototypes)
            result = _differentiable(bmu, z, prototypes, row_factors, col_factors)
            inputs = [x for x, needed in zip((z, prototypes), wanted, strict=True) if needed]
            grads = iter(torch.autograd.grad(result, inputs, grad, create_graph=True))
            return next(grads) if wanted[0] else None, next(grads) if wanted[1] else None, None, None, None, None
        centre, dim = _centre(prototypes), z.shape[1]
        grad_z = grad_prototypes = None
        if wanted[0]:
            grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
            weight = total_weight(row_factors, col_factors)[bmu]  # [B]
            for part in pieces(z):
                x = z[part].to(grad.dtype) - centre
                grad_z[part] = (x * weight[part, None] - at_bmu[part, :dim]) * (2 * grad[part, None])
        if wanted[1]:
            weighted = z.new_zeros(z.shape[0], _width(dim))  # [B, width]: g x, then g
            for part in pieces(z):
                weighted[part, :dim] = (z[part].to(grad.dtype) - centre) * grad[part, None]
            weighted[:, dim] = grad
            sums, _ = ctx.own.sum_by_bmu(weighted, bmu, prototypes.shape[0])
            pulled = ctx.own.smooth(sums, row_factors.mT, col_factors.mT)  # [K, width]
            grad_prototypes = torch.empty_like(prototypes, memory_format=torch.contiguous_format)
            for part in pieces(prototypes):
                v = prototypes[part] - centre.to(prototypes.dtype)
                grad_prototypes[part] = v.mul_(pulled[part, dim : dim + 1]).sub_(pulled[part, :dim]).mul_(2)
        return grad_z, grad_prototypes, None, None, None, None


def _centre(prototypes: Tensor) -> Tensor:
    """(D,) in the widest dtype, of numbers that fp32 holds: about the mean of the prototypes. Any other would be right, too."""
    sample = prototypes.detach()[:: -(-prototypes.shape[0] // 256)]
    return centre_of(sample.to(widest(sample)))


def _width(dim: int) -> int:
    """Columns for all features and one number more: rows of whole vectors, 0.6 of the time of smoothing 3137 columns."""
    return -(-(dim + 1) // 16) * 16


def _with_squares(prototypes: Tensor, centre: Tensor) -> Tensor:
    """The prototypes as seen from the centre and their squared lengths, (K, width) in their dtype."""
    dim = prototypes.shape[1]
    seen = prototypes.new_zeros(prototypes.shape[0], _width(dim))
    for part in pieces(prototypes):
        v = torch.sub(prototypes[part], centre.to(prototypes.dtype), out=seen[part, :dim])
        seen[part, dim] = v.square().sum(dim=1)
    return seen


def _differentiable(bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """The same in operations that can be differentiated any number of times and ways."""
    centre = _centre(prototypes)
    x, v = z - centre, prototypes - centre  # [B, D], [K, D]
    at_bmu = smooth(v.to(z.dtype), row_factors, col_factors).to(centre.dtype)[bmu]  # [B, D]
    weight = total_weight(row_factors, col_factors)[bmu]  # [B]
    squares = smooth_widely(v.square().sum(dim=1), row_factors, col_factors)[bmu]  # [B]
    return weight * x.square().sum(dim=1) - 2 * (x * at_bmu).sum(dim=1) + squares
