"""XPySom ``winner`` under its cosine distance, in NumPy: 500 latents for each core at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    import numpy
    from xpysom import XPySom

    som = XPySom(grid.rows, grid.cols, z.shape[1], sigma=0.5, activation_distance="cosine", xp=numpy)
    som._weights = prototypes.unflatten(0, (grid.rows, grid.cols)).numpy()  # fp32; it would begin in fp64
    latents = z.numpy()
    strides = torch.tensor([grid.cols, 1])
    return lambda: (torch.tensor(som.winner(latents)) * strides).sum(dim=1)
