"""Whether the elements of a tensor lie where its address, sizes and strides say: who reads them there has to ask first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter


def is_plain(x: Tensor) -> bool:
    """Whether x, of a real dtype and strided, is dense memory as it stands.

    Subclasses may hold other tensors; a view may be of the negative; what has no memory (zeros that autograd hands out, meta
    tensors, wrappers of transforms) has no address. Each question is 50 ns of a step.
    """
    kind = type(x)
    return (kind is Tensor or kind is Parameter) and not x.is_neg() and _address(x) != 0


def _address(x: Tensor) -> int:
    """Where x begins; 0 where it has no memory."""
    try:
        return x.data_ptr()
    except RuntimeError:  # a wrapper of a transform: it has no storage to ask
        return 0


def in_memory(name: str, x: Tensor) -> Tensor:
    """x itself where it is plain, else a copy that is.

    Raises:
        TypeError: no copy can be made, because x is a wrapper of other tensors, has no data, or its memory was given back.
    """
    return x if is_plain(x) else _copied(name, x)


def _copied(name: str, x: Tensor) -> Tensor:
    """A copy in plain memory of an empty tensor, a view of the negative, zeros without memory or a subclass that has memory."""
    is_wrapper = torch._C._dispatch_keys(x).has(torch._C.DispatchKey.Python)  # has a __torch_dispatch__ of its own
    if is_wrapper or (x.numel() > 0 and _address(x) == 0 and not x._is_zerotensor()):
        raise TypeError(f"{name} must be a dense tensor with its elements in memory, got a {type(x).__name__} without")
    with torch._C.DisableTorchFunctionSubclass():
        return torch.empty(x.shape, dtype=x.dtype, device=x.device).copy_(x)
