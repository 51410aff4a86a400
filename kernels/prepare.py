"""One pass over latents and prototypes before the search: their norms, and their rows as the tensor cores take them.

fp32 rows are normalised, scaled by 2^12 and split into two fp16 numbers, high + low: 22 bits of each element at least. The
products high.high + high.low + low.high then miss a score by 3 * 2^-22 at most, where three TF32 products of the same accuracy
take twice the time. Rows in bf16 and fp16 are only scaled by a power of two, so that no product overflows; their products are
exact. Rows are padded with zeros to whole blocks of features: the search has no masks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from vitsom_fast.kernels import configs, keys
from vitsom_fast.kernels.device import blocks

# fp16 keeps 11 bits of what is at least 2^-14: of an element 2^-13 times its row's norm both halves keep theirs.
UNIT = tl.constexpr(4096.0)
EPS = tl.constexpr(1e-12)  # of torch.nn.functional.normalize


@triton.jit(do_not_specialize=["batch", "num_prototypes", "num_tickets"])
def prepare_kernel(
    z,  # [B, D], any strides
    prototypes,  # [K, D]
    norm_z,  # [B] fp32, as are all norms
    norm_prototypes,  # [K]
    inverse_z,  # [B] fp64, 1 / max(|z|, eps)
    z_high,  # [B, padded D] fp16
    z_low,  # [B, padded D] fp16; not used for bf16 and fp16 rows
    prototypes_high,  # [K, padded D]
    prototypes_low,
    prototype_scale,  # [K] fp32: what makes a score of a product with this row as it is stored
    row_keys,  # [B] int64
    tickets,  # [num_tickets] int32
    batch,
    num_prototypes,
    dim,
    padded_dim,
    num_tickets,
    z_stride,
    z_step,
    prototypes_stride,
    prototypes_step,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Norms and operands of all rows; keys and tickets as the kernels after it expect them."""
    program = tl.program_id(0)
    latent_programs = tl.cdiv(batch, ROWS)
    if program == 0:
        for first in range(0, num_tickets, 1024):
            at = first + tl.arange(0, 1024)
            tl.store(tickets + at, tl.zeros([1024], tl.int32), mask=at < num_tickets)
    if program < latent_programs:
        rows = program * ROWS + tl.arange(0, ROWS)
        tl.store(row_keys + rows, keys.lowest(rows), mask=rows < batch)
        norm, inverse = _prepare_rows(z, rows, batch, dim, padded_dim, z_stride, z_step, z_high, z_low, ROWS, BLOCK_D, SPLIT)
        tl.store(norm_z + rows, norm, mask=rows < batch)
        tl.store(inverse_z + rows, inverse, mask=rows < batch)
    else:
        rows = (program - latent_programs) * ROWS + tl.arange(0, ROWS)
        norm, inverse = _prepare_rows(
            prototypes,
            rows,
            num_prototypes,
            dim,
            padded_dim,
            prototypes_stride,
            prototypes_step,
            prototypes_high,
            prototypes_low,
            ROWS,
            BLOCK_D,
            SPLIT,
        )
        tl.store(norm_prototypes + rows, norm, mask=rows < num_prototypes)
        if not SPLIT:
            stored = _power_of_two(tl.maximum(norm, EPS)).to(tl.float64)
            tl.store(prototype_scale + rows, (inverse / stored).to(tl.float32), mask=rows < num_prototypes)


@triton.jit
def _prepare_rows(
    x, rows, count, dim, padded_dim, stride, step, high, low, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr
):
    """Stores the operands of these rows; returns their norms [ROWS] fp32, and 1 / max(norm, eps) [ROWS] fp64."""
    is_row = (rows < count)[:, None]
    source = x + rows.to(tl.int64)[:, None] * stride  # [ROWS, 1]
    target = rows.to(tl.int64)[:, None] * padded_dim
    # fp64: the squares of 1e30 and 1e-30 are no matter, and the sum is as good as exact; the pass waits for memory anyway.
    squares = tl.zeros([ROWS, BLOCK_D], tl.float64)
    for first in range(0, dim, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)[None, :]
        part = tl.load(source + features.to(tl.int64) * step, mask=is_row & (features < dim), other=0.0).to(tl.float64)
        squares += part * part
    exact_norm = tl.sqrt(tl.sum(squares, axis=1))
    # Finite rows have a finite norm: what fp32 cannot hold is cut off. inf and NaN stay.
    norm = tl.where(exact_norm < 1e300, tl.minimum(exact_norm, 3e38), exact_norm).to(tl.float32)
    length = tl.maximum(norm, EPS, propagate_nan=tl.PropagateNan.ALL)[:, None]
    scale = _power_of_two(length)
    # 1 / |x| in two parts, of the exact norm: a factor that is rounded is off alike in all features.
    inverse = 1.0 / tl.maximum(exact_norm, EPS, propagate_nan=tl.PropagateNan.ALL)
    factor = UNIT * inverse[:, None] / scale.to(tl.float64)
    factor_high = factor.to(tl.float32)
    factor_low = (factor - factor_high.to(tl.float64)).to(tl.float32)
    for first in range(0, padded_dim, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)[None, :]
        part = tl.load(source + features.to(tl.int64) * step, mask=is_row & (features < dim), other=0.0).to(tl.float32)
        keep = is_row & (features < padded_dim)
        scaled = part * scale
        if SPLIT:
            unit = scaled * factor_high + scaled * factor_low
            upper = unit.to(tl.float16)
            tl.store(high + target + features, upper, mask=keep)
            tl.store(low + target + features, (unit - upper.to(tl.float32)).to(tl.float16), mask=keep)
        else:
            tl.store(high + target + features, (scaled * UNIT).to(tl.float16), mask=keep)
    return norm, inverse


@triton.jit
def _power_of_two(length):
    """2^-e for a length in [2^e, 2^(e + 1)): exact to multiply with."""
    exponent = tl.minimum(length.to(tl.int32, bitcast=True) & 0x7F800000, 253 << 23)
    return ((254 << 23) - exponent).to(tl.float32, bitcast=True)


class Operands(NamedTuple):
    """Latents and prototypes as the search multiplies them."""

    z_high: Tensor  # [B, padded D]
    z_low: Tensor  # that of fp32 latents; else z_high once more, not to be used
    prototypes_high: Tensor  # [K, padded D]
    prototypes_low: Tensor
    prototype_scale: Tensor  # [K] fp32, empty for fp32 prototypes
    inverse_z: Tensor  # [B] fp64

    @property
    def is_split(self) -> bool:
        """Whether a score takes three products, not one."""
        return self.prototype_scale.numel() == 0


def prepare(
    z: Tensor, prototypes: Tensor, norm_z: Tensor, norm_prototypes: Tensor, row_keys: Tensor, tickets: Tensor
) -> Operands:
    """Operands for z (B, D) and prototypes (K, D); fills in the norms (B,) and (K,), the keys (B,) and the tickets."""
    (batch, dim), count, device = z.shape, prototypes.shape[0], z.device
    split = z.dtype == torch.float32
    shape = batch + count, configs.padded_dim(dim)
    z_high, prototypes_high = torch.empty(shape, dtype=torch.float16, device=device).split([batch, count])
    z_low, prototypes_low = z_high, prototypes_high
    if split:
        z_low, prototypes_low = torch.empty(shape, dtype=torch.float16, device=device).split([batch, count])
    prototype_scale = torch.empty(0 if split else count, dtype=torch.float32, device=device)
    inverse_z = torch.empty(batch, dtype=torch.float64, device=device)
    config = configs.prepare(dim)
    prepare_kernel[blocks(batch, config["ROWS"]) + blocks(count, config["ROWS"]),](
        z,
        prototypes,
        norm_z,
        norm_prototypes,
        inverse_z,
        z_high,
        z_low,
        prototypes_high,
        prototypes_low,
        prototype_scale,
        row_keys,
        tickets,
        batch,
        count,
        dim,
        shape[1],
        tickets.numel(),
        *z.stride(),
        *prototypes.stride(),
        SPLIT=split,
        **config.options(),
    )
    return Operands(z_high, z_low, prototypes_high, prototypes_low, prototype_scale, inverse_z)
