"""Losses under the squared Euclidean distance, which factorises as the cosine does.

With x and v the latents and prototypes as seen from a common centre, ``L_i = n_b |x_i|^2 - 2 x_i . (G v)_b + (G |v|^2)_b`` for
the BMU b of sample i and n = G 1. For the gradients g of these, ``dz_i = 2 g_i (n_b x_i - (G v)_b)`` and
``dw_k = 2 ((G c)_k v_k - (G A)_k)``, with A and c the sums of g x and of g over the samples of each BMU.

A backend may have a form of its own, ``squared_losses`` and ``squared_gradients`` as in ``backends/cpu.py``, which may leave to
the one here what asks for fp64.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from vitsom_fast.backends import transforms
from vitsom_fast.backends.centred import pieces, poison
from vitsom_fast.backends.memory import is_plain
from vitsom_fast.backends.smoothing import smooth, smooth_widely, total_weight
from vitsom_fast.backends.spec import accumulation_dtype
from vitsom_fast.backends.unit_rows import centre_of, widest

if TYPE_CHECKING:
    from vitsom_fast.backends.compose import Primitives

# The share of ``n |v|^2`` below which a loss that fp32 has smoothed has lost too many digits: 1e-7 of it is 1e-5 of the loss.
_CANCELS = 0.02


def losses(own: Primitives, bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """(B,) in the widest dtype, of z (B, D) and prototypes (K, D); NaN for a row that is not finite. ``own`` is the backend."""
    if torch.compiler.is_compiling() or transforms.is_at_work() or not (is_plain(z) and is_plain(prototypes)):
        return _differentiable(bmu, z, prototypes, row_factors, col_factors) + poison(z, prototypes)
    return _Losses.apply(z, prototypes, bmu, row_factors, col_factors, own)


# The gradients of what is not differentiated.
_NOTHING = (None,) * 4


class _Losses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, prototypes: Tensor, bmu: Tensor, row_factors: Tensor, col_factors: Tensor, own: Primitives
    ) -> Tensor:
        ctx.own = own
        form = getattr(own, "squared_losses", None)
        made = form(z, prototypes, row_factors, col_factors, bmu) if form else None
        ctx.is_fused = made is not None
        if made is not None:
            result, *kept = made
            ctx.save_for_backward(z, prototypes, bmu, row_factors, col_factors, result, *kept)
            return result
        centre = _centre(prototypes)
        weight = total_weight(row_factors, col_factors)[bmu]  # [B]
        # In fp32 where that may be enough; on a GPU nobody waits to see it.
        dtype = accumulation_dtype(z.dtype) if z.device.type == "cpu" and not form else widest(z)
        while True:
            seen = _with_squares(prototypes, centre, dtype)  # [K, width]
            at_bmu = _smooth(own, seen, row_factors, col_factors)[bmu]  # [B, width]
            result = _losses(z, at_bmu, weight, centre)
            most = (weight.abs() + 1) * seen[:, z.shape[1]].amax()  # 1: of weights that cancel, that of the BMU
            if dtype == widest(z) or (result.abs() >= _CANCELS * most).all():  # neither NaN nor infinity is enough
                break
            dtype = widest(z)
        ctx.save_for_backward(z, prototypes, bmu, row_factors, col_factors, at_bmu)
        return result + poison(z, prototypes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):  # the caller's may be on
            return _Losses._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, prototypes, bmu, row_factors, col_factors, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() or not is_plain(grad):  # someone differentiates the gradient, or takes many at once
            again = partial(_differentiable, bmu, row_factors=row_factors, col_factors=col_factors)
            return *transforms.gradients_again(again, z, prototypes, wanted, grad), *_NOTHING
        if ctx.is_fused:
            result, *kept = kept
            # Gradients of samples near their units are next to nothing beside those of the others, but if only these count.
            if (grad == grad[0]).all() or not _cancels(result, bmu, prototypes, row_factors, col_factors):
                return *ctx.own.squared_gradients(grad, z, prototypes, row_factors, col_factors, bmu, *kept, *wanted), *_NOTHING
            seen = _with_squares(prototypes, _centre(prototypes), widest(z))
            kept = [_smooth(ctx.own, seen, row_factors, col_factors)[bmu]]
        (at_bmu,) = kept
        centre, dim = _centre(prototypes), z.shape[1]
        grad_z = grad_prototypes = None
        if wanted[0]:
            grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
            weight = total_weight(row_factors, col_factors)[bmu]  # [B]
            for part in pieces(z):
                x = z[part].to(grad.dtype) - centre
                grad_z[part] = (x * weight[part, None] - at_bmu[part, :dim]) * (2 * grad[part, None])
        if wanted[1]:
            weighted = at_bmu.new_zeros(z.shape[0], _width(dim))  # [B, width]: g x, then g
            for part in pieces(z):
                weighted[part, :dim] = (z[part].to(grad.dtype) - centre) * grad[part, None]
            weighted[:, dim] = grad
            sums = _sum_by_bmu(ctx.own, weighted, bmu, prototypes.shape[0], accumulation_dtype(z.dtype))
            pulled = _smooth(ctx.own, sums, row_factors.mT, col_factors.mT)  # [K, width]
            grad_prototypes = torch.empty_like(prototypes, memory_format=torch.contiguous_format)
            for part in pieces(prototypes):
                v = prototypes[part].to(pulled.dtype) - centre.to(pulled.dtype)
                grad_prototypes[part] = v.mul_(pulled[part, dim : dim + 1]).sub_(pulled[part, :dim]).mul_(2)
        return grad_z, grad_prototypes, *_NOTHING


def _cancels(losses: Tensor, bmu: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor) -> bool:
    """Whether any of these losses (B,) is so small beside what it is a difference of that a backend may have summed it up
    otherwise: twice as many as ``_CANCELS`` says."""
    centre, weight = _centre(prototypes), total_weight(row_factors, col_factors)[bmu]  # [D], [B]
    longest = torch.stack([(prototypes[part] - centre).square_().sum(dim=1).amax() for part in pieces(prototypes)]).amax()
    return bool((losses.abs() < 2 * _CANCELS * (weight.abs() + 1) * longest).any())


def _centre(prototypes: Tensor) -> Tensor:
    """(D,) in the widest dtype, of numbers that fp32 holds: about the mean of the prototypes. Any other would be right, too."""
    sample = prototypes.detach()[:: -(-prototypes.shape[0] // 256)]
    return centre_of(sample.to(widest(sample)))


def _width(dim: int) -> int:
    """Columns for all features and one number more: rows of whole vectors, 0.6 of the time of smoothing 3137 columns."""
    return -(-(dim + 1) // 16) * 16


def _with_squares(prototypes: Tensor, centre: Tensor, dtype: torch.dtype) -> Tensor:
    """The prototypes as seen from the centre and their squared lengths, (K, width)."""
    dim = prototypes.shape[1]
    seen = prototypes.new_zeros(prototypes.shape[0], _width(dim), dtype=dtype)
    for part in pieces(prototypes):
        v = torch.sub(prototypes[part].to(dtype), centre.to(dtype), out=seen[part, :dim])
        seen[part, dim] = v.square().sum(dim=1)
    return seen


def _losses(z: Tensor, at_bmu: Tensor, weight: Tensor, centre: Tensor) -> Tensor:
    """(B,) in the widest dtype, from the smoothed prototypes and squares at the BMUs (B, width) and sums of weights (B,)."""
    dim, result = z.shape[1], weight.new_empty(z.shape[0])
    for part in pieces(z):
        x, attraction = z[part].to(weight.dtype) - centre, at_bmu[part].to(weight.dtype)
        along = (x * attraction[:, :dim]).sum(dim=1)
        result[part] = weight[part] * x.square().sum(dim=1) - 2 * along + attraction[:, dim]
    return result


def _smooth(own: Primitives, x: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """The backend's own, or in the widest dtype PyTorch's."""
    if x.dtype == row_factors.dtype:
        return own.smooth(x, row_factors, col_factors)
    return smooth(x, row_factors.to(x.dtype), col_factors.to(x.dtype))


def _sum_by_bmu(own: Primitives, x: Tensor, bmu: Tensor, num_prototypes: int, dtype: torch.dtype) -> Tensor:
    """Sums (K, width) of the rows x (B, width) of each BMU, in an order that does not change from run to run."""
    if x.dtype == dtype:
        return own.sum_by_bmu(x, bmu, num_prototypes)[0]
    sums = x.new_zeros(num_prototypes, x.shape[1])
    if x.device.type == "cpu":
        return sums.index_add_(0, bmu, x)
    return sums.index_put_((bmu,), x, accumulate=True)  # sorts the indices first, where index_add_ adds with atomics


def _differentiable(bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """The same in operations that can be differentiated any number of times and ways."""
    centre = _centre(prototypes)
    x, v = z - centre, prototypes - centre  # [B, D], [K, D]
    # In the widest dtype: whether fp32 would be enough, nobody is there to look.
    at_bmu = smooth(v, row_factors.to(v.dtype), col_factors.to(v.dtype))[bmu]  # [B, D]
    weight = total_weight(row_factors, col_factors)[bmu]  # [B]
    squares = smooth_widely(v.square().sum(dim=1), row_factors, col_factors)[bmu]  # [B]
    return weight * x.square().sum(dim=1) - 2 * (x * at_bmu).sum(dim=1) + squares
