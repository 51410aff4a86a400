"""fastersom ``SOM.predict`` under its cosine metric: torch matmul and argmin, in batches that fit into memory.

On a GPU, its fused search without what ``predict`` adds (a check of the data, and the copy to the host): it prepares the
prototypes anew in each run, for in training they change.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    from fastersom import SOM

    som = SOM.from_weights(prototypes, grid.rows, grid.cols, metric="cosine", device=z.device)
    if z.is_cuda:
        return lambda: som._search(som._weights, som._kernel(z.shape[1]))(z)
    return lambda: torch.from_numpy(som.predict(z))
