"""What a forward pass keeps for the backward: one tensor of fp32, in parts without gaps, the largest first and so aligned."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from vitsom_fast.kernels.launch.plan import Buffer

# 4 MB of weights at most: with 40 x 40 units and 128 samples a step takes half the time of smoothing along both axes.
_MOST_WEIGHTS = 1 << 20


def keeps_weights(batch: int, count: int) -> bool:
    """Whether a step applies the neighborhood by the weights of all pairs, not along one axis of the grid after the other."""
    return batch * weights_pitch(count) <= _MOST_WEIGHTS  # with few units most of it is padding


def weights_pitch(count: int) -> int:
    """Numbers from one row of the weights to the next: where that is known to be a multiple of 16, loads take 16 bytes each."""
    return -(-count // 16) * 16


def size(batch: int, rows: int, cols: int) -> int:
    """Of the tensor, for so many samples and a grid of so many rows and columns."""
    count = rows * cols
    return _first_size(batch, count, cols) + batch + count


def _first_size(batch: int, count: int, cols: int) -> int:
    return batch * weights_pitch(count) if keeps_weights(batch, count) else batch + cols + 1


class Context(NamedTuple):
    """The parts of the tensor."""

    inverse_z: Buffer  # [B] fp32, of the lengths, as kernels/common/unit.py keeps them
    inverse_prototypes: Buffer  # [K] fp32
    weights: Buffer | None  # [B, pitch of K] fp32, or else the next two
    order: Buffer  # [B] int32, samples sorted by the column of their BMU
    starts: Buffer  # [C + 1] int32, where each column's samples begin


def parts(context: Buffer, batch: int, rows: int, cols: int) -> Context:
    """The parts of a tensor of that size."""
    count = rows * cols
    weights = context.part(0, (batch, weights_pitch(count)), torch.float32) if keeps_weights(batch, count) else None
    order = context.part(0, (batch,), torch.int32)
    starts = context.part(batch, (cols + 1,), torch.int32)
    first = _first_size(batch, count, cols)
    inverse_z = context.part(first, (batch,), torch.float32)
    inverse_prototypes = context.part(first + batch, (count,), torch.float32)
    return Context(inverse_z, inverse_prototypes, weights, order, starts)
