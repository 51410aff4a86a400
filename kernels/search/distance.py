"""What the search leaves open: the index in every row's key, and the distance to that prototype in full precision."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common import keys
from vitsom_fast.kernels.common.unit import DROP
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["batch"])
def distance_kernel(
    z,  # [B, D], any strides
    prototypes,  # [K, D]
    inverse_z,  # [B] fp32
    inverse_prototypes,  # [K] fp32
    row_keys,  # [B] int64
    bmu,  # [B] int64
    distance,  # [B] fp32
    batch,
    dim,
    z_stride,
    z_step,
    prototypes_stride,
    prototypes_step,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``1 - z.w / (|z| |w|)`` at the BMU, from 0 to 2; NaN for a row that is not finite."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = rows < batch
    index = keys.decode_index(tl.load(row_keys + rows, mask=is_row, other=keys.LAST_INDEX))
    of_z = tl.load(inverse_z + rows, mask=is_row, other=1.0)[:, None]
    of_prototypes = tl.load(inverse_prototypes + index)[:, None]
    z_rows = z + rows.to(tl.int64)[:, None] * z_stride
    prototype_rows = prototypes + index.to(tl.int64)[:, None] * prototypes_stride
    product = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for first in range(0, dim, BLOCK_D):
        features = (first + tl.arange(0, BLOCK_D)[None, :]).to(tl.int64)
        inside = is_row[:, None] & (features < dim)
        z_part = tl.load(z_rows + features * z_step, mask=inside, other=0.0).to(tl.float32)
        prototype_part = tl.load(prototype_rows + features * prototypes_step, mask=inside, other=0.0).to(tl.float32)
        product += (z_part * of_z * DROP) * (prototype_part * of_prototypes * DROP)
    nearest = 1.0 - tl.sum(product, axis=1)
    nearest = tl.where(nearest < 0, 0.0, tl.where(nearest > 2, 2.0, nearest))  # NaN stays
    tl.store(bmu + rows, index.to(tl.int64), mask=is_row)
    tl.store(distance + rows, nearest, mask=is_row)


def distance(
    recording: Recording,
    z: Buffer,
    prototypes: Buffer,
    inverse_z: Buffer,
    inverse_prototypes: Buffer,
    row_keys: Buffer,
) -> None:
    """Results: BMU (B,) int64 and distance (B,) fp32 of z (B, D), for the keys (B,) that a search left."""
    batch, dim = z.shape
    bmu = recording.result((batch,), torch.int64)
    nearest = recording.result((batch,), torch.float32)
    config = configs.distance(dim)
    recording.launch(
        distance_kernel,
        blocks(batch, config["ROWS"]),
        z,
        prototypes,
        inverse_z,
        inverse_prototypes,
        row_keys,
        bmu,
        nearest,
        batch,
        dim,
        *z.stride(),
        *prototypes.stride(),
        **config.options(),
    )
