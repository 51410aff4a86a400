"""A score and an index in one 64-bit integer, so that the maximum is the highest score and, on ties, the lowest index.

Rows that several programs search are merged by an atomic maximum of such keys: its result does not depend on their order.
"""

import triton
import triton.language as tl

# Indices are counted down from here; there are never that many prototypes.
LAST_INDEX = tl.constexpr(0x7FFFFFFF)
_LOWEST = tl.constexpr(-(1 << 63) + 0x7FFFFFFF)


@triton.jit
def encode(score, index):
    """Keys of scores (fp32, no NaN) and indices (int32)."""
    score += 0.0  # -0 and 0 are equal
    bits = score.to(tl.int32, bitcast=True)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers that compare as the scores do
    return (ordered.to(tl.int64) << 32) | (-index + LAST_INDEX).to(tl.int64)


@triton.jit
def lowest(rows):
    """For each of these rows, a key that any score is a match for; as it is, it stands for index 0."""
    return tl.zeros_like(rows).to(tl.int64) + _LOWEST


@triton.jit
def decode_index(key):
    """The index (int32) in a key."""
    return (-(key & 0xFFFFFFFF) + LAST_INDEX).to(tl.int32)
