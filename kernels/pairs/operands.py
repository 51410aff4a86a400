"""Latents and prototypes as the pairs read them: fp32, contiguous, with zeros up to whole tiles of rows and features.

They are multiplied with a power of two that brings the largest element to between 1 and 2: squares of what is 1e-19 of that
are fp32 numbers, too, whatever the unit of the data.

The units' features lie one after the other as well, so that a thread loads those of four units at once; a tile of samples is
read row by row, from addresses that the compiler knows but for their beginning.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common.unit import power_of_two
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks
from vitsom_fast.kernels.launch.plan import Buffer, Recording

# Programs that look for the largest element; every program after them goes through what they found.
_MOST_EXTENTS = 1024


@triton.jit(do_not_specialize=["batch", "count"])
def extent_kernel(
    z,  # [B, D], any strides
    prototypes,  # [K, D]
    extents,  # [programs] fp32
    batch,
    count,
    dim,
    z_stride,
    z_step,
    prototypes_stride,
    prototypes_step,
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The largest of all elements that are finite, of a share of the tiles a program."""
    dim_blocks, latent_tiles = tl.cdiv(dim, BLOCK_D), tl.cdiv(batch, TILE)
    largest = tl.zeros([TILE, BLOCK_D], tl.float32)
    for place in range(tl.program_id(0), (latent_tiles + tl.cdiv(count, TILE)) * dim_blocks, tl.num_programs(0)):
        features = place % dim_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
        tile = place // dim_blocks
        if tile < latent_tiles:
            x = _load(z, tile * TILE + tl.arange(0, TILE), features, batch, dim, z_stride, z_step)
        else:
            rows = (tile - latent_tiles) * TILE + tl.arange(0, TILE)
            x = _load(prototypes, rows, features, count, dim, prototypes_stride, prototypes_step)
        x = tl.abs(x)
        largest = tl.maximum(largest, tl.where(x < float("inf"), x, 0.0))
    tl.store(extents + tl.program_id(0), tl.max(largest))


@triton.jit(do_not_specialize=["batch", "count", "num_extents"])
def copy_kernel(
    z,  # [B, D], any strides
    prototypes,  # [K, D]
    extents,  # [num_extents] fp32
    latents,  # [padded B, padded D] fp32
    units,  # [padded K, padded D] fp32
    units_across,  # [padded D, padded K] fp32
    zeros,  # [TILE, TILE] fp32
    unit,  # fp32
    batch,
    count,
    num_extents,
    dim,
    padded_dim,
    pitch,  # padded K
    z_stride,
    z_step,
    prototypes_stride,
    prototypes_step,
    ALONG: tl.constexpr,  # whether the units are wanted in rows,
    ACROSS: tl.constexpr,  # and in columns
    TILE: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A tile of rows and some features a program, latents first; the first stores zeros and unit."""
    program = tl.program_id(0)
    largest = tl.zeros([1024], tl.float32)
    for first in range(0, num_extents, 1024):
        at = first + tl.arange(0, 1024)
        largest = tl.maximum(largest, tl.load(extents + at, mask=at < num_extents, other=0.0))
    exponent = (tl.max(largest).to(tl.int32, bitcast=True) >> 23) - 127
    scale = power_of_two(-exponent)
    if program == 0:
        tl.store(unit, power_of_two(exponent))
        place = tl.arange(0, TILE)[:, None] * TILE + tl.arange(0, TILE)[None, :]
        tl.store(zeros + place, tl.zeros([TILE, TILE], tl.float32))
    dim_blocks = tl.cdiv(padded_dim, BLOCK_D)
    features = program % dim_blocks * BLOCK_D + tl.arange(0, BLOCK_D)
    is_stored = features < padded_dim
    tile = program // dim_blocks
    latent_tiles = tl.cdiv(batch, TILE)
    if tile < latent_tiles:
        rows = tile * TILE + tl.arange(0, TILE)
        x = _load(z, rows, features, batch, dim, z_stride, z_step) * scale
        tl.store(latents + rows.to(tl.int64)[:, None] * padded_dim + features[None, :], x, mask=is_stored[None, :])
    else:
        rows = (tile - latent_tiles) * TILE + tl.arange(0, TILE)
        x = _load(prototypes, rows, features, count, dim, prototypes_stride, prototypes_step) * scale
        if ALONG:
            tl.store(units + rows.to(tl.int64)[:, None] * padded_dim + features[None, :], x, mask=is_stored[None, :])
        if ACROSS:
            at = features.to(tl.int64)[:, None] * pitch + rows[None, :]
            tl.store(units_across + at, tl.trans(x), mask=is_stored[:, None])


@triton.jit
def _load(x, rows, features, count, dim, stride, step):
    at = rows.to(tl.int64)[:, None] * stride + features.to(tl.int64)[None, :] * step
    return tl.load(x + at, mask=(rows < count)[:, None] & (features < dim)[None, :], other=0.0).to(tl.float32)


class Operands(NamedTuple):
    """What ``copy`` makes. Of the units only what was asked for is filled in."""

    latents: Buffer  # [padded B, padded D]
    units: Buffer  # [padded K, padded D]
    units_across: Buffer  # [padded D, padded K]
    zeros: Buffer  # [TILE, TILE]: the distances before there are any
    unit: Buffer  # (): what these numbers are counted in


def copy(recording: Recording, z: Buffer, prototypes: Buffer, along: bool, across: bool) -> Operands:
    """Of latents (B, D) and prototypes (K, D), these in rows or in columns or both."""
    (batch, dim), count = z.shape, prototypes.shape[0]
    padded_dim = configs.pair_dim(dim)
    latent_tiles, unit_tiles = blocks(batch, configs.PAIR_TILE), blocks(count, configs.PAIR_TILE)
    pitch = unit_tiles * configs.PAIR_TILE
    config = configs.pair_copy(dim)
    operands = Operands(
        recording.temporary((latent_tiles * configs.PAIR_TILE, padded_dim), torch.float32),
        recording.temporary((pitch if along else 0, padded_dim), torch.float32),
        recording.temporary((padded_dim, pitch if across else 0), torch.float32),
        recording.temporary((configs.PAIR_TILE, configs.PAIR_TILE), torch.float32),
        recording.temporary((), torch.float32),
    )
    strides = *z.stride(), *prototypes.stride()
    tiles = (latent_tiles + unit_tiles) * blocks(padded_dim, config["BLOCK_D"])
    extents = recording.temporary((min(tiles, _MOST_EXTENTS),), torch.float32)
    recording.launch(extent_kernel, extents.shape[0], z, prototypes, extents, batch, count, dim, *strides, **config.options())
    recording.launch(
        copy_kernel,
        tiles,
        z,
        prototypes,
        extents,
        *operands,
        batch,
        count,
        extents.shape[0],
        dim,
        padded_dim,
        pitch,
        *strides,
        ALONG=along,
        ACROSS=across,
        **config.options(),
    )
    return operands
