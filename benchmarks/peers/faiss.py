"""faiss ``IndexFlatIP``: an exact search for the largest inner product, block by block through BLAS.

The prototypes are normalised and indexed beforehand. The length of a latent does not change its BMU.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    return search_by(z, prototypes, "cosine")


def search_by(z: Tensor, prototypes: Tensor, distance: str) -> Callable[[], Tensor]:
    """``IndexFlatL2`` for "sqeuclidean"."""
    import faiss

    is_cosine = distance == "cosine"
    index = (faiss.IndexFlatIP if is_cosine else faiss.IndexFlatL2)(z.shape[1])
    index.add((normalize(prototypes) if is_cosine else prototypes).contiguous().numpy())
    latents = z.contiguous().numpy()
    return lambda: torch.from_numpy(index.search(latents, 1)[1][:, 0])
