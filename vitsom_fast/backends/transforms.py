"""Derivatives that only PyTorch's own operations know of: whether someone takes them, and gradients made of such operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def is_at_work() -> bool:
    """Forward derivatives are taken, or a transform of torch.func is under way. A compiler is told of them otherwise."""
    if torch.compiler.is_compiling():
        return False
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None


def asks_for_operations(*tensors: Tensor) -> bool:
    """Whether somebody looks through what is done to these: a compiler, a transform, or autograd."""
    if torch.compiler.is_compiling() or is_at_work():
        return True
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def gradients_again(
    function: Callable[[Tensor, Tensor], Tensor], z: Tensor, prototypes: Tensor, wanted: tuple[bool, bool], grad: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of ``function(z, prototypes)`` that are wanted, in operations that can be differentiated once more."""
    with torch.enable_grad():
        # Views of their own: should one input depend on the other, the path between them is not ours to follow.
        inputs = z.view_as(z), prototypes.view_as(prototypes)
        asked = [x for x, needed in zip(inputs, wanted, strict=True) if needed]
        grads = iter(torch.autograd.grad(function(*inputs), asked, grad, create_graph=True))
    return next(grads) if wanted[0] else None, next(grads) if wanted[1] else None
