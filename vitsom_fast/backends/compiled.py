"""What the backends of compiled modules share: their inputs, checked, as the plain numbers that a module takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitsom_fast.backends.memory import in_memory
from vitsom_fast.backends.spec import Spec

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def unserved(spec: Spec) -> str | None:
    """What the kernels of the compiled modules have not got."""
    if spec.dtype not in DTYPES:
        return f"it serves the dtypes {tuple(DTYPES)}, got {spec.dtype}"
    return None


Kept = tuple[Tensor, Tensor]  # must live as long as the kernels run


def problem_of(module: Any, z: Tensor, prototypes: Tensor, *how: int) -> tuple[object, Kept]:
    """The module's ``Problem`` of z (B, D) and prototypes (K, D); ``how`` is what only this module wants to know.

    Raises:
        TypeError: one of them is not in memory.
        ValueError: the two are not matrices of as many columns, of one dtype and on one device.
    """
    dtype = z.dtype
    if (
        dtype != prototypes.dtype
        or z.device != prototypes.device
        or z.dim() != 2
        or prototypes.dim() != 2
        or z.shape[1] != prototypes.shape[1]
    ):
        raise ValueError(
            f"z and prototypes must be (B, D) and (K, D) of one dtype on one device, got {tuple(z.shape)} {z.dtype} on"
            f" {z.device} and {tuple(prototypes.shape)} {prototypes.dtype} on {prototypes.device}"
        )
    z, prototypes = matrix("z", z), matrix("prototypes", prototypes)
    batch, dim = z.shape
    addresses = z.data_ptr(), z.stride(0), prototypes.data_ptr(), prototypes.stride(0)
    problem = module.Problem(*addresses, DTYPES[dtype], batch, prototypes.shape[0], dim, *how)
    return problem, (z, prototypes)


def neighborhood_of(module: Any, prototypes: Tensor, row_factors: Tensor, col_factors: Tensor) -> tuple[object, Kept]:
    """The module's ``Neighborhood`` of factors (terms, rows, rows) and (terms, cols, cols), fp32.

    Raises:
        TypeError: one of them is not in memory.
        ValueError: they are not the factors of a grid of so many prototypes.
    """
    of_rows, of_cols = row_factors.shape, col_factors.shape
    terms, rows, cols = of_rows[0], of_rows[1], of_cols[1]
    if (
        of_rows != (terms, rows, rows)
        or of_cols != (terms, cols, cols)
        or rows * cols != prototypes.shape[0]
        or row_factors.dtype != torch.float32
        or col_factors.dtype != torch.float32
    ):
        raise ValueError(
            f"row_factors and col_factors must be fp32 factors of a grid of {prototypes.shape[0]} units, got"
            f" {tuple(row_factors.shape)} {row_factors.dtype} and {tuple(col_factors.shape)} {col_factors.dtype}"
        )
    is_one = col_factors is row_factors  # of equal axes: each question is a hundredth of the smallest step
    row_factors = in_memory("row_factors", row_factors).contiguous()
    col_factors = row_factors if is_one else in_memory("col_factors", col_factors).contiguous()
    neighborhood = module.Neighborhood(rows, cols, terms, row_factors.data_ptr(), col_factors.data_ptr())
    return neighborhood, (row_factors, col_factors)


def checked(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """x in one piece of memory, in the order of its elements.

    Raises:
        TypeError: it is not in memory.
        ValueError: it has another shape or dtype.
    """
    if x.shape != shape or x.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} of shape {shape}, got {x.dtype} of shape {tuple(x.shape)}")
    return in_memory(name, x).contiguous()


def in_place(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """x itself, to be written to.

    Raises:
        TypeError: it is not in memory.
        ValueError: it has another shape or dtype, or is not in one piece of memory in the order of its elements.
    """
    if checked(name, x, shape, dtype).data_ptr() != x.data_ptr():
        raise ValueError(f"{name} must be in one piece of memory, got strides {x.stride()}")
    return x


def matrix(name: str, x: Tensor) -> Tensor:
    """x (rows, columns) in memory, each row in one piece."""
    x = in_memory(name, x)
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
