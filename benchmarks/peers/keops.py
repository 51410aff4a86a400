"""KeOps: an argmax over symbolic inner products, compiled by the C++ compiler for each number of features.

The prototypes are normalised beforehand, and the code is compiled.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import normalize

from vitsom_fast import Grid


def prepare(z: Tensor, prototypes: Tensor, grid: Grid) -> Callable[[], Tensor]:
    import pykeops
    from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)
    codebook = LazyTensor(normalize(prototypes)[None, :, :])  # [1, K, D]

    def search(latents: Tensor) -> Tensor:
        return (LazyTensor(latents[:, None, :]) | codebook).argmax(dim=1)[:, 0]

    search(z[:1])  # the numbers of rows are no part of the code
    return lambda: search(z)
