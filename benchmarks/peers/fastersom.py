"""fastersom ``SOM.predict`` under its cosine metric: torch matmul and argmin, in batches that fit into memory."""

from collections.abc import Callable

import torch
from torch import Tensor

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    from fastersom import SOM

    som = SOM.from_weights(prototypes, grid.rows, grid.cols, metric="cosine", device="cpu")
    return lambda: torch.from_numpy(som.predict(z))
