"""How a matrix lies in memory: each layout gives a view of the same numbers, or of those that it can hold."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _within(shape: tuple[int, ...], view: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """x as a view into a larger tensor whose other elements are NaN."""
    return view(torch.full(shape, torch.nan, dtype=x.dtype, device=x.device)).copy_(x)


def _images(x: Tensor, channels: int) -> Tensor:
    """(N, C, H, 1) in the order of channels_last: what flattens to x."""
    channels = math.gcd(x.shape[1], channels)
    return x.view(len(x), channels, x.shape[1] // channels, 1).contiguous(memory_format=torch.channels_last)


def _patches(x: Tensor, width: int) -> Tensor:
    """(N, patches, width) with the patches first in memory."""
    width = math.gcd(x.shape[1], width)
    return x.view(len(x), x.shape[1] // width, width).transpose(0, 1).contiguous().transpose(0, 1)


def _windows(x: Tensor) -> Tensor:
    """Rows that overlap: each starts one element after the one before, as windows of a signal do."""
    return torch.cat((x[:1].flatten(), x[1:, -1])).unfold(0, x.shape[1], 1) if len(x) else x


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "every second row": lambda x: _within((2 * x.shape[0], x.shape[1]), lambda t: t[::2], x),
    "every third column": lambda x: _within((x.shape[0], 3 * x.shape[1]), lambda t: t[:, 1::3], x),
    "columns of a wider one": lambda x: _within((x.shape[0], x.shape[1] + 5), lambda t: t[:, 2:-3], x),
    "unaligned": lambda x: _within((x.numel() + 3,), lambda t: t[3:].view(x.shape), x),
    "negative bit": lambda x: torch._neg_view(-x),
    "negative bit of columns": lambda x: torch._neg_view(_within((x.shape[0], 2 * x.shape[1]), lambda t: t[:, ::2], -x)),
    "conjugate": lambda x: torch.complex(torch.zeros_like(x), -x).conj().imag if x.dtype.itemsize >= 4 else x,
    # Of x, these hold what they can.
    "one row for all": lambda x: x[:1].expand_as(x) if len(x) else x,
    "one column for all": lambda x: x[:, :1].expand_as(x),
    "windows": _windows,
}

LATENT_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {  # of z, which may have more dimensions than two
    **LAYOUTS,
    "channels last": lambda x: _images(x, 4),
    "permuted patches": lambda x: _patches(x, 8),
}
