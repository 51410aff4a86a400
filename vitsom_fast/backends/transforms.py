"""Whether someone takes derivatives in a way that only PyTorch's own operations know of."""

from __future__ import annotations

import torch


def is_at_work() -> bool:
    """Forward derivatives are taken, or a transform of torch.func is under way. A compiler is told of them otherwise."""
    if torch.compiler.is_compiling():
        return False
    return torch.autograd.forward_ad._current_level >= 0 or torch._C._functorch.peek_interpreter_stack() is not None
