"""Gradients of the losses under distances that do not factorise: how hard each pair pulls, then in which directions.

A sample pulls on a unit, and the unit on it, with ``p = g h / d`` along their difference (Euclidean), or with ``p = g h`` along
every feature that differs (Manhattan). The pulls of as many pairs as there is memory for are made in one launch; two more go
through them, along rows for the latents and along columns for the prototypes, and add up ``p (x - v)`` or ``p sign(x - v)``.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family, multiprocessors
from vitsom_fast.kernels.launch.plan import Buffer, Recording
from vitsom_fast.kernels.pairs import tile as tiles
from vitsom_fast.kernels.pairs.operands import copy
from vitsom_fast.kernels.pairs.parts import add_up
from vitsom_fast.kernels.pairs.tile import STEPS

# Pulls that are kept at a time: for each element of the inputs, and at least.
_PULLS, _FEWEST_PULLS = 2, 1 << 21
# Parts that a sum is split into at most.
_MOST_SPLITS = 8


@triton.jit(do_not_specialize=["batch", "terms", "first_sample_tile", "first_unit_tile", "sample_tiles"])
def pulls_kernel(
    latents,  # [padded B, padded D] fp32
    units_across,  # [padded D, padded K] fp32; not used for Manhattan distances
    zeros,  # [TILE, TILE] fp32
    grad_losses,  # [B] fp32 or fp64
    bmu,  # [B] int64
    row_factors,  # [terms, R, R] fp32
    col_factors,  # [terms, C, C] fp32
    along,  # [samples, units] fp32 of this chunk
    across,  # [units, samples] fp32
    batch,
    rows,
    cols,
    terms,
    padded_dim,
    pitch,  # padded K
    first_sample_tile,
    first_unit_tile,
    sample_tiles,
    along_pitch,
    across_pitch,
    grad_step,
    MANHATTAN: tl.constexpr,
    ALONG: tl.constexpr,
    ACROSS: tl.constexpr,
    TILE: tl.constexpr,
):
    """A tile of pairs a program; 0 for what is beyond the last sample or unit."""
    row_tile, column_tile = tl.program_id(0) % sample_tiles, tl.program_id(0) // sample_tiles
    lanes = tl.arange(0, TILE)
    row, column = row_tile * TILE + lanes, column_tile * TILE + lanes
    # Multiples of a tile, for the compiler to know that features of units are aligned.
    samples = ((first_sample_tile + row_tile) * TILE + lanes).to(tl.int64)
    units = ((first_unit_tile + column_tile) * TILE + lanes).to(tl.int64)
    if MANHATTAN:
        pull = tiles.weights(row_factors, col_factors, bmu, samples, units, batch, rows, cols, terms)
    else:
        distance = tiles.distances(latents, units_across, zeros, samples, units, padded_dim, pitch, False, TILE)
        pull = tiles.weights(row_factors, col_factors, bmu, samples, units, batch, rows, cols, terms)
        pull = tl.where(distance == 0, 0.0, pull / tl.where(distance == 0, 1.0, distance))
    grad = tl.load(grad_losses + samples * grad_step, mask=samples < batch, other=0.0)
    pull *= grad.to(tl.float32)[:, None]
    if ALONG:
        tl.store(along + row.to(tl.int64)[:, None] * along_pitch + column[None, :], pull)
    if ACROSS:
        tl.store(across + column.to(tl.int64)[:, None] * across_pitch + row[None, :], tl.trans(pull))


@triton.jit(do_not_specialize=["row_tiles", "steps_a_split"])
def pulled_kernel(
    own,  # [padded rows, padded D] fp32, from the first of this chunk on
    others,  # [padded others, padded D] fp32, as well
    pulls,  # [rows, others] fp32
    parts,  # [splits, padded rows, padded D] fp32, from the first of this chunk on
    row_tiles,
    num_others,  # of this chunk, a multiple of TILE
    padded_dim,
    parts_pitch,
    steps_a_split,  # a multiple of TILE
    MANHATTAN: tl.constexpr,
    IS_FIRST: tl.constexpr,  # whether nothing is stored there yet
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """``sum over others of pull * (own - other)``, or ``pull * sign(own - other)``."""
    program = tl.program_id(0)
    row = (program % row_tiles * TILE + tl.arange(0, TILE)).to(tl.int64)[:, None]
    program = program // row_tiles
    dim_blocks = tl.cdiv(padded_dim, BLOCK_D)
    features = (program % dim_blocks * BLOCK_D + tl.arange(0, BLOCK_D))[None, :]
    split = program // dim_blocks
    is_feature = features < padded_dim
    place = row * padded_dim + features
    x = tl.load(own + place, mask=is_feature, other=0.0)

    first = split * steps_a_split
    pull_at = pulls + row * num_others + first
    other_at = others + tl.cast(first, tl.int64) * padded_dim + features
    total = tl.zeros_like(x)
    for _ in range(first, tl.minimum(first + steps_a_split, num_others), STEPS):
        part = tl.zeros_like(x)  # sums that begin at zero every now and then round less
        for step in tl.static_range(STEPS):
            pull = tl.load(pull_at + step)
            difference = x - tl.load(other_at + step * padded_dim, mask=is_feature, other=0.0)
            if MANHATTAN:
                part += tl.where(difference > 0, pull, tl.where(difference < 0, -pull, 0.0))
            else:
                part = tl.fma(pull + tl.zeros_like(x), difference, part)
        total += part
        pull_at += STEPS
        other_at += STEPS * padded_dim
    parts += tl.cast(split, tl.int64) * parts_pitch
    if not IS_FIRST:
        total += tl.load(parts + place, mask=is_feature, other=0.0)
    tl.store(parts + place, total, mask=is_feature)


class Chunk(NamedTuple):
    """Samples and units whose pulls are kept at the same time; whole tiles but for what is beyond the last."""

    samples: int
    units: int


def chunk_size(batch: int, count: int, dim: int) -> Chunk:
    """As many pairs as are to be kept at a time, with about as many samples as units."""
    pairs = max(_FEWEST_PULLS, _PULLS * (batch + count) * dim)
    units = blocks(count, configs.PAIR_TILE) * configs.PAIR_TILE
    samples = _even(batch, max(math.isqrt(pairs), pairs // units))
    return Chunk(samples, _even(count, pairs // samples))


def _even(count: int, most: int) -> int:
    """A size of tiles for about even parts of a count, none of them larger than ``most`` where that is a tile or more."""
    parts = blocks(blocks(count, configs.PAIR_TILE), max(1, most // configs.PAIR_TILE))
    return blocks(blocks(count, configs.PAIR_TILE), parts) * configs.PAIR_TILE


class Sums:
    """What all rows of one side get from chunk after chunk of the other."""

    def __init__(self, recording: Recording, rows: Buffer, chunk: int, others: int, wanted: bool) -> None:
        """Of rows (padded rows, padded D), so many of them and so many others at a time."""
        self.config = configs.pulled(family(rows.device), rows.shape[1])
        programs = chunk // configs.PAIR_TILE * blocks(rows.shape[1], self.config["BLOCK_D"])
        splits = min(_MOST_SPLITS, blocks(configs.PAIR_PROGRAMS * multiprocessors(rows.device), programs))
        self.steps_a_split = blocks(others // configs.PAIR_TILE, splits) * configs.PAIR_TILE
        shape = (blocks(others, self.steps_a_split), *rows.shape)
        self.parts = recording.temporary(shape if wanted else (0, 0, 0), torch.float32)

    def add(
        self, recording: Recording, rows: Buffer, others: Buffer, pulls: Buffer, first: int, manhattan: bool, is_first: bool
    ) -> None:
        """The pulls of some others on the rows from ``first`` on."""
        (count, padded_dim), (splits, padded_rows, _) = rows.shape, self.parts.shape
        offset = first * padded_dim
        recording.launch(
            pulled_kernel,
            count // configs.PAIR_TILE * blocks(padded_dim, self.config["BLOCK_D"]) * splits,
            rows,
            others,
            pulls,
            self.parts.part(offset, (self.parts.numel() - offset,), torch.float32),
            count // configs.PAIR_TILE,
            others.shape[0],
            padded_dim,
            padded_rows * padded_dim,
            self.steps_a_split,
            MANHATTAN=manhattan,
            IS_FIRST=is_first,
            **self.config.options(),
        )


def gradients(
    recording: Recording,
    grad_losses: Buffer,
    z: Buffer,
    prototypes: Buffer,
    bmu: Buffer,
    row_factors: Buffer,
    col_factors: Buffer,
    distance: str,
    for_z: bool,
    for_prototypes: bool,
) -> None:
    """Results: gradients (B, D) and (K, D) in the dtype of their input, for those of the losses (B,); an empty tensor for one
    that is not asked for."""
    (batch, dim), (terms, rows, _), cols = z.shape, row_factors.shape, col_factors.shape[1]
    count, padded_dim, manhattan = rows * cols, configs.pair_dim(dim), distance == "manhattan"
    grad_z = recording.result(z.shape if for_z else (0,), z.dtype)
    grad_prototypes = recording.result(prototypes.shape if for_prototypes else (0,), prototypes.dtype)
    operands = copy(recording, z, prototypes, along=True, across=not manhattan)
    chunk = chunk_size(batch, count, dim)
    kept = math.prod(chunk)
    along, across = (recording.temporary((kept if wanted else 0,), torch.float32) for wanted in (for_z, for_prototypes))
    of_latents = Sums(recording, operands.latents, *chunk, for_z)
    of_units = Sums(recording, operands.units, *chunk[::-1], for_prototypes)
    for first_sample, first_unit in itertools.product(range(0, batch, chunk.samples), range(0, count, chunk.units)):
        samples = min(chunk.samples, operands.latents.shape[0] - first_sample)
        units = min(chunk.units, operands.units.shape[0] - first_unit)
        recording.launch(
            pulls_kernel,
            samples * units // configs.PAIR_TILE**2,
            operands.latents,
            operands.units_across,
            operands.zeros,
            grad_losses,
            bmu,
            row_factors,
            col_factors,
            along,
            across,
            batch,
            rows,
            cols,
            terms,
            padded_dim,
            operands.units.shape[0],
            first_sample // configs.PAIR_TILE,
            first_unit // configs.PAIR_TILE,
            samples // configs.PAIR_TILE,
            units,
            samples,
            *grad_losses.stride(),
            MANHATTAN=manhattan,
            ALONG=for_z,
            ACROSS=for_prototypes,
            **configs.pairs(family(z.device)).options(),
        )
        latents = operands.latents.part(first_sample * padded_dim, (samples, padded_dim), torch.float32)
        others = operands.units.part(first_unit * padded_dim, (units, padded_dim), torch.float32)
        if for_z:
            of_latents.add(recording, latents, others, along, first_sample, manhattan, first_unit == 0)
        if for_prototypes:
            of_units.add(recording, others, latents, across, first_unit, manhattan, first_sample == 0)
    if for_z:
        add_up(recording, of_latents.parts, grad_z)
    if for_prototypes:
        add_up(recording, of_units.parts, grad_prototypes)
