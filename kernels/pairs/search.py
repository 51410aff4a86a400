"""The nearest one or two units by distances that are no products: every pair, and no distance leaves its program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common import keys
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks, family, multiprocessors
from vitsom_fast.kernels.launch.plan import Buffer, Recording
from vitsom_fast.kernels.pairs import tile as tiles
from vitsom_fast.kernels.pairs.operands import copy


@triton.jit(do_not_specialize=["batch", "count", "tiles_a_split"])
def pair_search_kernel(
    latents,  # [padded B, padded D] fp32
    units_across,  # [padded D, padded K] fp32
    zeros,  # [TILE, TILE] fp32
    best_keys,  # [splits, 2, padded B] int64, of the nearest and the second
    batch,
    count,
    padded_dim,
    pitch,
    tiles_a_split,
    MANHATTAN: tl.constexpr,
    TWO: tl.constexpr,
    TILE: tl.constexpr,
):
    """A tile of samples and some tiles of units a program."""
    sample_tiles = tl.cdiv(batch, TILE)
    sample_tile, split = tl.program_id(0) % sample_tiles, tl.program_id(0) // sample_tiles
    samples = (sample_tile * TILE + tl.arange(0, TILE)).to(tl.int64)
    first_tile = split * tiles_a_split
    first, second = keys.lowest(samples), keys.lowest(samples)
    for tile in range(first_tile, tl.minimum(first_tile + tiles_a_split, pitch // TILE)):
        units = tile * TILE + tl.arange(0, TILE)
        distance = tiles.distances(
            latents, units_across, zeros, samples, units.to(tl.int64), padded_dim, pitch, MANHATTAN, TILE
        )
        # What is no number, or no unit, is never nearer than what is.
        distance = tl.where((distance == distance) & (units < count)[None, :], distance, float("inf"))
        key, place = _nearest(distance, units, count)
        if TWO:
            other, _ = _nearest(tl.where(units[None, :] == place[:, None], float("inf"), distance), units, count)
            second = tl.maximum(tl.minimum(first, key), tl.maximum(second, other))
        first = tl.maximum(first, key)
    at = best_keys + tl.cast(split, tl.int64) * (2 * sample_tiles * TILE) + samples
    tl.store(at, first)
    if TWO:
        tl.store(at + sample_tiles * TILE, second)


@triton.jit
def _nearest(distance, units, count):
    """Key and unit of the least distance in each row, the lowest index on ties."""
    least = tl.min(distance, axis=1)
    place = tl.min(tl.where(distance == least[:, None], units[None, :], keys.LAST_INDEX), axis=1)
    return keys.encode(-least, tl.minimum(place, count - 1)), place


@triton.jit(do_not_specialize=["batch", "count", "splits"])
def merge_keys_kernel(
    best_keys,  # [splits, 2, padded B] int64
    unit,  # fp32
    nearest,  # [B, k] int64
    distance,  # [B, k] fp32
    batch,
    count,
    splits,
    padded_batch,
    SQUARED: tl.constexpr,
    TWO: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Units and distances; NaN for what is not finite, or not there."""
    samples = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_sample = samples < batch
    best_keys += samples.to(tl.int64)
    first, second = keys.lowest(samples), keys.lowest(samples)
    for _ in range(splits):
        key = tl.load(best_keys, mask=is_sample, other=0)
        if TWO:
            other = tl.load(best_keys + padded_batch, mask=is_sample, other=0)
            second = tl.maximum(tl.minimum(first, key), tl.maximum(second, other))
        first = tl.maximum(first, key)
        best_keys += 2 * padded_batch
    step = 2 if TWO else 1
    _store(first, unit, nearest + samples * step, distance + samples * step, is_sample, count, SQUARED)
    if TWO:
        _store(second, unit, nearest + samples * 2 + 1, distance + samples * 2 + 1, is_sample, count, SQUARED)


@triton.jit
def _store(key, unit, nearest, distance, is_sample, count, SQUARED: tl.constexpr):
    ordered = (key >> 32).to(tl.int32)
    score = (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    far = -score * tl.load(unit)
    far = tl.where(far < float("inf"), far * far if SQUARED else far, float("nan"))
    tl.store(nearest, tl.minimum(keys.decode_index(key), count - 1).to(tl.int64), mask=is_sample)
    tl.store(distance, far, mask=is_sample)


def search(recording: Recording, z: Buffer, prototypes: Buffer, distance: str, k: int) -> None:
    """Results: units (B, k) int64, the nearest first and the lowest index on ties, and distances (B, k) fp32, "sqeuclidean",
    "euclidean" or "manhattan", of latents (B, D) and prototypes (K, D), for k of 1 or 2."""
    (batch, dim), count = z.shape, prototypes.shape[0]
    nearest = recording.result((batch, k), torch.int64)
    far = recording.result((batch, k), torch.float32)
    operands = copy(recording, z, prototypes, along=False, across=True)
    sample_tiles, unit_tiles = blocks(batch, configs.PAIR_TILE), blocks(count, configs.PAIR_TILE)
    tiles_a_split = blocks(unit_tiles, blocks(configs.PAIR_PROGRAMS * multiprocessors(z.device), sample_tiles))
    splits, padded_batch = blocks(unit_tiles, tiles_a_split), sample_tiles * configs.PAIR_TILE
    best_keys = recording.temporary((splits, 2, padded_batch), torch.int64)
    recording.launch(
        pair_search_kernel,
        sample_tiles * splits,
        operands.latents,
        operands.units_across,
        operands.zeros,
        best_keys,
        batch,
        count,
        configs.pair_dim(dim),
        unit_tiles * configs.PAIR_TILE,
        tiles_a_split,
        MANHATTAN=distance == "manhattan",
        TWO=k == 2,
        **configs.pairs(family(z.device)).options(),
    )
    config = configs.merge_keys()
    recording.launch(
        merge_keys_kernel,
        blocks(batch, config["BLOCK"]),
        best_keys,
        operands.unit,
        nearest,
        far,
        batch,
        count,
        splits,
        padded_batch,
        SQUARED=distance == "sqeuclidean",
        TWO=k == 2,
        **config.options(),
    )
