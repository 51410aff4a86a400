"""The BMU search: a matrix product on tensor cores whose epilogue is an argmax. No score leaves its program.

Two forms. *Streaming*: a program multiplies one tile of latents and prototypes, both read block by block of features; with few
tiles and many features, the features are split across programs and the last one to finish adds the parts up, in their order.
*Resident*: up to 256 features; a program keeps its latents in shared memory and streams all prototypes of its split past them,
with the running best of every place of the tile in registers, so that each prototype is read once per block of latents and
nothing is reduced across threads before the end.

A program does not mask: rows beyond the last are the last row again, which as a later index never wins.

Tensor cores cut off the low bits of what they add to, always towards zero. Where all features are alike, one chain of sums over
512 features loses 1e-6 of a cosine, and that of a prototype close by half as much: on an H200, BMUs were up to 5.5e-7 too far
away. So the streaming form adds up blocks of features that each begin at zero. The other form has 256 features at most; its
chains are left whole for time (1.04), and 1.2e-7 was the worst there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common import keys
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.configs import Config
from vitsom_fast.kernels.launch.device import blocks, multiprocessors
from vitsom_fast.kernels.launch.plan import Buffer, Recording
from vitsom_fast.kernels.search.prepare import Operands

# Features are split across programs in whole multiples of this.
FEATURES_A_SPLIT = tl.constexpr(512)


@triton.jit(do_not_specialize=["batch", "num_prototypes", "dim_splits"])
def search_streaming_kernel(
    z_high,  # [B, padded D], as prepare_kernel stores them
    z_low,
    prototypes_high,  # [K, padded D]
    prototypes_low,
    prototype_scale,  # [K] fp32
    bias_factor,  # [B] fp32, None unless BIASED
    bias,  # [K] fp32, None unless BIASED
    row_keys,  # [B] int64
    tickets,  # [tiles] int32, zeros
    partial,  # [dim_splits, tiles, BLOCK_B, BLOCK_K] fp32; not used where dim_splits is 1
    batch,
    num_prototypes,
    padded_dim,
    dim_splits,
    features_a_split,  # a multiple of FEATURES_A_SPLIT where dim_splits is not 1
    SPLIT: tl.constexpr,
    BIASED: tl.constexpr,  # whether the latent's number times the prototype's is added to a score
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    program = tl.program_id(0)
    dim_split = program % dim_splits
    tile = program // dim_splits
    batch_tiles = tl.cdiv(batch, BLOCK_B)
    # Programs that run at the same time share a tile of prototypes, the longer operand, in the second-level cache.
    rows = tile % batch_tiles * BLOCK_B + tl.arange(0, BLOCK_B)
    columns = tile // batch_tiles * BLOCK_K + tl.arange(0, BLOCK_K)
    first_feature = dim_split * features_a_split
    last_feature = tl.minimum(first_feature + features_a_split, padded_dim)
    z_offsets = tl.minimum(rows, batch - 1).to(tl.int64)[:, None] * padded_dim
    prototype_offsets = tl.minimum(columns, num_prototypes - 1).to(tl.int64)[None, :] * padded_dim

    score = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
    for start in range(first_feature, last_feature, BLOCK_D):
        features = start + tl.arange(0, BLOCK_D)
        z_at = z_offsets + features[None, :]
        prototypes_at = prototype_offsets + features[:, None]
        z_upper = tl.load(z_high + z_at)
        prototypes_upper = tl.load(prototypes_high + prototypes_at)
        part = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
        if SPLIT:
            part = tl.dot(tl.load(z_low + z_at), prototypes_upper, part)
            part = tl.dot(z_upper, tl.load(prototypes_low + prototypes_at), part)
        score += tl.dot(z_upper, prototypes_upper, part)

    if dim_splits > 1:
        place = tl.arange(0, BLOCK_B)[:, None] * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
        tiles = tl.num_programs(0) // dim_splits
        tl.store(partial + (dim_split * tiles + tile).to(tl.int64) * (BLOCK_B * BLOCK_K) + place, score)
        tl.debug_barrier()  # all threads have stored before one of them draws the ticket
        if tl.atomic_add(tickets + tile, 1) == dim_splits - 1:
            tl.debug_barrier()
            score = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
            for split in range(dim_splits):
                stored = partial + tl.cast(split * tiles + tile, tl.int64) * (BLOCK_B * BLOCK_K)
                score += tl.load(stored + place, cache_modifier=".cg")
            if BIASED:
                score = add_bias(score, bias_factor, bias, rows, columns, batch, num_prototypes)
            _keep_best(score, rows, columns, prototype_scale, row_keys, batch, num_prototypes, SPLIT)
    else:
        if BIASED:
            score = add_bias(score, bias_factor, bias, rows, columns, batch, num_prototypes)
        _keep_best(score, rows, columns, prototype_scale, row_keys, batch, num_prototypes, SPLIT)


@triton.jit
def add_bias(score, bias_factor, bias, rows, columns, batch, num_prototypes):
    """Scores [M, N] of these rows and columns, those beyond the last as the last."""
    factor = tl.load(bias_factor + tl.minimum(rows, batch - 1))
    return score + factor[:, None] * tl.load(bias + tl.minimum(columns, num_prototypes - 1))[None, :]


@triton.jit
def _keep_best(score, rows, columns, prototype_scale, row_keys, batch, num_prototypes, SPLIT: tl.constexpr):
    if not SPLIT:
        score *= tl.load(prototype_scale + tl.minimum(columns, num_prototypes - 1))[None, :]
    score = tl.where(score == score, score, float("-inf"))  # what is no number never wins
    best = tl.max(score, axis=1)
    column = tl.min(tl.where(score == best[:, None], columns[None, :], keys.LAST_INDEX), axis=1)
    column = tl.minimum(column, num_prototypes - 1)
    tl.atomic_max(row_keys + rows, keys.encode(best, column), mask=rows < batch, sem="relaxed")


@triton.jit(do_not_specialize=["batch", "num_prototypes", "tiles_a_split"])
def search_resident_kernel(
    z_high,  # [B, padded D]
    z_low,
    prototypes_high,  # [K, padded D]
    prototypes_low,
    prototype_scale,  # [K] fp32
    bias_factor,  # [B] fp32, None unless BIASED
    bias,  # [K] fp32, None unless BIASED
    row_keys,  # [B] int64
    batch,
    num_prototypes,
    padded_dim,  # BLOCKS * BLOCK_D
    tiles_a_split,
    SPLIT: tl.constexpr,
    BIASED: tl.constexpr,  # whether the latent's number times the prototype's is added to a score
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCKS: tl.constexpr,  # 1 to 4
):
    batch_tiles = tl.cdiv(batch, BLOCK_B)
    rows = tl.program_id(0) % batch_tiles * BLOCK_B + tl.arange(0, BLOCK_B)
    first_tile = tl.program_id(0) // batch_tiles * tiles_a_split
    last_tile = tl.minimum(first_tile + tiles_a_split, tl.cdiv(num_prototypes, BLOCK_K))
    z_at = tl.minimum(rows, batch - 1).to(tl.int64)[:, None] * padded_dim + tl.arange(0, BLOCK_D)[None, :]
    lanes = tl.arange(0, BLOCK_K)

    z_high_0 = tl.load(z_high + z_at)
    z_high_1 = tl.load(z_high + z_at + BLOCK_D) if BLOCKS > 1 else z_high_0
    z_high_2 = tl.load(z_high + z_at + 2 * BLOCK_D) if BLOCKS > 2 else z_high_0
    z_high_3 = tl.load(z_high + z_at + 3 * BLOCK_D) if BLOCKS > 3 else z_high_0
    z_low_0 = tl.load(z_low + z_at) if SPLIT else z_high_0
    z_low_1 = tl.load(z_low + z_at + BLOCK_D) if SPLIT and BLOCKS > 1 else z_high_0
    z_low_2 = tl.load(z_low + z_at + 2 * BLOCK_D) if SPLIT and BLOCKS > 2 else z_high_0
    z_low_3 = tl.load(z_low + z_at + 3 * BLOCK_D) if SPLIT and BLOCKS > 3 else z_high_0

    factor = tl.zeros([BLOCK_B], tl.float32)
    if BIASED:
        factor = tl.load(bias_factor + tl.minimum(rows, batch - 1))
    best = tl.full([BLOCK_B, BLOCK_K], float("-inf"), tl.float32)
    best_tile = tl.zeros([BLOCK_B, BLOCK_K], tl.int32) + first_tile
    for tile in range(first_tile, last_tile):
        columns = tl.minimum(tile * BLOCK_K + lanes, num_prototypes - 1)
        at = columns.to(tl.int64)[None, :] * padded_dim + tl.arange(0, BLOCK_D)[:, None]
        score = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
        score = _multiply(score, z_high_0, z_low_0, prototypes_high + at, prototypes_low + at, SPLIT)
        if BLOCKS > 1:
            at += BLOCK_D
            score = _multiply(score, z_high_1, z_low_1, prototypes_high + at, prototypes_low + at, SPLIT)
        if BLOCKS > 2:
            at += BLOCK_D
            score = _multiply(score, z_high_2, z_low_2, prototypes_high + at, prototypes_low + at, SPLIT)
        if BLOCKS > 3:
            at += BLOCK_D
            score = _multiply(score, z_high_3, z_low_3, prototypes_high + at, prototypes_low + at, SPLIT)
        if not SPLIT:
            score *= tl.load(prototype_scale + columns)[None, :]
        if BIASED:
            score += factor[:, None] * tl.load(bias + columns)[None, :]
        better = score > best  # never true of what is no number
        best = tl.where(better, score, best)
        best_tile = tl.where(better, tile, best_tile)

    highest = tl.max(best, axis=1)
    column = tl.min(tl.where(best == highest[:, None], best_tile * BLOCK_K + lanes[None, :], keys.LAST_INDEX), axis=1)
    column = tl.minimum(column, num_prototypes - 1)
    tl.atomic_max(row_keys + rows, keys.encode(highest, column), mask=rows < batch, sem="relaxed")


@triton.jit
def _multiply(score, z_high, z_low, prototypes_high, prototypes_low, SPLIT: tl.constexpr):
    """Adds one block of features to the scores, small products first."""
    prototypes_upper = tl.load(prototypes_high)
    if SPLIT:
        score = tl.dot(z_low, prototypes_upper, score)
        score = tl.dot(z_high, tl.load(prototypes_low), score)
    return tl.dot(z_high, prototypes_upper, score)


class Plan(NamedTuple):
    """How a search is shared out."""

    config: Config
    batch_tiles: int
    tiles: int  # of prototypes
    tiles_a_split: int  # resident
    features_a_split: int  # streaming
    dim_splits: int

    @property
    def num_tickets(self) -> int:
        """int32 zeros that the search needs."""
        return 0 if self.config.is_resident else self.batch_tiles * self.tiles


def plan_search(config: Config, batch: int, count: int, dim: int, device: torch.device) -> Plan:
    """The plan for z (B, D) and prototypes (K, D) in a given configuration."""
    batch_tiles, tiles = blocks(batch, config["BLOCK_B"]), blocks(count, config["BLOCK_K"])
    padded_dim = configs.padded_dim(dim)
    if config.is_resident:
        tiles_a_split = blocks(tiles, _even_splits(batch_tiles, tiles, multiprocessors(device)))
        return Plan(config, batch_tiles, tiles, tiles_a_split, padded_dim, 1)
    # Parts of scores are stored where features are split: no more of them than there are numbers in the inputs.
    wanted = 2 * multiprocessors(device) // (batch_tiles * tiles)
    affordable = (batch + count) * dim // (batch_tiles * tiles * config["BLOCK_B"] * config["BLOCK_K"])
    pieces = blocks(padded_dim, FEATURES_A_SPLIT.value)
    features_a_split = blocks(pieces, max(1, min(wanted, affordable, pieces))) * FEATURES_A_SPLIT.value
    return Plan(config, batch_tiles, tiles, 1, features_a_split, blocks(padded_dim, features_a_split))


def _even_splits(batch_tiles: int, tiles: int, multiprocessors: int) -> int:
    """Into how many parts to split the prototypes so that the last round of programs leaves few multiprocessors idle."""
    most = max(1, min(tiles, 2 * multiprocessors // batch_tiles))
    return min(range(1, most + 1), key=lambda splits: (blocks(batch_tiles * splits, multiprocessors) / splits, splits))


def search(
    recording: Recording,
    plan: Plan,
    operands: Operands,
    row_keys: Buffer,
    tickets: Buffer,
    bias: tuple[Buffer, Buffer] | None = None,
) -> None:
    """Raises the keys (B,) to those of the BMUs. The tickets are zeros and are used up. To each score is added the product of
    both its rows' numbers in ``bias``, of the latents (B,) and of the prototypes (K,)."""
    batch, padded_dim = operands.z_high.shape
    count, split, config = operands.prototypes_high.shape[0], operands.is_split, plan.config
    if config.is_resident:
        recording.launch(
            search_resident_kernel,
            plan.batch_tiles * blocks(plan.tiles, plan.tiles_a_split),
            *operands[:5],
            *(bias or (None, None)),
            row_keys,
            batch,
            count,
            padded_dim,
            plan.tiles_a_split,
            SPLIT=split,
            BIASED=bias is not None,
            **config.options(),
        )
        return
    scores = plan.batch_tiles * plan.tiles * config["BLOCK_B"] * config["BLOCK_K"]
    partial = recording.temporary((plan.dim_splits if plan.dim_splits > 1 else 0, scores), torch.float32)
    recording.launch(
        search_streaming_kernel,
        plan.batch_tiles * plan.tiles * plan.dim_splits,
        *operands[:5],
        *(bias or (None, None)),
        row_keys,
        tickets,
        partial,
        batch,
        count,
        padded_dim,
        plan.dim_splits,
        plan.features_a_split,
        SPLIT=split,
        BIASED=bias is not None,
        **config.options(),
    )
