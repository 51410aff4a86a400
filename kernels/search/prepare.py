"""One pass over latents and prototypes before the search: their lengths, and their rows as the tensor cores take them.

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
from vitsom_fast.kernels.common import keys
from vitsom_fast.kernels.common.unit import DROP, lifted_inverse, power_of_two
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks
from vitsom_fast.kernels.launch.plan import Buffer, Recording

# fp16 keeps 11 bits of what is at least 2^-14: of an element 2^-13 times its row's norm both halves keep theirs.
UNIT = tl.constexpr(4096.0)


@triton.jit(do_not_specialize=["batch", "num_prototypes", "num_tickets"])
def prepare_kernel(
    z,  # [B, D], any strides
    prototypes,  # [K, D]
    inverse_z,  # [B] fp32, as are the next three: LIFT / max(|z|, eps)
    rest_z,  # [B], what fp32 rounds away of that
    inverse_prototypes,  # [K]
    rest_prototypes,
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
    """Lengths and operands of all rows; keys and tickets as the kernels after it expect them."""
    program = tl.program_id(0)
    latent_programs = tl.cdiv(batch, ROWS)
    if program == 0:
        for first in range(0, num_tickets, 1024):
            at = first + tl.arange(0, 1024)
            tl.store(tickets + at, tl.zeros([1024], tl.int32), mask=at < num_tickets)
    if program < latent_programs:
        rows = program * ROWS + tl.arange(0, ROWS)
        tl.store(row_keys + rows, keys.lowest(rows), mask=rows < batch)
        inverse, rest, _ = _prepare_rows(z, rows, batch, dim, padded_dim, z_stride, z_step, z_high, z_low, ROWS, BLOCK_D, SPLIT)
        tl.store(inverse_z + rows, inverse, mask=rows < batch)
        tl.store(rest_z + rows, rest, mask=rows < batch)
    else:
        rows = (program - latent_programs) * ROWS + tl.arange(0, ROWS)
        inverse, rest, scale = _prepare_rows(
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
        tl.store(inverse_prototypes + rows, inverse, mask=rows < num_prototypes)
        tl.store(rest_prototypes + rows, rest, mask=rows < num_prototypes)
        if not SPLIT:
            tl.store(prototype_scale + rows, inverse / scale * DROP, mask=rows < num_prototypes)


@triton.jit
def _prepare_rows(
    x, rows, count, dim, padded_dim, stride, step, high, low, ROWS: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr
):
    """Stores the operands of these rows; returns their lifted inverses in two parts, and what 16-bit rows are scaled by."""
    is_row = (rows < count)[:, None]
    source = x + rows.to(tl.int64)[:, None] * stride  # [ROWS, 1]
    target = rows.to(tl.int64)[:, None] * padded_dim
    # fp64: the squares of 1e30 and 1e-30 are no matter, and the sum is as good as exact; the pass waits for memory anyway.
    squares = tl.zeros([ROWS, BLOCK_D], tl.float64)
    for first in range(0, dim, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)[None, :]
        part = tl.load(source + features.to(tl.int64) * step, mask=is_row & (features < dim), other=0.0).to(tl.float64)
        squares += part * part
    # In two parts: a factor that is rounded is off alike in all features.
    inverse, rest = lifted_inverse(tl.sqrt(tl.sum(squares, axis=1)))
    # The power of two below 1 / |x|: exact to multiply with.
    scale = power_of_two((inverse.to(tl.int32, bitcast=True) >> 23) - 127 - 50)
    for first in range(0, padded_dim, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)[None, :]
        part = tl.load(source + features.to(tl.int64) * step, mask=is_row & (features < dim), other=0.0).to(tl.float32)
        keep = is_row & (features < padded_dim)
        if SPLIT:
            unit = (part * inverse[:, None] + part * rest[:, None]) * (UNIT * DROP)
            upper = unit.to(tl.float16)
            tl.store(high + target + features, upper, mask=keep)
            tl.store(low + target + features, (unit - upper.to(tl.float32)).to(tl.float16), mask=keep)
        else:
            tl.store(high + target + features, (part * scale[:, None] * UNIT).to(tl.float16), mask=keep)
    return inverse, rest, scale


class Operands(NamedTuple):
    """Latents and prototypes as the search multiplies them."""

    z_high: Buffer  # [B, padded D]
    z_low: Buffer  # that of fp32 latents; else z_high once more, not to be used
    prototypes_high: Buffer  # [K, padded D]
    prototypes_low: Buffer
    prototype_scale: Buffer  # [K] fp32, empty for fp32 prototypes
    rest_z: Buffer  # [B] fp32, what the inverses of the lengths were rounded by
    rest_prototypes: Buffer  # [K]

    @property
    def is_split(self) -> bool:
        """Whether a score takes three products, not one."""
        return self.prototype_scale.numel() == 0


def prepare(
    recording: Recording,
    z: Buffer,
    prototypes: Buffer,
    inverse_z: Buffer,
    inverse_prototypes: Buffer,
    row_keys: Buffer,
    tickets: Buffer,
) -> Operands:
    """Operands for z (B, D) and prototypes (K, D); fills in the lifted inverses of their lengths (B,) and (K,) fp32, the keys
    (B,) and the tickets."""
    (batch, dim), count = z.shape, prototypes.shape[0]
    split = z.dtype == torch.float32
    padded_dim = configs.padded_dim(dim)
    z_high = z_low = recording.temporary((batch, padded_dim), torch.float16)
    prototypes_high = prototypes_low = recording.temporary((count, padded_dim), torch.float16)
    if split:
        z_low = recording.temporary((batch, padded_dim), torch.float16)
        prototypes_low = recording.temporary((count, padded_dim), torch.float16)
    prototype_scale = recording.temporary((0 if split else count,), torch.float32)
    rest_z = recording.temporary((batch,), torch.float32)
    rest_prototypes = recording.temporary((count,), torch.float32)
    config = configs.prepare(dim)
    recording.launch(
        prepare_kernel,
        blocks(batch, config["ROWS"]) + blocks(count, config["ROWS"]),
        z,
        prototypes,
        inverse_z,
        rest_z,
        inverse_prototypes,
        rest_prototypes,
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
        padded_dim,
        tickets.numel(),
        *z.stride(),
        *prototypes.stride(),
        SPLIT=split,
        **config.options(),
    )
    return Operands(z_high, z_low, prototypes_high, prototypes_low, prototype_scale, rest_z, rest_prototypes)
