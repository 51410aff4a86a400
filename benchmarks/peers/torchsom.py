"""torchsom ``identify_bmus`` under its cosine distance: faiss ``IndexFlatL2`` where that is installed, torch matmul otherwise.

It indexes the prototypes once, at the first search. A map holds the distances of all K x K pairs of units on its grid.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    from torchsom import SOM

    som = SOM(grid.rows, grid.cols, z.shape[1], distance_function="cosine", device="cpu")
    som.weights.copy_(prototypes.unflatten(0, (grid.rows, grid.cols)))
    strides = torch.tensor([grid.cols, 1])
    return lambda: (som.identify_bmus(z) * strides).sum(dim=1)
