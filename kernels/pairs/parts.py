"""What several programs have of the same sums, added up in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl
from vitsom_fast.kernels.launch import configs
from vitsom_fast.kernels.launch.device import blocks
from vitsom_fast.kernels.launch.plan import Buffer, Recording


@triton.jit(do_not_specialize=["count", "splits"])
def add_parts_kernel(
    parts,  # [splits, padded rows, padded width] fp32 or fp64
    sums,  # [rows, width] in any dtype
    count,  # rows * width
    width,
    padded_width,
    pitch,  # padded rows * padded width
    splits,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_sum = at < count
    parts += at // width * padded_width + at % width
    total = tl.load(parts, mask=is_sum, other=0.0)
    for _ in range(1, splits):
        parts += pitch
        total += tl.load(parts, mask=is_sum, other=0.0)
    tl.store(sums + at, total.to(sums.dtype.element_ty), mask=is_sum)


def add_up(recording: Recording, parts: Buffer, sums: Buffer) -> None:
    """Fills in sums (rows, ...) of parts (splits, padded rows, padded width)."""
    splits, padded_rows, padded_width = parts.shape
    config = configs.add_parts()
    recording.launch(
        add_parts_kernel,
        blocks(sums.numel(), config["BLOCK"]),
        parts,
        sums,
        sums.numel(),
        sums.numel() // sums.shape[0],
        padded_width,
        padded_rows * padded_width,
        splits,
        **config.options(),
    )
