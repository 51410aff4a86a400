"""What a forward pass takes from all of the map: the sums of the factors' rows, and the centre that it is seen from.

With c the mean of some of the unit prototypes, ``S = G w^ = n c + G (w^ - c)`` where n, the sum of the weights, is a product of
these sums. All that is rounded on the way to S is then in proportion to ``w^ - c``: next to nothing in a map that has collapsed
into one direction, whose loss is the difference of two numbers that are all but equal.
"""

import triton
import triton.language as tl
from vitsom_fast.kernels.common.unit import DROP, is_short
from vitsom_fast.kernels.launch.device import blocks

ROWS = tl.constexpr(16)  # of a factor, or prototypes that make the centre
FEATURES = tl.constexpr(128)


def programs(terms: int, rows: int, cols: int, dim: int) -> int:
    """How many programs survey a map."""
    return blocks(terms * rows, ROWS.value) + blocks(terms * cols, ROWS.value) + blocks(dim, FEATURES.value)


@triton.jit
def survey(
    program,
    prototypes,  # [K, D], any strides
    inverse_prototypes,  # [K] fp32
    row_factors,  # [terms, R, R] fp32
    col_factors,  # [terms, C, C] fp32
    factor_sums,  # [terms * R + terms * C] fp64
    centre,  # [D] fp32
    rows,
    cols,
    dim,
    stride,
    step,
    terms,
):
    """One program's share: some rows of a factor, or some features of the centre."""
    of_rows = tl.cdiv(terms * rows, ROWS)
    of_cols = tl.cdiv(terms * cols, ROWS)
    if program < of_rows:
        _sum_rows(program, row_factors, factor_sums, terms * rows, rows)
    elif program < of_rows + of_cols:
        _sum_rows(program - of_rows, col_factors, factor_sums + terms * rows, terms * cols, cols)
    else:
        features = (program - of_rows - of_cols) * FEATURES + tl.arange(0, FEATURES)
        units = tl.arange(0, ROWS).to(tl.int64) * (rows * cols) // ROWS  # all over the map
        inverse = tl.load(inverse_prototypes + units)[:, None]
        at = units[:, None] * stride + features.to(tl.int64)[None, :] * step
        x = tl.load(prototypes + at, mask=(features < dim)[None, :], other=0.0).to(tl.float32)
        # Short rows and such as are not finite are left out.
        unit = tl.where((inverse == inverse) & ~is_short(inverse), x * inverse * DROP, 0.0)
        tl.store(centre + features, tl.sum(unit, axis=0) / ROWS, mask=features < dim)


@triton.jit
def _sum_rows(program, factors, sums, count, length):
    at = program * ROWS + tl.arange(0, ROWS)
    total = tl.zeros([ROWS, 64], tl.float64)
    for first in range(0, length, 64):
        inputs = first + tl.arange(0, 64)[None, :]
        offsets = at.to(tl.int64)[:, None] * length + inputs
        total += tl.load(factors + offsets, mask=(at < count)[:, None] & (inputs < length), other=0.0).to(tl.float64)
    tl.store(sums + at, tl.sum(total, axis=1), mask=at < count)


@triton.jit
def total_weight(factor_sums, row, col, rows, cols, terms):
    """``n_i``, the sum of the weights of all units as seen from these BMUs, in fp64."""
    weight = tl.zeros_like(row).to(tl.float64)
    for term in range(terms):
        along_rows = tl.load(factor_sums + term * rows + row)
        weight += along_rows * tl.load(factor_sums + terms * rows + term * cols + col)
    return weight
