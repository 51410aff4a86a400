"""Losses under distances that do not factorise: by a backend's own operators ``vitsom::pair_losses`` and
``vitsom::pair_gradients``, or in tiles of samples by all units, made in the forward pass and once more in the backward pass.
Memory: O(B D + K D)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitsom_fast.backends import transforms
from vitsom_fast.backends.centred import slices
from vitsom_fast.backends.spec import accumulation_dtype
from vitsom_fast.backends.unit_rows import widest

# Pairs of a tile: 1 M are 8 MB in fp64.
_PAIRS = 1 << 20

# Samples of a tile: so many are summed up in fp32 one by one, for the gradient of a prototype.
_SAMPLES = 256

# Squared distances below these shares of the squared lengths: a product in fp64 gives less than 8 digits, or none.
_NEAR, _NOTHING = 1e-8, 1e-14


def tiled_losses(
    bmu: Tensor,
    z: Tensor,
    prototypes: Tensor,
    row_factors: Tensor,
    col_factors: Tensor,
    distance: str,
    backend: str | None = None,
) -> Tensor:
    """(B,) in the widest dtype: ``sum_k h_bk d(z_i, w_k)`` for the BMUs b (B,), "euclidean" or "manhattan"; by the operators of
    this backend, None: in PyTorch operations."""
    if transforms.is_at_work():
        return _differentiable(bmu, z, prototypes, row_factors, col_factors, distance)
    return _TiledLosses.apply(z, prototypes, bmu, row_factors, col_factors, distance, backend)


class _TiledLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        prototypes: Tensor,
        bmu: Tensor,
        row_factors: Tensor,
        col_factors: Tensor,
        distance: str,
        backend: str | None,
    ) -> Tensor:
        ctx.save_for_backward(z, prototypes, bmu, row_factors, col_factors)
        ctx.distance, ctx.backend = distance, backend
        if backend is not None:
            return torch.ops.vitsom.pair_losses(z, prototypes, bmu, row_factors, col_factors, distance, backend)
        x, v = _seen(z, prototypes, distance)
        losses = x.new_zeros(x.shape[0], dtype=widest(z))
        for tile in _tiles(x, v):
            h = pair_weights(bmu[tile], row_factors, col_factors)  # [n, K]
            distances = _euclidean(x[tile], v, bmu[tile]) if distance == "euclidean" else torch.cdist(x[tile], v, p=1)
            losses[tile] = (h.to(x.dtype) * distances).sum(dim=1, dtype=losses.dtype)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(grad.device.type, enabled=False):  # the caller's may be on
            return _TiledLosses._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, prototypes, bmu, row_factors, col_factors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled():  # someone differentiates the gradient
            how = {"row_factors": row_factors, "col_factors": col_factors, "distance": ctx.distance}
            again = partial(_differentiable, bmu, **how)
            return *transforms.gradients_again(again, z, prototypes, wanted, grad), None, None, None, None, None
        if ctx.backend is not None:
            grads = torch.ops.vitsom.pair_gradients(
                grad, z, prototypes, bmu, row_factors, col_factors, ctx.distance, *wanted, ctx.backend
            )
            return *(x if needed else None for x, needed in zip(grads, wanted, strict=True)), None, None, None, None, None
        x, v = _seen(z, prototypes, ctx.distance)
        grad_x, grad_v = torch.zeros_like(x), torch.zeros_like(v, dtype=widest(v))
        gradients = _euclidean_gradients if ctx.distance == "euclidean" else _manhattan_gradients
        for tile in _tiles(x, v):
            h = pair_weights(bmu[tile], row_factors, col_factors).to(x.dtype) * grad[tile, None].to(x.dtype)
            grad_x[tile], of_v = gradients(x[tile], v, h, bmu[tile])
            grad_v += of_v
        return grad_x.to(z.dtype), grad_v.to(prototypes.dtype), None, None, None, None, None


def pair_weights(bmu: Tensor, row_factors: Tensor, col_factors: Tensor) -> Tensor:
    """(n, K): the weights of all units for these BMUs (n,)."""
    cols = col_factors.shape[1]
    along_rows, along_cols = row_factors[:, bmu // cols], col_factors[:, bmu % cols]  # [terms, n, R], [terms, n, C]
    # No product of matrices, whose operands PyTorch may be allowed to round.
    weights = along_rows[0, :, :, None] * along_cols[0, :, None, :]  # [n, R, C]
    for row, col in zip(along_rows[1:], along_cols[1:], strict=True):
        weights = torch.addcmul(weights, row[:, :, None], col[:, None, :])
    return weights.flatten(1)


def _seen(z: Tensor, prototypes: Tensor, distance: str) -> tuple[Tensor, Tensor]:
    """Latents and prototypes as the pairs are computed. Of a product in fp64 what both have in common is taken off;
    differences, as the Manhattan distance takes them, lose nothing."""
    if distance == "manhattan":
        dtype = accumulation_dtype(z.dtype)
        return z.to(dtype), prototypes.to(dtype)
    x, v = z.to(widest(z)), prototypes.to(widest(z))
    # The middle one of some: one prototype far from all others would move a mean.
    centre = v[:: -(-v.shape[0] // 256)].median(dim=0).values.nan_to_num(0.0, 0.0, 0.0)
    return x - centre, v - centre


def _tiles(x: Tensor, v: Tensor) -> Iterator[slice]:
    return slices(x.shape[0], min(_SAMPLES, _PAIRS // v.shape[0]))


def _euclidean(x: Tensor, v: Tensor, bmu: Tensor) -> Tensor:
    """(n, K) of x (n, D) and v (K, D): a product, but of pairs that are so near that its roundings show. Those are looked for
    on a CPU; on a GPU, where nobody waits for their number, they are the BMUs."""
    lengths = x.square().sum(dim=1)[:, None] + v.square().sum(dim=1)  # [n, K]
    squared = lengths - 2 * (x @ v.T)
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        sample, unit = (squared < _NEAR * lengths).nonzero(as_tuple=True)
    else:
        sample, unit = torch.arange(x.shape[0], device=x.device), bmu
        squared = torch.where(squared <= _NOTHING * lengths, 0.0, squared)
    for part in slices(sample.shape[0], _PAIRS // x.shape[1]):
        at = sample[part], unit[part]
        squared[at] = (x[at[0]] - v[at[1]]).square_().sum(dim=1)
    return squared.clamp_min(0).sqrt_()


def _euclidean_gradients(x: Tensor, v: Tensor, h: Tensor, bmu: Tensor) -> tuple[Tensor, Tensor]:
    """Of ``sum h d``: (n, D) and (K, D). A pair without a distance pulls nowhere."""
    distances = _euclidean(x, v, bmu)
    pull = torch.where(distances == 0, 0.0, h / distances)  # [n, K]
    return pull.sum(dim=1)[:, None] * x - pull @ v, pull.sum(dim=0)[:, None] * v - pull.T @ x


def _manhattan_gradients(x: Tensor, v: Tensor, h: Tensor, bmu: Tensor) -> tuple[Tensor, Tensor]:
    backward = torch.ops.aten._cdist_backward  # what autograd calls, for one of the two
    h, across = h.contiguous(), h.T.contiguous()
    # The last is there for other norms, and takes half of all time to make: only its shape is looked at.
    return backward(h, x, v, 1.0, h), backward(across, v, x, 1.0, across)


def _differentiable(
    bmu: Tensor, z: Tensor, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor, distance: str
) -> Tensor:
    """All pairs at once, in operations that can be differentiated again."""
    x, v = z.to(widest(z)), prototypes.to(widest(z))
    difference = x[:, None, :] - v  # [B, K, D]
    if distance == "manhattan":
        distances = difference.abs().sum(dim=2)
    else:
        squared = difference.square().sum(dim=2)
        apart = squared > 0
        distances = torch.where(apart, torch.where(apart, squared, 1.0).sqrt(), 0.0)
    return (pair_weights(bmu, row_factors, col_factors) * distances).sum(dim=1)
