"""The weight of every unit as seen from every BMU, for batches and maps that are small: B K numbers.

With them a step is two matrix products, of B x K and K x D each, which take less time than smoothing along two axes would where
the batch is not much longer than those: 40 x 40 units and 128 samples are 3.9 GFLOP instead of 2.6, in one pass instead of two.
The last programs survey the map.
"""

from __future__ import annotations

import triton
import triton.language as tl
from vitsom_fast.kernels.common import keys
from vitsom_fast.kernels.common import survey as surveys
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["batch", "terms"])
def weights_kernel(
    row_keys,  # [B] int64
    row_factors,  # [terms, R, R] fp32
    col_factors,  # [terms, C, C] fp32
    bmu,  # [B] int64
    weights,  # [B, weights_pitch] fp32, the first R * C of each row
    prototypes,  # [K, D], any strides
    inverse_prototypes,  # [K] fp32
    factor_sums,  # [terms * R + terms * C] fp64
    centre,  # [D] fp32
    batch,
    rows,
    cols,
    dim,
    weights_pitch,
    stride,
    step,
    terms,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Weights and BMUs, or a share of the survey."""
    program = tl.program_id(0)
    unit_blocks = tl.cdiv(rows * cols, BLOCK_K)
    sample_blocks = tl.cdiv(batch, BLOCK_B)
    if program < unit_blocks * sample_blocks:
        _weigh(
            program % sample_blocks,
            program // sample_blocks,
            row_keys,
            row_factors,
            col_factors,
            bmu,
            weights,
            batch,
            rows,
            cols,
            weights_pitch,
            terms,
            BLOCK_B,
            BLOCK_K,
        )
    else:
        surveys.survey(
            program - unit_blocks * sample_blocks,
            prototypes,
            inverse_prototypes,
            row_factors,
            col_factors,
            factor_sums,
            centre,
            rows,
            cols,
            dim,
            stride,
            step,
            terms,
        )


@triton.jit
def _weigh(
    sample_block,
    unit_block,
    row_keys,
    row_factors,
    col_factors,
    bmu,
    weights,
    batch,
    rows,
    cols,
    weights_pitch,
    terms,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``weights[i, k] = sum of row_factors[t, row_i, row_k] * col_factors[t, col_i, col_k]``, and the BMUs of the keys."""
    count = rows * cols
    samples = sample_block * BLOCK_B + tl.arange(0, BLOCK_B)
    units = unit_block * BLOCK_K + tl.arange(0, BLOCK_K)
    is_sample = samples < batch
    index = keys.decode_index(tl.load(row_keys + samples, mask=is_sample, other=keys.LAST_INDEX))
    if unit_block == 0:
        tl.store(bmu + samples, index.to(tl.int64), mask=is_sample)
    keep = is_sample[:, None] & (units < count)[None, :]
    weight = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
    for term in range(terms):
        along_rows = row_factors + term * rows * rows + (index // cols * rows)[:, None] + (units // cols)[None, :]
        along_cols = col_factors + term * cols * cols + (index % cols * cols)[:, None] + (units % cols)[None, :]
        weight += tl.load(along_rows, mask=keep, other=0.0) * tl.load(along_cols, mask=keep, other=0.0)
    is_stored = is_sample[:, None] & (units < weights_pitch)[None, :]  # zeros after the last unit
    tl.store(weights + samples[:, None] * weights_pitch + units[None, :], weight, mask=is_stored)


def weigh_units(
    recording: Recording,
    row_keys: Buffer,
    prototypes: Buffer,
    inverse_prototypes: Buffer,
    row_factors: Buffer,
    col_factors: Buffer,
    bmu: Buffer,
    weights: Buffer,
    factor_sums: Buffer,
    centre: Buffer,
) -> None:
    """Fills in the BMUs (B,) of the keys (B,), the weights (B, pitch) fp32 of factors (terms, R, R) and (terms, C, C), the sums
    (terms * R + terms * C,) fp64 of these, and the centre (D,) fp32."""
    (terms, rows, _), cols, batch, dim = row_factors.shape, col_factors.shape[1], bmu.shape[0], prototypes.shape[1]
    config = configs.weights()
    pairs = blocks(batch, config["BLOCK_B"]) * blocks(rows * cols, config["BLOCK_K"])
    recording.launch(
        weights_kernel,
        pairs + surveys.programs(terms, rows, cols, dim),
        row_keys,
        row_factors,
        col_factors,
        bmu,
        weights,
        prototypes,
        inverse_prototypes,
        factor_sums,
        centre,
        batch,
        rows,
        cols,
        dim,
        weights.shape[1],
        *prototypes.stride(),
        terms,
        **config.options(),
    )
