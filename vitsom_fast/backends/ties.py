"""The lowest index of a tie: prototypes that are the same row after normalisation, that is equal but for a power of two."""

from __future__ import annotations

import torch
from torch import Tensor

from vitsom_fast.backends.unit_rows import without_length

# Elements hashed at a time: 1 MB stays in a CPU's cache; on a GPU launches count, and 64 MB are little.
_PIECE, _PIECE_ELSEWHERE = 1 << 18, 1 << 24

_ODD = 0x2545F491


def lowest_equal(rows: Tensor, norm: Tensor, index: Tensor) -> Tensor:
    """(B,): the lowest index of a row that is the same as ``rows[index]``, for rows (K, D), their norms (K, 1) and index (B,).

    A matrix product may round the scores of equal columns differently at the edge of its tiles: of maps with duplicated
    prototypes, 0.5 % of the samples got a later one. Equal rows are found by a hash, then compared.
    """
    order_of_hash, by_hash = _hash(rows, norm).sort(stable=True)
    starts = torch.ones_like(by_hash, dtype=torch.bool)
    starts[1:] = order_of_hash[1:] != order_of_hash[:-1]
    position = torch.arange(by_hash.shape[0], device=by_hash.device)
    first = torch.where(starts, position, 0).cummax(0).values  # where the run of equal hashes begins
    lowest = torch.empty_like(by_hash).index_copy_(0, by_hash, by_hash[first])[index]  # [B]
    equal = (without_length(rows[lowest], norm[lowest]) == without_length(rows[index], norm[index])).all(dim=1)
    return torch.where(equal, lowest, index)


def _hash(rows: Tensor, norm: Tensor) -> Tensor:
    """(K,) int64, the same for rows that are the same wherever they are: integer sums do not depend on their order."""
    words = rows.shape[1] * rows.element_size() // 4
    multiplier = (_scattered(torch.arange(1, words + 1, device=rows.device)) | 1).to(torch.int32)  # [words], odd
    step = max(1, (_PIECE if rows.device.type == "cpu" else _PIECE_ELSEWHERE) // rows.shape[1])
    sums = []
    for piece, norms in zip(rows.split(step), norm.split(step), strict=True):
        bits = without_length(piece, norms).add_(0.0).contiguous().view(torch.int32)  # + 0.0: -0 equals 0
        # Upper bits into the lower ones, twice: small integers have no others, and differ in multiples of a power of two.
        bits.bitwise_xor_(bits >> 16).mul_(_ODD)
        sums.append(bits.bitwise_xor_(bits >> 15).mul_(multiplier).sum(dim=1, dtype=torch.int32))
    size = without_length(norm, norm)[:, 0].double().view(torch.int64)  # [K]
    return size * 0x9E3779B1 + torch.cat(sums)


def _scattered(place: Tensor) -> Tensor:
    """Numbers below 2^31 without a pattern: were they in proportion to the place, rows with two elements exchanged for two
    others would have one sum."""
    x = place * 0x9E3779B1
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        x = ((x ^ (x >> 15)) & 0x7FFFFFFF) * factor
    return (x ^ (x >> 16)) & 0x7FFFFFFF
