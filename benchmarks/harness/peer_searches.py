"""A peer's search by any distance that it has, or nothing where it is not installed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks import peers
from benchmarks.peers import faiss


def flat_index(z: Tensor, prototypes: Tensor, distance: str) -> Callable[[], Tensor] | None:
    """faiss's exact search, of as many threads as PyTorch has."""
    if peers.missing("faiss"):
        return None
    search = faiss.search_by(z, prototypes, distance)
    threadpool_limits(torch.get_num_threads())
    return search
