"""What a user would search with instead: one file a library, imported when it is called for.

Each has one function, ``prepare(z, prototypes, grid) -> search``: latents (B, D) and prototypes (K, D) in fp32, and a search
without arguments that returns the BMUs (B,) int64. Only the search is timed. What a library cannot do itself (normalise its
rows, build an index) is done beforehand, which is a gift to it: prototypes change in every training step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import NamedTuple

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from vitsom_fast import Grid


class Peer(NamedTuple):
    """The module that a library is imported as, and how many fp32 tensors of B x K and of K x K it holds at once."""

    module: str
    score_tensors: int = 0
    grid_tensors: int = 0


# By the names of their files here.
PEERS = {
    "faiss": Peer("faiss"),
    "sklearn": Peer("sklearn"),
    "keops": Peer("pykeops"),
    "fastersom": Peer("fastersom", score_tensors=2),
    "minisom": Peer("minisom", score_tensors=4),
    "xpysom": Peer("xpysom", score_tensors=2),
    "torchsom": Peer("torchsom", grid_tensors=5),
}


def missing(name: str) -> str | None:
    """None, or that this library is not installed."""
    module = PEERS[name].module
    return None if find_spec(module) else f'{module} is not installed: pip install -e ".[bench]" brings all peers'


def prepare(name: str, z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    """The search of a library on these latents and prototypes, with as many threads as torch has.

    Raises:
        ImportError: the library, or something that it needs, is not installed.
    """
    peer = import_module(f"{__name__}.{name}")
    with redirect_stdout(StringIO()):  # some print what they miss: a GPU, CuPy
        # Copies: torchsom scales the rows of its arguments in place.
        search: Callable[[], Tensor] = peer.prepare(z.clone(), prototypes.clone(), grid)
    threadpool_limits(torch.get_num_threads())  # of every OpenMP and BLAS that has been loaded by now; each has its own count
    return search
