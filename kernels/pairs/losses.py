"""The loss of each sample: the weighted sum of its distances from all units, none of which leaves its program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family, multiprocessors
from vitsom_fast.kernels.launch.plan import Buffer, Recording
from vitsom_fast.kernels.pairs import tile as tiles
from vitsom_fast.kernels.pairs.operands import copy
from vitsom_fast.kernels.pairs.parts import add_up


@triton.jit(do_not_specialize=["batch", "terms", "tiles_a_split"])
def pair_losses_kernel(
    latents,  # [padded B, padded D] fp32
    units_across,  # [padded D, padded K] fp32
    zeros,  # [TILE, TILE] fp32
    unit,  # fp32
    bmu,  # [B] int64
    row_factors,  # [terms, R, R] fp32
    col_factors,  # [terms, C, C] fp32
    parts,  # [splits, padded B] fp64
    batch,
    rows,
    cols,
    terms,
    padded_dim,
    pitch,
    tiles_a_split,
    MANHATTAN: tl.constexpr,
    TILE: tl.constexpr,
):
    """A tile of samples and some tiles of units a program."""
    sample_tiles = tl.cdiv(batch, TILE)
    sample_tile, split = tl.program_id(0) % sample_tiles, tl.program_id(0) // sample_tiles
    samples = (sample_tile * TILE + tl.arange(0, TILE)).to(tl.int64)
    first = split * tiles_a_split
    lost = tl.zeros([TILE], tl.float64)
    for tile in range(first, tl.minimum(first + tiles_a_split, pitch // TILE)):
        units = (tile * TILE + tl.arange(0, TILE)).to(tl.int64)
        distance = tiles.distances(latents, units_across, zeros, samples, units, padded_dim, pitch, MANHATTAN, TILE)
        weight = tiles.weights(row_factors, col_factors, bmu, samples, units, batch, rows, cols, terms)
        lost += tl.sum(weight * distance, axis=1).to(tl.float64)
    tl.store(parts + tl.cast(split, tl.int64) * (sample_tiles * TILE) + samples, lost * tl.load(unit))


def losses(
    recording: Recording,
    z: Buffer,
    prototypes: Buffer,
    bmu: Buffer,
    row_factors: Buffer,
    col_factors: Buffer,
    distance: str,
) -> None:
    """Result: (B,) fp64, ``sum_k h_bk d(z_i, w_k)`` of latents (B, D), prototypes (K, D), BMUs (B,), and factors (terms, R, R)
    and (terms, C, C)."""
    (batch, dim), (terms, rows, _), cols = z.shape, row_factors.shape, col_factors.shape[1]
    result = recording.result((batch,), torch.float64)
    operands = copy(recording, z, prototypes, along=False, across=True)
    sample_tiles, unit_tiles = blocks(batch, configs.PAIR_TILE), blocks(rows * cols, configs.PAIR_TILE)
    tiles_a_split = blocks(unit_tiles, blocks(configs.PAIR_PROGRAMS * multiprocessors(z.device), sample_tiles))
    splits = blocks(unit_tiles, tiles_a_split)
    parts = recording.temporary((splits, sample_tiles * configs.PAIR_TILE, 1), torch.float64)
    recording.launch(
        pair_losses_kernel,
        sample_tiles * splits,
        operands.latents,
        operands.units_across,
        operands.zeros,
        operands.unit,
        bmu,
        row_factors,
        col_factors,
        parts,
        batch,
        rows,
        cols,
        terms,
        configs.pair_dim(dim),
        unit_tiles * configs.PAIR_TILE,
        tiles_a_split,
        MANHATTAN=distance == "manhattan",
        **configs.pairs(family(z.device)).options(),
    )
    add_up(recording, parts, result)
