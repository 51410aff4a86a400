"""faiss ``IndexFlatIP``: an exact search for the largest inner product, block by block through BLAS.

The prototypes are normalised and indexed beforehand. The length of a latent does not change its BMU.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    import faiss

    index = faiss.IndexFlatIP(z.shape[1])
    index.add(normalize(prototypes).numpy())
    latents = z.numpy()
    return lambda: torch.from_numpy(index.search(latents, 1)[1][:, 0])
