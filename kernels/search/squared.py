"""The search by squared Euclidean distance: the products of the search by cosine, and a number of each prototype more.

``|z - w|^2`` is least where ``z . w - |w|^2 / 2`` is largest, of z and w as seen from any centre. In units of ``t M``, with M a
power of two above the longest prototype and t the larger of M and one above ``|z|``, that is ``z/t . w/M + c (|w| / M)^2`` with
``c = -M / (2 t)``: rows of length 1 at most, as the kernels take them, and all that is rounded is in proportion to ``t M``. So
one multiply-add a score takes the place of rows that are lifted by six features, which made 192 of them 256 for whole blocks,
and of 136 operations of PyTorch that lifted them and measured the distance (docs/experiments.md).

Centre and rows are subtracted in fp64: no digit is lost far from the origin.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from vitsom_fast.kernels.common import keys
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks
from vitsom_fast.kernels.launch.plan import Buffer, Recording
from vitsom_fast.kernels.search.prepare import UNIT, Operands

SAMPLE = tl.constexpr(16)  # prototypes all over the map, of which the centre is the mean
# Programs that look for the longest prototype; every program after them goes through what they found.
_MOST_PROGRAMS = 1024


@triton.jit(do_not_specialize=["count"])
def longest_kernel(
    prototypes,  # [K, D], any strides
    centre,  # [D] fp32
    exponents,  # [programs] int32
    count,
    dim,
    stride,
    step,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The centre, and of a share of the prototypes the exponent of the longest as seen from it; those that are not finite are
    left out. Every program makes the centre, the first one stores it."""
    sample = (tl.arange(0, SAMPLE).to(tl.int64) * count // SAMPLE)[:, None] * stride
    longest = tl.full([ROWS], _LEAST, tl.int32)
    for block in range(tl.program_id(0), tl.cdiv(count, ROWS), tl.num_programs(0)):
        rows = block * ROWS + tl.arange(0, ROWS)
        is_row = (rows < count)[:, None]
        source = prototypes + rows.to(tl.int64)[:, None] * stride
        squares = tl.zeros([ROWS, BLOCK_D], tl.float64)
        for first in range(0, dim, BLOCK_D):
            features = (first + tl.arange(0, BLOCK_D)[None, :]).to(tl.int64)
            some = tl.load(prototypes + sample + features * step, mask=features < dim, other=0.0).to(tl.float32)
            some = tl.where(tl.abs(some) < float("inf"), some, 0.0)
            middle = tl.sum(some * (1 / SAMPLE), axis=0)
            if block == 0:
                tl.store(centre + first + tl.arange(0, BLOCK_D), middle, mask=first + tl.arange(0, BLOCK_D) < dim)
            x = tl.load(source + features * step, mask=is_row & (features < dim), other=0.0).to(tl.float64)
            x = tl.where(is_row & (features < dim), x - middle.to(tl.float64)[None, :], 0.0)
            squares += x * x
        longest = tl.maximum(longest, _exponent_above(tl.sqrt(tl.sum(squares, axis=1)), _LEAST))
    tl.store(exponents + tl.program_id(0), tl.max(longest))


# An exponent that stands for no length at all: 2^_LEAST and its reciprocal are fp64 numbers.
_LEAST = tl.constexpr(-1000)


@triton.jit
def _exponent_above(norm, of_others: tl.constexpr):
    """The exponent of the power of two above each norm in fp64; of what is not finite, that of the others."""
    exponent = ((norm.to(tl.int64, bitcast=True) >> 52) & 0x7FF).to(tl.int32) - 1022
    return tl.where(norm < float("inf"), tl.maximum(exponent, _LEAST), of_others)


@triton.jit
def _power_of_two(exponent):
    """2^exponent in fp64."""
    return ((exponent + 1023).to(tl.int64) << 52).to(tl.float64, bitcast=True)


@triton.jit(do_not_specialize=["batch", "num_prototypes", "num_tickets", "num_exponents"])
def prepare_squared_kernel(
    z,  # [B, D], any strides
    prototypes,  # [K, D]
    centre,  # [D] fp32
    exponents,  # [num_exponents] int32
    z_high,  # [B, padded D] fp16
    z_low,
    prototypes_high,  # [K, padded D]
    prototypes_low,
    bias_factor,  # [B] fp32: UNIT^2 c
    bias,  # [K] fp32: (|w| / M)^2, infinite or NaN where a prototype is, which then wins nothing
    row_keys,  # [B] int64
    tickets,  # [num_tickets] int32
    batch,
    num_prototypes,
    dim,
    padded_dim,
    num_tickets,
    num_exponents,
    z_stride,
    z_step,
    prototypes_stride,
    prototypes_step,
    ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """As ``prepare_kernel``."""
    program = tl.program_id(0)
    latent_programs = tl.cdiv(batch, ROWS)
    if program == 0:
        for first in range(0, num_tickets, 1024):
            at = first + tl.arange(0, 1024)
            tl.store(tickets + at, tl.zeros([1024], tl.int32), mask=at < num_tickets)
    found = tl.full([1024], _LEAST, tl.int32)
    for first in range(0, num_exponents, 1024):
        at = first + tl.arange(0, 1024)
        found = tl.maximum(found, tl.load(exponents + at, mask=at < num_exponents, other=_LEAST))
    longest = tl.max(found)
    if program < latent_programs:
        rows = program * ROWS + tl.arange(0, ROWS)
        tl.store(row_keys + rows, keys.lowest(rows), mask=rows < batch)
        norm = _norms(z, centre, rows, batch, dim, z_stride, z_step, ROWS, BLOCK_D)
        unit = tl.maximum(_exponent_above(norm, _LEAST), longest)
        factor = -UNIT * UNIT * _power_of_two(tl.maximum(longest - unit - 1, _LEAST))
        tl.store(bias_factor + rows, factor.to(tl.float32), mask=rows < batch)
        _store_operands(z, centre, rows, batch, dim, padded_dim, z_stride, z_step, unit, z_high, z_low, ROWS, BLOCK_D)
    else:
        rows = (program - latent_programs) * ROWS + tl.arange(0, ROWS)
        is_row = rows < num_prototypes
        unit = tl.zeros([ROWS], tl.int32) + longest
        norm = _norms(prototypes, centre, rows, num_prototypes, dim, prototypes_stride, prototypes_step, ROWS, BLOCK_D)
        norm *= _power_of_two(-unit)
        tl.store(bias + rows, (norm * norm).to(tl.float32), mask=is_row)
        _store_operands(
            prototypes,
            centre,
            rows,
            num_prototypes,
            dim,
            padded_dim,
            prototypes_stride,
            prototypes_step,
            unit,
            prototypes_high,
            prototypes_low,
            ROWS,
            BLOCK_D,
        )


@triton.jit
def _from_centre(x, centre, rows, features, count, dim, stride, step):
    """Rows less the centre, in fp64; 0 where there are none."""
    inside = (rows < count)[:, None] & (features < dim)
    part = tl.load(x + rows.to(tl.int64)[:, None] * stride + features.to(tl.int64) * step, mask=inside, other=0.0)
    middle = tl.load(centre + features, mask=features < dim, other=0.0)
    return tl.where(inside, part.to(tl.float64) - middle.to(tl.float64), 0.0)


@triton.jit
def _norms(x, centre, rows, count, dim, stride, step, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    squares = tl.zeros([ROWS, BLOCK_D], tl.float64)
    for first in range(0, dim, BLOCK_D):
        part = _from_centre(x, centre, rows, first + tl.arange(0, BLOCK_D)[None, :], count, dim, stride, step)
        squares += part * part
    return tl.sqrt(tl.sum(squares, axis=1))


@triton.jit
def _store_operands(
    x, centre, rows, count, dim, padded_dim, stride, step, exponent, high, low, ROWS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Both halves of these rows in units of 2^exponent."""
    scale = (_power_of_two(-exponent) * UNIT)[:, None]
    target = rows.to(tl.int64)[:, None] * padded_dim
    for first in range(0, padded_dim, BLOCK_D):
        features = first + tl.arange(0, BLOCK_D)[None, :]
        unit = (_from_centre(x, centre, rows, features, count, dim, stride, step) * scale).to(tl.float32)
        keep = (rows < count)[:, None] & (features < padded_dim)
        upper = unit.to(tl.float16)
        tl.store(high + target + features, upper, mask=keep)
        tl.store(low + target + features, (unit - upper.to(tl.float32)).to(tl.float16), mask=keep)


class Bias(NamedTuple):
    """What is added to a score: a number of the latent times one of the prototype."""

    factor: Buffer  # [B] fp32
    bias: Buffer  # [K] fp32


def prepare_squared(
    recording: Recording, z: Buffer, prototypes: Buffer, row_keys: Buffer, tickets: Buffer
) -> tuple[Operands, Bias]:
    """Operands, in two halves whatever the dtype, for z (B, D) and prototypes (K, D); fills in keys (B,) and tickets."""
    (batch, dim), count = z.shape, prototypes.shape[0]
    padded_dim, nothing = configs.padded_dim(dim), recording.temporary((0,), torch.float32)
    halves = [recording.temporary((x.shape[0], padded_dim), torch.float16) for x in (z, z, prototypes, prototypes)]
    operands = Operands(*halves, prototype_scale=nothing, rest_z=nothing, rest_prototypes=nothing)
    bias = Bias(recording.temporary((batch,), torch.float32), recording.temporary((count,), torch.float32))
    centre = recording.temporary((dim,), torch.float32)
    config = configs.longest(dim)
    exponents = recording.temporary((min(blocks(count, config["ROWS"]), _MOST_PROGRAMS),), torch.int32)
    recording.launch(
        longest_kernel,
        exponents.shape[0],
        prototypes,
        centre,
        exponents,
        count,
        dim,
        *prototypes.stride(),
        **config.options(),
    )
    config = configs.prepare(dim)
    recording.launch(
        prepare_squared_kernel,
        blocks(batch, config["ROWS"]) + blocks(count, config["ROWS"]),
        z,
        prototypes,
        centre,
        exponents,
        *halves,
        *bias,
        row_keys,
        tickets,
        batch,
        count,
        dim,
        padded_dim,
        tickets.numel(),
        exponents.shape[0],
        *z.stride(),
        *prototypes.stride(),
        **config.options(),
    )
    return operands, bias


@triton.jit(do_not_specialize=["batch"])
def squared_distance_kernel(
    z,  # [B, D], any strides
    prototypes,  # [K, D]
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
    """``|z - w|^2`` at the BMU, in fp64; NaN for a row that is not finite."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = rows < batch
    index = keys.decode_index(tl.load(row_keys + rows, mask=is_row, other=keys.LAST_INDEX))
    z_rows = z + rows.to(tl.int64)[:, None] * z_stride
    prototype_rows = prototypes + index.to(tl.int64)[:, None] * prototypes_stride
    squares = tl.zeros([ROWS, BLOCK_D], tl.float64)
    for first in range(0, dim, BLOCK_D):
        features = (first + tl.arange(0, BLOCK_D)[None, :]).to(tl.int64)
        inside = is_row[:, None] & (features < dim)
        x = tl.load(z_rows + features * z_step, mask=inside, other=0.0).to(tl.float64)
        apart = x - tl.load(prototype_rows + features * prototypes_step, mask=inside, other=0.0).to(tl.float64)
        squares += apart * apart + 0.0 * x  # NaN where x is infinite
    tl.store(bmu + rows, index.to(tl.int64), mask=is_row)
    tl.store(distance + rows, tl.sum(squares, axis=1).to(tl.float32), mask=is_row)


def squared_distance(recording: Recording, z: Buffer, prototypes: Buffer, row_keys: Buffer) -> None:
    """Results: BMU (B,) int64 and squared distance (B,) fp32 of z (B, D), for the keys (B,) that a search left."""
    batch, dim = z.shape
    bmu = recording.result((batch,), torch.int64)
    nearest = recording.result((batch,), torch.float32)
    config = configs.distance(dim)
    recording.launch(
        squared_distance_kernel,
        blocks(batch, config["ROWS"]),
        z,
        prototypes,
        row_keys,
        bmu,
        nearest,
        batch,
        dim,
        *z.stride(),
        *prototypes.stride(),
        **config.options(),
    )
