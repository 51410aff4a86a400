"""Triton's interpreter, made to multiply as a GPU does: equal columns of a product are equal wherever they are.

It multiplies with BLAS, which rounds the same sum of products differently at the edge of a matrix and within: of prototypes
that are equal, another than the first would be nearest in a tenth of all rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.runtime import interpreter


def install() -> None:
    """From now on products of fp16 and fp32 are summed up in fp64, and rounded once."""
    original = interpreter.InterpreterBuilder.create_dot

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        if a.data.dtype not in (np.float16, np.float32) or d.data.dtype != np.float32:
            return original(self, a, b, d, *options)
        total = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)) + d.data
        return interpreter.TensorHandle(total.astype(np.float32), d.dtype.scalar)

    interpreter.InterpreterBuilder.create_dot = create_dot
