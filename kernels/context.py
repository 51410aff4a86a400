"""What a forward pass keeps for the backward: one tensor of fp32, whose parts begin at whole 16 bytes."""

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
    rest = batch * weights_pitch(count) if keeps_weights(batch, count) else _whole(batch) + cols + 1
    return _whole(batch) + _whole(count) + rest


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
    inverse_z = context.part(0, (batch,), torch.float32)
    inverse_prototypes = context.part(_whole(batch), (count,), torch.float32)
    rest = _whole(batch) + _whole(count)
    weights = None
    if keeps_weights(batch, count):
        weights = context.part(rest, (batch, weights_pitch(count)), torch.float32)
    order = context.part(rest, (batch,), torch.int32)
    starts = context.part(rest + _whole(batch), (cols + 1,), torch.int32)
    return Context(inverse_z, inverse_prototypes, weights, order, starts)


def _whole(count: int) -> int:
    """So many numbers and what fills them up to 16 bytes."""
    return -(-count // 4) * 4
