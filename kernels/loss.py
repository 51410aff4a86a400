"""The loss out of the attractions of the samples: what each program has of it is added up by the last one, in a fixed order."""

import triton
import triton.language as tl


@triton.jit
def lost(
    z,
    inverse_z,  # [B] fp64
    norm_prototypes,
    row_factors,
    col_factors,
    samples,  # [BLOCK_B] int64
    is_sample,
    row,  # of the samples' BMUs
    col,
    features,  # [BLOCK_D] int64
    dim_block,
    total,  # [BLOCK_B, BLOCK_D] fp32: the attraction
    rows,
    cols,
    dim,
    z_stride,
    z_step,
    terms,
    BLOCK_B: tl.constexpr,
    BLOCK_R: tl.constexpr,
):
    """``sum of n_i - z^_i . S_i`` over these samples and features, ``n_i`` in the first block of features."""
    kept = is_sample[:, None] & (features < dim)[None, :]
    latents = tl.load(z + samples[:, None] * z_stride + features[None, :] * z_step, mask=kept, other=0.0).to(tl.float32)
    # fp64: the loss is the small difference of two large sums. A length that is rounded is off alike in all features.
    result = -tl.sum(latents.to(tl.float64) * tl.load(inverse_z + samples)[:, None] * total.to(tl.float64))
    if dim_block == 0:
        weight = _total_weight(row_factors, col_factors, row, col, rows, cols, terms, BLOCK_B, BLOCK_R)
        result += tl.sum(tl.where(is_sample, weight, 0.0))
    return result + _zero_unless_infinite(norm_prototypes, rows * cols)


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
        tl.store(loss, (tl.sum(parts) * scale).to(tl.float32))


@triton.jit
def _total_weight(row_factors, col_factors, row, col, rows, cols, terms, BLOCK_B: tl.constexpr, BLOCK: tl.constexpr):
    """``n_i``, the sum of the weights of all units as seen from a sample's BMU: [BLOCK_B] fp64."""
    weight = tl.zeros([BLOCK_B], tl.float64)
    for term in range(terms):
        along_rows = _sum_of_rows(row_factors + tl.cast(term, tl.int64) * rows * rows, row, rows, BLOCK_B, BLOCK)
        along_cols = _sum_of_rows(col_factors + tl.cast(term, tl.int64) * cols * cols, col, cols, BLOCK_B, BLOCK)
        weight += along_rows * along_cols
    return weight


@triton.jit
def _sum_of_rows(factor, index, count, BLOCK_B: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK_B, BLOCK], tl.float64)
    for first in range(0, count, BLOCK):
        at = first + tl.arange(0, BLOCK)[None, :]
        total += tl.load(factor + index[:, None] * count + at, mask=at < count, other=0.0).to(tl.float64)
    return tl.sum(total, axis=1)


@triton.jit
def _zero_unless_infinite(norm_prototypes, count):
    """NaN where a prototype is not finite, though its weight may be nothing. Every program looks at its share of them."""
    share = tl.cdiv(count, tl.num_programs(0))
    begin = tl.program_id(0) * share
    products = tl.zeros([256], tl.float32)
    for first in range(begin, tl.minimum(begin + share, count), 256):
        at = first + tl.arange(0, 256)
        products += 0.0 * tl.load(norm_prototypes + at, mask=at < tl.minimum(begin + share, count), other=0.0)
    return tl.sum(products).to(tl.float64)
