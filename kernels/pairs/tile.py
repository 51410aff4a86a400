"""One tile of pairs: the distances of samples from units, and the weights of the units as seen from the BMUs of the samples.

Distances are sums of differences, not products: no digit is lost, however near two rows are and however far from the origin.
"""

import triton
import triton.language as tl

# Features that are added up at a time; every row is padded to a multiple.
STEPS = tl.constexpr(8)


@triton.jit
def distances(latents, units_across, zeros, samples, units, padded_dim, pitch, MANHATTAN: tl.constexpr, TILE: tl.constexpr):
    """[TILE, TILE] fp32 of these rows of latents and columns of units, both int64."""
    x, v = latents + samples[:, None] * padded_dim, units_across + units[None, :]
    # What is loaded here decides which pairs a thread holds: four units next to one another, so that their features are one
    # load. By itself the compiler deals the pairs out one by one, and loads take longer than what is computed with them.
    zeros += tl.arange(0, TILE)[:, None] * TILE + tl.arange(0, TILE)[None, :]
    total = tl.load(zeros)
    for _ in range(0, padded_dim, STEPS):
        part = tl.zeros_like(total)  # sums that begin at zero every now and then round less
        for step in tl.static_range(STEPS):
            difference = tl.load(x + step) - tl.load(v + step * pitch)
            if MANHATTAN:
                part += tl.abs(difference)
            else:
                part = tl.fma(difference, difference, part)
        total += part
        x += STEPS
        v += STEPS * pitch
    return total if MANHATTAN else tl.sqrt(total)


@triton.jit
def weights(row_factors, col_factors, bmu, samples, units, batch, rows, cols, terms):
    """[samples, units] fp32: ``sum over t of row_factors[t, row_i, row_k] * col_factors[t, col_i, col_k]``, 0 outside."""
    is_sample = samples < batch
    keep = is_sample[:, None] & (units < rows * cols)[None, :]
    seen_from, seen = tl.load(bmu + samples, mask=is_sample, other=0).to(tl.int32), units.to(tl.int32)
    along_rows = (seen_from // cols * rows)[:, None] + (seen // cols)[None, :]
    along_cols = (seen_from % cols * cols)[:, None] + (seen % cols)[None, :]
    total = tl.zeros_like(along_rows).to(tl.float32)
    for _ in range(terms):
        row_factor = tl.load(row_factors + along_rows, mask=keep, other=0.0)
        total = tl.fma(row_factor, tl.load(col_factors + along_cols, mask=keep, other=0.0), total)
        row_factors += rows * rows
        col_factors += cols * cols
    return total
