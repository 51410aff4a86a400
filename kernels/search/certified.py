"""The other exact search of fp32 rows: one product of the upper halves, and a certificate for what it may have missed.

A score of the upper halves is off by at most ``|z^ - upper z| + |w^ - upper w|`` (Cauchy and Schwarz, of vectors no longer
than 1). The first pass keeps the best such score of every group of 32 prototypes; the second scores, with both halves, the
groups that come within twice that bound of a sample's best. On random data with 192 features and 16384 prototypes that is 1.1
groups a sample. One product and the groups cost about as much as two products, against three of the split search, where few
groups come close.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common import keys
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family
from vitsom_fast.kernels.launch.plan import Buffer, Recording
from vitsom_fast.kernels.search.prepare import UNIT, Operands
from vitsom_fast.kernels.search.search import add_bias

# Sums of this many features start from zero before they are added up in fp32: tensor cores cut off low bits of long sums.
FEATURES_A_SUM = tl.constexpr(512)
GROUP = tl.constexpr(32)
# |w^ - upper w| of a unit vector: half of fp16's last place, and a little for sums in fp32 and for elements below 2^-26.
HALF_ERROR = tl.constexpr(2.0**-11 + 2.0**-16)


@triton.jit(do_not_specialize=["batch", "num_prototypes", "groups"])
def group_maxima_kernel(
    z_high,  # [B, padded D] fp16
    prototypes_high,  # [K, padded D] fp16
    bias_factor,  # [B] fp32, as search.py adds it, None unless BIASED
    bias,  # [K] fp32
    maxima,  # [B, groups] fp32; -inf where no score is a number
    batch,
    num_prototypes,
    padded_dim,
    groups,
    BIASED: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    batch_tiles = tl.cdiv(batch, BLOCK_B)
    rows = tl.program_id(0) % batch_tiles * BLOCK_B + tl.arange(0, BLOCK_B)
    tile = tl.program_id(0) // batch_tiles
    columns = tl.minimum(tile * BLOCK_K + tl.arange(0, BLOCK_K), num_prototypes - 1)
    z_offsets = tl.minimum(rows, batch - 1).to(tl.int64)[:, None] * padded_dim
    prototype_offsets = columns.to(tl.int64)[None, :] * padded_dim
    score = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
    for first in range(0, padded_dim, FEATURES_A_SUM):
        part = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
        for start in range(first, tl.minimum(first + FEATURES_A_SUM, padded_dim), BLOCK_D):
            features = start + tl.arange(0, BLOCK_D)
            latents = tl.load(z_high + z_offsets + features[None, :])
            part = tl.dot(latents, tl.load(prototypes_high + prototype_offsets + features[:, None]), part)
        score += part
    if BIASED:
        score = add_bias(score, bias_factor, bias, rows, columns, batch, num_prototypes)
    score = tl.where(score == score, score, float("-inf"))
    best = tl.max(tl.reshape(score, [BLOCK_B, BLOCK_K // GROUP, GROUP]), axis=2)
    at = tile * (BLOCK_K // GROUP) + tl.arange(0, BLOCK_K // GROUP)
    keep = (rows < batch)[:, None] & (at < groups)[None, :]
    tl.store(maxima + rows.to(tl.int64)[:, None] * groups + at[None, :], best, mask=keep)


@triton.jit(do_not_specialize=["num_prototypes", "groups"])
def rescore_kernel(
    z_high,  # [B, padded D] fp16
    z_low,
    prototypes_high,  # [K, padded D] fp16
    prototypes_low,
    bias_factor,  # [B] fp32, None unless BIASED
    bias,  # [K] fp32
    maxima,  # [B, groups] fp32
    row_keys,  # [B] int64
    num_prototypes,
    padded_dim,
    groups,
    BIASED: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A program a sample."""
    row = tl.program_id(0).to(tl.int64)
    maxima += row * groups
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for first in range(0, groups, BLOCK):
        at = first + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.load(maxima + at, mask=at < groups, other=float("-inf")))
    squares = tl.zeros([BLOCK_D], tl.float32)
    for first in range(0, padded_dim, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)
        low = tl.load(z_low + row * padded_dim + features, mask=features < padded_dim, other=0.0).to(tl.float32) / UNIT
        squares += low * low
    bound = tl.sqrt(tl.sum(squares)) + HALF_ERROR
    threshold = tl.max(best) - 2.0 * bound * UNIT * UNIT

    key = keys.lowest(row)
    for first in range(0, groups, BLOCK):
        at = first + tl.arange(0, BLOCK)
        is_near = tl.load(maxima + at, mask=at < groups, other=float("nan")) >= threshold
        group = tl.min(tl.where(is_near, at, groups))
        while group < groups:
            columns = group * GROUP + tl.arange(0, GROUP)
            offsets = tl.minimum(columns, num_prototypes - 1).to(tl.int64)[:, None] * padded_dim
            products = tl.zeros([GROUP, BLOCK_D], tl.float32)
            for start in range(0, padded_dim, BLOCK_D):
                features = start + tl.arange(0, BLOCK_D)[None, :]
                inside = features < padded_dim
                z_at, prototypes_at = row * padded_dim + features, offsets + features
                latent = tl.load(z_high + z_at, mask=inside, other=0.0).to(tl.float32)
                latent += tl.load(z_low + z_at, mask=inside, other=0.0).to(tl.float32)
                prototype = tl.load(prototypes_high + prototypes_at, mask=inside, other=0.0).to(tl.float32)
                prototype += tl.load(prototypes_low + prototypes_at, mask=inside, other=0.0).to(tl.float32)
                products += latent * prototype
            score = tl.sum(products, axis=1)
            if BIASED:
                score += tl.load(bias_factor + row) * tl.load(bias + tl.minimum(columns, num_prototypes - 1))
            score = tl.where(score == score, score, float("-inf"))
            key = tl.maximum(key, tl.max(keys.encode(score, tl.minimum(columns, num_prototypes - 1))))
            group = tl.min(tl.where(is_near & (at > group), at, groups))
    tl.store(row_keys + row, key)


def is_affordable(batch: int, count: int, dim: int) -> bool:
    """Whether the maxima take no more memory than the inputs."""
    return batch * blocks(count, GROUP.value) <= (batch + count) * dim


def search_certified(
    recording: Recording, operands: Operands, row_keys: Buffer, bias: tuple[Buffer, Buffer] | None = None
) -> None:
    """Sets the keys (B,) to those of the BMUs; the operands are split, and ``bias`` is as in ``search``."""
    biases = {"BIASED": bias is not None}
    of_both = bias or (None, None)
    (batch, padded_dim), count = operands.z_high.shape, operands.prototypes_high.shape[0]
    groups = blocks(count, GROUP.value)
    maxima = recording.temporary((batch, groups), torch.float32)
    config = configs.group_maxima(family(row_keys.device), padded_dim)
    recording.launch(
        group_maxima_kernel,
        blocks(batch, config["BLOCK_B"]) * blocks(count, config["BLOCK_K"]),
        operands.z_high,
        operands.prototypes_high,
        *of_both,
        maxima,
        batch,
        count,
        padded_dim,
        groups,
        **biases,
        **config.options(),
    )
    config = configs.rescore()
    rest = maxima, row_keys, count, padded_dim, groups
    recording.launch(rescore_kernel, batch, *operands[:4], *of_both, *rest, **biases, **config.options())
