"""What the search leaves open: the index in every row's key, and the distance to that prototype in full precision."""

import triton
import triton.language as tl

from . import keys


@triton.jit
def distance_kernel(
    z,  # [B, D], any strides
    prototypes,  # [K, D]
    norm_z,  # [B] fp32
    norm_prototypes,  # [K] fp32
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
    """``1 - z.w / (|z| |w|)`` at the BMU; NaN for a row that is not finite."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = rows < batch
    index = keys.decode_index(tl.load(row_keys + rows, mask=is_row, other=keys.LAST_INDEX))
    length_z = tl.maximum(tl.load(norm_z + rows, mask=is_row, other=1.0), 1e-12, propagate_nan=tl.PropagateNan.ALL)
    length = tl.maximum(tl.load(norm_prototypes + index), 1e-12, propagate_nan=tl.PropagateNan.ALL)
    z_rows = z + rows.to(tl.int64)[:, None] * z_stride
    prototype_rows = prototypes + index.to(tl.int64)[:, None] * prototypes_stride
    product = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for first in range(0, dim, BLOCK_D):
        features = (first + tl.arange(0, BLOCK_D)[None, :]).to(tl.int64)
        inside = is_row[:, None] & (features < dim)
        z_part = tl.load(z_rows + features * z_step, mask=inside, other=0.0).to(tl.float32)
        prototype_part = tl.load(prototype_rows + features * prototypes_step, mask=inside, other=0.0).to(tl.float32)
        product += (z_part / length_z[:, None]) * (prototype_part / length[:, None])
    tl.store(bmu + rows, index.to(tl.int64), mask=is_row)
    tl.store(distance + rows, 1.0 - tl.sum(product, axis=1), mask=is_row)
