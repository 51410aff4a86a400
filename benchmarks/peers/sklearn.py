"""scikit-learn ``pairwise_distances_argmin``: tiles of squared Euclidean distances, products and minima in fp64.

Latents and prototypes are normalised beforehand: between unit vectors |a - b|^2 = 2 (1 - cos). Its own cosine distance takes a
slower path that holds all B x K distances, chunk by chunk.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    from sklearn.metrics import pairwise_distances_argmin

    latents, codebook = normalize(z).numpy(), normalize(prototypes).numpy()
    return lambda: torch.from_numpy(pairwise_distances_argmin(latents, codebook)).long()
