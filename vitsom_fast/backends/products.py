"""Matrix products with the precision of fp32, whatever PyTorch is allowed to round their operands to.

A user may let PyTorch multiply fp32 matrices in TF32 or bf16. That setting belongs to the whole process: changed around a
product, it would change products of other threads. So it is only read, and where it is lowered the product is computed from
operands that lose nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def may_be_rounded(x: Tensor) -> bool:
    """Whether PyTorch may round the operands of a product of x."""
    return x.dtype == torch.float32 and _operands_may_be_rounded()


def _operands_may_be_rounded() -> bool:
    matmuls: list[Any] = [getattr(backend, "matmul", None) for backend in (torch.backends.cuda, torch.backends.mkldnn)]
    precisions = [matmul.fp32_precision for matmul in matmuls if hasattr(matmul, "fp32_precision")]
    if not precisions:  # before torch 2.9
        return torch.get_float32_matmul_precision() != "highest"
    return any(precision not in ("ieee", "none") for precision in precisions)


# A compiler need not look into settings. It is torch.compiler.assume_constant_result without what that imports.
_operands_may_be_rounded._dynamo_marked_constant = True  # type: ignore[attr-defined]


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b``. Where operands may be rounded, of numbers that bf16 and TF32 hold: three of them make up one of fp32, and six
    of the nine products matter. Not to be differentiated."""
    if not may_be_rounded(a):
        return a @ b
    (a0, a1, a2), (b0, b1, b2) = _parts(a), _parts(b)
    return torch.cat([a0, a0, a1, a0, a1, a2], dim=-1) @ torch.cat([b0, b1, b0, b2, b1, b0], dim=-2)


def _parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three fp32 tensors of 8 significant bits each that add up to x."""
    first = x.bfloat16().float()
    second = (x - first).bfloat16().float()
    return first, second, (x - first - second).bfloat16().float()
