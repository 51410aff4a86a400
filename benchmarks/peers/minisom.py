"""MiniSom's distances of a batch, as its ``quantization`` takes them: all B x K Euclidean ones in NumPy.

``winner`` is the documented way, but looks at one latent at a time and is many times slower. Its cosine distance is only to be
had there, so latents and prototypes are normalised beforehand.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    from minisom import MiniSom

    som = MiniSom(grid.rows, grid.cols, z.shape[1])
    som._weights = normalize(prototypes).unflatten(0, (grid.rows, grid.cols)).numpy()  # fp32; it would begin in fp64
    latents = normalize(z).numpy()
    return lambda: torch.from_numpy(som._distance_from_weights(latents).argmin(axis=1))
