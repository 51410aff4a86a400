"""How the computations of an estimator run, whatever is on around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def plain() -> Iterator[None]:
    """No gradients, and no autocast, which would lower what is added up."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        if not torch.cuda.is_available():
            yield
            return
        with torch.autocast("cuda", enabled=False):
            yield
