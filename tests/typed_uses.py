"""What a type checker knows of the public names; mypy reads it, and an error that is expected and does not come is one."""

from typing import assert_type

import torch
from torch import Tensor

from vitsom_fast import SOM, FusedSOMLoss, Grid, find_bmu, som_loss


def uses() -> None:
    som = FusedSOMLoss((3, 4), dim=8, distance="euclidean")
    z = torch.zeros(2, 8)
    assert_type(som(z, 1.0), Tensor)
    assert_type(som.forward(z, 1.0), Tensor)
    assert_type(som(z, 1.0, return_bmu=True), tuple[Tensor, Tensor])
    assert_type(som.find_bmu(z), tuple[Tensor, Tensor])
    assert_type(som_loss(z, som.prototypes, som.grid, 1.0), tuple[Tensor, Tensor])
    Grid(3, 4, topology="hexgonal")  # type: ignore[arg-type]
    SOM(3, 4, metric="euclidian")  # type: ignore[arg-type]
    find_bmu(z, som.prototypes, distance="cosin")  # type: ignore[arg-type]
    FusedSOMLoss((3, 4), 8, reduction="average")  # type: ignore[arg-type]
