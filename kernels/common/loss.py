"""The loss out of the attractions of the samples: what each program has of it is added up by the last one, in a fixed order."""

import triton
import triton.language as tl
from vitsom_fast.kernels.common.unit import DROP


@triton.jit
def lost(
    z,
    inverse_z,
    rest_z,
    inverse_prototypes,
    samples,  # [BLOCK_B] int64
    is_sample,
    weight,  # [BLOCK_B] fp64: the sum of the weights of all units
    centre,  # [BLOCK_D] fp32
    features,  # [BLOCK_D] int64
    dim_block,
    total,  # [BLOCK_B, BLOCK_D] fp32: the attraction as seen from the centre
    count,
    dim,
    z_stride,
    z_step,
):
    """``sum of n_i - z^_i . S_i`` over these samples and features, ``n_i`` in the first block of features."""
    kept = is_sample[:, None] & (features < dim)[None, :]
    latents = tl.load(z + samples[:, None] * z_stride + features[None, :] * z_step, mask=kept, other=0.0).to(tl.float32)
    # fp64: the loss is the small difference of two large sums. A length that is rounded is off alike in all features.
    inverse = (tl.load(inverse_z + samples).to(tl.float64) + tl.load(rest_z + samples).to(tl.float64)) * DROP
    attraction = weight[:, None] * centre.to(tl.float64)[None, :] + total.to(tl.float64)
    result = -tl.sum(latents.to(tl.float64) * inverse[:, None] * attraction)
    if dim_block == 0:
        result += tl.sum(tl.where(is_sample, weight, 0.0))
    return result + _zero_unless_infinite(inverse_prototypes, count)


@triton.jit
def add_up(lost, partial, ticket, loss, scale):
    """Stores this program's part; the last program stores the loss."""
    tl.store(partial + tl.program_id(0), lost)
    tl.debug_barrier()
    programs = tl.num_programs(0)
    if tl.atomic_add(ticket, 1) == programs - 1:
        tl.debug_barrier()
        parts = tl.zeros([1024], tl.float64)
        for first in range(0, programs, 1024):
            at = first + tl.arange(0, 1024)
            parts += tl.load(partial + at, mask=at < programs, other=0.0, cache_modifier=".cg")
        total = tl.sum(parts) * scale
        tl.store(loss, total.to(tl.float32))  # below zero where weights are


@triton.jit
def _zero_unless_infinite(inverse_prototypes, count):
    """NaN where a prototype is not finite, though its weight may be nothing. Every program looks at its share of them."""
    share = tl.cdiv(count, tl.num_programs(0))
    begin = tl.program_id(0) * share
    products = tl.zeros([256], tl.float32)
    for first in range(begin, tl.minimum(begin + share, count), 256):
        at = first + tl.arange(0, 256)
        products += 0.0 * tl.load(inverse_prototypes + at, mask=at < tl.minimum(begin + share, count), other=0.0)
    return tl.sum(products).to(tl.float64)
